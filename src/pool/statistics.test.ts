// SPDX-License-Identifier: Apache-2.0
//
// The pool counts what became of the blocks that were written, as a whole and per volume.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;

test("zeros, duplicates, what shrinks and what doesn't are counted apart", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 8 * MIB);
  await rig.pool.createVolume("b", 8 * MIB);
  const text = new TextEncoder().encode("the same words again and again. ".repeat(BLOCK / 32));
  await rig.write("a", 0, new Uint8Array(3 * BLOCK));
  await rig.write("a", 3 * BLOCK, noise(1, BLOCK));
  await rig.write("a", 4 * BLOCK, text);
  await rig.write("b", 0, noise(1, BLOCK));
  await rig.pool.setVolume("b", { isDeduplicated: false, isCompressed: false });
  await rig.write("b", BLOCK, noise(2, BLOCK));
  const { dedup, compression, zero, volumes } = rig.pool.stats();
  equal(zero.blockCount, 3);
  deepEqual([dedup.hitCount, dedup.missCount, dedup.staleCount], [1, 2, 0]);
  deepEqual([dedup.indexEntries, dedup.indexEvictionCount, dedup.isIndexSampled], [2, 0, false]);
  deepEqual([compression.compressedFrameCount, compression.incompressibleFrameCount], [1, 1]);
  const counted = volumes.map((one) => [
    one.zeroBlockCount,
    one.duplicateBlockCount,
    one.frameCount,
    one.compressedFrameCount,
  ]);
  deepEqual(counted, [
    [3, 0, 2, 1],
    [0, 1, 1, 0],
  ]);
  await rig.close();
});
