// SPDX-License-Identifier: Apache-2.0
//
// The block kernel: the work that is done to every byte, in AssemblyScript, compiled to WebAssembly.
// It runs over the pool's shared memory, a whole request or batch per call, so that no block crosses
// a boundary or is allocated. All addresses are byte offsets into that memory; the caller guarantees
// that they are in range.
//
// Frame, as docs/format/frame.md has it (little-endian):
//
//   0  u64  checksum: XXH64 of the content (the raw block)
//   8  u32  home segment      } the frame's identity: where it was born
//   12 u32  home offset / 8   }
//   16 u32  stored bytes (behind this header)
//   20 u8   codec (0 = raw, 2 = LZ4)   21 u8 slot count   22 u8 cipher suite   23 u8 flags
//   24 …    stored bytes, padded to a multiple of 8
//
// Of a write, the blocks are first examined (zero, or their hashes), then looked for in the deduplication index and
// compared, and what is new is packed: the three steps meet in two parallel lists, hashes and references.

import { compressBlock, decompressBlock } from "./lz4";
import { xxh64 } from "./xxh64";

export {
  clearFingerprints,
  findFingerprints,
  insertFingerprints,
  queueFingerprints,
  removeFingerprint,
} from "./fingerprint-table";
export { compressBlock, decompressBlock } from "./lz4";

const BLOCK_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = 24;
/** A block is kept compressed only if that saves at least a sixteenth. */
const COMPRESSED_BYTES_MAX: u32 = 3840;

/** From one compressed block to the next in what `prepareBlocks` leaves. */
const PREPARED_STRIDE: usize = 3840;
/** Bits of the size that it leaves. */
const PREPARED_BYTES: u32 = 0xffff;
const PREPARED_TRIED: u32 = 1 << 16;
const PREPARED_HASHED: u32 = 1 << 17;

const CODEC_RAW: u32 = 0;
const CODEC_LZ4: u32 = 2;
const ONE_SLOT: u32 = 1 << 8;

const STATE_FRAME: u32 = 1 << 30;
const STATE_ZERO: u32 = 2 << 30;

/** The kernel's own scratch, inside of the memory's (block-memory.ts). */
const SCRATCH: usize = 4096 + 49152;
const LZ4_TABLE: usize = SCRATCH;
const OPENED_BLOCK: usize = SCRATCH + 8192;
/** 1024 places for the new blocks of one write, by hash: u16, block index + 1. */
const NEW_BLOCKS: usize = SCRATCH + 12288;
const NEW_BLOCKS_MASK: u32 = 1023;

function isZeroBlock(block: usize): bool {
  const end = block + BLOCK_BYTES;
  for (let at = block; at < end; at += 64) {
    const first = v128.or(v128.load(at), v128.load(at, 16));
    const second = v128.or(v128.load(at, 32), v128.load(at, 48));
    if (v128.any_true(v128.or(first, second))) return false;
  }
  return true;
}

function isSameBlock(first: usize, second: usize): bool {
  for (let at: usize = 0; at < BLOCK_BYTES; at += 64) {
    const a = v128.xor(v128.load(first + at), v128.load(second + at));
    const b = v128.xor(v128.load(first + at, 16), v128.load(second + at, 16));
    const c = v128.xor(v128.load(first + at, 32), v128.load(second + at, 32));
    const d = v128.xor(v128.load(first + at, 48), v128.load(second + at, 48));
    if (v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) return false;
  }
  return true;
}

/** 1 if the blocks at the two addresses hold the same bytes. */
export function compareBlocks(first: usize, second: usize): u32 {
  return isSameBlock(first, second) ? 1 : 0;
}

/** Stores XXH64 of `lengthBytes` at `start` into the 8 bytes at `target`. */
export function hash(start: usize, lengthBytes: usize, target: usize): void {
  store<u64>(target, xxh64(start, lengthBytes));
}

