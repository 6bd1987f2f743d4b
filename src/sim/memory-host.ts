// SPDX-License-Identifier: Apache-2.0
//
// A plain machine in memory, for tests of single layers: directories whose operations end at once unless a
// test holds or fails them, and a clock whose timers fire as soon as nothing else is to be done. Where
// SimMachine explores schedules by chance, this one does exactly what a test says:
//
//     host.log.onOperation = (operation) => operation.kind === "datasync" ? gate : undefined;
//
// Each file has the bytes that programs see and those that a power loss would leave: what was there when the
// last good datasync began. Names are the same: kept since the last sync.

import { assert } from "../base/assert.ts";
import { diskError } from "../host/disk-error.ts";
import type { Clock, Directory, DiskFile, Logger, Random, Zstd } from "../host/ports.ts";
import type { DiskOperationKind } from "./faults.ts";
import { Prng } from "./prng.ts";
import { SIM_ZSTD } from "./sim-zstd.ts";

export interface MemoryOperation {
  readonly kind: DiskOperationKind;
  readonly name: string;
  readonly position: number;
  readonly lengthBytes: number;
  /** Counts the operations of one directory, from 1. */
  readonly number: number;
}

/**
 * undefined: go on. A system error's name: fail so. A promise: wait for it, then the same; a synchronous operation,
 * which can't wait, fails.
 */
export type Verdict = string | undefined | Promise<string | undefined>;
export type OperationHook = (operation: MemoryOperation) => Verdict;

class Content {
  bytes: Uint8Array = new Uint8Array(0);
  sizeBytes = 0;
  durable: Uint8Array = new Uint8Array(0);

  constructor(bytes?: Uint8Array) {
    if (bytes === undefined) return;
    this.bytes = bytes.slice();
    this.sizeBytes = bytes.length;
    this.durable = bytes.slice();
  }

  get view(): Uint8Array {
    return this.bytes.subarray(0, this.sizeBytes);
  }

  resize(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) {
      const larger = new Uint8Array(Math.max(sizeBytes, this.bytes.length * 2, 4096));
      larger.set(this.view);
      this.bytes = larger;
    }
    if (sizeBytes < this.sizeBytes) this.bytes.fill(0, sizeBytes, this.sizeBytes);
    this.sizeBytes = sizeBytes;
  }
}

/** A directory's files as plain bytes: what tests keep, damage and give to another directory. */
export type Files = Map<string, Uint8Array>;

export class MemoryDirectory implements Directory {
  readonly label: string;
  capacityBytes: number = Number.POSITIVE_INFINITY;
  onOperation: OperationHook | undefined;
  operationCount = 0;
  openCount = 0;
  #files: Map<string, Content> = new Map();
  #durableNames: Map<string, Content> = new Map();

  constructor(label: string, files: Files = new Map()) {
    this.label = label;
    for (const [name, bytes] of files) this.#files.set(name, new Content(bytes));
    this.#durableNames = new Map(this.#files);
  }

  /** The directory for the next program, after this one's has died: what isn't durable still isn't. */
  fork(): MemoryDirectory {
    const next = new MemoryDirectory(this.label);
    const forks = new Map<Content, Content>();
    const fork = (content: Content): Content => {
      const copy = forks.get(content) ?? new Content(content.view);
      copy.durable = content.durable;
      forks.set(content, copy);
      return copy;
    };
    next.#files = new Map([...this.#files].map(([name, content]) => [name, fork(content)]));
    next.#durableNames = new Map(
      [...this.#durableNames].map(([name, content]) => [name, fork(content)]),
    );
    next.capacityBytes = this.capacityBytes;
    return next;
  }

  /** Copies of all files as programs see them. */
  files(): Files {
    return new Map([...this.#files].map(([name, content]) => [name, content.view.slice()]));
  }

  /** Copies of what a power loss would leave if nothing that wasn't synced survived. */
  durableFiles(): Files {
    return new Map(
      [...this.#durableNames].map(([name, content]) => [name, content.durable.slice()]),
    );
  }

  list(): Promise<string[]> {
    return this.#run("list", "", () => [...this.#files.keys()].sort());
  }

  open(name: string, mode: "read" | "write" | "create"): Promise<DiskFile> {
    return this.#run(mode === "create" ? "create" : "open", name, () => {
      let content = this.#files.get(name);
      if (mode === "create") {
        if (content !== undefined) throw this.error("create", name, "EEXIST");
        content = new Content();
        this.#files.set(name, content);
      } else if (content === undefined) throw this.error("open", name, "ENOENT");
      this.openCount += 1;
      return new MemoryFile(this, name, content);
    });
  }

  remove(name: string): Promise<void> {
    return this.#run("remove", name, () => {
      if (!this.#files.delete(name)) throw this.error("remove", name, "ENOENT");
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#run("rename", from, () => {
      const content = this.#files.get(from);
      if (content === undefined) throw this.error("rename", from, "ENOENT");
      this.#files.delete(from);
      this.#files.set(to, content);
    });
  }

