// SPDX-License-Identifier: Apache-2.0
//
// LZ4 block format for blocks of 4096 bytes: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md.
// Any LZ4 library decompresses what is written here, and the other way round. A block is a list of
// sequences; the last has literals only:
//
//   token (literal count << 4 | match bytes - 4, 15: more follows)  more literal count  literals
//   u16 offset  more match bytes
//
// Equal bytes are found through a table of the places where four bytes were seen last, one place per
// hash. Where nothing is found the search takes longer and longer steps, so that noise costs little.
// Neither side reads or writes a byte outside of the ranges it was given. Inside of them, copies may
// run over their end, by up to 31 bytes, because whole vectors are quicker than counting.

const BLOCK_BYTES: usize = 4096;
const MATCH_BYTES_MIN: usize = 4;
/** The last 5 bytes are literals, and no match begins in the last 12: the format says so. */
const LAST_LITERALS: usize = 5;
const MATCH_START_MARGIN: usize = 12;

/** What fits into half a token; 15 says that more follows. */
const SHORT_MAX: usize = 15;
const TABLE_BITS: u32 = 12;
const TABLE_BYTES: usize = 2 << TABLE_BITS;
/** After 2 ** so many places without a match, the search goes on in steps one byte longer. */
const STEP_BITS: usize = 5;

// prettier-ignore
@inline function tablePlace(table: usize, value: u32): usize {
  return table + (<usize>((value * 2654435761) >> (32 - TABLE_BITS)) << 1);
}

