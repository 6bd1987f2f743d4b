// SPDX-License-Identifier: Apache-2.0
//
// The ring of changes against a plain list, across the wrap of its places and of its 32-bit sequences.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { DeltaRing } from "./delta-ring.ts";

const CAPACITY = 64;
const PAGES = 3;
const memory = new BlockMemory({ ...shapeOf(24 << 20), deltaCount: CAPACITY });
const page = memory.slotsAddress;

interface Change {
  readonly sequence: number;
  readonly page: number;
  readonly first: number;
  readonly count: number;
  readonly segment: number;
}

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("push" as const),
      page: fc.nat(PAGES - 1),
      first: fc.nat(511),
      count: fc.integer({ min: 1, max: 512 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("cut" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("release" as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("compare" as const),
      page: fc.nat(PAGES - 1),
      isCut: fc.boolean(),
    }),
  },
);
const starts = fc.oneof(
  fc.constant(1),
  fc.integer({ min: 1, max: 200 }).map((before) => 2 ** 32 - before),
);

test("chains hold each page's changes, newest first, with any start of the sequence", () => {
  fc.assert(
    fc.property(starts, fc.array(step, { maxLength: 400 }), (start, steps) => {
      const ring = new DeltaRing(memory, start);
      let list: Change[] = [];
      const heads = new Array<number>(PAGES).fill(0);
      let cut: { sequence: number; length: number } | undefined;
      let segment = 0;
      for (const one of steps) {
        if (one.kind === "push") {
          if (ring.room === 0) continue;
          const count = Math.min(one.count, 512 - one.first);
          segment += 1;
          const sequence = ring.push(
            heads[one.page] as number,
            { first: one.first, count },
            { segment, low: 0x40000000 },
            segment,
          );
          ok(sequence > 0 && sequence < 2 ** 32, "a sequence is never 0");
          heads[one.page] = sequence;
          list.push({ sequence, page: one.page, first: one.first, count, segment });
        } else if (one.kind === "cut") cut = { sequence: ring.next, length: list.length };
        else if (one.kind === "release") {
          if (cut === undefined) continue;
          ring.release(cut.sequence);
          list = list.slice(cut.length);
          cut = undefined;
          // As a checkpoint does: heads of changes that are merged are dropped.
          for (let at = 0; at < PAGES; at++)
            if (!list.some((change) => change.page === at)) heads[at] = 0;
        } else
          compare(ring, list, {
            head: heads[one.page] as number,
            page: one.page,
            cut: one.isCut ? cut : undefined,
          });
        ok(
          ring.count >= list.length && ring.count <= list.length + 1,
          "only sequence 0 is skipped",
        );
        equal(ring.room, CAPACITY - ring.count - 1);
        for (const change of list) ok(ring.isLive(change.sequence));
        equal(ring.isLive(0), false);
        equal(ring.isLive(ring.next), false);
      }
    }),
    { numRuns: 300 },
  );
});

function compare(
  ring: DeltaRing,
  list: readonly Change[],
  chain: { head: number; page: number; cut: { sequence: number; length: number } | undefined },
): void {
  const { head, cut } = chain;
  const wanted = new Uint32Array(512);
  const before = cut === undefined ? list : list.slice(0, cut.length);
  const mine = before.filter((change) => change.page === chain.page);
  for (const { first, count, segment } of mine) wanted.fill(segment, first, first + count);
  memory.bytes.fill(0, page, page + 4096);
  ring.apply(head, page, cut?.sequence);
  for (let block = 0; block < 512; block++)
    equal(memory.words[(page >>> 2) + block * 2], wanted[block], `block ${block}`);
  if (cut !== undefined) equal(ring.hasBefore(head, cut.sequence), mine.length > 0);
}

test("the ring is full one before its capacity and has all its room again after a release", () => {
  for (const start of [1, 2 ** 32 - 10]) {
    const ring = new DeltaRing(memory, start);
    for (let round = 0; round < 5; round++) {
      let head = 0;
      while (ring.room > 0)
        head = ring.push(head, { first: 0, count: 1 }, { segment: 1, low: 1 }, 1);
      ok(ring.count === CAPACITY - 1 || ring.count === CAPACITY, `${ring.count} entries`);
      ring.release(ring.next);
      equal(ring.room, CAPACITY - 1);
      equal(ring.isLive(head), false);
    }
  }
});