/**
 * Looks at `blockCount` blocks at `source`: writes one reference (two u32: segment, low) a block to `references`, zero
 * for zero blocks and none (0, 0) for all others, and of those the hash to `hashes` (u64). Gives the number of zero blocks.
 */
export function examineBlocks(source: usize, blockCount: u32, hashes: usize, references: usize): u32 {
  let zeroCount: u32 = 0;
  for (let index: u32 = 0; index < blockCount; index++) {
    store<u32>(references, 0);
    if (isZeroBlock(source)) {
      store<u32>(references, STATE_ZERO, 4);
      zeroCount += 1;
    } else {
      store<u32>(references, 0, 4);
      store<u64>(hashes, xxh64(source, BLOCK_BYTES));
    }
    source += BLOCK_BYTES;
    references += 8;
    hashes += 8;
  }
  return zeroCount;
}

/**
 * Does, of what is to be done to `blockCount` blocks at `source`, all that depends on nothing but them: it may run in
 * another thread. Writes for each block its hash to `hashes` (u64) and to `sizes` (u32) what it takes: 0 for zeros, 4096 as
 * it is, else its compressed bytes, which are then at `content` + 3840 a block; and bit 16 if that was tried. `compressEvery`
 * as in `packBlocks`; with 0 it is left to that, and bit 17 says so. `table` is 8 KiB for the compressor's own use.
 */
export function prepareBlocks(
  source: usize,
  blockCount: u32,
  hashes: usize,
  sizes: usize,
  content: usize,
  compressEvery: u32,
  table: usize,
): void {
  let untilTry: u32 = compressEvery;
  for (let index: u32 = 0; index < blockCount; index++) {
    let size: u32 = 0;
    if (!isZeroBlock(source)) {
      store<u64>(hashes, xxh64(source, BLOCK_BYTES));
      size = <u32>BLOCK_BYTES;
      if (compressEvery == 0) size |= PREPARED_HASHED;
      else {
        untilTry -= 1;
        if (untilTry == 0) {
          untilTry = compressEvery;
          const storedBytes = compressBlock(source, content, COMPRESSED_BYTES_MAX, table);
          if (storedBytes != 0) {
            size = storedBytes;
            compressEvery = 1;
            untilTry = 1;
          }
          size |= PREPARED_TRIED;
        }
      }
    }
    store<u32>(sizes, size);
    source += BLOCK_BYTES;
    hashes += 8;
    sizes += 4;
    content += PREPARED_STRIDE;
  }
}

/** As `examineBlocks`, of blocks that were prepared: `preparedHashes` and `sizes` are what that left. */
export function examinePrepared(
  preparedHashes: usize,
  sizes: usize,
  blockCount: u32,
  hashes: usize,
  references: usize,
): u32 {
  let zeroCount: u32 = 0;
  memory.copy(hashes, preparedHashes, <usize>blockCount << 3);
  for (let index: u32 = 0; index < blockCount; index++) {
    const isZero = load<u32>(sizes + (<usize>index << 2)) == 0;
    store<u32>(references, 0);
    store<u32>(references, isZero ? STATE_ZERO : 0, 4);
    if (isZero) zeroCount += 1;
    references += 8;
  }
  return zeroCount;
}

/**
 * Makes frames of those of `blockCount` blocks at `source` that have no reference yet, packed from `target` on, whose
 * place in segment `segment` begins at `offset8` (in units of 8 bytes), and completes `references`. With `shared`, blocks
 * that are equal among themselves share one frame. Every `compressEvery`th new block is tried to be compressed (0: none),
 * and once one has shrunk, all behind it. Writes one row (u32 offset8, u32 stored bytes, u64 checksum) per frame to `table`
 * and u32s to `result`: frames, blocks that share one of these frames, blocks that were tried, blocks that shrank. Gives
 * the bytes of all frames. Blocks that were prepared (`sizes` and `content` are what that left, else 0), and not only hashed, are
 * copied.
 */
