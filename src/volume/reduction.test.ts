// SPDX-License-Identifier: Apache-2.0
//
// Reduction as a volume's writes see it: what is stored already, or holds nothing, takes no frame; what shrinks takes
// less; and two different blocks never share a frame, whatever the index says.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes, turns } from "../../test/crash/memory-rig.ts";
import type { DedupIndex } from "../reduce/dedup-index.ts";

const MIB = 1 << 20;

/** Bytes of frames, counting from `before`. */
function frameBytes(rig: PoolRig, before = 0): number {
  return rig.pool.stats().frameBytes - before;
}

/** Half noise, half the same byte. */
function halfNoise(seed: number, lengthBytes: number): Uint8Array {
  const bytes = noise(seed, lengthBytes);
  for (let at = 0; at < lengthBytes; at += BLOCK) bytes.fill(7, at + BLOCK / 2, at + BLOCK);
  return bytes;
}

test("a block that is stored already takes no frame, in any volume, in the same write, or in flight", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 8 * MIB);
  await rig.pool.createVolume("b", 8 * MIB);
  const image = noise(1, 64 * BLOCK);
  await rig.write("a", 0, image);
  const stored = frameBytes(rig);
  equal(stored, 64 * (BLOCK + 24));
  await rig.write("a", 4 * MIB, image);
  await rig.write("b", BLOCK, image);
  await rig.write("a", 0, image);
  await rig.write("b", 512, image.subarray(512, 3 * BLOCK)); // a part of a block, merged to a new one
  ok(frameBytes(rig, stored) <= 3 * (BLOCK + 24), "only the merged blocks are new");
  const before = frameBytes(rig);
  const twice = noise(2, BLOCK);
  const writes = [3, 4, 5].map((at) => rig.write("b", at * MIB, twice));
  await Promise.all(writes);
  equal(frameBytes(rig, before), BLOCK + 24, "three at once share one");
  const repeated = new Uint8Array(16 * BLOCK);
  for (let at = 0; at < 16; at++) repeated.set(noise(3 + (at % 2), BLOCK), at * BLOCK);
  const beforeRepeated = frameBytes(rig);
  await rig.write("b", 6 * MIB, repeated);
  equal(frameBytes(rig, beforeRepeated), 2 * (BLOCK + 24), "two contents in one write");
  for (const [volume, offset] of [
    ["a", 0],
    ["a", 4 * MIB],
  ] as const)
    sameBytes(await rig.read(volume, offset, image.length), image, `${volume} at ${offset}`);
  sameBytes(await rig.read("b", 6 * MIB, repeated.length), repeated);
  await rig.flush("a");
  const again = await PoolRig.open(rig.cutPower(), { segmentBytes: MIB });
  sameBytes(await again.read("a", 4 * MIB, image.length), image);
  sameBytes(await again.read("b", 6 * MIB, repeated.length), repeated);
  await again.close();
});

test("blocks are found again where they must be read from the disk to be compared", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 32 * MIB);
  const old = noise(1, 48 * BLOCK);
  await rig.write("a", 0, old);
  // Pushes it out of the batches in memory.
  for (let at = 0; at < 12; at++) await rig.write("a", (4 + at) * MIB, noise(100 + at, MIB));
  const before = frameBytes(rig);
  let readCount = 0;
  rig.host.log.onOperation = ({ kind }) => {
    if (kind !== "read") return undefined;
    readCount += 1;
    return Promise.resolve(undefined); // nothing is at hand at once
  };
  await rig.write("a", 24 * MIB, old);
  equal(frameBytes(rig, before), 0);
  ok(readCount > 0);
  sameBytes(await rig.read("a", 24 * MIB, old.length), old);
  await rig.close();
});

test("what was compared when a write came needn't be read again when its turn comes", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 64 * MIB);
  const old = noise(1, 24 * BLOCK);
  const older = noise(2, 24 * BLOCK);
  await rig.write("a", 0, old);
  await rig.write("a", MIB, older);
  // Pushes them out of the batches in memory.
  for (let at = 0; at < 12; at++) await rig.write("a", (4 + at) * MIB, noise(100 + at, MIB));
  await rig.read("a", 0, old.length); // opens their file
  // Pushes what was read out of the cache.
  for (let at = 0; at < 80; at++) await rig.read("a", 8 * MIB + at * BLOCK, BLOCK);
  const before = frameBytes(rig);
  let allowedReads = 0;
  let readCount = 0;
  rig.host.log.onOperation = ({ kind }) => {
    if (kind !== "read") return undefined;
    readCount += 1;
    return readCount <= allowedReads ? undefined : Promise.resolve(undefined);
  };
  // Nothing is at hand at once: so the next write looks for its equals when it comes.
  await rig.write("a", 32 * MIB, older, { isSlow: true });
  ok(readCount > 0);
  readCount = 0;
  allowedReads = 5; // a frame, then seven of each window
  await rig.write("a", 40 * MIB, old, { isSlow: true });
  equal(readCount, allowedReads);
  equal(frameBytes(rig, before), 0);
  await rig.close();
});

