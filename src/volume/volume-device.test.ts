// SPDX-License-Identifier: Apache-2.0
//
// What a volume answers at its edges: ends that are no multiple of a block, sizes that change, read-only, nothing
// dirty, nothing there, 64 TiB.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK,
  noise,
  PoolRig,
  type StatusExtent,
  sameBytes,
  turn,
} from "../../test/crash/memory-rig.ts";
import { spell } from "../base/errors.ts";

const MIB = 1 << 20;
const ENOSPC = spell("POOL_FULL", "nbd");
const EPERM = spell("ACCESS_DENIED", "nbd");
const EINVAL = spell("RANGE_INVALID", "nbd");
const ZEROS = new Uint8Array(BLOCK);

test("the last, partial block is read, written, trimmed and told of like any other", async () => {
  const rig = await PoolRig.create();
  const size = MIB + 1536;
  await rig.pool.createVolume("a", size);
  const tail = noise(1, 1536);
  equal(await rig.write("a", MIB, tail), 0);
  sameBytes(await rig.read("a", MIB, 1536), tail);
  sameBytes(await rig.read("a", MIB + 1000, 536), tail.subarray(1000));
  deepEqual(await rig.status("a", 0, size), [
    { lengthBytes: MIB, flags: 3 },
    { lengthBytes: 1536, flags: 0 },
  ]);
  equal(await rig.trim("a", MIB + 1535, 1), 0);
  sameBytes(await rig.read("a", MIB, 1535), tail.subarray(0, 1535));
  equal(await rig.trim("a", MIB, 1536), 0);
  deepEqual(await rig.status("a", 0, size), [{ lengthBytes: size, flags: 3 }]);
  equal(await rig.zero("a", MIB + 512, 1024, { isHoleForbidden: true }), 0);
  sameBytes(await rig.read("a", MIB, 1536), new Uint8Array(1536));
  await rig.close();
});

test("requests beyond the end are refused, also after a shrink, and change nothing", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 2 * MIB);
  const device = rig.pool.device("a");
  await rig.write("a", 2 * MIB - BLOCK, noise(1, BLOCK));
  await rig.pool.resizeVolume("a", MIB + 512);
  equal(rig.pool.device("a"), device, "clients keep their device");
  for (const answer of [
    rig.write("a", MIB, noise(2, BLOCK)),
    rig.write("a", 2 * MIB - BLOCK, noise(2, BLOCK)),
    rig.write("a", MIB + 1, noise(2, 512)),
    rig.trim("a", 0, 2 * MIB),
    rig.zero("a", 2 * MIB, BLOCK),
    rig.read("a", MIB, BLOCK),
    rig.cache("a", 0, 2 * MIB),
  ])
    equal(await answer, EINVAL);
  await rig.pool.resizeVolume("a", 2 * MIB);
  for (let at = 0; at < 2 * MIB; at += MIB)
    sameBytes(await rig.read("a", at, MIB), new Uint8Array(MIB), "grown again");
  await rig.close();
});

test("what a shrink cuts off inside a block reads as zeros when the volume grows again", async () => {
  for (const isReadOnly of [false, true]) {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 2 * MIB);
    await rig.write("a", MIB, noise(1, BLOCK));
    await rig.pool.setVolume("a", { isReadOnly });
    await rig.pool.resizeVolume("a", MIB + 1024);
    await rig.pool.resizeVolume("a", 2 * MIB);
    const wanted = new Uint8Array(BLOCK);
    wanted.set(noise(1, BLOCK).subarray(0, 1024));
    sameBytes(await rig.read("a", MIB, BLOCK), wanted);
    const again = await PoolRig.open(await rig.close());
    sameBytes(await again.read("a", MIB, BLOCK), wanted);
    await again.close();
  }
});

test("a read-only volume reads and flushes, and refuses every change", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.pool.setVolume("a", { isReadOnly: true });
  for (const answer of [
    rig.write("a", 0, ZEROS),
    rig.write("a", 7, ZEROS),
    rig.trim("a", 0, BLOCK),
    rig.zero("a", 0, BLOCK),
  ])
    equal(await answer, EPERM);
  sameBytes(await rig.read("a", 0, BLOCK), noise(1, BLOCK));
  equal(await rig.flush("a"), 0);
  await rig.pool.setVolume("a", { isReadOnly: false });
  equal(await rig.write("a", 0, noise(2, BLOCK)), 0);
  await rig.close();
});

test("a removed volume is gone for those who still have it open", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const device = rig.pool.device("a");
  await rig.pool.removeVolume("a");
  equal(device.sizeBytes, 0);
  await rig.pool.createVolume("a", MIB);
  ok(rig.pool.device("a") !== device);
  sameBytes(await rig.read("a", 0, BLOCK), ZEROS);
  await rig.close();
});

