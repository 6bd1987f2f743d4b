// SPDX-License-Identifier: Apache-2.0
//
// `varve resolve`: the name that always means the disk which a moment means now. For scripts that ask once and open
// several times.

import { formatMoment, parseVolumeMoment } from "../../base/moment.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const { volume, moment = { kind: "now" } } = parseVolumeMoment(
    required(context, "VOLUME@MOMENT"),
  );
  const daemon = await context.daemon();
  const found = await daemon.call("resolveMoment", { volume, moment: formatMoment(moment) });
  if (context.isJson) output.json(found);
  else if (context.flag("uri")) for (const uri of found.uris) output.line(uri);
  else output.line(found.stableName);
}
