// SPDX-License-Identifier: Apache-2.0
//
// Writes a history: how a volume became what a point holds, so that a restored one has the past moments too. Entries come
// in the order of the log: changes, as extents of blocks that are in packs like all others, flushes, and names of moments.
// What is behind the last entry of the former point's history can be written as a part of its own; so points share parts,
// and an hourly backup of a day's history writes one hour.
//
// Like a run's, a part can be finished once its packs have names.

import type { ExtentBatch } from "./extents.ts";
import { HISTORY_PAGE_BYTES, HistoryPageEncoder } from "./history-page.ts";
import { PartWriter, type PartWriterOptions } from "./part-writer.ts";

/** One object of a history, as manifests name it. */
export interface HistoryPart {
  readonly name: string;
  readonly firstLsn: number;
  readonly endLsn: number;
  readonly entryCount: number;
  /** Of the object. */
  readonly sizeBytes: number;
}

/** When something happened. Neither goes back from one entry to the next. */
export interface HistoryEntry {
  readonly lsn: number;
  readonly timeMicros: number;
}

export class HistoryWriter {
  readonly #encoder: HistoryPageEncoder = new HistoryPageEncoder();
  readonly #parts: PartWriter;
  readonly #ownPlace: (place: number, blockCount: number) => number;

  constructor(options: PartWriterOptions) {
    this.#parts = new PartWriter("history", options);
    this.#ownPlace = (place, blockCount) => this.#parts.ownPlace(place, blockCount);
  }

  /** The part must be finished before the next entry. A batch of extents has room in what is left: some 200 KiB. */
  get isPartFull(): boolean {
    return !this.#parts.hasRoom(16 * HISTORY_PAGE_BYTES);
  }

  /**
   * A change: its extents, ascending, at most 4096 at a time. `hasMore`: the next entry has more of the same change, for
   * that is how a large one is told.
   */
  changed(entry: HistoryEntry, extents: ExtentBatch, hasMore: boolean): void {
    const { lsn, timeMicros } = entry;
    for (let from = 0; from < extents.length; ) {
      this.#makeRoom();
      from = this.#encoder.addChange({ lsn, timeMicros, hasMore }, extents, from, this.#ownPlace);
    }
  }

  flushed(entry: HistoryEntry): void {
    this.#makeRoom();
    this.#encoder.addFlush(entry);
  }

  named(entry: HistoryEntry, name: string): void {
    this.#makeRoom();
    this.#encoder.addName(entry, name);
  }

  /** Puts what was added since the last part; undefined when that was nothing. Its packs are finished. */
  async finishPart(): Promise<HistoryPart | undefined> {
    this.#closePage();
    const part = await this.#parts.finish();
    if (part === undefined) return undefined;
    const { name, first, end, count, sizeBytes } = part;
    return { name, firstLsn: first, endLsn: end, entryCount: count, sizeBytes };
  }

  #makeRoom(): void {
    if (this.#encoder.isFull) this.#closePage();
  }

  #closePage(): void {
    const { firstLsn: first, lastLsn, entryCount: count } = this.#encoder;
    if (count > 0) this.#parts.addPage(this.#encoder.take(), { first, end: lastLsn + 1, count });
  }
}
