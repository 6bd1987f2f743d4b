// SPDX-License-Identifier: Apache-2.0
//
// Where branches leave their parents, for readers that go through the log once with one plain state: a branch is told of
// by a record that comes after its beginning, when the parent has long gone on. So the points are read first, and the
// state takes a copy of the parent as it passes each.

import { type LogReading, readLogReach } from "./log-reach.ts";
import { RECORD_KIND } from "./record.ts";

export interface BranchPoint {
  readonly branch: number;
  readonly parent: number;
  /** The last record of the parent's that counts. */
  readonly parentLsn: number;
}

/** In the order in which a reader passes them. Damage ends them early; whoever reads the log then says so. */
export async function readBranchPoints(
  reading: Omit<LogReading, "onRecord">,
): Promise<readonly BranchPoint[]> {
  const points: BranchPoint[] = [];
  await readLogReach({
    ...reading,
    onRecord: ({ kind, json }) => {
      if (kind !== RECORD_KIND.BRANCHED || json === undefined) return;
      const { branch, parent, parentLsn } = json as unknown as BranchPoint;
      points.push({ branch, parent, parentLsn });
    },
  });
  return points.sort((a, b) => a.parentLsn - b.parentLsn || a.branch - b.branch);
}
