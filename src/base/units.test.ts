// SPDX-License-Identifier: Apache-2.0
//
// What people write is read back as they meant it, and nothing ambiguous is guessed at.

import { equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  formatDuration,
  formatSize,
  formatTime,
  parseDurationMicros,
  parseDurationMs,
  parseSize,
  spellDuration,
  spellSize,
} from "./units.ts";

test("sizes are binary and whole", () => {
  equal(parseSize("10G"), 10 * 1024 ** 3);
  equal(parseSize("10g"), 10 * 1024 ** 3);
  equal(parseSize("10 GiB"), 10 * 1024 ** 3);
  equal(parseSize("1.5T"), 1.5 * 1024 ** 4);
  equal(parseSize("4096"), 4096);
  equal(parseSize("4096B"), 4096);
});

test("a size that is ambiguous, negative, broken or unsafe is not understood", () => {
  for (const text of [
    "",
    "G",
    "10GB",
    "-1",
    "1.3",
    "0.1K",
    "1e9",
    "9999P",
    "0x10",
    "10 G G",
    "١٠",
  ]) {
    equal(parseSize(text), undefined, text);
  }
});

test("a spelled size reads back as the same number", () => {
  fc.assert(fc.property(fc.maxSafeNat(), (bytes) => equal(parseSize(spellSize(bytes)), bytes)));
  equal(spellSize(10 * 1024 ** 3), "10G");
  equal(spellSize(1536 * 1024 ** 2), "1536M");
});

test("sizes for people have three digits that matter", () => {
  equal(formatSize(0), "0 B");
  equal(formatSize(512), "512 B");
  equal(formatSize(4 * 1024 ** 3), "4.0 GiB");
  equal(formatSize(100 * 1024 ** 3), "100 GiB");
  equal(formatSize(1024 ** 3 - 1), "1.0 GiB");
  equal(formatSize(64 * 1024 ** 4), "64.0 TiB");
});

test("durations are numbers with units, the large ones first", () => {
  equal(parseDurationMs("250ms"), 250);
  equal(parseDurationMs("10m"), 600_000);
  equal(parseDurationMs("2w"), 1_209_600_000);
  equal(parseDurationMs("1h30m"), 5_400_000);
  equal(parseDurationMs("1.5h"), 5_400_000);
  equal(parseDurationMs("1w1d1h1m1s1ms"), 694_861_001);
  equal(parseDurationMicros("0.25ms"), 250);
  for (const text of ["", "10", "m", "-1h", "1h 30m", "30m1h", "1m1m", "1e3s", "99999999999w"])
    equal(parseDurationMs(text), undefined, text);
});

test("a duration is spelled exactly, and for people roughly", () => {
  equal(spellDuration(0), "0s");
  equal(spellDuration(250), "0.25ms");
  equal(spellDuration(90_000_000), "1m30s");
  equal(spellDuration(3_600_000_001), "1h0.000001s");
  equal(spellDuration(14 * 86_400_000_000), "14d");
  equal(formatDuration(999), "999 ms");
  equal(formatDuration(12_000), "12 s");
  equal(formatDuration(7_500_000), "2 h 5 min");
  equal(formatDuration(86_400_000 * 9), "9 d");
});

test("times show microseconds only where there are some", () => {
  equal(formatTime(1_772_366_400_250_000), "2026-03-01T12:00:00.250Z");
  equal(formatTime(1_772_366_400_250_007), "2026-03-01T12:00:00.250007Z");
});
