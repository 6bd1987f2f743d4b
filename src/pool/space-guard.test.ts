// SPDX-License-Identifier: Apache-2.0
//
// The states of space: what is admitted, told and kept in reserve, and the ways back.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { newHost, turn } from "../../test/crash/memory-rig.ts";
import type { MemoryHost } from "../sim/memory-host.ts";
import { SpaceGuard } from "./space-guard.ts";

const KIB = 1024;
const SEGMENT = 64 * KIB;
const RESERVE_NAME = "reserve";

interface Rig {
  readonly host: MemoryHost;
  readonly guard: SpaceGuard;
  readonly events: string[];
  contentBytes: number;
}

async function guarded(
  options: {
    poolSizeBytes?: number;
    capacityBytes?: number;
    contentBytes?: number;
    segmentBytes?: number;
    mayFree?: boolean;
  },
  host: MemoryHost = newHost(),
): Promise<Rig> {
  host.log.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
  const events: string[] = [];
  const rig: Rig = {
    host,
    events,
    contentBytes: options.contentBytes ?? 0,
    guard: new SpaceGuard({
      directory: host.log,
      clock: host.clock,
      random: host.random,
      poolSizeBytes: options.poolSizeBytes ?? 0,
      segmentBytes: options.segmentBytes ?? SEGMENT,
      contentBytes: () => rig.contentBytes,
      mayFree: () => options.mayFree === true,
      onEvent: (_level, event) => events.push(event),
    }),
  };
  await rig.guard.start();
  return rig;
}

/** The next look at the file system. */
async function poll({ host }: Rig): Promise<void> {
  const before = host.log.operationCount;
  while (host.log.operationCount === before) await turn();
  await turn();
}

test("a limit refuses what doesn't fit in front of the reserve, and takes what is smaller", async () => {
  const rig = await guarded({ poolSizeBytes: 1024 * KIB, contentBytes: 900 * KIB });
  equal(rig.guard.capacityBytes, 1024 * KIB);
  ok(rig.guard.admits(60 * KIB));
  equal(rig.guard.isFull, false);
  equal(rig.guard.admits(61 * KIB), false);
  ok(rig.guard.isFull);
  deepEqual(rig.events, ["pool.watermark", "pool.full"]);
  rig.contentBytes = 930 * KIB;
  await poll(rig);
  ok(rig.guard.isFull, "no way back without the headroom");
  rig.contentBytes = 800 * KIB;
  await poll(rig);
  equal(rig.guard.isFull, false);
  const states = rig.events.filter((event) => event !== "pool.watermark");
  deepEqual(states, ["pool.full", "pool.has-space"]);
  await rig.guard.close();
  rig.host.stop();
});

test("where garbage may be freed, full is only what collecting it didn't help", async () => {
  const rig = await guarded({ poolSizeBytes: 1024 * KIB, contentBytes: 940 * KIB, mayFree: true });
  equal(rig.guard.admits(61 * KIB), false);
  await poll(rig);
  equal(rig.guard.isFull, false);
  rig.guard.nothingFreed();
  ok(rig.guard.isFull);
  await poll(rig);
  ok(rig.guard.isFull, "no way back without the headroom");
  rig.contentBytes = 800 * KIB;
  await poll(rig);
  deepEqual(rig.events, ["pool.watermark", "pool.full", "pool.has-space"]);
  await rig.guard.close();
  rig.host.stop();
});

test("a limit that is changed holds for the next write, and the state follows at once", async () => {
  const rig = await guarded({ poolSizeBytes: 1024 * KIB, contentBytes: 950 * KIB });
  ok(!rig.guard.admits(100 * KIB));
  ok(rig.guard.isFull);
  rig.guard.poolSizeBytes = 2048 * KIB;
  ok(rig.guard.admits(100 * KIB));
  const { nowMicros } = rig.host.clock;
  while (rig.guard.isFull) await turn();
  ok(rig.host.clock.nowMicros - nowMicros < 1000, "not when the next look was due");
  rig.guard.poolSizeBytes = 1024 * KIB;
  await poll(rig);
  ok(rig.guard.isFull, "without a write that was refused");
  rig.guard.poolSizeBytes = 0;
  await poll(rig);
  deepEqual([rig.guard.isFull, rig.guard.capacityBytes > 2048 * KIB], [false, true]);
  await rig.guard.close();
  rig.host.stop();
});

