// SPDX-License-Identifier: Apache-2.0
//
// Points of a volume, each made of what changed since the one before, against plain copies of the disk: what is read
// anywhere, which extents there are, and what damage costs.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import type { ImageSource } from "../image/image.ts";
import { type SmallChange, SmallTarget, smallVolume } from "../sim/small-target.ts";
import { EXTENT_KIND } from "./extents.ts";
import { BLOCK_BYTES, GROUP_SLOTS } from "./place.ts";
import { PointImage } from "./point-image.ts";
import { type Run, RunWriter } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import { KeySealer, PLAIN_SEALER } from "./sealing.ts";

const BLOCKS = 300;

/** The block as a point has it: its lba and version are in it. */
function blockOf(lba: number, version: number): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES).fill(lba % 251);
  new DataView(block.buffer).setUint32(0, version * 1_000_000 + lba);
  return block;
}

const CHANGES = fc.array(
  fc.record({
    lba: fc.nat(BLOCKS - 1),
    count: fc.integer({ min: 1, max: 90 }),
    what: fc.constantFrom("data", "data", "zero", "hole"),
  }),
  { minLength: 1, maxLength: 8 },
);

interface Point {
  readonly runs: readonly Run[];
  readonly disk: Uint8Array;
  readonly kinds: readonly string[];
}

async function pointsOf(
  target: SmallTarget,
  rounds: readonly (typeof CHANGES extends fc.Arbitrary<infer T> ? T : never)[],
): Promise<Point[]> {
  const points: Point[] = [];
  const disk = new Uint8Array(BLOCKS * BLOCK_BYTES);
  const kinds: string[] = new Array(BLOCKS).fill("hole");
  let runs: Run[] = [];
  for (const [version, round] of rounds.entries()) {
    const changes = new Map<number, SmallChange>();
    for (const { lba: first, count, what } of round)
      for (let lba = first; lba < Math.min(BLOCKS, first + count); lba += 1) {
        const block = what === "data" ? blockOf(lba, version) : new Uint8Array(BLOCK_BYTES);
        disk.set(block, lba * BLOCK_BYTES);
        kinds[lba] = what;
        changes.set(lba, what === "data" ? block : (what as "zero" | "hole"));
      }
    runs = await target.backup(changes, runs);
    points.push({ runs, disk: disk.slice(), kinds: [...kinds] });
  }
  return points;
}

for (const [name, sealer] of [
  ["a plain", PLAIN_SEALER],
  ["an encrypted", new KeySealer(new Uint8Array(32).fill(7))],
] as const)
  test(`every point of ${name} target reads as the disk was then, anywhere`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(CHANGES, { minLength: 1, maxLength: 5 }),
        fc.array(fc.tuple(fc.nat(BLOCKS * BLOCK_BYTES), fc.nat(200_000)), { maxLength: 6 }),
        async (rounds, ranges) => {
          const target = new SmallTarget(sealer);
          const reader = target.reader(1 << 20);
          for (const { runs, disk, kinds } of await pointsOf(target, rounds)) {
            const image = new PointImage(reader, smallVolume(BLOCKS, runs));
            const reads = [[0, disk.length] as const, ...ranges].map(async ([offset, length]) => {
              const bytes = new Uint8Array(Math.min(length, disk.length - offset)).fill(0xee);
              await image.read(bytes, offset);
              equal(Buffer.compare(bytes, disk.subarray(offset, offset + bytes.length)), 0);
            });
            await Promise.all(reads);
            const seen: string[] = [];
            await image.visitExtents(0, disk.length, {
              extent: (start, end, kind) => {
                equal(start, seen.length * BLOCK_BYTES);
                while (seen.length * BLOCK_BYTES < end) seen.push(kind);
                return true;
              },
            });
            // A merge into the oldest run forgets which blocks were trimmed; they read the same.
            deepEqual(seen, kinds);
          }
        },
      ),
      { numRuns: 25 },
    );
  });

test("it can be copied like any other image", async () => {
  const target = new SmallTarget();
  const [point] = await pointsOf(target, [
    [
      { lba: 3, count: 2, what: "data" },
      { lba: 5, count: 2, what: "zero" },
    ],
  ]);
  const image: ImageSource = new PointImage(target.reader(), smallVolume(BLOCKS, point!.runs));
  const sizeBytes = BLOCKS * BLOCK_BYTES;
  deepEqual(await image.extentAt(0), { start: 0, end: 3 * BLOCK_BYTES, kind: "zero" });
  deepEqual(await image.extentAt(3 * BLOCK_BYTES + 10), {
    start: 3 * BLOCK_BYTES + 10,
    end: 5 * BLOCK_BYTES,
    kind: "data",
  });
  deepEqual(await image.extentAt(6 * BLOCK_BYTES), {
    start: 6 * BLOCK_BYTES,
    end: sizeBytes,
    kind: "zero",
  });
  await image.close();
});

