// SPDX-License-Identifier: Apache-2.0
//
// The deduplication index: what it keeps when there is room, what it gives up when there is none, and that neither
// garbage in its memory nor a weak hash does harm.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../sim/prng.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "./block-memory.ts";
import { DedupIndex } from "./dedup-index.ts";

const SEGMENT_ROWS = 1024;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: 1024 });
/** Rows, hashes and references of one call, then the index, a guard before and behind it. */
const rowsAt = memory.slotsAddress;
const hashesAt = rowsAt + SEGMENT_ROWS * 16;
const referencesAt = hashesAt + SEGMENT_ROWS * 8;
const guardAt = referencesAt + SEGMENT_ROWS * 8;
const indexAt = guardAt + BLOCK_BYTES;

function newIndex(lengthBytes: number): DedupIndex {
  const index = new DedupIndex({ memory, address: indexAt, lengthBytes });
  index.clear();
  return index;
}

/** All of the list of `segment`, whose rows are at hand. */
function prefetch(index: DedupIndex, count: number, segment: number): void {
  index.prefetchRows(rowsAt, count, segment);
  index.listPrefetched(segment, count);
}

function mix(value: number): number {
  let word = value ^ (value >>> 16);
  word = Math.imul(word, 0x21f0aaad);
  word ^= word >>> 15;
  word = Math.imul(word, 0x735a2d97);
  return (word ^ (word >>> 15)) >>> 0;
}

type Hash = (block: number) => readonly [low: number, high: number];
const good: Hash = (block) => [mix(block), mix(~block)];

const offset8Of = (row: number): number => 528 + row * 515;
const lowOf = (row: number): number => (0x40000000 | (offset8Of(row) << 6)) >>> 0;

/** Rows of blocks `first` to `first + count`, the first of which is row `row` of its segment. */
function putRows(first: number, count: number, options: { hash?: Hash; row?: number } = {}): void {
  const { hash = good, row = 0 } = options;
  for (let index = 0; index < count; index++) {
    const [low, high] = hash(first + index);
    memory.words.set([offset8Of(row + index), 4096, low, high], rowsAt / 4 + index * 4);
  }
}

/** Segment n holds the blocks from (n - 1) × SEGMENT_ROWS on. */
function putSegment(segment: number, hash: Hash = good): void {
  putRows((segment - 1) * SEGMENT_ROWS, SEGMENT_ROWS, { hash });
}

function putHashes(first: number, count: number, hash: Hash = good): void {
  for (let index = 0; index < count; index++)
    memory.words.set(hash(first + index), hashesAt / 4 + index * 2);
}

/** What is found for `count` blocks from `first` on: [segment, low], or undefined. */
function lookUp(
  index: DedupIndex,
  first: number,
  count: number,
  hash: Hash = good,
): (readonly [number, number] | undefined)[] {
  putHashes(first, count, hash);
  memory.words.fill(0, referencesAt / 4, referencesAt / 4 + count * 2);
  const found = index.find(hashesAt, count, referencesAt);
  const answers = Array.from({ length: count }, (_, block) => {
    const word = referencesAt / 4 + block * 2;
    const segment = memory.words[word] as number;
    return segment === 0 ? undefined : ([segment, memory.words[word + 1] as number] as const);
  });
  equal(answers.filter((answer) => answer !== undefined).length, found);
  return answers;
}

/** For each row of a segment whether its own frame is found. */
function foundRows(index: DedupIndex, segment: number): boolean[] {
  return lookUp(index, (segment - 1) * SEGMENT_ROWS, SEGMENT_ROWS).map(
    (answer, row) => answer?.[0] === segment && answer[1] === lowOf(row),
  );
}

function countTrue(facts: readonly boolean[]): number {
  return facts.filter(Boolean).length;
}

/** Writes segments 1 to `count`. */
function writeHistory(index: DedupIndex, count: number): void {
  for (let segment = 1; segment <= count; segment++) {
    putSegment(segment);
    index.insertRows(rowsAt, SEGMENT_ROWS, segment);
  }
}

