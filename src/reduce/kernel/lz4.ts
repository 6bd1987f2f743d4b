// SPDX-License-Identifier: Apache-2.0
//
// LZ4 block format for blocks of 4096 bytes: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md.
// Any LZ4 library reads what is written here, and the other way round. A block is a list of sequences,
// each "these literals, then so many bytes from that far back"; the last has literals only:
//
//   token  u8   literal count << 4 | match length - 4; 15 in either half: more follows
//   more   u8 …  of the literal count: added up until one is not 255
//   …           literals
//   offset u16  how far back the match begins
//   more   u8 …  of the match length
//
// The compressor finds matches through a table of the place where five bytes, hashed, were seen last.
// Where it finds none its steps grow, so that noise costs little. The table is cleared for each block:
// what a block compresses to depends on nothing but the block. Both sides copy whole vectors, which may
// run over what was asked for, but never over the end of a range that the caller gave.

const BLOCK_BYTES: usize = 4096;
const MATCH_BYTES_MIN: usize = 4;
/** By the format, the last 5 bytes are literals, and no match begins in the last 12. */
const LAST_LITERAL_BYTES: usize = 5;
const LAST_MATCH_DISTANCE: usize = 12;
const OFFSET_BYTES: usize = 2;

/** In half a token: the length is this and more. */
const LONG: usize = 15;

const TABLE_BITS: u64 = 12;
const TABLE_BYTES: usize = 2 << 12;
/** Multiplies the five bytes by a prime of 40 bits, and shifts the other three out. */
const HASH_FACTOR: u64 = 889523592379 << 24;
/** So many places are tried before the search takes larger steps. */
const TRIES_PER_STEP: usize = 32;

/** Where both ranges have so many bytes left, what is short is copied in vectors that may run over it. */
const ROOM: usize = 32;
const WIDE: usize = 64;

/**
 * Compresses the 4096 bytes at `source` into at most `limitBytes` at `target`, with 8 KiB of scratch at
 * `table` that may hold anything. Gives the number of bytes written, or 0 if they would be more.
 */
export function compressBlock(source: usize, target: usize, limitBytes: u32, table: usize): u32 {
  const end = source + BLOCK_BYTES;
  const searchEnd = end - LAST_MATCH_DISTANCE + 1;
  const limit = target + <usize>limitBytes;
  const innerEnd = end - ROOM;
  const innerLimit = limit - ROOM;
  memory.fill(table, 0, TABLE_BYTES);
  let out = target;
  let anchor = source; // what is before it is written
  let at = source;
  while (true) {
    at += 1;
    let earlier: usize = 0;
    let step: usize = 1;
    while (true) {
      const stepEnd = min<usize>(at + step * TRIES_PER_STEP, searchEnd);
      while (at < stepEnd) {
        const bytes = load<u64>(at);
        earlier = lastPlace(table, bytes, source, at);
        if (load<u32>(earlier) == <u32>bytes) break;
        at += step;
      }
      if (at < stepEnd) break;
      if (at >= searchEnd) return storeLast(target, out, limit, anchor, end);
      step += 1 + (step >> 2);
    }
    while (at > anchor && earlier > source && load<u8>(at - 1) == load<u8>(earlier - 1)) {
      at -= 1;
      earlier -= 1;
    }

    let token = out;
    const literalBytes = at - anchor;
    if (noneNegative(LONG - 1 - literalBytes, innerEnd - at, innerLimit - out)) {
      store<u8>(token, <u8>(literalBytes << 4));
      v128.store(out, v128.load(anchor), 1);
      out += 1 + literalBytes;
    } else {
      const sequenceBytes: usize = 1 + moreBytes(literalBytes) + literalBytes + OFFSET_BYTES;
      if (limit - out < sequenceBytes) return 0;
      out = storeLiterals(out, limit, anchor, at, end);
    }

    // The match, and those that begin where the one before them ended.
    while (true) {
      const matchEnd = endOfMatch(at + MATCH_BYTES_MIN, earlier + MATCH_BYTES_MIN, end - LAST_LITERAL_BYTES);
      const matchBytes = matchEnd - at - MATCH_BYTES_MIN;
      store<u16>(out, <u16>(at - earlier));
      out += OFFSET_BYTES;
      if (matchBytes < LONG) {
        store<u8>(token, <u8>(load<u8>(token) | matchBytes));
      } else {
        if (limit - out < moreBytes(matchBytes)) return 0;
        store<u8>(token, <u8>(load<u8>(token) | LONG));
        out = storeMore(out, matchBytes - LONG);
      }
      at = matchEnd;
      anchor = matchEnd;
      if (at >= searchEnd) return storeLast(target, out, limit, anchor, end);
      lastPlace(table, load<u64>(at - 2), source, at - 2);
      const bytes = load<u64>(at);
      earlier = lastPlace(table, bytes, source, at);
      if (load<u32>(earlier) != <u32>bytes) break;
      if (limit - out < 1 + OFFSET_BYTES) return 0;
      token = out;
      store<u8>(token, 0);
      out += 1;
    }
  }
}

