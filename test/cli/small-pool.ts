// SPDX-License-Identifier: Apache-2.0
//
// A pool for tests of the daemon's parts: volumes in memory, without content, log or files. It keeps the
// promises that the parts rely on (names are unique, a removed volume stays listed as removed), and can
// be told to answer late.

import { StorageError } from "../../src/base/errors.ts";
import type { ServedPool } from "../../src/daemon/served-pool.ts";
import type { BlockDevice } from "../../src/nbd/block-device.ts";
import type {
  DamageStatistics,
  PoolEvent,
  PoolPolicy,
  PoolStatistics,
  VolumeSettings,
  VolumeSummary,
} from "../../src/pool/types.ts";

export class SmallPool implements ServedPool {
  readonly slab: ServedPool["slab"] = {
    bytes: new Uint8Array(0),
    allocate: () => -1,
    release: () => {},
  };
  stopCause: StorageError | undefined;
  damage: DamageStatistics = { damagedBlockCount: 0, damagedPageCount: 0, failedRequestCount: 0 };
  /** Awaited before every change; tests replace it to look in between. */
  beforeChange: () => Promise<void> = () => Promise.resolve();
  censusCount = 0;
  policy: PoolPolicy = { retention: { everyWriteMicros: null }, poolSizeBytes: 0 };
  #volumes: VolumeSummary[] = [];

  volumes({
    includesRemoved = false,
  }: {
    includesRemoved?: boolean;
  } = {}): readonly VolumeSummary[] {
    return this.#volumes.filter((volume) => includesRemoved || volume.removedMicros === undefined);
  }

  async createVolume(name: string, sizeBytes: number): Promise<VolumeSummary> {
    await this.beforeChange();
    if (this.volumes().some((volume) => volume.name === name)) {
      throw new StorageError("VOLUME_EXISTS", `volume "${name}": not created: it exists`);
    }
    const id = this.#volumes.length + 1;
    const settings = {
      isReadOnly: false,
      description: "",
      isDeduplicated: true,
      isCompressed: true,
    };
    const volume = { id, name, sizeBytes, createdMicros: 1e15, ...settings };
    this.#volumes.push(volume);
    return volume;
  }

  resizeVolume(name: string, sizeBytes: number): Promise<VolumeSummary> {
    return this.#change(name, { sizeBytes });
  }

  renameVolume(name: string, to: string): Promise<VolumeSummary> {
    return this.#change(name, { name: to });
  }

  removeVolume(name: string): Promise<VolumeSummary> {
    return this.#change(name, { removedMicros: 2e15 });
  }

  async setPolicy(change: Partial<PoolPolicy>): Promise<void> {
    await this.beforeChange();
    this.policy = { ...this.policy, ...change };
  }

  setVolume(name: string, settings: VolumeSettings): Promise<VolumeSummary> {
    return this.#change(name, settings);
  }

  device(name: string): BlockDevice {
    const { sizeBytes, isReadOnly } = this.#find(name);
    const done = (request: { complete(errno: number): void }): void => request.complete(0);
    return {
      sizeBytes,
      isReadOnly,
      canMultiConnect: true,
      extraContexts: [],
      readNow: () => true,
      read: done,
      writeNow: (request) => {
        request.complete(0);
        return true;
      },
      write: done,
      flush: done,
      trim: done,
      writeZeroes: done,
      cache: done,
      blockStatus: done,
    };
  }

  stats(): PoolStatistics {
    const space = {
      mappedBytes: 16384,
      zeroBytes: 8192,
      uniqueBytes: 1024,
      dedupSavedBytes: 12288,
      compressionSavedBytes: 2048,
      zeroBlockCount: 27,
      duplicateBlockCount: 22,
      frameCount: 51,
      compressedFrameCount: 25,
      frameBytes: 11,
    };
    const activity = { readCount: 1, readBytes: 2, writeCount: 3, writeBytes: 4 };
    return {
      state: this.stopCause === undefined ? "open" : "stopped",
      storedBytes: 4096,
      capacityBytes: 1e9,
      segmentCount: 1,
      headLsn: 9,
      durableLsn: 8,
      incarnation: 1,
      batchCount: 3,
      batchBytes: 12,
      frameBytes: 11,
      indexBytes: 10,
      datasyncCount: 2,
      flushCount: 2,
      checkpointCount: 0,
      cacheHitCount: 5,
      cacheMissCount: 6,
      memoryUsedBytes: 7,
      memoryLimitBytes: 8,
      recoveryMicros: 1500,
      refusedRequestCount: 0,
      census: { timeMicros: 1e15, isSampled: false, liveBytes: 2048 },
      dedup: {
        savedBytes: 12288,
        indexMemoryBytes: 1 << 20,
        indexEntries: 21,
        indexEntriesMax: 65536,
        isIndexSampled: false,
        indexEvictionCount: 0,
        hitCount: 22,
        prefetchedHitCount: 3,
        missCount: 23,
        staleCount: 24,
      },
      compression: {
        savedBytes: 2048,
        compressedFrameCount: 25,
        incompressibleFrameCount: 26,
      },
      zero: { savedBytes: 8192, blockCount: 27 },
      gc: { collectionCount: 1, freedSegmentCount: 2, freedBytes: 3, movedBytes: 4 },
      scrub: { completedCount: 5, checkedBytes: 6, problemCount: 0 },
      ...this.damage,
      volumes: this.volumes().map(({ id, name, sizeBytes }) => ({
        ...{ id, name, sizeBytes },
        ...activity,
        ...space,
        trimCount: 5,
        zeroCount: 6,
        flushCount: 7,
      })),
    };
  }

  async refreshCensus(): Promise<void> {
    this.censusCount += 1;
    await this.beforeChange();
  }

  onEvent(_listener: (event: PoolEvent) => void): () => void {
    return () => {};
  }

  flush(): Promise<void> {
    return this.beforeChange();
  }

  checkpoint(): Promise<void> {
    return this.beforeChange();
  }

  async close(): Promise<void> {}

  async #change(name: string, change: Partial<VolumeSummary>): Promise<VolumeSummary> {
    await this.beforeChange();
    const changed = { ...this.#find(name), ...change };
    this.#volumes = this.#volumes.map((volume) => (volume.id === changed.id ? changed : volume));
    return changed;
  }

  #find(name: string): VolumeSummary {
    const found = this.volumes().find((volume) => volume.name === name);
    if (found === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`);
    return found;
  }
}
