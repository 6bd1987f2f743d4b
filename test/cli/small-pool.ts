// SPDX-License-Identifier: Apache-2.0
//
// A pool for tests of the daemon's parts: volumes in memory, without content, log or files. It keeps the
// promises that the parts rely on (names are unique, a removed volume stays listed as removed), and can
// be told to answer late.

import { StorageError } from "../../src/base/errors.ts";
import { isRelative, type Moment, stableName } from "../../src/base/moment.ts";
import type { ServedPool } from "../../src/daemon/served-pool.ts";
import { createClock } from "../../src/host/node/clock.ts";
import type { Clock } from "../../src/host/ports.ts";
import { RECORD_KIND } from "../../src/log/record.ts";
import type { BlockDevice } from "../../src/nbd/block-device.ts";
import { BackupSchedules } from "../../src/pool/backup-schedules.ts";
import {
  LIMITS_DEFAULT,
  RETENTION_DEFAULT,
  wholeRetention,
} from "../../src/pool/catalog-policy.ts";
import type { ScheduleRecord } from "../../src/pool/catalog-records.ts";
import { CatalogSchedules } from "../../src/pool/catalog-schedules.ts";
import type {
  ChangesAsked,
  CloneOptions,
  DamageStatistics,
  GcReport,
  HistoryAsked,
  HousekeepingProgress,
  PoolEvent,
  PoolPolicy,
  PoolPolicyChange,
  PoolStatistics,
  ResolvedMoment,
  Retention,
  RetentionPreview,
  ScrubReport,
  ScrubStatus,
  SnapshotChange,
  SnapshotOptions,
  SnapshotSummary,
  SnapshotTarget,
  VolumeChanges,
  VolumeSettings,
  VolumeSummary,
} from "../../src/pool/types.ts";
import type { VolumeHistory } from "../../src/pool/volume-history.ts";
import { ActivityBucket } from "../../src/volume/activity-bucket.ts";

const GC_REPORT: GcReport = {
  isDryRun: false,
  startedMicros: 1e15,
  durationMicros: 1_500_000,
  segmentsExamined: 10,
  segmentsFreed: 4,
  segmentsCompacted: 3,
  bytesBefore: 640 << 20,
  bytesAfter: 420 << 20,
  bytesFreed: 256 << 20,
  bytesMoved: 32 << 20,
  garbageBytes: 300 << 20,
  liveBytes: 200 << 20,
  holders: [
    { what: "live volumes", bytes: 200 << 20 },
    { what: "history: what only the past needs", bytes: 140 << 20 },
  ],
};

const PREVIEW: RetentionPreview = {
  timeMicros: 1e15,
  historyBytes: 140 << 20,
  freedBytes: 40 << 20,
  isEstimated: false,
  volumes: [
    {
      volume: "db",
      volumeId: 1,
      isRemoved: false,
      isForgotten: false,
      everyWriteFrom: { lsn: 2, timeMicros: 1e15 - 86_400e6 },
      everyWriteFromThen: { lsn: 7, timeMicros: 1e15 - 3600e6 },
      keptCount: 3,
      keptCountThen: 1,
      goneCount: 2,
    },
  ],
  goneMoments: [
    { lsn: 3, timeMicros: 1e15 - 40_000e6 },
    { lsn: 5, timeMicros: 1e15 - 20_000e6 },
  ],
  goneMomentCount: 2,
  snapshotCount: 1,
  viewCount: 0,
  cloneCount: 2,
  isBeyondPast: false,
};

const SCRUB_REPORT: ScrubReport = {
  startedMicros: 1e15,
  durationMicros: 2_000_000,
  isComplete: true,
  segmentsChecked: 10,
  framesChecked: 1000,
  bytesChecked: 640 << 20,
  problemCount: 0,
  problems: [],
};

