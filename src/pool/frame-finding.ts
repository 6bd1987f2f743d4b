// SPDX-License-Identifier: Apache-2.0
//
// What a damaged frame means, in a sentence: the block that it held when it was written, or, of one that was moved, where
// its blocks were born.

import { segmentName } from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import type { CheckFinding } from "./check-findings.ts";

/** `nameOf` gives the volume of a branch. */
export function findingOfFrame(
  { segmentNumber, offset, lsn, branch, lba, homes, problem }: DamagedFrame,
  nameOf: (branch: number) => string | undefined,
): CheckFinding {
  const code = "FRAME_CORRUPT";
  const what = `log: segment ${segmentName(segmentNumber)}, frame at ${offset}: ${problem}`;
  const data = { segment: segmentNumber, offset, lsn };
  if (branch === undefined) {
    const born = (homes ?? []).map(({ segment, offset8 }) => `${segment}:${offset8 * 8}`);
    const message = `${what}; it holds what was born at ${born.join(", ")}, since LSN ${lsn}`;
    return { code, message, data: { ...data, homes: born } };
  }
  const volume = nameOf(branch) ?? `of branch ${branch}`;
  const message = `${what}; it holds block ${lba} of volume "${volume}" as of LSN ${lsn}`;
  return { code, message, data: { ...data, volume, lba } };
}
