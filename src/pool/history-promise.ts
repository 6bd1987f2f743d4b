// SPDX-License-Identifier: Apache-2.0
//
// What is promised of the past, and what of checkpoints and change lists that takes. Asked at each checkpoint:
//
//        hourly, daily … kept        every write kept                     being written
//   ────●─────────●──────●────────[═════●═════●═════●═════●═════════════]
//       a base each              from a base on, all bases and lists
//
// A promise only shrinks: where it begins moves forward, and a kept moment that is let go doesn't come back, whatever
// clocks and settings say later; for what isn't promised any more may be collected at once. So the promise itself is kept
// in the checkpoint, and garbage collection goes by what is in there.
//
// Only where a checkpoint was taken can there be a base. So one is due in each hour in which something is written, however
// little that is (`hasMoments`, Pool): else a day that changed less than makes a checkpoint due would have no moment.
//
// Volumes that share a retention share a promise: there is one for the pool's, and one for each volume that has its own.
// Besides, moments are pinned one by one: named ones, where branches begin, views that are open.

import { assert } from "../base/assert.ts";
import type { ChangeListFile } from "../index/change-list.ts";
import type { HistoryBase } from "../index/checkpoint-body.ts";
import {
  baseBefore,
  type ChosenHistory,
  type KnownHistory,
  listsThrough,
} from "../index/kept-checkpoints.ts";
import type { ReplayStart } from "../log/replay-start.ts";
import { type Fields, fieldsOf, isCount } from "./catalog-fields.ts";
import type { Retention } from "./types.ts";

/** What is promised of the volumes that share a retention. */
export interface GroupPromise {
  /** 0: those that have the pool's retention; else the volume that has its own. */
  readonly volume: number;
  /** Every moment is promised from the one on that all records before this LSN make; undefined: no such window. */
  readonly fromLsn: number | undefined;
  /** Moments before this LSN were let go, if they aren't kept. */
  readonly goneLsn: number;
  /** Earlier moments that are promised, by the first LSN behind each: cuts of bases, ascending. */
  readonly kept: readonly number[];
}

export interface RetentionGroup {
  readonly volume: number;
  readonly retention: Retention;
}

export interface PromiseInput {
  readonly known: KnownHistory;
  /** The pool's own first. */
  readonly groups: readonly RetentionGroup[];
  readonly before: readonly GroupPromise[];
  /** LSNs of moments that are kept whatever retention says. */
  readonly pins: readonly number[];
  readonly nowMicros: number;
  /** Bases stand no nearer to each other, in records, but for other reasons. */
  readonly baseDistance: number;
}

export const HOUR_MICROS = 3_600_000_000;
const DAY_MICROS: number = 24 * HOUR_MICROS;
/** The first day of 1970 was a Thursday; weeks begin on Mondays. */
const WEEK_SHIFT_DAYS = 3;
/** Lists that lead from a base to a moment, at most. */
const LISTS_PER_BASE_MAX = 8;
/** Within a window of every write a base is due after such a part of it: it holds so much too much at most. */
const BASES_IN_WINDOW = 16;

export function choosePromise(input: PromiseInput): {
  readonly chosen: ChosenHistory;
  readonly promises: readonly GroupPromise[];
} {
  const bases = withoutIdle(input);
  const promises = input.groups.map((group) => promiseOf(input, group, bases));
  const { known, pins } = input;
  const neededBases = new Set<HistoryBase>();
  const neededLists = new Set<ChangeListFile>();
  const fromLsn = Math.min(...promises.map((promise) => promise.fromLsn ?? known.cutLsn));
  const kept = new Set(promises.flatMap((promise) => promise.kept));
  for (const base of bases)
    if (base.cut.nextLsn >= fromLsn || kept.has(base.cut.nextLsn)) neededBases.add(base);
  for (const list of known.lists) if (list.endLsn > fromLsn) neededLists.add(list);
  for (const lsn of pins) {
    const base = baseBefore(bases, lsn);
    const way = listsThrough(known.lists, base?.cut.nextLsn ?? 1, Math.min(lsn, known.cutLsn - 1));
    if (base !== undefined) neededBases.add(base);
    for (const list of way ?? []) neededLists.add(list);
  }
  const chosen = {
    bases: bases.filter((base) => neededBases.has(base)),
    lists: known.lists.filter((list) => neededLists.has(list)),
    promise: { groups: promises },
  };
  return { chosen, promises };
}

