// SPDX-License-Identifier: Apache-2.0
//
// Which blocks a backup looks at, a batch of extents at a time, so that a disk with a hundred million changes needs no
// more memory than one with a few. The first batch is made before anything is read: mostly it is all there is, and then
// the whole amount of work is known beforehand. Where it isn't, what is still unknown is taken to be like what was seen.

import { assert, must } from "../base/assert.ts";
import type { BackupSegment, BlockSource } from "./block-source.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";

const BATCH_EXTENTS: number = 1 << 16;

export class ExtentPlan {
  readonly #source: BlockSource;
  readonly #segments: readonly BackupSegment[];
  readonly #batch: ExtentBatch = new ExtentBatch(BATCH_EXTENTS);
  #segment = 0;
  /** Up to here the extents are in the batch, or were. */
  #plannedEnd: number;
  /** The present extent; before the first one of a batch -1. */
  #index = -1;
  /** Blocks to read, as far as they are planned. */
  #plannedBlocks = 0;

  constructor(source: BlockSource, segments: readonly BackupSegment[]) {
    this.#source = source;
    this.#segments = segments;
    this.#plannedEnd = segments[0]?.start ?? 0;
  }

  /** Goes to the next extent; false at the end. */
  async next(): Promise<boolean> {
    for (;;) {
      this.#index += 1;
      if (this.#index < this.#batch.length) return true;
      if (!(await this.prepare())) return false;
    }
  }

  /** Makes the next batch; false: there is none. */
  async prepare(): Promise<boolean> {
    while (this.#plannedEnd >= (this.#segments[this.#segment]?.end ?? 0)) {
      if (this.#segment === this.#segments.length) return false;
      this.#segment += 1;
    }
    const { base, end } = must(this.#segments[this.#segment], "a plan ends with its segments");
    const start = this.#plannedEnd;
    const batch = this.#batch;
    this.#plannedEnd =
      base === undefined
        ? await this.#source.allocated(start, end, batch)
        : await this.#source.changedSince(base, { start, end }, batch);
    assert(this.#plannedEnd > start && this.#plannedEnd <= end, "a plan gets on");
    for (let index = 0; index < batch.length; index += 1)
      if (batch.kinds[index] === EXTENT_KIND.frames)
        this.#plannedBlocks += batch.blockCounts[index]!;
    this.#index = -1;
    return true;
  }

  get lba(): number {
    return this.#batch.lbas[this.#index]!;
  }

  get blockCount(): number {
    return this.#batch.blockCounts[this.#index]!;
  }

  get kind(): number {
    return this.#batch.kinds[this.#index]!;
  }

  /** Blocks that are read in all, as far as that can be told. */
  get readBlocks(): number {
    const first = this.#segments[0]?.start ?? 0;
    const end = this.#segments.at(-1)?.end ?? 0;
    const seen = this.#plannedEnd - first;
    if (seen <= 0 || this.#plannedEnd >= end) return this.#plannedBlocks;
    return Math.round((this.#plannedBlocks / seen) * (end - first));
  }
}
