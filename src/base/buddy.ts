// SPDX-License-Identifier: Apache-2.0
//
// A buddy allocator over a range of addresses: pieces are powers of two between one page (4 KiB) and
// one chunk (the largest piece), aligned to their size. It hands out plain numbers and keeps its books in
// typed arrays, so that the data path can take and give back memory without making garbage.
//
// Knowlton, "A fast storage allocator", CACM 1965. Splitting and merging cost at most one step per size.

import { assert } from "./assert.ts";

const PAGE_BYTES = 4096;
const NONE = -1;

export class BuddyAllocator {
  readonly #baseAddress: number;
  readonly #orderMax: number;
  /** Per page: order + 1 of the piece that starts there when it is free, -(order + 1) when it is taken, 0 inside a piece. */
  readonly #state: Int8Array;
  /** Doubly linked free lists, one per order, threaded through the pages. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #heads: Int32Array;
  #freeBytes = 0;

  /** Manages `chunkCount` chunks of `chunkBytes` (a power of two of pages) from `baseAddress` on. */
  constructor(options: { baseAddress: number; chunkBytes: number; chunkCount: number }) {
    const pagesPerChunk = options.chunkBytes / PAGE_BYTES;
    assert(Number.isInteger(Math.log2(pagesPerChunk)), "a chunk is a power of two of pages");
    assert(options.baseAddress % PAGE_BYTES === 0, "the base address is page-aligned");
    this.#baseAddress = options.baseAddress;
    this.#orderMax = Math.log2(pagesPerChunk);
    const pageCount = pagesPerChunk * options.chunkCount;
    this.#state = new Int8Array(pageCount);
    this.#next = new Int32Array(pageCount).fill(NONE);
    this.#previous = new Int32Array(pageCount).fill(NONE);
    this.#heads = new Int32Array(this.#orderMax + 1).fill(NONE);
    for (let chunk = options.chunkCount - 1; chunk >= 0; chunk--)
      this.#push(chunk * pagesPerChunk, this.#orderMax);
    this.#freeBytes = pageCount * PAGE_BYTES;
  }

  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** A piece of at least `lengthBytes`, or -1 when there is none. */
  allocate(lengthBytes: number): number {
    const wanted = orderOf(lengthBytes);
    assert(wanted <= this.#orderMax, "a piece is no larger than a chunk");
    let order = wanted;
    while (order <= this.#orderMax && this.#heads[order] === NONE) order += 1;
    if (order > this.#orderMax) return -1;
    const page = this.#heads[order] as number;
    this.#unlink(page, order);
    while (order > wanted) {
      order -= 1;
      this.#push(page + (1 << order), order);
    }
    this.#state[page] = -(wanted + 1);
    this.#freeBytes -= PAGE_BYTES << wanted;
    return this.#baseAddress + page * PAGE_BYTES;
  }

  /** Gives back what `allocate` returned. */
  release(address: number): void {
    let page = (address - this.#baseAddress) / PAGE_BYTES;
    const state = this.#state[page];
    assert(state !== undefined && state < 0, "only a taken piece is released");
    let order = -state - 1;
    this.#state[page] = 0;
    this.#freeBytes += PAGE_BYTES << order;
    while (order < this.#orderMax) {
      const buddy = page ^ (1 << order);
      if (this.#state[buddy] !== order + 1) break;
      this.#unlink(buddy, order);
      page = Math.min(page, buddy);
      order += 1;
    }
    this.#push(page, order);
  }

  #push(page: number, order: number): void {
    const head = this.#heads[order] as number;
    this.#state[page] = order + 1;
    this.#next[page] = head;
    this.#previous[page] = NONE;
    if (head !== NONE) this.#previous[head] = page;
    this.#heads[order] = page;
  }

  #unlink(page: number, order: number): void {
    const next = this.#next[page] as number;
    const previous = this.#previous[page] as number;
    if (previous === NONE) this.#heads[order] = next;
    else this.#next[previous] = next;
    if (next !== NONE) this.#previous[next] = previous;
    this.#state[page] = 0;
  }
}

function orderOf(lengthBytes: number): number {
  const pages = Math.max(1, Math.ceil(lengthBytes / PAGE_BYTES));
  return 32 - Math.clz32(pages - 1);
}
