// SPDX-License-Identifier: Apache-2.0
//
// A point that can be written, for as long as somebody looks at it: a repair is tried out, a database recovers before it
// is read. What is written goes to a file, each block at its own offset, so the file is sparse and needs no index; a byte
// per block says which of the two is right. The point never changes, and the file is thrown away.
//
// Changes come one at a time, and nothing is read meanwhile: the caller keeps the order (daemon/point-device.ts).

import { assert } from "../base/assert.ts";
import type { DiskFile } from "../host/ports.ts";
import { BLOCK_BYTES } from "./place.ts";

/** What lies below: a PointImage. */
export interface OverlaidBase {
  readonly sizeBytes: number;
  read(target: Uint8Array, offset: number): Promise<void>;
  visitExtents(
    start: number,
    end: number,
    visitor: { extent(start: number, end: number, kind: "data" | "zero" | "hole"): boolean },
  ): Promise<void>;
}

const STATE = { base: 0, written: 1, zero: 2 } as const;
/** Blocks whose states lie together: 128 MiB. */
const CHUNK_BLOCKS = 32_768;

export class OverlaidImage implements OverlaidBase {
  readonly sizeBytes: number;
  readonly #base: OverlaidBase;
  readonly #file: DiskFile;
  /** The states of a chunk's blocks, or the one that all of them have. No entry: nothing of it was changed. */
  readonly #chunks: Map<number, Uint8Array | number> = new Map();

  constructor(base: OverlaidBase, file: DiskFile) {
    this.#base = base;
    this.#file = file;
    this.sizeBytes = base.sizeBytes;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const end = offset + target.length;
    for (let start = offset; start < end; ) {
      const state = this.#stateAt(start);
      const stop = this.#endOfState(start, end);
      const part = target.subarray(start - offset, stop - offset);
      if (state === STATE.base) await this.#base.read(part, start);
      else if (state === STATE.zero) part.fill(0);
      else await this.#readFile(part, start);
      start = stop;
    }
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    const end = offset + source.length;
    assert(offset >= 0 && end <= this.sizeBytes, "the range lies in the volume");
    // What isn't whole blocks is completed first.
    const first = floorBlock(offset);
    const last = Math.min(this.sizeBytes, ceilBlock(end));
    const whole = new Uint8Array(last - first);
    if (first < offset) await this.read(whole.subarray(0, offset - first), first);
    if (end < last) await this.read(whole.subarray(end - first), end);
    whole.set(source, offset - first);
    await this.#file.write(whole, first);
    this.#setState(first, last, STATE.written);
  }

  /** [start, end) reads as zeros. */
  async zero(start: number, end: number): Promise<void> {
    const first = Math.min(end, ceilBlock(start));
    const last = end === this.sizeBytes ? end : Math.max(first, floorBlock(end));
    if (start < first) await this.write(new Uint8Array(first - start), start);
    if (last < end) await this.write(new Uint8Array(end - last), last);
    if (first < last) this.#setState(first, last, STATE.zero);
  }

  async visitExtents(
    start: number,
    end: number,
    visitor: { extent(start: number, end: number, kind: "data" | "zero" | "hole"): boolean },
  ): Promise<void> {
    let goesOn = true;
    const extent = (from: number, to: number, kind: "data" | "zero" | "hole") => {
      goesOn = visitor.extent(from, to, kind);
      return goesOn;
    };
    for (let at = start; at < end && goesOn; ) {
      const state = this.#stateAt(at);
      const stop = this.#endOfState(at, end);
      if (state === STATE.base) await this.#base.visitExtents(at, stop, { extent });
      else extent(at, stop, state === STATE.zero ? "hole" : "data");
      at = stop;
    }
  }

  async #readFile(target: Uint8Array, offset: number): Promise<void> {
    const count = await this.#file.read(target, offset);
    assert(count === target.length, "what was written is in the file");
  }

  #stateAt(offset: number): number {
    const block = Math.floor(offset / BLOCK_BYTES);
    const chunk = this.#chunks.get(Math.floor(block / CHUNK_BLOCKS)) ?? STATE.base;
    return typeof chunk === "number" ? chunk : chunk[block % CHUNK_BLOCKS]!;
  }

  /** Where the state at `start` ends, at most `end`. */
  #endOfState(start: number, end: number): number {
    const state = this.#stateAt(start);
    let block = Math.floor(start / BLOCK_BYTES);
    const endBlock = Math.ceil(end / BLOCK_BYTES);
    while (block < endBlock) {
      const chunk = this.#chunks.get(Math.floor(block / CHUNK_BLOCKS)) ?? STATE.base;
      if (typeof chunk === "number") {
        if (chunk !== state) break;
        block = Math.floor(block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS;
      } else {
        if (chunk[block % CHUNK_BLOCKS] !== state) break;
        block += 1;
      }
    }
    return Math.min(end, block * BLOCK_BYTES);
  }

  #setState(start: number, end: number, state: number): void {
    const endBlock = Math.ceil(end / BLOCK_BYTES);
    for (let block = Math.floor(start / BLOCK_BYTES); block < endBlock; ) {
      const number = Math.floor(block / CHUNK_BLOCKS);
      const chunkStart = number * CHUNK_BLOCKS;
      const stop = Math.min(endBlock, chunkStart + CHUNK_BLOCKS);
      if (stop - block === CHUNK_BLOCKS) this.#chunks.set(number, state);
      else this.#statesOf(number).fill(state, block - chunkStart, stop - chunkStart);
      block = stop;
    }
  }

  #statesOf(number: number): Uint8Array {
    const chunk = this.#chunks.get(number) ?? STATE.base;
    if (typeof chunk !== "number") return chunk;
    const states = new Uint8Array(CHUNK_BLOCKS).fill(chunk);
    this.#chunks.set(number, states);
    return states;
  }
}

function floorBlock(offset: number): number {
  return Math.floor(offset / BLOCK_BYTES) * BLOCK_BYTES;
}

function ceilBlock(offset: number): number {
  return Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES;
}
