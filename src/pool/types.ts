// SPDX-License-Identifier: Apache-2.0
//
// What a pool takes and what it tells: plain records, shared by the pool and everything above it. They
// stand apart from the pool's code so that the doors and the command line can speak of a pool without
// loading one.

import type { Moment } from "../base/moment.ts";
import type { Clock, Directory, Logger, Random, Zstd } from "../host/ports.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BlockPreparer } from "../reduce/prepared-blocks.ts";

/** When a write is acknowledged (DESIGN, promise 2). FLUSH is always stable storage. */
export type AckMode = "written" | "memory" | "durable";

/** Everything that may be set. Sizes in bytes. */
export interface PoolSettings {
  /** Budget for everything the pool keeps in memory. 256 MiB to 4 GiB; default 1 GiB. */
  readonly memoryBytes: number;
  /** Of that, for the deduplication index; 0: an eighth. At least 1 MiB, at most half. */
  readonly dedupMemoryBytes?: number;
  /** After a start, what is stored is read into the deduplication index again, in the background; default true. */
  readonly isDedupRestored?: boolean;
  /**
   * Limit on what the pool stores, at least 256 MiB; 0 = as much as the file system has. It goes before what was set
   * on the pool; undefined: what was set on it, else as much as the file system has.
   */
  readonly poolSizeBytes?: number | undefined;
  readonly ack: AckMode;
  /** A segment is sealed at this size: 64 KiB (tests) to 256 MiB; default 64 MiB. */
  readonly segmentBytes: number;
  /** Batches up to this are written synchronously, larger ones through the thread pool; default 512 KiB. */
  readonly syncWriteBytes?: number;
  /** Percent of the time that a scrub takes while clients are served: 1 to 100; default 25. */
  readonly scrubSharePercent?: number;
  /** A checkpoint is taken after so many changed blocks; default 1 Mi. Bounds recovery. */
  readonly checkpointChanges: number;
}

/** The machine that the pool runs on. */
export interface PoolHost {
  /** The pool's directory: pool.json lives here. */
  readonly root: Directory;
  /** The pool's log/ directory. */
  readonly log: Directory;
  readonly clock: Clock;
  readonly random: Random;
  readonly zstd: Zstd;
  /** Hashes and compresses the blocks of large writes beside the event loop, where cores can be spared for it. */
  readonly startPreparer?: (memory: BlockMemory) => BlockPreparer;
  readonly logger: Logger;
}

export interface VolumeSummary {
  readonly id: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdMicros: number;
  /** Set once the volume is removed; its name may be in use by another one. */
  readonly removedMicros?: number;
  readonly isReadOnly: boolean;
  readonly description: string;
  /** New blocks are compared with what the pool holds already. */
  readonly isDeduplicated: boolean;
  /** New blocks are compressed where that saves space. */
  readonly isCompressed: boolean;
  /** A clone that goes when its last client has left. */
  readonly isTemporary?: true;
  /** Its own; undefined: the pool's. */
  readonly retention?: Retention;
}

export interface CloneOptions {
  /** It is to be removed when its last client has left. */
  readonly isTemporary?: boolean;
}

/** What may be set on a volume, live. */
export interface VolumeSettings {
  readonly isReadOnly?: boolean;
  readonly description?: string;
  readonly isDeduplicated?: boolean;
  readonly isCompressed?: boolean;
}

/** What history is promised, by how far back it reaches, in µs; 0: not at all, null: for ever. */
export interface Retention {
  /** Every write. */
  readonly everyWriteMicros: number | null;
  /** One moment of each hour, day, week and month. */
  readonly hourlyMicros: number | null;
  readonly dailyMicros: number | null;
  readonly weeklyMicros: number | null;
  readonly monthlyMicros: number | null;
}

/** A retention as it is asked for: spans that aren't given are 0. */
export type RetentionSpans = Pick<Retention, "everyWriteMicros"> & Partial<Retention>;

/** What may be set on the pool, live; it is part of the pool and holds until it is set again. */
export interface PoolPolicy {
  readonly retention: Retention;
  /** Limit on what the pool stores; 0: as much as the file system has. */
  readonly poolSizeBytes: number;
  /** When space runs out: history beyond the floor goes before it should, or new data is refused. */
  readonly whenFull: "shorten-history" | "stop-writes";
  /** So much history stays whatever happens. */
  readonly historyFloorMicros: number;
}

export type PoolPolicyChange = Partial<Omit<PoolPolicy, "retention">> & {
  readonly retention?: RetentionSpans;
};

/** A moment of a volume that was asked for, found: what a view, a clone or a rewind begins from. */
export interface ResolvedMoment {
  readonly volumeId: number;
  /** Its name then. */
  readonly volume: string;
  readonly branch: number;
  /** The last record that counts. */
  readonly lsn: number;
  readonly timeMicros: number;
  /** Its size then. */
  readonly sizeBytes: number;
  /** What always means this moment: "db@#123". */
  readonly stableName: string;
  /** What was asked for means another moment each time. */
  readonly isRelative: boolean;
}

