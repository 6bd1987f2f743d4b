// SPDX-License-Identifier: Apache-2.0
//
// A full pool whose history is what fills it: history beyond the floor goes, loudly, before new data is refused; what is
// named, and the floor, stay; and a pool that is told so refuses data instead.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";
import { parseMoment } from "../base/moment.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;
const ENOSPC = 28;
const PIECE = 64 * BLOCK;

/** Overwrites the same megabyte every half an hour, for two days. */
async function fill(rig: PoolRig): Promise<{ refused: number; lsns: number[] }> {
  const lsns: number[] = [];
  let refused = 0;
  for (let round = 0; round < 96; round++) {
    for (let at = 0; at < MIB; at += PIECE) {
      const errno = await rig.write("a", at, noise(round * 100 + at / PIECE + 1, PIECE));
      if (errno === ENOSPC) refused += 1;
    }
    lsns.push(rig.pool.log.nextLsn - 1);
    if (round === 2) await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
    await rig.pool.checkpoint();
    rig.host.clock.wallOffsetMicros += HOUR / 2;
  }
  return { refused, lsns };
}

async function pool(): Promise<{ rig: PoolRig; shortened: Record<string, unknown>[] }> {
  const rig = await PoolRig.create({ segmentBytes: MIB / 2 });
  await rig.pool.setPolicy({
    retention: { everyWriteMicros: 48 * HOUR, hourlyMicros: 96 * HOUR },
    poolSizeBytes: 24 * MIB,
  });
  await rig.pool.createVolume("a", 4 * MIB);
  const shortened: Record<string, unknown>[] = [];
  rig.pool.onEvent(({ event, fields }) => {
    if (event === "history.shortened") shortened.push({ ...fields });
  });
  return { rig, shortened };
}

async function isThere(rig: PoolRig, moment: string): Promise<boolean> {
  return await rig.pool.resolve("a", parseMoment(moment)).then(
    () => true,
    () => false,
  );
}

test("history beyond the floor goes before new data is refused, and is told", async () => {
  const { rig, shortened } = await pool();
  const { refused, lsns } = await fill(rig);
  equal(refused, 0, "no write was refused");
  ok(shortened.length > 0);
  for (const { fromMicros, toMicros } of shortened)
    ok((fromMicros as number) > (toMicros as number) && (toMicros as number) >= HOUR);
  ok(!(await isThere(rig, `lsn:${lsns[10]}`)), "what was let go is refused");
  ok(await isThere(rig, `lsn:${lsns[94]}`), "the last hour is there");
  const view = await rig.pool.openView(await rig.pool.resolve("a", parseMoment("v1")));
  sameBytes(await rig.readDevice(view.device, 0, PIECE), noise(201, PIECE), "the named moment");
  view.close();
  await rig.close();
});

test("a pool that is told to stop writes keeps its history and refuses data", async () => {
  const { rig, shortened } = await pool();
  await rig.pool.setPolicy({ whenFull: "stop-writes" });
  const { refused, lsns } = await fill(rig);
  ok(refused > 0);
  equal(shortened.length, 0);
  ok(await isThere(rig, `lsn:${lsns[4]}`));
  await rig.close();
});
