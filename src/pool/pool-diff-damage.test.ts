// SPDX-License-Identifier: Apache-2.0
//
// Differences on damaged disks: what can't be compared counts as different and is said, what can is told as ever, and no
// damage whatsoever hides a change.

import { deepEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, type PoolFiles, PoolRig } from "../../test/crash/memory-rig.ts";
import { StorageError } from "../base/errors.ts";
import { Prng } from "../sim/prng.ts";
import type { DiffSummary } from "./types.ts";

const BLOCKS = 1200;
const SETTINGS = { segmentBytes: 1 << 20 };

async function diffOf(
  { pool }: PoolRig,
  fromName: string,
  toName: string,
): Promise<{ readonly blocks: ReadonlySet<number>; readonly summary: DiffSummary }> {
  const from = await pool.resolve("db", { kind: "name", name: fromName });
  const to = await pool.resolve("db", { kind: "name", name: toName });
  const blocks = new Set<number>();
  const extent = (offsetBytes: number, lengthBytes: number): boolean => {
    for (let at = 0; at < lengthBytes; at += BLOCK) blocks.add((offsetBytes + at) / BLOCK);
    return true;
  };
  const range = { offsetBytes: 0, lengthBytes: BLOCKS * BLOCK };
  return { blocks, summary: await pool.diff(from, to, range, { extent }) };
}

/** A volume without deduplication, half of which is written anew as it was. */
async function writtenTwice(): Promise<PoolFiles> {
  const rig = await PoolRig.create(SETTINGS);
  await rig.pool.createVolume("db", BLOCKS * BLOCK);
  await rig.pool.setVolume("db", { isDeduplicated: false });
  for (let block = 0; block < 64; block += 8)
    await rig.write("db", block * BLOCK, noise(block, 8 * BLOCK));
  await rig.pool.snapshot([{ volume: "db", name: "first" }]);
  for (let block = 0; block < 32; block += 8)
    await rig.write("db", block * BLOCK, noise(block, 8 * BLOCK));
  await rig.pool.snapshot([{ volume: "db", name: "second" }]);
  return await rig.close();
}

test("a block that can't be read any more counts as different, alone, and is said", async () => {
  const files = await writtenTwice();
  const sound = await PoolRig.open(files, SETTINGS);
  deepEqual((await diffOf(sound, "first", "second")).blocks, new Set());
  await sound.close();
  const name = [...files.log.keys()].find((one) => one.endsWith(".seg")) as string;
  let untoldCount = 0;
  for (let round = 0; round < 12; round++) {
    const bytes = (files.log.get(name) as Uint8Array).slice();
    const place = 20_000 + round * 9001;
    bytes[place] = (bytes[place] as number) ^ 16;
    const damaged = { root: files.root, log: new Map(files.log).set(name, bytes) };
    const rig = await PoolRig.open(damaged, SETTINGS);
    const { blocks, summary } = await diffOf(rig, "first", "second");
    ok(blocks.size <= 1, `${blocks.size} blocks differ`);
    ok(summary.untoldBytes <= blocks.size * BLOCK);
    untoldCount += summary.untoldBytes / BLOCK;
    await rig.close();
  }
  ok(untoldCount >= 6, `${untoldCount} of 12`);
});

/** A volume with a past of its own, two moments of it, and the blocks in which they differ. */
async function withPast(seed: number): Promise<{
  readonly files: PoolFiles;
  readonly changed: ReadonlySet<number>;
}> {
  const random = new Prng(seed);
  const rig = await PoolRig.create({ ...SETTINGS, checkpointChanges: 512 });
  const { pool } = rig;
  await pool.createVolume("db", BLOCKS * BLOCK);
  const content = new Uint32Array(BLOCKS);
  const moments: Uint32Array[] = [];
  for (let step = 0; step < 120; step++) {
    const lba = random.below(BLOCKS - 10);
    const count = 1 + random.below(8);
    if (random.chance(0.15)) {
      await rig.trim("db", lba * BLOCK, count * BLOCK);
      content.fill(0, lba, lba + count);
    } else {
      await rig.write("db", lba * BLOCK, noise(step, count * BLOCK));
      for (let block = 0; block < count; block++) content[lba + block] = (step + 1) * 16 + block;
    }
    if (step % 20 === 10) await pool.checkpoint();
    if (step % 40 !== 39) continue;
    moments.push(content.slice());
    await pool.snapshot([{ volume: "db", name: `v${moments.length}` }]);
  }
  const [one, , other] = moments as [Uint32Array, Uint32Array, Uint32Array];
  const changed = new Set<number>();
  for (const [block, before] of one.entries()) if (before !== other[block]) changed.add(block);
  return { files: await rig.close(), changed };
}

test("no damage of logs, runs and lists hides a change", async () => {
  const pasts = [await withPast(1), await withPast(2), await withPast(3)] as const;
  let comparedCount = 0;
  for (let round = 0; round < 45; round++) {
    const random = new Prng(round + 1);
    const { files, changed } = random.pick(pasts);
    const log = new Map(files.log);
    for (let each = 0; each < 1 + random.below(20); each++) {
      const name = random.pick([...log.keys()].filter((one) => /\.(seg|run)$/.test(one)));
      const bytes = (log.get(name) as Uint8Array).slice();
      const at = random.below(bytes.length);
      const end = Math.min(bytes.length, at + (random.chance(0.5) ? 1 : 4096));
      for (let place = at; place < end; place++) bytes[place] = (bytes[place] as number) ^ 0x5a;
      log.set(name, bytes);
    }
    let rig: PoolRig;
    try {
      rig = await PoolRig.open({ root: files.root, log }, { ...SETTINGS, checkpointChanges: 512 });
    } catch (error) {
      if (error instanceof StorageError) continue; // it says so
      throw error;
    }
    for (const [from, to] of [
      ["v1", "v3"],
      ["v3", "v1"],
    ] as const) {
      try {
        const { blocks } = await diffOf(rig, from, to);
        comparedCount += 1;
        const missed = [...changed].filter((block) => !blocks.has(block));
        deepEqual(missed, [], `round ${round}`);
      } catch (error) {
        // The moment itself may be lost with what it needs; then it is refused, not half answered.
        if (!(error instanceof StorageError) || error.code !== "MOMENT_GONE") throw error;
      }
    }
    rig.kill();
  }
  ok(comparedCount > 20, `${comparedCount} differences`);
});
