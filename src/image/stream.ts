// SPDX-License-Identifier: Apache-2.0
//
// Images through a pipe ('-'): raw only. A qcow2 image can be neither read nor written this way, for its
// tables are found by position: a reader would have to keep all that flows by until the table that
// explains it arrives, and a writer would have to say in the first bytes where the last ones will lie.
//
// A stream's zeros are bytes like others; where its end is nobody knows beforehand, unless it is told.

import { StorageError } from "../base/errors.ts";
import { DETECT_BYTES, detectFormat } from "./detect.ts";
import type { ImageFormat, ImageSink, StreamSource } from "./image.ts";
import { unsupported } from "./image-error.ts";

const GRANULE_BYTES = 4096;
const ZEROS = new Uint8Array(1 << 20);

export interface StreamSourceOptions {
  /** The name in messages; default "-". */
  readonly name?: string;
  readonly format?: ImageFormat | undefined;
  /** Where it must end; a stream that is shorter or longer is an error. */
  readonly sizeBytes?: number | undefined;
}

/** Reads chunks as they come (process.stdin is one such). Looks at the first bytes unless told raw. */
export async function openStream(
  chunks: AsyncIterable<Uint8Array>,
  options: StreamSourceOptions = {},
): Promise<StreamSource> {
  const name = options.name ?? "-";
  if (options.format === "qcow2") throw notSeekable(name);
  const source = new ChunkSource(chunks, name, options.sizeBytes);
  if (options.format === undefined) {
    if (detectFormat(await source.peek(DETECT_BYTES), name) === "qcow2") throw notSeekable(name);
  }
  return source;
}

/** A stream has no file that a tool could look into: what is to be looked at is whoever wrote it. */
function broken(name: string, why: string): StorageError {
  return new StorageError("IMAGE_CORRUPT", `image "${name}": damaged: ${why}`, {
    hint: "see whether the program that writes into the pipe failed, then start again",
  });
}

function notSeekable(name: string): StorageError {
  return unsupported(
    name,
    "a qcow2 image can't be read from a pipe: its tables are found by position",
    "save it to a file first; if these bytes are the disk, say --format raw",
  );
}

class ChunkSource implements StreamSource {
  readonly format = "raw";
  readonly sizeBytes: number | undefined;
  readonly warnings: readonly string[] = [];
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #name: string;
  /** Received, not yet handed out. */
  #rest: Uint8Array = new Uint8Array(0);
  #doneBytes = 0;
  #isAtEnd = false;
  #isEmpty = true;

  constructor(chunks: AsyncIterable<Uint8Array>, name: string, sizeBytes: number | undefined) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#name = name;
    this.sizeBytes = sizeBytes;
  }

  /** The first bytes, which stay to be read: at least `bytes` of them unless the stream is shorter. */
  async peek(bytes: number): Promise<Uint8Array> {
    while (this.#rest.length < bytes) {
      const chunk = await this.#nextChunk();
      if (!chunk) break;
      this.#rest = Buffer.concat([this.#rest, chunk]);
    }
    return this.#rest;
  }

  async readNext(target: Uint8Array): Promise<number> {
    let done = 0;
    while (done < target.length) {
      if (this.#rest.length === 0) {
        const chunk = await this.#nextChunk();
        if (!chunk) break;
        this.#rest = chunk;
      }
      const part = this.#rest.subarray(0, target.length - done);
      target.set(part, done);
      done += part.length;
      this.#rest = this.#rest.subarray(part.length);
    }
    this.#doneBytes += done;
    this.#checkSize(done < target.length);
    return done;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #nextChunk(): Promise<Uint8Array | undefined> {
    while (!this.#isAtEnd) {
      const next = await this.#chunks.next();
      if (next.done) this.#isAtEnd = true;
      else if (next.value.length > 0) {
        this.#isEmpty = false;
        return next.value;
      }
    }
    // Nobody wants a disk of nothing: the program that should have written it has failed.
    if (this.#isEmpty) throw broken(this.#name, "it is empty");
    return undefined;
  }

  #checkSize(isAtEnd: boolean): void {
    if (this.sizeBytes === undefined) return;
    if (this.#doneBytes > this.sizeBytes) {
      throw broken(this.#name, `it has more than the ${this.sizeBytes} bytes that were announced`);
    }
    if (isAtEnd && this.#doneBytes < this.sizeBytes) {
      throw broken(
        this.#name,
        `it ended after ${this.#doneBytes} of ${this.sizeBytes} bytes: it is cut short`,
      );
    }
  }
}

/** Writes a raw image in order through `writeBytes`, which resolves once the bytes may be reused. */
export class StreamSink implements ImageSink {
  readonly granuleBytes: number = GRANULE_BYTES;
  readonly isSequential = true;
  readonly #writeBytes: (bytes: Uint8Array) => Promise<void>;

  constructor(writeBytes: (bytes: Uint8Array) => Promise<void>) {
    this.#writeBytes = writeBytes;
  }

  write(source: Uint8Array): Promise<void> {
    return this.#writeBytes(source);
  }

  async zero(start: number, end: number): Promise<void> {
    for (let at = start; at < end; at += ZEROS.length) {
      await this.#writeBytes(ZEROS.subarray(0, Math.min(ZEROS.length, end - at)));
    }
  }

  /** Everything was handed over; closing the pipe is its owner's. */
  async finish(): Promise<void> {}
}

/** A sink for '-' in `format`; qcow2 is refused, and why. */
export function createStreamSink(
  format: ImageFormat,
  writeBytes: (bytes: Uint8Array) => Promise<void>,
): StreamSink {
  if (format === "raw") return new StreamSink(writeBytes);
  throw new StorageError(
    "IMAGE_UNSUPPORTED",
    'image "-": not written: a qcow2 image can\'t go through a pipe: its first bytes say where the last ones lie',
    { hint: "write it to a file, or send the raw image: --format raw" },
  );
}
