// SPDX-License-Identifier: Apache-2.0
//
// What an opening builds on must be on stable storage before anything is built on it: a program dies, the next
// one opens the pool from the page cache, and then the machine loses power.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK,
  durableFilesOf,
  filesOf,
  newHost,
  noise,
  PoolRig,
  sameBytes,
  turns,
} from "./memory-rig.ts";

const MIB = 1 << 20;

/** The life after the program's death, on the same page cache. */
function openAgain(rig: PoolRig): Promise<PoolRig> {
  return PoolRig.open({ root: new Map(), log: new Map() }, {}, rig.host.restart());
}

test("a marker that was only in the page cache is durable before the next segment names it", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.flush("a");
  const before = rig.pool.log.markerCount;
  while (rig.pool.log.markerCount === before) await turns(1);
  const second = await openAgain(rig);
  await second.write("a", BLOCK, noise(2, BLOCK));
  equal(await second.flush("a"), 0);
  const third = await PoolRig.open(second.cutPower());
  sameBytes(await third.read("a", 0, BLOCK), noise(1, BLOCK));
  sameBytes(await third.read("a", BLOCK, BLOCK), noise(2, BLOCK));
  await third.close();
});

test("a pool whose making was interrupted is made again", async () => {
  for (let k = 1; ; k++) {
    const host = newHost();
    let isHit = false;
    let seen = 0;
    host.operations(() => {
      if (++seen !== k) return undefined;
      isHit = true;
      return "EIO";
    });
    const made = await PoolRig.create({}, host).catch(() => undefined);
    host.operations(undefined);
    if (!isHit) {
      await made?.close();
      ok(k > 10);
      return;
    }
    host.stop();
    for (const files of [filesOf(host), durableFilesOf(host)]) {
      const isThere = files.root.has("pool.json");
      const rig = isThere ? await PoolRig.open(files) : await PoolRig.create({}, newHost(files));
      await rig.pool.createVolume("a", MIB);
      await rig.write("a", 0, noise(1, BLOCK));
      const again = await PoolRig.open(await rig.close());
      sameBytes(await again.read("a", 0, BLOCK), noise(1, BLOCK), `failure at ${k}`);
      await again.close();
    }
  }
});

test("empty lives in a row cost a header each and lose nothing", async () => {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.flush("a");
  for (let life = 0; life < 12; life++)
    rig = life % 3 === 0 ? await PoolRig.open(rig.cutPower()) : await openAgain(rig);
  sameBytes(await rig.read("a", 0, BLOCK), noise(1, BLOCK));
  await rig.write("a", 0, noise(2, BLOCK));
  await rig.flush("a");
  const last = await PoolRig.open(rig.cutPower());
  sameBytes(await last.read("a", 0, BLOCK), noise(2, BLOCK));
  await last.close();
});

test("a crash in recovery, at any of its operations, leaves a log that is recovered again", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  for (let block = 0; block < 40; block++) await rig.write("a", block * BLOCK, noise(block, BLOCK));
  await rig.flush("a");
  for (let block = 40; block < 60; block++)
    await rig.write("a", block * BLOCK, noise(block, BLOCK));
  // The last segment is torn, and a leftover lies behind it.
  const files = rig.kill();
  const newest = [...files.log.keys()]
    .filter((name) => name.endsWith(".seg"))
    .sort()
    .at(-2) as string;
  const torn = (files.log.get(newest) as Uint8Array).slice();
  torn.fill(0, torn.length - 6000, torn.length - 3000);
  const log = new Map(files.log).set(newest, torn);
  let k = 1;
  for (let isDone = false; !isDone; k++) {
    const host = newHost({ root: files.root, log });
    let seen = 0;
    // From the k-th operation on nothing happens any more: the machine has stopped.
    host.operations(() => (++seen >= k ? new Promise(() => undefined) : undefined));
    let isOpen = false;
    PoolRig.open({ root: new Map(), log: new Map() }, {}, host).then(
      () => {
        isOpen = true;
      },
      () => undefined, // a synchronous operation can't be held: it failed
    );
    await turns(60);
    isDone = isOpen;
    for (const left of [filesOf(host), durableFilesOf(host)]) {
      const again = await PoolRig.open(left);
      for (let block = 0; block < 40; block++)
        sameBytes(await again.read("a", block * BLOCK, BLOCK), noise(block, BLOCK), `stop at ${k}`);
      again.host.stop();
    }
    host.stop();
  }
  ok(k > 10, `${k} places`);
});

test("what a crash left behind accepted batches is cut off once the log goes on elsewhere", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 1 << 20);
  for (let block = 0; rig.pool.stats().segmentCount < 2; block++)
    await rig.write("a", block * BLOCK, noise(block, BLOCK));
  await turns(3);
  const files = rig.kill();
  const first = "0000000000000001.seg";
  const whole = files.log.get(first) as Uint8Array;
  const torn = whole.slice();
  const at = Buffer.from(torn).indexOf(noise(6, BLOCK));
  torn.fill(0, at, at + 512);
  // The second segment is leftover; the first one's footer repeats what was torn.
  const host = newHost({ ...files, log: new Map([...files.log, [first, torn]]) });
  let begunAt = 0;
  let cutAt = 0;
  host.log.onOperation = ({ kind, name, number }) => {
    if (kind === "datasync" && name !== first && begunAt === 0) begunAt = number;
    if (kind === "truncate" && name === first) cutAt = number;
    return undefined;
  };
  const again = await PoolRig.open(files, {}, host);
  ok(begunAt > 0 && cutAt > begunAt, `begun ${begunAt}, cut ${cutAt}`);
  const left = host.log.files().get(first) as Uint8Array;
  equal(left.length % 512, 0);
  ok(left.length <= at && at - left.length < 4096, "up to the torn batch");
  equal(Buffer.compare(left, whole.subarray(0, left.length)), 0);
  sameBytes(await again.read("a", 5 * BLOCK, BLOCK), noise(5, BLOCK));
  await again.close();
});
