// SPDX-License-Identifier: Apache-2.0
//
// The control contract as plain JSON types: what the daemon answers over HTTP and what every command
// prints with --json. Units are in the names, times are ISO 8601 in UTC, counters count since the daemon
// started. Fields are only ever added; schemas.ts says the same for OpenAPI, and a test holds real
// answers against it.

import type { ErrorCode, ErrorKind } from "../base/errors.ts";
import type { ChangesJson, HistoryJson } from "./history.ts";
import type { RetentionPreviewStatusJson } from "./retention-preview.ts";
import type {
  ScheduleJson,
  ScheduleKeepJson,
  ScheduleList,
  ScheduleStatisticsJson,
} from "./schedule.ts";

export interface ErrorJson {
  readonly code: ErrorCode;
  readonly kind: ErrorKind;
  readonly message: string;
  readonly hint: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** The body of every answer that is not a success. */
export interface ErrorBody {
  readonly error: ErrorJson;
}

export type PoolStateJson = "open" | "full" | "stopped" | "closed";

export interface PoolJson {
  /** Absolute path. */
  readonly directory: string;
  /** Made with the pool; 32 hexadecimal digits. */
  readonly id: string;
  readonly state: PoolStateJson;
  /** Why the pool stopped. */
  readonly problem?: ErrorJson;
  /** Of the daemon. */
  readonly version: string;
  readonly pid: number;
  readonly startedAt: string;
  readonly ack: "written" | "memory" | "durable";
  readonly logLevel: "debug" | "info" | "warn" | "error";
  /** Where NBD is served, as URIs without an export name. */
  readonly listeners: readonly string[];
  readonly volumeCount: number;
  readonly clientCount: number;
  /** What the pool takes on the disk: log, index and reserve. */
  readonly storedBytes: number;
  /** What storedBytes runs against: --pool-size, or what the file system allows. */
  readonly capacityBytes: number;
  /** What only the past needs, and when that was counted; missing: never since the daemon started. */
  readonly historyBytes?: number;
  readonly historyAt?: string;
  /** The limit that holds; 0: none but the file system's. */
  readonly poolSizeBytes: number;
  /** The limit that the daemon was started with, if any: it holds again after the next start. */
  readonly startedPoolSizeBytes?: number;
  readonly retention: RetentionJson;
  /** When space runs out: history beyond the floor goes, or new data is refused. */
  readonly whenFull: "shorten-history" | "stop-writes";
  /** So much history stays whatever happens. */
  readonly historyFloorMs: number;
  readonly memoryUsedBytes: number;
  readonly memoryLimitBytes: number;
  readonly headLsn: number;
  readonly durableLsn: number;
  /** How often this pool was opened. */
  readonly incarnation: number;
  /** How long the last opening took. */
  readonly recoveryMs: number;
  /** What is wrong with a pool that still serves, in words; empty: nothing. */
  readonly warnings: readonly string[];
}

/** What history is promised, by how far back it reaches; 0: not at all, null: for ever. */
export interface RetentionJson {
  /** Every write. */
  readonly everyWriteMs: number | null;
  /** One moment of each hour, day, week and month. */
  readonly hourlyMs: number | null;
  readonly dailyMs: number | null;
  readonly weeklyMs: number | null;
  readonly monthlyMs: number | null;
}

export interface VolumeJson {
  readonly name: string;
  readonly id: number;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly description: string;
  /** New blocks are compared with what the pool holds already. */
  readonly isDeduplicated: boolean;
  /** New blocks are compressed where that saves space. */
  readonly isCompressed: boolean;
  /** A clone that is removed when its last client has left. */
  readonly isTemporary?: true;
  /** Its own; missing: the pool's. */
  readonly retention?: RetentionJson;
  readonly createdAt: string;
  readonly removedAt?: string;
  readonly clientCount: number;
  /** How clients reach it; empty for a removed volume. */
  readonly uris: readonly string[];
}

export interface VolumeList {
  readonly volumes: readonly VolumeJson[];
}

export interface ActivityJson {
  readonly readCount: number;
  readonly readBytes: number;
  readonly writeCount: number;
  readonly writeBytes: number;
  readonly trimCount: number;
  readonly zeroCount: number;
  readonly flushCount: number;
}

export interface VolumeDetailsJson extends VolumeJson {
  readonly activity: ActivityJson;
  readonly clients: readonly ClientJson[];
  /** Of its backups. */
  readonly schedules: readonly ScheduleJson[];
}

export interface ClientJson {
  readonly id: number;
  /** "127.0.0.1:5123", or "unix:1000" with the peer's uid. */
  readonly address: string;
  readonly unixUid?: number;
  readonly certificateName?: string;
  readonly pskIdentity?: string;
  /** The export as the client named it. */
  readonly export: string;
  readonly volume: string;
  /** Of a client that reads a past moment: the name that always means it ("db@#123"), and its time. */
  readonly view?: { readonly name: string; readonly at: string };
  readonly connectedAt: string;
  readonly requestCount: number;
  readonly readBytes: number;
  readonly writeBytes: number;
}

export interface ClientList {
  readonly clients: readonly ClientJson[];
}

export interface VolumeStatisticsJson extends ActivityJson {
  readonly name: string;
  readonly id: number;
  readonly sizeBytes: number;
  readonly clientCount: number;
  /** By the census: blocks that hold something other than zeros. */
  readonly mappedBytes: number;
  /** By the census: blocks that were written as zeros. */
  readonly zeroBytes: number;
  /** By the census: what the volume takes on the disk that no other live volume shares. */
  readonly uniqueBytes: number;
  /** By the census: of mappedBytes, blocks that share the frame of another block, here or in an older volume. */
  readonly dedupSavedBytes: number;
  /** By the census: of mappedBytes, what compression saves of the others. */
  readonly compressionSavedBytes: number;
  /** Blocks written that were zeros, that were stored already, and those that were stored, as frames. */
  readonly zeroBlockCount: number;
  readonly duplicateBlockCount: number;
  readonly frameCount: number;
  readonly compressedFrameCount: number;
  readonly frameBytes: number;
  /** What is written to it looks as if files were being encrypted; see its history. */
  readonly isSuspicious: boolean;
}

/** What the pool has met of a damaged disk since the daemon started. */
export interface DamageJson {
  /** Blocks that aren't what was written. */
  readonly damagedBlockCount: number;
  /** Pages of the index that couldn't be read; most were rebuilt from the log. */
  readonly damagedPageCount: number;
  /** Requests that ended with an I/O error. */
  readonly failedRequestCount: number;
}

/** Of the pool and the daemon that serves it. */
export interface PoolStatisticsJson extends DamageJson {
  /** Monotone, for rates between two answers. */
  readonly uptimeMs: number;
  readonly state: PoolStateJson;
  readonly storedBytes: number;
  readonly capacityBytes: number;
  /** By the census: what live volumes refer to. The rest of storedBytes is history, garbage, index and reserve. */
  readonly liveBytes: number;
  /** What promised, named or read moments refer to and no live volume does, and when that was counted; missing: never yet. */
  readonly historyBytes?: number;
  readonly historyAt?: string;
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
  readonly recoveryMs: number;
  /** Requests that were refused because the pool was full. */
  readonly refusedRequestCount: number;
  readonly clientCount: number;
  /** Past moments that clients have open. */
  readonly viewCount: number;
  /** Of the daemon's process. */
  readonly residentBytes: number;
  readonly cpuMs: number;
}

/** When what is stored was counted last; figures "by the census" are as of then. */
export interface CensusJson {
  readonly at: string;
  readonly ageMs: number;
  /** Counted in a part of the blocks, and scaled. */
  readonly isSampled: boolean;
}

export interface DedupStatisticsJson {
  /** By the census: mapped blocks that share the frame of another one. */
  readonly savedBytes: number;
  readonly indexMemoryBytes: number;
  readonly indexEntries: number;
  readonly indexEntriesMax: number;
  /** There is more stored than fits: old frames are found through samples. */
  readonly isIndexSampled: boolean;
  readonly indexEvictionCount: number;
  /** Of the segments that were there at the start, those that the index was filled from again, and those still to come. */
  readonly restoredSegmentCount: number;
  readonly unrestoredSegmentCount: number;
  /** Blocks written that were stored already; of them, found by reading the list of a whole segment ahead. */
  readonly hitCount: number;
  readonly prefetchedHitCount: number;
  readonly missCount: number;
  /** What the index promised and the frame didn't hold. */
  readonly staleCount: number;
}

export interface CompressionStatisticsJson {
  /** By the census: what the frames of mapped blocks take less than the blocks. */
  readonly savedBytes: number;
  readonly compressedFrameCount: number;
  readonly incompressibleFrameCount: number;
}

export interface ZeroStatisticsJson {
  /** By the census: blocks that were written as zeros. */
  readonly savedBytes: number;
  /** Blocks written that were all zero. */
  readonly blockCount: number;
}

export interface GcStatisticsJson {
  readonly collectionCount: number;
  readonly freedSegmentCount: number;
  readonly freedBytes: number;
  readonly movedBytes: number;
}

export interface ScrubStatisticsJson {
  readonly completedCount: number;
  readonly checkedBytes: number;
  readonly problemCount: number;
}

/** Counters begin with the start of the daemon. */
export interface StatisticsJson {
  readonly pool: PoolStatisticsJson;
  readonly dedup: DedupStatisticsJson;
  readonly compression: CompressionStatisticsJson;
  readonly zero: ZeroStatisticsJson;
  readonly gc: GcStatisticsJson;
  readonly scrub: ScrubStatisticsJson;
  /** Missing: nothing was counted yet, and what comes from it is 0. */
  readonly census?: CensusJson;
  readonly volumes: readonly VolumeStatisticsJson[];
  readonly schedules: readonly ScheduleStatisticsJson[];
}

/** How far a collection or a scrub is. */
export interface ProgressJson {
  /** In words. */
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What a collection of garbage did, or would do. */
export interface GcReportJson {
  readonly isDryRun: boolean;
  readonly startedAt: string;
  readonly durationMs: number;
  readonly segmentsExamined: number;
  readonly segmentsFreed: number;
  readonly segmentsCompacted: number;
  /** What the pool stored before, and after: with what was written meanwhile, and what the index took. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Of segments that are gone. Of a dry run: so much less would be stored. */
  readonly bytesFreed: number;
  /** Of them, what is stored elsewhere now. */
  readonly bytesMoved: number;
  /** What nothing refers to and no retention promises. */
  readonly garbageBytes: number;
  readonly liveBytes: number;
  /** What holds the rest, largest first. */
  readonly holders: readonly { readonly what: string; readonly bytes: number }[];
  /** Of a dry run: the part of bytesFreed that compressing cold data together would save, by samples. */
  readonly coldGainBytes?: number;
}

export interface GcStatusJson {
  /** Of the collections that were asked for since the daemon started: the number of the newest; 0: none. */
  readonly run: number;
  /** It is under way. */
  readonly isRunning: boolean;
  /** Of the one that runs, be it one that the pool began by itself. */
  readonly progress?: ProgressJson;
  /** Of the newest that was asked for, once it has ended; where none was, of the pool's own. */
  readonly report?: GcReportJson;
  /** Why the newest that was asked for failed. */
  readonly problem?: ErrorJson;
}

export interface ScrubReportJson {
  readonly startedAt: string;
  readonly durationMs: number;
  /** Else it was stopped before it had read everything. */
  readonly isComplete: boolean;
  readonly segmentsChecked: number;
  readonly framesChecked: number;
  readonly bytesChecked: number;
  readonly problemCount: number;
  /** The first of them. */
  readonly problems: readonly {
    readonly code: string;
    readonly message: string;
    readonly data: Readonly<Record<string, unknown>>;
  }[];
}

export interface ScrubStatusJson {
  readonly isRunning: boolean;
  readonly progress?: ProgressJson & { readonly problemCount: number };
  /** Of the last one that ended since the daemon started. */
  readonly report?: ScrubReportJson;
}

/** A moment that was asked for. */
export interface MomentJson {
  /** Its name then. */
  readonly volume: string;
  readonly volumeId: number;
  /** What always means it: "db@#123". */
  readonly stableName: string;
  /** The last record that counts. */
  readonly lsn: number;
  /** The line of history that it is a moment of; rewinds and clones begin new ones. */
  readonly branch: number;
  readonly at: string;
  /** The volume's size then. */
  readonly sizeBytes: number;
  /** What was asked for means another moment each time. */
  readonly isRelative: boolean;
  /** How clients reach it. */
  readonly uris: readonly string[];
}

/** A moment that has a name. */
export interface SnapshotJson {
  /** The volume's name now. */
  readonly volume: string;
  readonly volumeId: number;
  readonly name: string;
  readonly lsn: number;
  readonly at: string;
  /** The volume's size then. */
  readonly sizeBytes: number;
  /** Missing: it stays for ever. */
  readonly expiresAt?: string;
  /** Not removed before it expires, unless the protection is taken off first. */
  readonly isProtected: boolean;
  readonly description: string;
  /** How clients reach it. */
  readonly uris: readonly string[];
}

export interface SnapshotList {
  readonly snapshots: readonly SnapshotJson[];
}

export interface HealthJson {
  /** ok: serves everything; degraded: is full, or has met damage; failing: the pool has stopped. */
  readonly status: "ok" | "degraded" | "failing";
  readonly state: PoolStateJson;
  /** Why it isn't ok, in words. */
  readonly reasons: readonly string[];
  readonly uptimeMs: number;
}

export interface EventJson {
  readonly at: string;
  readonly level: "info" | "warn" | "error";
  /** A constant name: "volume.created". */
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface LsnJson {
  /** Everything up to here is on stable storage. */
  readonly durableLsn: number;
}

export interface Done {
  readonly done: true;
}

/** Input and output of each operation; operations.ts has method, path and schemas. */
export interface OperationTypes {
  getPool: { input: Record<never, never>; output: PoolJson };
  setPool: {
    input: {
      logLevel?: PoolJson["logLevel"];
      poolSizeBytes?: number;
      /** What isn't given stays. */
      retention?: Partial<RetentionJson>;
      whenFull?: PoolJson["whenFull"];
      historyFloorMs?: number;
    };
    output: PoolJson;
  };
  /** fresh: counts what is stored anew before it answers, for some seconds at most. */
  getStatistics: { input: { fresh?: "true" | "false" }; output: StatisticsJson };
  getGc: { input: Record<never, never>; output: GcStatusJson };
  startGc: { input: { isDryRun?: boolean }; output: GcStatusJson };
  getScrub: { input: Record<never, never>; output: ScrubStatusJson };
  startScrub: { input: Record<never, never>; output: ScrubStatusJson };
  stopScrub: { input: Record<never, never>; output: ScrubStatusJson };
  /** Of the volume or the pool; of the retention, what isn't given stays as it is, and null is the pool's. */
  startRetentionPreview: {
    input: { volume?: string | undefined; retention?: Partial<RetentionJson> | null | undefined };
    output: RetentionPreviewStatusJson;
  };
  getRetentionPreview: { input: Record<never, never>; output: RetentionPreviewStatusJson };
  getHealth: { input: Record<never, never>; output: HealthJson };
  listVolumes: { input: { removed?: "true" | "false" }; output: VolumeList };
  createVolume: { input: { name: string; sizeBytes: number }; output: VolumeJson };
  getVolume: { input: { volume: string }; output: VolumeDetailsJson };
  setVolume: {
    input: {
      volume: string;
      isReadOnly?: boolean;
      description?: string;
      isDeduplicated?: boolean;
      isCompressed?: boolean;
      /** What isn't given stays; null: the pool's. */
      retention?: Partial<RetentionJson> | null;
    };
    output: VolumeJson;
  };
  resizeVolume: {
    input: { volume: string; sizeBytes: number; force?: boolean };
    output: VolumeJson;
  };
  renameVolume: { input: { volume: string; to: string }; output: VolumeJson };
  removeVolume: { input: { volume: string }; output: VolumeJson };
  cloneVolume: {
    input: { volume: string; moment?: string; to: string; isTemporary?: boolean };
    output: VolumeJson;
  };
  rewindVolume: {
    input: { volume: string; moment: string; force?: boolean };
    output: VolumeJson;
  };
  /** as: the volume of that name that was removed last comes back under this one. */
  undoVolume: { input: { volume: string; as?: string; force?: boolean }; output: VolumeJson };
  markVolume: {
    input: {
      volume: string;
      extents: readonly { readonly offsetBytes: number; readonly lengthBytes: number }[];
    };
    output: LsnJson;
  };
  resolveMoment: { input: { volume: string; moment: string }; output: MomentJson };
  /** From and to are moments; without, the last day. */
  getHistory: {
    input: { volume: string; from?: string; to?: string; stepMs?: string };
    output: HistoryJson;
  };
  /** Numbers as text, for they travel in the query. */
  getChanges: {
    input: {
      volume: string;
      offset: string;
      length: string;
      from?: string;
      to?: string;
      limit?: string;
    };
    output: ChangesJson;
  };
  listSnapshots: { input: { volume?: string }; output: SnapshotList };
  takeSnapshot: {
    input: {
      targets: readonly { readonly volume: string; readonly name: string }[];
      /** A moment of the past. */
      at?: string;
      keepMs?: number;
      isProtected?: boolean;
      description?: string;
    };
    output: SnapshotList;
  };
  setSnapshot: {
    input: {
      volume: string;
      snapshot: string;
      /** From now on; null: for ever. */
      keepMs?: number | null;
      isProtected?: boolean;
      description?: string;
    };
    output: SnapshotJson;
  };
  renameSnapshot: { input: { volume: string; snapshot: string; to: string }; output: SnapshotJson };
  removeSnapshot: { input: { volume: string; snapshot: string }; output: SnapshotJson };
  listSchedules: { input: Record<never, never>; output: ScheduleList };
  createSchedule: {
    input: {
      name: string;
      volumes: readonly string[];
      target: string;
      everyMs: number;
      keep?: ScheduleKeepJson;
      keyFile?: string;
      passphraseFile?: string;
      limitBytesPerSecond?: number;
    };
    output: ScheduleJson;
  };
  setSchedule: { input: { schedule: string; isPaused: boolean }; output: ScheduleJson };
  runSchedule: { input: { schedule: string }; output: ScheduleJson };
  /** As it was. */
  removeSchedule: { input: { schedule: string }; output: ScheduleJson };
  listClients: { input: Record<never, never>; output: ClientList };
  flush: { input: Record<never, never>; output: LsnJson };
  checkpoint: { input: Record<never, never>; output: LsnJson };
  shutdown: { input: Record<never, never>; output: Done };
}

export type OperationName = keyof OperationTypes;

/** What the daemon offers to its control door. Failures are StorageErrors. */
export type Operations = {
  readonly [name in OperationName]: (
    input: OperationTypes[name]["input"],
  ) => Promise<OperationTypes[name]["output"]>;
};

/** The latest events and those to come; bounded, oldest first. */
export interface EventSource {
  recent(): readonly EventJson[];
  /** Calls back for each event from now on; the returned function ends that. */
  subscribe(listener: (event: EventJson) => void): () => void;
}
