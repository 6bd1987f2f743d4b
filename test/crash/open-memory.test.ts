// SPDX-License-Identifier: Apache-2.0
//
// Replays that are longer than the memory for changes: with a smaller budget than the log was written with, and by
// `varve check`, which compares each checkpoint with the whole log.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import type { PageDirectory } from "../../src/index/page-directory.ts";
import { catVolume } from "../../src/log/log-dump.ts";
import { LOW_ZERO } from "../../src/log/reference.ts";
import { poolIdBytes, readIdentity } from "../../src/pool/identity.ts";
import { checkPool } from "../../src/pool/pool-check.ts";
import { BLOCK, newHost, noise, type PoolFiles, PoolRig, sameBytes, turns } from "./memory-rig.ts";

const MIB = 1 << 20;

/** 100 MiB of zeros: many changes in few bytes, none of them known to be durable. */
async function manyChanges(): Promise<PoolFiles> {
  const rig = await PoolRig.create({ memoryBytes: 256 * MIB, segmentBytes: 16 * MIB });
  await rig.pool.createVolume("a", 2 ** 30);
  await rig.pool.checkpoint();
  for (let at = 0; at < 400; at++) await rig.write("a", at * MIB, new Uint8Array(MIB));
  return rig.kill();
}

test("a pool opens with less memory than its newest changes were made with", async () => {
  const rig = await PoolRig.open(await manyChanges());
  equal(rig.pool.index.ring.capacity < 400 * 256, true, "the changes don't fit at once");
  const [extent] = await rig.status("a", 0, 2 ** 30);
  deepEqual(extent, { lengthBytes: 400 * MIB, flags: 2 });
  rig.pool.checkInvariants();
  await rig.close();
});

test("check compares a checkpoint with more changes behind it than its memory holds", async () => {
  const { root, log, zstd } = newHost(await manyChanges());
  const report = await checkPool({ root, log, zstd, memoryBytes: 64 * MIB });
  deepEqual(report.findings, []);
});

test("check and cat take a zeroed 16 TiB in their stride", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 2 ** 45);
  const end = 2 ** 44 + 5 * 4096;
  equal(await rig.zero("a", 3 * 4096, end - 3 * 4096, { isHoleForbidden: true }), 0);
  await rig.write("a", 2 ** 43, noise(1, 4096));
  equal(await rig.trim("a", 2 ** 42, 2 ** 41 + 4096), 0);
  await rig.pool.checkpoint();
  equal(await rig.trim("a", 2 ** 43 + 4096, 4096), 0);
  const { root, log, zstd } = newHost(await rig.close());
  const report = await checkPool({ root, log, zstd, memoryBytes: 64 * MIB });
  deepEqual(report.findings, []);
  equal(report.checkpoints, 2);
  const poolId = poolIdBytes(await readIdentity(root));
  const found: number[] = [];
  const onContent = (bytes: Uint8Array, offset: number): Promise<void> => {
    sameBytes(bytes, noise(1, 4096));
    found.push(offset);
    return Promise.resolve();
  };
  equal(await catVolume({ log, poolId, zstd, volume: "a", onContent }), 2 ** 45);
  deepEqual(found, [2 ** 43]);
});

test("a checkpoint comes before the memory for changes is full, however far apart they may be", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 2 ** 30);
  const { ring } = rig.pool.index;
  for (let at = 0; ring.count < ring.capacity / 2; at++) {
    equal(rig.pool.stats().checkpointCount, 0);
    await rig.write("a", at * MIB, new Uint8Array(MIB));
  }
  await turns(50);
  equal(rig.pool.stats().checkpointCount, 1, "writes need not wait for it");
  await rig.close();
});

test("what a pool stores is what its files take, also after checkpoints that were taken during a replay", async () => {
  const small = { segmentBytes: 64 << 10 };
  const made = await PoolRig.create({ memoryBytes: 256 * MIB, ...small });
  await made.pool.createVolume("a", 2 ** 30);
  for (let at = 0; at < 60; at++) await made.write("a", at * BLOCK, noise(at, BLOCK));
  await made.pool.checkpoint();
  for (let at = 0; at < 300; at++) {
    await made.write("a", at * MIB, new Uint8Array(MIB));
    if (at % 3 === 0) await made.write("a", at * BLOCK, noise(at, 4 * BLOCK));
  }
  const isRolling = made.pool.stats().segmentCount;
  expectStored(made);
  let files = made.kill();
  for (let life = 0; life < 3; life++) {
    const rig = await PoolRig.open(files, small);
    equal(rig.pool.stats().checkpointCount > 0, life === 0, "only the first replay is long");
    ok(rig.pool.stats().segmentCount > isRolling);
    expectStored(rig);
    for (let at = 0; at < 40; at++) await rig.write("a", at * BLOCK, noise(at, BLOCK));
    await rig.flush("a");
    if (life === 1) await rig.pool.checkpoint();
    expectStored(rig);
    files = rig.kill();
  }
});

/** Log and reserve to the byte; runs but for what nothing needs any more, and slots. */
function expectStored(rig: PoolRig): void {
  const files = rig.host.log.files();
  const bytesOf = (isMeant: (name: string) => boolean): number =>
    [...files].reduce((sum, [name, bytes]) => sum + (isMeant(name) ? bytes.length : 0), 0);
  equal(
    rig.pool.stats().storedBytes,
    bytesOf((name) => /\.(seg|run)$|^reserve$/.test(name)),
  );
  const segmentNames = [...files].filter(
    ([name, { length }]) => name.endsWith(".seg") && length > 0,
  );
  equal(rig.pool.stats().segmentCount, segmentNames.length);
}

test("check finds where a checkpoint differs from the log, but for what changed since", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 8 * MIB);
  for (let at = 0; at < 2048; at += 8) await rig.write("a", at * BLOCK, noise(at, BLOCK));
  const directory = [...rig.pool.index.branches.values()][0] as PageDirectory;
  // Behind the log's back, in five pages.
  for (const lba of [8, 512, 1024, 1544, 2000])
    rig.pool.index.applyConstant(
      directory,
      { lba, blockCount: 1 },
      LOW_ZERO,
      rig.pool.log.nextLsn - 1,
    );
  await rig.pool.checkpoint();
  await rig.write("a", 512 * BLOCK, noise(1, BLOCK));
  await rig.trim("a", 1000 * BLOCK, 100 * BLOCK);
  await rig.pool.resizeVolume("a", 1999 * BLOCK);
  await rig.pool.createVolume("b", MIB);
  await rig.write("b", 0, noise(2, BLOCK));
  const { root, log, zstd } = newHost(rig.kill());
  const { findings } = await checkPool({ root, log, zstd, memoryBytes: 64 * MIB });
  deepEqual(
    findings.flatMap(({ data }) => (data.lba === undefined ? [] : [data])),
    [
      { volume: "a", lba: 8 },
      { volume: "a", lba: 1544 },
    ],
  );
  const lists = findings.filter(({ data }) => data.lba === undefined);
  equal(lists.length, 4, "pages of the change list: the first has two of them");
  for (const { message } of lists)
    ok(/\.run, page \d of branch 1: it has 1 blocks .*, the log /.test(message), message);
});
