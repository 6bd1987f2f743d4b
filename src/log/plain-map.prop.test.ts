// SPDX-License-Identifier: Apache-2.0
//
// The plain map against an array: writes, and ranges of holes and zeros of any size.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, PlainMap } from "./plain-map.ts";
import { LOW_HOLE, LOW_ZERO } from "./reference.ts";

const CHUNK = PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;
const FRAME = 1 << 30;
const BLOCKS = 3 * CHUNK;

/** Places where something begins or ends, and their neighbours. */
const place = fc
  .tuple(
    fc.constantFrom(
      0,
      512,
      1024,
      4 * 512,
      CHUNK - 512,
      CHUNK,
      CHUNK + 512,
      2 * CHUNK,
      BLOCKS - 512,
    ),
    fc.integer({ min: -3, max: 3 }),
  )
  .map(([base, step]) => Math.min(BLOCKS - 1, Math.max(0, base + step)));
const operation = fc.oneof(
  fc.record({ kind: fc.constant("set" as const), lba: place }),
  fc.record({ kind: fc.constantFrom("hole" as const, "zero" as const), lba: place, end: place }),
);

test("a plain map gives each block's newest reference", () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 12 }), (operations) => {
      const map = new PlainMap();
      const model = new Uint32Array(BLOCKS);
      operations.forEach((one, index) => {
        if (one.kind === "set") {
          map.set(one.lba, index + 1, FRAME + index);
          model[one.lba] = FRAME + index;
        } else {
          const low = one.kind === "zero" ? LOW_ZERO : LOW_HOLE;
          const [from, to] = [Math.min(one.lba, one.end), Math.max(one.lba, one.end) + 1];
          map.fill(from, to - from, low);
          model.fill(low, from, to);
        }
      });
      const withFrames = new Set<number>();
      for (let page = 0; page < 3 * PLAIN_CHUNK_PAGES; page++) {
        const found = map.page(page);
        const from = page * PLAIN_PAGE_BLOCKS;
        for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
          const low = model[from + block] as number;
          if ((found?.[block * 2 + 1] ?? LOW_HOLE) !== low)
            equal(found?.[block * 2 + 1], low, `block ${from + block}`);
          if (low !== LOW_HOLE && low !== LOW_ZERO) withFrames.add(page);
        }
      }
      const told = map.pageNumbers();
      deepEqual(
        told,
        [...told].sort((a, b) => a - b),
      );
      for (const page of withFrames) equal(told.includes(page), true);
      for (const chunk of [0, 1, 2]) {
        const constant = map.constantOfChunk(chunk);
        if (constant !== undefined)
          equal(
            model.subarray(chunk * CHUNK, (chunk + 1) * CHUNK).every((low) => low === constant),
            true,
          );
      }
    }),
    { numRuns: 60 },
  );
});

test("a copy holds the same, and neither sees what is written to the other", () => {
  const map = new PlainMap();
  map.set(5, 1, 8);
  map.fill(0, 2 ** 20, LOW_ZERO);
  map.set(7, 1, 16);
  const copy = map.copy();
  const copyOfCopy = copy.copy();
  map.set(7, 2, 24);
  copy.set(8, 3, 32);
  copy.fill(0, 7, LOW_HOLE);
  const seen = [map, copy, copyOfCopy].map((one) =>
    [6, 7, 8].map((lba) => one.page(0)?.[lba * 2 + 1]),
  );
  deepEqual(seen, [
    [LOW_ZERO, 24, LOW_ZERO],
    [LOW_HOLE, 16, 32],
    [LOW_ZERO, 16, LOW_ZERO],
  ]);
});
