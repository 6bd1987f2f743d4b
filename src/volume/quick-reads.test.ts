// SPDX-License-Identifier: Apache-2.0
//
// When a small read may hold up the event loop.

import { equal } from "node:assert/strict";
import { test } from "node:test";
import { QuickReads } from "./quick-reads.ts";

/** Reads that go through the pool before the next one tries again. */
function pauseOf(reads: QuickReads): number {
  let count = 0;
  while (!reads.mayTry()) count += 1;
  return count;
}

test("quick reads go on being tried", () => {
  const reads = new QuickReads();
  for (let count = 0; count < 100; count++) {
    equal(reads.mayTry(), true);
    reads.took(3);
  }
});

test("after slow reads fewer and fewer try, and one quick read restores the trust", () => {
  const reads = new QuickReads();
  const pauses: number[] = [];
  for (let count = 0; count < 8; count++) {
    reads.took(100);
    pauses.push(pauseOf(reads));
  }
  equal(pauses.join(" "), "64 128 256 512 1024 2048 4096 4096");
  reads.took(3);
  reads.took(100);
  equal(pauseOf(reads), 64);
});