export class SmallPool implements ServedPool {
  readonly slab: ServedPool["slab"] = {
    bytes: new Uint8Array(0),
    allocate: () => -1,
    release: () => {},
  };
  readonly poolId: string = "0123456789abcdef0123456789abcdef";
  stopCause: StorageError | undefined;
  damage: DamageStatistics = { damagedBlockCount: 0, damagedPageCount: 0, failedRequestCount: 0 };
  /** Awaited before every change; tests replace it to look in between. */
  beforeChange: () => Promise<void> = () => Promise.resolve();
  censusCount = 0;
  gcProgress: HousekeepingProgress | undefined;
  lastGc: GcReport | undefined;
  /** What the next scrub finds. */
  scrubProblems: ScrubReport["problems"] = [];
  historySpace: PoolStatistics["history"] = { timeMicros: 1e15, isEstimated: false, bytes: 1024 };
  /** Retentions that were asked about. */
  readonly wishes: (Retention | undefined)[] = [];
  preview: RetentionPreview = PREVIEW;
  scrub: ScrubStatus = { progress: undefined, report: undefined };
  policy: PoolPolicy = { ...LIMITS_DEFAULT, retention: RETENTION_DEFAULT, poolSizeBytes: 0 };
  readonly schedules: BackupSchedules;
  readonly #schedules = new CatalogSchedules();
  #volumes: VolumeSummary[] = [];
  #snapshots: SnapshotSummary[] = [];

  constructor(clock: Clock = createClock()) {
    this.schedules = new BackupSchedules({
      catalog: () => ({
        schedules: this.#schedules,
        volumeNamed: (name) => this.#find(name),
        volumes: { get: (id) => this.#volumes.find((volume) => volume.id === id) },
      }),
      clock,
      record: async (make) => this.#record(make()),
      tell: () => {},
    });
  }

  #record({ kind, body }: ScheduleRecord): void {
    if (kind === RECORD_KIND.SCHEDULE_SET) this.#schedules.set({ ...body });
    else if (kind === RECORD_KIND.SCHEDULE_REMOVED) this.#schedules.removed({ ...body });
    else this.#schedules.ran({ ...body });
  }

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

  async setPolicy({ retention, ...limits }: PoolPolicyChange): Promise<void> {
    await this.beforeChange();
    this.policy = { ...this.policy, ...limits };
    if (retention !== undefined)
      this.policy = { ...this.policy, retention: wholeRetention(retention) };
  }

  setVolume(name: string, settings: VolumeSettings): Promise<VolumeSummary> {
    return this.#change(name, settings);
  }

  setVolumeRetention(name: string, retention: Retention | undefined): Promise<VolumeSummary> {
    return this.#change(name, { retention: retention as Retention });
  }

  /** Lasts until `beforeChange` resolves. */
  async previewRetention(
    _volume: string | undefined,
    retention: Retention | undefined,
  ): Promise<RetentionPreview> {
    this.wishes.push(retention);
    await this.beforeChange();
    return this.preview;
  }

