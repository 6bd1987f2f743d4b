// SPDX-License-Identifier: Apache-2.0
//
// One open file over the operating system. What the system leaves to its callers is settled here:
//
//   short reads    are continued until the end of the file
//   short writes   are continued; a write that makes no progress is an error
//   datasync       one at a time, and after a failure never again: the kernel reports a lost write once
//                  and then forgets it, so a second fdatasync would return success for lost data
//   close          waits for what is under way, for the number of a closed descriptor is given to the
//                  next file that opens, and a late read would read that one
//
// The synchronous calls allocate nothing.

import {
  close,
  closeSync,
  constants,
  fdatasync,
  fstat,
  ftruncate,
  type NoParamCallback,
  openSync,
  read,
  readSync,
  type Stats,
  write,
  writeSync,
} from "node:fs";
import { assert } from "../../base/assert.ts";
import { StorageError } from "../../base/errors.ts";
import { type DiskOperation, diskError } from "../disk-error.ts";
import type { DiskFile } from "../ports.ts";

type Callback<T> = (error: NodeJS.ErrnoException | null, result: T) => void;

/** What O_DIRECT asks of addresses, positions and lengths, on any disk. */
const DIRECT_ALIGN_BYTES = 4096;
const NO_DIRECT = -2;

export class NodeDiskFile implements DiskFile {
  readonly #path: string;
  /** The descriptor; -1 once closed, so that no call can reach the file that gets the number next. */
  #descriptor: number;
  /** A second descriptor for direct writes, made at the first; -1: not yet, -2: the file system has none. */
  #directDescriptor = -1;
  /** Asynchronous calls under way; close() waits until it is 0. */
  #pendingCount = 0;
  #isClosing = false;
  /** Set while close() waits; called by the last pending call. */
  #onIdle: (() => void) | undefined;
  /** The latest datasync; the next one begins after it. Once rejected it stays rejected. */
  #lastDatasync: Promise<void> = Promise.resolve();

  constructor(descriptor: number, path: string) {
    assert(descriptor >= 0, "a file begins open");
    this.#descriptor = descriptor;
    this.#path = path;
  }

  get descriptor(): number {
    return this.#descriptor;
  }

  sizeBytes(): Promise<number> {
    return this.#hold(async () => {
      const where = { operation: "stat", path: this.#path };
      const stats = await call<Stats>(where, (done) => fstat(this.#descriptor, done));
      return stats.size;
    });
  }

  read(target: Uint8Array, position: number): Promise<number> {
    return this.#hold(async () => {
      const where = this.#at("read", target, position);
      let done = 0;
      while (done < target.length) {
        const [start, length] = [done, target.length - done];
        const count = await call<number>(where, (callback) =>
          read(this.#descriptor, target, start, length, position + start, callback),
        );
        if (count === 0) break;
        done += count;
      }
      return done;
    });
  }

  readSync(target: Uint8Array, position: number): number {
    this.#assertOpen();
    let done = 0;
    try {
      while (done < target.length) {
        const length = target.length - done;
        const count = readSync(this.#descriptor, target, done, length, position + done);
        if (count === 0) break;
        done += count;
      }
    } catch (error) {
      throw fromSystem(this.#at("read", target, position), error);
    }
    return done;
  }

  write(source: Uint8Array, position: number): Promise<void> {
    return this.#hold(() => this.#writeAll(this.#descriptor, source, position));
  }

  writeDirect(source: Uint8Array, position: number): Promise<void> {
    return this.#hold(async () => {
      const isAligned = (source.byteOffset | source.length | position) % DIRECT_ALIGN_BYTES === 0;
      if (!isAligned || !this.#canWriteDirect()) {
        await this.#writeAll(this.#descriptor, source, position);
        return;
      }
      try {
        await this.#writeAll(this.#directDescriptor, source, position);
      } catch (error) {
        // Some file systems open such files and refuse each write: then through the cache, for good.
        if (!isInvalid(error)) throw error;
        closeSync(this.#directDescriptor);
        this.#directDescriptor = NO_DIRECT;
        await this.#writeAll(this.#descriptor, source, position);
      }
    });
  }

  async #writeAll(descriptor: number, source: Uint8Array, position: number): Promise<void> {
    const where = this.#at("write", source, position);
    let done = 0;
    while (done < source.length) {
      const [start, length] = [done, source.length - done];
      const count = await call<number>(where, (callback) =>
        write(descriptor, source, start, length, position + start, callback),
      );
      if (count === 0) throw noProgress(where);
      done += count;
    }
  }

