// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the blocks of a write before they are stored (docs/decisions/0007):
//
//   zero → no frame · known to the deduplication index, and the same byte by byte → a reference
//   else → a frame of its own, compressed where that shrinks it
//
// The index is only asked where a block might be; nothing is shared before its bytes have been compared. So no
// hash, weak or forged, can make two different blocks one. To compare, the stored block must be at hand: where it
// would have to be waited for, `unknownCount` says so, and the caller fetches it and examines again.
//
// What is another block by comparison stays in the index, which is right about that one; what is gone is removed.
//
// Examining and packing are one turn of the event loop: the plan lies in the memory's scratch.

import { BLOCK_BYTES, type BlockMemory, RECORD_BLOCKS_MAX } from "./block-memory.ts";
import { preparedContentOf, preparedHashesOf, preparedSizesOf } from "./prepared-blocks.ts";

export interface BlockMatcher {
  /** Says whether the frame that a reference names holds the block at an address, whose hash is at another. */
  match(segment: number, low: number, address: number, hashAddress: number): number;
  /** The same of a frame that was found to hold it: whether it is still there to be referred to. */
  matchAgain(segment: number, low: number): number;
}

export const MATCH = {
  DIFFERENT: 0,
  SAME: 1,
  /** The stored block isn't at hand. */
  UNKNOWN: 2,
  /** Nothing may refer to the frame now. */
  BARRED: 3,
  /** There is no such frame any more. */
  GONE: 4,
  /** Nobody asked. */
  NONE: 5,
} as const;

/** Where blocks may be found that were stored before: a cache, which may forget, and may be wrong. */
export interface FingerprintIndex {
  /** Completes those of `count` references that are (0, 0), where the block of that hash may be; gives their number. */
  find(hashesAddress: number, count: number, referencesAddress: number): number;
  /** Frames were stored: `count` rows as in a segment's footer. */
  insertRows(rowsAddress: number, count: number, segment: number): void;
  /** The frame that was found for the hash is gone. */
  remove(hashAddress: number, segment: number, low: number): void;
  /** Candidates that `find` has given so far only because a list was read ahead. */
  readonly prefetchedHitCount: number;
}

/** How the blocks of one volume are reduced, and what came of it since the pool was opened. */
export class Reduction {
  isDeduplicated = true;
  isCompressed = true;
  /** Blocks that didn't shrink since the last that did. */
  #stubbornCount = 0;
  zeroCount = 0;
  duplicateCount = 0;
  frameCount = 0;
  /** Of them: looked for among what is stored; kept compressed; tried, and kept as they were. */
  missCount = 0;
  compressedCount = 0;
  incompressibleCount = 0;
  /** Bytes of all frames with their headers. */
  frameBytes = 0;

  /** Every so many blocks compression is tried; 0: never. */
  get compressEvery(): number {
    if (!this.isCompressed) return 0;
    return this.#stubbornCount < STUBBORN_MIN ? 1 : STUBBORN_EVERY;
  }

  tried(count: number, shrunkCount: number): void {
    this.compressedCount += shrunkCount;
    this.incompressibleCount += count - shrunkCount;
    this.#stubbornCount = shrunkCount > 0 ? 0 : this.#stubbornCount + count;
  }
}

/** After so many blocks that don't shrink only a few of the next are tried, until one does. */
const STUBBORN_MIN = 64;
const STUBBORN_EVERY = 8;

const NOTHING_VERIFIED = new Uint32Array(0);
const HASHES_IN_SCRATCH = 40960;
const REFERENCES_IN_SCRATCH = 45056;
const RESULT_IN_SCRATCH = 63488;

export class BlockReducer {
  readonly #memory: BlockMemory;
  readonly #index: FingerprintIndex;
  readonly #matcher: BlockMatcher;
  /** Of the write being examined: a hash (u64) and a reference (two u32; 0, 0: to be packed) a block. */
  readonly hashesAddress: number;
  readonly referencesAddress: number;
  /** Of each of its blocks, what was found: see MATCH. */
  readonly matches: Uint8Array = new Uint8Array(RECORD_BLOCKS_MAX);
  /** Of the write being packed: see the kernel's `packBlocks`. */
  readonly resultAddress: number;
  zeroCount = 0;
  /** Blocks that have a reference to a stored block. */
  duplicateCount = 0;
  /** Blocks that may have been stored, which can't be told without waiting. */
  unknownCount = 0;
  /** Blocks to be packed. */
  newCount = 0;
  isShared = false;
  compressEvery = 0;
  preparedSizes = 0;
  preparedContent = 0;
  /** The last reference that was found for the write; 0, 0: none was. */
  hitSegment = 0;
  hitLow = 0;
  #listedCount = 0;
  /** Since the pool was opened: blocks found only because a list was read ahead. */
  listedCount = 0;
  /** Candidates that were another block, by the same bits of its hash, and frames that are gone. */
  differentCount = 0;
  goneCount = 0;

