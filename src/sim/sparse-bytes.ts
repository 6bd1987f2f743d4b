// SPDX-License-Identifier: Apache-2.0
//
// The content of a disk that is mostly empty: chunks that were ever written, zeros everywhere else. So
// the model of a volume of terabytes costs what the test touched, and trimming all of it costs as much.

import { assert } from "../base/assert.ts";

export const CHUNK_BYTES = 16384;

export class SparseBytes {
  readonly chunks: Map<number, Uint8Array> = new Map();

  /** The part of [position, position + length) in each chunk it meets, made where it's missing. */
  forEachPiece(
    position: number,
    lengthBytes: number,
    visit: (piece: Uint8Array, position: number) => void,
  ): void {
    const end = position + lengthBytes;
    let at = position;
    while (at < end) {
      const index = Math.floor(at / CHUNK_BYTES);
      const start = at - index * CHUNK_BYTES;
      const length = Math.min(CHUNK_BYTES - start, end - at);
      visit(this.chunk(index).subarray(start, start + length), at);
      at += length;
    }
  }

  write(source: Uint8Array, position: number): void {
    this.forEachPiece(position, source.length, (piece, at) => {
      piece.set(source.subarray(at - position, at - position + piece.length));
    });
  }

  /** Zeros [position, position + length): touches only chunks that are there. */
  zero(position: number, lengthBytes: number): void {
    const end = position + lengthBytes;
    for (const [index, chunk] of this.chunks) {
      const start = Math.max(position, index * CHUNK_BYTES);
      const stop = Math.min(end, (index + 1) * CHUNK_BYTES);
      if (start < stop) chunk.fill(0, start - index * CHUNK_BYTES, stop - index * CHUNK_BYTES);
    }
  }

  read(target: Uint8Array, position: number): void {
    let done = 0;
    while (done < target.length) {
      const at = position + done;
      const index = Math.floor(at / CHUNK_BYTES);
      const start = at - index * CHUNK_BYTES;
      const length = Math.min(CHUNK_BYTES - start, target.length - done);
      const chunk = this.chunks.get(index);
      if (chunk === undefined) target.fill(0, done, done + length);
      else target.set(chunk.subarray(start, start + length), done);
      done += length;
    }
  }

  /** Forgets what lies at or beyond `sizeBytes`. */
  cut(sizeBytes: number): void {
    assert(sizeBytes >= 0, "a size is not negative");
    this.zero(sizeBytes, Number.MAX_SAFE_INTEGER - sizeBytes);
  }

  chunk(index: number): Uint8Array {
    let chunk = this.chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint8Array(CHUNK_BYTES);
      this.chunks.set(index, chunk);
    }
    return chunk;
  }

  clone(): SparseBytes {
    const copy = new SparseBytes();
    for (const [index, chunk] of this.chunks) copy.chunks.set(index, chunk.slice());
    return copy;
  }
}
