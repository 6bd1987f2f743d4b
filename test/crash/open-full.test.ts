// SPDX-License-Identifier: Apache-2.0
//
// Full: by the pool's own limit, and by the file system's. New data is refused or waits; everything else works;
// space that comes back is used without a restart; what was acknowledged is there.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes, turn, turns } from "./memory-rig.ts";

const MIB = 1 << 20;
const ENOSPC = 28;

/** Writes block after block until the answer isn't 0; how many were taken. */
async function fill(rig: PoolRig, from: number, countMax: number): Promise<number> {
  for (let block = from; block < countMax; block++) {
    const errno = await rig.write("a", block * BLOCK, noise(block, BLOCK));
    if (errno === 0) continue;
    equal(errno, ENOSPC);
    return block;
  }
  return countMax;
}

async function expectBlocks(rig: PoolRig, from: number, end: number): Promise<void> {
  for (let block = from; block < end; block++)
    sameBytes(await rig.read("a", block * BLOCK, BLOCK), noise(block, BLOCK), `block ${block}`);
}

test("a pool at its limit refuses new data and does everything else", async () => {
  const limited = { poolSizeBytes: 2 * MIB };
  const rig = await PoolRig.create(limited);
  await rig.pool.createVolume("a", 16 * MIB);
  await rig.pool.createVolume("b", MIB);
  const count = await fill(rig, 0, 4096);
  ok(count > 300 && count < 512, `${count} blocks fit`);
  equal(rig.pool.state, "full");
  while (!rig.host.eventNames().includes("pool.watermark")) await turn();
  equal(rig.host.eventNames().filter((name) => name === "pool.full").length, 1);
  ok(rig.pool.stats().storedBytes <= limited.poolSizeBytes);
  await expectBlocks(rig, 0, count);
  for (let round = 0; round < 50; round++) equal(await rig.trim("a", round * BLOCK, BLOCK), 0);
  equal(await rig.zero("a", 0, MIB, { isHoleForbidden: true }), 0);
  equal(await rig.flush("a"), 0);
  await rig.pool.removeVolume("b");
  await rig.pool.renameVolume("a", "c");
  await rig.pool.renameVolume("c", "a");
  await rig.pool.checkpoint();
  equal(
    await rig.write("a", 0, noise(1, BLOCK)),
    ENOSPC,
    "nothing was given back: history is kept",
  );
  const files = await rig.close();
  const still = await PoolRig.open(files, limited);
  equal(await still.write("a", 0, noise(1, BLOCK)), ENOSPC);
  await expectBlocks(still, 256, count);
  const larger = await PoolRig.open(await still.close(), { poolSizeBytes: 4 * MIB });
  equal(await larger.write("a", 0, noise(0, BLOCK)), 0);
  await larger.close();
});

test("a write that began while the pool was full is refused at once, not kept waiting", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: MIB });
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 4096);
  const answers = await Promise.all(
    [0, 1, 2, 3].map((at) =>
      rig.write("a", at * 512, noise(at, 512 + at), { isForced: at % 2 === 0 }),
    ),
  );
  ok(
    answers.every((errno) => errno === ENOSPC),
    answers.join(),
  );
  await rig.close();
});

test("a full file system delays or refuses writes, and loses none that was acknowledged", async () => {
  for (const roomBytes of [1000, 5000, 40_000, 70_000, 200_000, 600_000]) {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 16 * MIB);
    await fill(rig, 0, 8);
    equal(await rig.flush("a"), 0);
    // The pool was told of much more room than there is: somebody else took it.
    const used = [...rig.host.log.files().values()].reduce((sum, bytes) => sum + bytes.length, 0);
    rig.host.log.capacityBytes = used + roomBytes;
    const answers: (number | undefined)[] = [];
    for (let block = 8; block < 200; block++) {
      answers[block] = undefined;
      void rig.write("a", block * BLOCK, noise(block, BLOCK)).then((errno) => {
        answers[block] = errno;
      });
      await turn();
    }
    void rig.flush("a");
    await turns(200);
    equal(rig.pool.state, "full");
    ok(
      answers.some((errno) => errno === undefined || errno === ENOSPC),
      "not everything fitted",
    );
    const after = await PoolRig.open(rig.kill());
    for (let block = 8; block < 200; block++)
      if (answers[block] === 0)
        sameBytes(
          await after.read("a", block * BLOCK, BLOCK),
          noise(block, BLOCK),
          `room ${roomBytes}, block ${block}`,
        );
    await after.close();
  }
});

test("space that comes back is used without a restart", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 8);
  const used = [...rig.host.log.files().values()].reduce((sum, bytes) => sum + bytes.length, 0);
  rig.host.log.capacityBytes = used + 20_000;
  const writes = Array.from({ length: 60 }, (_, at) =>
    rig.write("a", (8 + at) * BLOCK, noise(8 + at, BLOCK)),
  );
  const flush = rig.flush("a");
  await turns(100);
  equal(rig.pool.state, "full");
  rig.host.log.capacityBytes = Number.POSITIVE_INFINITY;
  const answers = await Promise.all(writes);
  equal(await flush, 0);
  const refused = answers.findIndex((errno) => errno !== 0);
  await expectBlocks(rig, 0, 8 + (refused < 0 ? 60 : refused));
  while (rig.pool.state === "full") await turn();
  ok(rig.host.eventNames().includes("pool.has-space"));
  equal(await rig.write("a", 0, noise(0, BLOCK)), 0);
  equal(await rig.flush("a"), 0);
  const again = await PoolRig.open(await rig.close());
  await expectBlocks(again, 0, 8);
  await again.close();
});
