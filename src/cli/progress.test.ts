// SPDX-License-Identifier: Apache-2.0
//
// Progress fits its line, tells the truth about what is left, and is silent where nobody looks.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Clock } from "../host/ports.ts";
import {
  ProgressMeter,
  type ProgressSnapshot,
  type ProgressStyle,
  renderBar,
  renderJson,
  renderLine,
  renderSummary,
} from "./progress.ts";

const GIB = 2 ** 30;
const HALF: ProgressSnapshot = {
  label: "disk.qcow2",
  doneBytes: 4.5 * GIB,
  totalBytes: 10 * GIB,
  elapsedMs: 9000,
  bytesPerSecond: GIB / 2,
};

test("the bar says what, how much, how fast and how long", () => {
  equal(
    renderBar(HALF, 100),
    "disk.qcow2 [#############-----------------]   45 %  4.5 GiB of 10.0 GiB  512 MiB/s  11 s left",
  );
});

test("a narrow terminal loses the bar, the label, the rest and last the percentage", () => {
  equal(renderBar(HALF, 78).length <= 78, true);
  match(renderBar(HALF, 78), /^disk\.qcow2 \[#+-+\] +45 %/);
  equal(renderBar(HALF, 62), "disk.qcow2   45 %  4.5 GiB of 10.0 GiB  512 MiB/s  11 s left");
  equal(renderBar(HALF, 55), " 45 %  4.5 GiB of 10.0 GiB  512 MiB/s  11 s left");
  equal(renderBar(HALF, 10), " 45 %");
});

test("a bar is never longer than its line, and never breaks it", () => {
  fc.assert(
    fc.property(
      fc.record({
        label: fc.stringMatching(/^[a-z./-]{0,40}$/),
        doneBytes: fc.maxSafeNat(),
        totalBytes: fc.option(fc.maxSafeNat(), { nil: undefined }),
        elapsedMs: fc.nat(),
        bytesPerSecond: fc.option(fc.double({ min: 0, max: 1e12, noNaN: true }), {
          nil: undefined,
        }),
      }),
      fc.integer({ min: 10, max: 200 }),
      (snapshot, columns) => {
        const line = renderBar(snapshot, columns);
        ok(line.length <= columns, `${line.length} > ${columns}: ${line}`);
        ok(!/[\n\r]|NaN|undefined|Infinity/.test(line), line);
      },
    ),
  );
});

test("the last percent is only shown when all is done", () => {
  match(renderBar({ ...HALF, doneBytes: 10 * GIB - 1 }, 100), / 99 % /);
  match(renderBar({ ...HALF, doneBytes: 10 * GIB }, 100), /\[#{30}\] +100 % .*512 MiB\/s$/);
  match(renderBar({ ...HALF, doneBytes: 0, totalBytes: 0 }, 100), /100 %/);
});

test("a stream of unknown length has no percentage and no time left", () => {
  const stream = { ...HALF, totalBytes: undefined };
  equal(renderBar(stream, 80), "disk.qcow2  4.5 GiB  512 MiB/s");
  equal(renderLine(stream), "disk.qcow2: 4.5 GiB, 512 MiB/s");
});

test("a log gets a plain line, a program gets numbers", () => {
  equal(renderLine(HALF), "disk.qcow2: 4.5 GiB of 10.0 GiB (45 %), 512 MiB/s, 11 s left");
  deepEqual(JSON.parse(renderJson(HALF, false)), {
    progress: "disk.qcow2",
    doneBytes: 4.5 * GIB,
    totalBytes: 10 * GIB,
    elapsedMs: 9000,
    bytesPerSecond: GIB / 2,
    secondsLeft: 11,
    isDone: false,
  });
  const unknown = renderJson({ ...HALF, totalBytes: undefined, bytesPerSecond: undefined }, true);
  deepEqual(
    [JSON.parse(unknown).totalBytes, JSON.parse(unknown).secondsLeft, JSON.parse(unknown).isDone],
    [null, null, true],
  );
});

test("a copy that stands still promises nothing", () => {
  equal(
    renderLine({ ...HALF, bytesPerSecond: 0 }),
    "disk.qcow2: 4.5 GiB of 10.0 GiB (45 %), 0 B/s",
  );
  ok(!renderLine({ ...HALF, bytesPerSecond: 1 }).includes("left"));
});

test("the summary divides by the time it took", () => {
  equal(renderSummary(10 * GIB, 20_000), "10.0 GiB in 20 s (512 MiB/s)");
  equal(renderSummary(0, 0), "0 B in 0 ms");
});

class FakeClock implements Clock {
  ms = 5000;
  wallMicros(): number {
    return 0;
  }
  monotoneMicros(): number {
    return this.ms * 1000;
  }
  after(): () => void {
    throw new Error("a meter needs no timer");
  }
  afterInput(): void {
    throw new Error("a meter needs no turns");
  }
}

function metered(style: ProgressStyle): {
  meter: ProgressMeter;
  clock: FakeClock;
  written: string[];
} {
  const clock = new FakeClock();
  const written: string[] = [];
  const write = (text: string): void => void written.push(text);
  const meter = new ProgressMeter({ label: "db", style, clock, write, columns: () => 100 });
  return { meter, clock, written };
}

test("a bar is drawn at once, ten times a second at most, and ends with its line", () => {
  const { meter, clock, written } = metered("bar");
  for (let step = 0; step <= 1000; step += 1) {
    meter.update(step * 1000, 1_000_000);
    clock.ms += 1;
  }
  equal(written.length, 11);
  ok(written.every((text) => text.startsWith("\r\x1b[Kdb [")));
  meter.finish();
  meter.finish();
  match(written.at(-2)!, /100 %/);
  equal(written.at(-1), "\n");
});

test("the rate is that of the last seconds, at the end that of the whole", () => {
  const { meter, clock, written } = metered("json");
  let done = 0;
  for (let second = 1; second <= 20; second += 1) {
    clock.ms += 1000;
    done += second <= 10 ? 1000 : 9000;
    meter.update(done, undefined);
  }
  const rates = written.map((line) => JSON.parse(line).bytesPerSecond);
  equal(written.length, 20);
  equal(rates[9], 1000);
  equal(rates[19], 9000);
  meter.finish();
  equal(JSON.parse(written.at(-1)!).bytesPerSecond, 5000);
  equal(JSON.parse(written.at(-1)!).isDone, true);
});

test("without a terminal there is a line a minute, and none for what takes less", () => {
  const { meter, clock, written } = metered("lines");
  for (let second = 0; second < 150; second += 1) {
    meter.update(second * 1000, 150_000);
    clock.ms += 1000;
  }
  meter.finish();
  equal(written.length, 2);
  match(written[0]!, /^db: 58\.6 KiB of 146 KiB \(40 %\), 1000 B\/s, 1 min left\n$/);
});

test("silent is silent, and a failure takes the bar away", () => {
  const silent = metered("none");
  silent.clock.ms += 1e9;
  silent.meter.update(1, 2);
  silent.meter.finish();
  deepEqual(silent.written, []);
  const failed = metered("bar");
  failed.meter.update(1, 2);
  failed.meter.stop();
  failed.meter.update(2, 2);
  failed.meter.finish();
  equal(failed.written.length, 2);
  equal(failed.written[1], "\r\x1b[K");
});
