// SPDX-License-Identifier: Apache-2.0
//
// With an index that is far too small: runs of duplicates are found through the lists of their segments, wherever these
// are by now; lists that don't pay are read seldom; and whatever is wrong with one costs duplicates and nothing else.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes, turn } from "../../test/crash/memory-rig.ts";
import { segmentName } from "../log/segment.ts";
import { DedupIndex } from "../reduce/dedup-index.ts";
import { Prng } from "../sim/prng.ts";

const MIB = 1 << 20;
const SETTINGS = { segmentBytes: MIB };
/** 5,360 frames; lists of two segments. */
const SMALL_BYTES = 48 << 10;
const HISTORY_BYTES: number = 36 * MIB;

/** The pool's index is `lengthBytes` large from now on. */
function shrinkIndex({ pool }: PoolRig, lengthBytes: number): DedupIndex {
  const { memory, dedup } = pool;
  const small = new DedupIndex({ memory, address: memory.dedupAddress, lengthBytes });
  dedup.clear();
  for (const name of Object.getOwnPropertyNames(DedupIndex.prototype) as (keyof DedupIndex)[]) {
    const get = (): unknown => {
      const value = small[name];
      return typeof value === "function" ? value.bind(small) : value;
    };
    if (String(name) !== "constructor")
      Object.defineProperty(dedup, name, { get, configurable: true });
  }
  Object.defineProperty(dedup, "prefetchedHitCount", { get: () => small.prefetchedHitCount });
  return small;
}

/** A pool with 36 MiB of noise, of which its index knows every fourth block of what is old. */
async function thinned(): Promise<PoolRig> {
  const rig = await PoolRig.create(SETTINGS);
  shrinkIndex(rig, SMALL_BYTES);
  await rig.pool.createVolume("a", 96 * MIB);
  for (let at = 0; at < HISTORY_BYTES; at += MIB) await rig.write("a", at, noise(at / MIB, MIB));
  ok(rig.pool.dedup.isThinned);
  return rig;
}

function frameCount({ pool }: PoolRig): number {
  return pool.stats().volumes.reduce((sum, volume) => sum + volume.frameCount, 0);
}

/** Writes `content` to `offset` in requests of so many blocks; how many of the blocks were stored anew. */
async function rewrite(
  rig: PoolRig,
  offset: number,
  content: Uint8Array,
  requestBlocks: number,
): Promise<number> {
  const before = frameCount(rig);
  const step = requestBlocks * BLOCK;
  for (let at = 0; at < content.length; at += step)
    equal(await rig.write("a", offset + at, content.subarray(at, at + step)), 0);
  sameBytes(await rig.read("a", offset, content.length), content);
  return frameCount(rig) - before;
}

test("a run of duplicates is found through the lists of its segments, in requests of any size", async () => {
  const rig = await thinned();
  for (const [round, requestBlocks] of [1, 4, 16, 64, 256].entries()) {
    const reads = rig.pool.lists.readCount;
    const stored = await rewrite(rig, (64 + round) * MIB, noise(round, MIB), requestBlocks);
    ok(stored < 16, `${stored} of 256 blocks in requests of ${requestBlocks}`);
    const lists = rig.pool.lists.readCount - reads;
    ok(lists >= 1 && lists <= 4, `${lists} lists`);
  }
  const { prefetchedHitCount, hitCount } = rig.pool.stats().dedup;
  ok(prefetchedHitCount > 500 && prefetchedHitCount <= hitCount);
  await rig.close();
});

test("without lists most of it would be stored again", async () => {
  const rig = await thinned();
  rig.pool.lists.wanted = () => 0;
  const stored = await rewrite(rig, 64 * MIB, noise(0, MIB), 16);
  ok(stored > 150, `${stored} of 256 blocks`);
  equal(rig.pool.lists.readCount, 0);
  await rig.close();
});

test("requests that wait in line find what the first of them had read", async () => {
  const rig = await thinned();
  const content = noise(2, MIB);
  const before = frameCount(rig);
  // Nothing is at hand at once.
  rig.host.log.onOperation = ({ kind }) =>
    kind === "read" ? Promise.resolve(undefined) : undefined;
  const writes: Promise<number>[] = [];
  for (let at = 0; at < MIB; at += 4 * BLOCK)
    writes.push(rig.write("a", 64 * MIB + at, content.subarray(at, at + 4 * BLOCK)));
  ok((await Promise.all(writes)).every((errno) => errno === 0));
  const stored = frameCount(rig) - before;
  ok(stored < 64, `${stored} of 256 blocks`);
  sameBytes(await rig.read("a", 64 * MIB, MIB), content);
  await rig.close();
});

