// SPDX-License-Identifier: Apache-2.0
//
// Schedules of a small pool on a clock that a test turns, with a runner that ends when it is told to.

import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import { SmallPool } from "../../test/cli/small-pool.ts";
import { SmallRunner } from "../../test/cli/small-runner.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { EventLog } from "./event-log.ts";
import { type ScheduleStatus, Schedules } from "./schedules.ts";

const MINUTE = 60_000_000;
const HOUR = 60 * MINUTE;
const BEGIN = 1e15;

/** Timers run when time is turned to them. */
class TurnedClock implements Clock {
  offsetMicros = BEGIN;
  #mono = 0;
  readonly #timers: { at: number; callback: () => void }[] = [];

  wallMicros(): number {
    return this.#mono + this.offsetMicros;
  }

  monotoneMicros(): number {
    return this.#mono;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { at: this.#mono + delayMs * 1000, callback };
    this.#timers.push(timer);
    return () => {
      timer.callback = () => {};
    };
  }

  afterInput(callback: () => void): void {
    this.after(0, callback);
  }

  async turn(micros: number): Promise<void> {
    const end = this.#mono + micros;
    for (;;) {
      await settled();
      const [next] = this.#timers.sort((a, b) => a.at - b.at);
      if (next === undefined || next.at > end) break;
      this.#timers.shift();
      this.#mono = Math.max(this.#mono, next.at);
      next.callback();
    }
    this.#mono = end;
    await settled();
  }
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

async function setUp() {
  const clock = new TurnedClock();
  const pool = new SmallPool(clock);
  const runner = new SmallRunner();
  const events = new EventLog(clock, { log: () => {} });
  const parts = { schedules: pool.schedules, runner, events, clock };
  const schedules = new Schedules(parts);
  for (const name of ["db", "web"]) await pool.createVolume(name, 1 << 20);
  const make = async (name: string, target = "/b", volumes = ["db"]): Promise<void> => {
    await pool.schedules.make({ name, volumes, target, everyMicros: HOUR, keep: {} });
    schedules.look();
  };
  const statusOf = (name: string): ScheduleStatus => schedules.statusOf(pool.schedules.named(name));
  const told = (): string[] =>
    events.recent().map(({ event, fields }) => `${event} ${String(fields.schedule)}`);
  return { clock, pool, runner, events, schedules, parts, make, statusOf, told };
}

test("a schedule runs at once, and then at each time of its grid", async () => {
  const { clock, runner, make, pool, statusOf, told } = await setUp();
  runner.onStart = (run) => run.done();
  await make("a");
  await clock.turn(3.5 * HOUR);
  equal(runner.runs.length, 4);
  deepEqual(runner.runs[0]?.job, {
    volumes: ["db"],
    target: "/b",
    keep: {},
    keyFile: undefined,
    passphraseFile: undefined,
    limitBytesPerSecond: undefined,
  });
  const { lastRun, lastDone } = pool.schedules.named("a");
  equal(lastRun?.dueMicros, BEGIN + 3 * HOUR);
  deepEqual([lastDone?.point, lastDone?.sentBytes, lastDone?.storedBytes], ["p", 2000, 1000]);
  const { state, nextMicros, runCount, failureCount } = statusOf("a");
  deepEqual([state, nextMicros], ["waiting", BEGIN + 4 * HOUR]);
  deepEqual([runCount, failureCount], [4, 0]);
  deepEqual(told().slice(0, 2), ["backup.started a", "backup.ended a"]);
});

test("of one target one runs at a time, of all two; who was due first goes first", async () => {
  const { clock, runner, make, statusOf } = await setUp();
  for (const [name, target] of [
    ["a", "/1"],
    ["b", "/1"],
    ["c", "/2"],
    ["d", "/3"],
  ] as const) {
    await make(name, target);
    await clock.turn(1000);
  }
  const targets = () => runner.runs.map(({ job }) => job.target);
  deepEqual(targets(), ["/1", "/2"]);
  deepEqual(
    ["a", "b", "c", "d"].map((name) => statusOf(name).state),
    ["running", "queued", "running", "queued"],
  );
  runner.runs[1]?.done();
  await settled();
  deepEqual(targets(), ["/1", "/2", "/3"], "the target of b is busy");
  runner.runs[0]?.done();
  await settled();
  deepEqual(targets(), ["/1", "/2", "/3", "/1"]);
});

test("what fails is tried again, told, and warned of until it is done", async () => {
  const { clock, runner, make, schedules, statusOf, told } = await setUp();
  runner.onStart = (run) => run.fail('target "/b": gone');
  await make("a");
  await clock.turn(10 * MINUTE);
  equal(runner.runs.length, 5);
  deepEqual(schedules.warnings(), ['the last backup of schedule "a" failed: target "/b": gone']);
  equal(statusOf("a").schedule.lastRun?.attempt, 5);
  runner.onStart = (run) => run.done();
  await clock.turn(10 * MINUTE);
  deepEqual(schedules.warnings(), []);
  const { runCount, failureCount } = statusOf("a");
  deepEqual([runCount, failureCount], [6, 5]);
  ok(told().includes("backup.failed a"));
});

test("an overdue backup is told once, and warned of until there is one", async () => {
  const { clock, runner, make, schedules, statusOf, told } = await setUp();
  await make("a");
  await clock.turn(3 * HOUR);
  equal(runner.runs.length, 1, "it still runs");
  equal(statusOf("a").isOverdue, true);
  match(String(schedules.warnings()), /schedule "a" is overdue: there is none yet/);
  equal(told().filter((line) => line === "backup.overdue a").length, 1);
  runner.runs[0]?.done();
  await settled();
  equal(runner.runs.length, 2, "what it missed meanwhile is made up for");
  runner.runs[1]?.done();
  await settled();
  deepEqual(schedules.warnings(), []);
});

test("a paused schedule doesn't run by itself, and when it is resumed at once", async () => {
  const { clock, pool, runner, make, schedules, statusOf } = await setUp();
  runner.onStart = (run) => run.done();
  await make("a");
  await pool.schedules.setPaused("a", true);
  schedules.look();
  await clock.turn(5 * HOUR);
  equal(runner.runs.length, 1);
  deepEqual([statusOf("a").state, statusOf("a").nextMicros], ["paused", undefined]);
  deepEqual(schedules.warnings(), []);
  schedules.runNow("a");
  await settled();
  equal(runner.runs.length, 2, "unless somebody asks");
  await clock.turn(2 * HOUR);
  await pool.schedules.setPaused("a", false);
  schedules.look();
  await settled();
  equal(runner.runs.length, 3);
});

test("a removed volume suspends its schedules, a renamed one keeps them", async () => {
  const { clock, pool, runner, make, schedules, statusOf } = await setUp();
  runner.onStart = (run) => run.done();
  await make("a", "/b", ["db", "web"]);
  await pool.renameVolume("db", "orders");
  await clock.turn(HOUR);
  deepEqual(runner.runs.at(-1)?.job.volumes, ["orders", "web"]);
  await pool.removeVolume("web");
  await clock.turn(5 * HOUR);
  equal(runner.runs.length, 2);
  equal(statusOf("a").state, "suspended");
  deepEqual(schedules.warnings(), []);
  throws(
    () => schedules.runNow("a"),
    (error) => hasCode(error, "VOLUME_NOT_FOUND") && /"web" is removed/.test(error.message),
  );
});

test("a run that is asked for answers the time that it falls into", async () => {
  const { clock, runner, make, schedules, statusOf } = await setUp();
  runner.onStart = (run) => run.done();
  await make("a");
  await clock.turn(1.5 * HOUR);
  schedules.runNow("a");
  await settled();
  equal(runner.runs.length, 3);
  equal(statusOf("a").nextMicros, BEGIN + 2 * HOUR);
});

test("what is cut short by the daemon's end is no result, and comes first with the next start", async () => {
  const { clock, pool, runner, make, schedules, parts } = await setUp();
  await make("a");
  await schedules.close();
  equal(pool.schedules.named("a").lastRun, undefined);
  schedules.look();
  await clock.turn(2 * HOUR);
  equal(runner.runs.length, 1, "nothing begins after the end");
  new Schedules(parts).look();
  equal(runner.runs.length, 2);
});

test("a schedule that is removed ends its run", async () => {
  const { pool, runner, make, schedules } = await setUp();
  await make("a");
  await pool.schedules.remove("a");
  schedules.look();
  equal(await runner.runs[0]?.ended, "stopped");
  await settled();
  deepEqual(schedules.statuses(), []);
});

test("a result that can't be recorded counts as long as the daemon runs", async () => {
  const { clock, pool, runner, make, statusOf, told } = await setUp();
  runner.onStart = (run) => run.done();
  const full = new StorageError("DISK_FULL", "log: no space");
  pool.schedules.ran = () => Promise.reject(full);
  await make("a");
  await clock.turn(HOUR / 2);
  equal(runner.runs.length, 1, "else it would run again and again");
  equal(statusOf("a").schedule.lastRun?.isDone, true);
  ok(told().includes("backup.not-recorded a"));
});

test("a clock that is set forwards by a year costs one run, and set back again one more", async () => {
  const { clock, runner, make } = await setUp();
  runner.onStart = (run) => run.done();
  await make("a");
  await clock.turn(HOUR / 2);
  clock.offsetMicros += 365 * 24 * HOUR;
  await clock.turn(MINUTE);
  equal(runner.runs.length, 2);
  clock.offsetMicros -= 365 * 24 * HOUR;
  await clock.turn(HOUR / 2);
  equal(runner.runs.length, 3);
  await clock.turn(2 * HOUR);
  equal(runner.runs.length, 5);
});