/** What a checkpoint's body says is promised; nothing of what makes no sense. */
export function promisesFrom({ groups = [] }: Fields): GroupPromise[] {
  if (!Array.isArray(groups)) return [];
  return groups.flatMap((value) => {
    const { volume, fromLsn, goneLsn, kept } = fieldsOf(value);
    const isPromise =
      isCount(volume) &&
      (fromLsn === undefined || isCount(fromLsn)) &&
      isCount(goneLsn) &&
      Array.isArray(kept) &&
      kept.every(isCount);
    return isPromise ? [{ volume, fromLsn, goneLsn, kept }] : [];
  });
}

/** The promise that a volume is under. */
export function promiseFor(promises: readonly GroupPromise[], volume: number): GroupPromise {
  const own = promises.find((promise) => promise.volume === volume);
  return own ?? promises.find((promise) => promise.volume === 0) ?? NOTHING_LET_GO;
}

/** Whether the moment #lsn is promised; pins come besides. */
export function isPromised({ fromLsn, kept }: GroupPromise, lsn: number): boolean {
  return (fromLsn !== undefined && lsn + 1 >= fromLsn) || kept.includes(lsn + 1);
}

/** Whether the retention promises moments from before its window of every write. */
export function hasMoments({ everyWriteMicros, ...spans }: Retention): boolean {
  const reach = Math.max(...Object.values(spans).map((span) => span ?? Number.POSITIVE_INFINITY));
  return everyWriteMicros !== null && reach > everyWriteMicros;
}

/** Of a new pool. */
const NOTHING_LET_GO: GroupPromise = { volume: 0, fromLsn: 0, goneLsn: 0, kept: [] };

/** The last base is the checkpoint before this one: where little happened since the one before that, it isn't worth keeping. */
function withoutIdle(input: PromiseInput): readonly HistoryBase[] {
  const { known, groups, pins, nowMicros, baseDistance } = input;
  const { bases, lists, cutMicros } = known;
  const [before, last] = [bases[bases.length - 2], bases[bases.length - 1]];
  if (before === undefined || last === undefined) return bases;
  const windows = groups.map(({ retention }) => retention.everyWriteMicros ?? HOUR_MICROS * 24);
  const dueMicros = Math.min(HOUR_MICROS, Math.max(...windows) / BASES_IN_WINDOW);
  const way = listsThrough(lists, before.cut.nextLsn, known.cutLsn - 1);
  const successors = [last, { cut: { recordedMicros: cutMicros } }];
  const isNeeded =
    way === undefined ||
    // Of its hour, or day, there won't be another.
    groups.some(({ retention }) => lastOfEach(successors, retention, nowMicros).has(last)) ||
    way.length >= LISTS_PER_BASE_MAX ||
    last.cut.nextLsn - before.cut.nextLsn >= baseDistance ||
    last.cut.recordedMicros - before.cut.recordedMicros >= dueMicros ||
    // A window that began at this one reaches no further back.
    (before.cut.nextLsn < last.cut.nextLsn &&
      input.before.some(({ fromLsn }) => fromLsn === last.cut.nextLsn)) ||
    // A disk of such a moment names pages of this one since it was opened.
    pins.some((lsn) => lsn + 1 >= last.cut.nextLsn);
  return isNeeded ? bases : bases.slice(0, -1);
}

