// SPDX-License-Identifier: Apache-2.0
//
// The index as it was: the references that a branch held after any record that history still reaches.
//
//   checkpoint ──── changes ──── checkpoint ──── changes ──── newest checkpoint ──── ring
//              │                      list                                     │
//              └ base of a moment here, and the list's changes up to it        └ of one here: the ring's up to it
//
// A page is put together once, when somebody reads it first: image of the base, then the changes up to the moment. Most
// pages have none, and so are an image that is there already: `chunk` says so for 2 GiB at once, by two reads.
//
// A branch that begins at a moment of another asks for the rest there: once per 2 GiB, for what it is told goes
// into its own directory. So reading doesn't get slower with the depth of clones of clones.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { LOW_HOLE } from "../log/reference.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import type { BlockIndex } from "./block-index.ts";
import {
  CHANGE_WORDS,
  type ChangeListFile,
  LIST_ENTRY_WORDS,
  PAGE_WORDS,
  RANGE_WORDS,
} from "./change-list.ts";
import { ChangeListReader } from "./change-list-reader.ts";
import type { HistoryBase } from "./checkpoint-body.ts";
import { baseBefore, type CheckpointState, listsThrough } from "./kept-checkpoints.ts";
import type { ListRepair } from "./list-repair.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  HOLE_CHUNK,
  INHERITED,
  isImage,
  isShared,
  type Origin,
  PAGE_BLOCKS,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
} from "./page-directory.ts";
import {
  decodeLeaf,
  LEAF_BYTES_MAX,
  NODE_KIND,
  type NodeIdentity,
  nodeCorrupt,
  type RunStore,
  readNode,
} from "./run-file.ts";

export interface PastOptions {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly runs: RunStore;
  readonly state: () => Readonly<CheckpointState>;
  /** Gives what damaged change lists say; without it, reading those throws. */
  readonly listRepair?: ListRepair;
}

/** Where an image is. */
interface ImagePlace {
  readonly run: number;
  readonly offset8: number;
}

/** What came between a base and a moment. */
interface Way {
  readonly base: HistoryBase | undefined;
  readonly lists: readonly ChangeListFile[];
}

const PAGE_REFERENCE_WORDS: number = PAGE_BLOCKS * 2;
const ALL = { first: 0, count: PAGE_BLOCKS } as const;
/** In place of a run, while a chunk is put together: an image and changes of the branch itself. */
const CHANGED = 0xfffffffd;

export class Past {
  readonly #options: PastOptions;
  readonly #reader: ChangeListReader;

  constructor(options: PastOptions) {
    this.#options = options;
    this.#reader = new ChangeListReader(options);
  }

  /** Whether what is needed for the moment is there: its base, and the lists from there on. */
  reaches(lsn: number): boolean {
    return this.#isInRing(lsn) || this.#waysTo(lsn).next().done !== true;
  }

  /**
   * The chunk's entries at the moment, in the form of a page directory, or one of the shared ones. INHERITED: the page
   * is an image and changes, and `page` puts it together. Throws POOL_CORRUPT, DISK_IO.
   */
  async chunk(origin: Origin, chunkIndex: number): Promise<Uint32Array> {
    const { index } = this.#options;
    let { branch, lsn } = origin;
    for (;;) {
      const words = this.#isInRing(lsn)
        ? this.#liveChunk(branch, lsn, chunkIndex)
        : await this.#olderChunk(branch, lsn, chunkIndex);
      const above = index.branches.get(branch)?.origin;
      if (words === undefined) {
        if (above === undefined) return HOLE_CHUNK;
        ({ branch, lsn } = above); // nothing of its own: as deep as it may be
        continue;
      }
      if (isShared(words)) return words;
      if (above !== undefined && words.includes(INHERITED))
        await this.#inherit(words, above, chunkIndex);
      for (let at = WORD_RUN; at < words.length; at += CHUNK_WORDS)
        if (words[at] === CHANGED) words[at] = INHERITED;
      return words;
    }
  }

  /** The page's references at the moment, two words a block. Throws POOL_CORRUPT, DISK_IO. */
  async page(origin: Origin, page: number): Promise<Uint32Array> {
    for (;;) {
      const isInRing = this.#isInRing(origin.lsn);
      const found = isInRing
        ? await this.#livePage(origin, page)
        : await this.#olderPage(origin, page);
      if (found !== undefined) return found;
    }
  }

  // ---- moments behind the newest checkpoint