test("a flush with nothing dirty is answered at once, and requests without length do nothing", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.pool.flush();
  const { datasyncCount, headLsn } = rig.pool.stats();
  equal(await rig.flush("a"), 0);
  equal(await rig.trim("a", 0, 0), 0);
  equal(await rig.zero("a", 4096, 0, { isForced: true }), 0);
  equal(rig.pool.stats().datasyncCount, datasyncCount);
  equal(rig.pool.stats().headLsn, headLsn, "nothing was recorded");
  await rig.close();
});

test("a forced write is on stable storage when it is answered, whatever its alignment", async () => {
  for (const [offset, length] of [
    [0, BLOCK],
    [100, 50],
    [3000, 9000],
  ] as const) {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", MIB);
    await rig.write("a", 0, noise(1, 4 * BLOCK));
    equal(await rig.write("a", offset, noise(2, length), { isForced: true }), 0);
    const again = await PoolRig.open(rig.cutPower());
    sameBytes(await again.read("a", offset, length), noise(2, length), `${length} at ${offset}`);
    await again.close();
  }
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, 4 * BLOCK));
  equal(await rig.trim("a", 512, 2 * BLOCK, { isForced: true }), 0);
  const again = await PoolRig.open(rig.cutPower());
  sameBytes(await again.read("a", 512, 2 * BLOCK), new Uint8Array(2 * BLOCK));
  await again.close();
});

/** The extents of all answers until the end, neighbours of one kind as one; and how many answers it took. */
async function wholeStatus(
  rig: PoolRig,
  sizeBytes: number,
): Promise<{ extents: StatusExtent[]; answers: number }> {
  const extents: StatusExtent[] = [];
  let answers = 0;
  for (let at = 0; at < sizeBytes; answers++) {
    for (const extent of await rig.status("a", at, sizeBytes - at)) {
      const last = extents.at(-1);
      const lengthBytes = extent.lengthBytes + (last?.lengthBytes ?? 0);
      if (last?.flags === extent.flags) extents[extents.length - 1] = { ...extent, lengthBytes };
      else extents.push(extent);
      at += extent.lengthBytes;
    }
  }
  return { extents, answers };
}

test("the status of 64 TiB is quick, empty, zeroed, or with a block in each of many places", async () => {
  const rig = await PoolRig.create();
  const size = 2 ** 46;
  await rig.pool.createVolume("a", size);
  const empty = await wholeStatus(rig, size);
  deepEqual(empty, { extents: [{ lengthBytes: size, flags: 3 }], answers: 64 });
  await rig.zero("a", 0, size, { isHoleForbidden: true });
  deepEqual((await wholeStatus(rig, size)).extents, [{ lengthBytes: size, flags: 2 }]);
  await rig.trim("a", BLOCK, size - 2 * BLOCK);
  deepEqual((await wholeStatus(rig, size)).extents, [
    { lengthBytes: BLOCK, flags: 2 },
    { lengthBytes: size - 2 * BLOCK, flags: 3 },
    { lengthBytes: BLOCK, flags: 2 },
  ]);
  for (let at = 1; at < 64; at++) await rig.write("a", at * 2 ** 40, noise(at, BLOCK));
  const { extents } = await wholeStatus(rig, size);
  equal(extents.filter(({ flags }) => flags === 0).length, 63);
  await rig.close();
});

test("a status ends where the client has enough, and begins and ends inside blocks", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  for (let block = 0; block < 64; block += 2)
    await rig.write("a", block * BLOCK, noise(block, BLOCK));
  equal((await rig.status("a", 0, 64 * BLOCK)).length, 64);
  equal((await rig.status("a", 0, 64 * BLOCK, 5)).length, 5);
  deepEqual(await rig.status("a", 1000, 5000), [
    { lengthBytes: BLOCK - 1000, flags: 0 },
    { lengthBytes: 5000 - (BLOCK - 1000), flags: 3 },
  ]);
  // A long answer may be cut: what it covers is right and contiguous from the start.
  await rig.pool.createVolume("b", 2 ** 36);
  const large = await rig.status("b", 512, 2 ** 36 - 512);
  deepEqual(large, [{ lengthBytes: 2 ** 36 - 512, flags: 3 }]);
  await rig.close();
});

