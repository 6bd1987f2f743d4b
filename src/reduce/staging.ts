// SPDX-License-Identifier: Apache-2.0
//
// Staging memory for whoever can wait: pieces of one region, first come, first served.
//
// Waits can't go in a circle because there are two levels, each with a region of its own. An *operation* (a merge of
// parts of blocks, a prefetch) takes one piece, once, and may then wait for reads. A *read* takes one piece,
// holds it for one disk read, and waits for nobody.

import type { BuddyAllocator } from "../base/buddy.ts";

interface Waiting {
  readonly lengthBytes: number;
  readonly resolve: (address: number) => void;
}

export class Staging {
  readonly #region: BuddyAllocator;
  readonly #waiting: Waiting[] = [];

  constructor(region: BuddyAllocator) {
    this.#region = region;
  }

  /** Address of at least `lengthBytes` (up to STAGING_PIECE_BYTES_MAX). Give it back with `release`. */
  acquire(lengthBytes: number): number | Promise<number> {
    if (this.#waiting.length === 0) {
      const address = this.#region.allocate(lengthBytes);
      if (address >= 0) return address;
    }
    return new Promise((resolve) => this.#waiting.push({ lengthBytes, resolve }));
  }

  release(address: number): void {
    this.#region.release(address);
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const freed = this.#region.allocate(next.lengthBytes);
      if (freed < 0) return;
      this.#waiting.shift();
      next.resolve(freed);
    }
  }
}
