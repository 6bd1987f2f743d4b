// SPDX-License-Identifier: Apache-2.0
//
// A pool: one log, the index over it, and the volumes in it, opened as one.
//
// Opening: what an earlier one left (pool-opening.ts), then a new segment of a new incarnation. From then on the
// pool owns the budgets (memory, space), starts checkpoints, and is the one place where a change of the catalog
// becomes a record.
//
// States: open → (full ↔ open) → stopped (an I/O error; only reading goes on) or closed.

import { assert } from "../base/assert.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { type Moment, stableName } from "../base/moment.ts";
import { checkName } from "../base/names.ts";
import { formatTime } from "../base/units.ts";
import { Collector, type DroppedSegment } from "../gc/collector.ts";
import type { History } from "../gc/history.ts";
import { BlockIndex } from "../index/block-index.ts";
import { ChangeSearch } from "../index/change-search.ts";
import type { Checkpointer } from "../index/checkpointer.ts";
import type { Past } from "../index/past.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { LogTimes } from "../log/log-times.ts";
import { type LogPosition, LogWriter } from "../log/log-writer.ts";
import { encodeJsonRecord, RECORD_KIND } from "../log/record.ts";
import type { RecoveryResult } from "../log/recovery.ts";
import { SEGMENT_BYTES_MAX } from "../log/reference.ts";
import { segmentName } from "../log/segment.ts";
import { SegmentSet } from "../log/segment-set.ts";
import { SharedFrames } from "../log/shared-frame.ts";
import {
  BATCH_BUFFER_BYTES,
  BLOCK_BYTES,
  BlockMemory,
  RAW_FRAME_BYTES,
  shapeOf,
} from "../reduce/block-memory.ts";
import { BlockReducer, type Reduction } from "../reduce/block-reducer.ts";
import { DedupIndex } from "../reduce/dedup-index.ts";
import type { BlockPreparer } from "../reduce/prepared-blocks.ts";
import type { ActivityFeed } from "../volume/activity-feed.ts";
import type { Suspicion } from "../volume/activity-watch.ts";
import { BlockStore } from "../volume/block-store.ts";
import { PromisedRequest } from "../volume/device-request.ts";
import { FingerprintLists, type FingerprintListsOptions } from "../volume/fingerprint-lists.ts";
import { FramePlaces } from "../volume/frame-places.ts";
import { VolumeDevice } from "../volume/volume-device.ts";
import { BackupSchedules } from "./backup-schedules.ts";
import type { Catalog } from "./catalog.ts";
import { checkMarks, type ExtentToMark } from "./catalog-marks.ts";
import { RETENTION_DEFAULT, wholeRetention } from "./catalog-policy.ts";
import type { CatalogRecord, VolumeRecord } from "./catalog-records.ts";
import { newestState, summaryOf, type Volume } from "./catalog-volume.ts";
import { Damage } from "./damage.ts";
import { DedupRestore } from "./dedup-restore.ts";
import type { HistoryKeeper } from "./history-keeper.ts";
import {
  chunkCountOf,
  type HistoryOfPool,
  historyOf,
  needOfPast,
  needOfVolumes,
} from "./history-needs.ts";
import { HOUR_MICROS } from "./history-promise.ts";
import { Housekeeper } from "./housekeeper.ts";
import {
  newIdentity,
  type PoolIdentity,
  poolIdBytes,
  readIdentity,
  writeIdentity,
} from "./identity.ts";
import { noSuchVolume, rangeBackwards } from "./missing-moment.ts";
import { PastView } from "./past-view.ts";
import { PoolContent } from "./pool-content.ts";
import { PoolDiff } from "./pool-diff.ts";
import { PoolMoments } from "./pool-moments.ts";
import { PoolOpening, type SealedSegments } from "./pool-opening.ts";
import { ReachedHistory } from "./reached-history.ts";
import { previewRetention } from "./retention-preview.ts";
import { Scrubber } from "./scrubber.ts";
import { SpaceCensus } from "./space-census.ts";
import { SpaceGuard } from "./space-guard.ts";
import type {
  ChangesAsked,
  CloneOptions,
  DiffMoment,
  DiffRange,
  DiffSummary,
  DiffVisitor,
  GcReport,
  HistoryAsked,
  HousekeepingProgress,
  PoolEvent,
  PoolHost,
  PoolPolicy,
  PoolPolicyChange,
  PoolSettings,
  PoolState,
  PoolStatistics,
  ResolvedMoment,
  Retention,
  RetentionPreview,
  ScrubStatus,
  SnapshotChange,
  SnapshotOptions,
  SnapshotSummary,
  SnapshotTarget,
  VolumeChanges,
  VolumeReduction,
  VolumeSettings,
  VolumeSpace,
  VolumeSummary,
} from "./types.ts";
import { unneededBranches } from "./unneeded-branches.ts";
import { changesOfVolume } from "./volume-changes.ts";
import { historyOfVolume, type VolumeHistory } from "./volume-history.ts";

export const DEFAULT_SETTINGS: PoolSettings = {
  memoryBytes: 1 << 30,
  ack: "written",
  segmentBytes: 64 << 20,
  checkpointChanges: 1 << 20,
};

export const VOLUME_BYTES_MIN: number = 1 << 20;
export const VOLUME_BYTES_MAX: number = 2 ** 46;
const OPEN_FILES_MAX = 256;
const SYNC_WRITE_BYTES: number = 512 << 10;
/** Changes that one request may make besides its blocks. */
const EDGE_CHANGES = 8;
const CHECKPOINT_RETRY_MS = 1000;
const STARVED_LOOK_MS = 100;
/** A new pool has its first moment of an hour so long after its first records. */
const FIRST_BASE_MICROS = 60_000_000;

/** Slab for the doors: what clients' payloads use. */
export interface ClientSlab {
  readonly bytes: Uint8Array;
  allocate(lengthBytes: number): number;
  release(address: number): void;
}

interface RoomWaiter {
  readonly resolve: () => void;
  readonly reject: (error: StorageError) => void;
}

export class Pool {
  readonly #host: PoolHost;
  readonly #settings: PoolSettings;
  readonly #identity: PoolIdentity;
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly dedup: DedupIndex;
  readonly slab: ClientSlab;
  readonly schedules: BackupSchedules;
  readonly isAckedWhenDurable: boolean;
  readonly isAckedAtOnce: boolean;
  readonly #segments: FileStore;
  readonly #runs: FileStore;
  readonly #content: PoolContent;
  readonly #damage: Damage;
  readonly #devices: Map<number, VolumeDevice> = new Map();
  readonly #listeners: Set<(event: PoolEvent) => void> = new Set();
  #roomWaiters: RoomWaiter[] = [];
  // Set once by #start, before anyone else has the pool.
  log!: LogWriter;
  times!: LogTimes;
  blocks!: BlockStore;
  reducer!: BlockReducer;
  lists!: FingerprintLists;
  /** Fills the deduplication index again. */
  dedupRestore!: DedupRestore;
  preparer: BlockPreparer | undefined;
  #checkpointer!: Checkpointer;
  #history!: HistoryKeeper;
  #past!: Past;
  #reached!: ReachedHistory;
  #sealed!: SealedSegments;
  #space!: SpaceGuard;
  #housekeeper!: Housekeeper;
  #census!: SpaceCensus;
  #scrubber!: Scrubber;
  #moments!: PoolMoments;
  #diff!: PoolDiff;
  #shortening: Promise<boolean> | undefined;
  /** No new work is begun in the background. */
  #isClosing = false;
  #isClosed = false;
  #isCheckpointBlocked = false;
  /** Recorded time from which on it must be found out whether the hour needs a checkpoint. */
  #hourEndMicros = 0;
  /** Changes of volumes that the newest checkpoint has, or the one that is being taken. */
  #checkpointedChanges = 0;
  #recovery: RecoveryResult | undefined;
  #recoveryMicros = 0;
  #refusedRequestCount = 0;

