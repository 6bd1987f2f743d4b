// SPDX-License-Identifier: Apache-2.0
//
// The cache of slots against a map of what was put there: what it finds is right, what it gives up it tells of,
// and it never gives up what it doesn't have to.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { SlotCache } from "./slot-cache.ts";

const SLOTS = 64;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: SLOTS });

function newCache(): { cache: SlotCache; pages: Map<string, number> } {
  const pages = new Map<string, number>();
  const cache = new SlotCache(memory, {
    pageDropped: (branch, page) =>
      ok(pages.delete(`${branch}.${page}`), "only a page that is there is dropped"),
  });
  return { cache, pages };
}

const step = fc.record({
  kind: fc.constantFrom("add", "add", "find", "addPage", "touchPage", "releasePage"),
  segment: fc.integer({ min: 1, max: 3 }),
  number: fc.nat(200),
});

test("a block is found where it was put, or not at all; pages are told of when they go", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 600 }), (steps) => {
      const { cache, pages } = newCache();
      const contents = new Map<number, string>();
      for (const { kind, segment, number } of steps) {
        const low = (0x40000000 | (number << 6)) >>> 0;
        const address = cache.findBlock(segment, low);
        const key = `${segment}.${number}`;
        if (address !== 0) equal(contents.get(address), key, "the content is the block's");
        if (kind === "add" && address === 0) contents.set(cache.addBlock(segment, low), key);
        if (kind === "addPage" && !pages.has(key)) {
          const slot = cache.addPage(segment, number);
          contents.set(cache.addressOf(slot), `page ${key}`);
          pages.set(key, slot);
        }
        const slot = pages.get(key);
        if (slot !== undefined) equal(contents.get(cache.addressOf(slot)), `page ${key}`);
        if (kind === "touchPage" && slot !== undefined) cache.touchPage(slot);
        if (kind === "releasePage" && slot !== undefined) {
          pages.delete(key);
          cache.releasePage(slot);
        }
        cache.checkInvariants();
        equal(cache.pageCount, pages.size);
        ok(cache.blockCount + cache.pageCount <= SLOTS);
        ok(cache.usedBytes <= SLOTS * 4096);
      }
    }),
    { numRuns: 200 },
  );
});

test("while there is room nothing is given up", () => {
  const { cache } = newCache();
  for (let number = 0; number < SLOTS; number++) cache.addBlock(1, 0x40000000 | (number << 6));
  for (let number = 0; number < SLOTS; number++)
    ok(cache.findBlock(1, 0x40000000 | (number << 6)) !== 0);
  equal(cache.blockCount, SLOTS);
});

test("a scan that is read once doesn't push out what is read again", () => {
  const { cache } = newCache();
  const hot = Array.from({ length: SLOTS / 2 }, (_, number) => 0x40000000 | (number << 6));
  for (const low of hot) cache.addBlock(1, low);
  for (let number = 0; number < 1000; number++) {
    for (const low of hot) cache.findBlock(1, low);
    cache.addBlock(2, 0x40000000 | (number << 6));
  }
  equal(hot.filter((low) => cache.findBlock(1, low) !== 0).length, hot.length);
});

test("when all slots are pages that were just used, one still goes", () => {
  const { cache, pages } = newCache();
  for (let page = 0; page < 3 * SLOTS; page++) {
    pages.set(`1.${page}`, cache.addPage(1, page));
    for (const slot of pages.values()) cache.touchPage(slot);
  }
  equal(cache.pageCount, SLOTS);
  cache.checkInvariants();
});
