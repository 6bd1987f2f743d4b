// SPDX-License-Identifier: Apache-2.0
//
// Buckets add up and come back from their encoding; what no bucket can be is refused.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  ActivityBucket,
  ActivityReader,
  ActivityWriter,
  BUCKET_BYTES_MAX,
  encodeBucket,
  MINUTE_MICROS,
  signed,
  unsigned,
} from "./activity-bucket.ts";

const START = 28_333_330 * MINUTE_MICROS;

interface Made {
  readonly counts: readonly number[];
  readonly blocks: readonly number[];
  readonly lsn: number;
  readonly offsets: readonly [number, number];
}

const made: fc.Arbitrary<Made> = fc.record({
  counts: fc.array(fc.integer({ min: 0, max: 1e6 }), { minLength: 12, maxLength: 12 }),
  blocks: fc.array(fc.integer({ min: 0, max: 2 ** 34 - 1 }), { maxLength: 300 }),
  lsn: fc.integer({ min: 1, max: 2 ** 50 }),
  offsets: fc.tuple(
    fc.integer({ min: 0, max: MINUTE_MICROS / 2 }),
    fc.integer({ min: 0, max: MINUTE_MICROS / 2 - 1 }),
  ),
});

/** A bucket that records could have made. */
function bucketOf({ counts, blocks, lsn, offsets }: Made, startMicros = START): ActivityBucket {
  const bucket = new ActivityBucket(startMicros, MINUTE_MICROS);
  const count = (index: number): number => counts[index] as number;
  bucket.note(lsn, startMicros + offsets[0]);
  bucket.note(lsn + count(0), startMicros + offsets[0] + offsets[1]);
  bucket.rawFrameCount = count(1);
  bucket.frameCount = count(1) + count(2);
  bucket.zeroCount = count(3);
  bucket.duplicateCount = count(4);
  bucket.blockCount = bucket.frameCount + bucket.zeroCount + bucket.duplicateCount;
  bucket.writeCount = Math.min(count(5), bucket.blockCount);
  bucket.rewrittenCount = Math.min(count(6), bucket.blockCount);
  bucket.freshCount = Math.min(count(7), bucket.blockCount - bucket.rewrittenCount);
  bucket.hardenedCount = Math.min(count(8), bucket.rawFrameCount, bucket.rewrittenCount);
  bucket.frameBytes = count(9) * 8;
  bucket.trimCount = count(10);
  bucket.trimmedBlockCount = count(10) * 2 ** 30;
  bucket.flushCount = count(11);
  for (const lba of blocks) bucket.blocks.addRange(lba, 1);
  return bucket;
}

function encoded(bucket: ActivityBucket): Uint8Array {
  const target = new Uint8Array(BUCKET_BYTES_MAX);
  return target.slice(0, encodeBucket(bucket, target, 0));
}

test("a bucket comes back from its encoding", () => {
  fc.assert(
    fc.property(made, (some) => {
      const bucket = bucketOf(some);
      const bytes = encoded(bucket);
      const reader = new ActivityReader(bytes);
      deepEqual(reader.bucket(), bucket);
      equal(reader.at, bytes.length);
    }),
  );
});

test("numbers up to 2^53 come back, at whatever place the writer has grown to", () => {
  fc.assert(
    fc.property(fc.array(fc.maxSafeNat(), { maxLength: 2000 }), (numbers) => {
      const writer = new ActivityWriter();
      for (const number of numbers) writer.number(number);
      const reader = new ActivityReader(writer.end());
      deepEqual(
        numbers.map(() => reader.number()),
        numbers,
      );
      equal(reader.isRight && reader.at === reader.bytes.length, true);
    }),
    { numRuns: 30 },
  );
  fc.assert(
    fc.property(fc.integer(), (number) => {
      ok(unsigned(number) >= 0);
      equal(signed(unsigned(number)), number);
    }),
  );
});

test("buckets add up: counters, blocks, and where they begin and end", () => {
  fc.assert(
    fc.property(made, made, (first, second) => {
      const a = bucketOf(first);
      const b = bucketOf(second, START + MINUTE_MICROS);
      const sum = new ActivityBucket(START, 10 * MINUTE_MICROS);
      sum.merge(a);
      sum.merge(b);
      equal(sum.blockCount, a.blockCount + b.blockCount);
      equal(sum.frameBytes, a.frameBytes + b.frameBytes);
      equal(sum.flushCount, a.flushCount + b.flushCount);
      equal(sum.firstLsn, Math.min(a.firstLsn, b.firstLsn));
      equal(sum.lastLsn, Math.max(a.lastLsn, b.lastLsn));
      equal(sum.firstMicros, a.firstMicros);
      equal(sum.lastMicros, b.lastMicros);
      const all = bucketOf({ ...first, blocks: [...first.blocks, ...second.blocks] });
      equal(sum.blocks.estimate(), all.blocks.estimate());
      deepEqual(new ActivityReader(encoded(sum)).bucket(), sum);
    }),
  );
});

test("bytes that are cut off or changed are refused or still make sense, and never throw", () => {
  fc.assert(
    fc.property(made, fc.nat(), fc.integer({ min: 0, max: 255 }), (some, where, byte) => {
      const bytes = encoded(bucketOf(some));
      const cutOff = new ActivityReader(bytes.subarray(0, where % bytes.length));
      equal(cutOff.bucket(), undefined);
      bytes[where % bytes.length] = byte;
      const bucket = new ActivityReader(bytes).bucket();
      if (bucket === undefined) return;
      ok(bucket.isUsed && bucket.lastMicros < bucket.endMicros);
      ok(bucket.rewrittenCount + bucket.freshCount <= bucket.blockCount);
      // What is accepted can be encoded and added up again.
      const sum = new ActivityBucket(bucket.startMicros, bucket.widthMicros);
      sum.merge(bucket);
      encoded(sum);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      new ActivityReader(bytes).bucket();
    }),
  );
});

test("a bucket whose counters contradict each other is refused", () => {
  const wrong: readonly ((bucket: ActivityBucket) => void)[] = [
    (bucket) => (bucket.firstLsn = 0),
    (bucket) => (bucket.widthMicros = 0),
    (bucket) => (bucket.startMicros -= 5 * MINUTE_MICROS),
    (bucket) => (bucket.lastMicros = bucket.endMicros),
    (bucket) => (bucket.writeCount = 11),
    (bucket) => (bucket.rewrittenCount = 11),
    (bucket) => (bucket.duplicateCount = 11),
    (bucket) => (bucket.rawFrameCount = 9),
    (bucket) => (bucket.hardenedCount = 1),
  ];
  for (const change of [() => undefined, ...wrong]) {
    const bucket = new ActivityBucket(START, 10 * MINUTE_MICROS);
    bucket.note(5, bucket.startMicros + 1);
    bucket.blockCount = 10;
    bucket.frameCount = 8;
    change(bucket);
    const isRefused = new ActivityReader(encoded(bucket)).bucket() === undefined;
    equal(isRefused, wrong.includes(change), String(change));
  }
});
