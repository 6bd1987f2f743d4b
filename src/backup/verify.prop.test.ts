// SPDX-License-Identifier: Apache-2.0
//
// Verification: a whole target is sound; of a damaged one exactly that is reported as lost which a restore can't read.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MemoryObjectStore } from "../sim/memory-object-store.ts";
import { SIM_ZSTD } from "../sim/sim-zstd.ts";
import { putSmallPoint, type SmallChange, SmallTarget, smallVolume } from "../sim/small-target.ts";
import { DESCRIPTOR_NAME } from "./descriptor.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { HistoryWriter } from "./history-writer.ts";
import type { ManifestVolume } from "./manifest.ts";
import { BLOCK_BYTES, placeAt } from "./place.ts";
import { PointImage } from "./point-image.ts";
import { Reachable } from "./reachable.ts";
import type { Run } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import { KeySealer, PLAIN_SEALER } from "./sealing.ts";
import { TargetReader } from "./target-reader.ts";
import { type VerifiedPoint, type VerifyLevel, type VerifyReport, verifyTarget } from "./verify.ts";

const BLOCKS = 400;

interface Rig {
  readonly target: SmallTarget;
  readonly volumes: ManifestVolume[];
  readonly points: VerifiedPoint[];
}

/** Three points: all blocks, some again, one trimmed and one written. */
async function makeRig(isEncrypted = false): Promise<Rig> {
  const target = new SmallTarget(isEncrypted ? new KeySealer(new Uint8Array(32)) : PLAIN_SEALER);
  const block = (lba: number, version: number) => {
    const bytes = new Uint8Array(BLOCK_BYTES).fill(version);
    new DataView(bytes.buffer).setUint32(0, lba);
    return bytes;
  };
  const steps: Map<number, SmallChange>[] = [new Map(), new Map(), new Map([[3, "hole"]])];
  for (let lba = 0; lba < 300; lba += 1) steps[0]!.set(lba, block(lba, 1));
  for (let lba = 50; lba < 350; lba += 3) steps[1]!.set(lba, block(lba, 2));
  steps[2]!.set(0, block(0, 3));
  const volumes: ManifestVolume[] = [];
  const points: VerifiedPoint[] = [];
  let runs: readonly Run[] = [];
  for (const [index, changes] of steps.entries()) {
    // Not merged: damage of each run shows.
    runs = [...(await target.backup(changes, [])), ...runs];
    const volume = smallVolume(BLOCKS, runs);
    const id = String(index + 1);
    volumes.push(volume);
    const manifest = await putSmallPoint(target, id, volume);
    points.push({ id: id.repeat(32), name: `v${id}`, manifest });
  }
  return { target, volumes, points };
}

function verify({ target, points }: Rig, level: VerifyLevel): Promise<VerifyReport> {
  return verifyTarget({ reader: target.reader(), points, level });
}

/** What a restore of each point can't read, block by block. */
async function unreadable({ target, volumes, points }: Rig): Promise<string[]> {
  const found: string[] = [];
  for (const [index, volume] of volumes.entries()) {
    const image = new PointImage(target.reader(), volume);
    for (const { start, end } of await image.readLenient(new Uint8Array(volume.sizeBytes), 0))
      for (let at = start; at < end; at += BLOCK_BYTES) found.push(`${points[index]!.name} ${at}`);
  }
  return found;
}

function reported({ losses }: VerifyReport): string[] {
  return losses.flatMap(({ pointName, offsetBytes, lengthBytes }) =>
    Array.from(
      { length: lengthBytes / BLOCK_BYTES },
      (_, index) => `${pointName} ${offsetBytes + index * BLOCK_BYTES}`,
    ),
  );
}

