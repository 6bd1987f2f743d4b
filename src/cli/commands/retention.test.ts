// SPDX-License-Identifier: Apache-2.0
//
// What `varve retention --dry-run` prints, and what it asks the daemon.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../../../test/cli/small-command.ts";
import { type SmallDaemon, smallDaemon } from "../../../test/cli/small-daemon.ts";
import type { RetentionPreviewStatusJson } from "../../api/retention-preview.ts";
import type { ErrorJson } from "../../api/types.ts";
import { hasCode, StorageError } from "../../base/errors.ts";
import { KEEPS_ALL } from "../../pool/catalog-policy.ts";
import * as retention from "./retention.ts";

const WORDS = ["--dry-run", "--progress=none"];
const HOUR_MICROS = 3_600_000_000;

/** Its pool keeps everything. */
function daemon(): SmallDaemon {
  const made = smallDaemon();
  made.pool.policy = { ...made.pool.policy, retention: KEEPS_ALL };
  return made;
}

test("what would go is printed with what stays and what that frees, and nothing is set", async () => {
  const { operations, pool } = daemon();
  const before = pool.policy;
  const { lines } = await runCommand(retention, operations, [...WORDS, "--every-write=1h"]);
  deepEqual(lines, [
    "now:           all: every write is kept",
    "then:          every write of the last 1 h is kept",
    "history holds: 140 MiB that only the past needs",
    "would free:    40.0 MiB",
    "stays anyway:  1 snapshot, 2 clones",
    "",
    "VOLUME  EVERY WRITE SINCE    THEN                 MOMENTS  THEN",
    "db      2001-09-08 01:46:40  2001-09-09 00:46:40        3     1",
    "",
    "2 moments would go:",
    "  2001-09-08 14:40:00",
    "  2001-09-08 20:13:20",
  ]);
  deepEqual(pool.wishes, [{ ...before.retention, everyWriteMicros: HOUR_MICROS }]);
  equal(pool.policy, before);
});

test("without a wish it says what goes next, and a longer one brings nothing back", async () => {
  const { operations, pool } = daemon();
  pool.preview = {
    ...pool.preview,
    ...{ isEstimated: true, isBeyondPast: true, snapshotCount: 0, cloneCount: 0 },
    volumes: [
      { ...pool.preview.volumes[0]!, isRemoved: true, everyWriteFrom: undefined },
      { ...pool.preview.volumes[0]!, isRemoved: true, isForgotten: true },
    ],
    goneMoments: Array.from({ length: 30 }, (_, at) => ({ lsn: at, timeMicros: 1e15 })),
    goneMomentCount: 3000,
  };
  const { lines } = await runCommand(retention, operations, WORDS);
  deepEqual(pool.wishes, [pool.policy.retention]);
  deepEqual(lines.slice(0, 7), [
    "now:           all: every write is kept",
    "history holds: about 140 MiB that only the past needs",
    "goes next:     about 40.0 MiB",
    "",
    "VOLUME                   EVERY WRITE SINCE    THEN                 MOMENTS  THEN",
    "db (removed)             -                    2001-09-09 00:46:40        3     1",
    "db (removed, then gone)  2001-09-08 01:46:40  2001-09-09 00:46:40        3     1",
  ]);
  equal(lines[8], "3000 moments would go:");
  equal(lines[9], "  2990 older; --json lists them");
  equal(lines.length, 8 + 2 + 10 + 2);
  equal(lines.at(-1), "What was let go before doesn't come back: history only grows from here on.");
});

test("what history holds is shown beside what holds, as it was counted last, and not with a new one", async () => {
  const { operations, pool } = daemon();
  const { lines, json } = await runCommand(retention, operations);
  deepEqual(lines, [
    "all: every write is kept",
    "history holds 1.0 KiB that only the past needs, counted 2001-09-09 01:46:40",
  ]);
  equal(json, undefined);
  const shown = (await runCommand(retention, operations, ["--json"])).json;
  equal((shown as { historyBytes?: number }).historyBytes, 1024);
  const set = await runCommand(retention, operations, ["--every-write=1h"]);
  deepEqual(set.lines, ["every write of the last 1 h is kept"]);
  pool.historySpace = undefined;
  equal((await runCommand(retention, operations)).lines.length, 1);
});

test("programs get all of it", async () => {
  const { operations } = daemon();
  const words = [...WORDS, "--hourly=7d", "--json"];
  const { json } = await runCommand(retention, operations, words);
  const { retention: wished, retentionNow, ...rest } = json as Record<string, object>;
  deepEqual(wished, { ...retentionNow, hourlyMs: 7 * 86_400_000 });
  deepEqual(Object.keys(rest).sort(), [
    "at",
    "cloneCount",
    "freedBytes",
    "goneMomentCount",
    "goneMoments",
    "historyBytes",
    "isBeyondPast",
    "isEstimated",
    "snapshotCount",
    "viewCount",
    "volumes",
  ]);
});

test("it waits as long as the daemon counts, and fails as that does", async () => {
  const { operations, pool } = daemon();
  const gate = Promise.withResolvers<void>();
  pool.beforeChange = () => gate.promise;
  let askedCount = 0;
  const watched = {
    ...operations,
    getRetentionPreview: async () => {
      askedCount += 1;
      if (askedCount === 3) gate.reject(new StorageError("BUSY", "pool: history not counted"));
      return operations.getRetentionPreview({});
    },
  };
  await rejects(runCommand(retention, watched, WORDS), (error) => hasCode(error, "BUSY"));
  equal(askedCount >= 3, true);
});

test("an answer to another question isn't taken for this one's", async () => {
  const { operations } = daemon();
  const running: RetentionPreviewStatusJson = { run: 5, isRunning: true };
  const problem = new StorageError("DISK_IO", "read failed").toJSON() as unknown as ErrorJson;
  for (const [run, why] of [
    [0, /the daemon was restarted meanwhile/],
    [6, /another one was asked for/],
  ] as const) {
    const others = {
      ...operations,
      startRetentionPreview: async () => running,
      getRetentionPreview: async () => ({ run, isRunning: false, problem }),
    };
    await rejects(
      runCommand(retention, others, WORDS),
      (error) => hasCode(error, "INTERRUPTED") && why.test(error.message),
    );
  }
});

test("options that contradict each other are refused before anything is counted", async () => {
  const { operations, pool } = daemon();
  for (const words of [["--inherit"], ["--none", "--hourly=1d"]])
    await rejects(runCommand(retention, operations, [...WORDS, ...words]), { code: "USAGE" });
  await rejects(runCommand(retention, operations, [...WORDS, "--hourly=often"]), { code: "USAGE" });
  deepEqual(pool.wishes, []);
});
