// SPDX-License-Identifier: Apache-2.0
//
// What `varve scrub` shows, and when it says by its exit code that something is damaged.

import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../../../test/cli/small-command.ts";
import { smallDaemon } from "../../../test/cli/small-daemon.ts";
import { EXIT_CODE, hasCode } from "../../base/errors.ts";
import * as scrub from "./scrub.ts";

const QUIET = "--progress=none";
const PROBLEM = { code: "FRAME_CORRUPT", message: 'volume "db": block 7: damaged', data: {} };

test("a sound pool is reported as such, with what was read", async () => {
  const { operations } = smallDaemon();
  const { lines, exitCode } = await runCommand(scrub, operations, [QUIET]);
  equal(exitCode, 0);
  deepEqual(lines, [
    "scrub:    complete",
    "problems: none",
    "verified: 640 MiB in 10 segments, 1000 frames",
    "begun:    2001-09-09 01:46:40, for 2 s",
  ]);
});

test("damage is listed and ends with 13, also when it is asked for later", async () => {
  const { operations, pool } = smallDaemon();
  pool.scrubProblems = [PROBLEM];
  for (const words of [[QUIET], ["--status"], ["--status", "--json"]]) {
    const { lines, exitCode, json } = await runCommand(scrub, operations, words);
    equal(exitCode, EXIT_CODE.corrupt, String(words));
    if (json === undefined) match(lines[0] ?? "", /block 7: damaged \[FRAME_CORRUPT\]/);
    else deepEqual((json as { report: { problemCount: number } }).report.problemCount, 1);
  }
});

test("--status doesn't start or wait for anything, --stop ends it", async () => {
  const { operations, pool } = smallDaemon();
  const none = await runCommand(scrub, operations, ["--status"]);
  deepEqual(none.lines, ["no scrub has run since the daemon started"]);
  const gate = Promise.withResolvers<void>();
  pool.beforeChange = () => gate.promise;
  await operations.startScrub({});
  const status = await runCommand(scrub, operations, ["--status"]);
  deepEqual(status.lines, ["running:  verifying, 1.0 KiB of 4.0 KiB", "problems: 0"]);
  const stopped = await runCommand(scrub, operations, ["--stop", QUIET]);
  equal(stopped.lines[0], "scrub:    stopped before its end");
  gate.resolve();
  await rejects(runCommand(scrub, operations, ["--stop", "--status"]), (error) =>
    hasCode(error, "USAGE"),
  );
});

test("what is left to be listed is counted", async () => {
  const { operations, pool } = smallDaemon();
  pool.scrubProblems = [PROBLEM];
  await operations.startScrub({});
  await Promise.resolve();
  const { report } = pool.scrub;
  pool.scrub = { progress: undefined, report: report && { ...report, problemCount: 1200 } };
  const { lines } = await runCommand(scrub, operations, ["--status"]);
  equal(lines[1], "and 1199 more");
});
