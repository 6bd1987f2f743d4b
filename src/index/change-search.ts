// SPDX-License-Identifier: Apache-2.0
//
// Which records changed a range of blocks: by the ring of what came behind the newest checkpoint, and by the change lists
// before it, newest first. Nothing of the log is read. What is found is bounded by `limit`, and so is the memory that takes;
// of a list only the pages in the range are read, and of those the nodes that can still count.

import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BlockIndex } from "./block-index.ts";
import {
  CHANGE_WORDS,
  type ChangeListFile,
  LIST_ENTRY_WORDS,
  PAGE_WORDS,
  RANGE_WORDS,
} from "./change-list.ts";
import { ChangeListReader } from "./change-list-reader.ts";
import type { CheckpointState } from "./kept-checkpoints.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  PAGE_BLOCKS,
  type PageDirectory,
  WORD_HEAD,
} from "./page-directory.ts";
import { savedEntry } from "./range-drops.ts";
import type { RunStore } from "./run-file.ts";
import { RunReadAhead } from "./run-read-ahead.ts";

/** Blocks [lba, end) of a branch, and records with LSNs [fromLsn, endLsn). */
export interface SearchedBlocks {
  readonly branch: number;
  readonly lba: number;
  readonly end: number;
  readonly fromLsn: number;
  readonly endLsn: number;
}

/** A record that changed blocks in the range, the first and the last of which these are. */
export interface FoundChange {
  readonly lsn: number;
  readonly lba: number;
  readonly end: number;
}

export interface ChangeSearchOptions {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly runs: RunStore;
  readonly state: () => Readonly<CheckpointState>;
  /** Requests come between. */
  readonly pause: () => Promise<void>;
}

/** Pages between two turns of the event loop. */
const SLICE_PAGES = 48;

/** No checkpoint lets go of lists meanwhile: the caller has pinned them. */
export class ChangeSearch {
  readonly #options: ChangeSearchOptions;
  readonly #reader: ChangeListReader;
  #sliceLeft = SLICE_PAGES;

  constructor(options: ChangeSearchOptions) {
    this.#options = options;
    const { memory, runs } = options;
    this.#reader = new ChangeListReader({ memory, runs: new RunReadAhead(runs) });
  }

  /** The first LSN from which on all changes are known. */
  get knownFromLsn(): number {
    const { newest, lists } = this.#options.state();
    let from = newest?.cut.nextLsn ?? 0;
    for (const list of [...lists].reverse()) {
      if (list.endLsn !== from) break;
      from = list.fromLsn;
    }
    return from;
  }

  /** The newest `limit` of them, newest first. Throws POOL_CORRUPT, DISK_IO. */
  async newest(wanted: SearchedBlocks, limit: number): Promise<FoundChange[]> {
    const { state } = this.#options;
    for (;;) {
      const { newest, lists } = state();
      const found = new NewestChanges(wanted, limit);
      await this.#searchRing(wanted, newest?.cut.nextLsn ?? 0, found);
      let end = newest?.cut.nextLsn ?? 0;
      for (const list of [...lists].reverse()) {
        if (list.endLsn !== end || found.isFull || list.endLsn <= wanted.fromLsn) break;
        if (list.fromLsn < wanted.endLsn) await this.#searchList(list, wanted, found);
        end = list.fromLsn;
      }
      // A checkpoint that came in between has moved what was in the ring.
      if (state().newest === newest) return found.take();
    }
  }

  // ---- behind the newest checkpoint

  async #searchRing(wanted: SearchedBlocks, fromLsn: number, found: NewestChanges): Promise<void> {
    if (wanted.endLsn <= fromLsn) return;
    const { index } = this.#options;
    const directory = index.branches.get(wanted.branch);
    if (directory === undefined) return;
    for (const { branch, lsn, firstPage, endPage } of index.drops.all)
      if (branch === wanted.branch) found.addPages(lsn, firstPage, endPage);
    const endPage = Math.min(
      Math.ceil(wanted.end / PAGE_BLOCKS),
      Math.max(directory.chunks.length, ...this.#droppedChunks(wanted.branch)) * CHUNK_PAGES,
    );
    for (let page = Math.floor(wanted.lba / PAGE_BLOCKS); page < endPage; page++) {
      const isNothing = page % CHUNK_PAGES === 0 && this.#isUntouched(directory, page);
      if (isNothing) page += CHUNK_PAGES - 1;
      else this.#searchPage(directory, page, fromLsn, found);
      await this.#pause();
    }
  }

