// SPDX-License-Identifier: Apache-2.0
//
// Goes through the pages in which two moments may differ, in order, with what each moment has there:
//
//   changed chunks → changed pages      by ring and lists (changed-pages.ts), where they reach back to the common past
//   directories of both moments         equal entries are equal pages: an image is never written twice in one place
//   pages of both moments               put together as any page of the past is (past.ts)
//
// Without lists, of volumes that have nothing in common or when history let go of them, the directories alone decide: that
// costs two reads per 2 GiB, and a look at pages that a checkpoint wrote anew.

import { hasCode, type StorageError } from "../base/errors.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import type { WayPart } from "./branch-ways.ts";
import type { ChangedPages } from "./changed-pages.ts";
import type { MarkedBlocks } from "./marked-blocks.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  INHERITED,
  isImage,
  isShared,
  type Origin,
  PAGE_BLOCKS,
  WORD_OFFSET,
  WORD_RUN,
} from "./page-directory.ts";
import type { Past } from "./past.ts";

export interface DifferingPagesOptions {
  readonly past: Past;
  readonly changed: ChangedPages;
  /** From the common past to both moments; undefined: there is none. */
  readonly ways: readonly WayPart[] | undefined;
  readonly from: Origin;
  readonly to: Origin;
  /** Pages [firstPage, endPage) are looked at. */
  readonly firstPage: number;
  readonly endPage: number;
  /** Their pages are looked at in any case. */
  readonly marked: MarkedBlocks;
  /** Requests come between. */
  readonly pause: () => Promise<void>;
}

/** Two words a block, not to be changed; undefined: it can't be read. */
export type References = Uint32Array | undefined;

/** Pages between two turns of the event loop. */
const SLICE_PAGES = 32;
const HOLES: Uint32Array = pageOf(LOW_HOLE);
const ZEROS: Uint32Array = pageOf(LOW_ZERO);

/** Bases and lists stay meanwhile: the caller has pinned them, and both moments. */
export class DifferingPages {
  readonly #options: DifferingPagesOptions;
  readonly #isListed: boolean;
  /** Chunks from the first on: 1 where something may have changed. */
  #chunkMarks: Uint8Array | undefined;
  readonly #marks: Uint8Array = new Uint8Array(CHUNK_PAGES);
  /** What both moments have of the chunk that is looked at, by directory entries; undefined: it can't be read. */
  #fromChunk: References;
  #toChunk: References;
  #chunk = -1;
  #next: number;
  #sliceLeft = SLICE_PAGES;
  /** What `next` found. */
  page = 0;
  from: References;
  to: References;
  /** Why one of them is undefined. */
  problem: StorageError | undefined;

  constructor(options: DifferingPagesOptions) {
    this.#options = options;
    const { changed, ways, firstPage } = options;
    this.#isListed = ways !== undefined && changed.knows(ways);
    this.#next = firstPage;
  }

