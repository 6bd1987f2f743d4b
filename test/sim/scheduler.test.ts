// SPDX-License-Identifier: Apache-2.0
//
// Virtual time: order, chance among equals, and the end of what belonged to a dead process.

import { deepEqual, equal, notDeepEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { SimMachine } from "../../src/sim/machine.ts";
import { Prng } from "../../src/sim/prng.ts";
import { SimScheduler } from "../../src/sim/scheduler.ts";
import { Trace } from "../../src/sim/trace.ts";
import { pump } from "./pump.ts";

function order(seed: number): number[] {
  const scheduler = new SimScheduler(new Prng(seed), new Trace());
  const ran: number[] = [];
  for (let number = 0; number < 40; number++) {
    scheduler.schedule(number < 20 ? 5 : number, { what: "test" }, () => ran.push(number));
  }
  while (scheduler.step()) ok(true);
  return ran;
}

test("events run by time; the seed decides among those of one time", () => {
  const ran = order(1);
  deepEqual(
    ran.slice(0, 20).sort((a, b) => a - b),
    [...Array(20).keys()],
  );
  deepEqual(
    ran.slice(20),
    [...Array(20).keys()].map((number) => number + 20),
  );
  deepEqual(order(1), ran);
  notDeepEqual(order(2), ran);
});

test("a cancelled event doesn't run", () => {
  const scheduler = new SimScheduler(new Prng(1), new Trace());
  let ranCount = 0;
  const cancel = scheduler.schedule(1, { what: "test" }, () => ranCount++);
  cancel();
  equal(scheduler.step(), false);
  equal(ranCount, 0);
});

test("events of a dead process don't run, and its timers never come", async () => {
  const machine = new SimMachine(1);
  const ran: string[] = [];
  machine.start().clock.after(1, () => ran.push("dead"));
  machine.crash("kill");
  machine.start().clock.after(1, () => ran.push("alive"));
  await pump(() => machine.step());
  deepEqual(ran, ["alive"]);
});

test("promises that an event settles run before the next event", async () => {
  const machine = new SimMachine(1);
  const { clock } = machine.start();
  const ran: string[] = [];
  clock.after(1, () => {
    void Promise.resolve()
      .then(() => undefined)
      .then(() => ran.push("promise"));
  });
  clock.after(1000, () => ran.push("event"));
  await pump(() => machine.step());
  deepEqual(ran, ["promise", "event"]);
});

test("wall time steps, monotone time doesn't, and a power loss begins it anew", async () => {
  const machine = new SimMachine(1);
  const { clock } = machine.start();
  const [wall, monotone] = [clock.wallMicros(), clock.monotoneMicros()];
  clock.after(1000, () => undefined);
  await pump(() => machine.step());
  machine.stepClock(-3_600_000_000);
  ok(clock.wallMicros() < wall);
  ok(clock.monotoneMicros() >= monotone + 1_000_000);
  machine.crash("power");
  equal(machine.start().clock.monotoneMicros(), monotone);
});
