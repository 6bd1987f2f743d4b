// SPDX-License-Identifier: Apache-2.0
//
// The deduplication index is in memory only. After a start it is filled again from what earlier lives of the pool have
// stored, segment by segment, the newest first: in the background, so that nobody waits for it, and duplicates of what
// wasn't read yet are stored once more. It reads to the oldest even when the index is full by then: a full index keeps
// a thin sample of every age, and the oldest segments have their part in it.
//
// Only what the log accepted is told: bytes behind the place where it broke off in a crash are not durable, and whoever
// referred to them would lose data with the next crash. A segment of the same life as the one behind it was sealed in
// peace, and counts whole. The last of a life ends where the first of the next one says; where that one was dropped
// by garbage collection, the last is left out.

import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { LogFiles } from "../log/known-segments.ts";
import type { LogPosition } from "../log/log-writer.ts";
import type { SegmentHeader } from "../log/segment.ts";
import { FingerprintReader } from "../log/segment-fingerprints.ts";
import type { SegmentSet } from "../log/segment-set.ts";
import type { DedupIndex } from "../reduce/dedup-index.ts";
import type { Tell } from "./bounded-events.ts";

export interface DedupRestoreOptions extends LogFiles {
  readonly clock: Clock;
  readonly index: DedupIndex;
  /** Segments that are there; what this life writes is in the index anyway. */
  readonly numbers: readonly number[];
  /** Where this life began. */
  readonly begin: LogPosition;
  readonly set: SegmentSet;
  /** The segment that is being written. */
  readonly openSegment: () => number;
  /** Any number that changes when clients read or write. */
  readonly activity: () => number;
  readonly tell: Tell;
}

/** Between slices of half a millisecond, while there are requests: a tenth of the time is ours. */
const BUSY_PAUSE_MS = 4;

export class DedupRestore {
  readonly #options: DedupRestoreOptions;
  readonly #reader: FingerprintReader;
  /** The oldest segment so far, whose header says where the one before it ended. */
  #after: Pick<SegmentHeader, "incarnation" | "previousNumber" | "previousEnd">;
  /** Where segments end of which only a part counts. */
  readonly #ends: Map<number, number> = new Map();
  #oldest: number;
  #done: Promise<void> = Promise.resolve();
  #isStopped = false;
  #wake: () => void = () => undefined;
  #activity = 0;
  #problemCount = 0;
  #frameCount = 0;
  isRunning = false;
  /** Segments that were looked at, and how many there are. */
  restoredCount = 0;
  segmentCount = 0;

  constructor(options: DedupRestoreOptions) {
    this.#options = options;
    this.#after = options.begin;
    this.#oldest = options.begin.segmentNumber;
    this.#reader = new FingerprintReader({
      ...options,
      pause: () => this.#pause(),
      onRows: (rows, count, segment) => options.index.restoreRows(rows, count, segment),
    });
  }

  begin(): void {
    this.isRunning = true;
    this.#done = this.#run().finally(() => {
      this.isRunning = false;
    });
  }

  /** Ends it, soon; what is in the index stays. */
  stop(): Promise<void> {
    this.#isStopped = true;
    this.#wake();
    return this.#done;
  }

  /** Where the part of a segment ends that belongs to the log, as far as the restore knows it; 0: nothing does. */
  endOf({ number, incarnation }: SegmentHeader): number {
    if (incarnation !== this.#options.begin.incarnation && number < this.#oldest) return 0;
    return this.#ends.get(number) ?? Number.POSITIVE_INFINITY;
  }

  async #run(): Promise<void> {
    const { clock, begin, numbers, set, openSegment, tell } = this.#options;
    const startedMicros = clock.monotoneMicros();
    const earlier = numbers.filter((number) => number < begin.segmentNumber);
    this.segmentCount = earlier.length;
    if (earlier.length === 0) return;
    for (const number of earlier.sort((a, b) => b - a)) {
      if (this.#isStopped) return;
      await this.#restore(number, false);
      this.restoredCount += 1;
    }
    // What was moved on before its turn came is in segments of this life, and not under its name in the index.
    if (earlier.some((number) => !set.has(number)))
      for (let number = openSegment() - 1; number >= begin.segmentNumber; number--)
        if (!this.#isStopped) await this.#restore(number, true);
    if (this.#isStopped || this.#frameCount + this.#problemCount === 0) return;
    tell("info", "dedup.restored", {
      segments: this.segmentCount,
      frames: this.#frameCount,
      problems: this.#problemCount,
      durationMicros: Math.floor(clock.monotoneMicros() - startedMicros),
    });
  }

  async #restore(number: number, isFooterNeeded: boolean): Promise<void> {
    const { set, tell } = this.#options;
    if (!set.has(number)) return;
    try {
      const endOf = (header: SegmentHeader): number => this.#meet(header);
      const { frameCount } = await this.#reader.read({ number, endOf, isFooterNeeded });
      this.#frameCount += frameCount;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      if (this.#isStopped || !set.has(number)) return;
      this.#problemCount += 1;
      if (this.#problemCount > 1) return; // told once; the end says how many
      const { code, message } = error;
      tell("warn", "dedup.segment-left-out", { segment: number, code, message });
    }
  }

  /** The next segment, going back: where it ends. */
  #meet(header: SegmentHeader): number {
    const { number, incarnation } = header;
    if (incarnation === this.#options.begin.incarnation) return Number.POSITIVE_INFINITY;
    const { previousNumber, previousEnd } = this.#after;
    if (incarnation !== this.#after.incarnation)
      this.#ends.set(number, previousNumber === number ? previousEnd : 0);
    this.#after = header;
    this.#oldest = number;
    return this.endOf(header);
  }

  async #pause(): Promise<void> {
    const { clock, activity } = this.#options;
    const now = activity();
    const isBusy = now !== this.#activity;
    this.#activity = now;
    await new Promise<void>((resolve) => {
      if (!isBusy) return clock.afterInput(resolve);
      const cancel = clock.after(BUSY_PAUSE_MS, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    if (this.#isStopped)
      throw new StorageError("POOL_STOPPED", "deduplication index: not restored: the pool closes");
  }
}
