// SPDX-License-Identifier: Apache-2.0
//
// Decides when garbage is collected, and counts what the volumes hold.
//
//   asked for    everything that is worth it, and cold data is compressed again
//   due          the pool fills, and enough was written since the last time: the segments with most garbage
//   reclaimed    clients wait for space: whatever frees any, at once
//
// One collection runs at a time; who asks for another one waits for its end.

import type { Collected, CollectOptions, Collector } from "../gc/collector.ts";
import type { Survey } from "../gc/survey.ts";
import type { Clock } from "../host/ports.ts";
import { RELOCATION, type RelocationIndex } from "../index/relocation-index.ts";
import { offset8Of } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { Catalog } from "./catalog.ts";
import type {
  Census,
  GcHolder,
  GcReport,
  GcStatistics,
  HousekeepingProgress,
  VolumeSpace,
} from "./types.ts";

export interface HousekeeperOptions {
  readonly collector: Collector;
  readonly clock: Clock;
  readonly relocations: RelocationIndex;
  readonly catalog: () => Catalog;
  /** What is promised of the past: while it is all, nothing is garbage. It changes when this text does. */
  readonly promise: () => { readonly isAll: boolean; readonly standing: string };
  readonly space: { readonly storedBytes: number; readonly capacityBytes: number };
  readonly segmentBytes: number;
  /** Bytes that were written to the log since the pool was opened. */
  readonly writtenBytes: () => number;
  /** Changes of volumes since then: without one there is no new garbage. */
  readonly changeCount: () => number;
  readonly tell: (
    level: "info" | "warn" | "error",
    event: string,
    fields: Readonly<Record<string, unknown>>,
  ) => void;
}

/** What the last census found. */
export interface CensusFigures {
  readonly census: Census;
  readonly volumes: ReadonlyMap<number, VolumeSpace>;
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
/** Of so many segments the census reads what each frame takes; of more it knows the average. */
const EXACT_SEGMENTS_MAX = 256;
const CENSUS_AGE_MICROS = 10_000_000;

export class Housekeeper {
  readonly #options: HousekeeperOptions;
  #running: Promise<Collected> | undefined;
  #reclaiming: Promise<boolean> | undefined;
  /** When there was nothing to be freed, and how things stood then. */
  #inVain: { readonly standing: string; readonly timeMicros: number } | undefined;
  #writtenAtLast = 0;
  #censusRunning: Promise<void> | undefined;
  #figures: CensusFigures | undefined;
  #last: GcReport | undefined;
  #statistics = { collectionCount: 0, freedSegmentCount: 0, freedBytes: 0, movedBytes: 0 };

  constructor(options: HousekeeperOptions) {
    this.#options = options;
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

  get figures(): CensusFigures | undefined {
    return this.#figures;
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
    const running = await this.#running?.catch(() => undefined);
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

  /** Counts anew what the live volumes refer to, unless that was done a moment ago. */
  refreshCensus(): Promise<void> {
    const { clock } = this.#options;
    const at = this.#figures?.census.timeMicros ?? Number.NEGATIVE_INFINITY;
    if (clock.wallMicros() - at < CENSUS_AGE_MICROS) return Promise.resolve();
    this.#censusRunning ??= this.#takeCensus().finally(() => {
      this.#censusRunning = undefined;
    });
    return this.#censusRunning;
  }

  /** Resolves when nothing runs any more, however it ended. */
  async close(): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
    await this.#censusRunning?.catch(() => undefined);
  }