/** Bytes that a literal count or match length takes beside the token. */
// prettier-ignore
@inline function moreBytes(length: usize): usize {
  return (length + 240) / 255;
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

/** Where the bytes from `at` on stop to be those from `earlier` on, at most `end`. */
// prettier-ignore
@inline function endOfMatch(at: usize, earlier: usize, end: usize): usize {
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

/** Copies exactly `lengthBytes` between ranges that don't overlap. */
function copyExactly(target: usize, source: usize, lengthBytes: usize): void {
  while (lengthBytes >= 16) {
    v128.store(target, v128.load(source));
    target += 16;
    source += 16;
    lengthBytes -= 16;
  }
  if (lengthBytes & 8) {
    store<u64>(target, load<u64>(source));
    target += 8;
    source += 8;
  }
  if (lengthBytes & 4) {
    store<u32>(target, load<u32>(source));
    target += 4;
    source += 4;
  }
  if (lengthBytes & 2) {
    store<u16>(target, load<u16>(source));
    target += 2;
    source += 2;
  }
  if (lengthBytes & 1) store<u8>(target, load<u8>(source));
}

/**
 * Compresses the 4096 bytes at `source` into at most `limitBytes` at `target`, with 8 KiB of scratch at
 * `table`, which may hold anything. Gives the number of bytes written, 0 if they would be more.
 */
export function compressBlock(source: usize, target: usize, limitBytes: u32, table: usize): u32 {
  const end = source + BLOCK_BYTES;
  const lastStart = end - MATCH_START_MARGIN;
  const matchEnd = end - LAST_LITERALS;
  const limit = target + <usize>limitBytes;
  clearTable(table);
  let out = target;
  let anchor = source;
  let at = source;
  while (true) {
    // Every place of the table holds an earlier one: 0 stands for the block's first byte.
    let candidate: usize;
    let value: u32;
    let next = at + 1;
    let tries: usize = 1 << STEP_BITS;
    do {
      at = next;
      next += tries >> STEP_BITS;
      tries += 1;
      if (at > lastStart) return finish(target, out, limit, anchor, end);
      value = load<u32>(at);
      const place = tablePlace(table, value);
      candidate = source + <usize>load<u16>(place);
      store<u16>(place, <u16>(at - source));
    } while (load<u32>(candidate) != value);

    while (at > anchor && candidate > source && load<u8>(at - 1) == load<u8>(candidate - 1)) {
      at -= 1;
      candidate -= 1;
    }
    const literalBytes = at - anchor;
    // Behind these literals come 2 bytes of offset and at least 6 of the last sequence.
    if (limit - out < 1 + literalBytes + moreBytes(literalBytes) + 8) return 0;
    let token = out;
    out = storeLiterals(out, limit, anchor, at, end);

    // A match, and all that begin where the one before ended.
    while (true) {
      const start = at;
      at = endOfMatch(at + MATCH_BYTES_MIN, candidate + MATCH_BYTES_MIN, matchEnd);
      const matchBytes = at - start - MATCH_BYTES_MIN;
      if (limit - out < 2 + moreBytes(matchBytes) + 6) return 0;
      store<u16>(out, <u16>(start - candidate));
      out += 2;
      if (matchBytes < SHORT_MAX) {
        store<u8>(token, <u8>(load<u8>(token) | matchBytes));
      } else {
        store<u8>(token, <u8>(load<u8>(token) | SHORT_MAX));
        out = storeMore(out, matchBytes - SHORT_MAX);
      }
      anchor = at;
      if (at > lastStart) return finish(target, out, limit, anchor, end);
      store<u16>(tablePlace(table, load<u32>(at - 2)), <u16>(at - 2 - source));
      value = load<u32>(at);
      const place = tablePlace(table, value);
      candidate = source + <usize>load<u16>(place);
      store<u16>(place, <u16>(at - source));
      if (load<u32>(candidate) != value) break;
      token = out;
      store<u8>(token, 0);
      out += 1;
    }
  }
}

/** Stores a token without its match, and the literals from `anchor` to `at`. There is room for exactly them. */
// prettier-ignore
@inline function storeLiterals(out: usize, limit: usize, anchor: usize, at: usize, end: usize): usize {
  const literalBytes = at - anchor;
  if (literalBytes < SHORT_MAX) {
    store<u8>(out, <u8>(literalBytes << 4));
    out += 1;
  } else {
    store<u8>(out, <u8>(SHORT_MAX << 4));
    out = storeMore(out + 1, literalBytes - SHORT_MAX);
  }
  if (end - at >= 16 && limit - out >= literalBytes + 16) {
    const stop = out + literalBytes;
    do {
      v128.store(out, v128.load(anchor));
      out += 16;
      anchor += 16;
    } while (out < stop);
    return stop;
  }
  copyExactly(out, anchor, literalBytes);
  return out + literalBytes;
}

/** Writes the last sequence. */
function finish(target: usize, out: usize, limit: usize, anchor: usize, end: usize): u32 {
  const literalBytes = end - anchor;
  if (limit - out < 1 + literalBytes + moreBytes(literalBytes)) return 0;
  return <u32>(storeLiterals(out, limit, anchor, end, end) - target);
}

/**
 * Decompresses exactly `lengthBytes` at `source` into exactly `targetBytes` at `target`. False if they
 * are not a valid block of that size: then the target holds anything.
 */
export function decompressBlock(source: usize, lengthBytes: u32, target: usize, targetBytes: u32): bool {
  const end = source + <usize>lengthBytes;
  const targetEnd = target + <usize>targetBytes;
  let at = source;
  let out = target;
  while (at < end) {
    const token = <usize>load<u8>(at);
    at += 1;

    let literalBytes = token >> 4;
    if (literalBytes == SHORT_MAX) {
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
    if (end - at >= literalBytes + 16 && targetEnd - out >= literalBytes + 16) {
      copyVectors(out, at, literalBytes);
    } else {
      copyExactly(out, at, literalBytes);
    }
    at += literalBytes;
    out += literalBytes;
    if (at == end) return out == targetEnd;

    if (end - at < 2) return false;
    const offset = <usize>load<u16>(at);
    at += 2;
    if (offset == 0 || offset > out - target) return false;
    let matchBytes = (token & SHORT_MAX) + MATCH_BYTES_MIN;
    if (matchBytes == SHORT_MAX + MATCH_BYTES_MIN) {
      let more: usize;
      do {
        if (at == end) return false;
        more = <usize>load<u8>(at);
        at += 1;
        matchBytes += more;
        if (matchBytes > targetEnd - out) return false;
      } while (more == 255);
    }
    const room = targetEnd - out;
    if (matchBytes > room) return false;
    if (room >= matchBytes + 16) {
      if (offset >= 16) copyVectors(out, out - offset, matchBytes);
      else repeatVectors(out, offset, matchBytes);
    } else {
      repeatExactly(out, offset, matchBytes);
    }
    out += matchBytes;
  }
  return false;
}

/** Copies `lengthBytes`, and up to 16 more, forwards in vectors. */
// prettier-ignore
@inline function copyVectors(target: usize, source: usize, lengthBytes: usize): void {
  const stop = target + lengthBytes;
  do {
    v128.store(target, v128.load(source));
    target += 16;
    source += 16;
  } while (target < stop);
}

/** Repeats the last `offset` (at most 15) bytes before `target` for `lengthBytes`, and up to 16 more. */
// prettier-ignore
@inline function repeatVectors(target: usize, offset: usize, lengthBytes: usize): void {
  const stop = target + lengthBytes;
  // Byte i of a vector is byte i % offset of the pattern. A step too far below zero wraps to a large
  // number, which the minimum refuses.
  const one = i8x16.splat(<i8>offset);
  let index = i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  index = i8x16.min_u(index, i8x16.sub(index, i8x16.splat(<i8>(offset << 3))));
  index = i8x16.min_u(index, i8x16.sub(index, i8x16.splat(<i8>(offset << 2))));
  index = i8x16.min_u(index, i8x16.sub(index, i8x16.splat(<i8>(offset << 1))));
  index = i8x16.min_u(index, i8x16.sub(index, one));
  v128.store(target, i8x16.swizzle(v128.load(target - offset), index));
  // From now on the distance may be any multiple of the offset: one that is at least a vector.
  const distance: usize = (<usize>15 / offset + 1) * offset;
  target += 16;
  while (target < stop) {
    v128.store(target, v128.load(target - distance));
    target += 16;
  }
}

/** Repeats the last `offset` bytes before `target` for exactly `lengthBytes`. */
function repeatExactly(target: usize, offset: usize, lengthBytes: usize): void {
  const stop = target + lengthBytes;
  while (target < stop) {
    store<u8>(target, load<u8>(target - offset));
    target += 1;
  }
}

// prettier-ignore
@inline function clearTable(table: usize): void {
  const end = table + TABLE_BYTES;
  const zeros = i32x4.splat(0);
  for (; table < end; table += 64) {
    v128.store(table, zeros);
    v128.store(table, zeros, 16);
    v128.store(table, zeros, 32);
    v128.store(table, zeros, 48);
  }
}
