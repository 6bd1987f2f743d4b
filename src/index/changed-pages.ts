// SPDX-License-Identifier: Apache-2.0
//
// Which pages changed on some parts of branches: by the ring and the dropped ranges of what came behind the newest
// checkpoint, by the change lists before it. Pages are told, not blocks, and a few too many: of what a list has of a page
// only the first and the last record are looked at. Who wants to know exactly compares what the page held.
//
// What it costs goes by the changes, not by the size of the volumes: a list's roots name the chunks that it tells of.

import type { BlockIndex } from "./block-index.ts";
import type { WayPart } from "./branch-ways.ts";
import { type ChangeListFile, LIST_ENTRY_WORDS, PAGE_WORDS, RANGE_WORDS } from "./change-list.ts";
import { ChangeListReader, type ChangeListSource } from "./change-list-reader.ts";
import type { CheckpointState } from "./kept-checkpoints.ts";
import { CHUNK_PAGES, CHUNK_WORDS, isShared, WORD_HEAD } from "./page-directory.ts";
import { savedEntry } from "./range-drops.ts";

export interface ChangedPagesOptions extends ChangeListSource {
  readonly index: BlockIndex;
  readonly state: () => Readonly<CheckpointState>;
}

/** Pages, or chunks, from a first one on: 1 where something may have changed. */
export type Marks = Uint8Array;

/** No checkpoint lets go of lists meanwhile: the caller has pinned them. */
export class ChangedPages {
  readonly #options: ChangedPagesOptions;
  readonly #reader: ChangeListReader;

  constructor(options: ChangedPagesOptions) {
    this.#options = options;
    this.#reader = new ChangeListReader(options);
  }

  /** Whether all that happened there is known. */
  knows(parts: readonly WayPart[]): boolean {
    return parts.every((part) => this.#listsOf(part) !== undefined);
  }

  /** Marks the chunks from `first` on where something may have changed. Throws POOL_CORRUPT, DISK_IO. */
  async chunks(parts: readonly WayPart[], first: number, marks: Marks): Promise<void> {
    for (const part of parts) {
      this.#chunksInRing(part, first, marks);
      for (const list of this.#listsOf(part) ?? []) {
        const { chunks } = await this.#reader.places(list);
        for (const { branch, chunk } of chunks)
          if (branch === part.branch && chunk >= first && chunk < first + marks.length)
            marks[chunk - first] = 1;
        await this.#eachRange(list, part, (firstPage, endPage) =>
          markChunks({ firstPage, endPage }, first, marks),
        );
      }
    }
  }