// A bucket of 16 overflows by chance: of m = 16 × load expected entries (Poisson) 0.08 % are lost at half, 1.3 % at 70 %.
test("up to half full nearly nothing is lost, at 70 % about a hundredth", () => {
  const index = newIndex(1 << 20);
  equal(index.entryCountMax, 7 * 16 * 1024 - 16);
  for (const [load, lostMax] of [
    [0.3, 0],
    [0.5, 0.001],
    [0.7, 0.014],
  ] as const) {
    index.clear();
    const segmentCount = Math.floor((index.entryCountMax * load) / SEGMENT_ROWS);
    writeHistory(index, segmentCount);
    let found = 0;
    for (let segment = 1; segment <= segmentCount; segment++)
      found += countTrue(foundRows(index, segment));
    const written = segmentCount * SEGMENT_ROWS;
    ok(found >= written * (1 - lostMax), `load ${load}: ${written - found} of ${written} lost`);
    equal(index.entryCount + index.evictionCount, written);
    equal(index.isThinned, index.evictionCount > 0);
    ok(index.entryCount - found <= written / 1000, "an entry is hidden only by one of its tag");
    index.checkInvariants();
  }
});

test("what was put in last is found, however full the table is", () => {
  const index = newIndex(1 << 13);
  for (let block = 0; block < 20_000; block++) {
    putRows(block, 1, { row: block % SEGMENT_ROWS });
    index.insertRows(rowsAt, 1, 1 + Math.floor(block / SEGMENT_ROWS));
    ok(lookUp(index, block, 1)[0] !== undefined, `block ${block}`);
  }
  ok(index.entryCount > index.entryCountMax * 0.99);
  index.checkInvariants();
});

test("old segments keep evenly spaced frames, one of which any longer run meets", () => {
  const index = newIndex(1 << 17);
  // 32 times what fits: about every 32nd frame can stay.
  const segmentCount = Math.floor((index.entryCountMax * 32) / SEGMENT_ROWS);
  writeHistory(index, segmentCount);
  const prng = new Prng(1);
  for (const [share, runMin] of [
    [0.97, 128],
    [0.9, 64],
  ] as const) {
    for (let age = 0; age < 4; age++) {
      let met = 0;
      for (let round = 0; round < 200; round++) {
        const quarter = Math.floor((segmentCount * SEGMENT_ROWS) / 4);
        const first = age * quarter + prng.below(quarter - runMin);
        if (lookUp(index, first, runMin).some((answer) => answer !== undefined)) met += 1;
      }
      ok(met >= 200 * share, `runs of ${runMin} in quarter ${age}: ${met} of 200 met`);
    }
  }
});

test("a full bucket gives up its lowest level first, and of it the oldest segment", () => {
  const index = newIndex(2048); // 12 buckets and 1
  const oneBucket: Hash = (block) => [block, 0];
  // Rows 1 to 16 of the first bucket: levels by row number, each in a segment of its own.
  const levels = Array.from({ length: 24 }, (_, block) =>
    Math.max(0, 30 - Math.clz32((block + 1) & -(block + 1))),
  );
  deepEqual(levels.slice(0, 16), [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]);
  const kept = new Map<number, number>();
  for (let block = 0; block < 24; block++) {
    putRows(block, 1, { hash: oneBucket });
    // Segments fall in the first half, so that age and order of arrival differ.
    const segment = block < 16 ? 16 - block : block + 1;
    index.insertRows(rowsAt, 1, segment);
    if (kept.size === 16) {
      const rank = ([at, number]: readonly [number, number]): number =>
        (levels[at] as number) * 1000 + number;
      const victim = [...kept].reduce((a, b) => (rank(a) < rank(b) ? a : b));
      kept.delete(victim[0]);
    }
    kept.set(block, segment);
    const found = lookUp(index, 0, 24, oneBucket).map((answer) => answer?.[0]);
    deepEqual(
      found,
      Array.from({ length: 24 }, (_, at) => kept.get(at)),
      `after block ${block}`,
    );
  }
});

