// SPDX-License-Identifier: Apache-2.0
//
// A sketch counts different blocks well enough, adds up, and comes back from its encoding; other bytes are refused.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Prng } from "../sim/prng.ts";
import { BlockSketch, SKETCH_BYTES_MAX } from "./activity-sketch.ts";

const BLOCKS_END = 2 ** 34;

function sketchOf(blocks: Iterable<number>): BlockSketch {
  const sketch = new BlockSketch();
  for (const lba of blocks) sketch.addRange(lba, 1);
  return sketch;
}

function encoded(sketch: BlockSketch): Uint8Array {
  const target = new Uint8Array(SKETCH_BYTES_MAX);
  return target.slice(0, sketch.encode(target, 0));
}

const blocks = fc.array(fc.integer({ min: 0, max: BLOCKS_END - 1 }), { maxLength: 600 });

test("few blocks are counted exactly, many within a fifth", () => {
  equal(sketchOf([]).estimate(), 0);
  equal(sketchOf([7]).estimate(), 1);
  const random = new Prng(4);
  for (const count of [30, 300, 3000, 30_000, 300_000]) {
    const first = random.below(2 ** 32);
    const runs = sketchOf(Array.from({ length: count }, (_, index) => first + index));
    const scattered = sketchOf(
      Array.from({ length: count }, () => random.below(2 ** 17) * 2 ** 17 + random.below(2 ** 17)),
    );
    for (const sketch of [runs, scattered]) {
      const error = Math.abs(sketch.estimate() / count - 1);
      ok(error < 0.2, `${count} blocks: ${sketch.estimate()}`);
    }
  }
});

test("no block that disks begin with is a rare one to the sketch", () => {
  for (let lba = 0; lba < 10_000; lba++) {
    const bytes = encoded(sketchOf([lba]));
    ok((bytes[2] as number) < 24, `block ${lba}`);
  }
});

test("the error of many sketches is what the theory says", () => {
  let squares = 0;
  const rounds = 200;
  for (let round = 0; round < rounds; round++) {
    const sketch = sketchOf(Array.from({ length: 2000 }, (_, index) => round * 1e6 + index));
    squares += (sketch.estimate() / 2000 - 1) ** 2;
  }
  ok(Math.sqrt(squares / rounds) < 0.08);
});

test("the same blocks again change nothing, in whatever order", () => {
  fc.assert(
    fc.property(blocks, (some) => {
      deepEqual(encoded(sketchOf([...some, ...some.toReversed()])), encoded(sketchOf(some)));
    }),
  );
});

test("the sketch of two intervals together is the sketch of both", () => {
  fc.assert(
    fc.property(blocks, blocks, (first, second) => {
      const merged = sketchOf(first);
      merged.merge(sketchOf(second));
      deepEqual(encoded(merged), encoded(sketchOf([...first, ...second])));
    }),
  );
});

test("a sketch comes back from its encoding, whichever form that takes", () => {
  const forms = new Set<number>();
  for (const count of [0, 1, 40, 100, 600, 5000]) {
    const sketch = sketchOf(Array.from({ length: count }, (_, index) => index * 977));
    // One register far above the others doesn't fit half a byte.
    if (count === 600) sketch.mergeEncoded(new Uint8Array([1, 9, 33]), 0);
    const bytes = encoded(sketch);
    forms.add(Math.min(bytes[0] as number, 64) + ((bytes[0] as number) > 64 ? 1 : 0));
    const back = new BlockSketch();
    equal(back.mergeEncoded(bytes, 0), bytes.length);
    deepEqual(encoded(back), bytes);
    equal(back.estimate(), sketch.estimate());
  }
  ok(forms.has(0) && forms.has(64) && forms.has(65), [...forms].join());
});

test("any bytes are a sketch or refused, and never read beyond their end", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc
      .tuple(fc.constantFrom(3, 63, 64, 65), fc.uint8Array({ maxLength: 300, max: 36 }))
      .map(([form, rest]) => Uint8Array.of(form, ...rest)),
  );
  fc.assert(
    fc.property(bytes, (some) => {
      const sketch = new BlockSketch();
      const end = sketch.mergeEncoded(some, 0);
      ok(end === -1 || (end > 0 && end <= some.length));
      ok(Number.isFinite(sketch.estimate()));
      if (end > 0) equal(new BlockSketch().mergeEncoded(some.subarray(0, end - 1), 0), -1);
    }),
  );
});
