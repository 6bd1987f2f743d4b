// SPDX-License-Identifier: Apache-2.0
//
// Leaves of the index that a scan has visited. Checkpoints share what didn't change between them, and so do clones: what
// is looked at for one moment needs no second look for the next. Bounded: beyond that, leaves are visited again.

import type { Origin } from "../index/page-directory.ts";

/** A terabyte in leaves, twice. */
const LEAVES_MAX: number = 1 << 20;
const CHUNKS_MAX: number = 1 << 16;

export class SeenLeaves {
  readonly #runs: Map<number, Set<number>> = new Map();
  readonly #chunks: Set<string> = new Set();
  #count = 0;

  has(run: number, offset8: number): boolean {
    return this.#runs.get(run)?.has(offset8) === true;
  }

  /** All that it refers to was visited. */
  add(run: number, offset8: number): void {
    if (this.#count >= LEAVES_MAX) return;
    let leaves = this.#runs.get(run);
    if (leaves === undefined) {
      leaves = new Set();
      this.#runs.set(run, leaves);
    }
    leaves.add(offset8);
    this.#count += 1;
  }

  /** Of 2 GiB of a moment, whether they are seen for the first time. */
  addChunk({ branch, lsn }: Origin, chunkIndex: number): boolean {
    const key = `${branch}@${lsn}:${chunkIndex}`;
    if (this.#chunks.has(key)) return false;
    if (this.#chunks.size < CHUNKS_MAX) this.#chunks.add(key);
    return true;
  }
}
