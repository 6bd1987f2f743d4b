// SPDX-License-Identifier: Apache-2.0
//
// `varve when`: the moments at which a range of a volume changed, newest first. Each is printed as it is typed elsewhere,
// db@#123: the disk right after that change; #122 is the one before it.

import { StorageError } from "../../base/errors.ts";
import { formatMoment, parsePastMoment } from "../../base/moment.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { countOf, extentOf, shortTime } from "../values.ts";

const LIMIT_STANDARD = 20;

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME");
  const extent = context.option("extent");
  if (extent === undefined)
    throw new StorageError("USAGE", 'option "--extent": missing', {
      hint: `write "varve when ${volume} --extent OFFSET:LENGTH", like 1M:64K`,
    });
  const { offsetBytes, lengthBytes } = extentOf(extent);
  const [since, until] = [context.option("since"), context.option("until")];
  const limit = countOf("limit", context.option("limit") ?? String(LIMIT_STANDARD));
  const found = await (await context.daemon()).call("getChanges", {
    volume,
    offset: String(offsetBytes),
    length: String(lengthBytes),
    limit: String(limit),
    ...(since === undefined ? {} : { from: formatMoment(parsePastMoment(since)) }),
    ...(until === undefined ? {} : { to: formatMoment(parsePastMoment(until)) }),
  });
  if (context.isJson) return output.json(found) as undefined;
  const { changes, isMore, knownFromLsn } = found;
  if (changes.length > 0)
    output.table(
      ["MOMENT", "TIME", "OFFSET", "LENGTH", "WHAT"],
      changes.map(({ lsn, at, offsetBytes: offset, lengthBytes: length, isBranch }) => [
        `${volume}@#${lsn}`,
        shortTime(at),
        offset,
        formatSize(length),
        isBranch ? "went on from another moment" : "",
      ]),
    );
  else output.note("it hasn't changed, as far as is known");
  if (isMore) output.note(`there are older ones; see more with "--limit ${limit * 10}"`);
  else output.note(`changes are known from #${knownFromLsn} on`);
}