/**
 * Decompresses `lengthBytes` at `source` into `targetBytes` at `target`. True if the whole source was
 * one valid block of exactly that size; if not, the target holds anything.
 */
export function decompressBlock(source: usize, lengthBytes: u32, target: usize, targetBytes: u32): bool {
  const end = source + <usize>lengthBytes;
  const targetEnd = target + <usize>targetBytes;
  const innerEnd = end - ROOM;
  const innerTargetEnd = targetEnd - ROOM;
  let at = source;
  let out = target;
  while (at < end) {
    const token = <usize>load<u8>(at);
    at += 1;
    let literalBytes = token >> 4;
    if (noneNegative(LONG - 1 - literalBytes, innerEnd - at, innerTargetEnd - out)) {
      v128.store(out, v128.load(at));
      at += literalBytes;
      out += literalBytes;
    } else {
      if (literalBytes == LONG) {
        let more: usize;
        do {
          if (at == end) return false;
          more = <usize>load<u8>(at);
          at += 1;
          literalBytes += more;
          if (literalBytes > end - at) return false;
        } while (more == 255);
      }
      if (literalBytes > end - at || literalBytes > targetEnd - out) return false;
      if (literalBytes <= WIDE && end - at >= WIDE && targetEnd - out >= WIDE) {
        copyWide(out, at, literalBytes);
      } else {
        memory.copy(out, at, literalBytes);
      }
      at += literalBytes;
      out += literalBytes;
      if (at == end) return out == targetEnd;
      if (end - at < OFFSET_BYTES) return false;
    }

    const offset = <usize>load<u16>(at);
    at += OFFSET_BYTES;
    if (offset - 1 >= out - target) return false; // 0 wraps to a large number
    const earlier = out - offset;
    let matchBytes = token & LONG;
    if (noneNegative(LONG - 1 - matchBytes, offset - 8, innerTargetEnd - out)) {
      // Up to 18 bytes, in steps that no overlap disturbs.
      store<u64>(out, load<u64>(earlier));
      store<u64>(out, load<u64>(earlier, 8), 8);
      store<u16>(out, load<u16>(earlier, 16), 16);
      out += matchBytes + MATCH_BYTES_MIN;
      continue;
    }
    if (matchBytes == LONG) {
      let more: usize;
      do {
        if (at == end) return false;
        more = <usize>load<u8>(at);
        at += 1;
        matchBytes += more;
        if (matchBytes > targetEnd - out) return false;
      } while (more == 255);
    }
    matchBytes += MATCH_BYTES_MIN;
    if (matchBytes > targetEnd - out) return false;
    if (matchBytes <= WIDE && offset >= 16 && targetEnd - out >= WIDE) {
      copyWide(out, earlier, matchBytes);
    } else {
      repeat(out, offset, matchBytes);
    }
    out += matchBytes;
  }
  return false;
}

