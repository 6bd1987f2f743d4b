// SPDX-License-Identifier: Apache-2.0
//
// The ports: everything that Varve asks of the machine it runs on. src/host/node/ holds the only real
// implementations, src/sim/ the simulated ones; nothing else touches time, files, sockets or chance.
// So a test can run years of a pool in a second, cut its power between any two steps, and repeat the
// very same run from one seed.
//
// Failures are StorageErrors: DISK_FULL (no space; retrying later may work) and DISK_IO (anything
// else; a failed datasync is final for that file and is never retried).

/** Time. Wall time may jump; monotone time never does. Microseconds, as numbers (safe to year 2255). */
export interface Clock {
  /** Wall time, µs since 1970-01-01 UTC. */
  wallMicros(): number;
  /** Monotone time in µs from an arbitrary origin (the boot of the machine where it can be had). */
  monotoneMicros(): number;
  /** Calls back once after `delayMs`; a later call of the returned function cancels it. */
  after(delayMs: number, callback: () => void): () => void;
  /** Calls back once, after the input that is ready now has been handled (setImmediate). */
  afterInput(callback: () => void): void;
}

/** Chance: for identities and jitter, never for correctness. */
export interface Random {
  fill(bytes: Uint8Array): void;
}

/** Zstandard, in threads where there are some. */
export interface Zstd {
  compress(content: Uint8Array): Promise<Uint8Array>;
  /** The content, of at most `bytesMax` bytes; undefined when the bytes are no such thing. */
  decompress(stored: Uint8Array, bytesMax: number): Promise<Uint8Array | undefined>;
}

/** Threads of this process, where cores can be spared for them. */
export interface Threads {
  readonly count: number;
  /** Runs the module's `run(data)`; shared memory in `data` is shared. */
  start(module: URL, data: unknown): Thread;
}

export interface Thread {
  stop(): Promise<void>;
}

export type LogLevel = "debug" | "info" | "warn" | "error";

/** Structured log. `event` is a constant name like "nbd.client-refused"; fields are plain values. */
export interface Logger {
  log(level: LogLevel, event: string, fields?: Readonly<Record<string, unknown>>): void;
}

/**
 * A directory of files: a pool's log/, for instance. Names are plain (no separators). Creating,
 * removing and renaming are durable only after `sync()`.
 */
export interface Directory {
  list(): Promise<string[]>;
  /** Opens for reading and writing. `create` demands that the file doesn't exist yet (O_EXCL). */
  open(name: string, mode: "read" | "write" | "create"): Promise<DiskFile>;
  remove(name: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Makes creations, removals and renames in this directory durable. */
  sync(): Promise<void>;
  /** Free bytes of the file system for this process. */
  freeBytes(): Promise<number>;
}

/**
 * One open file. Positions and lengths are bytes. Reads return fewer bytes than asked only at the end
 * of the file. Writes write all or throw; what a failed write left behind is unknown, and a write is
 * durable only after a later successful `datasync`.
 */
export interface DiskFile {
  /** A descriptor that reader threads may use; -1 where there is none. */
  readonly descriptor: number;
  sizeBytes(): Promise<number>;
  read(target: Uint8Array, position: number): Promise<number>;
  /** Synchronous read: only for what is known to be in memory, or at start-up. */
  readSync(target: Uint8Array, position: number): number;
  write(source: Uint8Array, position: number): Promise<void>;
  /**
   * Like `write`, but around the operating system's cache where the file system can (O_DIRECT). Position, length
   * and the source's place in memory are multiples of 4096. Left out where there is no such way.
   */
  writeDirect?(source: Uint8Array, position: number): Promise<void>;
  /** Synchronous write into the operating system's cache: the data path's small batches. */
  writeSync(source: Uint8Array, position: number): void;
  /** Makes data and size durable (fdatasync). */
  datasync(): Promise<void>;
  truncate(sizeBytes: number): Promise<void>;
  close(): Promise<void>;
}
