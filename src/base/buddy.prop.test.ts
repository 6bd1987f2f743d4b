// SPDX-License-Identifier: Apache-2.0
//
// The buddy allocator against a list of what is taken.

import { equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AssertionError } from "./assert.ts";
import { BuddyAllocator } from "./buddy.ts";

const PAGE = 4096;
const CHUNK = 64 * PAGE;
const BASE = 7 * PAGE;

test("pieces never overlap, are aligned to their size, and merge back to whole chunks", () => {
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        take: fc.oneof(fc.integer({ min: 0, max: CHUNK }), fc.integer({ min: 1, max: 3 * PAGE })),
      }),
    },
    { weight: 2, arbitrary: fc.record({ give: fc.nat() }) },
  );
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.array(step, { maxLength: 200 }),
      (chunkCount, steps) => {
        const buddy = new BuddyAllocator({ baseAddress: BASE, chunkBytes: CHUNK, chunkCount });
        const total = chunkCount * CHUNK;
        const taken: { address: number; size: number }[] = [];
        for (const one of steps) {
          if ("give" in one) {
            const [piece] = taken.splice(one.give % Math.max(1, taken.length), 1);
            if (piece !== undefined) buddy.release(piece.address);
          } else {
            const size = PAGE * 2 ** Math.ceil(Math.log2(Math.max(1, Math.ceil(one.take / PAGE))));
            const address = buddy.allocate(one.take);
            if (address < 0) continue;
            equal((address - BASE) % size, 0, "aligned to its size");
            ok(address >= BASE && address + size <= BASE + total, "inside the region");
            for (const other of taken)
              ok(
                address + size <= other.address || other.address + other.size <= address,
                "no overlap",
              );
            taken.push({ address, size });
          }
          equal(buddy.freeBytes, total - taken.reduce((sum, piece) => sum + piece.size, 0));
        }
        for (const { address } of taken) buddy.release(address);
        for (let chunk = 0; chunk < chunkCount; chunk++)
          ok(buddy.allocate(CHUNK) >= 0, "whole again");
        equal(buddy.allocate(1), -1);
      },
    ),
  );
});

test("a piece is refused only when no free piece is large enough", () => {
  const buddy = new BuddyAllocator({ baseAddress: 0, chunkBytes: CHUNK, chunkCount: 1 });
  const pages = Array.from({ length: 64 }, () => buddy.allocate(PAGE));
  equal(new Set(pages).size, 64);
  equal(buddy.allocate(PAGE), -1);
  for (const page of pages) if ((page / PAGE) % 2 === 0) buddy.release(page);
  equal(buddy.freeBytes, 32 * PAGE);
  equal(buddy.allocate(2 * PAGE), -1, "free pages that are no neighbours are no larger piece");
  for (const page of pages) if ((page / PAGE) % 2 === 1) buddy.release(page);
  equal(buddy.allocate(CHUNK), 0);
});

test("releasing what wasn't taken, or twice, is a broken invariant", () => {
  const buddy = new BuddyAllocator({ baseAddress: 0, chunkBytes: CHUNK, chunkCount: 1 });
  const address = buddy.allocate(2 * PAGE);
  throws(() => buddy.release(address + PAGE), AssertionError);
  throws(() => buddy.release(CHUNK), AssertionError);
  buddy.release(address);
  throws(() => buddy.release(address), AssertionError);
  throws(() => buddy.allocate(CHUNK + 1), AssertionError);
});
