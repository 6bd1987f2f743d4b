// SPDX-License-Identifier: Apache-2.0
//
// The deduplication index: where a block may be stored already, by the XXH64 of its content. A cache in a fixed part
// of the pool's memory (kernel/fingerprint-table.ts tells how an entry of 8 bytes and a full table work). It may
// forget, and what it finds is only a candidate: whoever asks compares byte by byte, and finds perhaps another block,
// or no frame at all.
//
//   seven eighths   table of all frames while they fit, then of every 2nd, 4th, … frame of old segments
//   one eighth      lists of whole segments, prefetched when one of these frames was hit and its neighbours weren't
//
// Segments are named by the caller, and no number but the log's own may be given: the newest tells what the short
// numbers in the table mean. One thread changes the index. Others may look meanwhile; at worst they see half of a
// change, which is one more wrong candidate.

import { assert } from "../base/assert.ts";
import type { BlockMemory } from "./block-memory.ts";

/** What of the kernel works on a table. `rows` are frame rows of a segment's footer (docs/format/segment.md). */
export interface FingerprintKernel {
  findFingerprints(
    table: number,
    bucketCount: number,
    hashes: number,
    count: number,
    references: number,
    newestSegment: number,
  ): number;
  insertFingerprints(
    table: number,
    bucketCount: number,
    rows: number,
    count: number,
    segment: number,
    newestSegment: number,
    isRebuild: number,
  ): void;
  queueFingerprints(
    table: number,
    bucketCount: number,
    rows: number,
    count: number,
    segment: number,
    newestSegment: number,
  ): void;
  removeFingerprint(
    table: number,
    bucketCount: number,
    hash: number,
    segment: number,
    offset8: number,
  ): number;
  clearFingerprints(table: number, lengthBytes: number): void;
}

const HEADER_BYTES = 128;
const BUCKET_BYTES = 128;
const WAY_COUNT = 16;
const BUCKETS_MAX = 2 ** 25;
/** Words of the header, and of a bucket: see the kernel. */
const ENTRY_COUNT_WORD = 0;
const LOST_COUNT_WORD = 2;
const FIRST_WAY_WORD = 16;

const PREFETCHED_PART = 8;
const INDEX_BYTES_MIN: number = PREFETCHED_PART * (HEADER_BYTES + BUCKET_BYTES);
/** Beyond this load buckets overflow, and the oldest of the prefetched lists has holes. */
const PREFETCHED_LOAD = 0.75;

interface Table {
  readonly address: number;
  readonly bucketCount: number;
}

export class DedupIndex {
  readonly memoryBytes: number;
  readonly #memory: BlockMemory;
  readonly #table: Table;
  readonly #prefetched: Table;
  /** Rows of each prefetched list by the segment that they were read from, the oldest first. */
  readonly #lists = new Map<number, number>();
  #listedRows = 0;
  #newestSegment = 0;
  /** Candidates that only a prefetched list had. */
  prefetchedHitCount = 0;

