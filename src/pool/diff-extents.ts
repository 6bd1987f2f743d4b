// SPDX-License-Identifier: Apache-2.0
//
// Changed blocks on their way out: those whose content must still be compared wait in a piece of some thousand, so that
// frames are looked up many at a time, and everything leaves in order, as extents as long as they can be.

import { PAGE_BLOCKS } from "../index/page-directory.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import { COMPARED, type FrameComparison } from "../volume/frame-comparison.ts";
import type { DiffKind, DiffVisitor } from "./types.ts";

/** What the later moment has there. */
const KINDS: readonly DiffKind[] = ["data", "zero", "hole"];
export const KIND = { DATA: 0, ZERO: 1, HOLE: 2 } as const;
/** In place of a kind: it waits to be compared. Beside a kind: it couldn't be. */
const PENDING = 3;
const UNTOLD = 4;

export interface DiffExtentsOptions {
  readonly comparison: FrameComparison;
  readonly visitor: DiffVisitor;
  /** Requests come between. */
  readonly pause: () => Promise<void>;
  /** Bytes [offsetBytes, endBytes) are told. */
  readonly offsetBytes: number;
  readonly endBytes: number;
  /** Entries that are kept, at most. */
  readonly entriesMax: number;
}

const ENTRIES_FIRST = 256;
/** Told between two turns of the event loop. */
const SLICE_ENTRIES = 4096;

export class DiffExtents {
  readonly #options: DiffExtentsOptions;
  /** Entries: first block, blocks, kind; the pair of those that are PENDING stands in `#pairs`, in their order. */
  #firsts: Float64Array = new Float64Array(ENTRIES_FIRST);
  #counts: Float64Array = new Float64Array(ENTRIES_FIRST);
  #kinds: Uint8Array = new Uint8Array(ENTRIES_FIRST);
  #pairs: Uint32Array = new Uint32Array(ENTRIES_FIRST * 4);
  #results: Uint8Array = new Uint8Array(ENTRIES_FIRST);
  #entryCount = 0;
  #pairCount = 0;
  /** The extent that may still grow: blocks [first, end). */
  #first = 0;
  #end = 0;
  #kind = -1;
  /** The visitor has had enough. */
  isEnough = false;
  /** Up to here everything was told. */
  toldBytes: number;
  extentCount = 0;
  /** By kind. */
  readonly changedBytes: [number, number, number] = [0, 0, 0];
  untoldBytes = 0;

  constructor(options: DiffExtentsOptions) {
    this.#options = options;
    this.toldBytes = options.offsetBytes;
  }

  /** `flush` must come before the next page. */
  get isFull(): boolean {
    return this.#entryCount >= this.#options.entriesMax;
  }

  /** Blocks that differ, whatever they hold. `isUntold`: for all that can be told. */
  add(first: number, count: number, kind: number, isUntold = false): void {
    const mark = isUntold ? kind | UNTOLD : kind;
    const last = this.#entryCount - 1;
    const isNext =
      last >= 0 &&
      this.#kinds[last] === mark &&
      (this.#firsts[last] as number) + (this.#counts[last] as number) === first;
    if (isNext) this.#counts[last] = (this.#counts[last] as number) + count;
    else this.#push(first, count, mark);
  }

  /** A block for which both moments name a frame, in the references of its page. */
  addPair(block: number, from: Uint32Array, to: Uint32Array): void {
    this.#push(block, 1, PENDING);
    const at = (block % PAGE_BLOCKS) * 2;
    const pair = this.#pairCount * 4;
    this.#pairs[pair] = from[at] as number;
    this.#pairs[pair + 1] = from[at + 1] as number;
    this.#pairs[pair + 2] = to[at] as number;
    this.#pairs[pair + 3] = to[at + 1] as number;
    this.#pairCount += 1;
  }

  /** Tells all that was added, but for an extent that may still grow. */
  async flush(): Promise<void> {
    const { comparison, pause } = this.#options;
    await comparison.compare(this.#pairs, this.#pairCount, this.#results);
    let pair = 0;
    for (let at = 0; at < this.#entryCount && !this.isEnough; at++) {
      if (at % SLICE_ENTRIES === SLICE_ENTRIES - 1) await pause();
      const first = this.#firsts[at] as number;
      const count = this.#counts[at] as number;
      const mark = this.#kinds[at] as number;
      if (mark !== PENDING) {
        this.#tell(first, count, mark);
        continue;
      }
      const result = this.#results[pair];
      pair += 1;
      if (result === COMPARED.DIFFERENT) this.#tell(first, count, KIND.DATA);
      else if (result === COMPARED.UNTOLD) this.#tell(first, count, KIND.DATA | UNTOLD);
    }
    this.#entryCount = 0;
    this.#pairCount = 0;
  }

  /** The same, and the last extent; nothing comes behind it. */
  async finish(): Promise<void> {
    await this.flush();
    this.#emit();
    if (!this.isEnough) this.toldBytes = this.#options.endBytes;
  }

  #push(first: number, count: number, kind: number): void {
    if (this.#entryCount === this.#firsts.length) this.#grow();
    this.#firsts[this.#entryCount] = first;
    this.#counts[this.#entryCount] = count;
    this.#kinds[this.#entryCount] = kind;
    this.#entryCount += 1;
  }

  #grow(): void {
    const length = this.#firsts.length * 4;
    const larger = <T extends Float64Array | Uint32Array | Uint8Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#firsts = larger(new Float64Array(length), this.#firsts);
    this.#counts = larger(new Float64Array(length), this.#counts);
    this.#kinds = larger(new Uint8Array(length), this.#kinds);
    this.#pairs = larger(new Uint32Array(length * 4), this.#pairs);
    this.#results = new Uint8Array(length);
  }

  #tell(first: number, count: number, mark: number): void {
    const kind = mark & ~UNTOLD;
    if (kind !== this.#kind || first !== this.#end) {
      this.#emit();
      if (this.isEnough) return;
      this.#first = first;
      this.#kind = kind;
    }
    this.#end = first + count;
    if (mark !== kind) this.untoldBytes += this.#bytesOf(first, this.#end);
  }

  #emit(): void {
    const kind = this.#kind;
    if (kind < 0 || this.isEnough) return;
    const lengthBytes = this.#bytesOf(this.#first, this.#end);
    this.#kind = -1;
    if (lengthBytes === 0) return;
    const offsetBytes = Math.max(this.#first * BLOCK_BYTES, this.#options.offsetBytes);
    this.extentCount += 1;
    this.changedBytes[kind as 0 | 1 | 2] += lengthBytes;
    this.toldBytes = offsetBytes + lengthBytes;
    const isMore = this.#options.visitor.extent(offsetBytes, lengthBytes, KINDS[kind] as DiffKind);
    this.isEnough = !isMore;
  }

  /** Of the blocks, what lies in the range that was asked for. */
  #bytesOf(first: number, end: number): number {
    const { offsetBytes, endBytes } = this.#options;
    const from = Math.max(first * BLOCK_BYTES, offsetBytes);
    return Math.max(0, Math.min(end * BLOCK_BYTES, endBytes) - from);
  }
}
