// SPDX-License-Identifier: Apache-2.0
//
// The table of the deduplication index (dedup-index.ts): from the XXH64 of a block to the frame that may hold it.
// A cache: it may forget, and what it finds is only a place to look at, so nothing in here needs to be right.
//
//   table    128 bytes of counters, then buckets of 128 bytes; the high half of a hash chooses the bucket
//   bucket   16 × u16 tag: the low 16 bits of the hash
//            16 × u16 low 16 bits of the segment
//            16 × u32 | level 3 | segment, its bits 20–16 | offset / 8: 24 |    0: this way is empty
//
// To look for something that isn't there takes one cache line. Segments are known by 21 bits; newer than the newest
// there are none, so the number is the largest that is not newer and ends in these bits.
//
// Of the rows that are put in, every 4th has level 1 or more, every 8th 2 or more, … every 256th 7. A full bucket gives
// up its lowest level first, and of it the oldest segment. So a table that is too small keeps every 4th, 8th, … frame
// of old segments, evenly spaced, and no age is forgotten: a run of duplicates meets one of them, and the rest comes
// from the segment's own list. Of level 7 the lowest tags go first: a sample of all ages again, as thin as it must be.

const FRAME_ROW_BYTES: usize = 16;
const STATE_FRAME: u32 = 1 << 30;

const ENTRY_COUNT: usize = 0;
/** Rows put in so far: their numbers decide the levels. */
const ROW_COUNT: usize = 4;
/** u64: entries that were pushed out, or not let in. */
const LOST_COUNT: usize = 8;
const TOUCHED: usize = 16;
const HEADER_BYTES: usize = 128;

const BUCKET_BYTES: usize = 128;
const SEGMENTS: usize = 32;
const WORDS: usize = 64;
const WAYS_LAST: u32 = 15;

const SEGMENT_MASK: u32 = (1 << 21) - 1;
const SEGMENT_HIGH_MASK: u32 = 0x1f0000;
const OFFSET_MASK: u32 = 0xffffff;
const LEVEL_MAX: u32 = 7;
const LEVEL_SHIFT: u32 = 29;

/** Rank of an entry: | level 3 | newness 21 | 1 | way 4 |; an empty way's is its number alone. */
const RANK_LEVEL_SHIFT: u32 = 26;
const RANK_NEWNESS_SHIFT: u32 = 5;
const RANK_TAKEN: u32 = 16;

/** So many buckets are fetched at once. */
const TOGETHER: u32 = 32;

// prettier-ignore
@inline function bucketOf(table: usize, bucketCount: u32, hash: u64): usize {
  const bucket = <u32>(((hash >> 32) * <u64>bucketCount) >> 32);
  return table + HEADER_BYTES + <usize>bucket * BUCKET_BYTES;
}

/** A bit for each way whose tag is that of `hash`; of empty ways too if the tag is 0. */
// prettier-ignore
@inline function waysOf(bucket: usize, hash: u64): u32 {
  const tag = i16x8.splat(<i16>hash);
  const first = i16x8.eq(v128.load(bucket), tag);
  const second = i16x8.eq(v128.load(bucket, 16), tag);
  return i8x16.bitmask(i8x16.narrow_i16x8_s(first, second));
}

// prettier-ignore
@inline function wordAt(bucket: usize, way: u32): u32 {
  return load<u32>(bucket + ((<usize>way) << 2), WORDS);
}

// prettier-ignore
@inline function shortSegmentAt(bucket: usize, way: u32): u32 {
  const low = <u32>load<u16>(bucket + ((<usize>way) << 1), SEGMENTS);
  return low | ((wordAt(bucket, way) >> 8) & SEGMENT_HIGH_MASK);
}

// prettier-ignore
@inline function put(bucket: usize, way: u32, tag: u16, segment: u32, word: u32): void {
  store<u16>(bucket + ((<usize>way) << 1), tag);
  store<u16>(bucket + ((<usize>way) << 1), <u16>segment, SEGMENTS);
  store<u32>(bucket + ((<usize>way) << 2), word, WORDS);
}

/** The way that holds this frame, or -1. */
function wayOf(bucket: usize, hash: u64, segment: u32, offset8: u32): i32 {
  for (let ways = waysOf(bucket, hash); ways != 0; ways &= ways - 1) {
    const way = ctz(ways);
    if ((wordAt(bucket, way) & OFFSET_MASK) != offset8) continue;
    if (shortSegmentAt(bucket, way) == (segment & SEGMENT_MASK)) return <i32>way;
  }
  return -1;
}

/**
 * Completes those of `count` references (two u32: segment, low) that are (0, 0), where the block of that hash (u64 each
 * at `hashes`) may be: of several places the newest. Gives their number.
 */
