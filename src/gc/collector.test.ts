// SPDX-License-Identifier: Apache-2.0
//
// Garbage collection of whole pools: space comes back, what is needed stays, wherever it is moved, and a crash at any
// operation of the disk leaves a pool that has everything.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes, turns } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;
const NONE = { retention: { everyWriteMicros: 0 } };

/** Text that shrinks, different for each seed. */
function text(seed: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let at = 0; at < lengthBytes; at += 16)
    bytes.set(
      new TextEncoder().encode(`line ${(seed * 7919 + at * 31) % 99991}`.padEnd(16, ".")),
      at,
    );
  return bytes;
}

async function expectContent(rig: PoolRig, model: Uint8Array): Promise<void> {
  for (let at = 0; at < model.length; at += MIB)
    sameBytes(await rig.read("a", at, MIB), model.subarray(at, at + MIB), `at ${at}`);
}

test("what was overwritten and trimmed gives its space back when history isn't kept", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy(NONE);
  await rig.pool.createVolume("a", 4 * MIB);
  const model = new Uint8Array(4 * MIB);
  for (let round = 0; round < 6; round++) {
    for (let at = 0; at < 2 * MIB; at += 64 * BLOCK) {
      const bytes = noise(round * 100 + at, 64 * BLOCK);
      model.set(bytes, at);
      await rig.write("a", at, bytes);
    }
  }
  await rig.trim("a", MIB, MIB);
  model.fill(0, MIB, 2 * MIB);
  const before = rig.pool.stats().storedBytes;
  const dry = await rig.pool.collect({ isDryRun: true });
  equal(rig.pool.stats().storedBytes, before);
  ok(dry.garbageBytes > 8 * MIB, `${dry.garbageBytes} of garbage`);
  const report = await rig.pool.collect({ isDryRun: false });
  const after = rig.pool.stats().storedBytes;
  ok(report.segmentsFreed > 30, `${report.segmentsFreed} segments`);
  ok(after < 4 * MIB, `${before} bytes became ${after}`);
  await expectContent(rig, model);
  rig.pool.checkInvariants();
  const files = await rig.close();
  const onDisk = [...files.log.values()].reduce((sum, bytes) => sum + bytes.length, 0);
  ok(onDisk < 4 * MIB, `${onDisk} on the disk`);
  const again = await PoolRig.open(files);
  await expectContent(again, model);
  equal(
    again.pool.stats().segmentCount,
    [...files.log.keys()].filter((name) => name.endsWith(".seg")).length + 1,
  );
  await again.close();
});

test("cold data is compressed together, read, moved once more, and found as a duplicate", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const model = new Uint8Array(4 * MIB);
  for (let at = 0; at < 2 * MIB; at += 16 * BLOCK) {
    const bytes = text(at, 16 * BLOCK);
    model.set(bytes, at);
    await rig.write("a", at, bytes);
  }
  const before = rig.pool.stats().storedBytes;
  await rig.pool.collect({ isDryRun: false });
  const after = rig.pool.stats().storedBytes;
  ok(after < 0.7 * before, `${before} bytes became ${after}, with all of history`);
  await expectContent(rig, model);
  const frames = rig.pool.stats().frameBytes;
  for (let at = 0; at < MIB; at += 16 * BLOCK)
    await rig.write("a", 3 * MIB + at, model.subarray(at, at + 16 * BLOCK));
  model.copyWithin(3 * MIB, 0, MIB);
  const grown = rig.pool.stats().frameBytes - frames;
  ok(grown < MIB / 20, `what was moved is still known: ${grown} bytes are new`);
  await rig.pool.setPolicy(NONE);
  await rig.write("a", 0, noise(1, MIB));
  model.set(noise(1, MIB));
  await rig.trim("a", 3 * MIB, MIB / 2);
  model.fill(0, 3 * MIB, 3.5 * MIB);
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.collect({ isDryRun: false });
  await expectContent(rig, model);
  const again = await PoolRig.open(await rig.close());
  await expectContent(again, model);
  await again.close();
});

