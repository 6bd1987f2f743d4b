// SPDX-License-Identifier: Apache-2.0
//
// Directory and DiskFile over a simulated disk, for one process. Asynchronous calls take effect at a
// moment of their own: at once or, as likely, only when they end, so that a caller who touches a buffer
// that isn't his yet is found out. Calls of a dead process never end; its synchronous calls still return,
// for nobody can see what they do.
//
// The page cache is not modelled in time: writeSync and readSync take none.

import { assert } from "../base/assert.ts";
import type { Directory, DiskFile } from "../host/ports.ts";
import type { DiskOperationKind, Fault } from "./faults.ts";
import { type DiskUser, type NameChange, type NameTable, simError } from "./sim-disk.ts";
import { type FlyingWrite, StoredFile } from "./stored-file.ts";

interface Operation {
  readonly kind: DiskOperationKind;
  readonly path: string;
  /** Position and length, or -1. */
  readonly first: number;
  readonly second: number;
}

export class SimDirectory implements Directory {
  readonly #user: DiskUser;
  readonly #name: string;
  readonly #table: NameTable;

  constructor(user: DiskUser, name: string) {
    this.#user = user;
    this.#name = name;
    this.#table = user.disk.table(name);
  }

  list(): Promise<string[]> {
    const operation = this.#operation("list", "");
    const run = (): string[] => [...this.#table.entries.keys()].sort();
    return start(this.#user, operation, unlessFault(operation, run));
  }

  open(name: string, mode: "read" | "write" | "create"): Promise<DiskFile> {
    if (mode === "create") return this.#create(name);
    const operation = this.#operation("open", name);
    const run = (): DiskFile =>
      new SimDiskFile(this.#user, this.#fileAt(name, operation), {
        path: operation.path,
        isReadOnly: mode === "read",
      });
    return start(this.#user, operation, unlessFault(operation, run));
  }

  #create(name: string): Promise<DiskFile> {
    const file = new StoredFile();
    const change: NameChange = { sets: [[name, file]] };
    const operation = this.#operation("create", name);
    return this.#change(operation, {
      foreseen: this.#table.entries.has(name) ? undefined : change,
      prepare: () => {
        if (this.#table.entries.has(name)) throw simError(operation, "EEXIST");
        return change;
      },
      result: () => new SimDiskFile(this.#user, file, { path: operation.path, isReadOnly: false }),
    });
  }

  remove(name: string): Promise<void> {
    const change: NameChange = { sets: [[name, undefined]] };
    const operation = this.#operation("remove", name);
    return this.#change(operation, {
      foreseen: change,
      prepare: () => {
        this.#user.disk.bury(this.#fileAt(name, operation));
        return change;
      },
      result: () => undefined,
    });
  }

  rename(from: string, to: string): Promise<void> {
    const operation = this.#operation("rename", from);
    return this.#change(operation, {
      foreseen: undefined,
      prepare: () => {
        const file = this.#fileAt(from, operation);
        const replaced = this.#table.entries.get(to);
        if (replaced !== undefined) this.#user.disk.bury(replaced);
        return {
          sets: [
            [to, file],
            [from, undefined],
          ],
        };
      },
      result: () => undefined,
    });
  }

  sync(): Promise<void> {
    const operation = this.#operation("sync", "");
    const count = this.#table.changeCount;
    const run = (): void => this.#table.finishSync(count);
    return start(this.#user, operation, unlessFault(operation, run));
  }

  freeBytes(): Promise<number> {
    const operation = this.#operation("free", "");
    const run = (): number => this.#user.disk.freeBytes();
    return start(this.#user, operation, unlessFault(operation, run));
  }

  #operation(kind: DiskOperationKind, name: string): Operation {
    const isPlain = name === "" || /^(?!\.{1,2}$)[^/\0]+$/.test(name);
    assert(isPlain, "a file of a directory has a plain name");
    return { kind, path: `${this.#name}/${name}`, first: -1, second: -1 };
  }

  #fileAt(name: string, operation: Operation): StoredFile {
    const file = this.#table.entries.get(name);
    if (file === undefined) throw simError(operation, "ENOENT");
    return file;
  }

  /** Creating, removing, renaming: one change of names at the end of the operation. */
  #change<T>(
    operation: Operation,
    options: {
      /** What a crash before the end may find done already. */
      readonly foreseen: NameChange | undefined;
      /** Refuses, or says what the change is in the end. */
      readonly prepare: () => NameChange;
      readonly result: () => T;
    },
  ): Promise<T> {
    const table = this.#table;
    const { foreseen } = options;
    if (foreseen !== undefined) table.flying.add(foreseen);
    const effect = (fault: Fault | undefined): T => {
      if (foreseen !== undefined) table.flying.delete(foreseen);
      if (fault !== undefined && fault !== "applied") throw faultError(operation, fault);
      table.change(options.prepare());
      if (fault !== undefined) throw faultError(operation, fault);
      return options.result();
    };
    return start(this.#user, operation, { effect });
  }
}

