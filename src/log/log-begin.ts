// SPDX-License-Identifier: Apache-2.0
//
// Where the log begins. While all of history is kept it does at its first record. Else garbage collection lets whole
// segments go, records and all, and what is left are stretches with holes between them: each can be read by itself, but
// only checkpoints say what everything before added up to.
//
// Whether somebody let a missing segment go, or it was lost, the log itself tells: the tombstone of a segment stands in
// a later one, which is there, or was let go as well. So of all that were, the highest has its tombstone somewhere in
// what is left, and whatever is missing behind that one is lost.

import { KnownSegments, type LogFiles, withSegment } from "./known-segments.ts";
import { isDamage } from "./log-reach.ts";
import { RECORD_KIND, type RecordCursor } from "./record.ts";
import { LOG_BEGIN, type ReplayStart } from "./replay-start.ts";
import { SEGMENT_HEADER_BYTES, type SegmentHeader } from "./segment.ts";
import type { WalkOptions } from "./segment-reader.ts";

/** A row of segments that continue each other: where it begins. */
export interface LogStretch {
  readonly start: ReplayStart;
  /** The segment in front of it, which isn't there; 0: the log begins here. */
  readonly missing: number;
}

export interface LogBegin {
  readonly known: KnownSegments;
  /** Ascending; one, for a log that is whole. */
  readonly stretches: readonly LogStretch[];
  /** The highest segment that was let go with its records; 0: none was. */
  readonly highestLetGo: number;
  /** Of the last stretch behind a hole that somebody made; undefined: no segment was let go with its records. */
  readonly lateStart: ReplayStart | undefined;
}

/** Throws DISK_IO, FORMAT_UNSUPPORTED. */
export async function readLogBegin(files: LogFiles): Promise<LogBegin> {
  const known = await KnownSegments.all(files);
  const stretches = stretchesOf(known);
  const isWhole = stretches.length === 1 && stretches[0]?.missing === 0;
  const highestLetGo = isWhole ? 0 : await findHighestLetGo(files, known);
  const late = stretches.findLast((stretch) => isLetGo(stretch, highestLetGo));
  return { known, stretches, highestLetGo, lateStart: late?.start };
}

/** Whether the hole in front of the stretch was made by garbage collection. */
export function isLetGo({ missing }: LogStretch, highestLetGo: number): boolean {
  return missing > 0 && missing <= highestLetGo;
}

/** The segment that the record says is let go with its records; 0: none. */
function letGoBy({ kind, json }: RecordCursor): number {
  if (kind !== RECORD_KIND.SEGMENT_DROPPED || json?.keepsRecords !== false) return 0;
  return typeof json.segment === "number" ? json.segment : 0;
}

function stretchesOf(known: KnownSegments): LogStretch[] {
  const present = new Set(known.numbers);
  const stretches: LogStretch[] = [];
  for (const number of known.numbers) {
    const header = known.header(number);
    if (header === undefined || present.has(header.previousNumber)) continue;
    const missing = header.previousNumber;
    stretches.push({ missing, start: missing === 0 ? LOG_BEGIN : startOf(header) });
  }
  return stretches;
}

/** The beginning of a segment, as a place to read the log from. */
function startOf({ number, firstLsn, chain, incarnation }: SegmentHeader): ReplayStart {
  const offset = SEGMENT_HEADER_BYTES;
  return {
    segmentNumber: number,
    offset,
    nextLsn: firstLsn,
    chain,
    incarnation,
    recordedMicros: 0,
  };
}

/** Looks at all records, mostly in footers: whatever of them can be read. */
async function findHighestLetGo(files: LogFiles, known: KnownSegments): Promise<number> {
  let highest = 0;
  const onRecord = (cursor: RecordCursor): void => {
    highest = Math.max(highest, letGoBy(cursor));
  };
  for (const number of known.numbers) {
    const header = known.header(number);
    if (header === undefined) continue;
    const { nextLsn, chain, incarnation, recordedMicros } = startOf(header);
    const walk: WalkOptions = {
      from: SEGMENT_HEADER_BYTES,
      chain: { nextLsn, chain, recordedMicros, durableLsn: 0 },
      verifyFromLsn: Number.POSITIVE_INFINITY,
      wasDurable: () => Promise.resolve(true),
      incarnation,
      endsAt: () => false,
      onRecord,
    };
    await withSegment(files, number, async (reader) => {
      const trailer = await reader.trailer();
      if (typeof trailer === "object") await reader.walkFooter(trailer, walk);
      else if (!reader.isRecords) await reader.walk(walk);
    }).catch((error: unknown) => {
      if (!isDamage(error)) throw error;
    });
  }
  return highest;
}