  #droppedChunks(branch: number): number[] {
    return this.#options.index.drops.all
      .filter((drop) => drop.branch === branch)
      .flatMap(({ saved }) => [...saved.keys()].map((chunk) => chunk + 1));
  }

  /** Nothing of the chunk that the page begins is in the ring. */
  #isUntouched(directory: PageDirectory, page: number): boolean {
    const chunk = Math.floor(page / CHUNK_PAGES);
    const { drops } = this.#options.index;
    return (
      directory.chunks[chunk] === undefined &&
      !drops.all.some(({ branch, saved }) => branch === directory.branch && saved.has(chunk))
    );
  }

  #searchPage(directory: PageDirectory, page: number, fromLsn: number, found: NewestChanges): void {
    const { ring, drops } = this.#options.index;
    const sequences: number[] = [];
    const words = directory.chunks[Math.floor(page / CHUNK_PAGES)];
    const head = words?.[(page % CHUNK_PAGES) * CHUNK_WORDS + WORD_HEAD] ?? 0;
    let count = ring.collect(head, ring.next, sequences, 0);
    for (const drop of drops.all) {
      const isHit =
        drop.branch === directory.branch && drop.firstPage <= page && page < drop.endPage;
      if (!isHit) continue;
      const saved = savedEntry(drop, page);
      const savedHead = saved.words?.[saved.at + WORD_HEAD] ?? 0;
      count = ring.collect(savedHead, ring.next, sequences, count);
    }
    for (const sequence of sequences) {
      ring.putChange(CHANGE, 0, sequence, fromLsn);
      const lba = page * PAGE_BLOCKS + CHANGE.getUint16(4, true);
      found.add(fromLsn + CHANGE.getUint32(0, true), lba, CHANGE.getUint16(6, true) + 1);
    }
  }

  // ---- before it

  async #searchList(
    list: ChangeListFile,
    wanted: SearchedBlocks,
    found: NewestChanges,
  ): Promise<void> {
    const { branch, lba, end } = wanted;
    const { fromLsn } = list;
    const ranges = await this.#reader.ranges(list, branch);
    for (let at = 0; at < ranges.length; at += LIST_ENTRY_WORDS)
      found.addPages(
        fromLsn + (ranges[at + RANGE_WORDS.lsn] as number),
        ranges[at + RANGE_WORDS.firstPage] as number,
        ranges[at + RANGE_WORDS.endPage] as number,
      );
    const firstPage = Math.floor(lba / PAGE_BLOCKS);
    const endPage = Math.ceil(end / PAGE_BLOCKS);
    const endChunk = Math.ceil(endPage / CHUNK_PAGES);
    for (let chunk = Math.floor(firstPage / CHUNK_PAGES); chunk < endChunk; chunk++) {
      const pages = await this.#reader.changedPages(list, { branch, chunk });
      let searched = -1;
      for (let at = 0; at < pages.length; at += LIST_ENTRY_WORDS) {
        const page = chunk * CHUNK_PAGES + (pages[at + PAGE_WORDS.page] as number);
        const first = fromLsn + (pages[at + PAGE_WORDS.first] as number);
        const last = fromLsn + (pages[at + PAGE_WORDS.last] as number);
        const isHit = page >= firstPage && page < endPage && page !== searched;
        if (!isHit || !found.mayCount(first, last)) continue;
        searched = page;
        const until = wanted.endLsn - fromLsn;
        await this.#reader.changes(list, { branch, page, until }, (changes) =>
          addAll(changes, { fromLsn, page }, found),
        );
        await this.#pause();
      }
    }
  }

  #pause(): Promise<void> | undefined {
    this.#sliceLeft -= 1;
    if (this.#sliceLeft > 0) return undefined;
    this.#sliceLeft = SLICE_PAGES;
    return this.#options.pause();
  }
}

/** One change out of the ring, in the form of a list. */
const CHANGE = new DataView(new ArrayBuffer(16));

function addAll(
  changes: Uint32Array,
  { fromLsn, page }: { readonly fromLsn: number; readonly page: number },
  found: NewestChanges,
): void {
  for (let at = 0; at < changes.length; at += LIST_ENTRY_WORDS) {
    const blocks = changes[at + CHANGE_WORDS.blocks] as number;
    const lba = page * PAGE_BLOCKS + (blocks & 0xffff);
    found.add(fromLsn + (changes[at + CHANGE_WORDS.lsn] as number), lba, (blocks >>> 16) + 1);
  }
}

/** The newest records that were found so far. */
class NewestChanges {
  readonly #wanted: SearchedBlocks;
  readonly #limit: number;
  #found: Map<number, { lsn: number; lba: number; end: number }> = new Map();
  /** Older ones don't count any more. */
  #fromLsn: number;

  constructor(wanted: SearchedBlocks, limit: number) {
    this.#wanted = wanted;
    this.#limit = limit;
    this.#fromLsn = wanted.fromLsn;
  }

  get isFull(): boolean {
    return this.#found.size >= this.#limit;
  }

  /** Whether any record from `first` to `last` may be one of them. */
  mayCount(first: number, last: number): boolean {
    return last >= this.#fromLsn && first < this.#wanted.endLsn;
  }

  addPages(lsn: number, firstPage: number, endPage: number): void {
    this.add(lsn, firstPage * PAGE_BLOCKS, (endPage - firstPage) * PAGE_BLOCKS);
  }

  add(lsn: number, lba: number, blockCount: number): void {
    const wanted = this.#wanted;
    const from = Math.max(lba, wanted.lba);
    const end = Math.min(lba + blockCount, wanted.end);
    if (from >= end || !this.mayCount(lsn, lsn)) return;
    const known = this.#found.get(lsn);
    if (known !== undefined) {
      known.lba = Math.min(known.lba, from);
      known.end = Math.max(known.end, end);
      return;
    }
    this.#found.set(lsn, { lsn, lba: from, end });
    if (this.#found.size >= 2 * this.#limit)
      this.#found = new Map(this.take().map((one) => [one.lsn, one]));
  }

  take(): FoundChange[] {
    const newest = [...this.#found.values()].sort((a, b) => b.lsn - a.lsn).slice(0, this.#limit);
    const oldest = newest[newest.length - 1];
    if (newest.length === this.#limit && oldest !== undefined) this.#fromLsn = oldest.lsn;
    return newest;
  }
}