test("a dry run after a volume was removed says what that gives back", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 3_600_000_000 } });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.pool.createVolume("b", 4 * MIB);
  for (let at = 0; at < 4; at++) await rig.write(at < 2 ? "a" : "b", at * MIB, noise(at, MIB));
  await rig.pool.removeVolume("b");
  const kept = await rig.pool.collect({ isDryRun: true });
  equal(kept.bytesFreed, 0, "not while it is promised");
  await rig.pool.setPolicy(NONE);
  const dry = await rig.pool.collect({ isDryRun: true });
  ok(dry.bytesFreed > MIB, `${dry.bytesFreed} bytes`);
  await rig.close();
});

test("what doesn't shrink isn't written again for that, and a dry run says what else would", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 16 * MIB);
  for (let at = 0; at < 3; at++) await rig.write("a", at * MIB, noise(at, MIB));
  await rig.pool.collect({ isDryRun: false }); // seals what was being written
  const hard = await rig.pool.collect({ isDryRun: false });
  ok(hard.bytesMoved < 64 * BLOCK, `${hard.bytesMoved} bytes of 3 MiB`);
  for (let at = 4; at < 10; at++) await rig.write("a", at * MIB, text(at * MIB, MIB));
  const dry = await rig.pool.collect({ isDryRun: true });
  const { coldGainBytes = 0, segmentsFreed } = dry;
  equal(dry.garbageBytes, 0);
  equal(dry.bytesFreed, coldGainBytes);
  const report = await rig.pool.collect({ isDryRun: false });
  const gained = report.bytesFreed - report.bytesMoved;
  ok(gained > MIB / 2, `${gained} bytes`);
  ok(coldGainBytes > gained * 0.5 && coldGainBytes < gained * 1.5, `${coldGainBytes} of ${gained}`);
  ok(segmentsFreed > 0, `${segmentsFreed} segments`);
  equal(report.bytesAfter, rig.pool.stats().storedBytes);
  for (const { bytesAfter, holders } of [dry, report]) {
    const held = holders.reduce((sum, { bytes }) => sum + bytes, 0);
    const rest = bytesAfter + (bytesAfter === dry.bytesAfter ? coldGainBytes : 0);
    ok(Math.abs(held - rest) < 4, `${held} of ${rest} bytes are held by something`);
  }
  const again = await rig.pool.collect({ isDryRun: false });
  ok(again.bytesMoved < 64 * BLOCK, `${again.bytesMoved} bytes`);
  await rig.close();
});

test("a full pool whose data is overwritten takes writes for ever when history isn't kept", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: 4 * MIB });
  await rig.pool.setPolicy(NONE);
  await rig.pool.createVolume("a", 16 * MIB);
  const model = new Uint8Array(2 * MIB);
  let written = 0;
  for (let round = 0; round < 3000; round++) {
    const block = (round * 7919) % 512;
    const bytes = noise(round, BLOCK);
    model.set(bytes, block * BLOCK);
    equal(await rig.write("a", block * BLOCK, bytes), 0, `write ${round}`);
    written += BLOCK;
  }
  ok(rig.pool.stats().storedBytes <= 4.3 * MIB, `${rig.pool.stats().storedBytes} bytes`);
  ok(written > 10 * MIB);
  await expectContent(rig, model);
  const again = await PoolRig.open(await rig.close(), { poolSizeBytes: 4 * MIB });
  await expectContent(again, model);
  await again.close();
});

test("a full pool with nothing to free isn't collected for each write that it refuses", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: 4 * MIB });
  await rig.pool.setPolicy(NONE);
  await rig.pool.createVolume("a", 16 * MIB);
  let seed = 0;
  let end = 0;
  while ((await rig.write("a", end, noise(seed, 16 * BLOCK))) === 0) {
    end += 16 * BLOCK;
    seed += 1;
  }
  const { collectionCount } = rig.pool.stats().gc;
  for (let at = 0; at < 20; at++)
    equal(await rig.write("a", end, noise(1000 + at, BLOCK * 16)), 28);
  equal(rig.pool.stats().gc.collectionCount, collectionCount);
  await rig.trim("a", 0, end / 2);
  equal(await rig.write("a", end, noise(2000, 16 * BLOCK)), 0, "after a trim");
  for (; (await rig.write("a", end, noise(seed, 16 * BLOCK))) === 0; seed += 1) end += 16 * BLOCK;
  await rig.pool.createVolume("b", MIB);
  await rig.pool.removeVolume("a");
  equal(await rig.write("b", 0, noise(3000, 16 * BLOCK)), 0, "after a removal");
  await rig.close();
});

