// SPDX-License-Identifier: Apache-2.0
//
// Which points a set of rules keeps: a pure function, so that a dry run says exactly what a prune would do, and why.
//
// The rules look at the points of each set of volumes by themselves: two disks that share a target don't crowd each other
// out. A point's time is that of the moment in it, not of its backup: a backup that was caught up late counts for the
// day that it is of. Days, weeks (from Monday) and months are those of UTC.
//
//   last N       the N newest
//   within T     all that are at most T older than the newest: if backups stop, nothing goes
//   daily N      the newest of each of the last N days that have one; hourly, weekly, monthly, yearly alike
//
// A point stays when any rule keeps it, or it is protected.

import { formatTime } from "../base/units.ts";
import type { PointEntry } from "./catalog-state.ts";

export interface KeepRules {
  readonly last?: number;
  readonly withinMicros?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
}

export interface Decision {
  readonly point: PointEntry;
  readonly isKept: boolean;
  /** "daily 2026-03-01": why it stays. Empty when it doesn't. */
  readonly reasons: readonly string[];
}

const DAY_MICROS = 86_400_000_000;
/** 1970-01-01 was a Thursday, the fourth day of its week. */
const WEEKDAY_OF_FIRST = 3;

/** Names the period that a time is in; equal texts are one period. */
const PERIODS: readonly (readonly [keyof KeepRules, (micros: number) => string])[] = [
  ["hourly", (micros) => `${formatTime(micros).slice(0, 13).replace("T", " ")}h`],
  ["daily", (micros) => formatTime(micros).slice(0, 10)],
  ["weekly", (micros) => formatTime(mondayBefore(micros)).slice(0, 10)],
  ["monthly", (micros) => formatTime(micros).slice(0, 7)],
  ["yearly", (micros) => formatTime(micros).slice(0, 4)],
];

/** One decision per point, newest first. */
export function decide(points: readonly PointEntry[], rules: KeepRules): Decision[] {
  const sets = new Map<string, PointEntry[]>();
  for (const point of newestFirst(points)) {
    const key = volumeSetOf(point);
    sets.set(key, [...(sets.get(key) ?? []), point]);
  }
  const reasons = new Map<PointEntry, string[]>();
  for (const point of points) reasons.set(point, point.isProtected ? ["protected"] : []);
  const keep = (point: PointEntry, reason: string): unknown => reasons.get(point)?.push(reason);
  for (const set of sets.values()) applyTo(set, rules, keep);
  return newestFirst(points).map((point) => {
    const found = reasons.get(point) ?? [];
    return { point, isKept: found.length > 0, reasons: found };
  });
}

/** Whether the rules can keep anything at all. */
export function keepsAnything({ withinMicros, ...counts }: KeepRules): boolean {
  return withinMicros !== undefined || Object.values(counts).some((count) => count > 0);
}

/** When the newest of the moments in it was. */
export function timeOf({ volumes }: PointEntry): number {
  return Math.max(...volumes.map(({ timeMicros }) => timeMicros));
}

/** Of two of the same moment the one that was committed later comes first. */
export function newestFirst(points: readonly PointEntry[]): PointEntry[] {
  return [...points].reverse().sort((one, other) => timeOf(other) - timeOf(one));
}

/** Equal for points of the same volumes of one pool. */
export function volumeSetOf({ poolId, volumes }: PointEntry): string {
  const ids = volumes.map(({ volumeId }) => volumeId).sort((one, other) => one - other);
  return `${poolId} ${ids.join()}`;
}

function applyTo(
  set: readonly PointEntry[],
  rules: KeepRules,
  keep: (point: PointEntry, reason: string) => unknown,
): void {
  const [newest] = set;
  if (newest === undefined) return;
  const { last = 0, withinMicros } = rules;
  for (const [index, point] of set.slice(0, last).entries()) keep(point, `last ${index + 1}`);
  if (withinMicros !== undefined) {
    const start = timeOf(newest) - withinMicros;
    for (const point of set) if (timeOf(point) >= start) keep(point, "within");
  }
  for (const [rule, periodOf] of PERIODS) {
    const periods = new Set<string>();
    for (const point of set) {
      const period = periodOf(timeOf(point));
      if (periods.has(period)) continue;
      if (periods.size >= (rules[rule] ?? 0)) break;
      periods.add(period);
      keep(point, `${rule} ${period}`);
    }
  }
}

function mondayBefore(micros: number): number {
  const day = Math.floor(micros / DAY_MICROS);
  return Math.max(0, day - ((day + WEEKDAY_OF_FIRST) % 7)) * DAY_MICROS;
}