test("each watermark is told once on the way up, and again after it was left", async () => {
  const rig = await guarded({ poolSizeBytes: 1000 * KIB });
  for (const share of [0.5, 0.85, 0.86, 0.95, 0.96, 0.7, 0.85]) {
    rig.contentBytes = share * 1000 * KIB - SEGMENT; // and the reserve
    await poll(rig);
  }
  deepEqual(rig.events, ["pool.watermark", "pool.watermark", "pool.watermark"]);
  await rig.guard.close();
  rig.host.stop();
});

test("the reserve is a real file, given up when a write meets no space, made again when there is room", async () => {
  const rig = await guarded({ capacityBytes: 2048 * KIB });
  equal(rig.host.log.files().get(RESERVE_NAME)?.length, SEGMENT);
  deepEqual(rig.host.log.durableFiles().get(RESERVE_NAME)?.length ?? SEGMENT, SEGMENT);
  rig.host.log.capacityBytes = SEGMENT + 10;
  rig.guard.spaceMissing();
  ok(rig.guard.isFull);
  await poll(rig);
  equal(rig.host.log.files().has(RESERVE_NAME), false);
  equal(rig.guard.admits(1), false);
  await poll(rig);
  ok(rig.guard.isFull);
  rig.host.log.capacityBytes = 2048 * KIB;
  while (rig.guard.isFull) await poll(rig);
  equal(rig.host.log.files().get(RESERVE_NAME)?.length, SEGMENT);
  ok(rig.guard.admits(1));
  deepEqual(rig.events, ["pool.full", "pool.has-space"]);
  await rig.guard.close();
  rig.host.stop();
});

test("between two looks at the file system no more is admitted than the last one showed", async () => {
  const rig = await guarded({ capacityBytes: 1024 * KIB });
  await poll(rig);
  const freeBytes = rig.host.log.room();
  let admitted = 0;
  while (rig.guard.admits(10 * KIB)) admitted += 10 * KIB;
  ok(
    admitted <= freeBytes - SEGMENT / 2 && admitted >= freeBytes - SEGMENT,
    `${admitted} of ${freeBytes}`,
  );
  await rig.guard.close();
  rig.host.stop();
});

test("a file system that can't be asked changes nothing, and closing ends the looking", async () => {
  const rig = await guarded({ capacityBytes: 2048 * KIB });
  rig.host.log.onOperation = () => "EIO";
  await poll(rig);
  ok(rig.guard.admits(1));
  equal(rig.guard.isFull, false);
  await rig.guard.close();
  const count = rig.host.log.operationCount;
  for (let at = 0; at < 20; at++) await turn();
  equal(rig.host.log.operationCount, count);
  rig.host.stop();
});

test("what is stored is content and reserve, as much of it as there is", async () => {
  const rig = await guarded({ capacityBytes: 1024 * KIB, contentBytes: 300 * KIB });
  equal(rig.guard.storedBytes, 300 * KIB + SEGMENT);
  await poll(rig);
  equal(rig.guard.capacityBytes, 300 * KIB + 1024 * KIB - SEGMENT / 2, "without the headroom");
  rig.guard.spaceMissing();
  equal(rig.guard.storedBytes, 300 * KIB);
  await rig.guard.close();
  rig.host.stop();
});

