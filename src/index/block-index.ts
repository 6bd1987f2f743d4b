// SPDX-License-Identifier: Apache-2.0
//
// The index of live branches: (branch, LBA) → reference of the newest version.
//
//   page directory → page in a slot                       one array access, the common case
//                  → image in a run + changes in the ring  one read, then as above
//                  → changes only, or nothing              no read
//
// A page in memory is a pure cache: what it holds is its image (as of the last checkpoint) plus its chain of
// changes in the delta ring. A write goes to the chain, and to the page if it is there; it never waits for a
// page. Trims and zeroes of whole pages edit the directory, of whole chunks an array element, so a trim of
// 16 TiB is quick whatever lies under it.
//
// A branch may begin at a moment of another one, its origin (page-directory.ts): then its pages come from the past
// (past.ts). So do those of views, which are branches that nobody writes and no checkpoint knows.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import { DeltaRing } from "./delta-ring.ts";
import type { Leaf, LeafRepair } from "./leaf-repair.ts";
import {
  CHUNK_BLOCKS,
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  INHERITED,
  isImage,
  isShared,
  type Origin,
  PAGE_BLOCKS,
  PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
} from "./page-directory.ts";
import type { Past } from "./past.ts";
import { RangeDrops } from "./range-drops.ts";
import { RelocationIndex } from "./relocation-index.ts";
import {
  decodeLeaf,
  LEAF_BYTES_MAX,
  NODE_KIND,
  nodeCorrupt,
  putDenseLeaf,
  type RunStore,
  readNode,
} from "./run-file.ts";
import { SlotCache } from "./slot-cache.ts";

/** `lookup`: the page must be loaded first. */
export const NOT_LOADED = -1;

/** Chunks that views know at once: 32 MiB. Whatever is dropped is asked for again. */
const VIEW_CHUNKS_MAX = 2048;
/** Branches from here on are views: they live in memory only. */
const FIRST_VIEW = 0x80000000;

export class BlockIndex {
  readonly memory: BlockMemory;
  readonly slots: SlotCache;
  readonly ring: DeltaRing;
  /** Where the frames that references name are, if they were moved. */
  readonly relocations: RelocationIndex;
  readonly branches: Map<number, PageDirectory> = new Map();
  readonly views: Map<number, PageDirectory> = new Map();
  /** Ranges of whole pages that were dropped since the newest checkpoint. */
  readonly drops: RangeDrops = new RangeDrops();
  readonly #runs: RunStore;
  readonly #loading: Map<string, Promise<void>> = new Map();
  /** Whether chunks that were marked as changed are being written. */
  isCheckpointing = false;
  /** What origins hold; set where branches have any. */
  past: Past | undefined;
  #nextView = FIRST_VIEW;
  /** Chunks that views know, oldest first; some may be gone. */
  readonly #viewChunks: { readonly directory: PageDirectory; readonly chunkIndex: number }[] = [];
  /** Set where damaged pages are to be rebuilt; without it, reading one throws POOL_CORRUPT or DISK_IO. */
  repair: LeafRepair | undefined;
  /** Segment of the reference that `lookup` found. */
  foundSegment = 0;
  pageReadCount = 0;

  constructor(memory: BlockMemory, runs: RunStore) {
    this.memory = memory;
    this.#runs = runs;
    this.ring = new DeltaRing(memory);
    this.slots = new SlotCache(memory, this);
    this.relocations = new RelocationIndex(memory, this.slots, runs);
  }

  addBranch(branch: number, origin?: Origin): PageDirectory {
    assert(!this.branches.has(branch) && branch < FIRST_VIEW, "a branch is added once");
    const directory = new PageDirectory(branch, origin);
    this.branches.set(branch, directory);
    return directory;
  }

