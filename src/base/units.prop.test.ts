// SPDX-License-Identifier: Apache-2.0
//
// Laws of sizes and durations: what is spelled is read back exactly, and nothing but a safe whole number
// is ever read.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  formatSize,
  parseDurationMicros,
  parseDurationMs,
  parseSize,
  spellDuration,
  spellSize,
} from "./units.ts";

const anyBytes = fc.oneof(
  fc.maxSafeNat(),
  fc.tuple(fc.nat(8191), fc.nat(4)).map(([count, exponent]) => count * 1024 ** exponent),
);

test("every number of bytes is spelled so that it is read back exactly", () => {
  fc.assert(fc.property(anyBytes, (bytes) => equal(parseSize(spellSize(bytes)), bytes)));
});

test("every number of microseconds is spelled so that it is read back exactly", () => {
  const micros = fc.oneof(
    fc.maxSafeNat(),
    fc.nat(2_000_000),
    fc.nat(2000).map((count) => count * 60_000_000),
  );
  fc.assert(
    fc.property(micros, (value) => equal(parseDurationMicros(spellDuration(value)), value)),
  );
});

test("any text is either a safe whole number of bytes or nothing", () => {
  const almost = fc.stringMatching(/^ ?[0-9]{0,20}\.?[0-9]{0,10} ?[KMGTPkmgtpiB]{0,3}$/);
  fc.assert(
    fc.property(fc.oneof(fc.string(), almost), (text) => {
      const bytes = parseSize(text);
      ok(bytes === undefined || (Number.isSafeInteger(bytes) && bytes >= 0));
      const ms = parseDurationMs(text);
      ok(ms === undefined || (Number.isSafeInteger(ms) && ms >= 0));
    }),
  );
});

test("a size for people has the digits that it shows right", () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const match = /^([\d.]+) (B|[KMGTP])(?:iB)?$/.exec(formatSize(bytes));
      ok(match, formatSize(bytes));
      const shown = Number(match[1]) * 1024 ** "BKMGTP".indexOf(match[2]!);
      // One digit behind the point: half of it on 1.0 is 5 %.
      ok(Math.abs(shown - bytes) <= bytes * 0.05);
    }),
  );
});