test("of the highest level the lowest tags go first, so that a sample of all ages stays", () => {
  const oneBucket: Hash = (block) => [block, 0];
  // Every 256th row goes to the bucket, all others to another.
  const elsewhere: Hash = (block) => [block, 0xffffffff];
  for (const put of ["insertRows", "restoreRows"] as const) {
    const index = newIndex(2048);
    const tags: number[] = [];
    for (let round = 0; round < 64; round++) {
      putRows(0, 255, { hash: elsewhere, row: round * 255 });
      index[put](rowsAt, 255, round + 1);
      const tag = (round * 37) % 64;
      putRows(tag, 1, { hash: oneBucket, row: 600 });
      index[put](rowsAt, 1, round + 1);
      tags.push(tag);
      // What is written now gets in all the same.
      const others = put === "insertRows" ? tags.slice(0, -1) : tags;
      if (tags.length > 16) tags.splice(tags.indexOf(Math.min(...others)), 1);
      const found = lookUp(index, 0, 64, oneBucket);
      for (const tag of tags) ok(found[tag] !== undefined, `${put}: tag ${tag} in round ${round}`);
      equal(found.filter((answer) => answer !== undefined).length, tags.length);
    }
  }
});

test("segments read back give the same table in any order, and about that of live writes", () => {
  const lengthBytes = 1 << 16;
  const segmentCount = 64; // nine times what fits
  const numbers = Array.from({ length: segmentCount }, (_, index) => index + 1);
  const restored = (order: readonly number[]): boolean[] => {
    const index = newIndex(lengthBytes);
    for (const segment of order) {
      putSegment(segment);
      index.restoreRows(rowsAt, SEGMENT_ROWS, segment);
    }
    index.checkInvariants();
    equal(index.entryCount + index.evictionCount, segmentCount * SEGMENT_ROWS);
    return numbers.flatMap((segment) => foundRows(index, segment));
  };
  const newestFirst = restored(numbers.toReversed());
  const prng = new Prng(5);
  const shuffled = numbers
    .map((segment) => [prng.word(), segment] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, segment]) => segment);
  for (const order of [numbers, shuffled]) {
    const other = restored(order);
    const differing = countTrue(other.map((isFound, block) => isFound !== newestFirst[block]));
    // Frames of the same rank, and tags that hide each other.
    ok(differing <= countTrue(newestFirst) / 100, `${differing} differ`);
  }
  const live = newIndex(lengthBytes);
  writeHistory(live, segmentCount);
  const found = numbers.flatMap((segment) => foundRows(live, segment));
  const both = countTrue(found.map((isFound, block) => isFound && newestFirst[block] === true));
  ok(both >= 0.88 * countTrue(found), `${both} of ${countTrue(found)} are in both`);
  ok(both >= 0.88 * countTrue(newestFirst), `${both} of ${countTrue(newestFirst)} are in both`);
});

test("what is read back never pushes out what is as good, and lost rows count as thinned", () => {
  const index = newIndex(2048);
  const oneBucket: Hash = (block) => [block, 0];
  putRows(0, 16, { hash: oneBucket });
  index.insertRows(rowsAt, 16, 10);
  equal(index.isThinned, false);
  putRows(100, 3, { hash: oneBucket, row: 100 });
  index.restoreRows(rowsAt, 3, 9);
  equal(index.isThinned, true);
  equal(index.evictionCount, 3);
  deepEqual(lookUp(index, 100, 3, oneBucket), [undefined, undefined, undefined]);
  // Row 20 has level 1: it takes the place of one of level 0.
  putRows(103, 1, { hash: oneBucket, row: 103 });
  index.restoreRows(rowsAt, 1, 9);
  // Rows 21 to 23 have the rank of those that are there.
  putRows(200, 3, { hash: oneBucket, row: 200 });
  index.restoreRows(rowsAt, 3, 10);
  deepEqual(lookUp(index, 200, 3, oneBucket), [undefined, undefined, undefined]);
  deepEqual(lookUp(index, 103, 1, oneBucket), [[9, lowOf(103)]]);
  equal(countTrue(lookUp(index, 0, 16, oneBucket).map((answer) => answer !== undefined)), 15);
});