export function packBlocks(
  source: usize,
  blockCount: u32,
  target: usize,
  segment: u32,
  offset8: u32,
  hashes: usize,
  references: usize,
  table: usize,
  shared: u32,
  compressEvery: u32,
  sizes: usize,
  content: usize,
  result: usize,
): u32 {
  const begin = target;
  let frameCount: u32 = 0;
  let sharedCount: u32 = 0;
  let triedCount: u32 = 0;
  let shrunkCount: u32 = 0;
  let untilTry: u32 = compressEvery;
  const isShared = shared != 0 && blockCount > 1;
  if (isShared) memory.fill(NEW_BLOCKS, 0, (NEW_BLOCKS_MASK + 1) << 1);
  for (let index: u32 = 0; index < blockCount; index++) {
    const reference = references + (<usize>index << 3);
    if (load<u32>(reference, 4) != 0) continue;
    const block = source + <usize>index * BLOCK_BYTES;
    const hash = load<u64>(hashes + (<usize>index << 3));
    if (isShared) {
      const twin = earlierTwin(source, index, hashes);
      if (twin != 0xffffffff) {
        store<u64>(reference, load<u64>(references + (<usize>twin << 3)));
        sharedCount += 1;
        continue;
      }
    }
    let storedBytes: u32 = 0;
    const size = sizes == 0 ? PREPARED_HASHED : load<u32>(sizes + (<usize>index << 2));
    if ((size & PREPARED_HASHED) == 0) {
      triedCount += (size & PREPARED_TRIED) >>> 16;
      const preparedBytes = size & PREPARED_BYTES;
      if (preparedBytes < <u32>BLOCK_BYTES) {
        storedBytes = preparedBytes;
        shrunkCount += 1;
        memory.copy(target + FRAME_HEADER_BYTES, content + <usize>index * PREPARED_STRIDE, storedBytes);
      }
    } else if (compressEvery != 0) {
      untilTry -= 1;
      if (untilTry == 0) {
        untilTry = compressEvery;
        triedCount += 1;
        storedBytes = compressBlock(block, target + FRAME_HEADER_BYTES, COMPRESSED_BYTES_MAX, LZ4_TABLE);
        if (storedBytes != 0) {
          shrunkCount += 1;
          compressEvery = 1;
          untilTry = 1;
        }
      }
    }
    let codec = CODEC_LZ4;
    if (storedBytes == 0) {
      codec = CODEC_RAW;
      storedBytes = <u32>BLOCK_BYTES;
      memory.copy(target + FRAME_HEADER_BYTES, block, BLOCK_BYTES);
    }
    const paddedBytes = (storedBytes + 7) & ~7;
    if (paddedBytes != storedBytes) {
      const end = target + FRAME_HEADER_BYTES + storedBytes;
      memory.fill(end, 0, paddedBytes - storedBytes);
    }
    store<u64>(target, hash);
    store<u32>(target, segment, 8);
    store<u32>(target, offset8, 12);
    store<u32>(target, storedBytes, 16);
    store<u32>(target, codec | ONE_SLOT, 20);
    store<u32>(reference, segment);
    store<u32>(reference, STATE_FRAME | (offset8 << 6), 4);
    store<u32>(table, offset8);
    store<u32>(table, storedBytes, 4);
    store<u64>(table, hash, 8);
    table += 16;
    target += FRAME_HEADER_BYTES + paddedBytes;
    offset8 += (<u32>FRAME_HEADER_BYTES + paddedBytes) >> 3;
    frameCount += 1;
  }
  store<u32>(result, frameCount);
  store<u32>(result, sharedCount, 4);
  store<u32>(result, triedCount, 8);
  store<u32>(result, shrunkCount, 12);
  return <u32>(target - begin);
}

