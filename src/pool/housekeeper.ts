// SPDX-License-Identifier: Apache-2.0
//
// Decides when garbage is collected.
//
//   asked for    everything that is worth it, and cold data is compressed again
//   due          the pool fills, and enough was written since the last time: the segments with most garbage
//   reclaimed    clients wait for space: whatever frees any, at once
//
// One collection runs at a time; who asks for another one waits for its end, and so does who counts what history holds
// (space-census.ts), for counting reads what a collection drops.

import type { Collected, CollectOptions, Collector } from "../gc/collector.ts";
import type { Clock } from "../host/ports.ts";
import type { Catalog } from "./catalog.ts";
import type { GcHolder, GcReport, GcStatistics, HousekeepingProgress } from "./types.ts";

export interface HousekeeperOptions {
  readonly collector: Collector;
  readonly clock: Clock;
  readonly catalog: () => Catalog;
  /** What is promised of the past: while it is all, nothing is garbage. It changes when this text does. */
  readonly promise: () => { readonly isAll: boolean; readonly standing: string };
  readonly space: { readonly storedBytes: number; readonly capacityBytes: number };
  readonly segmentBytes: number;
  /** Bytes that were written to the log since the pool was opened. */
  readonly writtenBytes: () => number;
  /** Changes of volumes since then: without one there is no new garbage. */
  readonly changeCount: () => number;
  /** So many bytes are kept that only the past needs: estimated. */
  readonly onHistoryCounted: (bytes: number) => void;
  readonly tell: (
    level: "info" | "warn" | "error",
    event: string,
    fields: Readonly<Record<string, unknown>>,
  ) => void;
}

/** A segment is compacted in the background when less of it is live: the fuller the pool, the more. */
const DUE = [
  { usedShare: 0.9, liveShareMax: 0.9 },
  { usedShare: 0.75, liveShareMax: 0.75 },
  { usedShare: 0, liveShareMax: 0.5 },
] as const;
/** Not before so large a part of what is stored was written anew. */
const DUE_WRITTEN_SHARE = 0.1;
const DUE_SEGMENTS_MIN = 4;
/** With less room than this collecting begins before clients wait for it. */
const SCARCE_SEGMENTS = 4;
/** What one reclaiming frees, as a part of the pool. */
const RECLAIMED_SHARE = 0.01;
const RECLAIMED_WORTH = 0.25;
/** Where nothing was to be freed, time alone may let go of something only so often. */
const IN_VAIN_MICROS = 1_000_000;

export class Housekeeper {
  readonly #options: HousekeeperOptions;
  /** A collection, or who keeps them off. */
  #running: Promise<unknown> | undefined;
  /** The last collection, also while it runs. */
  #collecting: Promise<Collected> | undefined;
  #reclaiming: Promise<boolean> | undefined;
  /** When there was nothing to be freed, and how things stood then. */
  #inVain: { readonly standing: string; readonly timeMicros: number } | undefined;
  #writtenAtLast = 0;
  #last: GcReport | undefined;
  #statistics = { collectionCount: 0, freedSegmentCount: 0, freedBytes: 0, movedBytes: 0 };

  constructor(options: HousekeeperOptions) {
    this.#options = options;
  }

  /** Whether `alone` would have to wait. */
  get isBusy(): boolean {
    return this.#running !== undefined;
  }

  get isReclaiming(): boolean {
    return this.#reclaiming !== undefined;
  }

  get progress(): HousekeepingProgress | undefined {
    const progress = this.#options.collector.progress;
    return progress === undefined ? undefined : { ...progress };
  }

  get last(): GcReport | undefined {
    return this.#last;
  }

