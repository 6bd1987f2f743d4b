// SPDX-License-Identifier: Apache-2.0
//
// The real clock's microseconds, with readings given by hand where they must be exact.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createClock, WallMicros } from "./clock.ts";

test("wall time runs in microseconds between two ticks of the millisecond clock", () => {
  const wall = new WallMicros();
  equal(wall.at(1000, 50), 1_000_000);
  equal(wall.at(1000, 51), 1_000_001);
  equal(wall.at(1000, 800), 1_000_750);
});

test("wall time is always within the millisecond that the clock shows", () => {
  const readings = fc.array(fc.tuple(fc.integer({ min: -50, max: 50 }), fc.nat(5000)));
  fc.assert(
    fc.property(readings, (steps) => {
      const wall = new WallMicros();
      let [ms, monotone] = [1_800_000_000_000, 12_345];
      for (const [stepMs, elapsed] of steps) {
        ms += stepMs;
        monotone += elapsed;
        const micros = wall.at(ms, monotone);
        if (micros < ms * 1000 || micros >= ms * 1000 + 1000) return false;
      }
      return true;
    }),
  );
});

test("a step of the machine's clock shows at once, forward and back", () => {
  const wall = new WallMicros();
  wall.at(1000, 0);
  equal(wall.at(61_000, 10), 61_000_000);
  equal(wall.at(1000, 20), 1_000_000);
});

test("monotone time doesn't go back and counts from the machine's boot", () => {
  const clock = createClock();
  let last = clock.monotoneMicros();
  const [seconds] = process.hrtime();
  ok(Math.abs(last / 1e6 - seconds) < 2);
  for (let i = 0; i < 10_000; i += 1) {
    const now = clock.monotoneMicros();
    ok(now >= last);
    last = now;
  }
});

test("wall time agrees with the machine's", () => {
  ok(Math.abs(createClock().wallMicros() / 1000 - Date.now()) <= 2);
});

test("a cancelled timer doesn't call back", async () => {
  const clock = createClock();
  const calls: string[] = [];
  const cancel = clock.after(1, () => calls.push("cancelled"));
  cancel();
  await new Promise<void>((resolve) => clock.after(5, resolve));
  await new Promise<void>((resolve) => clock.afterInput(resolve));
  equal(calls.length, 0);
});

test("a delay beyond what a timer can hold doesn't fire at once", async () => {
  const clock = createClock();
  let hasFired = false;
  const cancel = clock.after(2 ** 40, () => {
    hasFired = true;
  });
  await new Promise<void>((resolve) => clock.after(5, resolve));
  cancel();
  equal(hasFired, false);
});