  /** A moment to be read, until it is removed. */
  addView(origin: Origin): PageDirectory {
    while (this.views.has(this.#nextView)) this.#nextView = viewAfter(this.#nextView);
    const directory = new PageDirectory(this.#nextView, origin);
    this.views.set(directory.branch, directory);
    this.#nextView = viewAfter(this.#nextView);
    return directory;
  }

  /** Nobody may read it any more; what is being loaded for it ends with MOMENT_GONE. */
  removeView(directory: PageDirectory): void {
    this.#forgetPages(directory);
    this.views.delete(directory.branch);
  }

  /** Nothing of the branch is needed any more. */
  removeBranch(directory: PageDirectory): void {
    this.#forgetPages(directory);
    this.branches.delete(directory.branch);
  }

  /** Nobody changes the branch again, and older checkpoints have what it held. */
  emptyBranch(directory: PageDirectory): void {
    this.#emptyPages(directory);
    directory.locations.clear();
    directory.changed.clear();
  }

  #forgetPages(directory: PageDirectory): void {
    directory.isRemoved = true;
    this.#emptyPages(directory);
  }

  #emptyPages(directory: PageDirectory): void {
    for (const [chunkIndex, chunk] of directory.chunks.entries()) {
      if (chunk !== undefined && !isShared(chunk)) this.#releasePages(chunk, 0, CHUNK_PAGES);
      directory.chunks[chunkIndex] = undefined;
    }
  }

  /** Whether `changeCount` changes fit the ring now. */
  hasRoom(changeCount: number): boolean {
    return this.ring.room >= changeCount;
  }

  /** The low word of the block's reference (segment in `foundSegment`), or NOT_LOADED. */
  lookup(directory: PageDirectory, lba: number): number {
    const page = Math.floor(lba / PAGE_BLOCKS);
    const chunk = directory.chunks[Math.floor(page / CHUNK_PAGES)];
    this.foundSegment = 0;
    if (chunk === undefined) return directory.origin === undefined ? LOW_HOLE : NOT_LOADED;
    const at = (page % CHUNK_PAGES) * CHUNK_WORDS;
    let slot = (chunk[at + WORD_SLOT] as number) - 1;
    if (slot < 0) {
      const run = chunk[at + WORD_RUN] as number;
      if (chunk[at + WORD_HEAD] === 0) {
        if (run === 0) return LOW_HOLE;
        if (run === CONSTANT) return chunk[at + WORD_OFFSET] as number;
      }
      if (run !== 0 && run !== CONSTANT) return NOT_LOADED;
      slot = this.#materialize(directory, page, chunk);
    }
    this.slots.touchPage(slot);
    const word = (this.slots.addressOf(slot) >>> 2) + (lba % PAGE_BLOCKS) * 2;
    this.foundSegment = this.memory.words[word] as number;
    return this.memory.words[word + 1] as number;
  }

  /** Reads the page that holds `lba` into a slot, unless it is there. Throws POOL_CORRUPT, DISK_IO. */
  load(directory: PageDirectory, lba: number): Promise<void> {
    const page = Math.floor(lba / PAGE_BLOCKS);
    return this.#once(`${directory.branch}.${page}`, () => this.#load(directory, page));
  }

  /** One at a time of what has the same key: who comes later waits for the one under way. */
  #once(key: string, work: () => Promise<void>): Promise<void> {
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = work().finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  /** Blocks [lba, lba + blockCount) have the references at `references` since the record `lsn`. Room was checked. */
  applyWrote(
    directory: PageDirectory,
    range: { readonly lba: number; readonly blockCount: number },
    references: number,
    lsn: number,
  ): void {
    const words = this.memory.words;
    const lsnLow = lsn >>> 0;
    let lba = range.lba;
    let at = references >>> 2;
    const end = lba + range.blockCount;
    while (lba < end) {
      const page = Math.floor(lba / PAGE_BLOCKS);
      const chunkIndex = Math.floor(page / CHUNK_PAGES);
      const chunk = directory.chunkFor(chunkIndex);
      const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
      const pageEnd = Math.min(end, (page + 1) * PAGE_BLOCKS);
      const slot = (chunk[entry + WORD_SLOT] as number) - 1;
      const slotWord = slot < 0 ? 0 : this.slots.addressOf(slot) >>> 2;
      let head = chunk[entry + WORD_HEAD] as number;
      if (head === 0) directory.changed.add(chunkIndex);
      for (; lba < pageEnd; lba++) {
        const block = lba % PAGE_BLOCKS;
        const segment = words[at] as number;
        const low = words[at + 1] as number;
        head = this.ring.pushBlocks(head, block, segment, low, lsnLow);
        if (slot >= 0) {
          words[slotWord + block * 2] = segment;
          words[slotWord + block * 2 + 1] = low;
        }
        at += 2;
      }
      chunk[entry + WORD_HEAD] = head;
    }
  }

  /** Blocks of the range are all holes (LOW_HOLE) or all zeros (LOW_ZERO) since the record `lsn`. Needs room for two changes. */
  applyConstant(
    directory: PageDirectory,
    range: { readonly lba: number; readonly blockCount: number },
    low: number,
    lsn: number,
  ): void {
    assert(low === LOW_HOLE || low === LOW_ZERO, "a range becomes holes or zeros");
    const end = range.lba + range.blockCount;
    const firstPage = Math.ceil(range.lba / PAGE_BLOCKS);
    const endPage = Math.floor(end / PAGE_BLOCKS);
    if (firstPage > endPage) {
      this.#applyPart(directory, { lba: range.lba, end, low }, lsn);
      return;
    }
    this.#applyPart(directory, { lba: range.lba, end: firstPage * PAGE_BLOCKS, low }, lsn);
    this.#applyPages(directory, { firstPage, endPage, low }, lsn);
    this.#applyPart(directory, { lba: endPage * PAGE_BLOCKS, end, low }, lsn);
  }

  pageDropped(branch: number, page: number): void {
    const directory = branch < FIRST_VIEW ? this.branches.get(branch) : this.views.get(branch);
    const chunk = directory?.chunks[Math.floor(page / CHUNK_PAGES)];
    assert(chunk !== undefined, "a page in memory belongs to a chunk");
    chunk[(page % CHUNK_PAGES) * CHUNK_WORDS + WORD_SLOT] = 0;
  }

  /** Bytes of page directories and of what is known of moved frames: outside the slots, inside the budget. */
  get directoryBytes(): number {
    let chunks = 0;
    for (const directory of this.#directories()) {
      for (const chunk of directory.chunks)
        if (chunk !== undefined && !isShared(chunk)) chunks += 1;
    }
    return chunks * CHUNK_PAGES * CHUNK_WORDS * 4 + this.relocations.memoryBytes;
  }

  /** Every page in memory equals its image plus changes, as far as that can be told without reading. */
  checkInvariants(): void {
    this.slots.checkInvariants();
    this.relocations.checkInvariants();
    let resident = 0;
    for (const directory of this.#directories()) {
      for (const [chunkIndex, chunk] of directory.chunks.entries()) {
        if (chunk === undefined) continue;
        for (let page = 0; page < CHUNK_PAGES; page++) {
          if (chunk[page * CHUNK_WORDS + WORD_SLOT] !== 0) resident += 1;
          const head = chunk[page * CHUNK_WORDS + WORD_HEAD] as number;
          assert(head === 0 || this.ring.isLive(head), "a head names a live change (I5)");
          const isMarked = directory.changed.has(chunkIndex) || this.isCheckpointing;
          assert(head === 0 || isMarked, "a chunk with changes is marked (I6)");
        }
      }
    }
    assert(resident === this.slots.pageCount, "pages in slots and directories agree");
  }

  *#directories(): IterableIterator<PageDirectory> {
    yield* this.branches.values();
    yield* this.views.values();
  }

