// SPDX-License-Identifier: Apache-2.0
//
// Runs, one and many above each other, against a plain list of blocks: what is scanned from any block on, what a merge
// makes of them, and how damage looks.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import type { Random } from "../host/ports.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { LBA_END_MAX, PACK_SLOTS_MAX, PackTable, placeAt } from "./place.ts";
import { mergedCount, mergeRuns, RUNS_MAX, runBytes } from "./run-merge.ts";
import { RunReader } from "./run-reader.ts";
import { type Run, type RunPart, RunWriter } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import { PLAIN_SEALER } from "./sealing.ts";
import { UNMAPPED, VolumeMap } from "./volume-map.ts";

const PACKS = 5;

interface PlainExtent {
  readonly lba: number;
  readonly blockCount: number;
  readonly kind: number;
  readonly place: number;
}

/** Gaps and extents as they come, in any sizes. */
const STEPS = fc.array(
  fc.record({
    gap: fc.oneof(fc.constant(0), fc.nat(5), fc.nat(3000)),
    blockCount: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 40 })),
    kind: fc.constantFrom(EXTENT_KIND.frames, EXTENT_KIND.frames, 1, 2),
    /** undefined: behind the former one. */
    place: fc.option(fc.nat(PACKS * PACK_SLOTS_MAX - 1), { nil: undefined }),
  }),
  { maxLength: 60 },
);

type Steps = typeof STEPS extends fc.Arbitrary<infer T> ? T : never;

function extentsOf(steps: Steps): PlainExtent[] {
  let lba = 0;
  let next = 0;
  return steps.map(({ gap, blockCount, kind, place = next }) => {
    const room = PACK_SLOTS_MAX - (place % PACK_SLOTS_MAX);
    const count = Math.min(blockCount, room);
    const extent = { lba: lba + gap, blockCount: count, kind, place };
    lba += gap + count;
    next = (place + count) % (PACKS * PACK_SLOTS_MAX);
    return extent;
  });
}

function* blocksOf(extents: Iterable<PlainExtent>): Generator<[number, string]> {
  for (const { lba, blockCount, kind, place } of extents)
    for (let index = 0; index < blockCount; index += 1)
      yield [lba + index, kind === EXTENT_KIND.frames ? `at ${place + index}` : `kind ${kind}`];
}

function* ofBatch(batch: ExtentBatch): Generator<PlainExtent> {
  for (let index = 0; index < batch.length; index += 1)
    yield {
      lba: batch.lbas[index]!,
      blockCount: batch.blockCounts[index]!,
      kind: batch.kinds[index]!,
      place: batch.places[index]!,
    };
}

class Rig {
  readonly bucket: MemoryBucket = new MemoryBucket();
  readonly store: MemoryObjectStore = new MemoryObjectStore(this.bucket);
  readonly packs: PackTable = new PackTable();
  readonly random: Random = new SimRandom(new Prng(5));

  constructor() {
    for (let pack = 0; pack < PACKS; pack += 1) this.packs.ordinalOf(`${pack}`.repeat(64));
  }

  writer(packs: PackTable = this.packs): RunWriter {
    return new RunWriter({ store: this.store, sealer: PLAIN_SEALER, random: this.random, packs });
  }

  reader(packs: PackTable = this.packs): RunReader {
    return new RunReader({ store: this.store, sealer: PLAIN_SEALER, packs });
  }

  /** A run of these extents; a part ends before each of `breaks`. */
  async run(extents: readonly PlainExtent[], breaks: readonly number[] = []): Promise<Run> {
    const writer = this.writer();
    const parts: RunPart[] = [];
    const finish = async () => {
      const part = await writer.finishPart();
      if (part !== undefined) parts.push(part);
    };
    for (const [index, { lba, blockCount, kind, place }] of extents.entries()) {
      if (breaks.includes(index)) await finish();
      writer.add(lba, blockCount, kind, place);
    }
    await finish();
    return { parts };
  }
}

/** What a map says of [start, end), block by block; unmapped ones left out. */
async function scanned(map: VolumeMap, start: number, end: number): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  const batch = new ExtentBatch(7);
  let next = start;
  while (next < end) {
    const from = next;
    next = await map.scan(from, end, batch);
    let lba = from;
    for (const extent of ofBatch(batch)) {
      equal(extent.lba, lba, "there are no gaps");
      lba += extent.blockCount;
      if (extent.kind === UNMAPPED) continue;
      for (const [at, what] of blocksOf([extent])) found.set(at, what);
    }
    equal(lba, next);
    ok(next > from);
  }
  return found;
}

