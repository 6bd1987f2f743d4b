// SPDX-License-Identifier: Apache-2.0
//
// The census tells what each volume maps, shares and saves; removed volumes count no more.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;

test("the census tells noise from text, shared from unique, and zeros from holes", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  for (const name of ["noise", "text", "copy"]) await rig.pool.createVolume(name, 4 * MIB);
  const text = new Uint8Array(64 * BLOCK);
  for (let at = 0; at < text.length; at++) text[at] = 97 + ((at >> 6) % 7) + (at >> 12);
  for (let at = 0; at < 4; at++) await rig.write("noise", at * 64 * BLOCK, noise(at, 64 * BLOCK));
  await rig.write("text", 0, text);
  await rig.write("copy", 0, noise(1, 64 * BLOCK));
  await rig.zero("copy", MIB, MIB, { isHoleForbidden: true });
  await rig.pool.refreshCensus();
  const { volumes, census, dedup, compression, zero } = rig.pool.stats();
  const [copy, noisy, texty] = volumes;
  ok(copy !== undefined && noisy !== undefined && texty !== undefined && census !== undefined);
  equal(noisy.mappedBytes, 256 * BLOCK);
  equal(noisy.compressionSavedBytes, 0);
  equal(noisy.uniqueBytes, 192 * (BLOCK + 24), "64 blocks are the copy's too");
  equal(texty.mappedBytes, 64 * BLOCK);
  ok(texty.compressionSavedBytes > 40 * BLOCK, `${texty.compressionSavedBytes} saved`);
  equal(copy.mappedBytes, 64 * BLOCK);
  equal(copy.uniqueBytes, 0);
  equal(copy.zeroBytes, MIB);
  equal(dedup.savedBytes, 64 * BLOCK);
  equal(compression.savedBytes, texty.compressionSavedBytes);
  equal(zero.savedBytes, MIB);
  ok(census.liveBytes < rig.pool.stats().storedBytes);
  rig.host.clock.wallOffsetMicros += 60_000_000;
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.refreshCensus();
  const after = rig.pool.stats();
  ok(after.census !== undefined && after.census.liveBytes < census.liveBytes);
  const [, noiseAfter, textAfter] = after.volumes;
  equal(noiseAfter?.uniqueBytes, 192 * (BLOCK + 24), "noise was moved as it is");
  ok((textAfter?.compressionSavedBytes ?? 0) > texty.compressionSavedBytes);
  await rig.close();
});