test("a request without length isn't looked at again once it is complete", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  for (const kind of ["trim", "write"] as const) {
    await new Promise<void>((resolve) => {
      const request = {
        offsetBytes: 0,
        lengthBytes: 0,
        address: 0,
        isForceUnitAccess: false,
        complete: (): void => {
          // Its owner uses it for something else at once.
          request.lengthBytes = BLOCK;
          request.complete = resolve;
          setImmediate(resolve);
        },
      };
      rig.pool.device("a")[kind](request);
    });
  }
  sameBytes(await rig.read("a", 0, BLOCK), noise(1, BLOCK), "nothing was trimmed or written");
  await rig.close();
});

test("a trim goes on when the pool is full, and leaves the parts of blocks at its ends as they are", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: MIB });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.write("a", 0, noise(1, 4 * BLOCK));
  for (let seed = 3; rig.pool.state !== "full"; seed++)
    await rig.write("a", 2 * MIB, noise(seed, BLOCK));
  const wanted = noise(1, 4 * BLOCK);
  for (const [offset, length, wholeStart, wholeEnd] of [
    [100, 50, 0, 0],
    [512, BLOCK, 0, 0],
    [BLOCK - 512, BLOCK + 1024, BLOCK, 2 * BLOCK],
    [2 * BLOCK + 512, 2 * BLOCK - 512, 3 * BLOCK, 4 * BLOCK],
  ] as const) {
    equal(await rig.trim("a", offset, length, { isForced: true }), 0);
    wanted.fill(0, wholeStart, wholeEnd);
    sameBytes(await rig.read("a", 0, 4 * BLOCK), wanted, `${length} at ${offset}`);
  }
  const again = await PoolRig.open(rig.cutPower());
  sameBytes(await again.read("a", 0, 4 * BLOCK), wanted);
  await again.close();
});

test("zeroes on a full pool are written where they take no block, else refused whole", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: MIB });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.write("a", 0, noise(1, 4 * BLOCK));
  await rig.write("a", MIB, noise(2, BLOCK));
  for (let seed = 3; rig.pool.state !== "full"; seed++)
    await rig.write("a", 2 * MIB, noise(seed, BLOCK));
  const wanted = noise(1, 4 * BLOCK);
  for (const isHoleForbidden of [false, true]) {
    equal(await rig.zero("a", 100, 3 * BLOCK, { isHoleForbidden }), ENOSPC);
    sameBytes(await rig.read("a", 0, 4 * BLOCK), wanted, "nothing of it was done");
  }
  for (const block of [1, 2]) {
    equal(await rig.zero("a", block * BLOCK, BLOCK, { isHoleForbidden: block === 2 }), 0);
    wanted.fill(0, block * BLOCK, (block + 1) * BLOCK);
  }
  sameBytes(await rig.read("a", 0, 4 * BLOCK), wanted);
  await rig.pool.resizeVolume("a", MIB + 512);
  await rig.pool.resizeVolume("a", 4 * MIB);
  const tail = new Uint8Array(BLOCK);
  tail.set(noise(2, 512));
  sameBytes(await rig.read("a", MIB, BLOCK), tail, "a volume shrinks on a full pool");
  await rig.close();
});

test("a status of many pages and blocks lets others have their turns, and ends before it becomes endless", async () => {
  const rig = await PoolRig.create({ checkpointChanges: 16384 });
  const size = 2 ** 46;
  const chunkBytes = 2 ** 31;
  await rig.pool.createVolume("a", size);
  // 1024 pages are looked at in each chunk that has a block, 512 blocks in each page that has one.
  for (let chunk = 0; chunk < 40; chunk++)
    await rig.write("a", chunk * chunkBytes, noise(1, BLOCK));
  for (const lengthBytes of [40 * chunkBytes, 2 ** 40]) {
    const extents = rig.status("a", 0, lengthBytes);
    let isDone = false;
    void extents.then(() => {
      isDone = true;
    });
    let served = 0;
    for (; !isDone; served++) {
      sameBytes(await rig.read("a", 0, BLOCK), noise(1, BLOCK));
      await turn();
    }
    ok(served >= 10, `${served} reads were served meanwhile`);
    const told = await extents;
    equal(told.filter(({ flags }) => flags === 0).length, 40);
    equal(
      told.reduce((sum, extent) => sum + extent.lengthBytes, 0),
      lengthBytes,
    );
  }
  for (let chunk = 40; chunk < 1200; chunk++)
    await rig.write("a", chunk * chunkBytes, noise(1, BLOCK));
  const cut = await rig.status("a", 0, size);
  const covered = cut.reduce((sum, extent) => sum + extent.lengthBytes, 0);
  ok(covered > 100 * chunkBytes && covered < 1200 * chunkBytes, "the client asks on from there");
  ok((await rig.status("a", covered, chunkBytes)).length > 0);
  await rig.close();
});
