// SPDX-License-Identifier: Apache-2.0
//
// What two moments have in common. Both lie at the end of a line of branches; where the two lines part is their common
// past, and whatever differs between the moments was changed on one of the two ways from there:
//
//      1 ─────●────────────○───────      from: branch 2 at 40, to: branch 3 at 50
//             │ 20         │ 30          common past: branch 1 after record 20
//             └── 2 ──● 40 └── 3 ──● 50  ways: (2, 20 to 40]; (1, 20 to 30] and (3, 30 to 50]
//
// Two moments of one branch: the way from the later one is empty. Of volumes that aren't clones of each other: none.

import type { Origin } from "./page-directory.ts";

/** Where a branch begins; `fromLsn` is the record that began it. */
export interface BranchLine {
  /** 0: begins empty. */
  readonly parent: number;
  readonly parentLsn: number;
  readonly fromLsn: number;
}

/** Records of a branch behind `afterLsn`, up to `lsn`. */
export interface WayPart {
  readonly branch: number;
  readonly afterLsn: number;
  readonly lsn: number;
}

/** The ways from the common past to both moments, all parts in which anything may have changed; undefined: there is none. */
export function waysBetween(
  branches: ReadonlyMap<number, BranchLine>,
  from: Origin,
  to: Origin,
): readonly WayPart[] | undefined {
  const parts: WayPart[] = [];
  let [one, other]: (Origin | undefined)[] = [from, to];
  // Parents have lower numbers: the one with the higher number isn't an ancestor of the other.
  while (one !== undefined && other !== undefined && one.branch !== other.branch) {
    if (one.branch > other.branch) one = above(branches, one, parts);
    else other = above(branches, other, parts);
  }
  if (one === undefined || other === undefined) return undefined;
  const { branch } = one;
  const afterLsn = Math.min(one.lsn, other.lsn);
  const lsn = Math.max(one.lsn, other.lsn);
  if (afterLsn < lsn) parts.push({ branch, afterLsn, lsn });
  return parts;
}

/** Goes to where the branch begins, and notes what it did itself. */
function above(
  branches: ReadonlyMap<number, BranchLine>,
  { branch, lsn }: Origin,
  parts: WayPart[],
): Origin | undefined {
  const line = branches.get(branch);
  if (line === undefined) return undefined;
  const { parent, parentLsn, fromLsn } = line;
  if (fromLsn < lsn) parts.push({ branch, afterLsn: fromLsn, lsn });
  return parent === 0 ? undefined : { branch: parent, lsn: parentLsn };
}