  private constructor(host: PoolHost, settings: PoolSettings, identity: PoolIdentity) {
    this.#host = host;
    this.#settings = settings;
    this.#identity = identity;
    this.isAckedWhenDurable = settings.ack === "durable";
    this.isAckedAtOnce = settings.ack === "memory";
    this.memory = new BlockMemory(shapeOf(settings.memoryBytes, settings.dedupMemoryBytes));
    this.#segments = new FileStore(host.log, segmentName, OPEN_FILES_MAX);
    this.#runs = new FileStore(host.log, runName, OPEN_FILES_MAX);
    this.index = new BlockIndex(this.memory, this.#runs);
    this.dedup = new DedupIndex({
      memory: this.memory,
      address: this.memory.dedupAddress,
      lengthBytes: this.memory.shape.dedupBytes,
    });
    this.#content = new PoolContent(this.index, (suspicion) => this.#suspected(suspicion));
    this.#damage = new Damage(host.clock, (level, event, fields) =>
      this.#tell(level, event, fields),
    );
    this.schedules = new BackupSchedules({
      catalog: () => this.#catalog,
      clock: host.clock,
      record: (make) => this.#record(make),
      tell: (level, event, fields) => this.#tell(level, event, fields),
    });
    const { clients, bytes } = this.memory;
    this.slab = {
      bytes,
      allocate: (lengthBytes) => clients.allocate(lengthBytes),
      release: (address) => clients.release(address),
    };
  }

  /** Makes a pool in empty directories and opens it. */
  static async create(host: PoolHost, settings: PoolSettings = DEFAULT_SETTINGS): Promise<Pool> {
    await writeIdentity(host.root, newIdentity(host.random, Math.floor(host.clock.wallMicros())));
    return Pool.open(host, settings);
  }

  /** Opens a pool that no other process has open (the caller holds its lock). */
  static async open(host: PoolHost, settings: PoolSettings = DEFAULT_SETTINGS): Promise<Pool> {
    checkSettings(settings);
    const begin = host.clock.monotoneMicros();
    const pool = new Pool(host, settings, await readIdentity(host.root));
    await pool.#start();
    pool.#recoveryMicros = Math.floor(host.clock.monotoneMicros() - begin);
    return pool;
  }

  // ---- volumes

  volumes(options: { includesRemoved?: boolean } = {}): VolumeSummary[] {
    return this.#catalog.list(options.includesRemoved === true);
  }

  volume(name: string): VolumeSummary {
    return summaryOf(this.#catalog.volumeNamed(name));
  }

  /** The live volume as a block device; the same object for all who ask. */
  device(name: string): VolumeDevice {
    const { id } = this.#catalog.volumeNamed(name);
    const device = this.#devices.get(id);
    assert(device !== undefined, "every live volume has a device");
    return device;
  }

  async createVolume(name: string, sizeBytes: number): Promise<VolumeSummary> {
    checkName("volume", name);
    checkSize(name, sizeBytes);
    await this.#record(() => {
      if (this.#catalog.has(name))
        throw new StorageError("VOLUME_EXISTS", `volume "${name}": not created: it exists`);
      const { nextVolume: id, nextBranch: branch } = this.#catalog;
      return { kind: RECORD_KIND.VOLUME_MADE, body: { id, name, sizeBytes, branch } };
    });
    this.#tell("info", "volume.created", { volume: name, sizeBytes });
    return this.volume(name);
  }

