// SPDX-License-Identifier: Apache-2.0
//
// Questions about other retentions: one at a time, each with its number, its answer or its error.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { KEEPS_ALL } from "../pool/catalog-policy.ts";

const MIB = 1 << 20;

/** Its pool keeps everything. */
function daemon(): SmallDaemon {
  const made = smallDaemon();
  made.pool.policy = { ...made.pool.policy, retention: KEEPS_ALL };
  return made;
}

async function ended(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
}

test("who asks the same takes part, who asks something else waits for the answer", async () => {
  const { operations, pool } = daemon();
  deepEqual(await operations.getRetentionPreview({}), { run: 0, isRunning: false });
  const gate = Promise.withResolvers<void>();
  pool.beforeChange = () => gate.promise;
  const retention = { hourlyMs: 3_600_000 };
  deepEqual(await operations.startRetentionPreview({ retention }), { run: 1, isRunning: true });
  pool.gcProgress = { phase: "counting what is needed", doneBytes: 0, totalBytes: 0 };
  const again = await operations.startRetentionPreview({ retention });
  deepEqual([again.run, again.progress?.phase], [1, "counting what is needed"]);
  await rejects(operations.startRetentionPreview({}), (error) => hasCode(error, "BUSY"));
  gate.resolve();
  await ended();
  const { run, isRunning, report, progress } = await operations.getRetentionPreview({});
  deepEqual([run, isRunning, progress], [1, false, undefined]);
  equal(report?.retention.hourlyMs, 3_600_000);
  equal(report?.retentionNow.hourlyMs, 0);
  equal(pool.wishes.length, 1);
});

test("a question that fails says why, and the next one starts anew", async () => {
  const { operations, pool } = daemon();
  pool.beforeChange = () => Promise.reject(new StorageError("BUSY", "pool: not counted"));
  await operations.startRetentionPreview({});
  await ended();
  const { problem, report } = await operations.getRetentionPreview({});
  deepEqual([problem?.code, report], ["BUSY", undefined]);
  pool.beforeChange = () => Promise.resolve();
  equal((await operations.startRetentionPreview({})).problem, undefined);
  await ended();
  equal((await operations.getRetentionPreview({})).run, 2);
});

test("a volume's question is about its own retention, or what it has of the pool's", async () => {
  const { operations, pool } = daemon();
  await operations.createVolume({ name: "db", sizeBytes: MIB });
  const asked = async (change: { hourlyMs: number } | null | undefined) => {
    const input = { volume: "db", ...(change === undefined ? {} : { retention: change }) };
    await operations.startRetentionPreview(input);
    await ended();
    return (await operations.getRetentionPreview({})).report;
  };
  const { retention: pools } = await operations.getPool({});
  deepEqual((await asked({ hourlyMs: 5000 }))?.retention, { ...pools, hourlyMs: 5000 });
  await operations.setVolume({ volume: "db", retention: { hourlyMs: 7000 } });
  const next = await asked(undefined);
  deepEqual([next?.retention.hourlyMs, next?.retentionNow.hourlyMs], [7000, 7000]);
  const inherited = await asked(null);
  deepEqual([inherited?.retention, inherited?.retentionNow.hourlyMs], [pools, 7000]);
  deepEqual(
    pool.wishes.map((wish) => wish?.hourlyMicros),
    [5_000_000, 7_000_000, undefined],
  );
  await rejects(operations.startRetentionPreview({ volume: "web" }), (error) =>
    hasCode(error, "VOLUME_NOT_FOUND"),
  );
  await rejects(operations.startRetentionPreview({ retention: null }), (error) =>
    hasCode(error, "USAGE"),
  );
});
