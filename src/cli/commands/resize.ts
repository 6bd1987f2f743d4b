// SPDX-License-Identifier: Apache-2.0
//
// `varve resize`: a volume's new size; the daemon decides whether its clients allow a shrink, and they
// see the new size when they reconnect.

import { checkVolumeSize } from "../../api/operations.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { sizeOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const volume = required(context, "VOLUME");
  const sizeBytes = sizeOf("volume size", required(context, "SIZE"));
  checkVolumeSize(sizeBytes);
  const daemon = await context.daemon();
  const answer = await daemon.call("resizeVolume", {
    volume,
    sizeBytes,
    force: context.flag("force"),
  });
  if (context.isJson) return context.output.json(answer) as undefined;
  context.output.line(`volume "${answer.name}" resized: ${formatSize(answer.sizeBytes)}`);
  if (answer.clientCount > 0) {
    const who = answer.clientCount === 1 ? "1 client sees" : `${answer.clientCount} clients see`;
    context.output.note(`${who} the new size after reconnecting`);
  }
}