  sync(): Promise<void> {
    const names = new Map(this.#files);
    return this.#run("sync", "", () => {
      this.#durableNames = names;
    });
  }

  freeBytes(): Promise<number> {
    return this.#run("free", "", () => this.room());
  }

  room(): number {
    if (this.capacityBytes === Number.POSITIVE_INFINITY) return 2 ** 40;
    let usedBytes = 0;
    for (const content of this.#files.values()) usedBytes += content.sizeBytes;
    return Math.max(0, this.capacityBytes - usedBytes);
  }

  error(kind: string, name: string, errno: string, position?: number): Error {
    const path = `${this.label}/${name}`;
    return diskError(
      {
        operation: kind,
        path,
        ...(position === undefined || position < 0 ? {} : { positionBytes: position }),
      },
      errno,
    );
  }

  ask(operation: Omit<MemoryOperation, "number">): Verdict {
    this.operationCount += 1;
    return this.onOperation?.({ ...operation, number: this.operationCount });
  }

  async #run<T>(kind: DiskOperationKind, name: string, effect: () => T): Promise<T> {
    const errno = await this.ask({ kind, name, position: -1, lengthBytes: -1 });
    if (errno !== undefined) throw this.error(kind, name, errno);
    return effect();
  }
}

class MemoryFile implements DiskFile {
  readonly descriptor = -1;
  readonly #directory: MemoryDirectory;
  readonly #name: string;
  readonly #content: Content;
  #isClosed = false;
  #busyCount = 0;

  constructor(directory: MemoryDirectory, name: string, content: Content) {
    this.#directory = directory;
    this.#name = name;
    this.#content = content;
  }

  sizeBytes(): Promise<number> {
    return this.#run("size", { position: -1, lengthBytes: -1 }, () => this.#content.sizeBytes);
  }

