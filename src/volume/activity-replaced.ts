// SPDX-License-Identifier: Apache-2.0
//
// What a write is about to replace: the references that its blocks have had, as far as memory knows them. It is looked
// at between appending the record and taking its references into the index, live and in replay. Nothing is read for it,
// no page is made or touched for it: a page that isn't in memory answers with what its directory entry says.
//
//   page in a slot             exactly
//   never written, or trimmed  holes
//   an image in a run          perhaps: something in the page had been written before the last checkpoint
//   only changes in the ring   not known

import type { BlockIndex } from "../index/block-index.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  PAGE_BLOCKS,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
} from "../index/page-directory.ts";
import { LOW_HOLE } from "../log/reference.ts";
import { RECORD_BLOCKS_MAX } from "../reduce/block-memory.ts";

/** In place of a segment, which no segment's number is: the block isn't known, or may have held data. */
export const REPLACED = { UNKNOWN: 0xffffffff, PERHAPS: 0xfffffffe } as const;

export class ReplacedBlocks {
  /** Two words a block, as in the index; one block more than the write has, which says where the last one's frame ended. */
  readonly words: Uint32Array = new Uint32Array((RECORD_BLOCKS_MAX + 1) * 2);

  /** Fills `words` for blocks [lba, lba + blockCount]. */
  look(index: BlockIndex, directory: PageDirectory, lba: number, blockCount: number): void {
    const { words } = this;
    const source = index.memory.words;
    const end = lba + blockCount + 1;
    let at = 0;
    for (let block = lba; block < end; ) {
      const page = Math.floor(block / PAGE_BLOCKS);
      const pageEnd = Math.min(end, (page + 1) * PAGE_BLOCKS);
      const chunk = directory.chunks[Math.floor(page / CHUNK_PAGES)];
      const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
      const slot = chunk === undefined ? 0 : (chunk[entry + WORD_SLOT] as number);
      if (slot !== 0) {
        let from = (index.slots.addressOf(slot - 1) >>> 2) + (block % PAGE_BLOCKS) * 2;
        for (; block < pageEnd; block++) {
          words[at] = source[from] as number;
          words[at + 1] = source[from + 1] as number;
          at += 2;
          from += 2;
        }
        continue;
      }
      const segment = chunk === undefined ? 0 : segmentOf(chunk, entry);
      const low = segment === 0 && chunk !== undefined ? lowOf(chunk, entry) : LOW_HOLE;
      for (; block < pageEnd; block++) {
        words[at] = segment;
        words[at + 1] = low;
        at += 2;
      }
    }
  }
}

/** Of all blocks of a page that isn't in memory; 0: a constant. */
function segmentOf(chunk: Uint32Array, entry: number): number {
  const run = chunk[entry + WORD_RUN] as number;
  if (run !== 0 && run !== CONSTANT) return REPLACED.PERHAPS;
  return chunk[entry + WORD_HEAD] === 0 ? 0 : REPLACED.UNKNOWN;
}

function lowOf(chunk: Uint32Array, entry: number): number {
  return chunk[entry + WORD_RUN] === CONSTANT ? (chunk[entry + WORD_OFFSET] as number) : LOW_HOLE;
}
