// SPDX-License-Identifier: Apache-2.0
//
// Collections that are asked for: one at a time, each with its number, its report or its error.

import { deepEqual, equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { SmallPool } from "../../test/cli/small-pool.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { Collections } from "./collections.ts";

/** A pool whose collections last until they are let go, or failed. */
function rig(): {
  pool: SmallPool;
  collections: Collections;
  end: (error?: Error) => Promise<void>;
} {
  const pool = new SmallPool();
  let gate = Promise.withResolvers<void>();
  pool.beforeChange = () => gate.promise;
  const end = async (error?: Error): Promise<void> => {
    const { resolve, reject } = gate;
    gate = Promise.withResolvers<void>();
    if (error === undefined) resolve();
    else reject(error);
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  };
  return { pool, collections: new Collections(pool), end };
}

test("a run has a number, a progress while it runs and then a report", async () => {
  const { collections, end } = rig();
  deepEqual(collections.status(), { run: 0, isRunning: false });
  collections.start(false);
  deepEqual(collections.status(), {
    run: 1,
    isRunning: true,
    progress: { phase: "counting what is live", doneBytes: 1024, totalBytes: 4096 },
  });
  await end();
  const { run, isRunning, report } = collections.status();
  deepEqual([run, isRunning, report?.isDryRun], [1, false, false]);
  deepEqual([report?.startedAt, report?.durationMs], ["2001-09-09T01:46:40.000Z", 1500]);
});

test("who asks for the same takes part, who asks for the other is refused until it has ended", async () => {
  const { collections, end } = rig();
  collections.start(true);
  collections.start(true);
  equal(collections.status().run, 1);
  throws(
    () => collections.start(false),
    (error) => hasCode(error, "BUSY") && /a dry run is under way/.test(error.message),
  );
  await end();
  equal(collections.status().report?.isDryRun, true);
  collections.start(false);
  throws(
    () => collections.start(true),
    (error) => hasCode(error, "BUSY") && /"varve gc",/.test(error.hint),
  );
  equal(collections.status().report, undefined, "the former report isn't this one's");
  await end();
  deepEqual([collections.status().run, collections.status().report?.isDryRun], [2, false]);
});

test("a run that fails says why, and the next one starts anew", async () => {
  const { collections, end } = rig();
  collections.start(false);
  await end(new StorageError("DISK_FULL", "gc: not done: the disk is full"));
  const { isRunning, problem, report } = collections.status();
  deepEqual([isRunning, problem?.code, report], [false, "DISK_FULL", undefined]);
  collections.start(false);
  equal(collections.status().problem, undefined);
  await end();
  equal(collections.status().report?.segmentsFreed, 4);
});

test("what the pool collects by itself is shown until somebody asks for more", async () => {
  const { pool, collections, end } = rig();
  const collected = pool.collect({ isDryRun: false });
  const during = collections.status();
  deepEqual([during.isRunning, during.progress?.doneBytes], [false, 1024]);
  await end();
  await collected;
  deepEqual([collections.status().run, collections.status().report?.segmentsFreed], [0, 4]);
});
