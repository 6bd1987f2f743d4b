// SPDX-License-Identifier: Apache-2.0
//
// `varve clone`: a new volume that begins as another one was at a moment. It takes no time and no space, and outlives what
// it was made from.

import { formatMoment, parseVolumeMoment } from "../../base/moment.ts";
import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const from = required(context, "VOLUME@MOMENT");
  const to = required(context, "NEW-NAME");
  const { volume, moment = { kind: "now" } } = parseVolumeMoment(from);
  checkName("volume", to);
  const asked = { volume, moment: formatMoment(moment), to };
  const input = context.flag("temporary") ? { ...asked, isTemporary: true } : asked;
  const clone = await (await context.daemon()).call("cloneVolume", input);
  if (context.isJson) return output.json(clone) as undefined;
  const until = clone.isTemporary === true ? ", until its last client leaves" : "";
  output.line(`volume "${clone.name}" cloned from ${from}: ${formatSize(clone.sizeBytes)}${until}`);
  for (const uri of clone.uris) output.line(`  ${uri}`);
}
