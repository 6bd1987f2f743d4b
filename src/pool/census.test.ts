// SPDX-License-Identifier: Apache-2.0
//
// The census tells what each volume maps, shares and saves, and what only the past needs; removed volumes are history.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, Gate, noise, PoolRig, turn } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;

test("the census tells noise from text, shared from unique, and zeros from holes", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  for (const name of ["noise", "text", "copy"]) await rig.pool.createVolume(name, 4 * MIB);
  const text = new Uint8Array(64 * BLOCK);
  for (let at = 0; at < text.length; at++) text[at] = 97 + ((at >> 6) % 7) + (at >> 12);
  for (let at = 0; at < 4; at++) await rig.write("noise", at * 64 * BLOCK, noise(at, 64 * BLOCK));
  await rig.write("text", 0, text);
  await rig.write("copy", 0, noise(1, 64 * BLOCK));
  await rig.zero("copy", MIB, MIB, { isHoleForbidden: true });
  await rig.pool.refreshCensus();
  const { volumes, census, dedup, compression, zero } = rig.pool.stats();
  const [copy, noisy, texty] = volumes;
  ok(copy !== undefined && noisy !== undefined && texty !== undefined && census !== undefined);
  equal(noisy.mappedBytes, 256 * BLOCK);
  equal(noisy.compressionSavedBytes, 0);
  equal(noisy.uniqueBytes, 192 * (BLOCK + 24), "64 blocks are the copy's too");
  equal(texty.mappedBytes, 64 * BLOCK);
  ok(texty.compressionSavedBytes > 40 * BLOCK, `${texty.compressionSavedBytes} saved`);
  equal(copy.mappedBytes, 64 * BLOCK);
  equal(copy.uniqueBytes, 0);
  equal(copy.zeroBytes, MIB);
  equal(dedup.savedBytes, 64 * BLOCK);
  equal(compression.savedBytes, texty.compressionSavedBytes);
  equal(zero.savedBytes, MIB);
  ok(census.liveBytes < rig.pool.stats().storedBytes);
  rig.host.clock.wallOffsetMicros += 60_000_000;
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.refreshCensus();
  const after = rig.pool.stats();
  ok(after.census !== undefined && after.census.liveBytes < census.liveBytes);
  const [, noiseAfter, textAfter] = after.volumes;
  equal(noiseAfter?.uniqueBytes, 192 * (BLOCK + 24), "noise was moved as it is");
  ok((textAfter?.compressionSavedBytes ?? 0) > texty.compressionSavedBytes);
  await rig.close();
});

test("history is what no volume holds any more, and is counted less often than volumes are", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.pool.createVolume("b", 4 * MIB);
  await rig.write("a", 0, noise(1, 64 * BLOCK));
  await rig.write("b", 0, noise(2, 64 * BLOCK));
  const look = async (micros: number): Promise<number> => {
    rig.host.clock.wallOffsetMicros += micros;
    await rig.pool.refreshCensus();
    return rig.pool.stats().history?.bytes ?? -1;
  };
  const frames = (blocks: number): number => blocks * (BLOCK + 24);
  ok((await look(0)) < frames(2), "nothing was overwritten");
  await rig.write("a", 0, noise(3, 64 * BLOCK));
  await rig.write("a", 32 * BLOCK, noise(1, 64 * BLOCK).subarray(32 * BLOCK));
  ok((await look(60e6)) < frames(2), "a minute later it isn't counted again");
  const overwritten = await look(600e6);
  ok(overwritten >= frames(64) && overwritten < frames(70), `${overwritten} bytes`);
  const { holders } = await rig.pool.collect({ isDryRun: true });
  const heldBy = (what: string): number =>
    holders.find((holder) => holder.what.startsWith(what))?.bytes ?? 0;
  ok(heldBy("history") < frames(70), `${heldBy("history")} bytes of sealed segments are history`);
  const { liveBytes = 0 } = rig.pool.stats().census ?? {};
  await rig.pool.removeVolume("b");
  const removed = await look(600e6);
  ok(removed - overwritten >= frames(63), `${removed} bytes with a removed volume`);
  ok((rig.pool.stats().census?.liveBytes ?? 0) <= liveBytes - frames(64));
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  equal(await look(600e6), 0, "without history it is garbage");
  await rig.close();
});

test("a census waits for no collection, which counts history itself", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB / 4 });
  await rig.pool.createVolume("a", 4 * MIB);
  for (let round = 0; round < 3; round++) await rig.write("a", 0, noise(round, 64 * BLOCK));
  const gate = new Gate<undefined>();
  let isHeld = false;
  rig.host.log.onOperation = ({ kind, name }) => {
    if (isHeld || kind !== "read" || !name.endsWith(".seg")) return undefined;
    isHeld = true;
    return gate.wait;
  };
  const collected = rig.pool.collect({ isDryRun: true });
  while (!isHeld) await turn();
  await rig.pool.refreshCensus();
  const { census, history } = rig.pool.stats();
  ok(census !== undefined && history === undefined);
  gate.open(undefined);
  await collected;
  ok((rig.pool.stats().history?.bytes ?? 0) > 2 * 60 * BLOCK);
  await rig.close();
});

test("what garbage collection keeps for history, it tells apart from what volumes hold", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB / 4 });
  await rig.pool.createVolume("a", 4 * MIB);
  for (let round = 0; round < 4; round++) await rig.write("a", 0, noise(round, 64 * BLOCK));
  const { holders } = await rig.pool.collect({ isDryRun: false });
  const live = holders.find(({ what }) => what === "live volumes")?.bytes ?? 0;
  const past = holders.find(({ what }) => what.startsWith("history"))?.bytes ?? 0;
  ok(live >= 64 * BLOCK && live < 70 * BLOCK, `${live} bytes live`);
  ok(past >= 3 * 64 * BLOCK && past < 3 * 70 * BLOCK, `${past} bytes of history`);
  const { history } = rig.pool.stats();
  equal(history?.bytes, past, "and statistics know it from there");
  await rig.close();
});