test("what was moved is found through the list of the segment where it is now", async () => {
  const rig = await thinned();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  // A segment without garbage stays where it is.
  const keptBytes = 224 * BLOCK;
  for (let at = 0; at < 4; at++) await rig.trim("a", at * MIB + keptBytes, MIB - keptBytes);
  await rig.pool.collect({ isDryRun: false });
  const files = rig.host.log.files();
  ok(!files.has(segmentName(1)), "the first segment is gone");
  let stored = 0;
  for (let round = 0; round < 3; round++)
    stored += await rewrite(rig, (64 + round) * MIB, noise(round, MIB).subarray(0, keptBytes), 16);
  ok(stored < 3 * 80, `${stored} of 672 blocks`);
  ok(rig.pool.lists.readCount > 0);
  await rig.close();
});

test("lists that find nothing are read now and then, and as before when they find something again", async () => {
  const rig = await thinned();
  rig.host.clock.isFrozen = true;
  // One block of an old segment, which the index may know, and fifteen new ones.
  const prng = new Prng(1);
  const history = Array.from({ length: 20 }, (_, at) => noise(at, MIB));
  const scattered = async (count: number, seed: number): Promise<number> => {
    const reads = rig.pool.lists.readCount;
    for (let at = 0; at < count; at++) {
      const bytes = noise(seed + at, 16 * BLOCK);
      const block = prng.below(256) * BLOCK;
      bytes.set((history[prng.below(20)] as Uint8Array).subarray(block, block + BLOCK));
      await rig.write("a", 64 * MIB + at * 16 * BLOCK, bytes);
    }
    return rig.pool.lists.readCount - reads;
  };
  const first = await scattered(120, 1000);
  ok(first >= 5 && first <= 20, `${first} lists`);
  equal(await scattered(60, 2000), 0, "no credit is left");
  rig.host.clock.nowMicros += 3_000_000;
  ok((await scattered(60, 3000)) <= 4, "three seconds are worth three lists");
  rig.host.clock.nowMicros += 2_000_000;
  rig.host.clock.isFrozen = false;
  let stored = 0;
  for (let round = 0; round < 8; round++)
    stored += await rewrite(rig, (80 + round) * MIB, noise(round, MIB), 64);
  ok(stored < 8 * 64, `${stored} of 2048 blocks`);
  await rig.close();
});

test("a list that can't be read costs duplicates, once", async () => {
  for (const failure of ["EIO", "gone", "not a part of the log"]) {
    const rig = await thinned();
    const { lists, dedupRestore } = rig.pool;
    const { read } = lists;
    lists.read = async (segment) => {
      if (failure === "gone") await rig.host.log.remove(segmentName(segment));
      // Single frames can be read; the footer is behind them.
      if (failure === "EIO")
        rig.host.log.onOperation = ({ kind, position }) =>
          kind === "read" && position > MIB / 2 ? "EIO" : undefined;
      await read.call(lists, segment);
      rig.host.log.onOperation = undefined;
    };
    if (failure === "not a part of the log") dedupRestore.endOf = () => 0;
    const stored = await rewrite(rig, 64 * MIB, noise(0, MIB), 16);
    ok(stored > 100, `${failure}: ${stored} of 256 blocks`);
    ok(lists.readCount >= 1 && lists.readCount <= 2, `${failure}: ${lists.readCount} lists`);
    rig.host.stop();
  }
});

test("a mere candidate has no list read", async () => {
  const rig = await thinned();
  const { dedup, memory } = rig.pool;
  const { words } = memory;
  // Every block is taken for one that was written long ago.
  const find = (_hashes: number, count: number, references: number): number => {
    for (let word = references / 4; word < references / 4 + count * 2; word += 2)
      if (words[word] === 0 && words[word + 1] === 0) words.set([1, (1 << 30) | (540 << 6)], word);
    return count;
  };
  Object.defineProperty(dedup, "find", { get: () => find });
  equal(await rewrite(rig, 64 * MIB, noise(77, MIB), 16), 256);
  equal(rig.pool.lists.readCount, 0);
  await turn();
  await rig.close();
});
