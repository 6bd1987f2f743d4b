// SPDX-License-Identifier: Apache-2.0
//
// What a pool takes and what it tells: plain records, shared by the pool and everything above it. They
// stand apart from the pool's code so that the doors and the command line can speak of a pool without
// loading one.

import type { Clock, Directory, Logger, Random } from "../host/ports.ts";

/** When a write is acknowledged (DESIGN, promise 2). FLUSH is always stable storage. */
export type AckMode = "written" | "memory" | "durable";

/** Everything that may be set. Sizes in bytes. */
export interface PoolSettings {
  /** Budget for everything the pool keeps in memory. 256 MiB to 4 GiB; default 1 GiB. */
  readonly memoryBytes: number;
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
}

/** What may be set on a volume, live. */
export interface VolumeSettings {
  readonly isReadOnly?: boolean;
  readonly description?: string;
  readonly isDeduplicated?: boolean;
  readonly isCompressed?: boolean;
}

/** What history is promised. Until a record says otherwise: all of it. */
export interface Retention {
  /** How far back every write can be reached, in µs; 0: history isn't kept, null: it is kept for ever. */
  readonly everyWriteMicros: number | null;
}

/** What may be set on the pool, live; it is part of the pool and holds until it is set again. */
export interface PoolPolicy {
  readonly retention: Retention;
  /** Limit on what the pool stores; 0: as much as the file system has. */
  readonly poolSizeBytes: number;
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
  readonly zeroBlockCount: number;
  readonly cacheHitCount: number;
  readonly cacheMissCount: number;
  readonly memoryUsedBytes: number;
  readonly memoryLimitBytes: number;
  readonly recoveryMicros: number;
  readonly volumes: readonly VolumeStatistics[];
}

export interface VolumeStatistics {
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
}

/** Something an operator may want to know: a state change, never a request. */
export interface PoolEvent {
  readonly timeMicros: number;
  readonly level: "info" | "warn" | "error";
  /** A constant name: "pool.full", "volume.created", "log.segment-sealed". */
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}