/** A moment of a volume that has a name. */
export interface SnapshotSummary {
  readonly volumeId: number;
  /** The volume's name now; another volume may have it too, where this one was removed. */
  readonly volume: string;
  readonly name: string;
  readonly lsn: number;
  readonly timeMicros: number;
  /** The volume's size then. */
  readonly sizeBytes: number;
  /** When the name is let go; undefined: never. */
  readonly expiresMicros?: number;
  /** Not removed before it expires, unless the protection is taken off first. */
  readonly isProtected: boolean;
  readonly description: string;
}

/** A name to be given to a moment of a volume, or one that was given. */
export interface SnapshotTarget {
  readonly volume: string;
  readonly name: string;
}

export interface SnapshotOptions {
  /** So long it is kept; undefined: for ever. */
  readonly keepMicros?: number | undefined;
  readonly isProtected?: boolean | undefined;
  readonly description?: string | undefined;
  /** A moment of the past; undefined: now. */
  readonly at?: Moment | undefined;
}

/** What may be changed of a snapshot. */
export interface SnapshotChange {
  /** From now on; null: for ever. */
  readonly keepMicros?: number | null | undefined;
  readonly isProtected?: boolean | undefined;
  readonly description?: string | undefined;
}

export type PoolState = "open" | "full" | "stopped" | "closed";

/** What the pool has met of a damaged disk since it was opened. */
export interface DamageStatistics {
  /** Blocks that were read, or replayed, and aren't what was written. */
  readonly damagedBlockCount: number;
  /** Pages of the index that couldn't be read; most were rebuilt from the log. */
  readonly damagedPageCount: number;
  /** Requests that ended with an I/O error. */
  readonly failedRequestCount: number;
}

export interface PoolStatistics extends DamageStatistics {
  readonly state: PoolState;
  /** What the pool takes on the disk: the log, the runs that either checkpoint needs, and the reserve. */
  readonly storedBytes: number;
  /** The limit that storedBytes runs against: --pool-size, or what the file system allows. */
  readonly capacityBytes: number;
  readonly segmentCount: number;
  readonly headLsn: number;
  readonly durableLsn: number;
  readonly incarnation: number;
  readonly batchCount: number;
  readonly batchBytes: number;
  readonly frameBytes: number;
  readonly indexBytes: number;
  readonly datasyncCount: number;
  readonly flushCount: number;
  readonly checkpointCount: number;
  readonly cacheHitCount: number;
  readonly cacheMissCount: number;
  readonly memoryUsedBytes: number;
  readonly memoryLimitBytes: number;
  readonly recoveryMicros: number;
  /** Requests that were refused because the pool was full. */
  readonly refusedRequestCount: number;
  /** The last count of what is stored; undefined: there was none yet, and what comes from it is 0. */
  readonly census: Census | undefined;
  /** The last count of what history holds, which is made less often. */
  readonly history: HistorySpace | undefined;
  readonly dedup: DedupStatistics;
  readonly compression: CompressionStatistics;
  readonly zero: ZeroStatistics;
  readonly gc: GcStatistics;
  readonly scrub: ScrubStatistics;
  readonly volumes: readonly VolumeStatistics[];
}

/** A count of what the live volumes refer to, made in the background: saved, mapped and unique bytes are as of it. */
export interface Census {
  readonly timeMicros: number;
  /** Counted in a part of the blocks, and scaled. */
  readonly isSampled: boolean;
  /** Bytes on disk of all frames that live volumes refer to. */
  readonly liveBytes: number;
}

/** A count of what history holds: bytes on disk of frames that promised, named or read moments show and no volume holds any more. */
export interface HistorySpace {
  readonly timeMicros: number;
  /** By samples, or by what an average frame of a segment takes. */
  readonly isEstimated: boolean;
  readonly bytes: number;
}

/** What another retention would let go of. */
export interface RetentionPreview {
  /** As of the last record then. */
  readonly timeMicros: number;
  /** What history holds now, and what of it nothing would need any more: bytes on disk of frames. */
  readonly historyBytes: number;
  readonly freedBytes: number;
  /** Counted in a part of the blocks, and scaled. */
  readonly isEstimated: boolean;
  /** Those that the retention would hold for. */
  readonly volumes: readonly PreviewedVolume[];
  /** Hourly, daily … moments of any of them that would go, oldest first: the newest of them, if there are many. */
  readonly goneMoments: readonly { readonly lsn: number; readonly timeMicros: number }[];
  readonly goneMomentCount: number;
  /** Moments that stay all the same: named ones, and those that somebody reads. */
  readonly snapshotCount: number;
  readonly viewCount: number;
  /** Live volumes that began from one of these, and keep what they have of it. */
  readonly cloneCount: number;
  /** More is asked for than there is: what has been let go doesn't come back. */
  readonly isBeyondPast: boolean;
}

