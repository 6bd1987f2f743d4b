// SPDX-License-Identifier: Apache-2.0
//
// "-10m" means ten minutes that have passed, whatever was done to the clock meanwhile.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { RecordedTime } from "../log/recorded-time.ts";
import { ElapsedTime, type TimePoint } from "./elapsed-time.ts";

const MINUTE = 60_000_000;
const BEGIN = 1_700_000_000_000_000;

/** A machine that writes a batch each second; `recorded[s]` is the recorded time of second s. */
class Machine {
  readonly clock = {
    monotone: 5_000_000,
    wall: BEGIN,
    monotoneMicros: () => this.clock.monotone,
    wallMicros: () => this.clock.wall,
    after: () => () => {},
    afterInput: () => {},
  };
  readonly time = new RecordedTime(this.clock, 0);
  readonly elapsed = new ElapsedTime(this.clock, this.#point());
  readonly recorded: number[] = [];

  run(seconds: number): void {
    for (let second = 0; second < seconds; second++) {
      this.time.advance();
      this.elapsed.note(this.#point());
      this.recorded.push(this.time.recordedMicros);
      this.clock.monotone += 1_000_000;
      this.clock.wall += 1_000_000;
    }
  }

  #point(): TimePoint {
    const { monotoneMicros, recordedMicros } = this.time;
    return { monotoneMicros, recordedMicros };
  }

  /** How far the answer for every second of this run is from what was recorded then, at most. */
  worstMicros(): number {
    const count = this.recorded.length;
    const errors = this.recorded.map((micros, second) =>
      Math.abs(this.elapsed.ago((count - second) * 1_000_000) - micros),
    );
    return Math.max(...errors);
  }
}

test("with a steady clock it is plain subtraction, also for times from before the daemon began", () => {
  const machine = new Machine();
  machine.run(600);
  equal(machine.worstMicros(), 0);
  equal(machine.elapsed.ago(20 * MINUTE), BEGIN - 10 * MINUTE);
});

test("a clock that was set ahead doesn't bring the moment ahead", () => {
  const machine = new Machine();
  machine.run(600);
  machine.clock.wall += 60 * MINUTE;
  machine.run(300);
  ok(machine.worstMicros() <= 100_000);
  equal(machine.elapsed.ago(10 * MINUTE), BEGIN + 5 * MINUTE);
});

test("nor does one that was set back, while recorded time waits for it and after", () => {
  const machine = new Machine();
  machine.run(600);
  machine.clock.wall -= 5 * MINUTE;
  machine.run(300);
  ok(machine.worstMicros() <= 200_000, `${machine.worstMicros()} µs beside it`);
  machine.run(900);
  ok(machine.worstMicros() <= 200_000, `${machine.worstMicros()} µs beside it`);
});

test("what was written after that isn't part of it, while recorded time waits for the clock", () => {
  const machine = new Machine();
  machine.run(600);
  machine.clock.wall -= 60 * MINUTE;
  machine.run(60);
  const last = machine.recorded[machine.recorded.length - 1] as number;
  const lastAgo = 1_000_000;
  equal(machine.elapsed.ago(lastAgo), last, "it was written then");
  for (const before of [1, 1000, 400_000, 600_000, 999_999])
    ok(machine.elapsed.ago(lastAgo + before) < last, `${before} µs before it was written`);
});

test("a clock that is set all the time costs no more than its limit", () => {
  const machine = new Machine();
  for (let step = 0; step < 5000; step++) {
    machine.run(1);
    machine.clock.wall += 2_000_000;
  }
  const { length } = machine.recorded;
  equal(machine.elapsed.ago(1_000_000), machine.recorded[length - 1]);
  ok(machine.elapsed.ago(4999 * 1_000_000) < (machine.recorded[910] ?? 0));
});