  /** Every moment is #7, a second after the pool's begin. */
  async resolve(name: string, moment: Moment): Promise<ResolvedMoment> {
    const volume = this.volumes().find((one) => one.name === name);
    if (volume === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`);
    const { id: volumeId, sizeBytes } = volume;
    const place = { lsn: 7, timeMicros: 1e15 + 1e6, branch: volumeId };
    const names = { volume: name, stableName: stableName(name, 7) };
    return { volumeId, ...names, ...place, sizeBytes, isRelative: isRelative(moment) };
  }

  snapshots(volume?: string): readonly SnapshotSummary[] {
    return this.#snapshots.filter((one) => volume === undefined || one.volume === volume);
  }

  async snapshot(
    targets: readonly SnapshotTarget[],
    {
      at = { kind: "now" },
      keepMicros,
      isProtected = false,
      description = "",
    }: SnapshotOptions = {},
  ): Promise<readonly SnapshotSummary[]> {
    const taken: SnapshotSummary[] = [];
    for (const { volume, name } of targets) {
      const { volumeId, sizeBytes, lsn, timeMicros } = await this.resolve(volume, at);
      const expires = keepMicros === undefined ? {} : { expiresMicros: timeMicros + keepMicros };
      const plain = { volumeId, volume, name, lsn, timeMicros, sizeBytes };
      taken.push({ ...plain, ...expires, isProtected, description });
    }
    this.#snapshots.push(...taken);
    return taken;
  }

  async setSnapshot(
    target: SnapshotTarget,
    { isProtected, description }: SnapshotChange,
  ): Promise<SnapshotSummary> {
    const found = this.#snapshot(target);
    return {
      ...found,
      isProtected: isProtected ?? found.isProtected,
      description: description ?? found.description,
    };
  }

  async renameSnapshot(target: SnapshotTarget, newName: string): Promise<SnapshotSummary> {
    return { ...this.#snapshot(target), name: newName };
  }

  async removeSnapshot(target: SnapshotTarget): Promise<SnapshotSummary> {
    return this.#snapshot(target);
  }

  async mark(name: string): Promise<void> {
    await this.beforeChange();
    this.device(name);
  }

  async clone(
    _volume: string,
    _moment: Moment,
    newName: string,
    { isTemporary = false }: CloneOptions = {},
  ): Promise<VolumeSummary> {
    const volume = await this.createVolume(newName, 1 << 20);
    return isTemporary ? this.#change(volume.name, { isTemporary: true }) : volume;
  }

  rewind(volume: string, _moment: Moment): Promise<VolumeSummary> {
    return this.#change(volume, {});
  }

  undo(volume: string, _newName?: string): Promise<VolumeSummary> {
    return this.#change(volume, {});
  }

  #snapshot({ volume, name }: SnapshotTarget): SnapshotSummary {
    const found = this.snapshots(volume).find((one) => one.name === name);
    if (found !== undefined) return found;
    throw new StorageError("MOMENT_NOT_FOUND", `moment "${volume}@${name}": not found`);
  }

  device(name: string): BlockDevice {
    const { sizeBytes, isReadOnly } = this.#find(name);
    const done = (request: { complete(errno: number): void }): void => request.complete(0);
    return {
      sizeBytes,
      isReadOnly,
      canMultiConnect: true,
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
      history: this.historySpace,
      dedup: {
        savedBytes: 12288,
        indexMemoryBytes: 1 << 20,
        indexEntries: 21,
        indexEntriesMax: 65536,
        isIndexSampled: false,
        indexEvictionCount: 0,
        restoredSegmentCount: 3,
        unrestoredSegmentCount: 0,
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
        isSuspicious: false,
      })),
    };
  }

  async history(volume: string, { stepMicros }: HistoryAsked): Promise<VolumeHistory> {
    const line = new ActivityBucket(1_020_000_000, 60_000_000);
    line.note(5, 1_020_000_005);
    const place = { lsn: 5, timeMicros: 1_020_000_005 };
    return {
      volume,
      fromMicros: 1e9,
      toMicros: 2e9,
      stepMicros: stepMicros ?? 60_000_000,
      lines: [line],
      names: [{ ...place, name: "v1" }],
      marks: [
        { ...place, kind: "created" },
        { ...place, kind: "rewind", parentLsn: 3 },
        { ...place, kind: "removed" },
        { ...place, kind: "resized", fromBytes: 1, toBytes: 2 },
        { ...place, kind: "renamed", from: "a", to: "b" },
        { ...place, kind: "cloned", to: "c", parentLsn: 4 },
      ],
      everyWriteFrom: place,
      kept: [place],
      hole: { from: place, to: place },
      clockSteps: [{ ...place, stepMicros: -1e6 }],
      suspicions: [
        {
          branch: 1,
          lastLsnBefore: 4,
          lastMicrosBefore: 1e9,
          sinceMicros: 1e9,
          noticedLsn: 5,
          noticedMicros: 1e9,
        },
      ],
    };
  }

  async changes(
    volume: string,
    { offsetBytes, lengthBytes }: ChangesAsked,
  ): Promise<VolumeChanges> {
    const change = { lsn: 5, timeMicros: 1_020_000_005, offsetBytes, lengthBytes, isBranch: false };
    return { volume, changes: [change], isMore: false, knownFromLsn: 1 };
  }

  /** Lasts until `beforeChange` resolves. */
  async collect({ isDryRun }: { isDryRun: boolean }): Promise<GcReport> {
    this.gcProgress = { phase: "counting what is live", doneBytes: 1024, totalBytes: 4096 };
    try {
      await this.beforeChange();
      const report = { ...GC_REPORT, isDryRun, ...(isDryRun ? { coldGainBytes: 64 << 20 } : {}) };
      if (!isDryRun) this.lastGc = report;
      return report;
    } finally {
      this.gcProgress = undefined;
    }
  }

  startScrub(): void {
    const progress = { phase: "verifying", doneBytes: 1024, totalBytes: 4096, problemCount: 0 };
    this.scrub = { ...this.scrub, progress };
    void this.beforeChange().then(() => this.#endScrub(true));
  }

  stopScrub(): void {
    this.#endScrub(false);
  }

  scrubStatus(): ScrubStatus {
    return this.scrub;
  }

  #endScrub(isComplete: boolean): void {
    if (this.scrub.progress === undefined) return;
    const found = this.scrubProblems;
    const report = { ...SCRUB_REPORT, isComplete, problems: found, problemCount: found.length };
    this.scrub = { progress: undefined, report };
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