  get #keepsAll(): boolean {
    return this.#options.promise().isAll;
  }

  /** Collects when what is under way has ended. */
  async #run(options: CollectOptions): Promise<Collected> {
    // Nothing may come between the look and the beginning: not even the end of an await.
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
    const { collector, writtenBytes } = this.#options;
    this.#running = collector.collect(options).finally(() => {
      this.#running = undefined;
      this.#writtenAtLast = writtenBytes();
    });
    const collected = await this.#running;
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
    { liveBytes, garbageBytes, keptGarbageBytes, noRoomBytes }: Collected,
    isDryRun: boolean,
  ): GcHolder[] {
    const { catalog, space } = this.#options;
    const { everyWriteMicros } = catalog().retention;
    const examinedBytes = liveBytes + (isDryRun ? garbageBytes : keptGarbageBytes + noRoomBytes);
    const holders = [
      {
        what:
          everyWriteMicros === 0
            ? "live volumes"
            : everyWriteMicros === null
              ? "retention: live volumes and every write ever"
              : "retention: live volumes and every write of the window",
        bytes: liveBytes,
      },
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

  // ---- census

  async #takeCensus(): Promise<void> {
    const { collector, clock, catalog } = this.#options;
    const survey = await collector.survey();
    const sizes = await this.#frameSizes(survey);
    const volumes = new Map<number, VolumeSpace>();
    let liveBytes = 0;
    for (const { id, branch, removedMicros } of catalog().volumes.values()) {
      if (removedMicros !== undefined) continue;
      const { mappedCount, zeroCount } = survey.of(branch);
      const { firstCount, firstBytes, uniqueBytes } = sizes.get(branch) ?? NOTHING;
      liveBytes += firstBytes;
      volumes.set(id, {
        mappedBytes: mappedCount * BLOCK_BYTES,
        zeroBytes: zeroCount * BLOCK_BYTES,
        uniqueBytes: Math.round(uniqueBytes),
        dedupSavedBytes: Math.max(0, mappedCount - firstCount) * BLOCK_BYTES,
        compressionSavedBytes: Math.max(0, Math.round(firstCount * BLOCK_BYTES - firstBytes)),
      });
    }
    const timeMicros = Math.floor(clock.wallMicros());
    const isSampled = survey.scale > 1;
    this.#figures = {
      census: { timeMicros, isSampled, liveBytes: Math.round(liveBytes) },
      volumes,
    };
  }

  /** By branch: frames that it refers to first, and what they take on the disk. */
  async #frameSizes(survey: Survey): Promise<Map<number, typeof NOTHING>> {
    const sizes = new Map<number, typeof NOTHING>();
    const places = await this.#framesByPlace(survey);
    const isExact = places.size <= EXACT_SEGMENTS_MAX && survey.scale === 1;
    const { collector } = this.#options;
    for (const [segment, frames] of places) {
      const exact = isExact ? await collector.frameSizes(segment) : undefined;
      const average = exact === undefined ? await collector.averageFrameBytes(segment) : 0;
      const sharers = new Map<number, number>();
      for (const { offset8 } of frames) sharers.set(offset8, (sharers.get(offset8) ?? 0) + 1);
      for (const { offset8, firstBranch, isUnique } of frames) {
        // A frame of several blocks belongs to those of them that are needed, in equal parts.
        const part = (exact?.bytesOf(offset8) ?? 0) / (sharers.get(offset8) ?? 1);
        const bytes = part || average || BLOCK_BYTES;
        const size = sizes.get(firstBranch) ?? { ...NOTHING };
        size.firstCount += survey.scale;
        size.firstBytes += bytes * survey.scale;
        if (isUnique) size.uniqueBytes += bytes * survey.scale;
        sizes.set(firstBranch, size);
      }
    }
    return sizes;
  }

  /** The counted frames by the segment that they are in now. */
  async #framesByPlace(survey: Survey): Promise<Map<number, CountedFrame[]>> {
    const { relocations } = this.#options;
    const places = new Map<number, CountedFrame[]>();
    for (const { homeSegment, homeOffset8, firstBranch, branch } of survey.frames()) {
      let resolved = relocations.resolve(homeSegment, homeOffset8);
      while (resolved === RELOCATION.NOT_LOADED) {
        await relocations.load(homeSegment, homeOffset8);
        resolved = relocations.resolve(homeSegment, homeOffset8);
      }
      const isHome = resolved !== RELOCATION.FOUND;
      const segment = isHome ? homeSegment : relocations.foundSegment;
      const offset8 = isHome ? homeOffset8 : offset8Of(relocations.foundLow);
      const frames = places.get(segment) ?? [];
      frames.push({ offset8, firstBranch, isUnique: branch >= 0 });
      places.set(segment, frames);
    }
    return places;
  }
}

/** What a collection would free. */
function predictedBytes({ garbageBytes, keptGarbageBytes, coldGainBytes }: Collected): number {
  return garbageBytes - keptGarbageBytes + coldGainBytes;
}

interface CountedFrame {
  readonly offset8: number;
  readonly firstBranch: number;
  readonly isUnique: boolean;
}

const NOTHING = { firstCount: 0, firstBytes: 0, uniqueBytes: 0 };
