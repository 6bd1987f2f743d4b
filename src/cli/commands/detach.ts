// SPDX-License-Identifier: Apache-2.0
//
// `varve detach`: takes down what attach has put up. It needs no daemon: after a crash there may be
// none, and that is when it is needed most.

import { resolve } from "node:path";
import { checkName } from "../../base/names.ts";
import { AttachmentPlace, pathOf } from "../attachment.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const name = required(context, "VOLUME");
  // It becomes part of a path.
  checkName("volume", name);
  const state = await new AttachmentPlace(resolve(await context.pool()), name).detach();
  const path = pathOf(state);
  if (context.isJson) context.output.json({ volume: name, detached: true, path });
  else context.output.line(`volume "${name}" detached: ${path} is gone`);
}