function within(all: ReadonlyMap<number, string>, start: number, end: number): [number, string][] {
  return [...all].filter(([lba]) => lba >= start && lba < end).sort(([a], [b]) => a - b);
}

test("a run says of each block what was written, from any block on", async () => {
  await fc.assert(
    fc.asyncProperty(
      STEPS,
      fc.array(fc.nat(60), { maxLength: 4 }),
      fc.array(fc.nat(4000), { minLength: 1, maxLength: 6 }),
      async (steps, breaks, starts) => {
        const rig = new Rig();
        const extents = extentsOf(steps);
        const run = await rig.run(extents, breaks);
        const map = new VolumeMap(rig.reader(), [run]);
        const blocks = new Map(blocksOf(extents));
        for (const start of [0, ...starts])
          deepEqual(
            [...(await scanned(map, start, start + 3000))],
            within(blocks, start, start + 3000),
          );
      },
    ),
    { numRuns: 150 },
  );
});

test("later runs hide earlier ones, and merging any of them changes nothing", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(STEPS, { minLength: 1, maxLength: 6 }),
      fc.nat(5),
      async (all, cut) => {
        const rig = new Rig();
        const layers = all.map(extentsOf);
        const runs: Run[] = [];
        const blocks = new Map<number, string>();
        for (const extents of layers) {
          runs.unshift(await rig.run(extents));
          for (const [lba, what] of blocksOf(extents)) blocks.set(lba, what);
        }
        const end = 60 * 3100;
        const reader = rig.reader();
        const before = await scanned(new VolumeMap(reader, runs), 0, end);
        deepEqual([...before], within(blocks, 0, end));

        const count = Math.min(runs.length, cut + 1);
        const isOldest = count === runs.length;
        const merged = await mergeRuns({
          reader,
          writer: rig.writer(),
          runs: runs.slice(0, count),
          isOldest,
        });
        const after = await scanned(new VolumeMap(reader, [merged, ...runs.slice(count)]), 0, end);
        const holes = `kind ${EXTENT_KIND.hole}`;
        if (isOldest)
          deepEqual(
            [...after],
            [...before].filter(([, what]) => what !== holes),
          );
        else deepEqual(after, before);
      },
    ),
    { numRuns: 100 },
  );
});

test("a reader that knows other packs first finds the same blocks", async () => {
  const rig = new Rig();
  const run = await rig.run([
    { lba: 10, blockCount: 3, kind: EXTENT_KIND.frames, place: placeAt(4, 7) },
    { lba: 20, blockCount: 2, kind: EXTENT_KIND.frames, place: placeAt(1, 0) },
  ]);
  const packs = new PackTable();
  packs.ordinalOf("f".repeat(64));
  const batch = new ExtentBatch(10);
  await new VolumeMap(rig.reader(packs), [run]).scan(10, 22, batch);
  deepEqual(
    [...ofBatch(batch)],
    [
      { lba: 10, blockCount: 3, kind: EXTENT_KIND.frames, place: placeAt(1, 7) },
      { lba: 13, blockCount: 7, kind: UNMAPPED, place: 0 },
      { lba: 20, blockCount: 2, kind: EXTENT_KIND.frames, place: placeAt(2, 0) },
    ],
  );
  deepEqual([packs.nameOf(1), packs.nameOf(2)], ["4".repeat(64), "1".repeat(64)]);
});

test("an extent ends with its pack, also where the next pack goes on", async () => {
  const rig = new Rig();
  const run = await rig.run([
    { lba: 0, blockCount: 4, kind: EXTENT_KIND.frames, place: placeAt(0, PACK_SLOTS_MAX - 4) },
    { lba: 4, blockCount: 4, kind: EXTENT_KIND.frames, place: placeAt(1, 0) },
    { lba: 8, blockCount: 4, kind: EXTENT_KIND.frames, place: placeAt(1, 4) },
  ]);
  equal(run.parts[0]!.extentCount, 2);
  const batch = new ExtentBatch(4);
  await new VolumeMap(rig.reader(), [run]).scan(0, 12, batch);
  deepEqual([...batch.blockCounts.subarray(0, batch.length)], [4, 8]);
});

