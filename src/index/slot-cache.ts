// SPDX-License-Identifier: Apache-2.0
//
// All of the memory budget that has no other use, as 4 KiB slots. A slot holds a block of content (found by
// its reference) or a page of the index (found through the page directory): whatever is touched stays, so
// nobody has to split the budget between the two. Everything in here can be dropped at any time: it is a
// cache of the log.
//
// Eviction is CLOCK: the hand clears one life per pass; a page has more lives than a block, because a missing
// page costs every request of 2 MiB of volume a read. Nothing is allocated after construction.

import { assert } from "../base/assert.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";

const FREE = 0;
const BLOCK = 1;
const PAGE = 2;
const NONE = -1;
const BLOCK_LIVES = 1;
const PAGE_LIVES = 3;

/** Told when an index page loses its slot. */
export interface PageOwner {
  pageDropped(branch: number, page: number): void;
}

export class SlotCache {
  readonly #memory: BlockMemory;
  readonly #owner: PageOwner;
  readonly #slotCount: number;
  readonly #kind: Uint8Array;
  readonly #lives: Uint8Array;
  /** Block: segment and low of its reference. Page: branch and page number. */
  readonly #first: Uint32Array;
  readonly #second: Uint32Array;
  /** Hash chains of the blocks. */
  readonly #next: Int32Array;
  readonly #buckets: Int32Array;
  readonly #bucketShift: number;
  #hand = 0;
  /** Slots handed out for the first time so far: the rest was never touched and takes no memory. */
  #touched = 0;
  #free = NONE;

  pageCount = 0;
  blockCount = 0;

  constructor(memory: BlockMemory, owner: PageOwner) {
    this.#memory = memory;
    this.#owner = owner;
    this.#slotCount = memory.shape.slotCount;
    this.#kind = new Uint8Array(this.#slotCount);
    this.#lives = new Uint8Array(this.#slotCount);
    this.#first = new Uint32Array(this.#slotCount);
    this.#second = new Uint32Array(this.#slotCount);
    this.#next = new Int32Array(this.#slotCount);
    const bucketBits = Math.max(4, Math.ceil(Math.log2(this.#slotCount)));
    this.#buckets = new Int32Array(1 << bucketBits).fill(NONE);
    this.#bucketShift = 32 - bucketBits;
  }

  addressOf(slot: number): number {
    return this.#memory.slotsAddress + slot * BLOCK_BYTES;
  }

  /** Address of the block that the reference names, or 0. */
  findBlock(segment: number, low: number): number {
    let slot = this.#buckets[this.#bucketOf(segment, low)] as number;
    while (slot !== NONE) {
      if (this.#first[slot] === segment && this.#second[slot] === low) {
        this.#lives[slot] = BLOCK_LIVES;
        return this.addressOf(slot);
      }
      slot = this.#next[slot] as number;
    }
    return 0;
  }

  /** Takes a slot for a block that isn't cached yet; the caller fills it before anyone else runs. */
  addBlock(segment: number, low: number): number {
    const slot = this.#take();
    this.#kind[slot] = BLOCK;
    this.#lives[slot] = 0; // earns a life when it is read again: a scan passes through
    this.#first[slot] = segment;
    this.#second[slot] = low;
    const bucket = this.#bucketOf(segment, low);
    this.#next[slot] = this.#buckets[bucket] as number;
    this.#buckets[bucket] = slot;
    this.blockCount += 1;
    return this.addressOf(slot);
  }

  /** Takes a slot for an index page. */
  addPage(branch: number, page: number): number {
    const slot = this.#take();
    this.#kind[slot] = PAGE;
    this.#lives[slot] = PAGE_LIVES;
    this.#first[slot] = branch;
    this.#second[slot] = page;
    this.pageCount += 1;
    return slot;
  }

  touchPage(slot: number): void {
    this.#lives[slot] = PAGE_LIVES;
  }

  /** The page's slot is given back without telling the owner, who knows. */
  releasePage(slot: number): void {
    assert(this.#kind[slot] === PAGE, "only a page's slot is released by hand");
    this.#kind[slot] = FREE;
    this.pageCount -= 1;
    this.#next[slot] = this.#free;
    this.#free = slot;
  }

  /** The same for all pages of a branch from `firstPage` up to `endPage`, in one pass over the slots in use. */
  releasePages(branch: number, firstPage: number, endPage: number): void {
    for (let slot = 0; slot < this.#touched; slot++) {
      const page = this.#second[slot] as number;
      if (
        this.#kind[slot] === PAGE &&
        this.#first[slot] === branch &&
        page >= firstPage &&
        page < endPage
      )
        this.releasePage(slot);
    }
  }

  /** Slots that were ever in use. */
  get touchedCount(): number {
    return this.#touched;
  }

  get usedBytes(): number {
    return this.#touched * BLOCK_BYTES;
  }

  checkInvariants(): void {
    let pages = 0;
    let blocks = 0;
    for (let slot = 0; slot < this.#touched; slot++) {
      if (this.#kind[slot] === PAGE) pages += 1;
      if (this.#kind[slot] === BLOCK) {
        blocks += 1;
        assert(this.#isChained(slot), "every cached block is found through its bucket");
      }
    }
    assert(pages === this.pageCount && blocks === this.blockCount, "slot counters match the slots");
  }

  #take(): number {
    if (this.#free !== NONE) {
      const slot = this.#free;
      this.#free = this.#next[slot] as number;
      return slot;
    }
    if (this.#touched < this.#slotCount) {
      this.#touched += 1;
      return this.#touched - 1;
    }
    for (;;) {
      const slot = this.#hand;
      this.#hand = slot + 1 === this.#slotCount ? 0 : slot + 1;
      const lives = this.#lives[slot] as number;
      if (lives > 0) this.#lives[slot] = lives - 1;
      else if (this.#kind[slot] !== FREE) {
        this.#evict(slot);
        return slot;
      }
    }
  }

  #evict(slot: number): void {
    if (this.#kind[slot] === PAGE) {
      this.pageCount -= 1;
      this.#owner.pageDropped(this.#first[slot] as number, this.#second[slot] as number);
    } else {
      this.blockCount -= 1;
      this.#unchain(slot);
    }
    this.#kind[slot] = FREE;
  }

  #unchain(slot: number): void {
    const bucket = this.#bucketOf(this.#first[slot] as number, this.#second[slot] as number);
    let at = this.#buckets[bucket] as number;
    if (at === slot) {
      this.#buckets[bucket] = this.#next[slot] as number;
      return;
    }
    while (this.#next[at] !== slot) {
      assert(at !== NONE, "a cached block is in its bucket's chain");
      at = this.#next[at] as number;
    }
    this.#next[at] = this.#next[slot] as number;
  }

  #isChained(slot: number): boolean {
    let at = this.#buckets[
      this.#bucketOf(this.#first[slot] as number, this.#second[slot] as number)
    ] as number;
    while (at !== NONE && at !== slot) at = this.#next[at] as number;
    return at === slot;
  }

  #bucketOf(segment: number, low: number): number {
    return (
      (Math.imul(segment, 0x9e3779b1) ^ Math.imul(low >>> 6, 0x85ebca6b)) >>> this.#bucketShift
    );
  }
}
