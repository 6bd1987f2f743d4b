// SPDX-License-Identifier: Apache-2.0
//
// Counts what is stored, for statistics: what each volume maps, shares and saves, and how much only the past needs.
//
//   stored = live + history + garbage + index, records, reserve
//
// *History* is what would be garbage if nothing of the past were promised: bytes of frames that a promised, named or read
// moment shows and no volume holds any more. Counting volumes costs a visit of their index; counting history a visit of
// all that is promised, so it is done less often. Collections count it too, and what they find is taken.

import { hasCode } from "../base/errors.ts";
import type { Collector } from "../gc/collector.ts";
import { NO_FRAME_BYTES } from "../gc/frame-bytes.ts";
import type { Need } from "../gc/needs.ts";
import type { Clock } from "../host/ports.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { Catalog } from "./catalog.ts";
import type { Census, HistorySpace, VolumeSpace } from "./types.ts";

export interface SpaceCensusOptions {
  readonly collector: Collector;
  readonly clock: Clock;
  readonly catalog: () => Catalog;
  /** Does the work when no collection is under way, and lets none begin before its end. */
  readonly alone: <T>(work: () => Promise<T>) => Promise<T>;
  /** Whether `alone` would have to wait. */
  readonly isBusy: () => boolean;
  /** What the volumes need, and then what is promised of the past. */
  readonly needs: () => readonly Need[];
}

/** What the last census of the volumes found. */
export interface CensusFigures {
  readonly census: Census;
  readonly volumes: ReadonlyMap<number, VolumeSpace>;
}

const CENSUS_AGE_MICROS = 10_000_000;
const HISTORY_AGE_MICROS = 600_000_000;

export class SpaceCensus {
  readonly #options: SpaceCensusOptions;
  #running: Promise<void> | undefined;
  #figures: CensusFigures | undefined;
  #history: HistorySpace | undefined;

  constructor(options: SpaceCensusOptions) {
    this.#options = options;
  }

  get figures(): CensusFigures | undefined {
    return this.#figures;
  }

  get history(): HistorySpace | undefined {
    return this.#history;
  }

  /** Somebody has counted it on the way. */
  noteHistory({ bytes, isEstimated }: Pick<HistorySpace, "bytes" | "isEstimated">): void {
    const timeMicros = Math.floor(this.#options.clock.wallMicros());
    this.#history = { timeMicros, isEstimated, bytes: Math.round(bytes) };
  }

  /** Counts anew, what wasn't counted a moment ago. */
  refresh(): Promise<void> {
    if (this.#isFresh(this.#figures?.census, CENSUS_AGE_MICROS)) return Promise.resolve();
    this.#running ??= this.#take().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Resolves when nothing is being counted, however it ended. */
  async close(): Promise<void> {
    await this.#running?.catch(() => undefined);
  }

  /**
   * Bytes that each need adds to those before it. Waits for a collection that is under way. Throws BUSY when clients wait
   * for space, POOL_STOPPED, POOL_CORRUPT, DISK_IO.
   */
  count(needsOf: () => readonly Need[]): ReturnType<Collector["neededBytes"]> {
    const { collector, alone } = this.#options;
    return alone(() => collector.neededBytes(needsOf));
  }

  async #take(): Promise<void> {
    await this.#countVolumes();
    // Who wants to see statistics isn't kept waiting for a collection, which counts history itself.
    if (this.#options.isBusy() || this.#isFresh(this.#history, HISTORY_AGE_MICROS)) return;
    try {
      const { bytes, isSampled } = await this.count(this.#options.needs);
      const [, historyBytes = 0] = bytes;
      this.noteHistory({ bytes: historyBytes, isEstimated: isSampled });
    } catch (error) {
      // There are more urgent things to do: another time.
      if (!hasCode(error, "BUSY")) throw error;
    }
  }

  #isFresh(counted: { readonly timeMicros: number } | undefined, ageMicros: number): boolean {
    if (counted === undefined) return false;
    return this.#options.clock.wallMicros() - counted.timeMicros < ageMicros;
  }

  async #countVolumes(): Promise<void> {
    const { collector, clock, catalog } = this.#options;
    const survey = await collector.survey();
    const bytesOf = await collector.frameBytes(survey);
    const volumes = new Map<number, VolumeSpace>();
    let liveBytes = 0;
    for (const { id, branch, removedMicros } of catalog().volumes.values()) {
      if (removedMicros !== undefined) continue;
      const { mappedCount, zeroCount } = survey.of(branch);
      const { firstCount, firstBytes, uniqueBytes } = bytesOf.get(branch) ?? NO_FRAME_BYTES;
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
}
