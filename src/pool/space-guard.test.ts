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
  storedBytes: number;
}

async function guarded(options: {
  poolSizeBytes?: number;
  capacityBytes?: number;
  storedBytes?: number;
}): Promise<Rig> {
  const host = newHost();
  host.log.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
  const events: string[] = [];
  const rig: Rig = {
    host,
    events,
    storedBytes: options.storedBytes ?? 0,
    guard: new SpaceGuard({
      directory: host.log,
      clock: host.clock,
      random: host.random,
      poolSizeBytes: options.poolSizeBytes ?? 0,
      segmentBytes: SEGMENT,
      storedBytes: () => rig.storedBytes,
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
  const rig = await guarded({ poolSizeBytes: 1024 * KIB, storedBytes: 900 * KIB });
  equal(rig.guard.capacityBytes, 1024 * KIB);
  ok(rig.guard.admits(60 * KIB));
  equal(rig.guard.isFull, false);
  equal(rig.guard.admits(61 * KIB), false);
  ok(rig.guard.isFull);
  deepEqual(rig.events, ["pool.watermark", "pool.full"]);
  rig.storedBytes = 950 * KIB;
  await poll(rig);
  ok(rig.guard.isFull, "no way back without twice the reserve");
  rig.storedBytes = 800 * KIB;
  await poll(rig);
  equal(rig.guard.isFull, false);
  const states = rig.events.filter((event) => event !== "pool.watermark");
  deepEqual(states, ["pool.full", "pool.has-space"]);
  await rig.guard.close();
  rig.host.stop();
});

test("each watermark is told once on the way up, and again after it was left", async () => {
  const rig = await guarded({ poolSizeBytes: 1000 * KIB });
  for (const share of [0.5, 0.85, 0.86, 0.95, 0.96, 0.7, 0.85]) {
    rig.storedBytes = share * 1000 * KIB;
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
    admitted <= freeBytes - SEGMENT && admitted >= freeBytes - 3 * SEGMENT,
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
