// SPDX-License-Identifier: Apache-2.0
//
// The raw image: the disk's bytes and nothing else, in a file or a block device. It can't say where it
// is empty, so as a source it is one extent of data (whoever copies looks for zeros), and as a sink it is
// sparse where nothing was written: a new file gets its length in the end and holes by itself. Over what
// was there before, zeros have to be written.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { DiskFile } from "../host/ports.ts";
import type { Extent, ImageSink, ImageSource } from "./image.ts";
import { corrupt } from "./image-error.ts";

/** The block of most file systems: smaller holes save nothing. */
const GRANULE_BYTES = 4096;
const ZEROS = Buffer.alloc(1 << 20);

export class RawSource implements ImageSource {
  readonly format = "raw";
  readonly sizeBytes: number;
  readonly warnings: readonly string[] = [];
  readonly #file: DiskFile;
  readonly #path: string;

  constructor(file: DiskFile, sizeBytes: number, path: string) {
    this.#file = file;
    this.sizeBytes = sizeBytes;
    this.#path = path;
  }

  async extentAt(offset: number): Promise<Extent> {
    return { start: offset, end: this.sizeBytes, kind: "data" };
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const count = await this.#file.read(target, offset);
    if (count < target.length) {
      const end = offset + count;
      throw corrupt(this.#path, `it ends at ${end}, but had ${this.sizeBytes} bytes when opened`);
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** The length of a file; of a block device too, which the file system says is empty. */
export async function fileSizeBytes(file: DiskFile): Promise<number> {
  const sizeBytes = await file.sizeBytes();
  if (sizeBytes > 0) return sizeBytes;
  const byte = new Uint8Array(1);
  const reaches = async (position: number): Promise<boolean> =>
    (await file.read(byte, position)) === 1;
  if (!(await reaches(0))) return 0;
  // A device ends at a whole sector. Double until it is behind us, then halve.
  let readable = 0; // in sectors: the last one known to be there
  let beyond = 1;
  while (await reaches(beyond * 512)) {
    readable = beyond;
    beyond *= 2;
    if (beyond > 2 ** 43) throw new StorageError("IMAGE_UNSUPPORTED", "image: not read: no end");
  }
  while (beyond - readable > 1) {
    const middle = Math.floor((readable + beyond) / 2);
    if (await reaches(middle * 512)) readable = middle;
    else beyond = middle;
  }
  return beyond * 512;
}

export interface RawSinkOptions {
  /** True for a file that was just made, or truncated to nothing: then zeros need no writing. */
  readonly isEmpty: boolean;
}

export class RawSink implements ImageSink {
  readonly granuleBytes: number = GRANULE_BYTES;
  readonly isSequential = false;
  readonly #file: DiskFile;
  readonly #isEmpty: boolean;
  /** Set by finish(). */
  #isFinished = false;

  constructor(file: DiskFile, { isEmpty }: RawSinkOptions) {
    this.#file = file;
    this.#isEmpty = isEmpty;
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    assert(!this.#isFinished, "a finished image takes no more");
    return this.#file.write(source, offset);
  }

  async zero(start: number, end: number): Promise<void> {
    assert(!this.#isFinished, "a finished image takes no more");
    if (this.#isEmpty) return;
    for (let at = start; at < end; at += ZEROS.length) {
      await this.#file.write(ZEROS.subarray(0, Math.min(ZEROS.length, end - at)), at);
    }
  }

  async finish(sizeBytes: number): Promise<void> {
    assert(!this.#isFinished, "an image is finished once");
    this.#isFinished = true;
    // What was there before keeps its length: a block device has no other.
    if (this.#isEmpty) await this.#file.truncate(sizeBytes);
    await this.#file.datasync();
  }
}
