// SPDX-License-Identifier: Apache-2.0
//
// Blocks that count as changed whatever they hold, as ranges in order and without overlap: a difference looks at their
// pages in any case, and asks for each block there.

import { PAGE_BLOCKS } from "./page-directory.ts";

export interface BlockRange {
  readonly lba: number;
  readonly end: number;
}

export class MarkedBlocks {
  readonly #ranges: readonly BlockRange[];

  /** The ranges, as far as they lie in `within`. */
  constructor(ranges: readonly BlockRange[], within: BlockRange) {
    const clipped = ranges
      .map(({ lba, end }) => ({
        lba: Math.max(lba, within.lba),
        end: Math.min(end, within.end),
      }))
      .filter(({ lba, end }) => lba < end)
      .sort((a, b) => a.lba - b.lba);
    const joined: { lba: number; end: number }[] = [];
    for (const range of clipped) {
      const last = joined[joined.length - 1];
      if (last !== undefined && range.lba <= last.end) last.end = Math.max(last.end, range.end);
      else joined.push(range);
    }
    this.#ranges = joined;
  }

  get isNone(): boolean {
    return this.#ranges.length === 0;
  }

  /** Whether any block of pages [firstPage, endPage) is one. */
  touches(firstPage: number, endPage: number): boolean {
    const range = this.#ranges[this.#firstBehind(firstPage * PAGE_BLOCKS)];
    return range !== undefined && range.lba < endPage * PAGE_BLOCKS;
  }

  has(block: number): boolean {
    const range = this.#ranges[this.#firstBehind(block)];
    return range !== undefined && range.lba <= block;
  }

  /** Place of the first range that ends behind the block. */
  #firstBehind(block: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle] as BlockRange).end <= block) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
