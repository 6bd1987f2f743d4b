// SPDX-License-Identifier: Apache-2.0
//
// Folding makes the past coarser, and loses nothing of it but the oldest, at last.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ActivityBucket, MINUTE_MICROS } from "./activity-bucket.ts";
import { ActivitySeries } from "./activity-series.ts";

const FIRST_MINUTE = 28_333_333;
const EVER: readonly [number, number] = [0, Number.MAX_SAFE_INTEGER];

/** Minutes with gaps between them, each with one write of as many blocks as its place in the row says. */
function seriesOf(gaps: readonly number[]): ActivitySeries {
  const series = new ActivitySeries();
  let minute = FIRST_MINUTE;
  for (const [index, gap] of gaps.entries()) {
    minute += 1 + gap;
    const bucket = new ActivityBucket(minute * MINUTE_MICROS, MINUTE_MICROS);
    bucket.note(index + 1, bucket.startMicros + 7);
    bucket.writeCount = 1;
    bucket.blockCount = index + 1;
    for (let lba = 0; lba < 5; lba++) bucket.blocks.addRange(index * 5 + lba, 1);
    series.add(bucket);
  }
  return series;
}

function bucketsOf(series: ActivitySeries, from = EVER[0], to = EVER[1]): ActivityBucket[] {
  const buckets: ActivityBucket[] = [];
  series.visit(from, to, (bucket) => buckets.push(bucket));
  return buckets;
}

const gaps = fc.array(
  fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 20_000 })),
  { minLength: 1, maxLength: 200 },
);

test("folding keeps every count and every block, until nothing can become coarser", () => {
  fc.assert(
    fc.property(gaps, (some) => {
      const series = seriesOf(some);
      const wanted = (some.length * (some.length + 1)) / 2;
      for (let round = 0; round < 60; round++) {
        const before = bucketsOf(series);
        const bytesBefore = series.memoryBytes;
        series.fold();
        series.checkInvariants();
        const after = bucketsOf(series);
        ok(series.memoryBytes < bytesBefore || before.length === 0);
        const isDropped = after.length === before.length - 1 && after[0]?.firstLsn !== 1;
        if (isDropped || after.length === 0) {
          deepEqual(after, before.slice(1));
          return;
        }
        const sum = after.reduce((count, { blockCount }) => count + blockCount, 0);
        equal(sum, wanted);
        equal(after[0]?.firstLsn, 1);
        equal(after.at(-1)?.lastLsn, some.length);
        for (const [index, bucket] of after.entries())
          if (index > 0) ok(bucket.widthMicros <= after[index - 1]!.widthMicros);
      }
    }),
    { numRuns: 60 },
  );
});

test("the newest minutes stay minutes while older ones are folded", () => {
  const series = seriesOf(Array.from({ length: 3000 }, () => 0));
  const limit = series.memoryBytes / 2;
  while (series.memoryBytes > limit) series.fold();
  const widths = bucketsOf(series).map((bucket) => bucket.widthMicros / MINUTE_MICROS);
  deepEqual([...new Set(widths)], [10, 1]);
  ok(widths.filter((width) => width === 1).length > 700);
});

test("what reaches into a time is told, and nothing else", () => {
  const series = seriesOf([0, 0, 4, 0]);
  const start = (FIRST_MINUTE + 2) * MINUTE_MICROS;
  equal(bucketsOf(series, start, start + MINUTE_MICROS).length, 1);
  equal(bucketsOf(series, start - 1, start + MINUTE_MICROS + 1).length, 2);
  equal(bucketsOf(series, start + MINUTE_MICROS, start + 5 * MINUTE_MICROS).length, 0);
  equal(bucketsOf(series).length, 4);
});

test("the newest bucket is taken back when it has the width that is asked for", () => {
  const series = seriesOf([0, 0]);
  equal(series.takeLast(10 * MINUTE_MICROS), undefined);
  equal(series.takeLast(MINUTE_MICROS)?.lastLsn, 2);
  equal(series.count, 1);
  series.checkInvariants();
  series.takeLast(MINUTE_MICROS);
  equal(series.takeLast(MINUTE_MICROS), undefined);
  equal(series.memoryBytes, 0);
});