test("on a full disk a collection takes no room that it can't give back, and everything else goes on", async () => {
  const rig = await PoolRig.create({ segmentBytes: 4 * MIB });
  await rig.pool.setPolicy(NONE);
  await rig.pool.createVolume("a", 128 * MIB);
  rig.host.log.capacityBytes = 64 * MIB;
  let end = 0;
  while ((await rig.write("a", end, noise(end, 32 * BLOCK))) === 0) end += 32 * BLOCK;
  // Some garbage in each segment: too little to do without room for all that is live beside it.
  for (let at = 0; at < end; at += 16 * BLOCK) equal(await rig.trim("a", at, BLOCK), 0);
  for (let round = 0; round < 4; round++) {
    const report = await rig.pool.collect({ isDryRun: false });
    ok(report.bytesMoved < 4 * MIB, `${report.bytesMoved} bytes moved in round ${round}`);
    equal(await rig.trim("a", (1 + round) * BLOCK, BLOCK), 0);
    equal(await rig.flush("a"), 0);
  }
  sameBytes(
    await rig.read("a", 8 * BLOCK, BLOCK),
    noise(0, 32 * BLOCK).subarray(8 * BLOCK, 9 * BLOCK),
  );
  // With more garbage there is room for what is left.
  for (let at = 0; at < end / 2; at += 16 * BLOCK) equal(await rig.trim("a", at, 13 * BLOCK), 0);
  const before = rig.pool.stats().storedBytes;
  await rig.pool.collect({ isDryRun: false });
  const after = rig.pool.stats().storedBytes;
  ok(after < before - 16 * MIB, `${before} bytes became ${after}`);
  await turns(50); // until the file system is looked at again
  equal(await rig.write("a", end, noise(7, 32 * BLOCK)), 0);
  const again = await PoolRig.open(await rig.close(), { segmentBytes: 4 * MIB });
  sameBytes(await again.read("a", end, 32 * BLOCK), noise(7, 32 * BLOCK));
  await again.close();
});

test("a collection that crashes at any operation of the disk loses nothing", async () => {
  const begin = await PoolRig.create();
  await begin.pool.setPolicy(NONE);
  await begin.pool.createVolume("a", MIB);
  const model = new Uint8Array(MIB / 4);
  for (let round = 0; round < 3; round++)
    for (let at = 0; at < MIB / 4; at += 16 * BLOCK) {
      if (round > 0 && (at / BLOCK) % 3 === 0) continue;
      const bytes =
        at % (32 * BLOCK) === 0 ? text(round + at, 16 * BLOCK) : noise(round + at, 16 * BLOCK);
      model.set(bytes, at);
      await begin.write("a", at, bytes);
    }
  const files = await begin.close();
  let operations = 0;
  for (let at = 1; ; at++) {
    const rig = await PoolRig.open(files);
    const first = rig.host.log.operationCount;
    let isCut = false;
    rig.host.log.onOperation = ({ number }) => {
      if (number - first < at) return undefined;
      isCut = true;
      return "EIO";
    };
    const overwritten = noise(7, 4 * BLOCK);
    await rig.write("a", 0, overwritten);
    await rig.pool.collect({ isDryRun: false }).catch(() => undefined);
    rig.host.log.onOperation = undefined;
    for (const left of [rig.cutPower(), rig.kill()]) {
      const again = await PoolRig.open(left);
      const found = await again.read("a", 0, MIB / 4);
      ok(typeof found !== "number", `operation ${at}: it reads`);
      sameBytes(found.subarray(4 * BLOCK), model.subarray(4 * BLOCK), `operation ${at}`);
      const report = await again.pool.collect({ isDryRun: false });
      ok(report.bytesFreed >= 0);
      const then = await again.read("a", 0, MIB / 4);
      ok(typeof then !== "number");
      sameBytes(then.subarray(4 * BLOCK), model.subarray(4 * BLOCK), `operation ${at}, collected`);
      await again.close();
    }
    operations = at;
    if (!isCut) break;
  }
  ok(operations > 60, `${operations} operations`);
});