class SimDiskFile implements DiskFile {
  readonly descriptor = -1;
  readonly #user: DiskUser;
  readonly #file: StoredFile;
  readonly #path: string;
  readonly #isReadOnly: boolean;
  #pendingCount = 0;
  #isClosed = false;
  #onIdle: (() => void) | undefined;

  constructor(
    user: DiskUser,
    file: StoredFile,
    options: { readonly path: string; readonly isReadOnly: boolean },
  ) {
    this.#user = user;
    this.#file = file;
    this.#path = options.path;
    this.#isReadOnly = options.isReadOnly;
  }

  sizeBytes(): Promise<number> {
    const operation = this.#operation("size");
    return this.#start(
      operation,
      unlessFault(operation, () => this.#file.sizeBytes),
    );
  }

  read(target: Uint8Array, position: number): Promise<number> {
    const operation = this.#operation("read", position, target.length);
    // The bytes are those of a moment between the call and its end.
    let early: Uint8Array | undefined;
    if (this.#user.disk.prng.chance(0.3)) {
      const copy = new Uint8Array(target.length);
      early = copy.subarray(0, this.#file.read(copy, position));
    }
    const effect = (fault: Fault | undefined): number => {
      if (fault !== undefined && fault !== "lie") throw faultError(operation, fault);
      let count = early?.length ?? 0;
      if (early === undefined) count = this.#file.read(target, position);
      else target.set(early);
      if (fault === "lie") this.#lie(target.subarray(0, count));
      return count;
    };
    return this.#start(operation, { effect });
  }

  readSync(target: Uint8Array, position: number): number {
    const operation = this.#operation("read", position, target.length);
    const fault = beginSync(this.#user, operation);
    if (fault !== undefined && fault !== "lie") throw faultError(operation, fault);
    const count = this.#file.read(target, position);
    if (fault === "lie") this.#lie(target.subarray(0, count));
    return count;
  }

  write(source: Uint8Array, position: number): Promise<void> {
    const operation = this.#operation("write", position, source.length);
    if (this.#isReadOnly) return Promise.reject(simError(operation, "EBADF"));
    const flight: FlyingWrite = { position, source };
    this.#file.flying.add(flight);
    if (this.#user.process.isAlive) this.#user.disk.scheduler.trace.mixBytes(source);
    let outcome: { readonly error: unknown } | undefined;
    const perform = (fault: Fault | undefined): void => {
      this.#file.flying.delete(flight);
      try {
        this.#write(source, operation, fault);
        outcome = { error: undefined };
      } catch (error) {
        outcome = { error };
      }
    };
    const isEarly = this.#user.disk.prng.chance(0.3);
    return this.#start(operation, {
      atOnce: (fault) => {
        if (isEarly) perform(fault);
      },
      effect: (fault) => {
        if (outcome === undefined) perform(fault);
        if (outcome?.error !== undefined) throw outcome.error;
      },
    });
  }

  writeSync(source: Uint8Array, position: number): void {
    const operation = this.#operation("write", position, source.length);
    if (this.#isReadOnly) throw simError(operation, "EBADF");
    const flight: FlyingWrite = { position, source };
    this.#file.flying.add(flight);
    if (this.#user.process.isAlive) this.#user.disk.scheduler.trace.mixBytes(source);
    const fault = beginSync(this.#user, operation);
    this.#file.flying.delete(flight);
    this.#write(source, operation, fault);
  }

  datasync(): Promise<void> {
    const operation = this.#operation("datasync");
    const mark = this.#file.syncMark();
    const effect = (fault: Fault | undefined): void => {
      if (fault === undefined) {
        this.#file.finishSync(mark);
        return;
      }
      const { disk } = this.#user;
      const { prng } = disk;
      disk.hasLostWrites = true;
      this.#file.failSync(mark, { isDropped: prng.chance(0.3), prng });
      throw faultError(operation, fault);
    };
    return this.#start(operation, { effect });
  }

  truncate(sizeBytes: number): Promise<void> {
    const operation = this.#operation("truncate", sizeBytes);
    if (this.#isReadOnly) return Promise.reject(simError(operation, "EBADF"));
    const run = (): void => {
      const missing = this.#user.disk.missingBytes(this.#file, sizeBytes);
      if (missing > 0) throw simError(operation, "ENOSPC");
      this.#file.truncate(sizeBytes);
    };
    return this.#start(operation, unlessFault(operation, run));
  }

  async close(): Promise<void> {
    assert(!this.#isClosed, "a file is closed once");
    this.#isClosed = true;
    if (this.#pendingCount > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    const operation = this.#operation("close");
    await start(
      this.#user,
      operation,
      unlessFault(operation, () => undefined),
    );
  }

  #operation(kind: DiskOperationKind, first = -1, second = -1): Operation {
    assert(kind === "close" || !this.#isClosed, "a closed file isn't used");
    return { kind, path: this.#path, first, second };
  }

  /** As `start`, and counts what is under way for close(). */
  #start<T>(
    operation: Operation,
    run: { readonly effect: Effect<T>; readonly atOnce?: Effect<void> },
  ): Promise<T> {
    this.#pendingCount += 1;
    const effect = (fault: Fault | undefined): T => {
      this.#pendingCount -= 1;
      if (this.#pendingCount === 0) this.#onIdle?.();
      return run.effect(fault);
    };
    return start(this.#user, operation, { ...run, effect });
  }

  #write(source: Uint8Array, operation: Operation, fault: Fault | undefined): void {
    const position = operation.first;
    const missing = this.#user.disk.missingBytes(this.#file, position + source.length);
    if (fault === undefined && missing === 0) {
      this.#file.write(source, position);
      return;
    }
    // A short write: what fits, or a part by chance, and then the error.
    const room = Math.max(0, source.length - missing);
    const length = fault === undefined ? room : this.#user.disk.prng.below(room + 1);
    if (length > 0) this.#file.write(source.subarray(0, length), position);
    throw faultError(operation, fault ?? "full");
  }

  #lie(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    const at = this.#user.disk.prng.below(bytes.length);
    bytes[at] = (bytes[at] as number) ^ (1 << this.#user.disk.prng.below(8));
  }
}

type Effect<T> = (fault: Fault | undefined) => T;

/** Begins an asynchronous operation; `effect` runs when it ends, `atOnce` when it has begun. */
function start<T>(
  { disk, process }: DiskUser,
  operation: Operation,
  { effect, atOnce }: { readonly effect: Effect<T>; readonly atOnce?: Effect<void> },
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    if (!process.isAlive) return;
    const fault = disk.begin(operation, operation);
    // The beginning of an operation is a place to crash.
    if (!process.isAlive) return;
    atOnce?.(fault);
    const event = { what: operation.kind, process };
    disk.scheduler.schedule(disk.drawMicros(operation.kind), event, () => {
      try {
        resolve(effect(fault));
      } catch (error) {
        reject(error);
      }
    });
  });
}

/** The effect of an operation that does nothing when it fails. */
function unlessFault<T>(operation: Operation, run: () => T): { readonly effect: Effect<T> } {
  return {
    effect: (fault) => {
      if (fault !== undefined) throw faultError(operation, fault);
      return run();
    },
  };
}

function beginSync(user: DiskUser, operation: Operation): Fault | undefined {
  return user.process.isAlive ? user.disk.begin(operation, operation) : undefined;
}

function faultError(operation: Operation, fault: Fault): Error {
  return simError(operation, fault === "full" ? "ENOSPC" : "EIO");
}
