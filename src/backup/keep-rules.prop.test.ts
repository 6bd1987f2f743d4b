// SPDX-License-Identifier: Apache-2.0
//
// What the rules keep: by example, and what must hold for any points and any rules.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseTime } from "../base/moment-time.ts";
import type { PointEntry } from "./catalog-state.ts";
import { decide, type KeepRules, keepsAnything, newestFirst, timeOf } from "./keep-rules.ts";

const POOL = "00".repeat(16);

function pointAt(name: string, timeMicros: number, more: Partial<PointEntry> = {}): PointEntry {
  const volume = { name: "db", volumeId: 1, sizeBytes: 512, lsn: 1, branch: 1, timeMicros };
  return {
    id: name,
    name,
    manifest: `points/${name}`,
    createdMicros: timeMicros,
    poolId: POOL,
    volumes: [volume],
    newBytes: 0,
    isProtected: false,
    ...more,
  };
}

function at(...times: string[]): PointEntry[] {
  return times.map((time) => pointAt(time, parseTime(time) as number));
}

/** "name: reasons" of those that stay. */
function kept(points: readonly PointEntry[], rules: KeepRules): string[] {
  return decide(points, rules)
    .filter(({ isKept }) => isKept)
    .map(({ point, reasons }) => `${point.name}: ${reasons.join(", ")}`);
}

test("the newest of each period stays, and says by which rule", () => {
  const points = at(
    "2026-02-27T10:00",
    "2026-02-28T10:00",
    "2026-03-01T09:10",
    "2026-03-01T09:50",
    "2026-03-01T10:00",
    "2026-03-02T00:00",
  );
  deepEqual(kept(points, { last: 1 }), ["2026-03-02T00:00: last 1"]);
  deepEqual(kept(points, { daily: 2 }), [
    "2026-03-02T00:00: daily 2026-03-02",
    "2026-03-01T10:00: daily 2026-03-01",
  ]);
  deepEqual(kept(points, { hourly: 3 }), [
    "2026-03-02T00:00: hourly 2026-03-02 00h",
    "2026-03-01T10:00: hourly 2026-03-01 10h",
    "2026-03-01T09:50: hourly 2026-03-01 09h",
  ]);
  // 2026-03-02 is a Monday.
  deepEqual(kept(points, { weekly: 5, monthly: 5, yearly: 5 }), [
    "2026-03-02T00:00: weekly 2026-03-02, monthly 2026-03, yearly 2026",
    "2026-03-01T10:00: weekly 2026-02-23",
    "2026-02-28T10:00: monthly 2026-02",
  ]);
});

test("days without a point don't count: seven daily ones are seven days that have one", () => {
  const points = at("2025-01-01T00:00", "2025-06-01T00:00", "2026-01-01T00:00");
  equal(kept(points, { daily: 3 }).length, 3);
});

test("within goes by the newest point, so nothing goes when backups have stopped", () => {
  const points = at("2020-01-01T00:00", "2020-01-08T00:00", "2020-01-09T00:00");
  deepEqual(kept(points, { withinMicros: 86_400_000_000 }), [
    "2020-01-09T00:00: within",
    "2020-01-08T00:00: within",
  ]);
});

test("sets of volumes don't crowd each other out", () => {
  const db = at("2026-03-01T10:00", "2026-03-01T11:00");
  const [volume] = db[0]!.volumes;
  const web = pointAt("web", 1, { volumes: [{ ...volume!, volumeId: 2, timeMicros: 1 }] });
  const both = pointAt("both", 2, {
    volumes: [
      { ...volume!, volumeId: 2, timeMicros: 1 },
      { ...volume!, timeMicros: 2 },
    ],
  });
  const elsewhere = pointAt("elsewhere", 3, { poolId: "11".repeat(16) });
  deepEqual(kept([...db, web, both, elsewhere], { last: 1 }), [
    "2026-03-01T11:00: last 1",
    "elsewhere: last 1",
    "both: last 1",
    "web: last 1",
  ]);
});

test("a protected point stays whatever the rules, and takes nobody's place", () => {
  const points = at("2026-03-01T10:00", "2026-03-02T10:00", "2026-03-03T10:00").map(
    (point, index) => (index === 0 ? { ...point, isProtected: true } : point),
  );
  deepEqual(kept(points, { last: 1 }), ["2026-03-03T10:00: last 1", "2026-03-01T10:00: protected"]);
});

test("of two points of one moment the later backup is the newer one", () => {
  const [first, second] = [pointAt("first", 5), pointAt("second", 5)];
  deepEqual(
    newestFirst([first, second]).map(({ name }) => name),
    ["second", "first"],
  );
});

const anyRules: fc.Arbitrary<KeepRules> = fc
  .record(
    Object.fromEntries(
      ["last", "hourly", "daily", "weekly", "monthly", "yearly"].map((rule) => [rule, fc.nat(5)]),
    ),
  )
  .map((rules) => rules as KeepRules);
const anyPoints = fc
  .array(fc.nat(3 * 366 * 24), { maxLength: 40 })
  .map((hours) => hours.map((hour, index) => pointAt(String(index), hour * 3_600_000_000)));

test("rules are monotone: more is never less, and what is kept twice is kept by either", () => {
  fc.assert(
    fc.property(anyPoints, anyRules, anyRules, (points, one, other) => {
      const ids = (rules: KeepRules): Set<string> =>
        new Set(decide(points, rules).flatMap(({ point, isKept }) => (isKept ? [point.id] : [])));
      const most: Record<string, number> = {};
      for (const [rule, count] of [...Object.entries(one), ...Object.entries(other)])
        most[rule] = Math.max(most[rule] ?? 0, count as number);
      const union = new Set([...ids(one), ...ids(other)]);
      deepEqual([...ids(most)].sort(), [...union].sort());
      if (keepsAnything(one) && points.length > 0) {
        const newest = newestFirst(points)[0]!;
        ok(ids(one).has(newest.id), "the newest always stays");
      }
    }),
  );
});

test("pruning again with the same rules changes nothing", () => {
  fc.assert(
    fc.property(anyPoints, anyRules, (points, rules) => {
      const left = decide(points, rules).flatMap(({ point, isKept }) => (isKept ? [point] : []));
      const inOrder = points.filter((point) => left.includes(point));
      equal(decide(inOrder, rules).filter(({ isKept }) => !isKept).length, 0);
    }),
  );
});

test("a rule keeps at most as many periods as it says, each by its newest point", () => {
  fc.assert(
    fc.property(anyPoints, fc.nat(6), (points, daily) => {
      const days = decide(points, { daily }).filter(({ isKept }) => isKept);
      ok(days.length <= daily);
      for (const { point } of days) {
        const day = Math.floor(timeOf(point) / 86_400_000_000);
        const same = points.filter((other) => Math.floor(timeOf(other) / 86_400_000_000) === day);
        equal(timeOf(point), Math.max(...same.map(timeOf)));
      }
    }),
  );
});
