// SPDX-License-Identifier: Apache-2.0
//
// `varve create`: a thin volume. The name and the size are checked here already, so that a mistake is
// told without a daemon; the daemon checks them again, because others talk to it too.

import { checkVolumeSize } from "../../api/operations.ts";
import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { sizeOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const name = required(context, "NAME");
  const sizeBytes = sizeOf("volume size", required(context, "SIZE"));
  checkName("volume", name);
  checkVolumeSize(sizeBytes);
  const daemon = await context.daemon();
  let volume = await daemon.call("createVolume", { name, sizeBytes });
  const description = context.option("description");
  if (description !== undefined) {
    volume = await daemon.call("setVolume", { volume: name, description });
  }
  if (context.isJson) return context.output.json(volume) as undefined;
  context.output.line(`volume "${volume.name}" created: ${formatSize(volume.sizeBytes)}`);
  for (const uri of volume.uris) context.output.line(`  ${uri}`);
}
