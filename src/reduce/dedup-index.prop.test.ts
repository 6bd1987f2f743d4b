// SPDX-License-Identifier: Apache-2.0
//
// The deduplication index against a plain set of what was put in: while nothing was pushed out it finds all of it; at
// any time it finds only what was put in and not removed; and its books are right.

import { ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BlockMemory, shapeOf } from "./block-memory.ts";
import { DedupIndex } from "./dedup-index.ts";

const ROWS_MAX = 40;
const BLOCKS = 300;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: 64 });
const rowsAt = memory.slotsAddress;
const hashesAt = rowsAt + 4096;
const referencesAt = hashesAt + 4096;
const indexAt = referencesAt + 4096;

/** Fingerprints of 300 blocks, by how much they differ: in all bits, in few buckets, in few tags. */
const HASHES: Readonly<Record<string, (block: number) => readonly [low: number, high: number]>> = {
  good: (block) => [Math.imul(block, 0x9e3779b1), Math.imul(block, 0x85ebca6b)],
  fewBuckets: (block) => [block, (block % 3) << 30],
  fewTags: (block) => [block % 5, Math.imul(block, 0x85ebca6b)],
  same: () => [0, 0],
};

const SEGMENTS = [1, 2, 3, 65535, 65536, 65537, 2 ** 20, 2 ** 21 - 1];

const step = fc.record({
  kind: fc.constantFrom("insert", "insert", "insert", "restore", "prefetch", "remove", "clear"),
  segment: fc.constantFrom(...SEGMENTS),
  firstBlock: fc.nat(BLOCKS - ROWS_MAX),
  firstPlace: fc.integer({ min: 1, max: 3 }),
  count: fc.integer({ min: 0, max: ROWS_MAX }),
});

const placeOf = (firstPlace: number, block: number): number => firstPlace * BLOCKS + block;
const lowOf = (offset8: number): number => (0x40000000 | (offset8 << 6)) >>> 0;

test("what was put in is found until something is pushed out, and nothing else is ever found", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.keys(HASHES)),
      fc.constantFrom(2048, 4096, 1 << 16),
      fc.array(step, { maxLength: 40 }),
      (hashName, lengthBytes, steps) => {
        const hashOf = HASHES[hashName]!;
        const index = new DedupIndex({ memory, address: indexAt, lengthBytes });
        index.clear();
        // Frames as "segment.low", by block: in the table, and in prefetched lists.
        const inserted = new Map<number, Set<string>>();
        const prefetched = new Map<number, Set<string>>();
        const frames = (map: Map<number, Set<string>>, block: number): Set<string> => {
          if (!map.has(block)) map.set(block, new Set());
          return map.get(block)!;
        };
        for (const { kind, segment, firstBlock, firstPlace, count } of steps) {
          for (let at = 0; at < count; at++) {
            const offset8 = placeOf(firstPlace, firstBlock + at);
            const [low, high] = hashOf(firstBlock + at);
            memory.words.set([offset8, 4096, low, high], rowsAt / 4 + at * 4);
          }
          const kept = kind === "prefetch" ? prefetched : inserted;
          if (kind === "insert") index.insertRows(rowsAt, count, segment);
          if (kind === "restore") index.restoreRows(rowsAt, count, segment);
          if (kind === "prefetch") {
            index.prefetchRows(rowsAt, count, segment);
            index.listPrefetched(segment, count);
          }
          if (kind === "insert" || kind === "restore" || kind === "prefetch") {
            for (let at = 0; at < count; at++) {
              const block = firstBlock + at;
              const low = lowOf(placeOf(firstPlace, block));
              frames(kept, block).add(`${segment}.${low}`);
            }
          }
          if (kind === "remove") {
            const low = lowOf(placeOf(firstPlace, firstBlock));
            memory.words.set(hashOf(firstBlock), hashesAt / 4);
            index.remove(hashesAt, segment, low);
            for (const map of [inserted, prefetched])
              frames(map, firstBlock).delete(`${segment}.${low}`);
          }
          if (kind === "clear") {
            index.clear();
            inserted.clear();
            prefetched.clear();
          }
          index.checkInvariants();
          ok(index.entryCount <= index.entryCountMax);
          compare(index, hashOf, inserted, prefetched);
        }
      },
    ),
    { numRuns: 300 },
  );
});

function compare(
  index: DedupIndex,
  hashOf: (block: number) => readonly [number, number],
  inserted: ReadonlyMap<number, ReadonlySet<string>>,
  prefetched: ReadonlyMap<number, ReadonlySet<string>>,
): void {
  for (let block = 0; block < BLOCKS; block++)
    memory.words.set(hashOf(block), hashesAt / 4 + block * 2);
  memory.words.fill(0, referencesAt / 4, referencesAt / 4 + BLOCKS * 2);
  index.find(hashesAt, BLOCKS, referencesAt);
  for (let block = 0; block < BLOCKS; block++) {
    const word = referencesAt / 4 + block * 2;
    const segment = memory.words[word] as number;
    const low = memory.words[word + 1] as number;
    const mine = inserted.get(block);
    if (segment === 0) {
      ok(mine === undefined || mine.size === 0 || index.isThinned, `block ${block} is not found`);
      continue;
    }
    // Fingerprints that look alike to the table may answer for each other, never what isn't there.
    const name = `${segment}.${low}`;
    const owner = ((low >>> 6) & 0xffffff) % BLOCKS;
    const isKnown = inserted.get(owner)?.has(name) || prefetched.get(owner)?.has(name);
    ok(isKnown, `block ${block}: ${name} was never put in, or was removed`);
    const [ownLow, ownHigh] = hashOf(owner);
    const [blockLow, blockHigh] = hashOf(block);
    ok((ownLow & 0xffff) === (blockLow & 0xffff), `block ${block} has another tag than ${owner}`);
    if (mine?.size && !index.isThinned && ownLow === blockLow && ownHigh === blockHigh) {
      const newest = Math.max(...[...mine].map((frame) => Number(frame.split(".")[0])));
      ok(segment >= newest, `block ${block}: ${segment} isn't the newest`);
    }
  }
}