for (const isEncrypted of [false, true])
  test(`a whole target is sound at every level, ${isEncrypted ? "with" : "without"} a key`, async () => {
    const rig = await makeRig(isEncrypted);
    for (const level of ["structure", "sample", "data"] as const) {
      const report = await verify(rig, level);
      deepEqual([report.isSound, report.damages, report.losses], [true, [], []]);
      deepEqual([report.pointCount, report.partCount, report.packCount], [3, 3, 3]);
    }
    const { groupsRead, bytesRead } = await verify(rig, "data");
    equal(groupsRead, 5 + 2 + 1);
    ok(bytesRead > 0);
  });

test("whatever byte is changed and whatever object is missing, what is reported lost is what can't be read", async () => {
  const rig = await makeRig();
  const { objects } = rig.target.bucket;
  const names = [...objects.keys()].filter((name) => !name.startsWith("points/"));
  const damage = fc.record({
    object: fc.constantFrom(...names),
    what: fc.constantFrom("flip", "flip", "flip", "delete", "cut", "more"),
    at: fc.nat(1_000_000),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(damage, { minLength: 1, maxLength: 3 }), async (damages) => {
      const before = new Map([...objects].map(([name, bytes]) => [name, bytes.slice()]));
      for (const { object, what, at } of damages) {
        const bytes = objects.get(object);
        if (bytes === undefined) continue;
        if (what === "flip") bytes[at % bytes.length]! ^= 0x20;
        else if (what === "delete") objects.delete(object);
        else if (what === "cut") objects.set(object, bytes.slice(0, at % bytes.length));
        else objects.set(object, Buffer.concat([bytes, Buffer.from("more")]));
      }
      const report = await verify(rig, "data");
      const lost = await unreadable(rig);
      for (const [name, bytes] of before) objects.set(name, bytes);
      deepEqual(reported(report).sort(), lost.sort());
      equal(report.isSound, report.damageCount === 0);
      equal(report.isSound && lost.length > 0, false);
      // Two flips of one bit are none.
      if (damages.length === 1) equal(report.isSound, false);
      equal(report.lostBytes, lost.length * BLOCK_BYTES);
    }),
    { numRuns: 60 },
  );
});

test("the structure shows what is missing or cut, without reading a block", async () => {
  const rig = await makeRig();
  const pack = objectPath("pack", rig.target.packNames[1]!);
  rig.target.bucket.objects.delete(pack);
  const report = await verify(rig, "structure");
  equal(report.groupsRead, 0);
  deepEqual(
    report.damages.map(({ object }) => object),
    [pack],
  );
  deepEqual(new Set(report.losses.map(({ pointName }) => pointName)), new Set(["v2", "v3"]));
  deepEqual(reported(report).sort(), (await unreadable(rig)).sort());
});

test("a sample takes its share, the same for the same seed", async () => {
  const rig = await makeRig();
  const reader = rig.target.reader();
  const [path] = [objectPath("pack", rig.target.packNames[0]!)];
  const head = await reader.packs.head(rig.target.packNames[0]!);
  rig.target.bucket.objects.get(path)![head.offset(2)]! ^= 1;
  const results: string[] = [];
  for (let seed = 0; seed < 40; seed += 1) {
    const run = () =>
      verifyTarget({
        reader: rig.target.reader(),
        points: rig.points,
        level: "sample",
        share: 0.5,
        seed,
      });
    const [one, two] = [await run(), await run()];
    deepEqual(one, two);
    ok(one.groupsRead < 8);
    results.push(`${one.isSound}`);
  }
  // One group of eight is bad, and half of them are looked at.
  const found = results.filter((result) => result === "false").length;
  ok(found > 8 && found < 32, `${found}`);
});

test("a point whose manifest is gone is lost as a whole, the others are looked at", async () => {
  const rig = await makeRig();
  rig.target.bucket.objects.delete(rig.points[1]!.manifest);
  const report = await verify(rig, "data");
  deepEqual(
    report.losses.map(({ pointName, volume, object }) => [pointName, volume, object]),
    [["v2", undefined, rig.points[1]!.manifest]],
  );
  equal(report.isSound, false);
});

