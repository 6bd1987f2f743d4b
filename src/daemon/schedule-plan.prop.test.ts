// SPDX-License-Identifier: Apache-2.0
//
// The planner over any life of a machine: time passes, wall clocks step both ways, runs take long or fail, the daemon
// restarts. What is promised: steps neither flood a target nor starve it, and with a steady clock each time of the grid is
// answered once, in order.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { gridTime, isOverdue, type Plan, type PlannedSchedule, planNext } from "./schedule-plan.ts";

const MINUTE = 60_000_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A daemon that follows the plan, without waiting for anything else. */
class Machine {
  wall: number;
  mono = 0;
  readonly every: number;
  readonly begin: number;
  lastRun: PlannedSchedule["lastRun"];
  planned: number | undefined;
  since = 0;
  ended: number | undefined;
  /** First attempts that were due by the plan: when, by the monotone clock, and for which time. */
  readonly starts: { readonly at: number; readonly due: number }[] = [];
  readonly attempts: number[] = [];

  constructor(every: number, begin: number) {
    this.every = every;
    this.begin = begin;
    this.wall = begin;
  }

  plan(): Plan {
    const { every: everyMicros, begin: beginMicros, lastRun } = this;
    return planNext(
      { everyMicros, beginMicros, lastRun },
      { wallMicros: this.wall, monotoneMicros: this.mono },
      { plannedMicros: this.planned, sinceMicros: this.since, endedMicros: this.ended },
    );
  }

  pass(micros: number): void {
    this.wall += micros;
    this.mono += micros;
  }

  restart(): void {
    this.planned = undefined;
    this.since = this.mono;
    this.ended = undefined;
  }

  /** Runs whatever is due until so much time has passed; a run takes `lasts`. */
  live(micros: number, lasts: number, isDone: () => boolean): void {
    const end = this.mono + micros;
    while (this.mono < end) {
      const plan = this.plan();
      if (plan.waitMicros > 0) {
        // As the scheduler does: the clock is looked at now and then.
        this.pass(Math.min(plan.waitMicros, 30_000_000, end - this.mono));
        continue;
      }
      if (plan.attempt === 1) {
        this.starts.push({ at: this.mono, due: plan.dueMicros });
        this.planned = this.mono;
      }
      this.attempts.push(this.mono);
      this.since = this.mono;
      const startedMicros = Math.max(0, this.wall);
      this.pass(lasts);
      this.ended = this.mono;
      const { dueMicros, attempt } = plan;
      this.lastRun = { dueMicros, startedMicros, durationMicros: lasts, isDone: isDone(), attempt };
    }
  }
}

const every = fc.constantFrom(MINUTE, 7 * MINUTE, HOUR, DAY);
/** Parts of an interval. */
const part = fc.double({ min: 0, max: 5, noNaN: true });
const turn = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("live" as const), part }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("step" as const),
      part: fc.double({ min: -400, max: 400, noNaN: true }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("step" as const),
      part: fc.double({ min: -1, max: 1, noNaN: true }),
    }),
  },
);

test("whatever the wall clock does, runs begin half an interval apart at least, and two intervals and a run at most", () => {
  fc.assert(
    fc.property(
      every,
      fc.array(turn, { minLength: 1, maxLength: 25 }),
      fc.double({ min: 0, max: 2.5, noNaN: true }),
      fc.boolean(),
      (interval, turns, lastsPart, isDone) => {
        const machine = new Machine(interval, 1e15);
        const lasts = Math.floor(interval * lastsPart);
        for (const { kind, part: share } of turns) {
          if (kind === "live") machine.live(Math.floor(interval * share), lasts, () => isDone);
          else machine.wall += Math.floor(interval * share);
        }
        const { starts } = machine;
        for (const [index, { at }] of starts.entries()) {
          const before = starts[index - 1];
          if (before === undefined) continue;
          ok(at - before.at >= interval / 2, "too soon");
          const most = 2 * interval + 2 * lasts + 30_000_000;
          // Tries of the one before are runs, too.
          if (isDone) ok(at - before.at <= most, `too late: ${(at - before.at) / interval}`);
        }
        const last = starts.at(-1);
        if (last !== undefined && isDone)
          ok(machine.mono - last.at <= 2 * interval + 2 * lasts + 30_000_000, "starved");
      },
    ),
    { numRuns: 300 },
  );
});

test("with a steady clock and short runs each time of the grid is answered once, when it comes", () => {
  fc.assert(
    fc.property(every, fc.integer({ min: 1, max: 20 }), (interval, count) => {
      const machine = new Machine(interval, 1e15);
      machine.live(count * interval - 1, Math.floor(interval / 10), () => true);
      deepEqual(
        machine.starts,
        Array.from({ length: count }, (_, n) => ({ at: n * interval, due: 1e15 + n * interval })),
      );
    }),
  );
});

