// SPDX-License-Identifier: Apache-2.0
//
// `varve undo`: back to just before the last rewind, undo or shrink of a volume, or a removed volume is there again. What
// the last such thing was, the daemon knows; twice is a redo.

import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME");
  const as = context.option("as");
  if (as !== undefined) checkName("volume", as);
  const input = { volume, force: context.flag("force"), ...(as === undefined ? {} : { as }) };
  const answer = await (await context.daemon()).call("undoVolume", input);
  if (context.isJson) output.json(answer);
  else
    output.line(`volume "${answer.name}" is what it was before: ${formatSize(answer.sizeBytes)}`);
}
