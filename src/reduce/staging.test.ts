// SPDX-License-Identifier: Apache-2.0
//
// Staging memory is bounded, and whoever waits for it is served in the order of coming.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BuddyAllocator } from "../base/buddy.ts";
import { Staging } from "./staging.ts";

const PAGE = 4096;

function stagingOf(chunkCount: number): { staging: Staging; region: BuddyAllocator } {
  const region = new BuddyAllocator({ baseAddress: 0, chunkBytes: 8 * PAGE, chunkCount });
  return { staging: new Staging(region), region };
}

test("a large request isn't starved by small ones that come behind it", async () => {
  const { staging } = stagingOf(1);
  const first = staging.acquire(PAGE);
  ok(typeof first === "number");
  const served: string[] = [];
  const large = Promise.resolve(staging.acquire(8 * PAGE)).then((address) => {
    served.push("large");
    return address;
  });
  // There is room for this one; it waits all the same.
  const small = Promise.resolve(staging.acquire(PAGE)).then((address) => {
    served.push("small");
    return address;
  });
  await Promise.resolve();
  deepEqual(served, []);
  staging.release(first);
  staging.release(await large);
  staging.release(await small);
  deepEqual(served, ["large", "small"]);
});

test("under any load all are served in order, and no more is taken than there is", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 8 * PAGE }), { minLength: 1, maxLength: 60 }),
      async (lengths) => {
        const { staging, region } = stagingOf(2);
        const served: number[] = [];
        const held: number[] = [];
        const all = lengths.map(async (length, index) => {
          const address = await staging.acquire(length);
          served.push(index);
          held.push(address);
        });
        while (served.length < lengths.length) {
          await Promise.resolve();
          await Promise.resolve();
          ok(region.freeBytes >= 0);
          const address = held.shift();
          if (address !== undefined) staging.release(address);
        }
        await Promise.all(all);
        for (const address of held) staging.release(address);
        deepEqual(
          served,
          lengths.map((_, index) => index),
        );
        equal(region.freeBytes, 16 * PAGE);
      },
    ),
  );
});