/** The place where the bytes at `at` were seen last, as their hash tells; now it is `at`. */
// prettier-ignore
@inline function lastPlace(table: usize, bytes: u64, source: usize, at: usize): usize {
  const entry = table + (<usize>((bytes * HASH_FACTOR) >> (64 - TABLE_BITS)) << 1);
  const earlier = source + <usize>load<u16>(entry);
  store<u16>(entry, <u16>(at - source));
  return earlier;
}

/** Three tests in one branch: if one of these differences is negative, then so is their "or". */
// prettier-ignore
@inline function noneNegative(a: usize, b: usize, c: usize): bool {
  return <isize>(a | b | c) >= 0;
}

/** Where the bytes from `at` on stop to be those from `earlier` on, at most `end`. */
// prettier-ignore
@inline function endOfMatch(at: usize, earlier: usize, end: usize): usize {
  if (end - at >= 8) {
    const difference = load<u64>(at) ^ load<u64>(earlier);
    if (difference != 0) return at + <usize>(ctz<u64>(difference) >> 3);
    at += 8;
    earlier += 8;
  }
  while (end - at >= 16 && !v128.any_true(v128.xor(v128.load(at), v128.load(earlier)))) {
    at += 16;
    earlier += 16;
  }
  while (end - at >= 8) {
    const difference = load<u64>(at) ^ load<u64>(earlier);
    if (difference != 0) return at + <usize>(ctz<u64>(difference) >> 3);
    at += 8;
    earlier += 8;
  }
  while (at < end && load<u8>(at) == load<u8>(earlier)) {
    at += 1;
    earlier += 1;
  }
  return at;
}

/** Bytes that a count takes beside its half of the token. */
// prettier-ignore
@inline function moreBytes(count: usize): usize {
  return (count + 255 - LONG) / 255;
}

// prettier-ignore
@inline function storeMore(target: usize, rest: usize): usize {
  while (rest >= 255) {
    store<u8>(target, 255);
    target += 1;
    rest -= 255;
  }
  store<u8>(target, <u8>rest);
  return target + 1;
}

/** Stores a token without its match, and the literals from `anchor` to `at`: there is room for exactly them. */
function storeLiterals(out: usize, limit: usize, anchor: usize, at: usize, end: usize): usize {
  const literalBytes = at - anchor;
  store<u8>(out, <u8>(min<usize>(literalBytes, LONG) << 4));
  out += 1;
  if (literalBytes >= LONG) out = storeMore(out, literalBytes - LONG);
  if (literalBytes <= WIDE && end - anchor >= WIDE && limit - out >= WIDE) {
    copyWide(out, anchor, literalBytes);
  } else {
    memory.copy(out, anchor, literalBytes);
  }
  return out + literalBytes;
}

/** Stores the last sequence. Gives the bytes of the whole block, 0 if it would be too long. */
function storeLast(target: usize, out: usize, limit: usize, anchor: usize, end: usize): u32 {
  const literalBytes = end - anchor;
  if (limit - out < 1 + moreBytes(literalBytes) + literalBytes) return 0;
  return <u32>(storeLiterals(out, limit, anchor, end, end) - target);
}

/** Copies `lengthBytes`, at most 64, of which what runs over may be overwritten: 64 bytes must be there. */
// prettier-ignore
@inline function copyWide(target: usize, source: usize, lengthBytes: usize): void {
  v128.store(target, v128.load(source));
  v128.store(target, v128.load(source, 16), 16);
  if (lengthBytes > 32) {
    v128.store(target, v128.load(source, 32), 32);
    v128.store(target, v128.load(source, 48), 48);
  }
}

/** Continues the pattern of the last `offset` bytes before `target`: each copy doubles it. */
function repeat(target: usize, offset: usize, lengthBytes: usize): void {
  const pattern = target - offset;
  while (lengthBytes > offset) {
    memory.copy(target, pattern, offset);
    target += offset;
    lengthBytes -= offset;
    offset <<= 1;
  }
  memory.copy(target, pattern, lengthBytes);
}
