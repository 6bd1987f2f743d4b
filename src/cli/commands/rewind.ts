// SPDX-License-Identifier: Apache-2.0
//
// `varve rewind`: a volume goes on from what it was at a moment. Nothing is lost by it, and it says so: the way back is
// the next thing that people ask for.

import { StorageError } from "../../base/errors.ts";
import { formatMoment, parseVolumeMoment } from "../../base/moment.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const text = required(context, "VOLUME@MOMENT");
  const { volume, moment } = parseVolumeMoment(text);
  if (moment === undefined) {
    throw new StorageError("USAGE", `argument "${text}": refused: it says no moment`, {
      hint: `write "varve rewind ${text}@-10m"; see "varve snapshots ${text}" for those with names`,
    });
  }
  const input = { volume, moment: formatMoment(moment), force: context.flag("force") };
  const rewound = await (await context.daemon()).call("rewindVolume", input);
  if (context.isJson) return output.json(rewound) as undefined;
  output.line(
    `volume "${volume}" rewound to ${formatMoment(moment)}: ${formatSize(rewound.sizeBytes)}`,
  );
  output.note(`what it was until now is still there: "varve undo ${volume}" brings it back`);
}
