// SPDX-License-Identifier: Apache-2.0
//
// Reads the log up to a record that is known to be durable, while it may be written behind that: what a damaged page of
// the index is rebuilt from.

import { brokenChain, ChainWalk } from "./chain-walk.ts";
import { KnownSegments, type LogFiles } from "./known-segments.ts";
import type { RecordCursor } from "./record.ts";
import type { ReplayStart } from "./replay-start.ts";

export interface LogRange extends LogFiles {
  readonly start: ReplayStart;
  /** The first record that isn't told; all before it must be durable. */
  readonly endLsn: number;
  readonly onRecord: (cursor: RecordCursor) => void;
  /** Called after each batch; what it returns is awaited. */
  readonly afterBatch: () => Promise<void> | undefined;
}

/** Tells the records from `start` on, before `endLsn`, in order. Throws LOG_CORRUPT when the log doesn't reach so far, DISK_IO. */
export async function readLogUntil(range: LogRange): Promise<void> {
  const { start, endLsn } = range;
  const { nextLsn, chain, recordedMicros } = start;
  const known = await KnownSegments.read(range, start.segmentNumber);
  const walk = new ChainWalk(range, known, { isFooterEnough: true });
  const state = { nextLsn, chain, recordedMicros, durableLsn: endLsn };
  const visitor = {
    verifyFromLsn: Number.POSITIVE_INFINITY,
    wasDurable: () => Promise.resolve(true),
    onRecord: (cursor: RecordCursor) => {
      if (cursor.lsn < endLsn) range.onRecord(cursor);
    },
    afterBatch: range.afterBatch,
  };
  const end = await walk.follow(start, state, () => visitor, endLsn);
  if (state.nextLsn < endLsn) throw brokenChain(end, state.nextLsn, endLsn);
}