test("what shrinks is stored smaller, what doesn't is stored as it is, and zeros aren't stored", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 8 * MIB);
  const half = halfNoise(1, 32 * BLOCK);
  await rig.write("a", 0, half);
  const compressed = frameBytes(rig);
  ok(compressed < 0.6 * half.length, `${compressed} of ${half.length}`);
  await rig.write("a", MIB, noise(2, 32 * BLOCK));
  equal(frameBytes(rig, compressed), 32 * (BLOCK + 24));
  const before = frameBytes(rig);
  await rig.write("a", 2 * MIB, new Uint8Array(32 * BLOCK));
  equal(frameBytes(rig, before), 0);
  sameBytes(await rig.read("a", 0, half.length), half);
  await rig.flush("a");
  const again = await PoolRig.open(rig.cutPower(), { segmentBytes: MIB });
  for (const block of [0, 7, 31])
    sameBytes(
      await again.read("a", block * BLOCK, BLOCK),
      half.subarray(block * BLOCK, (block + 1) * BLOCK),
    );
  sameBytes(await again.read("a", 0, half.length), half);
  sameBytes(await again.read("a", 2 * MIB, 32 * BLOCK), new Uint8Array(32 * BLOCK));
  await again.close();
});

test("deduplication and compression are switched while the volume is in use", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 8 * MIB);
  const half = halfNoise(1, 8 * BLOCK);
  await rig.pool.setVolume("a", { isCompressed: false });
  await rig.write("a", 0, half);
  equal(frameBytes(rig), 8 * (BLOCK + 24));
  await rig.pool.setVolume("a", { isDeduplicated: false });
  await rig.write("a", MIB, half);
  equal(frameBytes(rig), 16 * (BLOCK + 24));
  await rig.pool.setVolume("a", { isDeduplicated: true, isCompressed: true });
  await rig.write("a", 2 * MIB, half);
  equal(frameBytes(rig), 16 * (BLOCK + 24));
  await rig.write("a", 3 * MIB, halfNoise(9, 8 * BLOCK));
  ok(frameBytes(rig) < 21 * (BLOCK + 24));
  await rig.close();
});

test("an index that takes every block for the one before never makes two different blocks one", async () => {
  const rig = await PoolRig.create({ segmentBytes: 4 * MIB });
  const { dedup } = rig.pool;
  const { words } = rig.pool.memory;
  let newest = [0, 0];
  const weak: Pick<DedupIndex, "find" | "insertRows" | "remove"> = {
    find: (_hashes, count, references) => {
      let found = 0;
      for (let at = 0; at < count; at++) {
        const word = (references >>> 2) + at * 2;
        if (words[word] !== 0 || words[word + 1] !== 0 || newest[0] === 0) continue;
        words.set(newest, word);
        found += 1;
      }
      return found;
    },
    insertRows: (rows, _count, segment) => {
      newest = [segment, ((1 << 30) | ((words[rows >>> 2] as number) << 6)) >>> 0];
    },
    remove: () => undefined,
  };
  Object.assign(dedup, weak);
  await rig.pool.createVolume("a", 8 * MIB);
  const model = new Uint8Array(4 * MIB);
  for (let round = 0; round < 200; round++) {
    const blockCount = 1 + (round % 7);
    const bytes =
      round % 3 === 0
        ? noise(round % 11, blockCount * BLOCK)
        : halfNoise(round, blockCount * BLOCK);
    const offset = ((round * 37) % 1000) * BLOCK;
    model.set(bytes, offset);
    equal(await rig.write("a", offset, bytes), 0);
  }
  for (let at = 0; at < model.length; at += MIB)
    sameBytes(await rig.read("a", at, MIB), model.subarray(at, at + MIB));
  ok(rig.pool.reducer.staleCount > 100, "it was asked, and was wrong");
  await turns(2);
  await rig.close();
});

test("what is written again at any moment of a collection that gives it up is there afterwards", async () => {
  const old = noise(1, 24 * BLOCK);
  for (const isPlaceKnown of [false, true]) {
    let operations = 0;
    let duplicateCount = 0;
    for (let at = 1, isOver = false; !isOver; at += 2) {
      const rig = await PoolRig.create();
      await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
      await rig.pool.createVolume("a", MIB);
      await rig.write("a", 0, old);
      await rig.pool.collect({ isDryRun: false }); // moves it: it isn't where it was born any more
      await rig.write("a", 0, noise(2, old.length));
      if (isPlaceKnown) {
        await rig.write("a", MIB / 4, old);
        await rig.trim("a", MIB / 4, old.length);
      }
      const before = rig.host.log.operationCount;
      const again: Promise<number>[] = [];
      rig.host.log.onOperation = ({ number }) => {
        if (number - before !== at) return undefined;
        operations = at;
        again.push(turns(0).then(() => rig.write("a", MIB / 2, old))); // nobody asks in the middle of a call
        return undefined;
      };
      await rig.pool.collect({ isDryRun: false });
      rig.host.log.onOperation = undefined;
      await Promise.all(again);
      duplicateCount += rig.pool.stats().dedup.hitCount;
      const reopened = await PoolRig.open(await rig.close());
      isOver = again.length === 0;
      if (!isOver) sameBytes(await reopened.read("a", MIB / 2, old.length), old, `operation ${at}`);
      await reopened.close();
    }
    ok(operations > 40, `${operations} operations`);
    ok(duplicateCount > 10 * 24, "before they are judged, they are found");
  }
});
