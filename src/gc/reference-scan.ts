// SPDX-License-Identifier: Apache-2.0
//
// Visits every reference of the live volumes, a page at a time, while they are being written. What is visited is no
// moment of any volume: each page is as it was when its turn came. That is enough to find out what nothing refers to,
// once it is certain that nothing new will (segment-set.ts): a reference that was there all the time is seen, and
// one that comes and goes meanwhile doesn't count either way.

import { assert } from "../base/assert.ts";
import type { Clock } from "../host/ports.ts";
import type { BlockIndex } from "../index/block-index.ts";
import {
  CHUNK_BLOCKS,
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  HOLE_CHUNK,
  INHERITED,
  isImage,
  isShared,
  PAGE_BLOCKS,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import type { Past } from "../index/past.ts";
import { decodeLeaf, LEAF_BYTES_MAX, type RunStore } from "../index/run-file.ts";
import { RunReadAhead } from "../index/run-read-ahead.ts";
import { LOW_ZERO } from "../log/reference.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { MomentScan } from "./history.ts";
import { SeenLeaves } from "./seen-leaves.ts";
import { stagingPiece } from "./staging-piece.ts";

export interface ReferenceVisitor {
  /** The 512 references of a page begin at word `first` of the memory. Nothing may be awaited. */
  page(branch: number, words: Uint32Array, first: number): void;
  /** So many blocks are zeros. */
  zeros(branch: number, blockCount: number): void;
}

export interface ScanOptions {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly runs: RunStore;
  readonly clock: Clock;
  readonly past: Past;
  /** How far the branch's volume reaches, in chunks. */
  readonly chunkCountOf: (branch: number) => number;
  /** Whether what it holds now may be asked for; of others only history counts. */
  readonly isLive: (branch: number) => boolean;
  /** Throws to end the scan. */
  readonly checkStopped: () => void;
}

/** Pages between two turns of the event loop: half a millisecond. */
const SLICE_PAGES = 8;

/**
 * All of them; with `seen`, but for leaves that were visited. Throws POOL_CORRUPT, DISK_IO, and what `checkStopped`
 * throws.
 */
export async function scanReferences(
  options: ScanOptions,
  visitor: ReferenceVisitor,
  seen?: SeenLeaves,
): Promise<void> {
  const scan = new ReferenceScan(options, visitor, seen);
  for (const directory of [...options.index.branches.values()]) {
    const { branch, origin, chunks } = directory;
    if (!options.isLive(branch)) continue;
    const count = origin === undefined ? chunks.length : options.chunkCountOf(branch);
    for (let chunk = 0; chunk < count; chunk++) await scan.chunk(directory, chunk);
  }
}

class ReferenceScan {
  readonly #options: ScanOptions;
  readonly #visitor: ReferenceVisitor;
  readonly #runs: RunStore;
  readonly #seen: SeenLeaves | undefined;
  #sliceLeft = SLICE_PAGES;

  constructor(options: ScanOptions, visitor: ReferenceVisitor, seen: SeenLeaves | undefined) {
    this.#options = options;
    this.#visitor = visitor;
    this.#runs = new RunReadAhead(options.runs);
    this.#seen = seen;
  }

  async chunk(directory: PageDirectory, chunkIndex: number): Promise<void> {
    const chunk = directory.chunks[chunkIndex];
    if (chunk === undefined) return await this.#inheritedChunk(directory, chunkIndex);
    if (chunk === ZERO_CHUNK) return this.#visitor.zeros(directory.branch, CHUNK_BLOCKS);
    if (isShared(chunk)) return;
    for (let page = 0; page < CHUNK_PAGES; page++) {
      while (!(await this.#page(directory, chunkIndex * CHUNK_PAGES + page)));
      this.#sliceLeft -= 1;
      if (this.#sliceLeft > 0) continue;
      this.#sliceLeft = SLICE_PAGES;
      await new Promise<void>((resolve) => this.#options.clock.afterInput(resolve));
      this.#options.checkStopped();
    }
  }

  /** Nothing of it is in memory, and for this nothing needs to be. */
  async #inheritedChunk({ branch, origin }: PageDirectory, chunkIndex: number): Promise<void> {
    if (origin === undefined) return;
    const visitor = {
      page: (_: number, words: Uint32Array, first: number) =>
        this.#visitor.page(branch, words, first),
      zeros: () => undefined,
    };
    const seen = this.#seen ?? new SeenLeaves();
    await new MomentScan(this.#options, visitor, seen).scanChunk(origin, chunkIndex);
  }

  /** False when the page changed its place while it was read: then once more. */
  async #page(directory: PageDirectory, page: number): Promise<boolean> {
    const { memory, index } = this.#options;
    const { branch } = directory;
    const chunkIndex = Math.floor(page / CHUNK_PAGES);
    const chunk = directory.chunks[chunkIndex];
    if (chunk === undefined || chunk === HOLE_CHUNK) return true;
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const slot = (chunk[entry + WORD_SLOT] as number) - 1;
    if (slot >= 0) {
      this.#visitor.page(branch, memory.words, index.slots.addressOf(slot) >>> 2);
      return true;
    }
    const run = chunk[entry + WORD_RUN] as number;
    const offset8 = chunk[entry + WORD_OFFSET] as number;
    if (chunk[entry + WORD_HEAD] === 0 && (run === 0 || run === CONSTANT)) {
      if (run === CONSTANT && offset8 === LOW_ZERO) this.#visitor.zeros(branch, PAGE_BLOCKS);
      return true;
    }
    const isWhole = chunk[entry + WORD_HEAD] === 0 && isImage(run);
    if (isWhole && this.#seen?.has(run, offset8) === true) return true;
    const inherited = run === INHERITED ? await index.inheritedPage(directory, page) : undefined;
    const image = await stagingPiece(this.#options, 2 * LEAF_BYTES_MAX + 4096);
    try {
      const target = image + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
      if (isImage(run)) await index.readLeaf({ branch, page, run, offset8 }, image, this.#runs);
      const isSame =
        directory.chunks[chunkIndex] === chunk &&
        chunk[entry + WORD_SLOT] === 0 &&
        chunk[entry + WORD_RUN] === run &&
        chunk[entry + WORD_OFFSET] === offset8;
      if (!isSame) return false;
      if (isImage(run))
        assert(decodeLeaf(memory, image, target), "a leaf that was read makes sense");
      else if (inherited !== undefined) memory.words.set(inherited, target >>> 2);
      else index.fillConstant(target, run === CONSTANT ? offset8 : 0);
      index.ring.apply(chunk[entry + WORD_HEAD] as number, target);
      this.#visitor.page(branch, memory.words, target >>> 2);
      if (isWhole) this.#seen?.add(run, offset8);
      return true;
    } finally {
      memory.staging.release(image);
    }
  }
}
