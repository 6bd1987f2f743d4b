// SPDX-License-Identifier: Apache-2.0
//
// What the records say is what the timeline shows: live, in replay, and behind a checkpoint.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LOW_HOLE, LOW_ZERO, REFERENCE_STATE } from "../log/reference.ts";
import { Prng } from "../sim/prng.ts";
import { MINUTE_MICROS } from "./activity-bucket.ts";
import { REPLACED } from "./activity-replaced.ts";
import { ActivityTimeline } from "./activity-timeline.ts";

const START = 28_333_330 * MINUTE_MICROS;
const RAW_8 = 515;
const SMALL_8 = 100;
const WORDS = new Uint32Array(2048);
const NOT_KNOWN = new Uint32Array(1024).fill(REPLACED.UNKNOWN);
const EVER = { fromMicros: 0, toMicros: Number.MAX_SAFE_INTEGER };

function timeline(bytesMax = 1 << 20): ActivityTimeline {
  return new ActivityTimeline(WORDS, { bytesMax, onSuspicious: () => undefined });
}

function frame(offset8: number): number {
  return ((REFERENCE_STATE.FRAME << 30) | (offset8 << 6)) >>> 0;
}

/** Writes references to memory, (segment, low) a block. */
function put(references: readonly (readonly [number, number])[]): void {
  for (const [index, [segment, low]] of references.entries()) {
    WORDS[index * 2] = segment;
    WORDS[index * 2 + 1] = low;
  }
}

const RECORD = { lsn: 1, timeMicros: START, branch: 1, lba: 0, referencesOffset: 0 };

test("a write's references say what is new, shrunk, known and zero", () => {
  const activity = timeline();
  put([
    [3, frame(1000)],
    [3, frame(1000 + RAW_8)],
    [2, frame(5000)],
    [3, frame(1000)],
    [0, LOW_ZERO],
  ]);
  const record = { ...RECORD, lba: 7, blockCount: 5 };
  activity.wrote(record, NOT_KNOWN, 1000 + RAW_8 + SMALL_8);
  const [line] = activity.range([{ branch: 1, ...EVER }], MINUTE_MICROS);
  equal(line?.writeCount, 1);
  equal(line?.blockCount, 5);
  equal(line?.distinctCount, 5);
  equal(line?.frameCount, 2);
  equal(line?.rawFrameCount, 1);
  equal(line?.frameBytes, (RAW_8 + SMALL_8) * 8);
  equal(line?.duplicateCount, 2);
  equal(line?.zeroCount, 1);
  equal(line?.rewrittenCount, 0);
});

test("what was replaced is counted as far as it is known, and with it what no longer shrinks", () => {
  const activity = timeline();
  put([0, 1, 2, 3, 4, 5].map((block) => [9, frame(800 + block * RAW_8)] as const));
  const replaced = new Uint32Array(1024);
  const before = [
    [4, frame(2000)], // shrank: its neighbour begins a hundred behind it
    [4, frame(2000 + SMALL_8)], // didn't: 515 to the next
    [4, frame(2000 + SMALL_8 + RAW_8)], // nobody knows: the neighbour is in another segment
    [5, frame(100)],
    [0, LOW_HOLE],
    [REPLACED.PERHAPS, 0],
    [0, LOW_ZERO],
  ] as const;
  for (const [block, [segment, low]] of before.entries()) {
    replaced[block * 2] = segment;
    replaced[block * 2 + 1] = low;
  }
  activity.wrote({ ...RECORD, blockCount: 6 }, replaced, 800 + 6 * RAW_8);
  const [line] = activity.range([{ branch: 1, ...EVER }], MINUTE_MICROS);
  equal(line?.rewrittenCount, 4);
  equal(line?.freshCount, 1);
  equal(line?.hardenedCount, 1);
});

test("trims, zeroes and flushes are counted with their blocks", () => {
  const activity = timeline();
  const range = { ...RECORD, blockCount: 2 ** 32 };
  activity.trimmed(range);
  activity.zeroed({ ...range, lsn: 2, blockCount: 10 });
  activity.flushed(1, 3, START + 5);
  activity.flushed(2, 4, START + 6);
  const [line] = activity.range([{ branch: 1, ...EVER }], MINUTE_MICROS);
  deepEqual([line?.trimCount, line?.trimmedBlockCount], [1, 2 ** 32]);
  deepEqual([line?.zeroedCount, line?.zeroedBlockCount], [1, 10]);
  deepEqual([line?.flushCount, line?.firstLsn, line?.lastLsn], [1, 1, 3]);
});

