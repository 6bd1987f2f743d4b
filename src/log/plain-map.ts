// SPDX-License-Identifier: Apache-2.0
//
// Newest reference of each block of one branch, plainly: what the log alone says, for readers without an index
// (log-dump.ts) and for the check of the index against it. Two u32 a block, in pages of 512 blocks; a page or a chunk
// of 1024 pages that is all holes or all zeros is one entry, so that a zeroed terabyte is five hundred entries.

import { LOW_HOLE, LOW_ZERO } from "./reference.ts";

export const PLAIN_PAGE_BLOCKS = 512;
export const PLAIN_CHUNK_PAGES = 1024;

/** A page of zeros that nobody writes to: shared by all that are such. */
const ZERO_PAGE: Uint32Array = filled(LOW_ZERO);
const HOLE_PAGE: Uint32Array = filled(LOW_HOLE);

interface PlainChunk {
  /** What the pages hold that aren't listed. */
  readonly low: number;
  readonly pages: Map<number, Uint32Array>;
  /** Pages that nobody else has: others are copied before they are written to. */
  readonly own: Set<number>;
  /** Which map may change it: the one that has this. */
  readonly owner: object;
}

const NO_CHUNK: PlainChunk = { low: LOW_HOLE, pages: new Map(), own: new Set(), owner: {} };

export class PlainMap {
  readonly #chunks: Map<number, PlainChunk> = new Map();
  #owner: object = {};

  /** The same content, that goes on on its own: chunks and pages are shared until one of the two writes to them. */
  copy(): PlainMap {
    const copy = new PlainMap();
    for (const [number, chunk] of this.#chunks) copy.#chunks.set(number, chunk);
    this.#owner = {};
    return copy;
  }

  set(lba: number, segment: number, low: number): void {
    const page = this.#pageFor(Math.floor(lba / PLAIN_PAGE_BLOCKS));
    const at = (lba % PLAIN_PAGE_BLOCKS) * 2;
    page[at] = segment;
    page[at + 1] = low;
  }

  /** All references of a page; nobody writes to the array any more. */
  putPage(number: number, references: Uint32Array): void {
    const chunk = this.#chunkFor(number);
    chunk.pages.set(number, references);
    chunk.own.delete(number);
  }

  /** A range of any size becomes holes or zeros. */
  fill(lba: number, blockCount: number, low: number): void {
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const number = Math.floor(at / PLAIN_PAGE_BLOCKS);
      const pageEnd = (number + 1) * PLAIN_PAGE_BLOCKS;
      const chunkEnd = (Math.floor(number / PLAIN_CHUNK_PAGES) + 1) * CHUNK_BLOCKS;
      if (at % CHUNK_BLOCKS === 0 && chunkEnd <= end) {
        this.#chunks.set(at / CHUNK_BLOCKS, this.#ownChunk(low));
        at = chunkEnd;
      } else if (at % PLAIN_PAGE_BLOCKS === 0 && pageEnd <= end) {
        this.putPage(number, constantPage(low));
        at = pageEnd;
      } else {
        const stop = Math.min(end, pageEnd);
        if (low !== LOW_HOLE || this.page(number) !== undefined)
          for (; at < stop; at++) this.set(at, 0, low);
        at = stop;
      }
    }
  }

  /** The page's references, not to be changed; undefined when all are holes. */
  page(number: number): Uint32Array | undefined {
    const chunk = this.#chunks.get(Math.floor(number / PLAIN_CHUNK_PAGES)) ?? NO_CHUNK;
    const page = chunk.pages.get(number) ?? constantPage(chunk.low);
    return page === HOLE_PAGE ? undefined : page;
  }

  /** The low word that all blocks of the chunk have; undefined: look at its pages. */
  constantOfChunk(number: number): number | undefined {
    const chunk = this.#chunks.get(number) ?? NO_CHUNK;
    return chunk.pages.size === 0 ? chunk.low : undefined;
  }

  chunkNumbers(): number[] {
    return [...this.#chunks.keys()].sort((a, b) => a - b);
  }

  /** Pages that may hold content, ascending. */
  pageNumbers(): number[] {
    return this.chunkNumbers().flatMap((number) => {
      const { pages } = this.#chunks.get(number) as PlainChunk;
      return [...pages.keys()].filter((page) => !isConstant(pages.get(page))).sort((a, b) => a - b);
    });
  }

  #chunkFor(pageNumber: number): PlainChunk {
    const number = Math.floor(pageNumber / PLAIN_CHUNK_PAGES);
    const present = this.#chunks.get(number);
    if (present?.owner === this.#owner) return present;
    const chunk = this.#ownChunk(present?.low ?? LOW_HOLE, present?.pages);
    this.#chunks.set(number, chunk);
    return chunk;
  }

  #ownChunk(low: number, pages?: ReadonlyMap<number, Uint32Array>): PlainChunk {
    return { low, pages: new Map(pages), own: new Set(), owner: this.#owner };
  }

  #pageFor(number: number): Uint32Array {
    const chunk = this.#chunkFor(number);
    const present = chunk.pages.get(number) ?? constantPage(chunk.low);
    if (chunk.own.has(number)) return present;
    const own = present.slice();
    chunk.pages.set(number, own);
    chunk.own.add(number);
    return own;
  }
}

const CHUNK_BLOCKS: number = PLAIN_PAGE_BLOCKS * PLAIN_CHUNK_PAGES;

function isConstant(page: Uint32Array | undefined): boolean {
  return page === ZERO_PAGE || page === HOLE_PAGE;
}

function constantPage(low: number): Uint32Array {
  return low === LOW_ZERO ? ZERO_PAGE : HOLE_PAGE;
}

function filled(low: number): Uint32Array {
  return Uint32Array.from({ length: PLAIN_PAGE_BLOCKS * 2 }, (_, at) => (at % 2 === 0 ? 0 : low));
}