  /** Clients see a new size when they connect again. What a shrink cuts off stays in history. */
  async resizeVolume(name: string, sizeBytes: number): Promise<VolumeSummary> {
    checkSize(name, sizeBytes);
    const before = this.#catalog.volumeNamed(name);
    const hasTail = sizeBytes < before.sizeBytes && sizeBytes % BLOCK_BYTES !== 0;
    const priorLsn = this.log.nextLsn - 1;
    if (hasTail) await this.#zeroTail(name, sizeBytes);
    let fromBytes = 0;
    await this.#record(() => {
      const volume = this.#catalog.volumeNamed(name);
      fromBytes = volume.sizeBytes;
      // What undoing it goes back to.
      const tail = hasTail ? { priorLsn: Math.max(priorLsn, newestState(volume).fromLsn) } : {};
      return { kind: RECORD_KIND.VOLUME_RESIZED, body: { id: volume.id, sizeBytes, ...tail } };
    });
    this.#tell("info", "volume.resized", { volume: name, fromBytes, toBytes: sizeBytes });
    return this.volume(name);
  }

  async renameVolume(name: string, newName: string): Promise<VolumeSummary> {
    checkName("volume", newName);
    await this.#record(() => {
      const { id } = this.#catalog.volumeNamed(name);
      if (this.#catalog.has(newName))
        throw new StorageError(
          "VOLUME_EXISTS",
          `volume "${name}": not renamed: "${newName}" exists`,
        );
      return { kind: RECORD_KIND.VOLUME_SET, body: { id, name: newName } };
    });
    this.#tell("info", "volume.renamed", { volume: name, to: newName });
    return this.volume(newName);
  }

  async setVolume(name: string, settings: VolumeSettings): Promise<VolumeSummary> {
    await this.#record(() => {
      const { id } = this.#catalog.volumeNamed(name);
      return { kind: RECORD_KIND.VOLUME_SET, body: { id, ...settings } };
    });
    this.#tell("info", "volume.set", { volume: name, ...settings });
    return this.volume(name);
  }

  /** undefined: it has the pool's from now on. */
  async setVolumeRetention(name: string, retention: Retention | undefined): Promise<VolumeSummary> {
    const change = retention ?? { isInherited: true as const };
    await this.#record(() => {
      const { id } = this.#catalog.volumeNamed(name);
      return { kind: RECORD_KIND.RETENTION_SET, body: { volume: id, ...change } };
    });
    this.#tell("info", "volume.set", { volume: name, ...change });
    return this.volume(name);
  }

  /**
   * What a retention would let go of: of a volume, or of the pool; undefined: the volume would have the pool's. Throws
   * VOLUME_NOT_FOUND, BUSY when clients wait for space, POOL_STOPPED, POOL_CORRUPT, LOG_CORRUPT, DISK_IO.
   */
  async previewRetention(
    name: string | undefined,
    retention: Retention | undefined,
  ): Promise<RetentionPreview> {
    const cause = this.#refusal();
    if (cause !== undefined) throw cause;
    const volume = name === undefined ? 0 : this.#catalog.volumeNamed(name).id;
    const options = {
      catalog: this.#catalog,
      keeper: this.#history,
      census: this.#census,
      state: () => this.#checkpointer.state,
      newest: () => ({ lsn: this.log.nextLsn - 1, timeMicros: this.log.newestMicros }),
    };
    return previewRetention(options, { volume, retention });
  }

  /** The volume is gone from the live ones; its data stays in history. */
  async removeVolume(name: string): Promise<VolumeSummary> {
    // When this has ended, it may be forgotten already.
    let volume = this.#catalog.volumeNamed(name);
    await this.#whileIdle(volume, () =>
      this.#record(() => {
        volume = this.#catalog.volumeNamed(name);
        return { kind: RECORD_KIND.VOLUME_REMOVED, body: { id: volume.id } };
      }),
    );
    this.#tell("info", "volume.removed", { volume: name });
    return summaryOf(volume);
  }

  // ---- moments

  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  resolve(volume: string, moment: Moment): Promise<ResolvedMoment> {
    return this.#moments.resolve(volume, moment);
  }

  /** The moment as a read-only disk; until it is closed the moment stays. Throws MOMENT_GONE. */
  async openView(moment: ResolvedMoment): Promise<PastView> {
    while (this.#checkpointer.choice !== undefined) await this.#checkpointer.choice;
    return new PastView({ pool: this, history: this.#reached, keeper: this.#history }, moment);
  }

  /** What happened to a volume, live or the last one of that name. Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  async history(name: string, asked: HistoryAsked): Promise<VolumeHistory> {
    const find = (): Volume => {
      const volume = this.#catalog.lastNamed(name);
      if (volume === undefined) throw noSuchVolume(name, this.#catalog);
      return volume;
    };
    find();
    const fromMicros = await this.#moments.timeOf(name, asked.from);
    const toMicros = await this.#moments.timeOf(name, asked.to);
    if (fromMicros > toMicros) throw rangeBackwards(name, asked);
    const { timeline } = this.#content.activity;
    const sources = { catalog: this.#catalog, timeline, reached: this.#reached };
    return historyOfVolume(sources, find(), { ...asked, fromMicros, toMicros });
  }

  /** When a range of the volume changed. Throws as `history` does, and POOL_CORRUPT, DISK_IO. */
  async changes(name: string, asked: ChangesAsked): Promise<VolumeChanges> {
    const fromLsn = (await this.#lsnOf(name, asked.from)) + 1;
    const endLsn = (await this.#lsnOf(name, asked.to)) + 1;
    if (fromLsn > endLsn) throw rangeBackwards(name, asked);
    const { memory, index } = this;
    const volume = this.#catalog.lastNamed(name);
    if (volume === undefined) throw noSuchVolume(name, this.#catalog);
    const unpin = await this.#checkpointer.pinHistory();
    try {
      const search = new ChangeSearch({
        ...{ memory, index, runs: this.#runs },
        state: () => this.#checkpointer.state,
        pause: () => this.nextTurn(),
      });
      const timeOf = (lsn: number): Promise<number | undefined> => this.times.timeOf(lsn);
      return await changesOfVolume(search, volume, { ...asked, fromLsn, endLsn, timeOf });
    } finally {
      unpin();
    }
  }

  /**
   * Tells what differs between two moments, whichever volumes they are of: what `to` has that `from` hasn't. Both are
   * compared as far as the disk at `to` goes. Throws MOMENT_GONE when one was let go since it was resolved.
   */
  diff(
    from: DiffMoment,
    to: DiffMoment,
    range: DiffRange,
    visitor: DiffVisitor,
  ): Promise<DiffSummary> {
    return this.#diff.diff(from, to, range, visitor);
  }

  /** These parts of the live volume count as changed from now on. Throws VOLUME_NOT_FOUND, RANGE_INVALID. */
  async mark(name: string, extents: readonly ExtentToMark[]): Promise<void> {
    await this.#record(() => {
      const volume = this.#catalog.volumeNamed(name);
      checkMarks(volume, extents);
      // Any moment of the line that a branch begins from lies before all that was marked on it.
      const isBegun = this.#catalog.branches.get(volume.branch)?.parent !== 0;
      const oldestLsn = isBegun ? 0 : this.#history.oldestOf(volume);
      const keptLsn = Math.max(0, oldestLsn ?? this.log.nextLsn - 1);
      return { kind: RECORD_KIND.VOLUME_MARKED, body: { id: volume.id, extents, keptLsn } };
    });
    const markedBytes = extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    this.#tell("info", "volume.marked", { volume: name, extentCount: extents.length, markedBytes });
  }

  /** The last record of a moment, whether or not it is there any more. */
  async #lsnOf(name: string, moment: Moment): Promise<number> {
    if (moment.kind === "lsn") return moment.lsn;
    if (moment.kind === "now") return this.log.nextLsn - 1;
    if (moment.kind !== "time" && moment.kind !== "ago")
      return (await this.resolve(name, moment)).lsn;
    const timeMicros = await this.#moments.timeOf(name, moment);
    return (await this.times.atOrBefore(timeMicros))?.lsn ?? 0;
  }

  /** Of one volume, live or removed, or of all; oldest first. Throws VOLUME_NOT_FOUND. */
  snapshots(volume?: string): SnapshotSummary[] {
    return this.#moments.snapshots.list(volume);
  }

  /** Names one moment of all the volumes, or none. */
  snapshot(
    targets: readonly SnapshotTarget[],
    options?: SnapshotOptions,
  ): Promise<SnapshotSummary[]> {
    return this.#moments.snapshots.take(targets, options);
  }

  renameSnapshot(target: SnapshotTarget, newName: string): Promise<SnapshotSummary> {
    return this.#moments.snapshots.rename(target, newName);
  }

  setSnapshot(target: SnapshotTarget, change: SnapshotChange): Promise<SnapshotSummary> {
    return this.#moments.snapshots.set(target, change);
  }

  removeSnapshot(target: SnapshotTarget): Promise<SnapshotSummary> {
    return this.#moments.snapshots.remove(target);
  }

  /** A new volume begins as that one was then. */
  async clone(
    volume: string,
    moment: Moment,
    newName: string,
    { isTemporary = false }: CloneOptions = {},
  ): Promise<VolumeSummary> {
    await this.#moments.branching.clone(volume, moment, { newName, isTemporary });
    return this.volume(newName);
  }

  /** The volume goes on from what it was then; requests that come meanwhile are refused. */
  async rewind(volume: string, moment: Moment): Promise<VolumeSummary> {
    await this.#whileIdle(this.#catalog.volumeNamed(volume), () =>
      this.#moments.branching.rewind(volume, moment),
    );
    return this.volume(volume);
  }

  /** Takes back the last rewind, undo or shrink, or the removal, of a volume; likewise. */
  async undo(volume: string, newName?: string): Promise<VolumeSummary> {
    const undo = () => this.#moments.branching.undo(volume, newName);
    const isLive = this.#catalog.has(volume) && newName === undefined;
    const { name } = await (isLive
      ? this.#whileIdle(this.#catalog.volumeNamed(volume), undo)
      : undo());
    return this.volume(name);
  }

  // ---- the pool as a whole

  get policy(): PoolPolicy {
    const { retention, limits } = this.#catalog;
    return { ...limits, retention, poolSizeBytes: this.#space.poolSizeBytes };
  }

  /** Each setting given is a record of its own; it holds at once. */
  async setPolicy({ retention, ...limits }: PoolPolicyChange): Promise<void> {
    if (retention !== undefined) {
      const body = wholeRetention(retention);
      await this.#record(() => ({ kind: RECORD_KIND.RETENTION_SET, body }));
      this.#tell("info", "pool.set", { ...body });
    }
    if (Object.keys(limits).length > 0) {
      await this.#record(() => ({ kind: RECORD_KIND.POOL_SET, body: limits }));
      this.#tell("info", "pool.set", limits);
    }
  }

  /** Everything ordered so far is on stable storage. Throws DISK_FULL rather than wait for space. */
  flush(): Promise<void> {
    return this.#unlessStarved("pool: not flushed", () => this.log.durable());
  }

  /** Moves the start of recovery to now. Throws DISK_FULL rather than wait for space. */
  checkpoint(): Promise<void> {
    return this.#unlessStarved("pool: no checkpoint taken", () => this.#takeCheckpoint());
  }

  onEvent(listener: (event: PoolEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get state(): PoolState {
    if (this.#isClosed) return "closed";
    if (this.log.stopCause !== undefined) return "stopped";
    return this.#space.isFull ? "full" : "open";
  }

  /** Why the pool stopped, when it did. */
  get stopCause(): StorageError | undefined {
    return this.log.stopCause;
  }

  get poolId(): string {
    return this.#identity.poolId;
  }

  get recovery(): RecoveryResult | undefined {
    return this.#recovery;
  }

  stats(): PoolStatistics {
    const { log, memory, blocks } = this;
    const { figures, history } = this.#census;
    const volumes = this.#catalog.list(false).map(({ id, name, sizeBytes }) => {
      const device = this.#devices.get(id);
      assert(device !== undefined, "every live volume has a device");
      return {
        id,
        name,
        sizeBytes,
        ...(figures?.volumes.get(id) ?? NOT_COUNTED_OF_VOLUME),
        ...reductionOf(device),
        ...device.counters,
        isSuspicious: this.#content.activity.timeline.isSuspicious(device.branch),
      };
    });
    const sum = (bytes: (volume: VolumeSpace) => number): number =>
      volumes.reduce((total, volume) => total + bytes(volume), 0);
    return {
      state: this.state,
      storedBytes: this.#space.storedBytes,
      capacityBytes: this.#space.capacityBytes,
      segmentCount: this.#sealed.count + 1,
      headLsn: log.nextLsn,
      durableLsn: log.durableLsn,
      incarnation: log.incarnation,
      batchCount: log.batchCount,
      batchBytes: log.batchBytes,
      frameBytes: log.frameBytes,
      indexBytes: this.#checkpointer.indexBytes,
      datasyncCount: log.datasyncCount,
      flushCount: volumes.reduce((sum, volume) => sum + volume.flushCount, 0),
      checkpointCount: this.#checkpointer.checkpointCount,
      cacheHitCount: blocks.hitCount,
      cacheMissCount: blocks.missCount,
      memoryUsedBytes:
        memory.totalBytes -
        memory.shape.slotCount * BLOCK_BYTES +
        this.index.slots.usedBytes +
        this.index.directoryBytes,
      memoryLimitBytes: this.#settings.memoryBytes,
      recoveryMicros: this.#recoveryMicros,
      refusedRequestCount: this.#refusedRequestCount,
      ...this.#damage.statistics,
      census: figures?.census,
      history,
      dedup: {
        savedBytes: sum((volume) => volume.dedupSavedBytes),
        indexMemoryBytes: this.dedup.memoryBytes,
        indexEntries: this.dedup.entryCount,
        indexEntriesMax: this.dedup.entryCountMax,
        isIndexSampled: this.dedup.isThinned,
        indexEvictionCount: this.dedup.evictionCount,
        restoredSegmentCount: this.dedupRestore.restoredCount,
        unrestoredSegmentCount: this.dedupRestore.segmentCount - this.dedupRestore.restoredCount,
        hitCount: this.#reduced((reduction) => reduction.duplicateCount),
        prefetchedHitCount: this.reducer.listedCount,
        missCount: this.#reduced((reduction) => reduction.missCount),
        staleCount: this.reducer.staleCount,
      },
      compression: {
        savedBytes: sum((volume) => volume.compressionSavedBytes),
        compressedFrameCount: this.#reduced((reduction) => reduction.compressedCount),
        incompressibleFrameCount: this.#reduced((reduction) => reduction.incompressibleCount),
      },
      zero: {
        savedBytes: sum((volume) => volume.zeroBytes),
        blockCount: this.#reduced((reduction) => reduction.zeroCount),
      },
      gc: this.#housekeeper.statistics,
      scrub: this.#scrubber.statistics,
      volumes,
    };
  }

  // ---- housekeeping

  collect(options: { readonly isDryRun: boolean }): Promise<GcReport> {
    const cause = this.#refusal();
    if (cause !== undefined) return Promise.reject(cause);
    return this.#unlessStarved("pool: nothing collected", () => this.#housekeeper.collect(options));
  }

  get gcProgress(): HousekeepingProgress | undefined {
    return this.#housekeeper.progress;
  }

  get lastGc(): GcReport | undefined {
    return this.#housekeeper.last;
  }

  startScrub(): void {
    const cause = this.#refusal();
    if (cause !== undefined) throw cause;
    this.#scrubber.start();
  }

  stopScrub(): void {
    this.#scrubber.stop();
  }

  scrubStatus(): ScrubStatus {
    return this.#scrubber.status;
  }

  /** Counts anew what live volumes refer to, and now and then what history holds. */
  refreshCensus(): Promise<void> {
    return this.#census.refresh();
  }

  /**
   * Ends the pool: everything durable, a checkpoint, files closed. Requests must have ended before. Throws DISK_FULL
   * when the log found no space for its last records, and after a few seconds went without them.
   */
  async close(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.log.beginClose();
    await this.#moments.snapshots.close();
    await this.#housekeeper.close();
    await this.#census.close();
    await this.#scrubber.close();
    await this.dedupRestore.stop();
    if (this.log.stopCause === undefined && this.log.nextLsn > this.#checkpointer.cutLsn) {
      await this.#takeCheckpoint().catch((error: unknown) => this.#checkpointFailed(error));
    }
    this.#isClosed = true;
    this.#damage.close();
    await this.#space.close();
    try {
      await this.log.close();
    } finally {
      await this.#segments.closeAll();
      await this.#runs.closeAll();
      await this.preparer?.close();
      this.#offerRoom();
    }
  }

  checkInvariants(): void {
    this.log.checkInvariants();
    this.index.checkInvariants();
    this.#catalog.checkInvariants();
  }

  // ---- what devices ask (DevicePool)

  get activity(): ActivityFeed {
    return this.#content.activity;
  }

  /** Frees space that nothing needs, for a write that waits for it. False: there is none. */
  async reclaim(): Promise<boolean> {
    for (;;) {
      if (await this.#housekeeper.reclaim()) return true;
      if (!(await this.#shortenHistory())) break;
    }
    this.#space.nothingFreed();
    return false;
  }

  /** Lets go of the older half of history beyond the floor, where the pool says so when it is full; false: there is none. */
  #shortenHistory(): Promise<boolean> {
    this.#shortening ??= this.#shorten().finally(() => {
      this.#shortening = undefined;
    });
    return this.#shortening;
  }

  async #shorten(): Promise<boolean> {
    const { historyFloorMicros } = this.#catalog.limits;
    const beyondMicros = this.#reachBeyondFloor();
    if (beyondMicros === 0) return false;
    const reachMicros = historyFloorMicros + beyondMicros;
    const before = this.#history.standing;
    let toMicros = reachMicros;
    try {
      // Where no checkpoint stands between there is nothing to begin from; the next half may have one.
      while (this.#history.standing === before && toMicros > historyFloorMicros) {
        toMicros = Math.max(historyFloorMicros, Math.floor(toMicros / 2));
        this.#history.shortenedMicros = toMicros;
        await this.#takeCheckpoint();
      }
    } catch (error) {
      // No room to write down what could go: then it can't.
      if (hasCode(error, "DISK_FULL")) return false;
      throw error;
    } finally {
      this.#history.shortenedMicros = undefined;
    }
    if (this.#history.standing === before) return false;
    this.#tell("warn", "history.shortened", {
      fromMicros: reachMicros,
      toMicros,
      storedBytes: this.#space.storedBytes,
    });
    return true;
  }

  admits(blockCount: number): boolean {
    return blockCount === 0
      ? !this.#space.isStarved
      : this.#space.admits(blockCount * RAW_FRAME_BYTES);
  }

  hasRoom(blockCount: number): boolean {
    if (!this.index.hasRoom(blockCount + EDGE_CHANGES)) {
      this.#checkpointSoon();
      return false;
    }
    return this.log.hasRoom(blockCount);
  }

  room(_blockCount: number): Promise<void> {
    const cause = this.#refusal();
    if (cause !== undefined) return Promise.reject(cause);
    return new Promise((resolve, reject) => this.#roomWaiters.push({ resolve, reject }));
  }

  nextTurn(): Promise<void> {
    return new Promise((resolve) => this.#host.clock.afterInput(resolve));
  }

  report(error: StorageError, branch: number): void {
    if (error.code === "POOL_FULL") this.#refusedRequestCount += 1;
    if (error.code === "POOL_FULL" || error.code === "POOL_STOPPED") return; // told once, as a change of state
    const own = this.index.views.get(branch)?.origin?.branch ?? branch;
    const volume = this.#catalog.volumes.get(this.#catalog.branches.get(own)?.volume ?? 0);
    // A view may have been closed while it was read.
    if (volume !== undefined) this.#damage.requestFailed(error, volume.name);
  }

  // ---- opening

  async #start(): Promise<void> {
    const opening = new PoolOpening({
      host: this.#host,
      memory: this.memory,
      content: this.#content,
      runs: this.#runs,
      identity: this.#identity,
      tell: (level, event, fields) => this.#tell(level, event, fields),
      damage: this.#damage,
      baseDistance: this.#settings.checkpointChanges / 4,
      onRebuilt: () => this.#checkpointSoon(),
    });
    this.#checkpointer = await opening.begin();
    this.#history = opening.history;
    this.#past = opening.past;
    this.#sealed = opening.sealed;
    const position = await opening.replay();
    this.#recovery = opening.recovery;
    const { poolSizeBytes } = this.#settings;
    const { poolSizeBytes: setBytes = 0 } = this.#catalog.limits;
    this.#space = new SpaceGuard({
      directory: this.#host.log,
      clock: this.#host.clock,
      random: this.#host.random,
      poolSizeBytes: poolSizeBytes ?? setBytes,
      segmentBytes: this.#settings.segmentBytes,
      contentBytes: () => this.#contentBytes(),
      mayFree: () => !this.#history.isAll || this.#reachBeyondFloor() > 0,
      onEvent: (level, event, fields) => this.#tell(level, event, fields),
    });
    if (poolSizeBytes !== undefined && setBytes !== 0 && poolSizeBytes !== setBytes)
      this.#tell("info", "pool.size-overridden", { poolSizeBytes, setBytes });
    this.log = await this.#space.orWithoutReserve(() => this.#openLog(position));
    this.#checkpointer.log = this.log;
    this.times = new LogTimes({
      memory: this.memory,
      directory: this.#host.log,
      poolId: poolIdBytes(this.#identity),
      clock: this.#host.clock,
      recentSegments: () => this.log.recentSegments(),
    });
    await opening.cutTails();
    await opening.removeStrayRuns();
    const numbers = await opening.segmentNumbers();
    const segments = new SegmentSet(numbers);
    const places = new FramePlaces(this.index.relocations, segments);
    const shared = new SharedFrames(this.memory, this.#host.zstd);
    this.blocks = new BlockStore({
      memory: this.memory,
      slots: this.index.slots,
      log: this.log,
      segments: this.#segments,
      places,
      shared,
      clock: this.#host.clock,
    });
    this.reducer = new BlockReducer(this.memory, this.dedup, this.blocks);
    this.dedupRestore = this.#makeDedupRestore(position, numbers, segments);
    this.lists = this.#makeLists(places);
    this.#scrubber = this.#makeScrubber();
    const collector = this.#makeCollector(segments, shared);
    this.#housekeeper = this.#makeHousekeeper(collector);
    this.#census = new SpaceCensus({
      collector,
      clock: this.#host.clock,
      catalog: () => this.#catalog,
      alone: (work) => this.#housekeeper.alone(work),
      isBusy: () => this.#housekeeper.isBusy,
      needs: () => [needOfVolumes(this.#catalog), needOfPast(this.#historySources)],
    });
    await this.#space.start();
    for (const volume of this.#catalog.volumes.values()) this.#addDevice(volume);
    await this.log.withRoom(() =>
      this.log.appendEncoded(
        encodeJsonRecord(RECORD_KIND.OPENED, { incarnation: this.log.incarnation }),
      ),
    );
    if (this.#identity.log === "new") {
      const retention = { kind: RECORD_KIND.RETENTION_SET, body: RETENTION_DEFAULT };
      await this.#record(() => retention);
      await writeIdentity(this.#host.root, { ...this.#identity, log: "begun" });
    }
    this.#reached = new ReachedHistory({
      catalog: () => this.#catalog,
      keeper: this.#history,
      past: this.#past,
      state: () => this.#checkpointer.state,
      newest: () => ({ lsn: this.log.nextLsn - 1, timeMicros: this.log.newestMicros }),
    });
    this.#diff = this.#makeDiff(places);
    this.#moments = new PoolMoments({
      clock: this.#host.clock,
      log: this.log,
      times: this.times,
      history: this.#reached,
      catalog: () => this.#catalog,
      record: (make) => this.#record(make),
      tell: (level, event, fields) => this.#tell(level, event, fields),
    });
    this.preparer = this.#host.startPreparer?.(this.memory);
    if (this.#settings.isDedupRestored !== false) this.dedupRestore.begin();
  }

  /** What segments are read with for the deduplication index. */
  get #fingerprints(): Omit<FingerprintListsOptions, "places" | "endOf"> {
    return {
      memory: this.memory,
      directory: this.#host.log,
      poolId: poolIdBytes(this.#identity),
      clock: this.#host.clock,
      index: this.dedup,
      reducer: this.reducer,
      openSegment: () => this.log.segmentNumber,
    };
  }

  #makeDedupRestore(begin: LogPosition, numbers: number[], set: SegmentSet): DedupRestore {
    return new DedupRestore({
      ...this.#fingerprints,
      begin,
      numbers,
      set,
      activity: () => this.log.changeCount + this.blocks.hitCount + this.blocks.missCount,
      tell: (level, event, fields) => this.#tell(level, event, fields),
    });
  }

  #makeLists(places: FramePlaces): FingerprintLists {
    return new FingerprintLists({
      ...this.#fingerprints,
      places,
      endOf: (header) => this.dedupRestore.endOf(header),
    });
  }

  #makeDiff(places: FramePlaces): PoolDiff {
    const { memory, index, blocks, log } = this;
    return new PoolDiff({
      ...{ memory, index, blocks, log, places },
      runs: this.#runs,
      segments: this.#segments,
      segmentSource: {
        ...this.#fingerprints,
        endOf: (header) => this.dedupRestore.endOf(header),
      },
      past: this.#past,
      state: () => this.#checkpointer.state,
      catalog: () => this.#catalog,
      reached: this.#reached,
      keeper: this.#history,
      pinHistory: () => this.#checkpointer.pinHistory(),
      pause: () => this.nextTurn(),
    });
  }

  #makeCollector(set: SegmentSet, shared: SharedFrames): Collector {
    const { clock, log: directory } = this.#host;
    return new Collector({
      memory: this.memory,
      directory,
      poolId: poolIdBytes(this.#identity),
      clock,
      index: this.index,
      runs: this.#runs,
      log: this.log,
      segments: this.#segments,
      set,
      shared,
      past: this.#past,
      chunkCountOf: (branch) => this.#chunkCountOf(branch),
      history: () => this.#promisedHistory(),
      pinHistory: () => this.#checkpointer.pinHistory(),
      pinsSoFar: () => this.#history.pinsSoFar,
      oldestCutSegment: () => this.#checkpointer.oldestCutSegment,
      checkpoint: () => this.#takeCheckpoint(),
      isLive: (branch) => this.#catalog.isCurrent(branch),
      isServed: (branch) => this.#catalog.isServed(branch),
      unneededBranches: () => new Set(unneededBranches(this.#catalog, this.#history).branches),
      forgetBranches: () => this.#forgetBranches(),
      appendDropped: (dropped) => this.#appendDropped(dropped),
      onDropped: ({ freedBytes, isSegment }) => this.#sealed.remove(freedBytes, isSegment),
      isUrgent: () => this.#housekeeper.isReclaiming,
      roomBytes: () => this.#space.roomBytes(),
      checkStopped: () => {
        const cause = this.#refusal();
        if (cause !== undefined) throw cause;
      },
      onProblem: (segment, { code, message }) =>
        this.#tell("error", "gc.segment-kept", { segment, code, message }),
    });
  }

  #makeHousekeeper(collector: Collector): Housekeeper {
    return new Housekeeper({
      collector,
      clock: this.#host.clock,
      catalog: () => this.#catalog,
      promise: () => ({
        isAll: this.#history.isAll,
        standing: this.#history.standing,
      }),
      space: this.#space,
      segmentBytes: this.#settings.segmentBytes,
      writtenBytes: () => this.log.batchBytes,
      changeCount: () => this.log.changeCount,
      onHistoryCounted: (bytes) => this.#census.noteHistory({ bytes, isEstimated: true }),
      tell: (level, event, fields) => this.#tell(level, event, fields),
    });
  }

  #makeScrubber(): Scrubber {
    const { clock, log: directory } = this.#host;
    const { log, blocks } = this;
    return new Scrubber({
      directory,
      clock,
      poolId: poolIdBytes(this.#identity),
      log,
      activity: () => log.nextLsn + blocks.hitCount + blocks.missCount,
      busySharePercent: this.#settings.scrubSharePercent,
      damage: this.#damage,
      nameOf: (branch) => {
        const { volumes, branches } = this.#catalog;
        return volumes.get(branches.get(branch)?.volume ?? 0)?.name;
      },
      tell: (level, event, fields) => this.#tell(level, event, fields),
    });
  }

  /** How much further back history reaches than it must, where a full pool may shorten it: µs. */
  #reachBeyondFloor(): number {
    const { whenFull, historyFloorMicros } = this.#catalog.limits;
    const oldest = this.#reached?.oldestMicros();
    if (whenFull === "stop-writes" || oldest === undefined) return 0;
    return Math.max(0, Math.floor(this.#host.clock.wallMicros()) - oldest - historyFloorMicros);
  }

  #promisedHistory(): History {
    return historyOf(this.#historySources);
  }

  get #historySources(): HistoryOfPool {
    const { state } = this.#checkpointer;
    return { catalog: this.#catalog, keeper: this.#history, state };
  }

  /** How far the volume of a branch reached, at most. */
  #chunkCountOf(branch: number): number {
    const volume = this.#catalog.volumes.get(this.#catalog.branches.get(branch)?.volume ?? 0);
    const sizes = volume?.states.map(({ sizeBytes }) => sizeBytes) ?? [];
    return chunkCountOf(Math.max(0, ...sizes));
  }

  /** What no promised moment needs of removed volumes and left branches is nobody's any more: a record says so. */
  async #forgetBranches(): Promise<void> {
    for (;;) {
      if (this.#checkpointer.isRunning) await this.#checkpointer.take();
      let isDone = true;
      await this.log.withRoom(() => {
        // One that is under way writes what it found.
        if (this.#checkpointer.isRunning) return;
        const body = unneededBranches(this.#catalog, this.#history);
        if (body.branches.length + body.volumes.length === 0) return;
        isDone = false;
        this.#appendRecord({ kind: RECORD_KIND.BRANCHES_FORGOTTEN, body });
      });
      if (isDone) return;
    }
  }

  /** Appends the tombstone of a segment: from then on its frames are elsewhere, or nobody's. */
  #appendDropped(dropped: DroppedSegment): Promise<void> {
    return this.log.withRoom(() => {
      const body = { ...dropped };
      const lsn = this.log.appendEncoded(encodeJsonRecord(RECORD_KIND.SEGMENT_DROPPED, body));
      const isApplied = this.#content.apply(RECORD_KIND.SEGMENT_DROPPED, body, {
        lsn,
        timeMicros: this.log.appendedMicros,
      });
      assert(isApplied, "a tombstone that we append fits");
    });
  }

  #openLog(position: LogPosition): Promise<LogWriter> {
    this.#content.activity.timeline.batchBegan(position.segmentNumber, 0, 0);
    return LogWriter.open({
      memory: this.memory,
      directory: this.#host.log,
      clock: this.#host.clock,
      poolId: poolIdBytes(this.#identity),
      segmentBytes: this.#settings.segmentBytes,
      syncWriteBytes: this.#settings.syncWriteBytes ?? SYNC_WRITE_BYTES,
      position,
      onRoom: () => this.#offerRoom(),
      onWritten: () => this.#written(),
      onSpaceMissing: () => this.#space.spaceMissing(),
      onStopped: (cause) => this.#stopped(cause),
      onFlushed: (branch, lsn, timeMicros) =>
        this.#content.activity.timeline.flushed(branch, lsn, timeMicros),
      onSegmentSealed: (segment) => this.#sealed.add(segment.sizeBytes),
    });
  }

  // ---- records of the catalog

  get #catalog(): Catalog {
    return this.#content.catalog;
  }

  /** Makes a record in a turn in which it can be appended, appends, applies, and makes it durable. */
  async #record<R extends CatalogRecord>(make: () => R): Promise<R> {
    const cause = this.#refusal();
    if (cause !== undefined) throw cause;
    let isWithdrawn = false;
    const changed = await this.#unlessStarved("pool: not changed", () =>
      this.#inTurn(() => (isWithdrawn ? undefined : this.#appendRecord(make()))),
    ).catch((error: unknown) => {
      isWithdrawn = true;
      throw error;
    });
    assert(changed !== undefined, "only a refused change is withdrawn");
    await this.#unlessStarved("pool: changed, but not durable yet", () => this.log.durable());
    return changed;
  }

  /** Does the work in a turn in which the log has room, and no checkpoint is choosing what history needs without it. */
  async #inTurn<T>(work: () => T): Promise<T> {
    for (;;) {
      await this.#checkpointer.choice;
      const done = await this.log.withRoom(() =>
        this.#checkpointer.choice === undefined ? { value: work() } : undefined,
      );
      if (done !== undefined) return done.value;
    }
  }

  /** In one turn; there is room. */
  #appendRecord<R extends CatalogRecord>(record: R): R {
    const body: Readonly<Record<string, unknown>> = { ...record.body };
    const lsn = this.log.appendEncoded(encodeJsonRecord(record.kind, body));
    const timeMicros = this.log.appendedMicros;
    const isApplied = this.#content.apply(record.kind, body, { lsn, timeMicros });
    assert(isApplied, "a record that we append fits the catalog");
    this.#takeEffect(record);
    return record;
  }

  /** What a record of the catalog changes of what runs. */
  #takeEffect({ kind, body }: CatalogRecord): void {
    switch (kind) {
      case RECORD_KIND.MOMENT_NAMED:
        this.#history.notePin();
        return;
      case RECORD_KIND.BRANCHED:
      case RECORD_KIND.VOLUME_RESTORED:
        this.#history.notePin();
        this.#addDevice(this.#volumeOf(body.id));
        return;
      case RECORD_KIND.BRANCHES_FORGOTTEN:
        for (const volume of body.volumes) this.#devices.delete(volume);
        return;
      case RECORD_KIND.VOLUME_MARKED:
      case RECORD_KIND.RETENTION_SET:
      case RECORD_KIND.MOMENT_FORGOTTEN:
      case RECORD_KIND.MOMENT_SET:
      case RECORD_KIND.SCHEDULE_SET:
      case RECORD_KIND.SCHEDULE_REMOVED:
      case RECORD_KIND.SCHEDULE_RAN:
        return;
      case RECORD_KIND.POOL_SET:
        if (body.poolSizeBytes !== undefined) this.#space.poolSizeBytes = body.poolSizeBytes;
        return;
      default:
        this.#addDevice(this.#volumeOf(body.id));
    }
  }

  #volumeOf(id: VolumeRecord["body"]["id"]): Volume {
    const volume = this.#catalog.volumes.get(id);
    assert(volume !== undefined, "a record of a volume names one");
    return volume;
  }

  /** The operator's requests don't wait for space as clients' do: they end with DISK_FULL when there is none at all. */
  async #unlessStarved<T>(refusal: string, work: () => Promise<T>): Promise<T> {
    const refused = (): StorageError =>
      new StorageError("DISK_FULL", `${refusal}: the disk is full, and the reserve is used up`);
    if (this.#space.isStarved) throw refused();
    let isDone = false;
    const done = work().finally(() => {
      isDone = true;
    });
    while (!isDone) {
      const pause = Promise.withResolvers<void>();
      const cancel = this.#host.clock.after(STARVED_LOOK_MS, pause.resolve);
      await Promise.race([done, pause.promise]).finally(cancel);
      if (!isDone && this.#space.isStarved) throw refused();
    }
    return await done;
  }

  /** What lies behind a new, smaller end in the last block must read as zeros if the volume grows again. */
  async #zeroTail(name: string, sizeBytes: number): Promise<void> {
    const device = this.device(name);
    const lengthBytes =
      Math.min(device.sizeBytes, Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES) - sizeBytes;
    if (lengthBytes === 0) return;
    const request = new PromisedRequest({ offsetBytes: sizeBytes, lengthBytes });
    device.writeZeroes(request, { isHoleForbidden: false });
    await request.done;
  }

  /** Does the work while no change of the volume is on its way; what is asked for meanwhile is beyond its end. */
  async #whileIdle<T>(volume: Volume, work: () => Promise<T>): Promise<T> {
    const device = this.#devices.get(volume.id);
    assert(device !== undefined, "every volume has a device");
    device.sizeBytes = 0;
    try {
      while (!device.isIdle) await this.nextTurn();
      return await work();
    } finally {
      // Unless it was replaced: then nobody uses this one again.
      if (this.#devices.get(volume.id) === device) this.#addDevice(volume);
    }
  }

  /** Makes or updates the volume's device. */
  #addDevice(volume: Volume): void {
    const present = this.#devices.get(volume.id);
    const sizeBytes = volume.removedMicros === undefined ? volume.sizeBytes : 0;
    if (present?.branch === volume.branch) {
      present.sizeBytes = sizeBytes;
      present.isReadOnly = volume.isReadOnly;
      setReduction(present, volume);
      return;
    }
    const directory = this.#content.directoryOf(volume);
    const device = new VolumeDevice(this, directory, { sizeBytes, isReadOnly: volume.isReadOnly });
    setReduction(device, volume);
    this.#devices.set(volume.id, device);
    if (present === undefined) return;
    // Whoever has the disk of the old branch still is told that it has no blocks.
    present.sizeBytes = 0;
    Object.assign(device.counters, present.counters);
    Object.assign(device.reduction, present.reduction);
  }

  #reduced(count: (reduction: Reduction) => number): number {
    let sum = 0;
    for (const { reduction } of this.#devices.values()) sum += count(reduction);
    return sum;
  }

  // ---- background

  #written(): void {
    const { checkpointChanges } = this.#settings;
    const isDue =
      this.index.ring.count >= Math.min(checkpointChanges, this.index.ring.capacity / 2) ||
      this.index.relocations.pendingCount >= checkpointChanges ||
      this.log.nextLsn - this.#checkpointer.cutLsn >= checkpointChanges ||
      (this.log.recordedMicros >= this.#hourEndMicros && this.#isHourWithoutBase());
    if (isDue) this.#checkpointSoon();
    this.#moments?.written();
    const stepMicros = this.log.takeClockStep();
    if (stepMicros !== 0) this.#clockStepped(stepMicros);
  }

  /** Something was written in an hour of which a moment is promised, and no checkpoint was taken in it. */
  #isHourWithoutBase(): boolean {
    if (this.log.changeCount === this.#checkpointedChanges) return false;
    const hourOf = (micros: number): number => Math.floor(micros / HOUR_MICROS);
    const hour = hourOf(this.log.recordedMicros);
    const { newest } = this.#checkpointer.state;
    if (newest === undefined && this.#hourEndMicros === 0) {
      // Volumes have just been made, and are about to be filled.
      this.#hourEndMicros = this.log.recordedMicros + FIRST_BASE_MICROS;
      return false;
    }
    const hasBase = newest !== undefined && hourOf(newest.cut.recordedMicros) === hour;
    if (!hasBase && this.#history.hasMoments) return true;
    this.#hourEndMicros = (hour + 1) * HOUR_MICROS;
    return false;
  }

  #clockStepped(stepMicros: number): void {
    this.#tell("warn", "clock.stepped", { stepMicros });
    const record = encodeJsonRecord(RECORD_KIND.CLOCK_STEPPED, { stepMicros });
    this.#host.clock.afterInput(() => {
      if (this.#isClosed || !this.log.hasRoom(0)) return;
      const lsn = this.log.appendEncoded(record);
      const at = { lsn, timeMicros: this.log.appendedMicros };
      this.#content.apply(RECORD_KIND.CLOCK_STEPPED, { stepMicros }, at);
    });
  }

  #checkpointSoon(): void {
    if (
      this.#checkpointer.isRunning ||
      this.#isCheckpointBlocked ||
      this.#isClosed ||
      this.log.stopCause !== undefined
    )
      return;
    this.#takeCheckpoint().catch((error: unknown) => this.#checkpointFailed(error));
  }

  async #takeCheckpoint(): Promise<void> {
    if (!this.#checkpointer.isRunning) this.#checkpointedChanges = this.log.changeCount;
    await this.#checkpointer.take();
    this.#offerRoom();
    if (!this.#isClosing) this.#housekeeper.collectIfDue();
  }

  /** The old checkpoint is still good; try again later. Until then writes go on as long as the ring has room. */
  #checkpointFailed(error: unknown): void {
    if (!(error instanceof StorageError)) throw error;
    if (this.log.stopCause !== undefined || this.#isClosed) return;
    if (hasCode(error, "DISK_FULL")) this.#space.spaceMissing();
    else if (this.#roomWaiters.length > 0) {
      // They wait for room that only a checkpoint makes. Stopped, the pool says so; hanging, it would not.
      this.log.stop(error);
      return;
    }
    this.#tell("error", "pool.checkpoint-failed", { code: error.code, message: error.message });
    this.#isCheckpointBlocked = true;
    this.#host.clock.after(CHECKPOINT_RETRY_MS, () => {
      this.#isCheckpointBlocked = false;
      if (this.#roomWaiters.length > 0) this.#checkpointSoon();
    });
  }

  #stopped(cause: StorageError): void {
    this.#tell("error", "pool.stopped", { code: cause.code, message: cause.message });
    void this.dedupRestore?.stop();
    this.#offerRoom();
  }

  #refusal(): StorageError | undefined {
    if (this.#isClosing) return new StorageError("POOL_STOPPED", "pool: refused: it is closed");
    const cause = this.log.stopCause;
    return cause === undefined
      ? undefined
      : new StorageError("POOL_STOPPED", `pool: refused: it stopped: ${cause.message}`, { cause });
  }

  /** Whoever waits for room looks again, in the order of their coming. */
  #offerRoom(): void {
    const waiters = this.#roomWaiters;
    if (waiters.length === 0) return;
    this.#roomWaiters = [];
    const cause = this.#refusal();
    for (const waiter of waiters) {
      if (cause === undefined) waiter.resolve();
      else waiter.reject(cause);
    }
  }

  #suspected({ branch, lastLsnBefore, lastMicrosBefore, sinceMicros }: Suspicion): void {
    // What a replay comes upon was told when it was written.
    if (this.log === undefined) return;
    const { branches, volumes } = this.#catalog;
    const volume = volumes.get(branches.get(branch)?.volume ?? 0)?.name ?? "";
    this.#tell("warn", "history.suspicious", {
      volume,
      since: formatTime(sinceMicros),
      before: stableName(volume, lastLsnBefore),
      beforeAt: formatTime(lastMicrosBefore),
    });
    // A replay doesn't know what pages were in memory, and may not come to it: a checkpoint remembers.
    this.#checkpointSoon();
  }

  #contentBytes(): number {
    return this.#sealed.bytes + (this.log?.tailBytes ?? 0) + this.#checkpointer.storedBytes;
  }

  #tell(level: PoolEvent["level"], event: string, fields: Readonly<Record<string, unknown>>): void {
    this.#host.logger.log(level, event, fields);
    const told: PoolEvent = {
      timeMicros: Math.floor(this.#host.clock.wallMicros()),
      level,
      event,
      fields,
    };
    for (const listener of this.#listeners) listener(told);
  }
}

