// SPDX-License-Identifier: Apache-2.0
//
// A sparse file in memory behind the DiskFile port, for tests of images: pages that were never written
// cost nothing, so a test may truncate to a terabyte. It can fail at a chosen position, and counts how
// much was asked of it.

import { diskError } from "../../src/host/disk-error.ts";
import type { DiskFile } from "../../src/host/ports.ts";

const PAGE_BYTES = 4096;

export class MemoryFile implements DiskFile {
  readonly descriptor = -1;
  readonly #pages = new Map<number, Uint8Array>();
  #sizeBytes = 0;
  isClosed = false;
  readCount = 0;
  writeCount = 0;
  datasyncCount = 0;
  /** Reads and writes that touch this byte fail. */
  failAt: { readonly position: number; readonly errno: string } | undefined;

  static of(bytes: Uint8Array): MemoryFile {
    const file = new MemoryFile();
    file.writeSync(bytes, 0);
    return file;
  }

  get pageCount(): number {
    return this.#pages.size;
  }

  async sizeBytes(): Promise<number> {
    return this.#sizeBytes;
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    return this.readSync(target, position);
  }

  readSync(target: Uint8Array, position: number): number {
    this.readCount += 1;
    this.#check("read", position, target.length);
    const length = Math.max(0, Math.min(target.length, this.#sizeBytes - position));
    for (let done = 0; done < length; ) {
      const page = Math.floor((position + done) / PAGE_BYTES);
      const start = (position + done) % PAGE_BYTES;
      const count = Math.min(length - done, PAGE_BYTES - start);
      const bytes = this.#pages.get(page);
      if (bytes) target.set(bytes.subarray(start, start + count), done);
      else target.fill(0, done, done + count);
      done += count;
    }
    return length;
  }

  async write(source: Uint8Array, position: number): Promise<void> {
    this.writeSync(source, position);
  }

  writeSync(source: Uint8Array, position: number): void {
    this.writeCount += 1;
    this.#check("write", position, source.length);
    for (let done = 0; done < source.length; ) {
      const page = Math.floor((position + done) / PAGE_BYTES);
      const start = (position + done) % PAGE_BYTES;
      const count = Math.min(source.length - done, PAGE_BYTES - start);
      let bytes = this.#pages.get(page);
      if (!bytes) {
        bytes = new Uint8Array(PAGE_BYTES);
        this.#pages.set(page, bytes);
      }
      bytes.set(source.subarray(done, done + count), start);
      done += count;
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, position + source.length);
  }

  async datasync(): Promise<void> {
    this.datasyncCount += 1;
  }

  async truncate(sizeBytes: number): Promise<void> {
    for (const page of this.#pages.keys()) {
      if (page * PAGE_BYTES >= sizeBytes) this.#pages.delete(page);
    }
    if (sizeBytes % PAGE_BYTES !== 0) {
      this.#pages.get(Math.floor(sizeBytes / PAGE_BYTES))?.fill(0, sizeBytes % PAGE_BYTES);
    }
    this.#sizeBytes = sizeBytes;
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  /** A copy of all bytes; only for small files. */
  bytes(): Uint8Array {
    const all = new Uint8Array(this.#sizeBytes);
    this.readSync(all, 0);
    return all;
  }

  #check(operation: string, position: number, length: number): void {
    // As the runtime does: such a position must never get here.
    if (!Number.isSafeInteger(position)) throw new RangeError(`${operation} at ${position}`);
    if (this.failAt === undefined) return;
    const { position: at, errno } = this.failAt;
    if (position > at || position + length <= at) return;
    throw diskError(
      { operation, path: "memory", positionBytes: position, lengthBytes: length },
      errno,
    );
  }
}
