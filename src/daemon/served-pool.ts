// SPDX-License-Identifier: Apache-2.0
//
// What the daemon needs of a pool. The pool implements it without knowing (types are structural); tests
// of the daemon's parts bring a small one of their own. The daemon owns the interface because it is the
// one that calls.

import type { StorageError } from "../base/errors.ts";
import type { Moment } from "../base/moment.ts";
import type { BlockDevice, Slab } from "../nbd/block-device.ts";
import type {
  CloneOptions,
  DiffMoment,
  DiffRange,
  DiffSummary,
  DiffVisitor,
  Housekeeping,
  PoolEvent,
  PoolPolicy,
  PoolPolicyChange,
  PoolStatistics,
  ResolvedMoment,
  Retention,
  RetentionPreview,
  SnapshotChange,
  SnapshotOptions,
  SnapshotSummary,
  SnapshotTarget,
  VolumeSettings,
  VolumeSummary,
} from "../pool/types.ts";
import type { ServedHistory } from "./history-operations.ts";
import type { ServedSchedules } from "./schedule-operations.ts";

/** A view of the pool's; each keeps its moment from being let go until it is closed. */
export interface PastView {
  /** Read-only. */
  readonly device: BlockDevice;
  close(): void;
}

/** A pool that knows what differs. */
export interface ServedDiff extends Pick<ServedMoments, "resolve"> {
  /** Throws MOMENT_GONE. */
  diff(
    from: DiffMoment,
    to: DiffMoment,
    range: DiffRange,
    visitor: DiffVisitor,
  ): Promise<DiffSummary>;
}

/** What the daemon needs of a pool's past. */
export interface ServedPast extends Pick<ServedMoments, "snapshots">, ServedDiff {
  openView(moment: ResolvedMoment): Promise<PastView>;
}

/** The moments of a pool, by words and by name. */
export interface ServedMoments {
  /** Pins nothing. Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  resolve(volume: string, moment: Moment): Promise<ResolvedMoment>;
  /** Of one volume or of all, oldest first. Throws VOLUME_NOT_FOUND. */
  snapshots(volume?: string): readonly SnapshotSummary[];
  snapshot(
    targets: readonly SnapshotTarget[],
    options?: SnapshotOptions,
  ): Promise<readonly SnapshotSummary[]>;
  setSnapshot(target: SnapshotTarget, change: SnapshotChange): Promise<SnapshotSummary>;
  renameSnapshot(target: SnapshotTarget, newName: string): Promise<SnapshotSummary>;
  removeSnapshot(target: SnapshotTarget): Promise<SnapshotSummary>;
}

/** Volumes that go on from the past. Requests of a volume that is rewound have ended before. */
export interface ServedBranches {
  clone(
    volume: string,
    moment: Moment,
    newName: string,
    options?: CloneOptions,
  ): Promise<VolumeSummary>;
  rewind(volume: string, moment: Moment): Promise<VolumeSummary>;
  /** With a name, the volume that was removed last comes back under it. */
  undo(volume: string, newName?: string): Promise<VolumeSummary>;
}

export interface ServedPool extends Housekeeping, ServedMoments, ServedBranches, ServedHistory {
  readonly slab: Slab;
  /** Made with the pool; 32 hexadecimal digits. */
  readonly poolId: string;
  /** Of backups. */
  readonly schedules: ServedSchedules;
  volumes(options?: { readonly includesRemoved?: boolean }): readonly VolumeSummary[];
  createVolume(name: string, sizeBytes: number): Promise<VolumeSummary>;
  resizeVolume(name: string, sizeBytes: number): Promise<VolumeSummary>;
  renameVolume(name: string, to: string): Promise<VolumeSummary>;
  removeVolume(name: string): Promise<VolumeSummary>;
  setVolume(name: string, settings: VolumeSettings): Promise<VolumeSummary>;
  /** undefined: it has the pool's from now on. */
  setVolumeRetention(name: string, retention: Retention | undefined): Promise<VolumeSummary>;
  /**
   * What a retention would let go of, of a volume or of the pool; undefined: the volume would have the pool's. May take
   * long. Throws VOLUME_NOT_FOUND, BUSY, POOL_STOPPED, POOL_CORRUPT, LOG_CORRUPT, DISK_IO.
   */
  previewRetention(
    volume: string | undefined,
    retention: Retention | undefined,
  ): Promise<RetentionPreview>;
  /** Throws VOLUME_NOT_FOUND, RANGE_INVALID. */
  mark(name: string, extents: readonly DiffRange[]): Promise<void>;
  /** Throws VOLUME_NOT_FOUND. */
  device(name: string): BlockDevice;
  readonly policy: PoolPolicy;
  setPolicy(change: PoolPolicyChange): Promise<void>;
  /** What comes from a census is as of the last one. */
  stats(): PoolStatistics;
  /** Counts anew; may take long, and is shared by those who ask meanwhile. */
  refreshCensus(): Promise<void>;
  /** Why the pool stopped, once it has. */
  readonly stopCause: StorageError | undefined;
  /** The returned function ends the subscription. */
  onEvent(listener: (event: PoolEvent) => void): () => void;
  flush(): Promise<void>;
  checkpoint(): Promise<void>;
  /** Flushes and closes; the pool can't be used afterwards. */
  close(): Promise<void>;
}
