// SPDX-License-Identifier: Apache-2.0
//
// What is set on the pool as a whole, and the retention of volumes that have one of their own: defaults, and what
// records and checkpoints may say of them. What an older version wrote lacks the later fields; they have the meaning
// that they had then.

import { type Fields, fieldsOf, isCount } from "./catalog-fields.ts";
import type { PoolPolicy, Retention, RetentionSpans } from "./types.ts";

/** What a pool keeps until a record says otherwise: one that was made before there was a choice, too. */
export const KEEPS_ALL: Retention = {
  everyWriteMicros: null,
  hourlyMicros: 0,
  dailyMicros: 0,
  weeklyMicros: 0,
  monthlyMicros: 0,
};

const HOUR_MICROS = 3_600_000_000;
const DAY_MICROS: number = 24 * HOUR_MICROS;

/** What a new pool is told to keep, by a record of its own. */
export const RETENTION_DEFAULT: Retention = {
  everyWriteMicros: DAY_MICROS,
  hourlyMicros: 7 * DAY_MICROS,
  dailyMicros: 30 * DAY_MICROS,
  weeklyMicros: 0,
  monthlyMicros: 0,
};

const HISTORY_FLOOR_DEFAULT_MICROS = HOUR_MICROS;

/** What a POOL_SET record sets, and what of it a checkpoint keeps. */
export type PoolLimits = Omit<PoolPolicy, "retention" | "poolSizeBytes"> & {
  /** Undefined: never set. */
  readonly poolSizeBytes: number | undefined;
};

export const LIMITS_DEFAULT: PoolLimits = {
  poolSizeBytes: undefined,
  whenFull: "shorten-history",
  historyFloorMicros: HISTORY_FLOOR_DEFAULT_MICROS,
};

/** The limits with what the record sets of them; undefined when it makes no sense. */
export function limitsFrom(value: Fields, before: PoolLimits): PoolLimits | undefined {
  const { poolSizeBytes = before.poolSizeBytes } = value;
  const { whenFull = before.whenFull, historyFloorMicros = before.historyFloorMicros } = value;
  if (!(poolSizeBytes === undefined || isCount(poolSizeBytes))) return undefined;
  if (whenFull !== "shorten-history" && whenFull !== "stop-writes") return undefined;
  return isCount(historyFloorMicros) ? { poolSizeBytes, whenFull, historyFloorMicros } : undefined;
}

/** The five spans; undefined when they make no sense. What a former version didn't know of is 0. */
export function retentionFrom(value: unknown): Retention | undefined {
  const { everyWriteMicros, ...others } = fieldsOf(value);
  const { hourlyMicros = 0, dailyMicros = 0, weeklyMicros = 0, monthlyMicros = 0 } = others;
  if (!isSpan(everyWriteMicros) || !isSpan(hourlyMicros) || !isSpan(dailyMicros)) return undefined;
  if (!isSpan(weeklyMicros) || !isSpan(monthlyMicros)) return undefined;
  return { everyWriteMicros, hourlyMicros, dailyMicros, weeklyMicros, monthlyMicros };
}

/** A retention in which what isn't given is 0. */
export function wholeRetention(spans: RetentionSpans): Retention {
  return { ...KEEPS_ALL, ...spans };
}

/** µs; null: for ever. */
function isSpan(value: unknown): value is number | null {
  return value === null || isCount(value);
}