  /** Goes on to the next page; false: there is none. */
  async next(): Promise<boolean> {
    const { endPage } = this.#options;
    while (this.#next < endPage) {
      const chunk = Math.floor(this.#next / CHUNK_PAGES);
      if (chunk !== this.#chunk && !(await this.#begin(chunk))) {
        this.#next = (chunk + 1) * CHUNK_PAGES;
        await this.#pause();
        continue;
      }
      const inChunk = this.#next % CHUNK_PAGES;
      const marked = this.#marks.indexOf(1, inChunk);
      if (marked < 0) {
        this.#next = (chunk + 1) * CHUNK_PAGES;
        continue;
      }
      const page = chunk * CHUNK_PAGES + marked;
      this.#next = page + 1;
      if (page >= endPage) return false;
      const mayDiffer = this.#mayDiffer(marked);
      const isMarked = this.#options.marked.touches(page, page + 1);
      if (!mayDiffer && !isMarked) continue;
      await this.#pause();
      await this.#read(page, marked, mayDiffer);
      if (isMarked || this.from !== this.to || this.from === undefined) return true;
    }
    return false;
  }

  /** Looks at a chunk; false: nothing differs there. */
  async #begin(chunk: number): Promise<boolean> {
    const { past, from, to, marked } = this.#options;
    this.problem = undefined;
    const firstPage = chunk * CHUNK_PAGES;
    const isMarked = marked.touches(firstPage, firstPage + CHUNK_PAGES);
    if (!isMarked && !(await this.#isChunkMarked(chunk))) return false;
    await this.#markPages(chunk, isMarked);
    if (this.#marks.indexOf(1) < 0) return false;
    this.#fromChunk = await this.#orUndefined(past.chunk(from, chunk));
    this.#toChunk = await this.#orUndefined(past.chunk(to, chunk));
    this.#chunk = chunk;
    return isMarked || !isConstant(this.#fromChunk) || !isConstant(this.#toChunk);
  }

  /** Marks the pages of the chunk that are to be looked at. */
  async #markPages(chunk: number, isMarked: boolean): Promise<void> {
    const { changed, ways, firstPage, endPage, marked } = this.#options;
    const marks = this.#marks;
    const first = chunk * CHUNK_PAGES;
    marks.fill(this.#isListed ? 0 : 1);
    if (this.#isListed && ways !== undefined) {
      const marking = changed.pages(ways, chunk, marks).then(() => true);
      if ((await this.#orUndefined(marking)) === undefined) marks.fill(1);
    }
    for (let page = 0; isMarked && page < CHUNK_PAGES; page++)
      if (marked.touches(first + page, first + page + 1)) marks[page] = 1;
    marks.fill(0, 0, Math.max(0, firstPage - first));
    marks.fill(0, Math.min(CHUNK_PAGES, endPage - first));
  }

  /** Whether anything may differ in the chunk. Of a single one its pages tell as quickly. */
  async #isChunkMarked(chunk: number): Promise<boolean> {
    const { changed, ways, firstPage, endPage } = this.#options;
    const first = Math.floor(firstPage / CHUNK_PAGES);
    const count = Math.ceil(endPage / CHUNK_PAGES) - first;
    if (!this.#isListed || ways === undefined || count === 1) return true;
    if (this.#chunkMarks === undefined) {
      const marks = new Uint8Array(count);
      const marking = changed.chunks(ways, first, marks).then(() => true);
      if ((await this.#orUndefined(marking)) === undefined) marks.fill(1);
      this.#chunkMarks = marks;
    }
    return this.#chunkMarks[chunk - first] === 1;
  }

  /** Whether the entries of a page in the chunk are different, or don't tell. */
  #mayDiffer(inChunk: number): boolean {
    const at = inChunk * CHUNK_WORDS;
    const [one, other] = [this.#fromChunk, this.#toChunk];
    if (one === undefined || other === undefined) return true;
    const run = one[at + WORD_RUN] as number;
    const otherRun = other[at + WORD_RUN] as number;
    if (run === INHERITED || otherRun === INHERITED) return true;
    if (!isImage(run) && !isImage(otherRun)) return false; // zeros, of whatever kind
    return run !== otherRun || one[at + WORD_OFFSET] !== other[at + WORD_OFFSET];
  }

  /** Of a page that is the same at both moments, one is enough. */
  async #read(page: number, inChunk: number, mayDiffer: boolean): Promise<void> {
    const { from, to } = this.#options;
    this.problem = undefined;
    this.page = page;
    this.to = await this.#references(to, page, this.#toChunk, inChunk);
    this.from = mayDiffer ? await this.#references(from, page, this.#fromChunk, inChunk) : this.to;
  }

  async #references(
    origin: Origin,
    page: number,
    chunk: References,
    inChunk: number,
  ): Promise<References> {
    const run = chunk?.[inChunk * CHUNK_WORDS + WORD_RUN];
    if (run !== undefined && run !== INHERITED && !isImage(run))
      return run === 0 || chunk?.[inChunk * CHUNK_WORDS + WORD_OFFSET] === LOW_HOLE ? HOLES : ZEROS;
    return await this.#orUndefined(this.#options.past.page(origin, page));
  }

  /** Undefined: damage is in the way, which is noted. */
  async #orUndefined<T>(reading: Promise<T>): Promise<T | undefined> {
    try {
      return await reading;
    } catch (error) {
      if (!hasCode(error, "POOL_CORRUPT") && !hasCode(error, "DISK_IO")) throw error;
      this.problem ??= error;
      return undefined;
    }
  }

  #pause(): Promise<void> | undefined {
    this.#sliceLeft -= 1;
    if (this.#sliceLeft > 0) return undefined;
    this.#sliceLeft = SLICE_PAGES;
    return this.#options.pause();
  }
}

function isConstant(chunk: References): boolean {
  return chunk !== undefined && isShared(chunk);
}

function pageOf(low: number): Uint32Array {
  const references = new Uint32Array(PAGE_BLOCKS * 2);
  for (let at = 1; at < references.length; at += 2) references[at] = low;
  return references;
}
