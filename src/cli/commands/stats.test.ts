// SPDX-License-Identifier: Apache-2.0
//
// What `varve stats` makes of the counters.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { runCommand } from "../../../test/cli/small-command.ts";
import { type SmallDaemon, smallDaemon } from "../../../test/cli/small-daemon.ts";
import type { StatisticsJson } from "../../api/types.ts";
import * as stats from "./stats.ts";

const MIB = 1024 ** 2;

/** A daemon that answers with the small pool's counters and these. */
async function daemonWith(
  change: (statistics: StatisticsJson) => StatisticsJson,
): Promise<SmallDaemon> {
  const daemon = smallDaemon();
  await daemon.operations.createVolume({ name: "db", sizeBytes: 64 * MIB });
  await daemon.operations.createVolume({ name: "web", sizeBytes: 32 * MIB });
  const statistics = change(await daemon.operations.getStatistics({}));
  return { ...daemon, operations: { ...daemon.operations, getStatistics: async () => statistics } };
}

test("the table says size, use and saving of the pool and of each volume", async () => {
  const { operations } = await daemonWith((statistics) => {
    const [db, web] = statistics.volumes;
    return {
      ...statistics,
      pool: {
        ...statistics.pool,
        capacityBytes: 100 * MIB,
        storedBytes: 25 * MIB,
        liveBytes: 10 * MIB,
        historyBytes: 5 * MIB,
        historyAt: "2001-09-09T01:40:00.000Z",
      },
      dedup: { ...statistics.dedup, savedBytes: 20 * MIB },
      compression: { ...statistics.compression, savedBytes: 10 * MIB },
      volumes: [
        { ...db!, mappedBytes: 40 * MIB, uniqueBytes: 10 * MIB },
        { ...web!, mappedBytes: 0, uniqueBytes: 0 },
      ],
    };
  });
  const { lines } = await runCommand(stats, operations);
  deepEqual(lines, [
    "NAME        SIZE      USED  AVAILABLE  USE%  SAVING%",
    "(pool)   100 MiB  25.0 MiB   75.0 MiB   25%      75%",
    "db      64.0 MiB  40.0 MiB   24.0 MiB   62%      75%",
    "web     32.0 MiB       0 B   32.0 MiB    0%        -",
    "",
    "saved:   20.0 MiB by deduplication, 10.0 MiB by compression, 8.0 KiB of zeros",
    "live:    10.0 MiB; garbage, index and reserve 10.0 MiB",
    "history: 5.0 MiB that only the past needs, counted 2001-09-09 01:40:00",
    "counted: 2001-09-09 01:46:40",
  ]);
});

test("history that wasn't counted yet is part of the rest", async () => {
  const { operations } = await daemonWith(({ pool, ...statistics }) => {
    const { historyBytes: _, historyAt: __, ...others } = pool;
    return { ...statistics, pool: { ...others, storedBytes: 25 * MIB, liveBytes: 10 * MIB } };
  });
  const { lines } = await runCommand(stats, operations);
  ok(lines.includes("live:    10.0 MiB; history, garbage, index and reserve 15.0 MiB"));
  ok(!lines.some((line) => line.startsWith("history:")));
  const { lines: all } = await runCommand(stats, operations, ["--verbose"]);
  ok(!all.some((line) => line.includes("history")), "and isn't among the counters");
});

test("a pool beyond its limit has nothing available, and a sample says so", async () => {
  const { operations } = await daemonWith((statistics) => ({
    ...statistics,
    pool: { ...statistics.pool, capacityBytes: 10 * MIB, storedBytes: 15 * MIB },
    census: { at: "2026-03-01T12:00:00.000Z", ageMs: 1, isSampled: true },
  }));
  const { lines } = await runCommand(stats, operations);
  equal(lines[1], "(pool)  10.0 MiB  15.0 MiB        0 B  150%      43%");
  equal(lines.at(-1), "counted: 2026-03-01 12:00:00, from a sample");
});

test("how far the deduplication index is restored after a start is said while it lasts", async () => {
  const { operations } = await daemonWith((statistics) => ({
    ...statistics,
    dedup: { ...statistics.dedup, restoredSegmentCount: 3, unrestoredSegmentCount: 9 },
  }));
  const { lines } = await runCommand(stats, operations);
  equal(
    lines.at(-1),
    "dedup index: 3 of 12 segments read since the start; until the others are, what they hold is found less often",
  );
});

test("before the first count nothing is said to be saved", async () => {
  const { operations } = await daemonWith(({ census: _, ...statistics }) => statistics);
  const { lines } = await runCommand(stats, operations);
  equal(lines.at(-1), "what is stored is being counted; ask again");
});

test("every counter of the JSON is in the verbose list, under its name", async () => {
  const { operations } = await daemonWith((statistics) => statistics);
  const { json } = await runCommand(stats, operations, ["--json"]);
  const { lines } = await runCommand(stats, operations, ["--verbose"]);
  const { volumes, ...groups } = json as StatisticsJson;
  for (const [group, counters] of Object.entries(groups))
    for (const name of Object.keys(counters))
      ok(
        lines.some((line) => line.startsWith(`${group}.${name}:`)),
        `${group}.${name}`,
      );
  const [{ name: _, ...counters }] = volumes as [StatisticsJson["volumes"][0]];
  for (const name of Object.keys(counters))
    ok(
      lines.some((line) => line.startsWith(`volume db.${name}:`)),
      name,
    );
  ok(lines.some((line) => /^pool.storedBytes: +4096 \(4.0 KiB\)$/.test(line)));
});
