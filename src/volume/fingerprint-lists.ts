// SPDX-License-Identifier: Apache-2.0
//
// When the deduplication index is thinned, it knows only every so-manieth frame of old segments. But duplicates come
// in runs: where one block of a write is stored already, its neighbours probably lie beside it. So the list of the
// segment where it lies is read from that segment's footer, once, before the write is stored.
//
// A list costs a read of some hundred KiB, and lists push each other out. So reading them is paid for: by blocks that only
// lists have found, and a little by the passing of time. Where duplicates are scattered, lists find nothing, the credit
// is soon used up, and a list is read now and then, to see whether that has changed.
//
// A list is read for a frame that was compared, never for a mere candidate: those are wrong often enough.

import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { LogFiles } from "../log/known-segments.ts";
import type { SegmentHeader } from "../log/segment.ts";
import { FingerprintReader } from "../log/segment-fingerprints.ts";
import type { BlockReducer } from "../reduce/block-reducer.ts";
import type { DedupIndex } from "../reduce/dedup-index.ts";
import { type FramePlaces, LOCATED } from "./frame-places.ts";

export interface FingerprintListsOptions extends LogFiles {
  readonly clock: Clock;
  readonly index: DedupIndex;
  readonly reducer: BlockReducer;
  readonly places: FramePlaces;
  /** The segment that is being written: it has no list yet, and all of it is in the index. */
  readonly openSegment: () => number;
  /** Where the part of a segment ends that belongs to the log. */
  readonly endOf: (header: SegmentHeader) => number;
}

/** In lists of the usual size. */
const CREDIT_AT_FIRST = 16;
const CREDIT_MAX = 64;
const CREDIT_PER_SECOND = 1;
/** 256 KiB were read; if 128 KiB needn't be written, now and whenever they are moved, they were worth it. */
const HITS_PER_LIST = 32;
const LIST_BYTES: number = 256 << 10;

export class FingerprintLists {
  readonly #options: FingerprintListsOptions;
  readonly #reader: FingerprintReader;
  readonly #reading: Map<number, Promise<void>> = new Map();
  /** Lists are read one after the other. */
  #last: Promise<void> = Promise.resolve();
  #credit = CREDIT_AT_FIRST;
  #creditMicros: number;
  #creditHits = 0;
  /** Lists that were read. What wasn't found before may be found when it has changed. */
  readCount = 0;

  constructor(options: FingerprintListsOptions) {
    const { clock, index } = options;
    this.#options = options;
    this.#creditMicros = clock.monotoneMicros();
    this.#reader = new FingerprintReader({
      ...options,
      pause: () => new Promise((resolve) => clock.afterInput(resolve)),
      onRows: (rows, count, segment) => index.prefetchRows(rows, count, segment),
    });
  }

  /**
   * The segment whose list may know more of the blocks that were just examined, all of which were compared; 0: there is
   * none. The frame of the block in front of them (segment and low; 0, 0: it is new) counts as theirs.
   */
  wanted(blockCount: number, trailSegment: number, trailLow: number): number {
    const { index, reducer, memory } = this.#options;
    if (reducer.newCount === 0 || !index.isThinned) return 0;
    if (reducer.duplicateCount === 0 && trailSegment === 0) return 0;
    if (!this.#hasCredit()) return 0;
    const { words } = memory;
    const first = reducer.referencesAddress >>> 2;
    let before = 0;
    for (let word = first; word < first + blockCount * 2; word += 2) {
      const segment = words[word] as number;
      if (segment === 0 || segment === before) continue; // zero, new, or as the one before
      before = segment;
      const place = this.#unlistedPlace(segment, words[word + 1] as number);
      if (place !== 0) return place;
    }
    return trailSegment === 0 ? 0 : this.#unlistedPlace(trailSegment, trailLow);
  }

  /** Ends when all that can be had of the segment's list is in the index. */
  read(segment: number): Promise<void> {
    let reading = this.#reading.get(segment);
    if (reading === undefined) {
      this.#credit -= 1;
      reading = this.#last
        .then(() => this.#read(segment))
        .finally(() => this.#reading.delete(segment));
      this.#reading.set(segment, reading);
      this.#last = reading;
    }
    return reading;
  }

  async #read(segment: number): Promise<void> {
    const { index, endOf } = this.#options;
    let count = 0;
    try {
      const reading = { number: segment, endOf, isFooterNeeded: true };
      const { frameCount, readBytes } = await this.#reader.read(reading);
      count = frameCount;
      this.#credit -= Math.max(0, readBytes / LIST_BYTES - 1);
    } catch (error) {
      // Dropped meanwhile, or damaged: then its frames are only found one by one.
      if (!(error instanceof StorageError)) throw error;
    }
    index.listPrefetched(segment, count);
    this.readCount += 1;
  }

  /** Where the frame is, unless that segment's list is there already or can't be. */
  #unlistedPlace(segment: number, low: number): number {
    const { index, places, openSegment } = this.#options;
    if (places.locate(segment, low) !== LOCATED.HERE) return 0;
    const place = places.segment;
    return index.isPrefetched(place) || place === openSegment() ? 0 : place;
  }

  #hasCredit(): boolean {
    const now = this.#options.clock.monotoneMicros();
    const hits = this.#options.reducer.listedCount;
    const earned =
      ((now - this.#creditMicros) / 1e6) * CREDIT_PER_SECOND +
      (hits - this.#creditHits) / HITS_PER_LIST;
    this.#creditMicros = now;
    this.#creditHits = hits;
    this.#credit = Math.min(CREDIT_MAX, this.#credit + earned);
    return this.#credit >= 1;
  }
}