  read(target: Uint8Array, position: number): Promise<number> {
    return this.#run("read", { position, lengthBytes: target.length }, () =>
      this.#read(target, position),
    );
  }

  readSync(target: Uint8Array, position: number): number {
    this.#askNow("read", { position, lengthBytes: target.length });
    return this.#read(target, position);
  }

  write(source: Uint8Array, position: number): Promise<void> {
    return this.#run("write", { position, lengthBytes: source.length }, () =>
      this.#write(source, position),
    );
  }

  writeSync(source: Uint8Array, position: number): void {
    this.#askNow("write", { position, lengthBytes: source.length });
    this.#write(source, position);
  }

  /** Durable is what was there when the datasync began; a write under way isn't covered. */
  datasync(): Promise<void> {
    const bytes = this.#content.view.slice();
    return this.#run("datasync", { position: -1, lengthBytes: -1 }, () => {
      this.#content.durable = bytes;
    });
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#run("truncate", { position: sizeBytes, lengthBytes: -1 }, () =>
      this.#content.resize(sizeBytes),
    );
  }

  async close(): Promise<void> {
    assert(!this.#isClosed, "a file is closed once");
    assert(this.#busyCount === 0, "a file is closed when nothing uses it");
    this.#isClosed = true;
    this.#directory.openCount -= 1;
    await this.#directory.ask({ kind: "close", name: this.#name, position: -1, lengthBytes: -1 });
  }

  #read(target: Uint8Array, position: number): number {
    const end = Math.min(this.#content.sizeBytes, position + target.length);
    if (end <= position) return 0;
    target.set(this.#content.bytes.subarray(position, end));
    return end - position;
  }

  #write(source: Uint8Array, position: number): void {
    const end = position + source.length;
    const missingBytes = Math.max(0, end - this.#content.sizeBytes - this.#directory.room());
    const length = end <= this.#content.sizeBytes ? source.length : source.length - missingBytes;
    if (length > 0) {
      if (position + length > this.#content.sizeBytes) this.#content.resize(position + length);
      this.#content.bytes.set(source.subarray(0, length), position);
    }
    if (length < source.length)
      throw this.#directory.error("write", this.#name, "ENOSPC", position);
  }

  #askNow(kind: DiskOperationKind, place: { position: number; lengthBytes: number }): void {
    assert(!this.#isClosed, "a closed file isn't used");
    const verdict = this.#directory.ask({ kind, name: this.#name, ...place });
    if (verdict instanceof Promise)
      throw this.#directory.error(kind, this.#name, "EIO", place.position);
    if (verdict !== undefined)
      throw this.#directory.error(kind, this.#name, verdict, place.position);
  }

  async #run<T>(
    kind: DiskOperationKind,
    place: { position: number; lengthBytes: number },
    effect: () => T,
  ): Promise<T> {
    assert(!this.#isClosed, "a closed file isn't used");
    this.#busyCount += 1;
    try {
      const errno = await this.#directory.ask({ kind, name: this.#name, ...place });
      if (errno !== undefined) throw this.#directory.error(kind, this.#name, errno, place.position);
      return effect();
    } finally {
      this.#busyCount -= 1;
    }
  }
}

interface Timer {
  readonly atMicros: number;
  callback: (() => void) | undefined;
}

/** Runs something in a later turn of the event loop, after all settled promises: setImmediate. */
export type LaterTurn = (callback: () => void) => void;

/** A clock that nobody stopped ends by itself, so that a test that failed ends too. */
const LIFE_MICROS = 3600 * 1_000_000;

/** Virtual time that stands still while there is input to handle, and then jumps to the next timer. */
class IdleClock implements Clock {
  readonly #later: LaterTurn;
  #timers: Timer[] = [];
  #inputs = 0;
  #isChecking = false;
  #isStopped = false;
  /** Steps of the wall clock. */
  wallOffsetMicros = 1_767_225_600_000_000;
  nowMicros = 1_000_000;
  /** While it is true no timer fires. */
  isFrozen = false;

  constructor(later: LaterTurn) {
    this.#later = later;
  }

  wallMicros(): number {
    return this.wallOffsetMicros + this.nowMicros;
  }

  monotoneMicros(): number {
    return this.nowMicros;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer: Timer = { atMicros: this.nowMicros + delayMs * 1000, callback };
    this.#timers.push(timer);
    this.#check();
    return () => {
      timer.callback = undefined;
    };
  }

  afterInput(callback: () => void): void {
    this.#inputs += 1;
    this.#later(() => {
      this.#inputs -= 1;
      if (this.#isStopped) return;
      this.nowMicros += 1;
      callback();
    });
  }

  /** The program that used it has died. */
  stop(): void {
    this.#isStopped = true;
    this.#timers = [];
  }

  #check(): void {
    if (this.#isChecking) return;
    this.#isChecking = true;
    this.#later(() => {
      this.#isChecking = false;
      this.#timers = this.#timers.filter((timer) => timer.callback !== undefined);
      if (this.#isStopped || this.#timers.length === 0 || this.nowMicros > LIFE_MICROS) return;
      if (this.#inputs === 0 && !this.isFrozen) this.#fire();
      this.#check();
    });
  }

  #fire(): void {
    const next = this.#timers.reduce((first, timer) =>
      timer.atMicros < first.atMicros ? timer : first,
    );
    this.nowMicros = Math.max(this.nowMicros, next.atMicros);
    const callback = next.callback;
    next.callback = undefined;
    callback?.();
  }
}

export interface LoggedEvent {
  readonly level: string;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** What a pool lives on. */
export class MemoryHost {
  readonly root: MemoryDirectory;
  readonly log: MemoryDirectory;
  readonly #later: LaterTurn;
  readonly clock: IdleClock;
  readonly random: Random;
  readonly zstd: Zstd = SIM_ZSTD;
  readonly logger: Logger;
  readonly events: LoggedEvent[] = [];

  constructor(
    later: LaterTurn,
    files: { root?: Files | MemoryDirectory; log?: Files | MemoryDirectory; seed?: number } = {},
  ) {
    const { root, log } = files;
    this.#later = later;
    this.root = root instanceof MemoryDirectory ? root : new MemoryDirectory("pool", root);
    this.log = log instanceof MemoryDirectory ? log : new MemoryDirectory("log", log);
    this.clock = new IdleClock(later);
    const prng = new Prng(files.seed ?? 1);
    this.random = {
      fill: (bytes) => {
        for (let at = 0; at < bytes.length; at++) bytes[at] = prng.word();
      },
    };
    this.logger = {
      log: (level, event, fields = {}) => {
        this.events.push({ level, event, fields });
      },
    };
  }

  /** The names of all events so far. */
  eventNames(): string[] {
    return this.events.map(({ event }) => event);
  }

  /** The program dies here: what it still does has no effect on what was copied before. */
  stop(): void {
    this.clock.stop();
  }

  /** The machine stays up and the next program begins: the page cache is what it was. */
  restart(): MemoryHost {
    this.stop();
    return new MemoryHost(this.#later, { root: this.root.fork(), log: this.log.fork() });
  }

  operations(hook: OperationHook | undefined): void {
    this.root.onOperation = hook;
    this.log.onOperation = hook;
  }
}
