// SPDX-License-Identifier: Apache-2.0
//
// Where the index pages of one branch are. A page holds the references of 512 blocks (2 MiB of volume); a
// chunk is the directory of 1024 pages (2 GiB), four words each:
//
//   0  slot + 1 of the page in memory, 0: not there
//   1  head of its changes in the delta ring, 0: none
//   2  run that holds its image, 0: none (all holes), CONSTANT: every block has the reference (0, word 3),
//      INHERITED: the image is what the branch's origin holds there
//   3  offset / 8 of the image in that run
//
// Chunks exist only where something was written: a 64 TiB volume costs an array of 32768 pointers. 16 bytes
// per 2 MiB touched is 8 MiB per TiB.
//
// A branch that begins at a moment of another has that as its origin: where it has no chunk, it holds what its origin
// holds. So a clone costs nothing, whatever it is a clone of, and so does a view, which is a branch that nobody writes.

import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";

export const PAGE_BLOCKS = 512;
export const CHUNK_PAGES = 1024;
export const CHUNK_BLOCKS: number = PAGE_BLOCKS * CHUNK_PAGES;
export const CHUNK_WORDS = 4;
export const WORD_SLOT = 0;
export const WORD_HEAD = 1;
export const WORD_RUN = 2;
export const WORD_OFFSET = 3;
/** In place of a run number: a page, or a chunk, of equal references. */
export const CONSTANT = 0xffffffff;
/** In place of a run number: what the origin holds there. */
export const INHERITED = 0xfffffffe;

export interface ChunkLocation {
  readonly run: number;
  readonly offset8: number;
}

/** The moment that a branch begins with: `branch` after the record `lsn`. */
export interface Origin {
  readonly branch: number;
  readonly lsn: number;
}

export class PageDirectory {
  readonly branch: number;
  readonly origin: Origin | undefined;
  /** Undefined: holes, or what the origin holds. */
  readonly chunks: (Uint32Array | undefined)[] = [];
  /** Where the chunk stood at the last checkpoint. */
  readonly locations: Map<number, ChunkLocation> = new Map();
  /** Chunks that differ from the last checkpoint. */
  changed: Set<number> = new Set();
  /** Chunks whose inherited pages are only those that the origin has no image of, but an image and changes. */
  readonly resolved: Set<number> = new Set();
  /** Nobody may read it any more. */
  isRemoved = false;

  constructor(branch: number, origin?: Origin) {
    this.branch = branch;
    this.origin = origin;
  }

  chunkAt(chunkIndex: number): Uint32Array | undefined {
    return this.chunks[chunkIndex];
  }

  /** Whether the chunk is known to be all holes. */
  isHole(chunkIndex: number): boolean {
    const chunk = this.chunks[chunkIndex];
    return chunk === HOLE_CHUNK || (chunk === undefined && this.origin === undefined);
  }

  /** The chunk to change: made if it isn't there, copied if it is a shared one. */
  chunkFor(chunkIndex: number): Uint32Array {
    const present = this.chunks[chunkIndex];
    if (present !== undefined && !isShared(present)) return present;
    const chunk = present?.slice() ?? this.chunkWithout();
    this.put(chunkIndex, chunk);
    return chunk;
  }

  /** A new chunk that says what a missing one says. */
  chunkWithout(): Uint32Array {
    return (this.origin === undefined ? HOLE_CHUNK : INHERITED_CHUNK).slice();
  }

  /** Makes a chunk all holes, or all zeros. */
  putConstant(chunkIndex: number, low: number): void {
    if (low === LOW_ZERO) this.put(chunkIndex, ZERO_CHUNK);
    else this.put(chunkIndex, this.origin === undefined ? undefined : HOLE_CHUNK);
  }

  /** Replaces a chunk; undefined: all holes, or all inherited. */
  put(chunkIndex: number, chunk: Uint32Array | undefined): void {
    while (this.chunks.length <= chunkIndex) this.chunks.push(undefined);
    this.chunks[chunkIndex] = chunk;
  }
}

/** 2 GiB of allocated zeros: one array for all such chunks, never written. */
export const ZERO_CHUNK: Uint32Array = makeChunk(CONSTANT, LOW_ZERO);
/** 2 GiB of holes, where a chunk that is missing would mean another thing; never written. */
export const HOLE_CHUNK: Uint32Array = makeChunk(0, LOW_HOLE);
const INHERITED_CHUNK: Uint32Array = makeChunk(INHERITED, 0);

/** Whether the chunk is one for all. */
export function isShared(chunk: Uint32Array): boolean {
  return chunk === ZERO_CHUNK || chunk === HOLE_CHUNK;
}

/** Whether an image can be read there. */
export function isImage(run: number): boolean {
  return run !== 0 && run < INHERITED;
}

function makeChunk(run: number, word: number): Uint32Array {
  const chunk = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
  for (let page = 0; page < CHUNK_PAGES; page++) {
    chunk[page * CHUNK_WORDS + WORD_RUN] = run;
    chunk[page * CHUNK_WORDS + WORD_OFFSET] = word;
  }
  return chunk;
}
