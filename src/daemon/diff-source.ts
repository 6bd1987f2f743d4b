// SPDX-License-Identifier: Apache-2.0
//
// The differences of a pool's moments for the control door: from the words for two moments to what the pool tells of them.
// Nothing is kept in between: what the pool finds goes on to whoever asked.

import type { DiffAsked, DiffMomentJson, DiffSource } from "../api/diff.ts";
import { parseVolumeMoment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import type { DiffRange, ResolvedMoment } from "../pool/types.ts";
import type { ServedDiff } from "./served-pool.ts";

export function createDiffSource(pool: ServedDiff): DiffSource {
  const resolve = (text: string): Promise<ResolvedMoment> => {
    const { volume, moment = { kind: "now" } } = parseVolumeMoment(text);
    return pool.resolve(volume, moment);
  };
  return {
    diff: async (asked, begin) => {
      const from = await resolve(asked.from);
      const to = await resolve(asked.to);
      const range = rangeOf(asked, to);
      const taker = begin({ from: toMomentJson(from), to: toMomentJson(to), ...range });
      const summary = await pool.diff(from, to, range, taker);
      if (summary.nextOffsetBytes !== undefined) return undefined;
      const { extentCount, dataBytes, zeroBytes, holeBytes, untoldBytes } = summary;
      return { extentCount, dataBytes, zeroBytes, holeBytes, untoldBytes };
    },
  };
}

function rangeOf({ offset = "0", length }: DiffAsked, { sizeBytes }: ResolvedMoment): DiffRange {
  const offsetBytes = Math.min(Number(offset), sizeBytes);
  const rest = sizeBytes - offsetBytes;
  return { offsetBytes, lengthBytes: length === undefined ? rest : Math.min(Number(length), rest) };
}

function toMomentJson(moment: ResolvedMoment): DiffMomentJson {
  const { volume, stableName, lsn, timeMicros, sizeBytes } = moment;
  return { volume, stableName, lsn, at: formatTime(timeMicros), sizeBytes };
}
