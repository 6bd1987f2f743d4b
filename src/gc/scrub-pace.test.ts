// SPDX-License-Identifier: Apache-2.0
//
// The pace of a scrub: its share of the time while clients are served, all of it otherwise, and an end as soon as it is
// wanted.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import type { Clock } from "../host/ports.ts";
import { ScrubPace, ScrubStopped } from "./scrub-pace.ts";

/** A clock that moves only when told to, and runs what waits for it. */
class HandClock implements Clock {
  micros = 0;
  readonly rests: number[] = [];
  #waiting: (() => void)[] = [];

  wallMicros(): number {
    return this.micros;
  }
  monotoneMicros(): number {
    return this.micros;
  }
  after(delayMs: number, callback: () => void): () => void {
    this.rests.push(delayMs);
    this.#waiting.push(() => {
      this.micros += delayMs * 1000;
      callback();
    });
    return () => undefined;
  }
  afterInput(callback: () => void): void {
    this.rests.push(0);
    this.#waiting.push(callback);
  }
  run(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const callback of waiting) callback();
  }
}

function make(busySharePercent = 25): { clock: HandClock; pace: ScrubPace; serve: () => void } {
  const clock = new HandClock();
  let served = 0;
  const pace = new ScrubPace({ clock, activity: () => served, busySharePercent });
  const serve = (): void => {
    served += 1;
  };
  return { clock, pace, serve };
}

/** Works for so long, then rests. */
async function slice(
  { clock, pace }: { clock: HandClock; pace: ScrubPace },
  micros: number,
): Promise<void> {
  clock.micros += micros;
  const rest = pace.pause();
  ok(rest !== undefined, "a slice is over");
  clock.run();
  await rest;
}

test("while clients are served it rests three times as long as it worked, else it only gives way", async () => {
  const parts = make();
  await slice(parts, 4000);
  parts.serve();
  await slice(parts, 4000);
  await slice(parts, 8000);
  parts.serve();
  await slice(parts, 8000);
  deepEqual(parts.clock.rests, [0, 12, 0, 24]);
});

test("its share is a setting", async () => {
  const parts = make(50);
  parts.serve();
  await slice(parts, 6000);
  deepEqual(parts.clock.rests, [6]);
});

test("little work is gathered into a slice", async () => {
  const { clock, pace } = make();
  clock.micros += 900;
  equal(pace.pause(), undefined);
  for (let call = 0; call < 254; call++) equal(pace.pause(), undefined);
  const rest = pace.pause();
  ok(rest !== undefined, "but not without end, whatever the clock says");
  clock.run();
  await rest;
});

test("a rest is never longer than a second, and ends when the scrub is stopped", async () => {
  const { clock, pace, serve } = make(1);
  serve();
  clock.micros += 100_000;
  const rest = pace.pause();
  ok(rest !== undefined);
  deepEqual(clock.rests, [1000]);
  pace.stop();
  await rejects(rest, ScrubStopped);
  await rejects(async () => await pace.pause(), ScrubStopped);
  await rejects(pace.orStopped(new Promise(() => undefined)), ScrubStopped);
});
