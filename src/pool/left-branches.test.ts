// SPDX-License-Identifier: Apache-2.0
//
// Branches across checkpoints, restarts and garbage collection: clones keep what they began with, whatever becomes of their
// parents, what was left goes when nothing promises it any more, and depth and number cost nothing.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";
import type { Moment } from "../base/moment.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;
const NOW: Moment = { kind: "now" };

function at(lsn: number): Moment {
  return { kind: "lsn", lsn };
}

function newest(rig: PoolRig): number {
  return rig.pool.log.nextLsn - 1;
}

async function expectAt(
  rig: PoolRig,
  name: string,
  moment: Moment,
  wanted: Uint8Array,
): Promise<void> {
  const view = await rig.pool.openView(await rig.pool.resolve(name, moment));
  sameBytes(await rig.readDevice(view.device, 0, wanted.length), wanted);
  view.close();
}

async function expectNow(rig: PoolRig, name: string, wanted: Uint8Array): Promise<void> {
  sameBytes(await rig.read(name, 0, wanted.length), wanted, name);
}

test("a clone holds what its moment held, is written on its own, and has a past of its own", async () => {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const [first, second] = [noise(1, MIB), noise(2, MIB)];
  await rig.write("a", 0, first);
  const lsn = newest(rig);
  await rig.write("a", 0, second);
  await rig.pool.clone("a", at(lsn), "b");
  await expectNow(rig, "b", first);
  const changed = first.slice();
  changed.set(noise(3, BLOCK), 5 * BLOCK);
  await rig.write("b", 5 * BLOCK, noise(3, BLOCK));
  const mine = newest(rig);
  await rig.trim("b", 0, MIB / 2);
  const trimmed = changed.slice().fill(0, 0, MIB / 2);
  await rig.pool.clone("b", at(mine), "c");
  for (let round = 0; round < 3; round++) {
    await expectNow(rig, "a", second);
    await expectNow(rig, "b", trimmed);
    await expectNow(rig, "c", changed);
    await expectAt(rig, "b", at(mine), changed);
    await expectAt(rig, "b", at(mine - 1), first);
    if (round === 0) await rig.pool.checkpoint();
    rig = await PoolRig.open(round === 0 ? rig.kill() : await rig.close());
  }
  await rejects(rig.pool.resolve("b", at(lsn)), { code: "MOMENT_NOT_FOUND" });
  await rejects(rig.pool.clone("a", NOW, "c"), {
    code: "VOLUME_EXISTS",
  });
  await rig.close();
});

test("removing the parent, and letting go of its history, breaks no clone", async () => {
  let rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 8 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  const lsn = newest(rig);
  await rig.write("a", 0, noise(2, MIB));
  await rig.pool.clone("a", at(lsn), "b");
  await rig.pool.removeVolume("a");
  const tell = async (): Promise<void> => {
    for (let hour = 0; hour < 3; hour++) {
      rig.host.clock.wallOffsetMicros += HOUR;
      await rig.write("b", 4 * MIB, noise(hour + 7, BLOCK));
      await rig.pool.checkpoint();
      await rig.pool.collect({ isDryRun: false });
    }
    await expectNow(rig, "b", first);
  };
  await tell();
  deepEqual(
    rig.pool.volumes({ includesRemoved: true }).map(({ name }) => name),
    ["b"],
    "nobody needs the volume itself any more",
  );
  const { wallOffsetMicros } = rig.host.clock;
  rig = await PoolRig.open(await rig.close());
  rig.host.clock.wallOffsetMicros = wallOffsetMicros;
  await tell();
  await rig.close();
});

test("a rewind goes back, an undo forth, and both stay in history", async () => {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const [first, second, third] = [noise(1, MIB), noise(2, MIB), noise(3, MIB)];
  await rig.write("a", 0, first);
  const before = newest(rig);
  await rig.write("a", 0, second);
  const lost = newest(rig);
  const old = rig.pool.device("a");
  await rig.pool.rewind("a", at(before));
  await expectNow(rig, "a", first);
  equal(old.sizeBytes, 0, "who has it open must open it again");
  await rig.write("a", 0, third);
  await expectAt(rig, "a", at(lost), second);
  await rig.pool.checkpoint();
  rig = await PoolRig.open(rig.kill());
  await expectNow(rig, "a", third);
  await rig.pool.undo("a");
  await expectNow(rig, "a", second);
  await rig.pool.undo("a");
  await expectNow(rig, "a", third);
  await rig.pool.undo("a");
  await expectNow(rig, "a", second);
  rig = await PoolRig.open(await rig.close());
  await expectNow(rig, "a", second);
  await expectAt(rig, "a", at(before), first);
  await rig.close();
});

