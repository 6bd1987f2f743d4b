// SPDX-License-Identifier: Apache-2.0
//
// Recorded time under a wall clock that jumps as it likes.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Clock } from "../host/ports.ts";
import { RecordedTime } from "./recorded-time.ts";

const HOUR = 3600 * 1_000_000;
const START = 1_700_000_000_000_000;

class HandClock implements Clock {
  wall: number = START;
  monotone = 5_000_000;

  wallMicros(): number {
    return this.wall;
  }
  monotoneMicros(): number {
    return this.monotone;
  }
  after(): () => void {
    return () => undefined;
  }
  afterInput(): void {}

  pass(micros: number): void {
    this.wall += micros;
    this.monotone += micros;
  }
}

test("recorded time never goes back, whatever the wall clock does, also across restarts", () => {
  const step = fc.record({
    passes: fc.oneof(fc.nat(1000), fc.nat(10 * HOUR)),
    jumps: fc.oneof(
      { weight: 3, arbitrary: fc.constant(0) },
      fc.integer({ min: -30 * HOUR, max: 30 * HOUR }),
    ),
    appends: fc.nat(3),
    isRestart: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const clock = new HandClock();
      let time = new RecordedTime(clock, START - 7);
      let newest = 0;
      for (const { passes, jumps, appends, isRestart } of steps) {
        clock.pass(passes);
        clock.wall += jumps;
        if (isRestart) time = new RecordedTime(clock, newest);
        time.advance();
        ok(time.recordedMicros >= newest, "a batch's time");
        newest = time.recordedMicros;
        for (let append = 0; append < appends; append++) {
          clock.pass(append * 13);
          const offset = time.offsetMicros();
          ok(offset >= 0 && offset <= 0xffffffff && Number.isInteger(offset));
          ok(time.recordedMicros + offset >= newest, "a record's time");
          newest = time.recordedMicros + offset;
        }
      }
    }),
  );
});

test("after a step back it goes on at half speed until the wall clock has caught up", () => {
  const clock = new HandClock();
  const time = new RecordedTime(clock, 0);
  clock.wall -= HOUR;
  time.advance();
  equal(time.recordedMicros, START);
  clock.pass(HOUR);
  time.advance();
  equal(time.recordedMicros, START + HOUR / 2);
  clock.pass(HOUR);
  time.advance();
  equal(time.recordedMicros, START + HOUR, "caught up");
  equal(time.recordedMicros, clock.wall);
  clock.pass(1000);
  time.advance();
  equal(time.recordedMicros, clock.wall);
});

test("a step of more than a second is told once, with its sign; a smaller one isn't", () => {
  const clock = new HandClock();
  const time = new RecordedTime(clock, 0);
  clock.pass(HOUR);
  clock.wall += 900_000;
  time.advance();
  equal(time.takeStepMicros(), 0);
  clock.wall -= 2 * HOUR;
  time.advance();
  clock.wall += HOUR;
  time.advance();
  equal(time.takeStepMicros(), -HOUR);
  equal(time.takeStepMicros(), 0);
});

test("time that a sleeping machine's monotone clock missed is a step forward", () => {
  const clock = new HandClock();
  const time = new RecordedTime(clock, 0);
  clock.wall += 8 * HOUR;
  time.advance();
  equal(time.takeStepMicros(), 8 * HOUR);
  equal(time.recordedMicros, clock.wall);
});