test("segment numbers come back whole, far beyond the bits that are kept", () => {
  for (const newest of [2 ** 21, 2 ** 21 + 5, 2 ** 31 + 7, 2 ** 32 - 1]) {
    const index = newIndex(1 << 16);
    const ages = [0, 1, 1000, 2 ** 16, 2 ** 20, 2 ** 21 - 1].filter((age) => age < newest);
    // The newest first, as after a start; then as in life.
    for (const isRestored of [true, false]) {
      if (!isRestored) index.clear();
      const order = isRestored ? ages : ages.toReversed();
      for (const [at, age] of order.entries()) {
        putRows(age, 1, { row: at });
        if (isRestored) index.restoreRows(rowsAt, 1, newest - age);
        else index.insertRows(rowsAt, 1, newest - age);
      }
      for (const [at, age] of order.entries())
        deepEqual(lookUp(index, age, 1), [[newest - age, lowOf(at)]], `age ${age} of ${newest}`);
    }
    index.checkInvariants();
  }
});

test("empty ways don't hide what is older than they look", () => {
  const index = newIndex(1 << 16);
  const tagless: Hash = (block) => [0, mix(block)];
  for (const [at, segment] of [2 ** 21 + 5 - 100, 2 ** 21 + 5].entries()) {
    putRows(at, 1, { hash: tagless });
    index.insertRows(rowsAt, 1, segment);
  }
  deepEqual(lookUp(index, 0, 1, tagless), [[2 ** 21 + 5 - 100, lowOf(0)]]);
});

test("a segment too old for its number to be told is not taken", () => {
  const index = newIndex(1 << 16);
  putRows(0, 1);
  index.insertRows(rowsAt, 1, 2 ** 21 + 9);
  putRows(1, 1);
  index.restoreRows(rowsAt, 1, 9);
  equal(index.entryCount, 1);
  index.restoreRows(rowsAt, 1, 10);
  equal(index.entryCount, 2);
  throws(() => index.restoreRows(rowsAt, 1, 0), /numbered from 1/);
});

test("of two frames with one fingerprint the newer is found, and the older once that is removed", () => {
  const index = newIndex(1 << 16);
  for (const segment of [7, 9, 8]) {
    putRows(1, 1, { row: segment });
    index.insertRows(rowsAt, 1, segment);
  }
  for (const segment of [9, 8, 7]) {
    deepEqual(lookUp(index, 1, 1), [[segment, lowOf(segment)]]);
    index.remove(hashesAt, segment, lowOf(segment));
  }
  deepEqual(lookUp(index, 1, 1), [undefined]);
  equal(index.entryCount, 0);
  index.checkInvariants();
});

test("removing takes one frame and no other, once", () => {
  const index = newIndex(1 << 18);
  writeHistory(index, 4);
  const before = index.entryCount;
  putHashes(5, 1);
  index.remove(hashesAt, 2, lowOf(5)); // another segment
  index.remove(hashesAt, 1, lowOf(6)); // another place
  equal(index.entryCount, before);
  index.remove(hashesAt, 1, lowOf(5));
  index.remove(hashesAt, 1, lowOf(5));
  equal(index.entryCount, before - 1);
  const found = foundRows(index, 1);
  equal(found[5], false);
  equal(countTrue(found), SEGMENT_ROWS - 1);
  index.checkInvariants();
});

test("a frame is put in once, whoever tells of it", () => {
  const index = newIndex(1 << 16);
  for (const put of ["insertRows", "restoreRows", "insertRows"] as const) {
    putSegment(1);
    index[put](rowsAt, SEGMENT_ROWS, 1);
    equal(index.entryCount, SEGMENT_ROWS);
  }
});

