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

/** Pages of several maps: nobody writes to them, either. */
const SHARED: WeakSet<Uint32Array> = new WeakSet();

interface PlainChunk {
  /** What the pages hold that aren't listed. */
  readonly low: number;
  readonly pages: Map<number, Uint32Array>;
}

const NO_CHUNK: PlainChunk = { low: LOW_HOLE, pages: new Map() };

export class PlainMap {
  readonly #chunks: Map<number, PlainChunk> = new Map();

  /** The same content, that goes on on its own: pages are shared until one of the two writes them. */
  copy(): PlainMap {
    const copy = new PlainMap();
    for (const [number, { low, pages }] of this.#chunks) {
      for (const page of pages.values()) SHARED.add(page);
      copy.#chunks.set(number, { low, pages: new Map(pages) });
    }
    return copy;
  }

  set(lba: number, segment: number, low: number): void {
    const page = this.#pageFor(Math.floor(lba / PLAIN_PAGE_BLOCKS));
    const at = (lba % PLAIN_PAGE_BLOCKS) * 2;
    page[at] = segment;
    page[at + 1] = low;
  }

  /** A range of any size becomes holes or zeros. */
  fill(lba: number, blockCount: number, low: number): void {
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const number = Math.floor(at / PLAIN_PAGE_BLOCKS);
      const pageEnd = (number + 1) * PLAIN_PAGE_BLOCKS;
      const chunkEnd = (Math.floor(number / PLAIN_CHUNK_PAGES) + 1) * CHUNK_BLOCKS;
      if (at % CHUNK_BLOCKS === 0 && chunkEnd <= end) {
        this.#chunks.set(at / CHUNK_BLOCKS, { low, pages: new Map() });
        at = chunkEnd;
      } else if (at % PLAIN_PAGE_BLOCKS === 0 && pageEnd <= end) {
        this.#chunkFor(number).pages.set(number, constantPage(low));
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
    let chunk = this.#chunks.get(number);
    if (chunk === undefined) {
      chunk = { low: LOW_HOLE, pages: new Map() };
      this.#chunks.set(number, chunk);
    }
    return chunk;
  }

  #pageFor(number: number): Uint32Array {
    const chunk = this.#chunkFor(number);
    const present = chunk.pages.get(number) ?? constantPage(chunk.low);
    if (!isConstant(present) && !SHARED.has(present)) return present;
    const own = present.slice();
    chunk.pages.set(number, own);
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
