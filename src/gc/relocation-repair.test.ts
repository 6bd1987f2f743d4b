// SPDX-License-Identifier: Apache-2.0
//
// Lists of moved frames that are damaged in the runs: everything is read as before, collections and checkpoints go on, and
// what the next checkpoint writes is whole. Where a segment that says it can't be read either, nothing is guessed.

import { equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";
import { StorageError } from "../base/errors.ts";
import { NOTHING_STORED } from "../index/relocation-node.ts";
import { ENTRY_WORDS } from "../index/relocation-table.ts";
import { NODE_HEADER_BYTES, NODE_KIND, RUN_HEADER_BYTES } from "../index/run-file.ts";
import { SEGMENT_HEADER_BYTES } from "../log/segment.ts";
import { poolIdBytes, readIdentity } from "../pool/identity.ts";
import { rebuildRelocations } from "./relocation-repair.ts";

const MIB = 1 << 20;
type Files = Awaited<ReturnType<PoolRig["close"]>>["log"];

/** Text, half of it overwritten: every other block moves. */
async function collected(): Promise<{ rig: PoolRig; content: Uint8Array }> {
  const rig = await PoolRig.create({ segmentBytes: 256 << 10 });
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 4 * MIB);
  const content = noise(1, 2 * MIB);
  for (let at = 0; at < content.length; at += 16 * BLOCK)
    await rig.write("a", at, content.subarray(at, at + 16 * BLOCK));
  for (let at = 0; at < content.length; at += 2 * BLOCK) {
    content.set(noise(7 + at, BLOCK), at);
    await rig.write("a", at, content.subarray(at, at + BLOCK));
  }
  const { segmentsFreed } = await rig.pool.collect({ isDryRun: false });
  ok(segmentsFreed > 2);
  await rig.pool.checkpoint();
  return { rig, content };
}

/** Flips a bit in every list of moved frames; returns how many there were. */
function damage(files: Files): number {
  let count = 0;
  for (const [name, bytes] of files) {
    if (!name.endsWith(".run")) continue;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = RUN_HEADER_BYTES; at + NODE_HEADER_BYTES < bytes.length; ) {
      const kind = view.getUint8(at + 16);
      if (kind === 0 || kind > NODE_KIND.RELOCATION_DIRECTORY) break;
      if (kind === NODE_KIND.RELOCATIONS) {
        const byte = at + NODE_HEADER_BYTES + 5;
        view.setUint8(byte, view.getUint8(byte) ^ 4);
        count += 1;
      }
      at += NODE_HEADER_BYTES + view.getUint32(at + 28, true);
    }
  }
  return count;
}

test("damaged lists of moved frames are rebuilt when they are read, and written anew", async () => {
  const { rig, content } = await collected();
  const files = await rig.close();
  ok(damage(files.log) > 0);
  const again = await PoolRig.open(files, { segmentBytes: 256 << 10 });
  const events: string[] = [];
  again.pool.onEvent(({ event }) => events.push(event));
  sameBytes(await again.read("a", 0, MIB), content.subarray(0, MIB));
  sameBytes(await again.read("a", MIB, MIB), content.subarray(MIB));
  ok(events.includes("index.relocations-damaged") && events.includes("index.relocations-rebuilt"));
  // The first may have begun with the first list.
  for (let round = 0; round < 2; round++) await again.pool.checkpoint();
  const whole = await PoolRig.open(await again.close());
  whole.pool.onEvent(({ event, level }) => ok(level !== "error", event));
  sameBytes(await whole.read("a", 0, MIB), content.subarray(0, MIB));
  equal(whole.pool.stats().damagedPageCount, 0);
  await whole.close();
});

test("collections and checkpoints go on over damaged lists, and lose nothing", async () => {
  const { rig, content } = await collected();
  const files = await rig.close();
  damage(files.log);
  const again = await PoolRig.open(files, { segmentBytes: 256 << 10 });
  for (let at = BLOCK; at < MIB; at += 4 * BLOCK) {
    content.set(noise(9 + at, BLOCK), at);
    await again.write("a", at, content.subarray(at, at + BLOCK));
  }
  for (let round = 0; round < 2; round++) {
    ok((await again.pool.collect({ isDryRun: false })).segmentsFreed > 0 || round > 0);
    await again.pool.checkpoint();
  }
  const whole = await PoolRig.open(await again.close());
  for (const at of [0, MIB])
    sameBytes(await whole.read("a", at, MIB), content.subarray(at, at + MIB));
  await whole.close();
});

/** Footers of all but the newest segments, and with `isDeep` the first batch of each, too. */
function damageSegments(files: Files, isDeep: boolean): void {
  const segments = [...files].filter(([name]) => name.endsWith(".seg")).sort();
  for (const [, bytes] of segments.slice(0, -2)) {
    const flip = (at: number): void => {
      bytes[at] = (bytes[at] as number) ^ 1;
    };
    flip(bytes.length - 30);
    if (isDeep) flip(SEGMENT_HEADER_BYTES + 12);
  }
}

test("without footers it is enough that all are found; where they aren't, nothing is guessed, and nothing goes", async () => {
  for (const isDeep of [false, true]) {
    const { rig, content } = await collected();
    const files = await rig.close();
    ok(damage(files.log) > 0);
    damageSegments(files.log, isDeep);
    const again = await PoolRig.open(files, { segmentBytes: 256 << 10 });
    const events: string[] = [];
    again.pool.onEvent(({ event }) => events.push(event));
    const before = again.pool.stats().segmentCount;
    const read = await again.read("a", 0, MIB);
    if (isDeep) equal(read, 5);
    else sameBytes(read, content.subarray(0, MIB));
    equal(events.includes("index.relocations-rebuilt"), !isDeep);
    if (isDeep) {
      await rejects(again.pool.collect({ isDryRun: false }), { code: "POOL_CORRUPT" });
      ok(again.pool.stats().segmentCount >= before);
    }
    again.host.stop();
  }
});

test("a list that may be too short is none", async () => {
  const { rig } = await collected();
  const files = {
    memory: rig.pool.memory,
    directory: rig.host.log,
    poolId: poolIdBytes(await readIdentity(rig.host.root)),
  };
  const cause = new StorageError("POOL_CORRUPT", "it was damaged");
  const rebuild = (entryCount: number): Promise<Uint32Array> =>
    rebuildRelocations(files, 1, { ...NOTHING_STORED, places: undefined, entryCount }, cause);
  const found = (await rebuild(1)).length / ENTRY_WORDS;
  ok(found > 10);
  // The segment that is being written has no footer.
  equal((await rebuild(found)).length, found * ENTRY_WORDS);
  await rejects(rebuild(found + 1), cause);
  await rig.close();
});
