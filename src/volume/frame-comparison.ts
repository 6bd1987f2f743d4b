// SPDX-License-Identifier: Apache-2.0
//
// Whether two stored blocks are the same, for many pairs: by their hashes where those differ, and by their bytes where they
// are equal or unknown. So a hash, wrong or forged, never makes two different blocks the same.

import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import type { BlockStore } from "./block-store.ts";
import { FrameHashes, type FrameHashesOptions } from "./frame-hashes.ts";

export interface FrameComparisonOptions extends FrameHashesOptions {
  readonly blocks: BlockStore;
}

export const COMPARED = {
  DIFFERENT: 0,
  SAME: 1,
  /** One of them can't be read. */
  UNTOLD: 2,
} as const;

/** Pairs whose bytes are compared at once: half a mebibyte. */
const BYTES_AT_ONCE = 64;
/** Whose hashes are compared between two turns of the event loop. */
const SLICE_PAIRS = 65536;

export class FrameComparison {
  readonly #options: FrameComparisonOptions;
  readonly #hashes: FrameHashes;
  /** Of the pairs that are being compared: hashes, two words each, and whether they are known. */
  #told: Uint32Array = new Uint32Array(0);
  #known: Uint8Array = new Uint8Array(0);

  constructor(options: FrameComparisonOptions) {
    this.#options = options;
    this.#hashes = new FrameHashes(options);
  }

  /** Of `count` pairs, four words each (segment and low of one, of the other), what each comes to: see COMPARED. */
  async compare(pairs: Uint32Array, count: number, results: Uint8Array): Promise<void> {
    if (count === 0) return;
    if (this.#told.length < count * 4) {
      this.#told = new Uint32Array(count * 4);
      this.#known = new Uint8Array(count * 2);
    }
    const hashes = this.#told;
    const known = this.#known;
    await this.#hashes.read({ references: pairs, count: count * 2, hashes, known });
    const doubtful: number[] = [];
    for (let pair = 0; pair < count; pair++) {
      if (pair % SLICE_PAIRS === SLICE_PAIRS - 1) await this.#options.pause();
      const isDifferent =
        known[pair * 2] === 1 &&
        known[pair * 2 + 1] === 1 &&
        (hashes[pair * 4] !== hashes[pair * 4 + 2] ||
          hashes[pair * 4 + 1] !== hashes[pair * 4 + 3]);
      if (isDifferent) results[pair] = COMPARED.DIFFERENT;
      else doubtful.push(pair);
    }
    for (let first = 0; first < doubtful.length; first += BYTES_AT_ONCE) {
      await this.#compareBytes(pairs, doubtful.slice(first, first + BYTES_AT_ONCE), results);
      await this.#options.pause();
    }
  }

  async #compareBytes(
    pairs: Uint32Array,
    wanted: readonly number[],
    results: Uint8Array,
  ): Promise<void> {
    const { memory, blocks } = this.#options;
    // All of one side, then all of the other: neighbours are read together.
    const references: number[] = [];
    for (const side of [0, 2])
      for (const pair of wanted)
        references.push(pairs[pair * 4 + side] as number, pairs[pair * 4 + side + 1] as number);
    const target = await memory.operations.acquire(wanted.length * 2 * BLOCK_BYTES);
    let isRead: boolean;
    try {
      isRead = await blocks.readAll(references, target);
      if (isRead)
        for (const [at, pair] of wanted.entries())
          results[pair] = compareBlocks(memory, target, at, wanted.length);
    } finally {
      memory.operations.release(target);
    }
    if (isRead) return;
    const [only] = wanted;
    if (wanted.length === 1) results[only as number] = COMPARED.UNTOLD;
    else for (const pair of wanted) await this.#compareBytes(pairs, [pair], results);
  }
}

function compareBlocks(memory: BlockMemory, target: number, at: number, count: number): number {
  const one = target + at * BLOCK_BYTES;
  const other = one + count * BLOCK_BYTES;
  return memory.kernel.compareBlocks(one, other) === 1 ? COMPARED.SAME : COMPARED.DIFFERENT;
}