  constructor(memory: BlockMemory, index: FingerprintIndex, matcher: BlockMatcher) {
    this.#memory = memory;
    this.#index = index;
    this.#matcher = matcher;
    this.hashesAddress = memory.scratchAddress + HASHES_IN_SCRATCH;
    this.referencesAddress = memory.scratchAddress + REFERENCES_IN_SCRATCH;
    this.resultAddress = memory.scratchAddress + RESULT_IN_SCRATCH;
  }

  /**
   * Plans what becomes of `blockCount` blocks at `source`. With `isFinal`, what can't be told without waiting is
   * stored anew; without it, such blocks keep the reference that is to be looked at. `piece`: they were prepared there.
   * `verified`: references, two words a block, that were found to hold the same before, and needn't be compared again.
   */
  examine(
    source: number,
    blockCount: number,
    reduction: Reduction,
    isFinal: boolean,
    piece = 0,
    verified: Uint32Array = NOTHING_VERIFIED,
  ): void {
    const { hashesAddress, referencesAddress } = this;
    this.zeroCount = this.#readHashes(source, blockCount, piece);
    this.preparedSizes = piece === 0 ? 0 : preparedSizesOf(piece);
    this.preparedContent = piece === 0 ? 0 : preparedContentOf(piece);
    this.matches.fill(MATCH.NONE, 0, blockCount);
    this.duplicateCount = 0;
    this.unknownCount = 0;
    this.hitSegment = 0;
    this.hitLow = 0;
    const listed = this.#index.prefetchedHitCount;
    if (reduction.isDeduplicated && this.zeroCount < blockCount) {
      const found = this.#index.find(hashesAddress, blockCount, referencesAddress);
      if (found > 0) this.#compare(source, blockCount, isFinal, verified);
    }
    // Which candidate came from where isn't known; nearly all of them are right.
    this.#listedCount = Math.min(this.duplicateCount, this.#index.prefetchedHitCount - listed);
    this.newCount = blockCount - this.zeroCount - this.duplicateCount - this.unknownCount;
    this.isShared = reduction.isDeduplicated;
    this.compressEvery = reduction.compressEvery;
  }

  /** Hashes, and references of those that are zero, which it counts. */
  #readHashes(source: number, blockCount: number, piece: number): number {
    const { kernel } = this.#memory;
    const { hashesAddress, referencesAddress } = this;
    if (piece === 0)
      return kernel.examineBlocks(source, blockCount, hashesAddress, referencesAddress);
    return kernel.examinePrepared(
      preparedHashesOf(piece),
      preparedSizesOf(piece),
      blockCount,
      hashesAddress,
      referencesAddress,
    );
  }

  #compare(source: number, blockCount: number, isFinal: boolean, verified: Uint32Array): void {
    const { words } = this.#memory;
    const first = this.referencesAddress >>> 2;
    for (let index = 0; index < blockCount; index++) {
      const word = first + index * 2;
      const segment = words[word] as number;
      if (segment === 0) continue; // zero, or not found
      const low = words[word + 1] as number;
      const hash = this.hashesAddress + index * 8;
      const match =
        verified[index * 2] === segment && verified[index * 2 + 1] === low
          ? this.#matcher.matchAgain(segment, low)
          : this.#matcher.match(segment, low, source + index * BLOCK_BYTES, hash);
      this.matches[index] = match;
      if (match === MATCH.SAME) {
        this.duplicateCount += 1;
        this.hitSegment = segment;
        this.hitLow = low;
      } else if (match === MATCH.UNKNOWN && !isFinal) this.unknownCount += 1;
      else {
        words[word] = 0;
        words[word + 1] = 0;
        // Another block keeps its entry: it is right about that one.
        if (match === MATCH.DIFFERENT) this.differentCount += 1;
        if (match !== MATCH.GONE) continue;
        this.goneCount += 1;
        this.#index.remove(hash, segment, low);
      }
    }
  }

  /** What the index promised, and no frame held. */
  get staleCount(): number {
    return this.differentCount + this.goneCount;
  }

  /** The blocks were packed; their frames' rows are at `rowsAddress`. */
  packed(frames: PackedFrames, reduction: Reduction): void {
    const { words } = this.#memory;
    const result = this.resultAddress >>> 2;
    const frameCount = words[result] as number;
    reduction.zeroCount += this.zeroCount;
    reduction.duplicateCount += this.duplicateCount + (words[result + 1] as number);
    reduction.frameCount += frameCount;
    if (reduction.isDeduplicated) reduction.missCount += frameCount;
    this.listedCount += this.#listedCount;
    reduction.frameBytes += frames.frameBytes;
    reduction.tried(words[result + 2] as number, words[result + 3] as number);
    if (reduction.isDeduplicated && frameCount > 0)
      this.#index.insertRows(frames.rowsAddress, frameCount, frames.segment);
  }
}

/** Where the frames of the last record are described. */
export interface PackedFrames {
  readonly segment: number;
  readonly rowsAddress: number;
  readonly frameBytes: number;
}