export interface PreviewedVolume {
  readonly volume: string;
  readonly volumeId: number;
  readonly isRemoved: boolean;
  /** Removed, and then gone for good. */
  readonly isForgotten: boolean;
  /** From where on every moment can be reached, now and then; undefined: there is no such window. */
  readonly everyWriteFrom: { readonly lsn: number; readonly timeMicros: number } | undefined;
  readonly everyWriteFromThen: { readonly lsn: number; readonly timeMicros: number } | undefined;
  /** Hourly, daily … moments before that, now and then. */
  readonly keptCount: number;
  readonly keptCountThen: number;
  readonly goneCount: number;
}

export interface DedupStatistics {
  /** By the census: bytes of mapped blocks that share the frame of another one. */
  readonly savedBytes: number;
  readonly indexMemoryBytes: number;
  readonly indexEntries: number;
  /** What fits; beyond it the index is sampled. */
  readonly indexEntriesMax: number;
  readonly isIndexSampled: boolean;
  /** Entries that were pushed out by others. */
  readonly indexEvictionCount: number;
  /** Of the segments that were there at the start, those that the index was filled from again, and those still to come. */
  readonly restoredSegmentCount: number;
  readonly unrestoredSegmentCount: number;
  /** Blocks written that were stored already; part of them by what was read ahead of a whole segment. */
  readonly hitCount: number;
  readonly prefetchedHitCount: number;
  /** Blocks that were looked for and not found. */
  readonly missCount: number;
  /** What the index promised and the frame didn't hold. */
  readonly staleCount: number;
}

export interface CompressionStatistics {
  /** By the census: what the frames of mapped blocks take less than the blocks in them. */
  readonly savedBytes: number;
  /** Frames written that were kept compressed. */
  readonly compressedFrameCount: number;
  /** Frames written as they were, of volumes that are compressed. */
  readonly incompressibleFrameCount: number;
}

export interface ZeroStatistics {
  /** By the census: blocks that were written as zeros, which take no frame. */
  readonly savedBytes: number;
  /** Blocks written that were all zero. */
  readonly blockCount: number;
}

/** Of all collections since the pool was opened. */
export interface GcStatistics {
  readonly collectionCount: number;
  readonly freedSegmentCount: number;
  readonly freedBytes: number;
  /** Frames that were moved so that their segments could go. */
  readonly movedBytes: number;
}

/** Of all scrubs since the pool was opened. */
export interface ScrubStatistics {
  readonly completedCount: number;
  readonly checkedBytes: number;
  readonly problemCount: number;
}

/** Space of a volume, by the census. */
export interface VolumeSpace {
  /** Blocks that hold something other than zeros. */
  readonly mappedBytes: number;
  /** Blocks that were written as zeros. */
  readonly zeroBytes: number;
  /** Bytes on disk of frames that no other live volume refers to. */
  readonly uniqueBytes: number;
  /** Of mappedBytes: blocks whose frame another block holds already, here or in a volume that was made earlier. */
  readonly dedupSavedBytes: number;
  /** Of mappedBytes: what compression saves of the others. */
  readonly compressionSavedBytes: number;
}

/** What became of the blocks that were written to a volume. */
export interface VolumeReduction {
  readonly zeroBlockCount: number;
  readonly duplicateBlockCount: number;
  readonly frameCount: number;
  readonly compressedFrameCount: number;
  /** Bytes of the frames, with their headers. */
  readonly frameBytes: number;
}

export interface VolumeStatistics extends VolumeSpace, VolumeReduction {
  readonly name: string;
  readonly id: number;
  readonly sizeBytes: number;
  readonly readCount: number;
  readonly readBytes: number;
  readonly writeCount: number;
  readonly writeBytes: number;
  readonly trimCount: number;
  readonly zeroCount: number;
  readonly flushCount: number;
  /** What is written to it looks as if files were being encrypted. */
  readonly isSuspicious: boolean;
}

/** Which part of a volume's history is asked for. */
export interface HistoryAsked {
  readonly from: Moment;
  readonly to: Moment;
  /** Undefined: as many lines as can be looked over. */
  readonly stepMicros: number | undefined;
}

/** Which changes of a volume are asked for: behind the moment `from`, up to the moment `to`. */
export interface ChangesAsked {
  readonly from: Moment;
  readonly to: Moment;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly limit: number;
}

/** A record that changed something in a range: from the first of its bytes there to the last. */
export interface VolumeChange {
  readonly lsn: number;
  readonly timeMicros: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** The volume went on from another moment: everything may have changed. */
  readonly isBranch: boolean;
}

