// SPDX-License-Identifier: Apache-2.0
//
// What `varve gc` shows of a collection, and which end of it is whose.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../../../test/cli/small-command.ts";
import { smallDaemon } from "../../../test/cli/small-daemon.ts";
import type { ErrorJson, GcReportJson, GcStatusJson } from "../../api/types.ts";
import { hasCode, StorageError } from "../../base/errors.ts";
import * as gc from "./gc.ts";

const QUIET = "--progress=none";

test("a collection is reported with what it freed and what holds the rest", async () => {
  const { operations } = smallDaemon();
  const { lines, exitCode } = await runCommand(gc, operations, [QUIET]);
  equal(exitCode, 0);
  deepEqual(lines, [
    "freed:     224 MiB; 4 segments deleted, 32.0 MiB moved out of 3 segments",
    "stored:    640 MiB before, 420 MiB after",
    "garbage:   300 MiB",
    "looked at: 10 segments in 1 s",
    "",
    "HELD BY                              BYTES",
    "live volumes                       200 MiB",
    "history: what only the past needs  140 MiB",
  ]);
});

test("a dry run says what would be freed, and is one", async () => {
  const { operations, pool } = smallDaemon();
  const { lines } = await runCommand(gc, operations, [QUIET, "--dry-run"]);
  equal(
    lines[0],
    "would free: 256 MiB out of 4 segments, about 64.0 MiB of it by compressing cold data better",
  );
  equal(pool.lastGc, undefined);
  const { json } = await runCommand(gc, operations, [QUIET, "--json"]);
  deepEqual((json as { isDryRun: boolean }).isDryRun, false);
});

test("the command waits as long as it takes, and fails with the collection's own error", async () => {
  const { operations, pool } = smallDaemon();
  let askedCount = 0;
  const failed = new StorageError("DISK_IO", "gc: read failed: EIO", { hint: "see dmesg" });
  const gate = Promise.withResolvers<void>();
  pool.beforeChange = () => gate.promise;
  const watched = {
    ...operations,
    getGc: async () => {
      askedCount += 1;
      if (askedCount === 3) gate.reject(failed);
      return operations.getGc({});
    },
  };
  await rejects(
    runCommand(gc, watched, [QUIET]),
    (error) => hasCode(error, "DISK_IO") && error.hint === "see dmesg",
  );
  equal(askedCount >= 3, true);
});

test("a report that belongs to another run isn't taken for this one's", async () => {
  const { operations } = smallDaemon();
  const running: GcStatusJson = { run: 5, isRunning: true };
  const { json } = await runCommand(gc, operations, [QUIET, "--json"]);
  const problem = new StorageError("DISK_IO", "gc: read failed: EIO").toJSON();
  for (const [run, rest, why] of [
    [0, {}, /the daemon was restarted meanwhile/],
    [6, { report: json as GcReportJson }, /another has begun meanwhile/],
    [6, { problem: problem as unknown as ErrorJson }, /another has begun meanwhile/],
  ] as const) {
    const others = {
      ...operations,
      startGc: async () => running,
      getGc: async () => ({ run, isRunning: true, ...rest }),
    };
    await rejects(
      runCommand(gc, others, [QUIET]),
      (error) => hasCode(error, "INTERRUPTED") && why.test(error.message),
    );
  }
});
