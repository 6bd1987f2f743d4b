// SPDX-License-Identifier: Apache-2.0
//
// What frames a segment holds, by its own records: those that were born in it, and those that garbage collection moved
// into it, with the names that the rest of the pool knows them by.

import { BATCH_HEADER_BYTES, type BatchHeader } from "../log/batch.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { segmentCorrupt, withSegment } from "../log/known-segments.ts";
import {
  RECORD_KIND,
  RELOCATED_HOME_AT,
  RELOCATED_SLOT_BYTES,
  type RecordCursor,
} from "../log/record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { SEGMENT_HEADER_BYTES, type SegmentTrailer } from "../log/segment.ts";

const PAGE_BYTES = 4096;

/** A frame that was moved here. */
export interface MovedHere {
  readonly offset8: number;
  readonly storedBytes: number;
  readonly isShared: boolean;
  /** Home segment and offset / 8 of each slot. */
  readonly homes: Uint32Array;
}

export interface SegmentFrames {
  readonly number: number;
  readonly sizeBytes: number;
  /** Where the batches end. */
  readonly end: number;
  /** Else its batches were read one by one, as far as they are whole. */
  readonly hasFooter: boolean;
  /** Where the footer repeats the batches' headers and records. */
  readonly metasOffset: number;
  /** Of frames that were born here: offset / 8, ascending. */
  readonly born: Uint32Array;
  /** Ascending. */
  readonly moved: readonly MovedHere[];
  /** Where each batch begins, and how much of it is frames and records. */
  readonly batches: readonly BatchPlace[];
}

export interface BatchPlace {
  readonly offset: number;
  readonly frameBytes: number;
  readonly recordBytes: number;
}

/** Reads what a segment holds that nobody writes to any more. Throws LOG_CORRUPT, DISK_IO. */
export function readSegmentFrames(files: LogFiles, number: number): Promise<SegmentFrames> {
  return withSegment(files, number, async (reader) => {
    const header = await reader.header();
    if (typeof header === "string") throw segmentCorrupt(number, header);
    const { view } = files.memory;
    const born: number[] = [];
    const moved: MovedHere[] = [];
    const batches: BatchPlace[] = [];
    const onRecord = (cursor: RecordCursor): void => {
      if (cursor.kind === RECORD_KIND.WROTE) noteBorn(view, cursor, number, born);
      else if (cursor.kind === RECORD_KIND.RELOCATED && cursor.placeSegment === number)
        moved.push(movedHere(view, cursor));
    };
    const walk = {
      from: SEGMENT_HEADER_BYTES,
      chain: { nextLsn: header.firstLsn, chain: header.chain, recordedMicros: 0, durableLsn: 0 },
      verifyFromLsn: Number.POSITIVE_INFINITY,
      wasDurable: () => Promise.resolve(true),
      incarnation: header.incarnation,
      endsAt: () => false,
      onRecord,
      onBatch: (offset: number, { frameBytes, recordBytes }: BatchHeader) => {
        batches.push({ offset, frameBytes, recordBytes });
      },
    };
    const trailer = await reader.trailer();
    const walked =
      typeof trailer === "string"
        ? await reader.walk(walk)
        : await reader.walkFooter(trailer, walk);
    if (typeof walked === "string") throw segmentCorrupt(number, walked);
    return {
      number,
      sizeBytes: reader.sizeBytes,
      end: walked.end,
      hasFooter: typeof trailer !== "string",
      metasOffset: typeof trailer === "string" ? 0 : metasOffset(trailer),
      born: ascending(born),
      moved: moved.sort((a, b) => a.offset8 - b.offset8),
      batches,
    };
  });
}

function metasOffset({ end, rowBytes }: SegmentTrailer): number {
  return Math.ceil(end / PAGE_BYTES) * PAGE_BYTES + rowBytes;
}

function noteBorn(view: DataView, cursor: RecordCursor, number: number, born: number[]): void {
  for (let block = 0; block < cursor.blockCount; block++) {
    const at = cursor.referencesOffset + block * 8;
    const low = view.getUint32(at + 4, true);
    if (stateOf(low) === REFERENCE_STATE.FRAME && view.getUint32(at, true) === number)
      born.push(offset8Of(low));
  }
}

function movedHere(view: DataView, cursor: RecordCursor): MovedHere {
  const { placeOffset8, storedBytes, isShared, slotCount } = cursor;
  const homes = new Uint32Array(slotCount * 2);
  for (let slot = 0; slot < slotCount; slot++) {
    const at = cursor.referencesOffset + slot * RELOCATED_SLOT_BYTES + RELOCATED_HOME_AT;
    homes[slot * 2] = view.getUint32(at, true);
    homes[slot * 2 + 1] = view.getUint32(at + 4, true);
  }
  return { offset8: placeOffset8, storedBytes, isShared, homes };
}

/** Sorted, each once: a frame that several blocks of its own segment refer to is one frame. */
function ascending(offsets: readonly number[]): Uint32Array {
  // Mostly they are already, and sorting them would take a millisecond that clients feel.
  if (offsets.every((offset, at) => at === 0 || offset > (offsets[at - 1] as number)))
    return Uint32Array.from(offsets);
  const sorted = Uint32Array.from(offsets).sort();
  let count = 0;
  for (const offset of sorted)
    if (count === 0 || sorted[count - 1] !== offset) sorted[count++] = offset;
  return sorted.slice(0, count);
}

/** Bytes on disk of each frame. */
export class FrameSizes {
  readonly #offsets: Uint32Array;
  readonly #bytes: Float64Array;
  /** Of all of them. */
  readonly totalBytes: number;

  constructor({ born, moved, batches }: SegmentFrames) {
    const places = moved.map(({ offset8 }) => offset8);
    this.#offsets = Uint32Array.from([...born, ...places]).sort();
    this.#bytes = new Float64Array(this.#offsets.length);
    let batch = 0;
    for (const [at, offset8] of this.#offsets.entries()) {
      // Frames lie one behind the other: each ends where the next begins, or the frames of its batch end.
      while (endOf(batches[batch]) <= offset8 * 8 && batch < batches.length - 1) batch += 1;
      const next = (this.#offsets[at + 1] ?? Number.POSITIVE_INFINITY) * 8;
      const end = Math.min(next, endOf(batches[batch]));
      this.#bytes[at] = Math.max(0, end - offset8 * 8);
    }
    this.totalBytes = this.#bytes.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** 0: there is no such frame. */
  bytesOf(offset8: number): number {
    let low = 0;
    let high = this.#offsets.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#offsets[middle] as number) < offset8) low = middle + 1;
      else high = middle;
    }
    return this.#offsets[low] === offset8 ? (this.#bytes[low] as number) : 0;
  }
}

function endOf(batch: BatchPlace | undefined): number {
  return batch === undefined ? 0 : batch.offset + BATCH_HEADER_BYTES + batch.frameBytes;
}
