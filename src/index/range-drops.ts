// SPDX-License-Identifier: Apache-2.0
//
// Trims and zeroes of whole pages since the newest checkpoint. Such a range edits the page directory and drops what was
// there; here that is kept until a checkpoint has it on disk. So the state at any LSN since then is still known: of a
// page it is the entry that the first range after that LSN dropped, or else the one in the directory.
//
// A chunk that is dropped as a whole is kept as the array that it was, which costs nothing: 16 TiB are 8192 pointers.

import { assert } from "../base/assert.ts";
import { CHUNK_PAGES, CHUNK_WORDS, type PageDirectory } from "./page-directory.ts";

/** Entries of pages that follow each other in a chunk. */
interface SavedPages {
  readonly firstPage: number;
  /** CHUNK_WORDS each. Of a slot in memory nothing is meant. */
  readonly entries: Uint32Array;
}

/** All blocks of [firstPage, endPage) became holes, or zeros (LOW_ZERO). */
export interface RangeDrop {
  readonly branch: number;
  readonly lsn: number;
  readonly low: number;
  readonly firstPage: number;
  readonly endPage: number;
  /** By chunk; where there was no chunk, nothing. */
  readonly saved: ReadonlyMap<number, SavedPages>;
}

/** A page's four words, at `at` of `words`; undefined: there was no chunk. */
export interface PageEntry {
  readonly words: Uint32Array | undefined;
  readonly at: number;
}

/** More is not kept for long: a checkpoint is due. */
const DROPS_MAX = 4096;
const SAVED_WORDS_MAX: number = 2 << 20;

export class RangeDrops {
  /** In the order of their LSNs. */
  #drops: RangeDrop[] = [];
  #savedWords = 0;

  get all(): readonly RangeDrop[] {
    return this.#drops;
  }

  /** So much is kept that a checkpoint should end it. */
  get isMuch(): boolean {
    return this.#drops.length >= DROPS_MAX || this.#savedWords >= SAVED_WORDS_MAX;
  }

  /** Call before the directory changes. */
  add(
    directory: PageDirectory,
    range: { readonly firstPage: number; readonly endPage: number; readonly low: number },
    lsn: number,
  ): void {
    const { firstPage, endPage, low } = range;
    const newest = this.#drops[this.#drops.length - 1];
    assert(newest === undefined || newest.lsn <= lsn, "ranges come in the order of their LSNs");
    const saved = new Map<number, SavedPages>();
    const endChunk = Math.min(Math.ceil(endPage / CHUNK_PAGES), directory.chunks.length);
    for (let chunk = Math.floor(firstPage / CHUNK_PAGES); chunk < endChunk; chunk++) {
      const words = directory.chunks[chunk];
      if (words === undefined) continue;
      const chunkFirst = chunk * CHUNK_PAGES;
      const from = Math.max(0, firstPage - chunkFirst);
      const to = Math.min(CHUNK_PAGES, endPage - chunkFirst);
      const isWhole = to - from === CHUNK_PAGES;
      const entries = isWhole ? words : words.slice(from * CHUNK_WORDS, to * CHUNK_WORDS);
      saved.set(chunk, { firstPage: chunkFirst + from, entries });
      this.#savedWords += entries.length;
    }
    this.#drops.push({ branch: directory.branch, lsn, low, firstPage, endPage, saved });
  }

  /** Where the page's entry is as it was when all records before `nextLsn` had taken effect. */
  entryAt(directory: PageDirectory, page: number, nextLsn: number): PageEntry {
    for (let index = this.firstFrom(nextLsn); index < this.#drops.length; index++) {
      const drop = this.#drops[index] as RangeDrop;
      if (drop.branch !== directory.branch || page < drop.firstPage || page >= drop.endPage)
        continue;
      return savedEntry(drop, page);
    }
    const words = directory.chunks[Math.floor(page / CHUNK_PAGES)];
    return { words, at: (page % CHUNK_PAGES) * CHUNK_WORDS };
  }

  /** Index of the first range whose record is not before `nextLsn`. */
  firstFrom(nextLsn: number): number {
    let index = this.#drops.length;
    while (index > 0 && (this.#drops[index - 1] as RangeDrop).lsn >= nextLsn) index -= 1;
    return index;
  }

  /** A checkpoint has everything before `nextLsn`. */
  release(nextLsn: number): void {
    this.#drops = this.#drops.slice(this.firstFrom(nextLsn));
    this.#savedWords = 0;
    for (const { saved } of this.#drops)
      for (const { entries } of saved.values()) this.#savedWords += entries.length;
  }
}

/** The page's entry before the range dropped it. */
export function savedEntry(drop: RangeDrop, page: number): PageEntry {
  const saved = drop.saved.get(Math.floor(page / CHUNK_PAGES));
  return saved === undefined
    ? { words: undefined, at: 0 }
    : { words: saved.entries, at: (page - saved.firstPage) * CHUNK_WORDS };
}