function promiseOf(
  input: PromiseInput,
  { volume, retention }: RetentionGroup,
  bases: readonly HistoryBase[],
): GroupPromise {
  const { known, nowMicros } = input;
  // A volume that gets a retention of its own comes out of the pool's.
  const before = promiseFor(input.before, volume);
  const begin = windowBegin(known, bases, retention, nowMicros);
  // While there was no window anything may have been collected: a new one begins here.
  const earliest = before.fromLsn ?? known.cutLsn;
  const fromLsn = begin === undefined ? undefined : Math.max(earliest, begin);
  const goneLsn = fromLsn ?? known.cutLsn;
  const wasKept = new Set(before.kept);
  const isCandidate = ({ cut: { nextLsn } }: HistoryBase): boolean =>
    nextLsn < goneLsn &&
    (wasKept.has(nextLsn) || (before.fromLsn !== undefined && nextLsn >= before.fromLsn));
  const candidates = bases.filter(isCandidate);
  const inWindow = bases.filter(({ cut }) => cut.nextLsn >= goneLsn);
  const scheduled = lastOfEach([...candidates, ...inWindow], retention, nowMicros);
  const kept = candidates.filter((base) => scheduled.has(base)).map(({ cut }) => cut.nextLsn);
  return { volume, fromLsn, goneLsn, kept };
}

/** Where the window of every write begins: at the newest base before it. Undefined: there is no window. */
function windowBegin(
  { cutLsn }: KnownHistory,
  bases: readonly HistoryBase[],
  { everyWriteMicros }: Retention,
  nowMicros: number,
): number | undefined {
  if (everyWriteMicros === null) return 0;
  if (everyWriteMicros === 0) return undefined;
  const begin = nowMicros - everyWriteMicros;
  const base = bases.findLast(({ cut }) => cut.recordedMicros <= begin);
  return base === undefined ? 0 : Math.min(base.cut.nextLsn, cutLsn);
}

/** The last base of each hour, day, week and month, as far back as the retention says for each. */
function lastOfEach<Base extends { readonly cut: Pick<ReplayStart, "recordedMicros"> }>(
  bases: readonly Base[],
  retention: Retention,
  nowMicros: number,
): ReadonlySet<Base> {
  const { hourlyMicros, dailyMicros, weeklyMicros, monthlyMicros } = retention;
  const schedules = [
    { spanMicros: hourlyMicros, bucketOf: (micros: number) => Math.floor(micros / HOUR_MICROS) },
    { spanMicros: dailyMicros, bucketOf: dayOf },
    {
      spanMicros: weeklyMicros,
      bucketOf: (micros: number) => Math.floor((dayOf(micros) + WEEK_SHIFT_DAYS) / 7),
    },
    { spanMicros: monthlyMicros, bucketOf: (micros: number) => monthOf(dayOf(micros)) },
  ];
  const kept = new Set<Base>();
  for (const { spanMicros, bucketOf } of schedules) {
    if (spanMicros === 0) continue;
    const beginMicros = spanMicros === null ? 0 : nowMicros - spanMicros;
    const last = new Map<number, Base>();
    for (const base of bases)
      if (base.cut.recordedMicros >= beginMicros) last.set(bucketOf(base.cut.recordedMicros), base);
    for (const base of last.values()) kept.add(base);
  }
  return kept;
}

function dayOf(micros: number): number {
  return Math.floor(micros / DAY_MICROS);
}

/** Months since March of year 0, of a day since 1970 (Howard Hinnant, chrono-compatible low-level date algorithms). */
function monthOf(day: number): number {
  const shifted = day + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra -
      Math.floor(dayOfEra / 1460) +
      Math.floor(dayOfEra / 36_524) -
      Math.floor(dayOfEra / 146_096)) /
      365,
  );
  const dayOfYear =
    dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const month = Math.floor((5 * dayOfYear + 2) / 153);
  assert(month >= 0 && month < 12, "a year has twelve months");
  return (era * 400 + yearOfEra) * 12 + month;
}
