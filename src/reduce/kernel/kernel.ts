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
//   20 u8   codec (0 = raw)   21 u8 slot count   22 u8 cipher suite   23 u8 flags
//   24 …    stored bytes, padded to a multiple of 8
//
// XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, seed 0.

export {
  clearFingerprints,
  findFingerprints,
  insertFingerprints,
  queueFingerprints,
  removeFingerprint,
} from "./fingerprint-table";

const PRIME_1: u64 = 0x9e3779b185ebca87;
const PRIME_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME_3: u64 = 0x165667b19e3779f9;
const PRIME_4: u64 = 0x85ebca77c2b2ae63;
const PRIME_5: u64 = 0x27d4eb2f165667c5;

const BLOCK_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = 24;
const RAW_FRAME_BYTES: usize = FRAME_HEADER_BYTES + BLOCK_BYTES;

const STATE_FRAME: u32 = 1 << 30;
const STATE_ZERO: u32 = 2 << 30;

// prettier-ignore
@inline function round(lane: u64, value: u64): u64 {
  return rotl<u64>(lane + value * PRIME_2, 31) * PRIME_1;
}

// prettier-ignore
@inline function merge(hash: u64, lane: u64): u64 {
  return (hash ^ round(0, lane)) * PRIME_1 + PRIME_4;
}

function xxh64(start: usize, lengthBytes: usize): u64 {
  let at = start;
  const end = start + lengthBytes;
  let hash: u64;
  if (lengthBytes >= 32) {
    let a: u64 = PRIME_1 + PRIME_2;
    let b: u64 = PRIME_2;
    let c: u64 = 0;
    let d: u64 = 0 - PRIME_1;
    const limit = end - 32;
    do {
      a = round(a, load<u64>(at));
      b = round(b, load<u64>(at, 8));
      c = round(c, load<u64>(at, 16));
      d = round(d, load<u64>(at, 24));
      at += 32;
    } while (at <= limit);
    hash = rotl<u64>(a, 1) + rotl<u64>(b, 7) + rotl<u64>(c, 12) + rotl<u64>(d, 18);
    hash = merge(merge(merge(merge(hash, a), b), c), d);
  } else {
    hash = PRIME_5;
  }
  hash += <u64>lengthBytes;
  while (at + 8 <= end) {
    hash = rotl<u64>(hash ^ round(0, load<u64>(at)), 27) * PRIME_1 + PRIME_4;
    at += 8;
  }
  if (at + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(at) * PRIME_1), 23) * PRIME_2 + PRIME_3;
    at += 4;
  }
  while (at < end) {
    hash = rotl<u64>(hash ^ (<u64>load<u8>(at) * PRIME_5), 11) * PRIME_1;
    at += 1;
  }
  hash = (hash ^ (hash >> 33)) * PRIME_2;
  hash = (hash ^ (hash >> 29)) * PRIME_3;
  return hash ^ (hash >> 32);
}

function isZeroBlock(block: usize): bool {
  const end = block + BLOCK_BYTES;
  for (let at = block; at < end; at += 64) {
    const first = v128.or(v128.load(at), v128.load(at, 16));
    const second = v128.or(v128.load(at, 32), v128.load(at, 48));
    if (v128.any_true(v128.or(first, second))) return false;
  }
  return true;
}

/** Stores XXH64 of `lengthBytes` at `start` into the 8 bytes at `target`. */
export function hash(start: usize, lengthBytes: usize, target: usize): void {
  store<u64>(target, xxh64(start, lengthBytes));
}

/**
 * Turns `blockCount` blocks at `source` into frames, packed from `target` on, whose place in segment
 * `segment` begins at `offset8` (in units of 8 bytes). Zero blocks become no frame. Writes one
 * reference (two u32: segment, low) per block to `references`, and one row (u32 offset8, u32 stored
 * bytes, u64 checksum) per frame to `table`. Returns the number of frames.
 */
export function packBlocks(source: usize, blockCount: u32, target: usize, segment: u32, offset8: u32, references: usize, table: usize): u32 {
  let frameCount: u32 = 0;
  for (let index: u32 = 0; index < blockCount; index++) {
    if (isZeroBlock(source)) {
      store<u32>(references, 0);
      store<u32>(references, STATE_ZERO, 4);
    } else {
      const checksum = xxh64(source, BLOCK_BYTES);
      store<u64>(target, checksum);
      store<u32>(target, segment, 8);
      store<u32>(target, offset8, 12);
      store<u32>(target, BLOCK_BYTES, 16);
      store<u32>(target, 1 << 8, 20);
      memory.copy(target + FRAME_HEADER_BYTES, source, BLOCK_BYTES);
      store<u32>(references, segment);
      store<u32>(references, STATE_FRAME | (offset8 << 6), 4);
      store<u32>(table, offset8);
      store<u32>(table, BLOCK_BYTES, 4);
      store<u64>(table, checksum, 8);
      table += 16;
      target += RAW_FRAME_BYTES;
      offset8 += RAW_FRAME_BYTES >> 3;
      frameCount += 1;
    }
    source += BLOCK_BYTES;
    references += 8;
  }
  return frameCount;
}

/**
 * Checks the frame at `frame` (of which `availableBytes` are there) against its identity and checksum
 * and copies its block to `target` (0: check only). Returns 0, or why not: 1 cut off, 2 another
 * frame's identity, 3 unknown codec or shape, 4 wrong checksum.
 */
export function openFrame(frame: usize, availableBytes: usize, segment: u32, offset8: u32, target: usize): u32 {
  if (availableBytes < FRAME_HEADER_BYTES) return 1;
  if (load<u32>(frame, 8) != segment || load<u32>(frame, 12) != offset8) return 2;
  if (load<u32>(frame, 16) != BLOCK_BYTES || load<u32>(frame, 20) != 1 << 8) return 3;
  if (availableBytes < RAW_FRAME_BYTES) return 1;
  if (xxh64(frame + FRAME_HEADER_BYTES, BLOCK_BYTES) != load<u64>(frame)) return 4;
  if (target != 0) memory.copy(target, frame + FRAME_HEADER_BYTES, BLOCK_BYTES);
  return 0;
}