test("a reserve that an earlier opening left, whole or in part, is given up on a disk too full to make one", async () => {
  for (const sizeBytes of [1000, SEGMENT]) {
    const host = newHost();
    const left = await host.log.open(RESERVE_NAME, "create");
    await left.write(new Uint8Array(sizeBytes), 0);
    await left.close();
    const rig = await guarded({ capacityBytes: sizeBytes + 10 }, host);
    equal(rig.guard.storedBytes, sizeBytes);
    rig.guard.spaceMissing();
    await turn();
    equal(host.log.files().has(RESERVE_NAME), false);
    equal(rig.guard.storedBytes, 0);
    await rig.guard.close();
    host.stop();
  }
});

test("a reserve that found no space halfway is counted, and made whole when there is room", async () => {
  const rig = await guarded({ capacityBytes: 100 * KIB });
  equal(rig.host.log.files().has(RESERVE_NAME), false);
  rig.host.log.capacityBytes = 2048 * KIB;
  rig.host.log.onOperation = ({ kind }) => (kind === "datasync" ? "ENOSPC" : undefined);
  while (rig.guard.storedBytes === 0) await turn();
  equal(rig.guard.storedBytes, SEGMENT);
  rig.host.clock.isFrozen = true;
  rig.guard.spaceMissing();
  await turn();
  equal(rig.host.log.files().has(RESERVE_NAME), false);
  rig.host.log.onOperation = undefined;
  rig.host.clock.isFrozen = false;
  while (rig.guard.isFull) await poll(rig);
  equal(rig.host.log.files().get(RESERVE_NAME)?.length, SEGMENT);
  await rig.guard.close();
  rig.host.stop();
});

test("nine tenths of a small pool and of a small disk are for data", async () => {
  const MIB = 1024 * KIB;
  for (const sizes of [{ poolSizeBytes: 256 * MIB }, { capacityBytes: 256 * MIB }]) {
    const rig = await guarded({ ...sizes, segmentBytes: 64 * MIB });
    let admitted = 0;
    while (rig.guard.admits(MIB)) {
      rig.contentBytes += MIB;
      admitted += MIB;
    }
    ok(admitted >= 0.9 * 256 * MIB && admitted < 256 * MIB, `${admitted / MIB} MiB`);
    await rig.guard.close();
    rig.host.stop();
  }
});

test("a pool that is full says so from its opening on, before anything was refused", async () => {
  const byLimit = await guarded({ poolSizeBytes: 1024 * KIB, contentBytes: 950 * KIB });
  const byDisk = await guarded({ capacityBytes: SEGMENT + SEGMENT / 2, contentBytes: 300 * KIB });
  for (const rig of [byLimit, byDisk]) {
    ok(rig.guard.isFull);
    ok(rig.events.includes("pool.full"));
    await rig.guard.close();
    rig.host.stop();
  }
});

test("the reserve grows with the disk, and is not made smaller while the pool is open", async () => {
  const MIB = 1024 * KIB;
  const rig = await guarded({ capacityBytes: 64 * MIB, segmentBytes: 64 * MIB });
  equal(rig.host.log.files().get(RESERVE_NAME)?.length, 4 * MIB);
  rig.host.log.capacityBytes = 130 * MIB;
  while (rig.host.log.files().get(RESERVE_NAME)?.length !== 8 * MIB) await poll(rig);
  rig.host.log.capacityBytes = 64 * MIB;
  await poll(rig);
  equal(rig.guard.storedBytes, 8 * MIB);
  await rig.guard.close();
  rig.host.stop();
});

test("space is starved only while writes fail without a reserve to give up", async () => {
  const rig = await guarded({ capacityBytes: 1024 * KIB });
  rig.host.log.capacityBytes = SEGMENT;
  rig.guard.spaceMissing();
  equal(rig.guard.isStarved, false);
  rig.guard.spaceMissing();
  equal(rig.guard.isStarved, true);
  for (let at = 0; at < 3; at++) await poll(rig);
  equal(rig.guard.isStarved, false);
  await rig.guard.close();
  rig.host.stop();
});