/** The new block before `index` of the same write that holds the same bytes; none: 0xffffffff, and it is remembered. */
function earlierTwin(source: usize, index: u32, hashes: usize): u32 {
  const hash = load<u64>(hashes + (<usize>index << 3));
  const block = source + <usize>index * BLOCK_BYTES;
  let place = <u32>hash & NEW_BLOCKS_MASK;
  let other = <u32>load<u16>(NEW_BLOCKS + (<usize>place << 1));
  while (other != 0) {
    const twin = other - 1;
    const isTwin =
      load<u64>(hashes + (<usize>twin << 3)) == hash &&
      isSameBlock(source + <usize>twin * BLOCK_BYTES, block);
    if (isTwin) return twin;
    place = (place + 1) & NEW_BLOCKS_MASK;
    other = <u32>load<u16>(NEW_BLOCKS + (<usize>place << 1));
  }
  store<u16>(NEW_BLOCKS + (<usize>place << 1), <u16>(index + 1));
  return 0xffffffff;
}

/**
 * Whether the frame at `frame` (of which `availableBytes` are there) holds the block at `block`, whose hash is at
 * `hash`: 1 yes, 2 no, 0 it isn't that frame, or isn't whole.
 */
export function matchFrame(
  frame: usize,
  availableBytes: usize,
  segment: u32,
  offset8: u32,
  block: usize,
  hash: usize,
): u32 {
  if (availableBytes < FRAME_HEADER_BYTES) return 0;
  if (load<u32>(frame, 8) != segment || load<u32>(frame, 12) != offset8) return 0;
  const storedBytes = load<u32>(frame, 16);
  const shape = load<u32>(frame, 20);
  const stored = frame + FRAME_HEADER_BYTES;
  let content = stored;
  if (shape == (CODEC_RAW | ONE_SLOT)) {
    if (storedBytes != <u32>BLOCK_BYTES) return 0;
    if (availableBytes < FRAME_HEADER_BYTES + BLOCK_BYTES) return 0;
  } else {
    if (shape != (CODEC_LZ4 | ONE_SLOT) || storedBytes > COMPRESSED_BYTES_MAX) return 0;
    if (availableBytes < FRAME_HEADER_BYTES + storedBytes) return 0;
    content = OPENED_BLOCK;
    if (!decompressBlock(stored, storedBytes, content, <u32>BLOCK_BYTES)) return 0;
  }
  // With the same bytes and the same checksum it will open, too.
  if (isSameBlock(content, block)) return load<u64>(frame) == load<u64>(hash) ? 1 : 0;
  return xxh64(content, BLOCK_BYTES) == load<u64>(frame) ? 2 : 0;
}

/**
 * Checks the frame at `frame` (of which `availableBytes` are there) against its identity and checksum
 * and puts its block to `target` (0: check only). Returns 0, or why not: 1 cut off, 2 another
 * frame's identity, 3 unknown codec or shape, 4 wrong checksum. Then `target` may hold anything.
 */
export function openFrame(frame: usize, availableBytes: usize, segment: u32, offset8: u32, target: usize): u32 {
  if (availableBytes < FRAME_HEADER_BYTES) return 1;
  if (load<u32>(frame, 8) != segment || load<u32>(frame, 12) != offset8) return 2;
  const storedBytes = load<u32>(frame, 16);
  const shape = load<u32>(frame, 20);
  const stored = frame + FRAME_HEADER_BYTES;
  if (shape == (CODEC_RAW | ONE_SLOT)) {
    if (storedBytes != <u32>BLOCK_BYTES) return 3;
    if (availableBytes < FRAME_HEADER_BYTES + BLOCK_BYTES) return 1;
    if (xxh64(stored, BLOCK_BYTES) != load<u64>(frame)) return 4;
    if (target != 0) memory.copy(target, stored, BLOCK_BYTES);
    return 0;
  }
  if (shape != (CODEC_LZ4 | ONE_SLOT) || storedBytes > COMPRESSED_BYTES_MAX) return 3;
  if (availableBytes < FRAME_HEADER_BYTES + storedBytes) return 1;
  const block = target != 0 ? target : OPENED_BLOCK;
  if (!decompressBlock(stored, storedBytes, block, <u32>BLOCK_BYTES)) return 4;
  return xxh64(block, BLOCK_BYTES) == load<u64>(frame) ? 0 : 4;
}