test("a list that is prefetched again pushes nothing out", () => {
  const index = newIndex(1 << 17); // 2,000 places for lists
  putRows(0, 512);
  prefetch(index, 512, 1);
  putRows(SEGMENT_ROWS, 512);
  for (let round = 0; round < 10; round++) {
    prefetch(index, 512, 2);
    index.checkInvariants();
  }
  equal(index.isPrefetched(1), true);
  ok(countTrue(foundRows(index, 1)) >= 512 * 0.97);
});

test("references that are there already stay, whatever the index knows", () => {
  const index = newIndex(1 << 16);
  writeHistory(index, 1);
  putHashes(0, 3);
  const zero = [0, 0x80000000];
  memory.words.set([...zero, 0, 0, 77, 0x40000040], referencesAt / 4);
  equal(index.find(hashesAt, 3, referencesAt), 1);
  deepEqual(
    [...memory.words.subarray(referencesAt / 4, referencesAt / 4 + 6)],
    [...zero, 1, lowOf(1), 77, 0x40000040],
  );
});

test("rows whose place no reference can name are skipped", () => {
  const index = newIndex(1 << 16);
  putRows(0, 4);
  for (const [row, offset8] of [0, 2 ** 24, 2 ** 32 - 1, 2 ** 24 - 1].entries())
    memory.words[rowsAt / 4 + row * 4] = offset8;
  for (const put of ["insertRows", "prefetchRows"] as const) {
    index.clear();
    index[put](rowsAt, 4, 2 ** 21);
    index.listPrefetched(2 ** 21, 4);
    index.checkInvariants();
    deepEqual(lookUp(index, 0, 4), [undefined, undefined, undefined, [2 ** 21, 0x7fffffc0]]);
  }
});

test("a prefetched list is found until others need its place, and leaves the table alone", () => {
  const index = newIndex(1 << 17); // 2,000 places for lists
  writeHistory(index, 100);
  const { entryCount, evictionCount } = index;
  const limit = 0.75 * 16 * 127;
  for (let segment = 1; segment <= 20; segment++) {
    const before = countTrue(foundRows(index, segment));
    ok(before < 200, "most of an old segment is forgotten");
    equal(index.isPrefetched(segment), false);
    putRows((segment - 1) * SEGMENT_ROWS, 512);
    prefetch(index, 512, segment);
    equal(index.isPrefetched(segment), true);
    const listed = Array.from({ length: 20 }, (_, at) => at + 1).filter((one) =>
      index.isPrefetched(one),
    );
    deepEqual(listed, [segment - 1, segment].slice(segment === 1 ? 1 : 0));
    ok(listed.length * 512 <= limit);
    for (const one of listed) {
      const found = countTrue(foundRows(index, one).slice(0, 512));
      ok(found >= 512 * 0.97, `${found} of 512 of segment ${one}`);
    }
    index.checkInvariants();
  }
  ok(index.prefetchedHitCount > 0);
  equal(index.entryCount, entryCount);
  equal(index.evictionCount, evictionCount);
});

test("a list is that of the segment where the frames are, and they are found where they were born", () => {
  const index = newIndex(1 << 17);
  putRows(0, 8);
  index.insertRows(rowsAt, 1, 9); // no segment is newer
  for (const [home, row] of [
    [3, 1],
    [5, 2],
    [3, 3],
  ] as const)
    index.prefetchRows(rowsAt + row * 16, 1, home);
  equal(index.isPrefetched(9), false);
  index.listPrefetched(9, 3);
  deepEqual(
    [3, 5, 9].map((segment) => index.isPrefetched(segment)),
    [false, false, true],
  );
  deepEqual(lookUp(index, 1, 4), [[3, lowOf(1)], [5, lowOf(2)], [3, lowOf(3)], undefined]);
  index.checkInvariants();
});

