// SPDX-License-Identifier: Apache-2.0
//
// Whatever a pool has lived through, and whatever retention is asked about: what the answer says would go, goes when that
// retention is set, and nothing else does.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { hasCode } from "../base/errors.ts";
import { wholeRetention } from "./catalog-policy.ts";
import type { Retention, RetentionPreview } from "./types.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("write" as const), block: fc.nat(24) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("wait" as const), hours: fc.nat(12) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("name" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("clone" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("collect" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;
const span = fc.oneof(
  fc.constantFrom(0, null),
  fc.integer({ min: 1, max: 96 }).map((hours) => hours * HOUR),
);
const retention: fc.Arbitrary<Retention> = fc
  .record({ everyWriteMicros: span, hourlyMicros: span, dailyMicros: span })
  .map(wholeRetention);

async function live(rig: PoolRig, steps: readonly Step[]): Promise<void> {
  for (const [at, done] of steps.entries()) {
    if (done.kind === "write") await rig.write("db", done.block * 8 * BLOCK, noise(at, 8 * BLOCK));
    else if (done.kind === "wait") {
      rig.host.clock.wallOffsetMicros += done.hours * HOUR;
      await rig.pool.checkpoint();
    } else if (done.kind === "name") await rig.pool.snapshot([{ volume: "db", name: `v${at}` }]);
    else if (done.kind === "clone") await rig.pool.clone("db", { kind: "now" }, `copy${at}`);
    else await rig.pool.collect({ isDryRun: false });
  }
}

/** Which of the moments can be reached. */
async function reached(rig: PoolRig, lsns: readonly number[]): Promise<number[]> {
  const found: number[] = [];
  for (const lsn of lsns) {
    try {
      await rig.pool.resolve("db", { kind: "lsn", lsn });
      found.push(lsn);
    } catch (error) {
      ok(hasCode(error, "MOMENT_GONE"), String(error));
    }
  }
  return found;
}

function everyLsn(preview: RetentionPreview, endLsn: number): number[] {
  const from = preview.volumes.find(({ volume }) => volume === "db")?.everyWriteFromThen?.lsn;
  // A window that isn't there yet begins when it is.
  if (from === undefined || from === endLsn - 1) return [];
  return Array.from({ length: endLsn - from }, (_, at) => from + at);
}

test("what a preview says would go, goes, and as many bytes become garbage", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 4, maxLength: 30 }),
      retention,
      retention,
      async (steps, first, wish) => {
        const rig = await PoolRig.create({ segmentBytes: MIB / 4 });
        await rig.pool.setPolicy({ retention: first });
        await rig.pool.createVolume("db", MIB);
        await live(rig, steps);
        // What a checkpoint lets go of while the preview is made isn't the preview's doing.
        await rig.pool.checkpoint();
        const { headLsn } = rig.pool.stats();
        const preview = await rig.pool.previewRetention(undefined, wish);
        const gone = preview.goneMoments.map(({ lsn }) => lsn);
        deepEqual(await reached(rig, gone), gone, "still there");
        await rig.pool.setPolicy({ retention: wish });
        await rig.pool.checkpoint();
        deepEqual(await reached(rig, gone), [], "gone then");
        const left = everyLsn(preview, headLsn);
        deepEqual(await reached(rig, left), left, "every write of the window that was told");
        const after = await rig.pool.previewRetention(undefined, wish);
        const [db] = preview.volumes;
        equal(after.volumes[0]?.keptCount, db?.keptCountThen);
        const expected = preview.historyBytes - preview.freedBytes;
        const difference = Math.abs(after.historyBytes - expected);
        ok(
          difference < 0.1 * preview.historyBytes + 8 * BLOCK,
          `${preview.historyBytes} less ${preview.freedBytes} became ${after.historyBytes}`,
        );
        await rig.close();
      },
    ),
    { numRuns: 40 },
  );
});