export interface VolumeChanges {
  readonly volume: string;
  /** Newest first. */
  readonly changes: readonly VolumeChange[];
  /** There are older ones. */
  readonly isMore: boolean;
  /** Of what came before nothing is known. */
  readonly knownFromLsn: number;
}

/** What the later moment has where it differs: stored data, zeros that were written, or nothing. */
export type DiffKind = "data" | "zero" | "hole";

/** A moment that is compared with another. */
export type DiffMoment = Pick<ResolvedMoment, "volume" | "branch" | "lsn" | "sizeBytes">;

/** What of a volume is compared; as far as the later moment's disk goes. */
export interface DiffRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Told what differs, in order. */
export interface DiffVisitor {
  /** Extents of one kind don't touch each other. False: this one was the last that is wanted. */
  extent(offsetBytes: number, lengthBytes: number, kind: DiffKind): boolean;
  /** So many are wanted, at most: then no more is looked up at once. */
  readonly extentsMax?: number;
  /** Called again and again; ends when more can be taken. */
  readonly room?: () => Promise<void> | undefined;
}

export interface DiffSummary {
  /** Of the disks at both moments. What the later one has behind the end of the other is compared with nothing. */
  readonly fromSizeBytes: number;
  readonly toSizeBytes: number;
  /** What was told. */
  readonly extentCount: number;
  readonly dataBytes: number;
  readonly zeroBytes: number;
  readonly holeBytes: number;
  /** Of them, what counts as changed because damage keeps from telling whether it is. */
  readonly untoldBytes: number;
  /** Where to go on; undefined: everything was told. */
  readonly nextOffsetBytes: number | undefined;
}

/** How far a collection or a scrub is, over all that it has to do. */
export interface HousekeepingProgress {
  /** In words: "counting what is live". */
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Why bytes stay: "live volumes", "retention: every write of the last 24 h". */
export interface GcHolder {
  readonly what: string;
  readonly bytes: number;
}

/** What a collection did, or with isDryRun would do. */
export interface GcReport {
  readonly isDryRun: boolean;
  readonly startedMicros: number;
  readonly durationMicros: number;
  readonly segmentsExamined: number;
  /** Their files are gone: those that held nothing any more, and those that were compacted. */
  readonly segmentsFreed: number;
  /** Their live frames were moved. */
  readonly segmentsCompacted: number;
  /** What the pool stored before, and after: with what was written meanwhile, and what the index took. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Of segments that are gone, with what was moved out of them. Of a dry run: so much less would be stored. */
  readonly bytesFreed: number;
  /** What that took where it is now: the pool stores so much less as bytesFreed is more than this. */
  readonly bytesMoved: number;
  /** What nothing refers to and no retention promises, of what was examined; freed or not. */
  readonly garbageBytes: number;
  readonly liveBytes: number;
  /** What holds the rest, largest first. */
  readonly holders: readonly GcHolder[];
  /** Of a dry run: the part of bytesFreed that compressing cold data together would save, by samples. */
  readonly coldGainBytes?: number;
}

/** Damage that a scrub found. */
export interface ScrubProblem {
  readonly code: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface ScrubReport {
  readonly startedMicros: number;
  readonly durationMicros: number;
  /** Else it was stopped before it had read everything. */
  readonly isComplete: boolean;
  readonly segmentsChecked: number;
  readonly framesChecked: number;
  readonly bytesChecked: number;
  readonly problemCount: number;
  /** The first of them. */
  readonly problems: readonly ScrubProblem[];
}

export interface ScrubStatus {
  /** Of the scrub that runs; undefined: none does. */
  readonly progress: (HousekeepingProgress & { readonly problemCount: number }) | undefined;
  /** Of the last one that ended since the pool was opened. */
  readonly report: ScrubReport | undefined;
}

/** What a pool does to itself in the background. */
export interface Housekeeping {
  /**
   * Collects garbage now; while a collection runs, waits for its end first, or takes part in it. Throws POOL_STOPPED,
   * DISK_FULL, DISK_IO.
   */
  collect(options: { readonly isDryRun: boolean }): Promise<GcReport>;
  /** Of the collection that runs, asked for or not. */
  readonly gcProgress: HousekeepingProgress | undefined;
  /** Of the last collection that ended, dry runs left out. */
  readonly lastGc: GcReport | undefined;
  /** Begins to read and verify all that is stored; nothing when a scrub runs. Throws POOL_STOPPED. */
  startScrub(): void;
  /** Ends it, soon; what it found until then stays in the report. */
  stopScrub(): void;
  scrubStatus(): ScrubStatus;
}

/** Something an operator may want to know: a state change, never a request. */
export interface PoolEvent {
  readonly timeMicros: number;
  readonly level: "info" | "warn" | "error";
  /** A constant name: "pool.full", "volume.created", "log.segment-sealed". */
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}