  /** Marks the pages of a chunk likewise. */
  async pages(parts: readonly WayPart[], chunk: number, marks: Marks): Promise<void> {
    const firstPage = chunk * CHUNK_PAGES;
    for (const part of parts) {
      // In one turn: what a checkpoint takes out of the ring is in a list.
      const lists = this.#listsOf(part) ?? [];
      this.#pagesInRing(part, chunk, marks);
      for (const list of lists) {
        const { low, high } = within(list, part);
        await this.#eachRange(list, part, (first, end) =>
          marks.fill(1, Math.max(0, first - firstPage), Math.max(0, end - firstPage)),
        );
        const pages = await this.#reader.changedPages(list, { branch: part.branch, chunk });
        for (let at = 0; at < pages.length; at += LIST_ENTRY_WORDS) {
          const isHit =
            (pages[at + PAGE_WORDS.first] as number) <= high &&
            (pages[at + PAGE_WORDS.last] as number) >= low;
          if (isHit) marks[pages[at + PAGE_WORDS.page] as number] = 1;
        }
      }
    }
  }

  // ---- lists

  /** The lists that tell of the part, as far as it lies before the newest checkpoint; undefined: one is missing. */
  #listsOf({ afterLsn, lsn }: WayPart): readonly ChangeListFile[] | undefined {
    const { newest, lists } = this.#options.state();
    const endLsn = Math.min(lsn + 1, newest?.cut.nextLsn ?? 0);
    let reached = afterLsn + 1;
    const found: ChangeListFile[] = [];
    for (const list of lists) {
      if (reached >= endLsn) break;
      if (list.endLsn <= reached) continue;
      if (list.fromLsn > reached) return undefined;
      found.push(list);
      reached = list.endLsn;
    }
    return reached >= endLsn ? found : undefined;
  }

  /** Trims and zeroes of whole pages that the list has of the part. */
  async #eachRange(
    list: ChangeListFile,
    part: WayPart,
    tell: (firstPage: number, endPage: number) => void,
  ): Promise<void> {
    const { low, high } = within(list, part);
    const ranges = await this.#reader.ranges(list, part.branch);
    for (let at = 0; at < ranges.length; at += LIST_ENTRY_WORDS) {
      const lsn = ranges[at + RANGE_WORDS.lsn] as number;
      if (lsn >= low && lsn <= high)
        tell(
          ranges[at + RANGE_WORDS.firstPage] as number,
          ranges[at + RANGE_WORDS.endPage] as number,
        );
    }
  }

  // ---- behind the newest checkpoint

  /** The sequences of the part's changes that are still in the ring; undefined: it ends before it. */
  #inRing({
    afterLsn,
    lsn,
  }: WayPart): { readonly begin: number; readonly end: number } | undefined {
    const { index, state } = this.#options;
    const firstLsn = state().newest?.cut.nextLsn ?? 0;
    if (lsn < firstLsn) return undefined;
    const { ring } = index;
    return { begin: ring.endOf(Math.max(afterLsn, firstLsn - 1)), end: ring.endOf(lsn) };
  }

  #chunksInRing(part: WayPart, first: number, marks: Marks): void {
    const { drops, branches } = this.#options.index;
    if (this.#inRing(part) === undefined) return;
    const chunks = branches.get(part.branch)?.chunks ?? [];
    const end = Math.min(chunks.length, first + marks.length);
    for (let chunk = first; chunk < end; chunk++) {
      const words = chunks[chunk];
      if (words !== undefined && !isShared(words)) marks[chunk - first] = 1;
    }
    for (const drop of drops.all)
      if (drop.branch === part.branch && drop.lsn > part.afterLsn) markChunks(drop, first, marks);
  }

  #pagesInRing(part: WayPart, chunk: number, marks: Marks): void {
    const between = this.#inRing(part);
    if (between === undefined) return;
    const { begin, end } = between;
    const { ring, drops, branches } = this.#options.index;
    const firstPage = chunk * CHUNK_PAGES;
    const isHit = (head: number): boolean => head !== 0 && ring.hasBetween(head, begin, end);
    const words = branches.get(part.branch)?.chunks[chunk];
    if (words !== undefined && !isShared(words)) {
      for (let page = 0; page < CHUNK_PAGES; page++)
        if (isHit(words[page * CHUNK_WORDS + WORD_HEAD] as number)) marks[page] = 1;
    }
    for (const drop of drops.all) {
      if (drop.branch !== part.branch || drop.lsn <= part.afterLsn) continue;
      const from = Math.max(0, drop.firstPage - firstPage);
      const to = Math.min(CHUNK_PAGES, drop.endPage - firstPage);
      if (from >= to) continue;
      if (drop.lsn <= part.lsn) marks.fill(1, from, to);
      else if (drop.saved.has(chunk))
        for (let page = from; page < to; page++) {
          const saved = savedEntry(drop, firstPage + page);
          if (isHit(saved.words?.[saved.at + WORD_HEAD] ?? 0)) marks[page] = 1;
        }
    }
  }
}

/** The part's records in the list: LSNs less its first. */
function within(list: ChangeListFile, { afterLsn, lsn }: WayPart): { low: number; high: number } {
  return { low: Math.max(0, afterLsn + 1 - list.fromLsn), high: lsn - list.fromLsn };
}

function markChunks(
  { firstPage, endPage }: { readonly firstPage: number; readonly endPage: number },
  first: number,
  marks: Marks,
): void {
  const from = Math.max(0, Math.floor(firstPage / CHUNK_PAGES) - first);
  const to = Math.ceil(endPage / CHUNK_PAGES) - first;
  if (from < to) marks.fill(1, from, to);
}
