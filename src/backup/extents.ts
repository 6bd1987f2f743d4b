// SPDX-License-Identifier: Apache-2.0
//
// What a volume holds where, as runs say it: extents of blocks that lie one behind the other in a pack, that were written
// as zeros, or that were trimmed. Many at a time, in typed arrays that are used again: a diff of a million single blocks
// makes no million objects.

import { assert } from "../base/assert.ts";

export const EXTENT_KIND = {
  /** Blocks of a pack, from `place` on. */
  frames: 0,
  /** Written zeros. */
  zero: 1,
  /** Trimmed, or never written. */
  hole: 2,
} as const;

/** Extents in ascending order of their LBAs, without overlap. */
export class ExtentBatch {
  readonly lbas: Float64Array;
  readonly blockCounts: Float64Array;
  readonly kinds: Uint8Array;
  /** Of the first block; meaningless unless these are frames. */
  readonly places: Float64Array;
  length = 0;

  constructor(capacity: number) {
    this.lbas = new Float64Array(capacity);
    this.blockCounts = new Float64Array(capacity);
    this.kinds = new Uint8Array(capacity);
    this.places = new Float64Array(capacity);
  }

  get isFull(): boolean {
    return this.length === this.lbas.length;
  }

  clear(): void {
    this.length = 0;
  }

  push(lba: number, blockCount: number, kind: number, place: number): void {
    assert(this.length < this.lbas.length, "a batch has room for the extent");
    this.lbas[this.length] = lba;
    this.blockCounts[this.length] = blockCount;
    this.kinds[this.length] = kind;
    this.places[this.length] = place;
    this.length += 1;
  }

  /** The first extent that ends behind `lba`; `length` where none does. */
  indexBehind(lba: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.lbas[middle]! + this.blockCounts[middle]! > lba) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