test("lines are intervals at multiples of the step, without those in which nothing happened", () => {
  const activity = timeline();
  for (const minute of [0, 1, 9, 10, 35, 61])
    activity.flushed(1, minute + 1, START + minute * MINUTE_MICROS + 1);
  const linesOf = (step: number): number[][] =>
    activity
      .range([{ branch: 1, ...EVER }], step * MINUTE_MICROS)
      .map((line) => [(line.startMicros - START) / MINUTE_MICROS, line.flushCount]);
  deepEqual(linesOf(1).length, 6);
  deepEqual(linesOf(10), [
    [0, 3],
    [10, 1],
    [30, 1],
    [60, 1],
  ]);
  deepEqual(linesOf(1440), [[-1330, 6]]);
  const [, ...some] = activity.range(
    [{ branch: 1, fromMicros: START + MINUTE_MICROS, toMicros: START + 11 * MINUTE_MICROS }],
    MINUTE_MICROS,
  );
  deepEqual(
    some.map(({ firstLsn }) => firstLsn),
    [10, 11],
  );
});

test("branches that followed each other make one line of time, each in its part", () => {
  const activity = timeline();
  activity.flushed(1, 1, START);
  activity.flushed(2, 2, START + 1);
  activity.flushed(1, 3, START + 2 * MINUTE_MICROS);
  activity.flushed(2, 4, START + 3 * MINUTE_MICROS);
  const middle = START + MINUTE_MICROS;
  const lines = activity.range(
    [
      { branch: 1, fromMicros: 0, toMicros: middle },
      { branch: 2, fromMicros: START, toMicros: EVER.toMicros },
      { branch: 77, ...EVER },
    ],
    MINUTE_MICROS,
  );
  deepEqual(
    lines.map(({ firstLsn, lastLsn, flushCount }) => [firstLsn, lastLsn, flushCount]),
    [
      [1, 2, 2],
      [4, 4, 1],
    ],
  );
});

/** A log as a writer makes it: batches of records, of which each has references and what they replaced. */
interface MadeRecord {
  readonly branch: number;
  readonly references: readonly (readonly [number, number])[];
  readonly replaced: Uint32Array;
  readonly framesEnd8: number;
  readonly timeMicros: number;
}

interface MadeBatch {
  readonly segment: number;
  readonly framesAt8: number;
  readonly framesEnd8: number;
  readonly records: readonly MadeRecord[];
}

function makeLog(seed: number, batchCount: number): MadeBatch[] {
  const random = new Prng(seed);
  const batches: MadeBatch[] = [];
  let timeMicros = START;
  let offset8 = 528;
  let segment = 4;
  for (let batch = 0; batch < batchCount; batch++) {
    if (random.below(20) === 0) {
      segment += 1;
      offset8 = 528;
    }
    offset8 += 16;
    const framesAt8 = offset8;
    const records: MadeRecord[] = [];
    // A minute may end in a batch, but no batch takes longer than one.
    const pauseAt = random.below(12);
    for (let record = random.below(6); record >= 0; record--) {
      const references: [number, number][] = [];
      const replaced = new Uint32Array(64);
      for (let block = random.below(20); block >= 0; block--) {
        replaced[block * 2] = random.below(3) === 0 ? REPLACED.UNKNOWN : 2;
        replaced[block * 2 + 1] = random.below(9) === 0 ? 0 : frame(900 + block * 40);
        const sort = random.below(4);
        if (sort === 0) references.push([0, LOW_ZERO]);
        else if (sort === 1) references.push([random.below(segment), frame(random.below(528))]);
        else {
          references.push([segment, frame(offset8)]);
          offset8 += random.below(3) === 0 ? RAW_8 : 4 + random.below(480);
        }
      }
      timeMicros += record === pauseAt ? 40_000_000 : random.below(1000);
      const branch = 1 + random.below(2);
      records.push({ branch, references, replaced, framesEnd8: offset8, timeMicros });
    }
    batches.push({ segment, framesAt8, framesEnd8: offset8, records });
    offset8 += 80;
  }
  return batches;
}

/** Feeds batches from `first` on; in a replay nobody says where a record's frames end. */
function feed(activity: ActivityTimeline, batches: readonly MadeBatch[], isReplay: boolean): void {
  let lsn =
    activity.range(
      [
        { branch: 1, ...EVER },
        { branch: 2, ...EVER },
      ],
      1e15,
    )[0]?.lastLsn ?? 0;
  for (const { segment, framesAt8, framesEnd8, records } of batches) {
    if (isReplay) activity.batchBegan(segment, framesAt8, framesEnd8);
    for (const record of records) {
      lsn += 1;
      put(record.references);
      const { branch, timeMicros, references } = record;
      const lba = (lsn * 7) % 1000;
      const wrote = { lsn, timeMicros, branch, lba, blockCount: references.length };
      const end8 = isReplay ? 0 : record.framesEnd8;
      activity.wrote({ ...wrote, referencesOffset: 0 }, record.replaced, end8);
    }
  }
}