test("a removed volume comes back as it was, under another name where its own is taken, and so does what a shrink cut off", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  await rejects(rig.pool.undo("a"), { code: "NOTHING_TO_UNDO" });
  const first = noise(1, 4 * MIB);
  for (let piece = 0; piece < 4; piece++)
    await rig.write("a", piece * MIB, first.subarray(piece * MIB, (piece + 1) * MIB));
  await rig.pool.resizeVolume("a", 2 * MIB);
  await rig.pool.undo("a");
  for (let piece = 0; piece < 4; piece++)
    sameBytes(await rig.read("a", piece * MIB, MIB), first.slice(piece * MIB, (piece + 1) * MIB));
  await rig.pool.removeVolume("a");
  await rig.pool.undo("a");
  await expectNow(rig, "a", first.slice(0, MIB));
  await rig.pool.removeVolume("a");
  await rig.pool.createVolume("a", MIB);
  await rejects(rig.pool.undo("a"), { code: "NOTHING_TO_UNDO" });
  equal((await rig.pool.undo("a", "old")).name, "old");
  await expectNow(rig, "old", first.slice(0, MIB));
  await rejects(rig.pool.undo("none"), { code: "VOLUME_NOT_FOUND" });
  await rig.close();
});

test("what rewinds left behind goes when retention lets go of it", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 8 * MIB);
  for (let round = 0; round < 6; round++) {
    const lsn = newest(rig);
    await rig.write("a", 0, noise(round + 1, MIB));
    await rig.pool.rewind("a", at(lsn));
    rig.host.clock.wallOffsetMicros += HOUR / 2;
    await rig.pool.checkpoint();
  }
  const stored = rig.pool.stats().storedBytes;
  for (let hour = 0; hour < 6; hour++) {
    rig.host.clock.wallOffsetMicros += HOUR;
    await rig.write("a", 4 * MIB, noise(hour, BLOCK));
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
  }
  const left = rig.pool.stats().storedBytes;
  ok(left < stored / 3, `${stored} bytes became ${left}`);
  await expectNow(rig, "a", new Uint8Array(MIB));
  const again = await PoolRig.open(await rig.close());
  await expectNow(again, "a", new Uint8Array(MIB));
  await again.close();
});

test("a thousand clones cost next to nothing, and a thousand levels of clones read alike", async () => {
  let rig = await PoolRig.create({ memoryBytes: 64 << 20 });
  await rig.pool.createVolume("a", 64 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  await rig.pool.checkpoint();
  const before = rig.pool.stats().storedBytes;
  await Promise.all(
    Array.from({ length: 1000 }, (_, each) => rig.pool.clone("a", NOW, `c${each}`)),
  );
  await rig.pool.checkpoint();
  const bytesEach = (rig.pool.stats().storedBytes - before) / 1000;
  ok(bytesEach < 4096, `${bytesEach} bytes each`);
  await expectNow(rig, "c999", first);
  let last = "a";
  for (let level = 0; level < 1000; level++) {
    const name = `d${level}`;
    await rig.pool.clone(last, NOW, name);
    last = name;
    if (level % 250 === 0) await rig.write(last, level * 64, noise(level, BLOCK), { isSlow: true });
  }
  const wanted = first.slice();
  for (const level of [0, 250, 500, 750]) wanted.set(noise(level, BLOCK), level * 64);
  await expectNow(rig, last, wanted);
  await rig.pool.checkpoint();
  rig = await PoolRig.open(await rig.close(), { memoryBytes: 64 << 20 });
  await expectNow(rig, last, wanted);
  await rig.close();
});

test("a removed volume with a name on a line that it had left opens again", async () => {
  const settings = { segmentBytes: 65536 };
  let rig = await PoolRig.create(settings);
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, 4096);
  await rig.write("a", 0, first);
  const [named] = await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
  await rig.pool.rewind("a", { kind: "now" });
  await rig.write("a", 0, noise(2, 4096));
  await rig.pool.removeVolume("a");
  await rig.pool.collect({ isDryRun: false });
  rig = await PoolRig.open(rig.kill(), settings);
  await rig.pool.collect({ isDryRun: false });
  await expectAt(rig, "a", at(named?.lsn ?? 0), first);
  await rig.close();
});
