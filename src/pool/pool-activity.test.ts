// SPDX-License-Identifier: Apache-2.0
//
// What a pool says of its past is the same before and after a crash: live, and in the replay of the records.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { newestRun, nodesOf } from "../../test/crash/run-files.ts";
import { NODE_KIND } from "../index/run-file.ts";
import { Prng } from "../sim/prng.ts";
import { type ActivityBucket, MINUTE_MICROS } from "../volume/activity-bucket.ts";
import type { PoolEvent } from "./types.ts";

const SIZE = 8 << 20;

function linesOf({ pool }: PoolRig, branch: number): ActivityBucket[] {
  const ever = { fromMicros: 0, toMicros: Number.MAX_SAFE_INTEGER };
  const lines = pool.activity.timeline.range([{ branch, ...ever }], MINUTE_MICROS);
  // What was replaced is known as far as pages are in memory.
  for (const line of lines)
    Object.assign(line, { rewrittenCount: 0, freshCount: 0, hardenedCount: 0 });
  return lines;
}

for (const settings of [{}, { segmentBytes: 1 << 20 }, { checkpointChanges: 200 }])
  test(`activity after a crash is what it was ${JSON.stringify(settings)}`, async () => {
    const random = new Prng(5);
    const rig = await PoolRig.create(settings);
    for (const name of ["db", "web"]) await rig.pool.createVolume(name, SIZE);
    const asked: Promise<number>[] = [];
    for (let step = 0; step < 600; step++) {
      const volume = random.below(3) === 0 ? "web" : "db";
      const blocks = 1 + random.below(random.below(10) === 0 ? 40 : 3);
      const lba = random.below(SIZE / BLOCK - blocks);
      const content = new Uint8Array(blocks * BLOCK);
      for (let block = 0; block < blocks; block++) {
        const sort = random.below(4);
        const part = content.subarray(block * BLOCK, (block + 1) * BLOCK);
        if (sort === 1) part.fill(1 + random.below(5));
        if (sort === 2) for (let at = 0; at < BLOCK; at++) part[at] = random.below(256);
        if (sort === 3) for (let at = 0; at < 1000; at++) part[at] = random.below(256);
      }
      const what = random.below(20);
      if (what === 0) asked.push(rig.trim(volume, lba * BLOCK, blocks * BLOCK));
      else if (what === 1)
        asked.push(rig.zero(volume, lba * BLOCK, blocks * BLOCK, { isHoleForbidden: true }));
      else if (what < 4) asked.push(rig.flush(volume));
      else
        asked.push(
          rig.write(volume, lba * BLOCK + (what === 5 ? 512 : 0), content, { isSlow: what === 6 }),
        );
      if (random.below(5) === 0) await Promise.all(asked.splice(0));
    }
    await Promise.all(asked);
    await rig.flush("db");
    rig.pool.activity.timeline.checkInvariants();
    const branches = ["db", "web"].map((name) => rig.pool.device(name).branch);
    const before = branches.map((branch) => linesOf(rig, branch));
    ok(
      before
        .flat()
        .some(
          (line) => line.frameCount > 100 && line.rawFrameCount > 10 && line.duplicateCount > 10,
        ),
    );
    ok(
      before
        .flat()
        .some((line) => line.flushCount > 0 && line.trimCount > 0 && line.zeroedCount > 0),
    );
    const again = await PoolRig.open(rig.kill());
    deepEqual(
      branches.map((branch) => linesOf(again, branch)),
      before,
    );
    equal(before.length, 2);
    await again.close();
    const after = await PoolRig.open(again.kill());
    deepEqual(
      branches.map((branch) => linesOf(after, branch)),
      before,
    );
    await after.close();
  });

test("activity that is damaged in the checkpoint costs nothing else, and is told", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("db", SIZE);
  await rig.write("db", 0, new Uint8Array(BLOCK).fill(7));
  const { branch } = rig.pool.device("db");
  const files = await rig.close();
  const name = newestRun(files);
  const [at] = nodesOf(files, name, NODE_KIND.ACTIVITY) as [number];
  const run = files.log.get(name) as Uint8Array;
  run[at + 40] = (run[at + 40] as number) ^ 1;
  const again = await PoolRig.open(files);
  ok(again.host.eventNames().includes("history.activity-lost"));
  deepEqual(linesOf(again, branch), []);
  deepEqual(await again.read("db", 0, BLOCK), new Uint8Array(BLOCK).fill(7));
  await again.close();
});

/** Writes [from, from + count) blocks; without `isHard` each shrinks to half. */
async function fill(
  rig: PoolRig,
  place: { from: number; count: number; seed: number; isHard: boolean },
) {
  const { from, count, seed, isHard } = place;
  const piece = 64;
  for (let lba = from; lba < from + count; lba += piece) {
    const content = noise(seed + lba, piece * BLOCK);
    if (!isHard)
      for (let block = 0; block < piece; block++)
        content.fill(0, block * BLOCK + BLOCK / 2, (block + 1) * BLOCK);
    // Who encrypts a file has read it; then its page of the index is in memory.
    if (isHard) await rig.read("db", lba * BLOCK, piece * BLOCK);
    await rig.write("db", lba * BLOCK, content);
  }
}

test("encryption is told once, with the moment before it, and known after a crash and a restart", async () => {
  const rig = await PoolRig.create({ segmentBytes: 8 << 20 });
  const { pool } = rig;
  const events: PoolEvent[] = [];
  pool.onEvent((event) => events.push(event));
  await pool.createVolume("db", 128 << 20);
  await fill(rig, { from: 0, count: 20_480, seed: 1, isHard: false });
  const before = pool.log.nextLsn - 1;
  equal(pool.stats().volumes[0]?.isSuspicious, false);
  await fill(rig, { from: 0, count: 12_288, seed: 100_000, isHard: true });
  const told = events.filter(({ event }) => event === "history.suspicious");
  equal(told.length, 1);
  const [{ fields }] = told as [PoolEvent];
  const { volume, before: name } = fields as { volume: string; before: string };
  equal(volume, "db");
  const lsn = Number(name.replace("db@#", ""));
  ok(lsn <= before && lsn > before - 64, `${lsn} of ${before}`);
  equal(pool.stats().volumes[0]?.isSuspicious, true);
  const ever = {
    from: { kind: "time", micros: 0 },
    to: { kind: "now" },
    stepMicros: undefined,
  } as const;
  const { suspicions } = await pool.history("db", ever);
  equal(suspicions[0]?.lastLsnBefore, lsn);
  equal(pool.stats().checkpointCount, 1, "without being asked for");
  const again = await PoolRig.open(rig.kill());
  deepEqual((await again.pool.history("db", ever)).suspicions, suspicions);
  const after = await PoolRig.open(await again.close());
  deepEqual((await after.pool.history("db", ever)).suspicions, suspicions);
  equal(after.pool.stats().volumes[0]?.isSuspicious, true);
  for (const { host } of [again, after]) ok(!host.eventNames().includes("history.suspicious"));
  await after.close();
});