  // ---- ranges

  #applyPart(
    directory: PageDirectory,
    { lba, end, low }: { readonly lba: number; readonly end: number; readonly low: number },
    lsn: number,
  ): void {
    if (lba >= end) return;
    const page = Math.floor(lba / PAGE_BLOCKS);
    const chunkIndex = Math.floor(page / CHUNK_PAGES);
    if (low === LOW_HOLE && directory.isHole(chunkIndex)) return;
    const chunk = directory.chunkFor(chunkIndex);
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const first = lba % PAGE_BLOCKS;
    const count = end - lba;
    directory.changed.add(chunkIndex);
    chunk[entry + WORD_HEAD] = this.ring.push(
      chunk[entry + WORD_HEAD] as number,
      { first, count },
      { segment: 0, low },
      lsn,
    );
    const slot = (chunk[entry + WORD_SLOT] as number) - 1;
    if (slot < 0) return;
    const word = (this.slots.addressOf(slot) >>> 2) + first * 2;
    for (let at = word; at < word + count * 2; at += 2) {
      this.memory.words[at] = 0;
      this.memory.words[at + 1] = low;
    }
  }

  #applyPages(
    directory: PageDirectory,
    range: { readonly firstPage: number; readonly endPage: number; readonly low: number },
    lsn: number,
  ): void {
    const { firstPage, endPage, low } = range;
    if (firstPage >= endPage) return;
    const { branch } = directory;
    this.drops.add(directory, range, lsn);
    // Of a large range the pages in memory are fewer than the pages.
    const firstWhole = Math.ceil(firstPage / CHUNK_PAGES) * CHUNK_PAGES;
    const endWhole = Math.floor(endPage / CHUNK_PAGES) * CHUNK_PAGES;
    const isBySlot = endWhole - firstWhole > this.slots.touchedCount;
    if (isBySlot) this.slots.releasePages(branch, firstWhole, endWhole);
    const firstChunk = Math.floor(firstPage / CHUNK_PAGES);
    const isRestHole = low === LOW_HOLE && directory.origin === undefined;
    const endChunk = isRestHole
      ? Math.min(Math.ceil(endPage / CHUNK_PAGES), directory.chunks.length)
      : Math.ceil(endPage / CHUNK_PAGES);
    for (let chunkIndex = firstChunk; chunkIndex < endChunk; chunkIndex++) {
      const chunk = directory.chunks[chunkIndex];
      if (low === LOW_HOLE && directory.isHole(chunkIndex)) continue;
      const from = Math.max(0, firstPage - chunkIndex * CHUNK_PAGES);
      const to = Math.min(CHUNK_PAGES, endPage - chunkIndex * CHUNK_PAGES);
      const isWhole = to - from === CHUNK_PAGES;
      directory.changed.add(chunkIndex);
      if (chunk !== undefined && !isShared(chunk) && !(isBySlot && isWhole))
        this.#releasePages(chunk, from, to);
      if (isWhole) directory.putConstant(chunkIndex, low);
      else this.#setPages(directory.chunkFor(chunkIndex), from, to, low);
    }
  }

  #releasePages(chunk: Uint32Array, from: number, to: number): void {
    for (let at = from * CHUNK_WORDS; at < to * CHUNK_WORDS; at += CHUNK_WORDS) {
      const slot = chunk[at + WORD_SLOT] as number;
      if (slot !== 0) this.slots.releasePage(slot - 1);
      chunk[at + WORD_SLOT] = 0;
    }
  }

  #setPages(chunk: Uint32Array, from: number, to: number, low: number): void {
    for (let at = from * CHUNK_WORDS; at < to * CHUNK_WORDS; at += CHUNK_WORDS) {
      chunk[at + WORD_HEAD] = 0;
      chunk[at + WORD_RUN] = low === LOW_HOLE ? 0 : CONSTANT;
      chunk[at + WORD_OFFSET] = low;
    }
  }

  // ---- pages

  /** Builds a page that has no image from its changes. */
  #materialize(directory: PageDirectory, page: number, chunk: Uint32Array): number {
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const slot = this.slots.addPage(directory.branch, page);
    const address = this.slots.addressOf(slot);
    this.fillConstant(
      address,
      chunk[entry + WORD_RUN] === CONSTANT ? (chunk[entry + WORD_OFFSET] as number) : LOW_HOLE,
    );
    this.ring.apply(chunk[entry + WORD_HEAD] as number, address);
    chunk[entry + WORD_SLOT] = slot + 1;
    return slot;
  }

  fillConstant(pageAddress: number, low: number): void {
    if (low === LOW_HOLE) {
      const { bytes, zerosAddress } = this.memory;
      bytes.copyWithin(pageAddress, zerosAddress, zerosAddress + BLOCK_BYTES);
      return;
    }
    for (let word = pageAddress >>> 2; word < (pageAddress + BLOCK_BYTES) >>> 2; word += 2) {
      this.memory.words[word] = 0;
      this.memory.words[word + 1] = low;
    }
  }

  async #load(directory: PageDirectory, page: number): Promise<void> {
    const chunkIndex = Math.floor(page / CHUNK_PAGES);
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    for (;;) {
      if (directory.isRemoved)
        throw new StorageError(
          "MOMENT_GONE",
          `index: page ${page} of a view: not read: it was closed`,
        );
      const chunk = directory.chunks[chunkIndex];
      if (chunk !== undefined && chunk[entry + WORD_SLOT] !== 0) return;
      const run = chunk === undefined ? INHERITED : (chunk[entry + WORD_RUN] as number);
      if (run === INHERITED) {
        const { origin } = directory;
        if (origin === undefined) return;
        if (chunk !== undefined && directory.resolved.has(chunkIndex))
          await this.#loadInherited(directory, page);
        else
          await this.#once(`${directory.branch}/${chunkIndex}`, () =>
            this.#resolve(directory, origin, chunkIndex),
          );
      } else if (isImage(run)) await this.#loadImage(directory, page);
      else return; // lookup() builds it
    }
  }

  /** Reads the page's image into a slot, unless the page changes its place meanwhile. */
  async #loadImage(directory: PageDirectory, page: number): Promise<void> {
    const { branch } = directory;
    const chunk = directory.chunks[Math.floor(page / CHUNK_PAGES)] as Uint32Array;
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const run = chunk[entry + WORD_RUN] as number;
    const offset8 = chunk[entry + WORD_OFFSET] as number;
    const leaf = { branch, page, run, offset8 };
    const isMoved = (): boolean =>
      directory.chunks[Math.floor(page / CHUNK_PAGES)] !== chunk ||
      chunk[entry + WORD_RUN] !== run ||
      chunk[entry + WORD_OFFSET] !== offset8 ||
      chunk[entry + WORD_SLOT] !== 0;
    const origin = this.repair?.originOf(branch);
    const staging = await this.memory.reads.acquire(LEAF_BYTES_MAX);
    let damage: StorageError;
    try {
      await this.#readSound(leaf, staging);
      if (isMoved()) return;
      const slot = this.slots.addPage(branch, page);
      const address = this.slots.addressOf(slot);
      if (!decodeLeaf(this.memory, staging, address)) {
        this.slots.releasePage(slot);
        throw leafCorrupt(leaf);
      }
      this.ring.apply(chunk[entry + WORD_HEAD] as number, address);
      chunk[entry + WORD_SLOT] = slot + 1;
      return;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      damage = error;
    } finally {
      this.memory.reads.release(staging);
    }
    // Rebuilding takes memory for reads: nothing of it may be held meanwhile.
    if (this.repair === undefined || origin === undefined) throw damage;
    const image = await this.repair.image(leaf, origin, damage);
    if (isMoved()) return;
    this.#putPage({ branch, page }, chunk, image);
  }

  /** The same for a page whose image is what the origin holds there. */
  async #loadInherited(directory: PageDirectory, page: number): Promise<void> {
    const chunk = directory.chunks[Math.floor(page / CHUNK_PAGES)] as Uint32Array;
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const image = await this.inheritedPage(directory, page);
    if (directory.chunks[Math.floor(page / CHUNK_PAGES)] !== chunk) return;
    if (chunk[entry + WORD_RUN] !== INHERITED || chunk[entry + WORD_SLOT] !== 0) return;
    this.#putPage({ branch: directory.branch, page }, chunk, image);
  }

  /** The image, and what was changed since, as a page in memory. */
  #putPage(
    { branch, page }: Pick<Leaf, "branch" | "page">,
    chunk: Uint32Array,
    image: Uint32Array,
  ): void {
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const slot = this.slots.addPage(branch, page);
    const address = this.slots.addressOf(slot);
    this.memory.words.set(image, address >>> 2);
    this.ring.apply(chunk[entry + WORD_HEAD] as number, address);
    chunk[entry + WORD_SLOT] = slot + 1;
  }

  /** Puts what the origin has an image of, or nothing, into the chunk's inherited entries. */
  async #resolve(directory: PageDirectory, origin: Origin, chunkIndex: number): Promise<void> {
    const places = await this.#pastOf(directory).chunk(origin, chunkIndex);
    if (directory.isRemoved) return;
    directory.resolved.add(chunkIndex);
    if (directory.chunks[chunkIndex] === undefined && isShared(places)) {
      directory.put(chunkIndex, places);
      return;
    }
    const chunk = directory.chunkFor(chunkIndex);
    if (directory.branch >= FIRST_VIEW) this.#keepViewChunk(directory, chunkIndex);
    for (let at = 0; at < CHUNK_PAGES * CHUNK_WORDS; at += CHUNK_WORDS) {
      if (chunk[at + WORD_RUN] !== INHERITED) continue;
      chunk[at + WORD_RUN] = places[at + WORD_RUN] as number;
      chunk[at + WORD_OFFSET] = places[at + WORD_OFFSET] as number;
    }
  }

  /** A view's chunks are a cache: beyond a number of them the oldest goes. */
  #keepViewChunk(directory: PageDirectory, chunkIndex: number): void {
    this.#viewChunks.push({ directory, chunkIndex });
    if (this.#viewChunks.length <= VIEW_CHUNKS_MAX) return;
    const oldest = this.#viewChunks.shift();
    const chunk = oldest?.directory.chunks[oldest.chunkIndex];
    if (oldest === undefined || chunk === undefined || isShared(chunk)) return;
    this.#releasePages(chunk, 0, CHUNK_PAGES);
    oldest.directory.chunks[oldest.chunkIndex] = undefined;
    oldest.directory.resolved.delete(oldest.chunkIndex);
  }

  /** References of a page as the branch's origin has it. Throws POOL_CORRUPT, DISK_IO. */
  inheritedPage(directory: PageDirectory, page: number): Promise<Uint32Array> {
    return this.#pastOf(directory).page(directory.origin as Origin, page);
  }

  #pastOf(directory: PageDirectory): Past {
    assert(directory.origin !== undefined && this.past !== undefined, "an origin has a past");
    return this.past;
  }

  /**
   * Reads and checks a page's image into `target` (LEAF_BYTES_MAX bytes, of no memory for reads); a damaged one is rebuilt.
   * It may be one that an ancestor of the branch wrote.
   */
  async readLeaf(leaf: Leaf, target: number, runs: RunStore = this.#runs): Promise<void> {
    const origin = this.repair?.originOf(leaf.branch);
    try {
      await this.#readSound(leaf, target, runs);
    } catch (error) {
      if (this.repair === undefined || origin === undefined) throw error;
      if (!(error instanceof StorageError)) throw error;
      putDenseLeaf(this.memory, await this.repair.image(leaf, origin, error), target);
    }
  }

  async #readSound(leaf: Leaf, target: number, runs: RunStore = this.#runs): Promise<void> {
    this.pageReadCount += 1;
    await readNode(this.memory, runs, {
      kind: NODE_KIND.LEAF,
      branch: leaf.branch,
      isKin: (branch) => this.isDescendant(leaf.branch, branch),
      position: leaf.page,
      run: leaf.run,
      offset: leaf.offset8 * 8,
      target,
      maxBytes: LEAF_BYTES_MAX,
    });
  }

  /** Whether the branch, or view, begins at a moment of `ancestor`, or of one that does. */
  isDescendant(branch: number, ancestor: number): boolean {
    let directory = branch < FIRST_VIEW ? this.branches.get(branch) : this.views.get(branch);
    // Parents are older, and have lower numbers.
    while (directory?.origin !== undefined) {
      if (directory.origin.branch === ancestor) return true;
      directory = this.branches.get(directory.origin.branch);
    }
    return false;
  }

  /** The next checkpoint looks at each chunk that names the image, although no change is in the ring. Whether any does. */
  markImage({ page, run, offset8 }: Omit<Leaf, "branch">): boolean {
    const chunkIndex = Math.floor(page / CHUNK_PAGES);
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    let isNamed = false;
    for (const { chunks, changed } of this.branches.values()) {
      const chunk = chunks[chunkIndex];
      if (chunk?.[entry + WORD_RUN] !== run || chunk[entry + WORD_OFFSET] !== offset8) continue;
      changed.add(chunkIndex);
      isNamed = true;
    }
    return isNamed;
  }

  /** Pages of a chunk range, for callers that walk a volume. */
  static chunkCount(blockCount: number): number {
    return Math.ceil(blockCount / CHUNK_BLOCKS);
  }
}

function viewAfter(view: number): number {
  return view === 0xffffffff ? FIRST_VIEW : view + 1;
}

function leafCorrupt({ branch, page, run, offset8 }: Leaf): StorageError {
  const place = { kind: NODE_KIND.LEAF, branch, position: page, run, offset: offset8 * 8 };
  return nodeCorrupt(place, "impossible content");
}
