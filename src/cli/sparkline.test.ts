// SPDX-License-Identifier: Apache-2.0
//
// What bars are drawn, and for whom.

import { equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { showsBars, sparkline } from "./sparkline.ts";

const UNICODE = { columns: 80, isUnicode: true };
const ASCII = { columns: 80, isUnicode: false };

test("bars grow with the numbers, in eight steps up to the largest", () => {
  equal(sparkline([1, 2, 3, 4, 5, 6, 7, 8], UNICODE), "▁▂▃▄▅▆▇█");
  equal(sparkline([1, 2, 3, 4, 5, 6, 7, 8], ASCII), ".:-=+*#@");
});

test("nothing is a space, and the least of something can be seen", () => {
  equal(sparkline([0, 1, 0, 1_000_000], UNICODE), " ▁ █");
  equal(sparkline([0, 0], UNICODE), "  ");
  equal(sparkline([], UNICODE), "");
});

test("with a full bar given, numbers are measured by it", () => {
  equal(sparkline([0.5, 1, 2], { ...UNICODE, full: 1 }), "▄██");
});

test("where columns are short, each shows its largest number", () => {
  const values = [0, 0, 8, 0, 1, 0, 0, 4];
  equal(sparkline(values, { ...UNICODE, columns: 4 }), " █▁▄");
  equal(sparkline(values, { ...UNICODE, columns: 3 }), " █▄");
  equal(sparkline(values, { ...UNICODE, columns: 0 }), "");
});

test("a sparkline takes at most its columns and never loses the peak", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 1e9 }), { maxLength: 300 }),
      fc.integer({ min: 1, max: 200 }),
      (values, columns) => {
        const bars = sparkline(values, { columns, isUnicode: true });
        equal(bars.length, Math.min(columns, values.length));
        equal(
          bars.includes("█"),
          values.some((value) => value > 0),
        );
      },
    ),
  );
});

test("only a terminal with a UTF-8 locale and a font gets the bars", () => {
  const shows = (variables: Record<string, string>): boolean =>
    showsBars((name) => variables[name]);
  equal(shows({ LANG: "en_US.UTF-8", TERM: "xterm-256color" }), true);
  equal(shows({ LC_ALL: "C", LANG: "en_US.UTF-8", TERM: "xterm" }), false);
  equal(shows({ LC_CTYPE: "de_DE.utf8", TERM: "screen" }), true);
  equal(shows({ LANG: "en_US.UTF-8", TERM: "linux" }), false);
  equal(shows({ LANG: "en_US.UTF-8", TERM: "dumb" }), false);
  equal(shows({ LANG: "en_US.UTF-8" }), false);
  equal(shows({ TERM: "xterm" }), false);
});