  /** Takes `lengthBytes` at `address`, which are zero or those of an index before (`clear` it then). */
  constructor(options: { memory: BlockMemory; address: number; lengthBytes: number }) {
    const { memory, address, lengthBytes } = options;
    assert(address % BUCKET_BYTES === 0 && address > 0, "buckets lie in one pair of cache lines");
    assert(lengthBytes >= INDEX_BYTES_MIN, "both tables have a bucket");
    assert(address + lengthBytes <= memory.totalBytes, "the index lies in the memory");
    this.memoryBytes = lengthBytes;
    this.#memory = memory;
    const mainBuckets = bucketsIn(lengthBytes - lengthBytes / PREFETCHED_PART);
    this.#table = { address, bucketCount: mainBuckets };
    this.#prefetched = {
      address: address + HEADER_BYTES + mainBuckets * BUCKET_BYTES,
      bucketCount: bucketsIn(lengthBytes / PREFETCHED_PART),
    };
  }

  /**
   * Completes those of `count` references (two u32) at `references` that are (0, 0), where the block with that hash
   * (u64 each at `hashes`) may be. Gives their number.
   */
  find(hashes: number, count: number, references: number): number {
    const { kernel } = this.#memory;
    const newest = this.#newestSegment;
    const { address, bucketCount } = this.#table;
    const found = kernel.findFingerprints(address, bucketCount, hashes, count, references, newest);
    if (this.#lists.size === 0 || found === count) return found;
    const lists = this.#prefetched;
    const more = kernel.findFingerprints(
      lists.address,
      lists.bucketCount,
      hashes,
      count,
      references,
      newest,
    );
    this.prefetchedHitCount += more;
    return found + more;
  }

  /** Frames of `segment` were stored: `count` rows as in its footer. */
  insertRows(rows: number, count: number, segment: number): void {
    this.#insert(rows, count, segment, 0);
  }

  /** Rows of `segment` were read back after a start. The newest segments first: what comes late may find no room. */
  restoreRows(rows: number, count: number, segment: number): void {
    this.#insert(rows, count, segment, 1);
  }

  /** Keeps rows of `segment` at hand until others need the place. `listPrefetched` follows behind the last. */
  prefetchRows(rows: number, count: number, segment: number): void {
    this.#meet(segment);
    const { address, bucketCount } = this.#prefetched;
    this.#memory.kernel.queueFingerprints(
      address,
      bucketCount,
      rows,
      count,
      segment,
      this.#newestSegment,
    );
  }

  /** All frames that lie in `segment`, so many, were prefetched; some may have been born in others. */
  listPrefetched(segment: number, count: number): void {
    this.#forgetList(segment);
    // An empty list counts too, so that the books stay small.
    const listed = Math.max(count, 1);
    this.#lists.set(segment, listed);
    this.#listedRows += listed;
    const limit = this.#prefetched.bucketCount * WAY_COUNT * PREFETCHED_LOAD;
    for (const oldest of this.#lists.keys()) {
      if (this.#listedRows <= limit || oldest === segment) break;
      this.#forgetList(oldest);
    }
  }

  /** True while nearly all of what was prefetched of `segment` can be found. */
  isPrefetched(segment: number): boolean {
    return this.#lists.has(segment);
  }

  /** The frame that the reference names doesn't hold what its fingerprint promised, or is gone. */
  remove(hash: number, segment: number, low: number): void {
    const offset8 = (low >>> 6) & 0xffffff;
    for (const { address, bucketCount } of [this.#table, this.#prefetched])
      this.#memory.kernel.removeFingerprint(address, bucketCount, hash, segment, offset8);
  }

  clear(): void {
    this.#memory.kernel.clearFingerprints(this.#table.address, this.memoryBytes);
    this.#lists.clear();
    this.#listedRows = 0;
    this.#newestSegment = 0;
  }

  get entryCount(): number {
    return this.#counterOf(this.#table, ENTRY_COUNT_WORD);
  }

  get entryCountMax(): number {
    return this.#table.bucketCount * WAY_COUNT;
  }

  /** Frames that were pushed out, or didn't get in. */
  get evictionCount(): number {
    const low = this.#counterOf(this.#table, LOST_COUNT_WORD);
    return low + this.#counterOf(this.#table, LOST_COUNT_WORD + 1) * 2 ** 32;
  }

  /** It doesn't know every frame any more: where one is found, its segment's list may hold more. */
  get isThinned(): boolean {
    return this.evictionCount > 0;
  }

  /** Reads all of it: for tests. */
  checkInvariants(): void {
    for (const table of [this.#table, this.#prefetched]) {
      let taken = 0;
      for (let bucket = 0; bucket < table.bucketCount; bucket++) {
        const first = (table.address + HEADER_BYTES + bucket * BUCKET_BYTES) / 4 + FIRST_WAY_WORD;
        for (let way = 0; way < WAY_COUNT; way++)
          if (this.#memory.words[first + way] !== 0) taken += 1;
      }
      assert(taken === this.#counterOf(table, ENTRY_COUNT_WORD), "entries are counted");
    }
    const end =
      this.#prefetched.address + HEADER_BYTES + this.#prefetched.bucketCount * BUCKET_BYTES;
    assert(end <= this.#table.address + this.memoryBytes, "both tables are inside");
    let listed = 0;
    for (const count of this.#lists.values()) listed += count;
    assert(listed === this.#listedRows, "listed rows are counted");
  }

  #insert(rows: number, count: number, segment: number, isRebuild: number): void {
    this.#meet(segment);
    const { address, bucketCount } = this.#table;
    this.#memory.kernel.insertFingerprints(
      address,
      bucketCount,
      rows,
      count,
      segment,
      this.#newestSegment,
      isRebuild,
    );
  }

  #meet(segment: number): void {
    assert(segment >= 1 && segment < 2 ** 32, "segments are numbered from 1 on");
    if (segment > this.#newestSegment) this.#newestSegment = segment;
  }

  #forgetList(segment: number): void {
    this.#listedRows -= this.#lists.get(segment) ?? 0;
    this.#lists.delete(segment);
  }

  #counterOf(table: Table, word: number): number {
    return this.#memory.words[table.address / 4 + word] as number;
  }
}

function bucketsIn(lengthBytes: number): number {
  return Math.min(BUCKETS_MAX, Math.floor((lengthBytes - HEADER_BYTES) / BUCKET_BYTES));
}