test("extents of the largest volume fit", async () => {
  const rig = new Rig();
  const run = await rig.run([
    { lba: 0, blockCount: LBA_END_MAX - 1, kind: EXTENT_KIND.hole, place: 0 },
    { lba: LBA_END_MAX - 1, blockCount: 1, kind: EXTENT_KIND.zero, place: 0 },
  ]);
  const batch = new ExtentBatch(4);
  await new VolumeMap(rig.reader(), [run]).scan(5, LBA_END_MAX, batch);
  deepEqual([...batch.lbas.subarray(0, 2)], [5, LBA_END_MAX - 1]);
  deepEqual([...batch.kinds.subarray(0, 2)], [EXTENT_KIND.hole, EXTENT_KIND.zero]);
});

test("a changed block among a hundred costs less than three bytes", async () => {
  const rig = new Rig();
  const prng = new Prng(3);
  const extents: PlainExtent[] = [];
  let lba = 0;
  for (let index = 0; index < 60_000; index += 1) {
    lba += 1 + prng.below(200);
    extents.push({ lba, blockCount: 1, kind: EXTENT_KIND.frames, place: index });
  }
  const run = await rig.run(extents);
  ok(runBytes(run) / extents.length < 3, `${runBytes(run) / extents.length}`);
});

test("a merged run costs little more, although it goes to and fro between packs", async () => {
  const rig = new Rig();
  const prng = new Prng(4);
  const runs: Run[] = [];
  for (let pack = 0; pack < PACKS; pack += 1) {
    const extents: PlainExtent[] = [];
    let lba = 0;
    for (let slot = 0; slot < 8000; slot += 1) {
      lba += 1 + prng.below(200);
      extents.push({ lba, blockCount: 1, kind: EXTENT_KIND.frames, place: placeAt(pack, slot) });
    }
    runs.push(await rig.run(extents));
  }
  const options = { reader: rig.reader(), writer: rig.writer(), runs, isOldest: true };
  const merged = await mergeRuns(options);
  const extentCount = merged.parts.reduce((sum, part) => sum + part.extentCount, 0);
  ok(runBytes(merged) / extentCount < 3.2, `${runBytes(merged) / extentCount}`);
});

test("runs stay few, and are seldom written again", () => {
  const runOf = (sizeBytes: number): Run => ({
    parts: [{ name: "", firstLba: 0, endLba: 1, extentCount: 1, sizeBytes }],
  });
  for (const [size, first] of [
    [1000, 2 ** 20],
    [2 ** 20, 2 ** 33],
    [2 ** 20, 1000],
  ] as const) {
    let runs = [runOf(first)];
    let writtenBytes = 0;
    for (let backup = 0; backup < 3000; backup += 1) {
      runs.unshift(runOf(size));
      const count = mergedCount(runs);
      const bytes = runs.slice(0, count).reduce((sum, run) => sum + runBytes(run), 0);
      writtenBytes += bytes;
      runs = [runOf(bytes), ...runs.slice(count)];
      ok(runs.length <= RUNS_MAX);
    }
    ok(writtenBytes < 3000 * (size * 14 + (64 << 10)) + first, `${writtenBytes / size / 3000}`);
  }
});

test("a point never has more runs than a read can look at, whatever their sizes", () => {
  const runs = Array.from({ length: 30 }, (_, index) => ({
    parts: [{ name: "", firstLba: 0, endLba: 1, extentCount: 1, sizeBytes: 100_000 * 3 ** index }],
  }));
  equal(mergedCount(runs.slice(0, RUNS_MAX)), 1);
  equal(30 - mergedCount(runs) + 1, RUNS_MAX);
});

test("a flipped bit is noticed wherever it is, and a page's costs only what lies in it", async () => {
  const rig = new Rig();
  const extents = Array.from({ length: 9000 }, (_, index) => ({
    lba: index * 300,
    blockCount: 1,
    kind: EXTENT_KIND.frames,
    place: index,
  }));
  const { parts } = await rig.run(extents);
  const name = parts[0]!.name;
  const bytes = rig.bucket.objects.get(objectPath("run", name))!;
  const { head } = await rig.reader().open(parts[0]!);
  ok(head.pageCount >= 2);
  bytes[head.offset(1) + 5]! ^= 4;
  const map = new VolumeMap(rig.reader(), [{ parts }]);
  equal((await scanned(map, 0, head.end(0))).size, head.countOf(0));
  await rejects(scanned(map, 0, head.end(1)), { code: "TARGET_CORRUPT" });
  bytes[head.offset(1) + 5]! ^= 4;
  for (let at = head.bodyBytes; at < bytes.length; at += 1) {
    bytes[at]! ^= 1;
    await rejects(rig.reader().open(parts[0]!), StorageError);
    bytes[at]! ^= 1;
  }
});
