// SPDX-License-Identifier: Apache-2.0
//
// Garbage collection with a window of history: nothing that a moment of the window shows goes, by the references of the
// records themselves; what is older goes.

import { ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;

test("with a window, what was overwritten before it goes, and what was overwritten in it stays", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  const write = async (seed: number): Promise<void> => {
    for (let at = 0; at < MIB; at += 16 * BLOCK)
      await rig.write("a", at, noise(seed + at, 16 * BLOCK));
  };
  const pass = async (micros: number): Promise<void> => {
    rig.host.clock.wallOffsetMicros += micros;
    await rig.pool.checkpoint();
  };
  await write(1);
  await pass(HOUR / 2);
  await write(2);
  await rig.pool.collect({ isDryRun: false });
  const all = rig.pool.stats().storedBytes;
  ok(all > 2 * MIB, "the window isn't older than the pool: everything stays");
  for (let step = 0; step < 8; step++) await pass(HOUR / 3);
  await write(3);
  await pass(HOUR / 3);
  await rig.pool.collect({ isDryRun: false });
  const after = rig.pool.stats().storedBytes;
  ok(after < all, `${all} bytes became ${after}, with a third version`);
  ok(after > 2 * MIB, "the version before the last is in the window");
  const files = await rig.close();
  const again = await PoolRig.open(files);
  again.host.clock.wallOffsetMicros = rig.host.clock.wallOffsetMicros;
  sameBytes(await again.read("a", 0, MIB / 2), expected(3, MIB / 2));
  for (let step = 0; step < 8; step++) {
    again.host.clock.wallOffsetMicros += HOUR / 3;
    await again.pool.checkpoint();
  }
  await again.pool.collect({ isDryRun: false });
  ok(
    again.pool.stats().storedBytes < 1.6 * MIB,
    `${again.pool.stats().storedBytes} bytes in the end`,
  );
  sameBytes(await again.read("a", 0, MIB / 2), expected(3, MIB / 2));
  await again.close();
});

test("a collection ends with the history that it began with, whatever the window lets go of meanwhile", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  for (let round = 0; round < 20; round++) {
    for (let at = 0; at < MIB; at += 16 * BLOCK)
      await rig.write("a", at, noise(round * MIB + at, 16 * BLOCK));
    // Of a page that changes twice the base has the image of the first time, in a run of its own.
    if (round === 0 || round === 19) await rig.write("a", 2 * MIB, noise(round, BLOCK));
    rig.host.clock.wallOffsetMicros += HOUR / 8;
    await rig.pool.checkpoint();
  }
  // Between two reads of the collection two hours go by.
  let isLate = false;
  rig.host.log.onOperation = ({ kind, name }) => {
    if (kind !== "read" || !name.endsWith(".run") || isLate) return undefined;
    isLate = true;
    rig.host.clock.wallOffsetMicros += 2 * HOUR;
    return rig.pool
      .checkpoint()
      .then(() => rig.pool.checkpoint())
      .then(() => undefined);
  };
  const report = await rig.pool.collect({ isDryRun: false });
  ok(isLate && report.segmentsFreed > 0);
  rig.host.log.onOperation = undefined;
  rig.host.clock.wallOffsetMicros += HOUR;
  for (let round = 0; round < 3; round++) await rig.pool.checkpoint();
  const after = await rig.pool.collect({ isDryRun: false });
  ok(after.segmentsFreed > 0, "then the window goes on");
  await rig.close();
});

function expected(seed: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let at = 0; at < lengthBytes; at += 16 * BLOCK) bytes.set(noise(seed + at, 16 * BLOCK), at);
  return bytes;
}
