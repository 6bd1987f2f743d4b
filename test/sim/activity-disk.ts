// SPDX-License-Identifier: Apache-2.0
//
// A disk of which only the sizes of frames are kept, and a small file system on it: enough to tell a timeline what normal
// work and what encryption look like, at gigabytes a second. Sizes are in units of 8 bytes, as frames lie: 515 is a block
// that doesn't shrink, 0 a block of zeros.

import { LOW_ZERO, REFERENCE_STATE } from "../../src/log/reference.ts";
import type { Prng } from "../../src/sim/prng.ts";
import { REPLACED } from "../../src/volume/activity-replaced.ts";
import type { ActivityTimeline } from "../../src/volume/activity-timeline.ts";

export const RAW_8 = 515;
const RECORD_BLOCKS = 256;
const SEGMENT_8 = 1 << 23;
const BLOCK_BYTES = 4096;

/** Content of a file: what each of its blocks takes. */
export type Sizes = readonly number[];

export class ActivityDisk {
  readonly #segments: Uint32Array;
  readonly #lows: Uint32Array;
  readonly #replaced: Uint32Array = new Uint32Array((RECORD_BLOCKS + 1) * 2);
  readonly #branch: number;
  readonly #words: Uint32Array;
  readonly #timeline: ActivityTimeline;
  #segment: number;
  #offset8 = 528;
  lsn = 1;
  micros = 1_700_000_000_000_000;
  /** How quick writes are. */
  bytesPerSecond = 100e6;
  writtenBlocks = 0;
  /** Pages are in memory, or were only written long ago. */
  isResident = true;

  constructor(timeline: ActivityTimeline, words: Uint32Array, blockCount: number, branch = 1) {
    this.#branch = branch;
    // Whoever comes later writes to later segments.
    this.#segment = branch * 1000;
    this.#timeline = timeline;
    this.#words = words;
    this.#segments = new Uint32Array(blockCount + 1);
    this.#lows = new Uint32Array(blockCount + 1);
  }

  write(lba: number, sizes: Sizes): void {
    for (let from = 0; from < sizes.length; from += RECORD_BLOCKS)
      this.#record(lba + from, sizes.slice(from, from + RECORD_BLOCKS));
  }

  #record(lba: number, sizes: Sizes): void {
    const blockCount = sizes.length;
    for (let block = 0; block <= blockCount; block++) {
      const isKnown = this.isResident || this.#lows[lba + block] === 0;
      this.#replaced[block * 2] = isKnown ? this.#segments[lba + block]! : REPLACED.PERHAPS;
      this.#replaced[block * 2 + 1] = isKnown ? this.#lows[lba + block]! : 0;
    }
    if (this.#offset8 + blockCount * RAW_8 > SEGMENT_8) {
      this.#segment += 1;
      this.#offset8 = 528;
    }
    for (const [block, size] of sizes.entries()) {
      const low =
        size === 0 ? LOW_ZERO : ((REFERENCE_STATE.FRAME << 30) | (this.#offset8 << 6)) >>> 0;
      const segment = size === 0 ? 0 : this.#segment;
      this.#words[block * 2] = segment;
      this.#words[block * 2 + 1] = low;
      this.#segments[lba + block] = segment;
      this.#lows[lba + block] = low;
      this.#offset8 += size;
    }
    this.lsn += 1;
    this.writtenBlocks += blockCount;
    this.micros += (blockCount * BLOCK_BYTES * 1e6) / this.bytesPerSecond;
    const { lsn } = this;
    const timeMicros = Math.floor(this.micros);
    const record = { lsn, timeMicros, branch: this.#branch, lba, blockCount, referencesOffset: 0 };
    this.#timeline.wrote(record, this.#replaced, this.#offset8);
    // Batches of their own: a header, records, padding.
    this.#offset8 += 80;
  }

  trim(lba: number, blockCount: number): void {
    this.#segments.fill(0, lba, lba + blockCount);
    this.#lows.fill(0, lba, lba + blockCount);
    this.lsn += 1;
    const { lsn } = this;
    this.#timeline.trimmed({
      lsn,
      timeMicros: Math.floor(this.micros),
      branch: this.#branch,
      lba,
      blockCount,
    });
  }

  flush(): void {
    this.lsn += 1;
    this.#timeline.flushed(this.#branch, this.lsn, Math.floor(this.micros));
  }
}

export interface SmallFile {
  sizes: Sizes;
  readonly extents: readonly { lba: number; count: number }[];
}

/** Files on a disk: space is taken where it was freed longest ago, as most file systems come to do. */
export class SmallFiles {
  readonly disk: ActivityDisk;
  readonly files: SmallFile[] = [];
  readonly #random: Prng;
  #free: { lba: number; count: number }[];
  /** Freed space is trimmed at once. */
  isDiscarding = false;

  constructor(disk: ActivityDisk, random: Prng, firstBlock: number, blockCount: number) {
    this.disk = disk;
    this.#random = random;
    this.#free = [{ lba: firstBlock, count: blockCount }];
  }

  get freeBlocks(): number {
    return this.#free.reduce((sum, { count }) => sum + count, 0);
  }

  create(sizes: Sizes): SmallFile {
    const extents: { lba: number; count: number }[] = [];
    for (let left = sizes.length; left > 0; ) {
      const extent = this.#free[0]!;
      const count = Math.min(left, extent.count);
      extents.push({ lba: extent.lba, count });
      if (count === extent.count) this.#free.shift();
      else this.#free[0] = { lba: extent.lba + count, count: extent.count - count };
      left -= count;
    }
    const file = { sizes, extents };
    this.files.push(file);
    this.#put(file);
    this.#metadata();
    return file;
  }

  /** The same place, other content. */
  overwrite(file: SmallFile, sizes: Sizes): void {
    file.sizes = sizes;
    this.#put(file);
    this.#metadata();
  }

  remove(file: SmallFile): void {
    this.files.splice(this.files.indexOf(file), 1);
    for (const extent of file.extents) {
      this.#free.push(extent);
      if (this.isDiscarding) this.disk.trim(extent.lba, extent.count);
    }
    this.#metadata();
  }

  any(): SmallFile {
    return this.files[this.#random.below(this.files.length)]!;
  }

  #put({ sizes, extents }: SmallFile): void {
    let from = 0;
    for (const { lba, count } of extents) {
      this.disk.write(lba, sizes.slice(from, from + count));
      from += count;
    }
  }

  /** Every so many changes a journal and an inode table are written. */
  #metadata(): void {
    if (this.#random.below(16) !== 0) return;
    this.disk.write(this.#random.below(1024), [60, 90, 200, 120]);
    this.disk.write(1024 + this.#random.below(256), [80]);
    this.disk.flush();
  }
}
