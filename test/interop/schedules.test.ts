// SPDX-License-Identifier: Apache-2.0
//
// Scheduled backups of a real daemon into a real directory: what they make restores to what the volume held, and however
// the daemon ends, nothing of a run is left behind and the next start makes up for it.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import { test } from "node:test";
import type { ScheduleJson } from "../../src/api/schedule.ts";
import { BackedUpDisk, sha256 } from "./backed-up-disk.ts";
import { Chance } from "./chance.ts";
import { delay, run, until } from "./command.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, VARVE } from "./server.ts";

const MIB = 1 << 20;
const skip = KIND_UNDER_TEST !== "varve";

async function scheduleOf(disk: BackedUpDisk): Promise<ScheduleJson> {
  const { stdout } = await disk.varve(["schedule", "db", "--json"]);
  return JSON.parse(stdout) as ScheduleJson;
}

async function pointsOf(disk: BackedUpDisk): Promise<{ name: string; volumes: unknown[] }[]> {
  const { stdout } = await run(VARVE, ["backups", disk.target, "--json"]);
  return (JSON.parse(stdout) as { points: { name: string; volumes: unknown[] }[] }).points;
}

async function untilState(disk: BackedUpDisk, is: (schedule: ScheduleJson) => boolean) {
  let schedule = await scheduleOf(disk);
  await until("the schedule gets there", async () => {
    schedule = await scheduleOf(disk);
    return is(schedule);
  });
  return schedule;
}

/** Processes that write to the target. */
function writersOf(target: string): string[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return words.includes("--exit-with-parent") && words.includes(target);
      } catch {
        return false; // It has ended.
      }
    });
}

/** What the newest point restores to is what the volume holds. */
async function checkNewest(disk: BackedUpDisk, { lastDone }: ScheduleJson): Promise<void> {
  const point = lastDone?.point ?? "";
  equal(await disk.digestOf(point), sha256(disk.content), point);
}

test("a scheduled backup is made at once, and pruned by its own rules only", { skip }, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 16 * MIB, chance: new Chance(1) });
  await disk.varve(["create", "web", "8M"]);
  for (const name of ["w1", "w2", "w3"])
    await disk.varve(["backup", "web", disk.target, "--name", name]);
  await disk.change(40);
  const rules = ["--every", "1d", "--keep-last", "2"];
  await disk.varve(["schedule", "db", "--backup", disk.target, ...rules]);
  let schedule = await untilState(disk, ({ state }) => state === "waiting");
  await checkNewest(disk, schedule);
  for (let round = 0; round < 3; round += 1) {
    await disk.change(10);
    const before = schedule.lastRun?.startedAt;
    await disk.varve(["schedule", "db", "--run-now"]);
    schedule = await untilState(
      disk,
      ({ state, lastRun }) => state === "waiting" && lastRun?.startedAt !== before,
    );
    deepEqual([schedule.lastRun?.isDone, schedule.lastRun?.problem], [true, undefined]);
    ok((schedule.lastRun?.readBytes ?? 0) < disk.content.length / 2, "only what has changed");
    await checkNewest(disk, schedule);
  }
  const names = (await pointsOf(disk)).map(({ name }) => name);
  deepEqual(names.slice(0, 3), ["w1", "w2", "w3"], "others' points are others' business");
  equal(names.length, 5);
  const { stdout } = await disk.varve(["info", "db", "--json"]);
  const [told] = (JSON.parse(stdout) as { schedules: ScheduleJson[] }).schedules;
  equal(told?.lastDone?.point, schedule.lastDone?.point);
});

test("a daemon that is killed or stopped in the middle of a run leaves nothing behind, and makes up for it", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const chance = new Chance(2);
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 48 * MIB, chance });
  await disk.change(700);
  const slow = ["--every", "1d", "--limit-rate", "1M"];
  await disk.varve(["schedule", "db", "--backup", disk.target, ...slow]);
  for (const isKilled of [true, false]) {
    await until("it is under way", () => writersOf(disk.target).length === 1);
    await delay(500 + chance.below(1500));
    const { createdAt, state } = await scheduleOf(disk);
    equal(state, "running");
    await disk.disconnect();
    if (isKilled) await disk.server.kill9();
    else await disk.server.stop();
    if (isKilled) await until("the backup ends", () => writersOf(disk.target).length === 0);
    else deepEqual(writersOf(disk.target), []);
    deepEqual(await pointsOf(disk), []);
    await disk.server.restart();
    const begun = await scheduleOf(disk);
    deepEqual([begun.createdAt, begun.lastRun], [createdAt, undefined]);
  }
  const schedule = await untilState(disk, ({ lastRun }) => lastRun !== undefined);
  deepEqual([schedule.lastRun?.isDone, schedule.lastRun?.attempt], [true, 1]);
  equal(schedule.lastRun?.dueAt, schedule.createdAt, "it answers the time that was missed");
  await checkNewest(disk, schedule);
});

test("a target that isn't mounted is no reason to make another one, and is warned of until it is back", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 8 * MIB, chance: new Chance(3) });
  await disk.change(20);
  await disk.varve(["schedule", "db", "--backup", disk.target, "--every", "1d"]);
  await untilState(disk, ({ state }) => state === "waiting");
  await rename(disk.target, scratch.path("unmounted"));
  await disk.varve(["schedule", "db", "--run-now"]);
  const failed = await untilState(disk, ({ lastRun }) => lastRun?.isDone === false);
  equal(failed.lastRun?.problem?.code, "TARGET_NOT_FOUND");
  ok(!existsSync(disk.target));
  match((await disk.varve(["info"])).stdout, /the last backup of schedule "db" failed: target/);
  await rename(scratch.path("unmounted"), disk.target);
  await disk.change(5);
  await disk.varve(["schedule", "db", "--run-now"]);
  const done = await untilState(disk, ({ lastRun }) => lastRun?.isDone === true);
  await checkNewest(disk, done);
  ok(!(await disk.varve(["info"])).stdout.includes("failed"));
});

test("a schedule that is removed ends its run", { skip }, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 16 * MIB, chance: new Chance(4) });
  await disk.change(300);
  const slow = ["--every", "1d", "--limit-rate", "1M"];
  await disk.varve(["schedule", "db", "--backup", disk.target, ...slow]);
  await untilState(disk, ({ state }) => state === "running");
  await disk.varve(["schedule", "db", "--remove"]);
  await until("the backup ends", () => writersOf(disk.target).length === 0);
  deepEqual(await pointsOf(disk), []);
});
