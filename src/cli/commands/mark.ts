// SPDX-License-Identifier: Apache-2.0
//
// `varve mark`: parts of a volume count as changed from now on, whatever is written: the next incremental backup reads them,
// as blksnap's markdirtyblock makes one do.

import { StorageError } from "../../base/errors.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { counted, extentOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME");
  const extents = context.options("extent").map(extentOf);
  if (extents.length === 0) throw new StorageError("USAGE", 'option "--extent": missing');
  const answer = await (await context.daemon()).call("markVolume", { volume, extents });
  if (context.isJson) return output.json({ volume, extents, ...answer }) as undefined;
  const bytes = extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  output.line(
    `volume "${volume}": ${formatSize(bytes)} in ${counted(extents.length, "extent")} count as changed`,
  );
}
