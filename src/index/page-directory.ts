// SPDX-License-Identifier: Apache-2.0
//
// Where the index pages of one branch are. A page holds the references of 512 blocks (2 MiB of volume); a
// chunk is the directory of 1024 pages (2 GiB), four words each:
//
//   0  slot + 1 of the page in memory, 0: not there
//   1  head of its changes in the delta ring, 0: none
//   2  run that holds its image, 0: none (all holes), CONSTANT: every block has the reference (0, word 3)
//   3  offset / 8 of the image in that run
//
// Chunks exist only where something was written: a 64 TiB volume costs an array of 32768 pointers. 16 bytes
// per 2 MiB touched is 8 MiB per TiB.

import { LOW_ZERO } from "../log/reference.ts";

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

export interface ChunkLocation {
  readonly run: number;
  readonly offset8: number;
}

export class PageDirectory {
  readonly branch: number;
  readonly chunks: (Uint32Array | undefined)[] = [];
  /** Where the chunk stood at the last checkpoint. */
  readonly locations: Map<number, ChunkLocation> = new Map();
  /** Chunks that differ from the last checkpoint. */
  changed: Set<number> = new Set();

  constructor(branch: number) {
    this.branch = branch;
  }

  chunkAt(chunkIndex: number): Uint32Array | undefined {
    return this.chunks[chunkIndex];
  }

  /** The chunk to change: made if it isn't there, copied if it is the shared one. */
  chunkFor(chunkIndex: number): Uint32Array {
    const present = this.chunks[chunkIndex];
    if (present !== undefined && present !== ZERO_CHUNK) return present;
    const chunk =
      present === undefined ? new Uint32Array(CHUNK_PAGES * CHUNK_WORDS) : ZERO_CHUNK.slice();
    this.put(chunkIndex, chunk);
    return chunk;
  }

  /** Replaces a chunk; undefined: all holes. */
  put(chunkIndex: number, chunk: Uint32Array | undefined): void {
    while (this.chunks.length <= chunkIndex) this.chunks.push(undefined);
    this.chunks[chunkIndex] = chunk;
  }
}

/** 2 GiB of allocated zeros: one array for all such chunks, never written. */
export const ZERO_CHUNK: Uint32Array = makeZeroChunk();

function makeZeroChunk(): Uint32Array {
  const chunk = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
  for (let page = 0; page < CHUNK_PAGES; page++) {
    chunk[page * CHUNK_WORDS + WORD_RUN] = CONSTANT;
    chunk[page * CHUNK_WORDS + WORD_OFFSET] = LOW_ZERO;
  }
  return chunk;
}