  get statistics(): GcStatistics {
    return { ...this.#statistics };
  }

  /** Collects all that is worth it. */
  async collect({ isDryRun }: { readonly isDryRun: boolean }): Promise<GcReport> {
    const { clock, space } = this.#options;
    const startedMicros = Math.floor(clock.wallMicros());
    const begin = clock.monotoneMicros();
    const bytesBefore = space.storedBytes;
    const collected = await this.#run({
      isDryRun,
      liveShareMax: 0.95,
      wantedBytes: Number.POSITIVE_INFINITY,
      isThorough: true,
    });
    const report: GcReport = {
      isDryRun,
      startedMicros,
      durationMicros: Math.floor(clock.monotoneMicros() - begin),
      segmentsExamined: collected.segmentsExamined,
      segmentsFreed: collected.segmentsFreed,
      segmentsCompacted: collected.segmentsCompacted,
      bytesBefore,
      bytesAfter: Math.floor(
        isDryRun ? Math.max(0, bytesBefore - predictedBytes(collected)) : space.storedBytes,
      ),
      bytesFreed: Math.floor(isDryRun ? predictedBytes(collected) : collected.bytesFreed),
      bytesMoved: collected.bytesMoved,
      garbageBytes: Math.floor(collected.garbageBytes),
      liveBytes: Math.floor(collected.liveBytes),
      holders: this.#holders(collected, isDryRun),
      ...(isDryRun ? { coldGainBytes: Math.floor(collected.coldGainBytes) } : {}),
    };
    if (!isDryRun) this.#last = report;
    return report;
  }

  /** Frees some space for those who wait for it; false: there is nothing to be freed. */
  reclaim(): Promise<boolean> {
    if (this.#keepsAll || this.#isInVain) return Promise.resolve(false);
    this.#reclaiming ??= this.#reclaim().finally(() => {
      this.#reclaiming = undefined;
    });
    return this.#reclaiming;
  }

  async #reclaim(): Promise<boolean> {
    const running = await this.#collecting?.catch(() => undefined);
    if (running !== undefined && running.bytesFreed > running.bytesMoved) return true;
    const { space, segmentBytes } = this.#options;
    const wantedBytes = Math.max(2 * segmentBytes, space.capacityBytes * RECLAIMED_SHARE);
    const options = { isDryRun: false, liveShareMax: 0.97, wantedBytes, isThorough: false };
    const before = space.storedBytes;
    for (const isSettled of [false, true]) {
      await this.#run({ ...options, isSettled });
      // Less than that is what collecting itself leaves behind: it would go on for ever.
      if (before - space.storedBytes >= segmentBytes * RECLAIMED_WORTH) return true;
    }
    const timeMicros = this.#options.clock.monotoneMicros();
    this.#inVain = { standing: this.#standing, timeMicros };
    return false;
  }

  /** Nothing has happened since nothing was to be freed: a client that tries again and again is no reason to look. */
  get #isInVain(): boolean {
    if (this.#inVain?.standing !== this.#standing) return false;
    if (this.#options.catalog().retention.everyWriteMicros === 0) return true;
    return this.#options.clock.monotoneMicros() - this.#inVain.timeMicros < IN_VAIN_MICROS;
  }

  /** What garbage comes from. */
  get #standing(): string {
    const { catalog, changeCount, promise } = this.#options;
    const { volumes, retention } = catalog();
    const removed = [...volumes.values()].filter(
      ({ removedMicros }) => removedMicros !== undefined,
    );
    const { everyWriteMicros } = retention;
    return `${changeCount()} ${removed.length} ${everyWriteMicros} ${promise().standing}`;
  }

  /** Begins a collection in the background when one is due. */
  collectIfDue(): void {
    if (this.#running !== undefined || this.#keepsAll) return;
    const { space, segmentBytes, writtenBytes } = this.#options;
    const written = writtenBytes() - this.#writtenAtLast;
    if (this.#isScarce && written >= segmentBytes) {
      // Before clients have to wait for it, at a pace that leaves them half of the time.
      const wantedBytes = SCARCE_SEGMENTS * segmentBytes;
      const options = { isDryRun: false, liveShareMax: 0.97, wantedBytes, isThorough: false };
      this.#run(options).catch((error: unknown) => this.#failed(error));
      return;
    }
    const dueBytes = Math.max(
      DUE_SEGMENTS_MIN * segmentBytes,
      space.storedBytes * DUE_WRITTEN_SHARE,
    );
    if (written < dueBytes) return;
    const usedShare = space.storedBytes / Math.max(1, space.capacityBytes);
    const { liveShareMax } = DUE.find((step) => usedShare >= step.usedShare) ?? DUE[2];
    const options = { isDryRun: false, liveShareMax, wantedBytes: written, isThorough: false };
    this.#run(options).catch((error: unknown) => this.#failed(error));
  }

  /** There is room for a few segments only, and collecting was of use the last time. */
  get #isScarce(): boolean {
    const { space, segmentBytes } = this.#options;
    const isShort = space.capacityBytes - space.storedBytes < SCARCE_SEGMENTS * segmentBytes;
    return isShort && !this.#isInVain;
  }

  /** Does the work while no collection is under way, and lets none begin before its end. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    // Nothing may come between the look and the beginning: not even the end of an await.
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
    const running = work().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    return await running;
  }

  /** Resolves when nothing runs any more, however it ended. */
  async close(): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
  }

  get #keepsAll(): boolean {
    return this.#options.promise().isAll;
  }

  /** Collects when what is under way has ended. */
  async #run(options: CollectOptions): Promise<Collected> {
    const { collector, writtenBytes, onHistoryCounted } = this.#options;
    const collected = await this.alone(() => {
      this.#collecting = collector.collect(options).finally(() => {
        this.#collecting = undefined;
        this.#writtenAtLast = writtenBytes();
      });
      return this.#collecting;
    });
    if (collected.pastShare !== undefined)
      onHistoryCounted(collected.liveBytes * collected.pastShare);
    if (!options.isDryRun) this.#count(collected);
    return collected;
  }

  #count({ segmentsFreed, bytesFreed, bytesMoved }: Collected): void {
    this.#statistics.collectionCount += 1;
    this.#statistics.freedSegmentCount += segmentsFreed;
    this.#statistics.freedBytes += bytesFreed;
    this.#statistics.movedBytes += bytesMoved;
    if (segmentsFreed > 0)
      this.#options.tell("info", "gc.collected", {
        segments: segmentsFreed,
        freedBytes: bytesFreed,
        movedBytes: bytesMoved,
      });
  }

  #failed(error: unknown): void {
    const { code, message } = error as { code?: string; message?: string };
    if (code === undefined) throw error;
    if (code === "POOL_STOPPED") return; // the pool is being closed
    this.#options.tell("error", "gc.failed", { code, message });
  }

  #holders(
    { liveBytes, garbageBytes, keptGarbageBytes, noRoomBytes, pastShare = 0 }: Collected,
    isDryRun: boolean,
  ): GcHolder[] {
    const { space } = this.#options;
    const examinedBytes = liveBytes + (isDryRun ? garbageBytes : keptGarbageBytes + noRoomBytes);
    const holders = [
      { what: "live volumes", bytes: liveBytes * (1 - pastShare) },
      { what: "history: what only the past needs", bytes: liveBytes * pastShare },
      { what: "not worth moving yet, or needed by a checkpoint", bytes: keptGarbageBytes },
      { what: "garbage beside live data that the disk has no room to move", bytes: noRoomBytes },
      {
        what: "index, records, reserve, and what was written last",
        bytes: space.storedBytes - examinedBytes,
      },
    ];
    return holders
      .map(({ what, bytes }) => ({ what, bytes: Math.floor(bytes) }))
      .filter(({ bytes }) => bytes > 0)
      .sort((a, b) => b.bytes - a.bytes);
  }
}

/** What a collection would free. */
function predictedBytes({ garbageBytes, keptGarbageBytes, coldGainBytes }: Collected): number {
  return garbageBytes - keptGarbageBytes + coldGainBytes;
}
