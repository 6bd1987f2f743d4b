// SPDX-License-Identifier: Apache-2.0
//
// What recovery has accepted and nothing proves to be on stable storage. Before anything is built on it, it is
// written once more, byte for byte at its place, and then made durable. A datasync alone would not do: if one has
// failed before the restart, the system may hold pages that it believes to be clean and that never reached the
// disk (the trap that PostgreSQL met in 2018); writing them again makes them dirty again. The same bytes at the same
// place can be torn without harm.

import type { Directory } from "../host/ports.ts";
import type { BatchHeader } from "./batch.ts";
import { type SegmentHeader, segmentName } from "./segment.ts";
import type { ChainState } from "./segment-reader.ts";

const PIECE_BYTES = 1 << 20;

interface PendingBatch {
  readonly segment: number;
  readonly offset: number;
  readonly end: number;
  /** A durable LSN from here on proves the batch durable: its end; for a marker, the record behind it. */
  readonly provenBy: number;
}

export class RecoveredTail {
  readonly #directory: Directory;
  #batches: PendingBatch[] = [];
  /** Segments of which perhaps not even the header is durable: number and first LSN. */
  #begun: { readonly number: number; readonly firstLsn: number }[] = [];

  constructor(directory: Directory) {
    this.#directory = directory;
  }

  noteSegment(header: SegmentHeader): void {
    this.#begun.push({ number: header.number, firstLsn: header.firstLsn });
  }

  noteBatch(segment: number, offset: number, header: BatchHeader): void {
    const end = offset + header.totalBytes;
    // An empty batch (a marker) is proven only by what came behind it: its own LSN is the next record's.
    const provenBy = header.firstLsn + Math.max(1, header.recordCount);
    this.#batches.push({ segment, offset, end, provenBy });
    if (this.#batches.length % 4096 === 0) this.#forget(header.durableLsn);
  }

  /** Makes all that was noted durable, below `chain.durableLsn` by trust, the rest by writing it again. */
  async settle(chain: ChainState): Promise<void> {
    this.#forget(chain.durableLsn);
    const ranges = new Map<number, { from: number; end: number }>();
    for (const { segment, offset, end } of this.#batches) {
      const range = ranges.get(segment);
      ranges.set(segment, { from: range?.from ?? offset, end });
    }
    for (const { number } of this.#begun) {
      ranges.set(number, { from: 0, end: ranges.get(number)?.end ?? 4096 });
    }
    for (const [segment, range] of ranges) await this.#rewrite(segment, range);
    if (ranges.size > 0) await this.#directory.sync();
    this.#batches = [];
    this.#begun = [];
  }

  #forget(durableLsn: number): void {
    this.#batches = this.#batches.filter(({ provenBy }) => provenBy > durableLsn);
    this.#begun = this.#begun.filter(({ firstLsn }) => firstLsn >= durableLsn);
  }

  async #rewrite(segment: number, range: { from: number; end: number }): Promise<void> {
    const file = await this.#directory.open(segmentName(segment), "write");
    try {
      const piece = new Uint8Array(Math.min(PIECE_BYTES, range.end - range.from));
      for (let at = range.from; at < range.end; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, range.end - at));
        const readBytes = await file.read(part, at);
        await file.write(part.subarray(0, readBytes), at);
      }
      await file.datasync();
    } finally {
      await file.close();
    }
  }
}

/** A segment of which something is left behind its accepted batches. */
export interface LeftTail {
  readonly segment: number;
  /** Where its batches end. */
  readonly end: number;
}

/**
 * Cuts off what was not accepted, once the log goes on elsewhere and nobody can need it any more: so no later reader takes
 * it for anything, and whatever can't be read in an older segment is damage. A segment that is gone has no tail.
 */
export async function cutTails(directory: Directory, tails: readonly LeftTail[]): Promise<void> {
  const names = new Set(await directory.list());
  for (const { segment, end } of tails) {
    if (!names.has(segmentName(segment))) continue;
    const file = await directory.open(segmentName(segment), "write");
    try {
      await file.truncate(end);
      await file.datasync();
    } finally {
      await file.close();
    }
  }
}