  #isInRing(lsn: number): boolean {
    const { newest } = this.#options.state();
    return lsn + 1 >= (newest?.cut.nextLsn ?? 0);
  }

  #directoryOf(branch: number): PageDirectory {
    const directory = this.#options.index.branches.get(branch);
    assert(directory !== undefined, "a branch that others begin from is kept");
    return directory;
  }

  /** Undefined: all of it is the origin's, or holes. */
  #liveChunk(branch: number, lsn: number, chunkIndex: number): Uint32Array | undefined {
    const { index } = this.#options;
    const directory = this.#directoryOf(branch);
    const live = directory.chunks[chunkIndex];
    const { drops, ring } = index;
    const isDropped = drops.firstFrom(lsn + 1) < drops.all.length;
    if (!isDropped && (live === undefined || isShared(live))) return live;
    const end = ring.endOf(lsn);
    const words = directory.chunkWithout();
    for (let inChunk = 0; inChunk < CHUNK_PAGES; inChunk++) {
      const entry = drops.entryAt(directory, chunkIndex * CHUNK_PAGES + inChunk, lsn + 1);
      if (entry.words === undefined) continue;
      const at = inChunk * CHUNK_WORDS;
      const head = entry.words[entry.at + WORD_HEAD] as number;
      const isChanged = head !== 0 && ring.hasBefore(head, end);
      words[at + WORD_RUN] = isChanged ? CHANGED : (entry.words[entry.at + WORD_RUN] as number);
      words[at + WORD_OFFSET] = entry.words[entry.at + WORD_OFFSET] as number;
    }
    return words;
  }

  /** Undefined when a checkpoint came in between: then once more. */
  async #livePage({ branch, lsn }: Origin, page: number): Promise<Uint32Array | undefined> {
    const { index, memory } = this.#options;
    const directory = this.#directoryOf(branch);
    const { words, at } = index.drops.entryAt(directory, page, lsn + 1);
    const run = words === undefined ? INHERITED : (words[at + WORD_RUN] as number);
    const offset8 = words === undefined ? 0 : (words[at + WORD_OFFSET] as number);
    const atCut = { branch, lsn: lsnOf(this.#options.state().newest) };
    const image = await this.#image(atCut, page, { run, offset8 });
    // The image is as old as the newest checkpoint, and the ring begins there: both may have gone on.
    const now = index.drops.entryAt(directory, page, lsn + 1);
    const isSame =
      this.#isInRing(lsn) &&
      (now.words === undefined ? INHERITED : now.words[now.at + WORD_RUN]) === run &&
      (now.words === undefined ? 0 : now.words[now.at + WORD_OFFSET]) === offset8;
    if (!isSame) return undefined;
    const head = now.words?.[now.at + WORD_HEAD] ?? 0;
    if (head === 0) return image;
    const scratch = memory.scratchAddress;
    memory.words.set(image, scratch >>> 2);
    index.ring.apply(head, scratch, index.ring.endOf(lsn));
    return memory.words.slice(scratch >>> 2, (scratch + BLOCK_BYTES) >>> 2);
  }

  // ---- older moments

  /** The shortest first; others only matter where something is damaged. */
  *#waysTo(lsn: number): IterableIterator<Way> {
    const { bases, newest, lists } = this.#options.state();
    let base = baseBefore(newest === undefined ? bases : [...bases, newest], lsn);
    for (;;) {
      // Before the first checkpoint there was nothing.
      const through = listsThrough(lists, base?.cut.nextLsn ?? 1, lsn);
      if (through === undefined) return;
      yield { base, lists: through };
      if (base === undefined) return;
      base = baseBefore(bases, base.cut.nextLsn - 2);
    }
  }

  /**
   * What `read` finds in the nearest base that it can be read in, and the lists from there, all of which any further way
   * would need as well. Throws POOL_CORRUPT, DISK_IO.
   */
  async #fromABase<T>(
    { branch, lsn }: Origin,
    read: (base: HistoryBase | undefined) => Promise<T>,
  ): Promise<Way & { readonly found: T }> {
    let failure: StorageError | undefined;
    for (const way of this.#waysTo(lsn)) {
      try {
        return { ...way, found: await read(way.base) };
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
    throw new StorageError(
      "POOL_CORRUPT",
      `index: branch ${branch} as of LSN ${lsn}: not read: a checkpoint or a change list of then is missing`,
      { data: { branch, lsn } },
    );
  }

  async #olderChunk(
    branch: number,
    lsn: number,
    chunkIndex: number,
  ): Promise<Uint32Array | undefined> {
    const { found: there, lists } = await this.#fromABase({ branch, lsn }, (base) =>
      this.#baseChunk(base, branch, chunkIndex),
    );
    let words: Uint32Array | undefined;
    const own = (): Uint32Array => {
      words ??= there?.slice() ?? this.#directoryOf(branch).chunkWithout();
      return words;
    };
    const first = chunkIndex * CHUNK_PAGES;
    for (const list of lists) {
      const until = lsn - list.fromLsn;
      const ranges = await this.#reader.ranges(list, branch);
      for (let at = 0; at < ranges.length; at += LIST_ENTRY_WORDS) {
        if ((ranges[at + RANGE_WORDS.lsn] as number) > until) break;
        const low = ranges[at + RANGE_WORDS.low] as number;
        const from = Math.max(0, (ranges[at + RANGE_WORDS.firstPage] as number) - first);
        const to = Math.min(CHUNK_PAGES, (ranges[at + RANGE_WORDS.endPage] as number) - first);
        if (from < to) fillEntries(own(), { from, to }, low);
      }
      const pages = await this.#reader.changedPages(list, { branch, chunk: chunkIndex });
      for (let at = 0; at < pages.length; at += LIST_ENTRY_WORDS) {
        if ((pages[at + PAGE_WORDS.first] as number) > until) continue;
        const entry = (pages[at + PAGE_WORDS.page] as number) * CHUNK_WORDS;
        own()[entry + WORD_RUN] = CHANGED;
      }
    }
    const isNone = words === undefined && (there === undefined || isShared(there));
    return isNone ? there : own();
  }

  async #olderPage(origin: Origin, page: number): Promise<Uint32Array> {
    const { base, found, lists } = await this.#fromABase(origin, (base) =>
      this.#placeInBase(base, origin.branch, page),
    );
    const atBase = { branch: origin.branch, lsn: lsnOf(base) };
    const image = await this.#image(atBase, page, found);
    for (const list of lists) await this.#applyList(image, list, { ...origin, page });
    return image;
  }

  /**
   * The page as it was then, but by no way that leads over the damaged image: what that one is rebuilt with. The moment isn't
   * behind the newest checkpoint. Throws POOL_CORRUPT, DISK_IO.
   */
  async pageWithout(origin: Origin, page: number, damaged: ImagePlace): Promise<Uint32Array> {
    const { found, lists } = await this.#fromABase(origin, (base) =>
      this.pageOfBase(base, origin, page, damaged),
    );
    for (const list of lists) await this.#applyList(found, list, { ...origin, page });
    return found;
  }

  /**
   * What a base says of the page for a moment of the branch behind it, without the damaged image; undefined: what there was
   * before the first. No other image is rebuilt. Throws POOL_CORRUPT, DISK_IO.
   */
  async pageOfBase(
    base: HistoryBase | undefined,
    { branch, lsn }: Origin,
    page: number,
    damaged: ImagePlace,
  ): Promise<Uint32Array> {
    const { run, offset8 } = await this.#placeInBase(base, branch, page);
    const { origin } = this.#directoryOf(branch);
    if (run === INHERITED && origin !== undefined) {
      // One that began later holds what its origin held.
      const above = { branch: origin.branch, lsn: Math.min(origin.lsn, lsn) };
      return await this.pageWithout(above, page, damaged);
    }
    if (run === damaged.run && offset8 === damaged.offset8)
      throw nodeCorrupt(leafPlace(branch, page, damaged), "it can't be read");
    return await this.#storedImage(branch, page, { run, offset8 });
  }

  async #placeInBase(
    base: HistoryBase | undefined,
    branch: number,
    page: number,
  ): Promise<ImagePlace> {
    const words = await this.#baseChunk(base, branch, Math.floor(page / CHUNK_PAGES));
    const at = (page % CHUNK_PAGES) * CHUNK_WORDS;
    return words === undefined
      ? { run: INHERITED, offset8: 0 }
      : { run: words[at + WORD_RUN] as number, offset8: words[at + WORD_OFFSET] as number };
  }

  /** What the list says of the page, up to the moment, in the order of the records. */
  async #applyList(
    image: Uint32Array,
    list: ChangeListFile,
    { branch, page, lsn }: { branch: number; page: number; lsn: number },
  ): Promise<void> {
    const until = lsn - list.fromLsn;
    const ranges = await this.#reader.ranges(list, branch);
    let range = 0;
    const applyRanges = (before: number): void => {
      for (
        ;
        range < ranges.length && (ranges[range + RANGE_WORDS.lsn] as number) < before;
        range += LIST_ENTRY_WORDS
      ) {
        const isHit =
          (ranges[range + RANGE_WORDS.firstPage] as number) <= page &&
          page < (ranges[range + RANGE_WORDS.endPage] as number);
        if (isHit)
          fillReferences(image, ALL, {
            segment: 0,
            low: ranges[range + RANGE_WORDS.low] as number,
          });
      }
    };
    await this.#reader.changes(list, { branch, page, until }, (changes) => {
      for (let at = 0; at < changes.length; at += LIST_ENTRY_WORDS) {
        const delta = changes[at + CHANGE_WORDS.lsn] as number;
        if (delta > until) break;
        applyRanges(delta);
        const blocks = changes[at + CHANGE_WORDS.blocks] as number;
        const segment = changes[at + CHANGE_WORDS.segment] as number;
        const low = changes[at + CHANGE_WORDS.low] as number;
        fillReferences(
          image,
          { first: blocks & 0xffff, count: (blocks >>> 16) + 1 },
          { segment, low },
        );
      }
    });
    applyRanges(until + 1);
  }

  /** The base's entries; undefined: it has none there, which means the origin's, or holes. */
  async #baseChunk(
    base: HistoryBase | undefined,
    branch: number,
    chunk: number,
  ): Promise<Uint32Array | undefined> {
    if (base === undefined) return undefined;
    const root = await this.#reader.root(base, branch, chunk);
    return root === undefined ? undefined : await this.#reader.directory(root);
  }

  // ---- both

  /** Entries that say INHERITED take what the origin's say. */
  async #inherit(words: Uint32Array, above: Origin, chunkIndex: number): Promise<void> {
    const places = await this.chunk(above, chunkIndex);
    for (let at = 0; at < words.length; at += CHUNK_WORDS) {
      if (words[at + WORD_RUN] !== INHERITED) continue;
      words[at + WORD_RUN] = places[at + WORD_RUN] as number;
      words[at + WORD_OFFSET] = places[at + WORD_OFFSET] as number;
    }
  }

  /** A copy of what an entry names, which is what the branch held then. A damaged image is rebuilt. */
  async #image(then: Origin, page: number, { run, offset8 }: ImagePlace): Promise<Uint32Array> {
    const { branch } = then;
    const { origin } = this.#directoryOf(branch);
    if (run === INHERITED && origin !== undefined) return await this.page(origin, page);
    try {
      return await this.#storedImage(branch, page, { run, offset8 });
    } catch (error) {
      const { repair } = this.#options.index;
      if (repair === undefined || !(error instanceof StorageError)) throw error;
      return (await repair.image({ branch, page, run, offset8 }, then, error)).slice();
    }
  }

  async #storedImage(
    branch: number,
    page: number,
    { run, offset8 }: ImagePlace,
  ): Promise<Uint32Array> {
    const { memory, index } = this.#options;
    if (!isImage(run)) {
      const image = new Uint32Array(PAGE_REFERENCE_WORDS);
      if (run === CONSTANT) fillReferences(image, ALL, { segment: 0, low: offset8 });
      return image;
    }
    const place = leafPlace(branch, page, { run, offset8 });
    const target = await memory.reads.acquire(2 * LEAF_BYTES_MAX);
    try {
      const isKin = (other: number): boolean => index.isDescendant(branch, other);
      await readNode(memory, this.#options.runs, {
        ...place,
        isKin,
        target,
        maxBytes: LEAF_BYTES_MAX,
      });
      const image = target + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
      if (!decodeLeaf(memory, target, image)) throw nodeCorrupt(place, "impossible content");
      return memory.words.slice(image >>> 2, (image >>> 2) + PAGE_REFERENCE_WORDS);
    } finally {
      memory.reads.release(target);
    }
  }
}

/** The last record that a checkpoint has. */
function lsnOf(base: HistoryBase | undefined): number {
  return (base?.cut.nextLsn ?? 1) - 1;
}

function leafPlace(
  branch: number,
  page: number,
  { run, offset8 }: ImagePlace,
): NodeIdentity & { readonly run: number; readonly offset: number } {
  return { kind: NODE_KIND.LEAF, branch, position: page, run, offset: offset8 * 8 };
}

function fillEntries(
  words: Uint32Array,
  { from, to }: { readonly from: number; readonly to: number },
  low: number,
): void {
  for (let at = from * CHUNK_WORDS; at < to * CHUNK_WORDS; at += CHUNK_WORDS) {
    words[at + WORD_RUN] = low === LOW_HOLE ? 0 : CONSTANT;
    words[at + WORD_OFFSET] = low;
  }
}

function fillReferences(
  image: Uint32Array,
  { first, count }: { readonly first: number; readonly count: number },
  { segment, low }: { readonly segment: number; readonly low: number },
): void {
  for (let at = first * 2; at < (first + count) * 2; at += 2) {
    image[at] = segment;
    image[at + 1] = low;
  }
}