export function findFingerprints(table: usize, bucketCount: u32, hashes: usize, count: u32, references: usize, newestSegment: u32): u32 {
  let foundCount: u32 = 0;
  for (let index: u32 = 0; index < count; index++) {
    if (load<u64>(references) == 0) {
      const hash = load<u64>(hashes);
      const bucket = bucketOf(table, bucketCount, hash);
      const ways = waysOf(bucket, hash);
      if (ways != 0) foundCount += complete(references, bucket, ways, newestSegment);
    }
    hashes += 8;
    references += 8;
  }
  return foundCount;
}

function complete(reference: usize, bucket: usize, ways: u32, newestSegment: u32): u32 {
  // What has no age below this one would be newer than the newest, or segment 0: garbage.
  let ageBest: u32 = newestSegment;
  let offset8: u32 = 0;
  for (; ways != 0; ways &= ways - 1) {
    const way = ctz(ways);
    const age = (newestSegment - shortSegmentAt(bucket, way)) & SEGMENT_MASK;
    const offset = wordAt(bucket, way) & OFFSET_MASK;
    if (offset == 0 || age >= ageBest) continue;
    ageBest = age;
    offset8 = offset;
  }
  if (offset8 == 0) return 0;
  store<u32>(reference, newestSegment - ageBest);
  store<u32>(reference, STATE_FRAME | (offset8 << 6), 4);
  return 1;
}

/**
 * Puts in `count` frames of `segment`, given by rows as they are in a segment's footer. Rows of live writes always
 * get in. Rows that are read back (`isRebuild`) get in where there is room, or something of lower rank.
 */
export function insertFingerprints(table: usize, bucketCount: u32, rows: usize, count: u32, segment: u32, newestSegment: u32, isRebuild: u32): void {
  if (isForeign(segment, newestSegment)) return;
  let rowCount = load<u32>(table, ROW_COUNT);
  let entryCount = load<u32>(table, ENTRY_COUNT);
  let lostCount = load<u64>(table, LOST_COUNT);
  while (count != 0) {
    const together = min(count, TOGETHER);
    touch(table, bucketCount, rows, together);
    for (let index: u32 = 0; index < together; index++, rows += FRAME_ROW_BYTES) {
      const offset8 = load<u32>(rows);
      const hash = load<u64>(rows, 8);
      const bucket = bucketOf(table, bucketCount, hash);
      if (offset8 - 1 >= OFFSET_MASK) continue;
      if (waysOf(bucket, hash) != 0 && wayOf(bucket, hash, segment, offset8) >= 0) continue;
      rowCount += 1;
      const level = levelOf(rowCount);
      const victim = lowestRank(bucket, newestSegment);
      if ((victim & RANK_TAKEN) == 0) entryCount += 1;
      else {
        lostCount += 1;
        if (isRebuild != 0 && rankOf(level, <u16>hash, newestSegment - segment) <= victim >> 4) continue;
      }
      const word = (level << LEVEL_SHIFT) | (((segment & SEGMENT_MASK) >> 16) << 24) | offset8;
      put(bucket, victim & WAYS_LAST, <u16>hash, segment, word);
    }
    count -= together;
  }
  store<u32>(table, rowCount, ROW_COUNT);
  store<u32>(table, entryCount, ENTRY_COUNT);
  store<u64>(table, lostCount, LOST_COUNT);
}

/**
 * Puts in `count` frames of `segment` like `insertFingerprints`, into a table where each bucket is a queue: what came
 * first goes first, whatever its segment.
 */
export function queueFingerprints(table: usize, bucketCount: u32, rows: usize, count: u32, segment: u32, newestSegment: u32): void {
  if (isForeign(segment, newestSegment)) return;
  let entryCount = load<u32>(table, ENTRY_COUNT);
  let lostCount = load<u64>(table, LOST_COUNT);
  for (; count != 0; count--, rows += FRAME_ROW_BYTES) {
    const offset8 = load<u32>(rows);
    const hash = load<u64>(rows, 8);
    const bucket = bucketOf(table, bucketCount, hash);
    if (offset8 - 1 >= OFFSET_MASK) continue;
    if (waysOf(bucket, hash) != 0 && wayOf(bucket, hash, segment, offset8) >= 0) continue;
    if (wordAt(bucket, WAYS_LAST) == 0) entryCount += 1;
    else lostCount += 1;
    shiftWays(bucket);
    put(bucket, 0, <u16>hash, segment, (((segment & SEGMENT_MASK) >> 16) << 24) | offset8);
  }
  store<u32>(table, entryCount, ENTRY_COUNT);
  store<u64>(table, lostCount, LOST_COUNT);
}

/** Forgets the frame at `offset8` of `segment`, whose hash (u64) is at `hash`. Gives 1 if it was there. */
export function removeFingerprint(table: usize, bucketCount: u32, hash: usize, segment: u32, offset8: u32): u32 {
  const bucket = bucketOf(table, bucketCount, load<u64>(hash));
  const way = wayOf(bucket, load<u64>(hash), segment, offset8);
  if (way < 0 || offset8 == 0) return 0;
  put(bucket, <u32>way, 0, 0, 0);
  store<u32>(table, load<u32>(table, ENTRY_COUNT) - 1, ENTRY_COUNT);
  return 1;
}