function setReduction(device: VolumeDevice, volume: Volume): void {
  device.reduction.isDeduplicated = volume.isDeduplicated;
  device.reduction.isCompressed = volume.isCompressed;
}

/** What only a census knows. */
const NOT_COUNTED_OF_VOLUME = {
  mappedBytes: 0,
  zeroBytes: 0,
  uniqueBytes: 0,
  dedupSavedBytes: 0,
  compressionSavedBytes: 0,
} as const;

function reductionOf({ reduction }: VolumeDevice): VolumeReduction {
  return {
    zeroBlockCount: reduction.zeroCount,
    duplicateBlockCount: reduction.duplicateCount,
    frameCount: reduction.frameCount,
    compressedFrameCount: reduction.compressedCount,
    frameBytes: reduction.frameBytes,
  };
}

function checkSettings(settings: PoolSettings): void {
  assert(
    settings.segmentBytes >= 65536 &&
      settings.segmentBytes + BATCH_BUFFER_BYTES <= SEGMENT_BYTES_MAX,
    "segments are 64 KiB to 126 MiB",
  );
  assert(settings.checkpointChanges >= 16, "checkpoints are further apart than a request");
}

function checkSize(name: string, sizeBytes: number): void {
  if (
    Number.isSafeInteger(sizeBytes) &&
    sizeBytes % 512 === 0 &&
    sizeBytes >= VOLUME_BYTES_MIN &&
    sizeBytes <= VOLUME_BYTES_MAX
  )
    return;
  throw new StorageError(
    "SIZE_INVALID",
    `volume "${name}": size ${sizeBytes} refused: it is not 1 MiB to 64 TiB in steps of 512`,
  );
}