test("an object that can't be read is damage, a target that is gone ends it", async () => {
  const rig = await makeRig();
  const { bucket, sealer } = rig.target;
  bucket.objects.set(DESCRIPTOR_NAME, new Uint8Array(1));
  const pack = objectPath("pack", rig.target.packNames[0]!);
  const store = new MemoryObjectStore(bucket, {
    begin: ({ kind, name }) =>
      Promise.resolve(kind === "get" && name === pack ? "failed" : undefined),
  });
  const reader = () => new TargetReader({ store, sealer, zstd: SIM_ZSTD });
  const options = { points: rig.points, level: "data" } as const;
  const report = await verifyTarget({ reader: reader(), ...options });
  deepEqual([...new Set(report.damages.map(({ object }) => object))], [pack]);
  equal(report.losses[0]?.pointName, "v1");
  bucket.isGone = true;
  await rejects(verifyTarget({ reader: reader(), ...options }), { code: "TARGET_UNAVAILABLE" });
});

test("a history that has lost a block is told from that change on, the point itself stays sound", async () => {
  const target = new SmallTarget();
  const block = (fill: number) => new Uint8Array(BLOCK_BYTES).fill(fill);
  const runs = await target.backup(new Map([[1, block(1)]]), []);
  await target.backup(new Map([[1, block(2)]]), []);
  const reader = target.reader();
  const [own, other] = target.packNames.map((name) => reader.packTable.ordinalOf(name));
  const { store, sealer, random } = target;
  const writer = new HistoryWriter({ store, sealer, random, packs: reader.packTable });
  for (const [lsn, ordinal] of [
    [5, own!],
    [6, other!],
    [7, own!],
  ] as const) {
    const extents = new ExtentBatch(1);
    extents.push(1, 1, EXTENT_KIND.frames, placeAt(ordinal, 0));
    writer.changed({ lsn, timeMicros: lsn }, extents, false);
  }
  const part = (await writer.finishPart())!;
  const moment = { lsn: 4, branch: 1, timeMicros: 1 };
  const history = { from: moment, sizeBytes: 10 * BLOCK_BYTES, runs, parts: [part] };
  const volume = { ...smallVolume(10, runs), moment: { ...moment, lsn: 7 }, history };
  const manifest = await putSmallPoint(target, "1", volume);
  const points = [{ id: "1".repeat(32), name: "v1", manifest }];
  const check = () => verifyTarget({ reader: target.reader(), points, level: "structure" });
  equal((await check()).isSound, true);
  const pack = objectPath("pack", target.packNames[1]!);
  const bytes = target.bucket.objects.get(pack)!;
  target.bucket.objects.delete(pack);
  const lost = (await check()).losses;
  deepEqual(
    lost.map(({ isHistory, fromLsn, object }) => [isHistory, fromLsn, object]),
    [[true, 6, pack]],
  );
  target.bucket.objects.set(pack, bytes);
  target.bucket.objects.delete(objectPath("history", part.name));
  deepEqual(
    (await check()).losses.map(({ fromLsn, lengthBytes }) => [fromLsn, lengthBytes]),
    [[5, 0]],
  );
  const reachable = new Reachable(target.store, target.sealer);
  await rejects(reachable.add(manifest), { code: "TARGET_CORRUPT" });
});

test("it says how far it is, and stops when it is told to", async () => {
  const rig = await makeRig();
  const steps: string[] = [];
  await verifyTarget({
    reader: rig.target.reader(),
    points: rig.points,
    level: "data",
    onProgress: ({ step, doneCount, totalCount }) =>
      steps.push(`${step} ${doneCount}/${totalCount}`),
  });
  deepEqual(
    steps.filter((line) => line.endsWith("3/3")),
    ["manifests 3/3", "runs 3/3", "packs 3/3", "pages 3/3"],
  );
  const signal = AbortSignal.abort(new Error("enough"));
  await rejects(
    verifyTarget({ reader: rig.target.reader(), points: rig.points, level: "data", signal }),
    /enough/,
  );
});
