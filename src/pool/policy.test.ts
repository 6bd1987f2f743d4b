// SPDX-License-Identifier: Apache-2.0
//
// What is set on the pool holds at once and for good: its size, and what history it promises.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, turn } from "../../test/crash/memory-rig.ts";
import { Catalog } from "./catalog.ts";
import { RETENTION_DEFAULT, wholeRetention } from "./catalog-policy.ts";

const MIB = 1 << 20;
const ENOSPC = 28;

/** Writes blocks until there is no space; returns how many there was space for. */
async function fill(rig: PoolRig, from: number): Promise<number> {
  for (let block = from; ; block++)
    if ((await rig.write("a", block * BLOCK, noise(block, BLOCK))) === ENOSPC) return block;
}

test("a full pool that is grown takes writes again, and is as large after a restart", async () => {
  const rig = await PoolRig.create();
  deepEqual(rig.pool.policy, {
    retention: RETENTION_DEFAULT,
    poolSizeBytes: 0,
    whenFull: "shorten-history",
    historyFloorMicros: 3_600_000_000,
  });
  await rig.pool.createVolume("a", 64 * MIB);
  await rig.pool.setPolicy({ poolSizeBytes: 2 * MIB });
  const count = await fill(rig, 0);
  ok(count < 512, `${count} blocks in 2 MiB`);
  equal(rig.pool.state, "full");
  ok(rig.pool.stats().refusedRequestCount >= 1);
  await rig.pool.setPolicy({ poolSizeBytes: 4 * MIB });
  equal(await rig.write("a", count * BLOCK, noise(count, BLOCK)), 0, "without waiting for a look");
  while (rig.pool.state === "full") await turn();
  equal(rig.pool.stats().capacityBytes, 4 * MIB);
  const again = await PoolRig.open(rig.cutPower());
  equal(again.pool.policy.poolSizeBytes, 4 * MIB, "durable when the call returns");
  await again.pool.setPolicy({ poolSizeBytes: 0 });
  equal(again.pool.policy.poolSizeBytes, 0);
  ok(again.pool.stats().capacityBytes > 4 * MIB);
  await again.close();
});

test("a pool that is made smaller than what it stores refuses new data and gives all it has", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 64 * MIB);
  for (let block = 0; block < 600; block++)
    await rig.write("a", block * BLOCK, noise(block, BLOCK));
  await rig.pool.setPolicy({ poolSizeBytes: 2 * MIB });
  equal(await rig.write("a", 0, noise(7000, BLOCK)), ENOSPC);
  while (rig.pool.state !== "full") await turn();
  deepEqual(await rig.read("a", 599 * BLOCK, BLOCK), noise(599, BLOCK));
  equal(await rig.trim("a", 0, BLOCK), 0);
  await rig.close();
});

test("a size that the daemon is started with goes before the one that was set, and says so", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ poolSizeBytes: 4 * MIB });
  const started = await PoolRig.open(await rig.close(), { poolSizeBytes: 3 * MIB });
  equal(started.pool.policy.poolSizeBytes, 3 * MIB);
  ok(started.host.eventNames().includes("pool.size-overridden"));
  const unlimited = await PoolRig.open(await started.close(), { poolSizeBytes: 0 });
  equal(unlimited.pool.policy.poolSizeBytes, 0);
  const plain = await PoolRig.open(await unlimited.close());
  equal(plain.pool.policy.poolSizeBytes, 4 * MIB, "it was overridden, not changed");
  ok(!plain.host.eventNames().includes("pool.size-overridden"));
  await plain.close();
});

test("a new pool keeps what is the default now, and one that was told nothing all", async () => {
  const rig = await PoolRig.create();
  deepEqual(rig.pool.policy.retention, RETENTION_DEFAULT);
  const again = await PoolRig.open(rig.cutPower());
  deepEqual(
    again.pool.policy.retention,
    RETENTION_DEFAULT,
    "it stays what it was, whatever becomes the default",
  );
  await again.close();
  deepEqual(new Catalog().retention, wholeRetention({ everyWriteMicros: null }));
});

test("retention is what was set last, in the log and in a checkpoint", async () => {
  const rig = await PoolRig.create();
  const day = wholeRetention({ everyWriteMicros: 86_400_000_000, dailyMicros: null });
  await rig.pool.setPolicy({ retention: day });
  deepEqual(rig.pool.policy.retention, day);
  const replayed = await PoolRig.open(rig.cutPower());
  deepEqual(replayed.pool.policy.retention, day);
  await replayed.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await replayed.pool.checkpoint();
  const loaded = await PoolRig.open(replayed.cutPower());
  deepEqual(loaded.pool.policy.retention, wholeRetention({ everyWriteMicros: 0 }));
  await loaded.close();
});

test("what becomes of a full pool, and the history that stays whatever happens, are set for good", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ whenFull: "stop-writes" });
  await rig.pool.setPolicy({ historyFloorMicros: 60_000_000 });
  const again = await PoolRig.open(rig.cutPower());
  const { whenFull, historyFloorMicros, poolSizeBytes } = again.pool.policy;
  deepEqual([whenFull, historyFloorMicros, poolSizeBytes], ["stop-writes", 60_000_000, 0]);
  await again.close();
});

test("deduplication and compression are switched per volume, for good", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.pool.createVolume("b", MIB);
  await rig.pool.setVolume("a", { isDeduplicated: false });
  await rig.pool.setVolume("b", { isCompressed: false });
  const again = await PoolRig.open(rig.cutPower());
  const settings = again.pool.volumes().map((one) => [one.isDeduplicated, one.isCompressed]);
  deepEqual(settings, [
    [false, true],
    [true, false],
  ]);
  await again.pool.setVolume("a", { isDeduplicated: true });
  equal(again.pool.volume("a").isDeduplicated, true);
  await again.close();
});