test("a damaged group costs its blocks: the error says which bytes, the rest is read", async () => {
  const target = new SmallTarget();
  const [point] = await pointsOf(target, [
    [
      { lba: 10, count: 90, what: "data" },
      { lba: 100, count: 90, what: "data" },
    ],
  ]);
  const { runs, disk } = point!;
  const path = objectPath("pack", target.packNames[0]!);
  const head = await target.reader().packs.head(target.packNames[0]!);
  target.bucket.objects.get(path)![head.offset(1) + 9]! ^= 1;
  const image = new PointImage(target.reader(), smallVolume(BLOCKS, runs));
  const start = (10 + GROUP_SLOTS) * BLOCK_BYTES;
  const end = start + GROUP_SLOTS * BLOCK_BYTES;
  await rejects(image.read(new Uint8Array(disk.length), 0), (error) => {
    ok(hasCode(error, "TARGET_CORRUPT"));
    deepEqual(error.data, { object: path, offsetBytes: start, lengthBytes: end - start });
    return true;
  });
  const bytes = new Uint8Array(disk.length).fill(1);
  const lost = await image.readLenient(bytes, 0);
  deepEqual(
    lost.map((range) => [range.start, range.end]),
    [[start, end]],
  );
  const expected = disk.slice().fill(0, start, end);
  equal(Buffer.compare(bytes, expected), 0);
  await image.read(new Uint8Array(start), 0);
});

test("a missing pack costs the blocks that only it has, in every point that needs them", async () => {
  const target = new SmallTarget();
  const points = await pointsOf(target, [
    [
      { lba: 0, count: 80, what: "data" },
      { lba: 80, count: 90, what: "data" },
    ],
    [{ lba: 20, count: 10, what: "data" }],
  ]);
  const [first, second] = target.packNames;
  target.bucket.objects.delete(objectPath("pack", second!));
  const ranges = async ({ runs }: Point) => {
    const image = new PointImage(target.reader(), smallVolume(BLOCKS, runs));
    const lost = await image.readLenient(new Uint8Array(BLOCKS * BLOCK_BYTES), 0);
    return lost.map(({ start, end }) => [start / BLOCK_BYTES, end / BLOCK_BYTES]);
  };
  deepEqual(await ranges(points[0]!), []);
  deepEqual(await ranges(points[1]!), [[20, 30]]);
  target.bucket.objects.delete(objectPath("pack", first!));
  deepEqual(await ranges(points[1]!), [
    [0, 20],
    [20, 30],
    [30, 170],
  ]);
});

test("a missing run loses what it may have said, and never shows older content in its place", async () => {
  const target = new SmallTarget();
  const old = await target.backup(new Map([[5, blockOf(5, 0)]]), []);
  const changes = new Map([
    [4, blockOf(4, 1)],
    [8, blockOf(8, 1)],
  ]);
  const middle = await target.backup(changes, []);
  const newest = await target.backup(new Map([[6, blockOf(6, 2)]]), []);
  const runs = [...newest, ...middle, ...old];
  target.bucket.objects.delete(objectPath("run", middle[0]!.parts[0]!.name));
  const image = new PointImage(target.reader(), smallVolume(12, runs));
  const bytes = new Uint8Array(12 * BLOCK_BYTES);
  const lost = await image.readLenient(bytes, 0);
  deepEqual(
    lost.map(({ start, end }) => [start / BLOCK_BYTES, end / BLOCK_BYTES]),
    [
      [4, 6],
      [7, 9],
    ],
  );
  const at = 6 * BLOCK_BYTES;
  equal(Buffer.compare(bytes.subarray(at, at + BLOCK_BYTES), blockOf(6, 2)), 0);
});

test("a run that names slots which its pack hasn't got gives an error, not other bytes", async () => {
  const target = new SmallTarget();
  const [run] = await target.backup(new Map([[5, blockOf(5, 0)]]), []);
  const reader = target.reader();
  const { store, sealer, random } = target;
  await reader.runs.open(run!.parts[0]!);
  const writer = new RunWriter({ store, sealer, random, packs: reader.packTable });
  writer.add(5, 2, EXTENT_KIND.frames, 0);
  writer.add(9, 1, EXTENT_KIND.frames, 5000);
  const part = await writer.finishPart();
  const image = new PointImage(reader, smallVolume(12, [{ parts: [part!] }]));
  const lost = await image.readLenient(new Uint8Array(12 * BLOCK_BYTES), 0);
  deepEqual(
    lost.map(({ start, end }) => [start / BLOCK_BYTES, end / BLOCK_BYTES]),
    [
      [5, 7],
      [9, 10],
    ],
  );
});

test("a target that can't be reached is no damage", async () => {
  const target = new SmallTarget();
  const runs = await target.backup(new Map([[5, blockOf(5, 0)]]), []);
  const image = new PointImage(target.reader(), smallVolume(12, runs));
  target.bucket.isGone = true;
  await rejects(image.readLenient(new Uint8Array(BLOCK_BYTES), 0), { code: "TARGET_UNAVAILABLE" });
  target.bucket.isGone = false;
  deepEqual(await image.readLenient(new Uint8Array(BLOCK_BYTES), 0), []);
});

test("who reads on finds the next megabytes on their way", async () => {
  const target = new SmallTarget();
  const changes = new Map<number, Uint8Array>();
  for (let lba = 0; lba < 2560; lba += 1) changes.set(lba, blockOf(lba, 0));
  const runs = await target.backup(changes, []);
  const asked: string[] = [];
  const reader = target.reader();
  const image = new PointImage(reader, smallVolume(2560, runs));
  const groups = reader.packs.groups.bind(reader.packs);
  reader.packs.groups = (ordinal, first, end) => {
    asked.push(`${first}-${end}`);
    return groups(ordinal, first, end);
  };
  const piece = new Uint8Array(1 << 20);
  await image.read(piece, 0);
  await image.read(piece, 1 << 20);
  await image.read(piece, 5 << 20);
  deepEqual(asked, ["0-4", "4-20", "4-8", "20-24", "20-24"]);
});
