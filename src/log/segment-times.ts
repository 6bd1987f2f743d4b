// SPDX-License-Identifier: Apache-2.0
//
// When the records of one segment happened, and which of them are flushes: 8 bytes for each record, 16 more for each
// flush, decoded from metas as a footer has them, or as the writer keeps them of a segment that it still writes; these
// are taken up where the last look ended. A segment has at most some 260,000 records: 2 MiB here.

import { BATCH_HEADER_BYTES } from "./batch.ts";
import { getU64, newRecordCursor, parseRecord, RECORD_KIND, type RecordCursor } from "./record.ts";
import { META_PREFIX_BYTES } from "./segment.ts";

/** A segment that has no footer on disk yet. */
export interface RecentSegment {
  readonly number: number;
  readonly firstLsn: number;
  /** Offset, header and records of each batch, as in a footer. */
  readonly metas: Uint8Array;
}

/** Where a batch header has what is wanted here (batch.ts). */
const FIRST_LSN_AT = 32;
const RECORD_COUNT_AT = 40;
const RECORD_BYTES_AT = 48;
const RECORDED_MICROS_AT = 88;
/** Where a record has its time, behind the batch's. */
const TIME_OFFSET_AT = 4;

/** Reused for all. */
const CURSOR: RecordCursor = newRecordCursor();

export class SegmentTimes {
  readonly firstLsn: number;
  /** Records from here on aren't taken: the log goes on elsewhere. */
  readonly #endLsn: number;
  /** Recorded time of each record, in order: never going back, as far as the writer is to be believed. */
  readonly #times: number[] = [];
  /** LSN and branch of each flush, in order. */
  readonly #flushLsns: number[] = [];
  readonly #flushBranches: number[] = [];
  /** Bytes of metas that were taken. */
  #takenBytes = 0;

  constructor(firstLsn: number, endLsn: number = Number.POSITIVE_INFINITY) {
    this.firstLsn = firstLsn;
    this.#endLsn = endLsn;
  }

  /** Behind the last record. */
  get nextLsn(): number {
    return this.firstLsn + this.#times.length;
  }

  get isEmpty(): boolean {
    return this.#times.length === 0;
  }

  /** undefined: it has no record with that LSN. */
  timeOf(lsn: number): number | undefined {
    return this.#times[lsn - this.firstLsn];
  }

  /** LSN of the last record whose time isn't later; undefined: all are. */
  atOrBefore(micros: number): number | undefined {
    const count = countUpTo(this.#times, micros);
    return count === 0 ? undefined : this.firstLsn + count - 1;
  }

  /** LSN of the last flush of the branch at or below `lsn`. */
  lastFlush(branch: number, lsn: number): number | undefined {
    for (let at = countUpTo(this.#flushLsns, lsn) - 1; at >= 0; at--)
      if (this.#flushBranches[at] === branch) return this.#flushLsns[at];
    return undefined;
  }

  /** Adds the next record. `flushedBranch`: of a flush, else -1. */
  add(timeMicros: number, flushedBranch: number): void {
    if (this.nextLsn >= this.#endLsn) return;
    if (flushedBranch >= 0) {
      this.#flushLsns.push(this.nextLsn);
      this.#flushBranches.push(flushedBranch);
    }
    this.#times.push(timeMicros);
  }

  /** Adds what came to `metas` since the last call. A sentence when something is wrong; what was added until then is right. */
  take(metas: Uint8Array): string | undefined {
    const view = new DataView(metas.buffer, metas.byteOffset, metas.byteLength);
    while (this.#takenBytes < metas.length && this.nextLsn < this.#endLsn) {
      const header = this.#takenBytes + META_PREFIX_BYTES;
      const records = header + BATCH_HEADER_BYTES;
      if (records > metas.length) return "meta cut off";
      const end = header + view.getUint32(this.#takenBytes + 4, true);
      if (end !== records + view.getUint32(header + RECORD_BYTES_AT, true) || end > metas.length)
        return `meta of ${end - header} bytes`;
      const problem = this.#takeRecords(view, header, { records, end });
      if (problem !== undefined) return problem;
      this.#takenBytes = end;
    }
    return undefined;
  }

  #takeRecords(
    view: DataView,
    header: number,
    { records, end }: { records: number; end: number },
  ): string | undefined {
    const firstLsn = getU64(view, header + FIRST_LSN_AT);
    const recordedMicros = getU64(view, header + RECORDED_MICROS_AT);
    const recordCount = view.getUint32(header + RECORD_COUNT_AT, true);
    if (firstLsn !== this.nextLsn || recordedMicros < 0)
      return `batch from LSN ${firstLsn} on, expected ${this.nextLsn}`;
    let at = records;
    for (let index = 0; index < recordCount; index++) {
      const lengthBytes = parseRecord(view, at, end, CURSOR);
      if (typeof lengthBytes === "string") return lengthBytes;
      const timeMicros = recordedMicros + view.getUint32(at + TIME_OFFSET_AT, true);
      this.add(timeMicros, CURSOR.kind === RECORD_KIND.FLUSHED ? CURSOR.branch : -1);
      at += lengthBytes;
    }
    return at === end ? undefined : "records don't fill their part";
  }
}

/** How many of the ascending numbers aren't above `limit`. */
function countUpTo(numbers: readonly number[], limit: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((numbers[middle] as number) <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