/** Forgets everything in `lengthBytes` from `table` on. */
export function clearFingerprints(table: usize, lengthBytes: usize): void {
  memory.fill(table, 0, lengthBytes);
}

/** Segment numbers begin at 1, and older ones than 21 bits can tell from new ones are not taken. */
// prettier-ignore
@inline function isForeign(segment: u32, newestSegment: u32): bool {
  return segment - 1 >= newestSegment || newestSegment - segment > SEGMENT_MASK;
}

/** Starts fetching the buckets of rows, which wait for memory together instead of one after the other. */
// prettier-ignore
@inline function touch(table: usize, bucketCount: u32, rows: usize, count: u32): void {
  let sum: u32 = 0;
  for (let index: u32 = 0; index < count; index++, rows += FRAME_ROW_BYTES) {
    const bucket = bucketOf(table, bucketCount, load<u64>(rows, 8));
    sum += load<u32>(bucket) + load<u32>(bucket, WORDS);
  }
  // Without a use of what was loaded, a compiler might not load it.
  store<u32>(table, sum, TOUCHED);
}

// prettier-ignore
@inline function levelOf(rowNumber: u32): u32 {
  return min(max(ctz(rowNumber), 1) - 1, LEVEL_MAX);
}

// prettier-ignore
@inline function rankOf(level: u32, tag: u16, age: u32): u32 {
  const newness = level == LEVEL_MAX ? (<u32>tag) << 5 : SEGMENT_MASK - age;
  return ((level << RANK_LEVEL_SHIFT) | (newness << RANK_NEWNESS_SHIFT) | RANK_TAKEN) >> 4;
}

/** The ranks of four ways, the first of which is `way`. */
// prettier-ignore
@inline function ranksOf(bucket: usize, way: u32, newest: v128, mask: v128): v128 {
  const words = v128.load(bucket + ((<usize>way) << 2), WORDS);
  const low = v128.load_ext<u16>(bucket + ((<usize>way) << 1), SEGMENTS);
  const high = v128.and(i32x4.shr_u(words, 8), i32x4.splat(SEGMENT_HIGH_MASK));
  const age = v128.and(i32x4.sub(newest, v128.or(low, high)), mask);
  const tag = i32x4.shl(v128.load_ext<u16>(bucket + ((<usize>way) << 1)), 5);
  const isTop = i32x4.eq(i32x4.shr_u(words, LEVEL_SHIFT), i32x4.splat(LEVEL_MAX));
  const newness = v128.bitselect(tag, v128.xor(age, mask), isTop);
  const level = i32x4.shl(i32x4.shr_u(words, LEVEL_SHIFT), RANK_LEVEL_SHIFT);
  const rank = v128.or(level, i32x4.shl(newness, RANK_NEWNESS_SHIFT));
  const taken = v128.or(rank, i32x4.splat(RANK_TAKEN));
  const isEmpty = i32x4.eq(words, i32x4.splat(0));
  return v128.or(v128.andnot(taken, isEmpty), i32x4.add(i32x4.splat(way), i32x4(0, 1, 2, 3)));
}

/** The lowest rank in the bucket, that of an empty way if there is one; its low 4 bits are the way. */
// prettier-ignore
@inline function lowestRank(bucket: usize, newestSegment: u32): u32 {
  const newest = i32x4.splat(newestSegment);
  const mask = i32x4.splat(SEGMENT_MASK);
  const first = i32x4.min_u(ranksOf(bucket, 0, newest, mask), ranksOf(bucket, 4, newest, mask));
  const second = i32x4.min_u(ranksOf(bucket, 8, newest, mask), ranksOf(bucket, 12, newest, mask));
  const four = i32x4.min_u(first, second);
  const two = i32x4.min_u(four, v128.shuffle<u32>(four, four, 2, 3, 0, 1));
  const one = i32x4.min_u(two, v128.shuffle<u32>(two, two, 1, 0, 3, 2));
  return i32x4.extract_lane(one, 0);
}

/** Moves every way of the bucket to the next; the last is lost. */
// prettier-ignore
@inline function shiftWays(bucket: usize): void {
  shiftHalves(bucket);
  shiftHalves(bucket + SEGMENTS);
  const a = v128.load(bucket, WORDS);
  const b = v128.load(bucket, WORDS + 16);
  const c = v128.load(bucket, WORDS + 32);
  const d = v128.load(bucket, WORDS + 44);
  v128.store(bucket, a, WORDS + 4);
  v128.store(bucket, b, WORDS + 20);
  v128.store(bucket, c, WORDS + 36);
  v128.store(bucket, d, WORDS + 48);
}

// prettier-ignore
@inline function shiftHalves(halves: usize): void {
  const a = v128.load(halves);
  const b = v128.load(halves, 14);
  v128.store(halves, a, 2);
  v128.store(halves, b, 16);
}