test("a list that is larger than all places counts as prefetched until the next", () => {
  const index = newIndex(1 << 14); // 240 places for lists
  for (const segment of [1, 2]) {
    putSegment(segment);
    prefetch(index, SEGMENT_ROWS, segment);
    equal(index.isPrefetched(segment), true);
    equal(countTrue(foundRows(index, segment).slice(-64)), 64, "the end of it is there");
  }
  equal(index.isPrefetched(1), false);
  prefetch(index, 0, 3);
  index.checkInvariants();
});

test("a prefetched frame can be removed, and all of it be cleared", () => {
  const index = newIndex(1 << 17);
  putSegment(1);
  prefetch(index, 8, 1);
  putHashes(3, 1);
  index.remove(hashesAt, 1, lowOf(3));
  equal(countTrue(foundRows(index, 1)), 7);
  writeHistory(index, 2);
  index.clear();
  equal(countTrue([1, 2].flatMap((segment) => foundRows(index, segment))), 0);
  equal(index.isPrefetched(1), false);
  equal(index.entryCount + index.evictionCount, 0);
  index.checkInvariants();
});

test("a weak hash only costs duplicates", () => {
  const same: Hash = () => [0, 0];
  const eightBits: Hash = (block) => [mix(block) & 0xff, 0];
  const oneTag: Hash = (block) => [0xabcd, mix(block)];
  for (const hash of [same, eightBits, oneTag]) {
    const index = newIndex(1 << 14);
    for (let segment = 1; segment <= 32; segment++) {
      putSegment(segment, hash);
      index.insertRows(rowsAt, SEGMENT_ROWS, segment);
      const last = lookUp(index, segment * SEGMENT_ROWS - 1, 1, hash);
      equal(last[0]?.[0], segment);
      putSegment(segment, hash);
      prefetch(index, SEGMENT_ROWS, segment);
      index.checkInvariants();
    }
    ok(index.entryCount <= index.entryCountMax);
  }
});

test("garbage in the table gives candidates that a reference can name, and nothing outside is touched", () => {
  const prng = new Prng(3);
  const fillWith = (word: () => number, address: number, lengthBytes: number): void => {
    for (let at = address / 4; at < (address + lengthBytes) / 4; at++) memory.words[at] = word();
  };
  const random = (): number => prng.word();
  const lengthBytes = 1 << 15;
  fillWith(random, guardAt, BLOCK_BYTES);
  fillWith(random, indexAt + lengthBytes, BLOCK_BYTES);
  const guards = (): bigint[] => [
    memory.hash(guardAt, BLOCK_BYTES),
    memory.hash(indexAt + lengthBytes, BLOCK_BYTES),
  ];
  const before = guards();
  for (const word of [random, () => 0xffffffff, () => 0x00010001, () => 0xff000000, () => 1]) {
    for (const newest of [1, 5, 2 ** 20, 2 ** 32 - 1]) {
      const index = newIndex(lengthBytes);
      fillWith(word, indexAt, lengthBytes);
      // Tags as they are in the garbage, those of empty ways, and any.
      const weak: Hash = (block) => [[word(), 0, mix(block)][block % 3] as number, mix(~block)];
      for (let round = 0; round < 8; round++) {
        putRows(round * 512, 512, { hash: weak, row: round });
        if (round % 2 === 0) index.insertRows(rowsAt, 512, newest);
        else index.restoreRows(rowsAt, 512, Math.max(1, newest - round));
        prefetch(index, 512, Math.max(1, newest - round));
        for (const [at, answer] of lookUp(index, round * 512 + 256, 512, weak).entries()) {
          if (answer === undefined) continue;
          const [segment, low] = answer;
          ok(segment >= 1 && segment <= newest, `segment ${segment} of ${newest}`);
          ok(low >>> 30 === 1 && (low & 0x3fffffc0) !== 0 && (low & 63) === 0, `low ${low}`);
          index.remove(hashesAt + at * 8, segment, low);
        }
        ok(index.entryCount >= 0 && index.evictionCount >= 0);
      }
    }
  }
  deepEqual(guards(), before);
});