test("times that were missed while the daemon was down are made up for once, at once", () => {
  fc.assert(
    fc.property(every, fc.double({ min: 1, max: 50, noNaN: true }), (interval, missed) => {
      const machine = new Machine(interval, 1e15);
      machine.live(1, 0, () => true);
      machine.pass(Math.ceil(interval * missed));
      machine.restart();
      const newest = gridTime({ everyMicros: interval, beginMicros: 1e15 }, machine.wall);
      const { dueMicros, waitMicros } = machine.plan();
      deepEqual({ dueMicros, waitMicros }, { dueMicros: newest, waitMicros: 0 });
      machine.live(1, 0, () => true);
      equal(machine.plan().dueMicros, newest + interval);
      equal(machine.starts.length, 2);
    }),
  );
});

test("a run that took longer than the interval is followed by one, and then by the grid again", () => {
  const machine = new Machine(HOUR, 1e15);
  machine.live(1, 2.75 * HOUR, () => true);
  machine.live(4 * HOUR, MINUTE, () => true);
  const due = machine.starts.map((start) => (start.due - 1e15) / HOUR);
  deepEqual(due, [0, 2, 3, 4, 5, 6]);
  equal(machine.starts[1]?.at, 2.75 * HOUR);
});

test("a run that fails is tried again, more rarely each time, and the next time of the grid comes all the same", () => {
  const machine = new Machine(HOUR, 1e15);
  machine.live(3 * HOUR, 0, () => false);
  const first = machine.attempts.filter((at) => at < HOUR);
  deepEqual(
    first.map((at) => at / MINUTE),
    [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5],
  );
  deepEqual(
    machine.starts.map(({ at }) => at / HOUR),
    [0, 1, 2],
  );
});

test("tries are bounded, whatever the interval", () => {
  fc.assert(
    fc.property(every, (interval) => {
      const machine = new Machine(interval, 1e15);
      machine.live(10 * interval - 1, 0, () => false);
      equal(machine.starts.length, 10);
      ok(machine.attempts.length <= 100, `${machine.attempts.length} tries`);
    }),
    { numRuns: 4 },
  );
});

test("a failed run of the daemon before is tried again when its time has come, and not at once", () => {
  const lastRun = {
    dueMicros: 1e15,
    startedMicros: 1e15,
    durationMicros: 0,
    isDone: false,
    attempt: 3,
  };
  const schedule = { everyMicros: HOUR, beginMicros: 1e15, lastRun };
  const seen = { plannedMicros: undefined, sinceMicros: 7, endedMicros: undefined };
  const waits = [0, 1, 5].map(
    (minutes) =>
      planNext(schedule, { wallMicros: 1e15 + minutes * MINUTE, monotoneMicros: 7 }, seen)
        .waitMicros,
  );
  deepEqual(waits, [2 * MINUTE, MINUTE, 0]);
  // The clock was set back meanwhile: it isn't waited for.
  const back = planNext(schedule, { wallMicros: 1e15 - HOUR, monotoneMicros: 7 }, seen);
  deepEqual(back, { dueMicros: 1e15, waitMicros: 2 * MINUTE, attempt: 4 });
});

test("a clock that was set back by years is no reason to wait for years", () => {
  const machine = new Machine(DAY, 1e15);
  machine.live(DAY / 2, 0, () => true);
  machine.wall -= 1000 * DAY;
  equal(machine.plan().waitMicros, 0);
  machine.live(3 * DAY, 0, () => true);
  equal(machine.starts.length, 5);
  machine.restart();
  ok(machine.plan().waitMicros <= DAY);
});

test("a clock that is set back again and again, before each time comes, doesn't keep it away", () => {
  const machine = new Machine(HOUR, 1e15);
  for (let round = 0; round < 40; round++) {
    machine.live(0.95 * HOUR, 0, () => true);
    machine.wall -= 0.9 * HOUR;
  }
  ok(machine.starts.length >= 18, `${machine.starts.length} runs in 38 intervals`);
});

test("the last try before the next time of the grid makes way for it", () => {
  const lastRun = {
    dueMicros: 1e15,
    startedMicros: 1e15,
    durationMicros: 0,
    isDone: false,
    attempt: 7,
  };
  const at = 31.5 * MINUTE;
  const plan = planNext(
    { everyMicros: HOUR, beginMicros: 1e15, lastRun },
    { wallMicros: 1e15 + at, monotoneMicros: at },
    { plannedMicros: 0, sinceMicros: at, endedMicros: at },
  );
  deepEqual(plan, { dueMicros: 1e15 + HOUR, waitMicros: HOUR - at, attempt: 1 });
});

test("a backup is overdue an interval after it should have been there, and not while it can't be", () => {
  const schedule = { everyMicros: HOUR, beginMicros: 0, activeMicros: 0 };
  equal(isOverdue(schedule, HOUR - 1), false);
  equal(isOverdue(schedule, HOUR), true);
  const done = { ...schedule, lastDone: { dueMicros: 5 * HOUR } };
  equal(isOverdue(done, 7 * HOUR - 1), false);
  equal(isOverdue(done, 7 * HOUR), true);
  equal(isOverdue({ ...done, activeMicros: 20 * HOUR }, 20.5 * HOUR), false);
});