test("a replay comes to what was there before, to the byte", () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 1, max: 60 }), (seed, batchCount) => {
      const log = makeLog(seed, batchCount);
      const live = timeline();
      live.batchBegan((log[0] as MadeBatch).segment, 0, 0);
      feed(live, log, false);
      const replayed = timeline();
      feed(replayed, log, true);
      deepEqual(replayed.cut(), live.cut());
      live.checkInvariants();
    }),
    { numRuns: 60 },
  );
});

test("behind a checkpoint it goes on as if nothing had been", () => {
  fc.assert(
    fc.property(fc.nat(), fc.nat(), (seed, where) => {
      const log = makeLog(seed, 40);
      const live = timeline();
      live.batchBegan((log[0] as MadeBatch).segment, 0, 0);
      feed(live, log.slice(0, where % 40), false);
      const cut = live.cut();
      feed(live, log.slice(where % 40), false);
      const restored = timeline();
      equal(restored.restore(cut), true);
      deepEqual(restored.cut(), cut);
      feed(restored, log.slice(where % 40), true);
      deepEqual(restored.cut(), live.cut());
    }),
    { numRuns: 60 },
  );
});

test("memory is bounded: what is old becomes coarse, and nothing is lost but detail", () => {
  const activity = timeline(64 << 10);
  let lsn = 0;
  for (let minute = 0; minute < 3000; minute++) {
    for (const branch of [1, 2]) {
      lsn += 1;
      activity.flushed(branch, lsn, START + minute * MINUTE_MICROS);
    }
    if (minute % 500 === 0) activity.checkInvariants();
  }
  activity.checkInvariants();
  ok(activity.memoryBytes <= 64 << 10 && activity.memoryBytes > 32 << 10);
  ok(activity.cut().length < 64 << 10);
  for (const branch of [1, 2]) {
    const lines = activity.range([{ branch, ...EVER }], MINUTE_MICROS);
    equal(
      lines.reduce((sum, { flushCount }) => sum + flushCount, 0),
      3000,
    );
    equal(lines.at(-1)?.widthMicros, MINUTE_MICROS);
    ok(lines[0]!.widthMicros > MINUTE_MICROS);
  }
  activity.forget(1);
  activity.checkInvariants();
  deepEqual(activity.range([{ branch: 1, ...EVER }], MINUTE_MICROS), []);
});

test("a smaller bound than what a checkpoint holds is kept to", () => {
  const activity = timeline();
  for (let minute = 0; minute < 1000; minute++)
    activity.flushed(1, minute + 1, START + minute * MINUTE_MICROS);
  const smaller = timeline(16 << 10);
  equal(smaller.restore(activity.cut()), true);
  smaller.checkInvariants();
});

test("clock steps and their signs come back", () => {
  const activity = timeline();
  activity.clockStepped(5, START, -3_600_000_000);
  activity.clockStepped(6, START + 1, 2_000_001);
  const restored = timeline();
  equal(restored.restore(activity.cut()), true);
  deepEqual(restored.marks.clockSteps, [
    { lsn: 5, timeMicros: START, stepMicros: -3_600_000_000 },
    { lsn: 6, timeMicros: START + 1, stepMicros: 2_000_001 },
  ]);
  for (let lsn = 10; lsn < 1000; lsn++) activity.clockStepped(lsn, START, 1);
  equal(activity.marks.clockSteps.length, 256);
  equal(activity.marks.clockSteps.at(-1)?.lsn, 999);
});

test("bytes that are none are refused, and change nothing", () => {
  const live = timeline();
  feed(live, makeLog(8, 30), false);
  const cut = live.cut();
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 0, max: 255 }), (where, byte) => {
      const changed = cut.slice();
      changed[where % cut.length] = byte;
      for (const bytes of [changed, cut.subarray(0, where % cut.length)]) {
        const activity = timeline();
        if (!activity.restore(bytes)) deepEqual(activity.cut(), timeline().cut());
        activity.checkInvariants();
      }
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      timeline().restore(bytes);
    }),
  );
  equal(timeline().restore(Uint8Array.of(...cut, 0)), false);
  equal(timeline().restore(Uint8Array.of(2, ...cut.subarray(1))), false);
});