  #canWriteDirect(): boolean {
    if (this.#directDescriptor === -1) {
      try {
        this.#directDescriptor = openSync(this.#path, constants.O_WRONLY | constants.O_DIRECT);
      } catch {
        this.#directDescriptor = NO_DIRECT;
      }
    }
    return this.#directDescriptor >= 0;
  }

  writeSync(source: Uint8Array, position: number): void {
    this.#assertOpen();
    let done = 0;
    try {
      while (done < source.length) {
        const length = source.length - done;
        const count = writeSync(this.#descriptor, source, done, length, position + done);
        if (count === 0) break;
        done += count;
      }
    } catch (error) {
      throw fromSystem(this.#at("write", source, position), error);
    }
    if (done < source.length) throw noProgress(this.#at("write", source, position));
  }

  datasync(): Promise<void> {
    return this.#hold(() => {
      const where = { operation: "datasync", path: this.#path };
      this.#lastDatasync = this.#lastDatasync.then(() =>
        call<void>(where, (done) => fdatasync(this.#descriptor, done as NoParamCallback)),
      );
      return this.#lastDatasync;
    });
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#hold(() => {
      const where = { operation: "truncate", path: this.#path, positionBytes: sizeBytes };
      return call<void>(where, (done) =>
        ftruncate(this.#descriptor, sizeBytes, done as NoParamCallback),
      );
    });
  }

  async close(): Promise<void> {
    this.#assertOpen();
    this.#isClosing = true;
    if (this.#pendingCount > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    const descriptor = this.#descriptor;
    this.#descriptor = -1;
    if (this.#directDescriptor >= 0) closeSync(this.#directDescriptor);
    const where = { operation: "close", path: this.#path };
    await call<void>(where, (done) => close(descriptor, done as NoParamCallback));
  }

  /** Runs one asynchronous call; close() waits for it, however many steps it takes. */
  async #hold<T>(run: () => Promise<T>): Promise<T> {
    this.#assertOpen();
    this.#pendingCount += 1;
    try {
      return await run();
    } finally {
      this.#pendingCount -= 1;
      if (this.#pendingCount === 0) this.#onIdle?.();
    }
  }

  #at(operation: string, bytes: Uint8Array, position: number): DiskOperation {
    const range = { positionBytes: position, lengthBytes: bytes.length };
    return { operation, path: this.#path, ...range };
  }

  #assertOpen(): void {
    assert(this.#descriptor >= 0 && !this.#isClosing, "a closed file is not used");
  }
}

/** One call of the system, as a promise. */
function call<T>(where: DiskOperation, start: (callback: Callback<T>) => void): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    start((error, result) => {
      if (error) reject(fromSystem(where, error));
      else resolve(result);
    });
  });
}

/** A StorageError for what the operating system answered; other errors are bugs and stay as they are. */
export function fromSystem(where: DiskOperation, error: unknown): unknown {
  const { code, message, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== "string" || syscall === undefined) return error;
  // The runtime writes "EIO: i/o error, write"; the reason is what stands between.
  const reason = /^\w+: (.*?), /.exec(message)?.[1] ?? message;
  return diskError(where, code, { reason, cause: error });
}

function isInvalid(error: unknown): boolean {
  return error instanceof StorageError && error.data.errno === "EINVAL";
}

function noProgress(where: DiskOperation): Error {
  return diskError(where, "EIO", { reason: "the system wrote nothing and gave no reason" });
}
