// SPDX-License-Identifier: Apache-2.0
//
// Schedules of backups: what the catalog knows of them. A schedule names its volumes by id, so that it stays theirs when
// they are renamed or rewound; a removed volume comes back with its schedules. Its last result is kept with it, one record
// per run: what is due after a restart follows from that.
//
// Their records may be passed over by a reader that doesn't know them, and what it writes then lacks the schedules. So none
// contradicts what isn't there: a record that sets a schedule says all of it, and a result of an unknown one is dropped.

import {
  type Fields,
  fieldsOf,
  isCount,
  isFlag,
  isId,
  isListOf,
  isNameField,
  isOptional,
  isText,
} from "./catalog-fields.ts";

/** Rules of a prune after each backup; none: every point stays. */
export interface ScheduleKeep {
  readonly last?: number;
  readonly withinMicros?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
}

/** What whoever makes a schedule says of it. */
export interface ScheduleSettings {
  readonly name: string;
  /** By id. */
  readonly volumes: readonly number[];
  /** An absolute path. */
  readonly target: string;
  readonly everyMicros: number;
  readonly keep: ScheduleKeep;
  /** One of them at most, an absolute path. */
  readonly keyFile?: string;
  readonly passphraseFile?: string;
  readonly limitBytesPerSecond?: number;
}

/** How a run ended. */
export interface ScheduleRun {
  /** The time of the grid that it was for. */
  readonly dueMicros: number;
  readonly startedMicros: number;
  readonly durationMicros: number;
  /** There is a new point. */
  readonly isDone: boolean;
  /** How many there were for this time. */
  readonly attempt: number;
  /** Of the new point. */
  readonly point?: string;
  readonly readBytes: number;
  /** What the target didn't hold, and what of it is stored there. */
  readonly sentBytes: number;
  readonly storedBytes: number;
  /** Why it failed; of one that is done, why its prune failed. */
  readonly problem?: { readonly code: string; readonly message: string };
}

export interface Schedule extends ScheduleSettings {
  readonly id: number;
  /** Due times are this plus whole intervals. */
  readonly beginMicros: number;
  /** When it was made, or resumed last. */
  readonly activeMicros: number;
  readonly isPaused: boolean;
  readonly lastRun?: ScheduleRun;
  /** The last that made a point. */
  readonly lastDone?: ScheduleRun;
}

/** A schedule as its record has it. */
export type ScheduleFields = Omit<Schedule, "lastRun" | "lastDone">;

export const SCHEDULES_MAX = 64;
export const SCHEDULE_VOLUMES_MAX = 64;
export const EVERY_MICROS_MIN = 60_000_000;
/** A year, with its leap day. */
export const EVERY_MICROS_MAX: number = 366 * 86_400_000_000;
/** Two of them and the rest fit into a record. */
const PATH_LENGTH_MAX = 1024;
const KEEP_COUNT_MAX = 1_000_000;
const RATE_MIN = 1024;
const CODE_LENGTH_MAX = 64;
export const PROBLEM_LENGTH_MAX = 500;
const KEEP_RULES = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;

export class CatalogSchedules {
  readonly #byId: Map<number, Schedule> = new Map();
  nextId = 1;

  /** In the order in which they were made. */
  all(): readonly Schedule[] {
    return [...this.#byId.values()].sort((one, other) => one.id - other.id);
  }

  find(id: number): Schedule | undefined {
    return this.#byId.get(id);
  }

  named(name: string): Schedule | undefined {
    return this.all().find((schedule) => schedule.name === name);
  }

  /** SCHEDULE_SET: makes it or replaces all of it but its results. False when it makes no sense. */
  set(body: Fields): boolean {
    const fields = scheduleFrom(body);
    if (fields === undefined) return false;
    const { lastRun, lastDone } = this.#byId.get(fields.id) ?? {};
    this.#put(withResults(fields, lastRun, lastDone));
    return true;
  }

  /** SCHEDULE_REMOVED. */
  removed({ schedule }: Fields): boolean {
    if (!isId(schedule)) return false;
    this.#byId.delete(schedule);
    return true;
  }

  /** SCHEDULE_RAN. */
  ran(body: Fields): boolean {
    const run = runFrom(body);
    if (run === undefined || !isId(body.schedule)) return false;
    const before = this.#byId.get(body.schedule);
    if (before === undefined) return true;
    const { lastRun: _, lastDone, ...fields } = before;
    this.#put(withResults(fields, run, run.isDone ? run : lastDone));
    return true;
  }

  toJson(): object {
    return { nextId: this.nextId, list: this.all() };
  }

  /** Takes what `toJson` gave. False when it makes no sense. */
  take(json: unknown): boolean {
    const { nextId, list } = fieldsOf(json);
    if (!isId(nextId) || !Array.isArray(list) || list.length > SCHEDULES_MAX) return false;
    for (const value of list) {
      const { id, lastRun: run, lastDone: done, ...rest } = fieldsOf(value);
      const fields = scheduleFrom({ ...rest, schedule: id });
      const lastRun = run === undefined ? undefined : runFrom(fieldsOf(run));
      const lastDone = done === undefined ? undefined : runFrom(fieldsOf(done));
      if (fields === undefined || this.#byId.has(fields.id) || this.named(fields.name))
        return false;
      if ((run !== undefined && lastRun === undefined) || (done !== undefined && !lastDone?.isDone))
        return false;
      this.#put(withResults(fields, lastRun, lastDone));
    }
    if (nextId < this.nextId) return false;
    this.nextId = nextId;
    return true;
  }

  /** What stands in its way was forgotten by an older version: its name is free, and there is room. */
  #put(schedule: Schedule): void {
    const namesake = this.named(schedule.name);
    if (namesake !== undefined) this.#byId.delete(namesake.id);
    this.#byId.delete(schedule.id);
    const [oldest] = this.all();
    if (oldest !== undefined && this.#byId.size >= SCHEDULES_MAX) this.#byId.delete(oldest.id);
    this.#byId.set(schedule.id, schedule);
    this.nextId = Math.max(this.nextId, schedule.id + 1);
  }
}

/** A field of a record is there or not, never undefined. */
function withResults(
  fields: ScheduleFields,
  lastRun: ScheduleRun | undefined,
  lastDone: ScheduleRun | undefined,
): Schedule {
  return {
    ...fields,
    ...(lastRun === undefined ? {} : { lastRun }),
    ...(lastDone === undefined ? {} : { lastDone }),
  };
}

/** undefined when it makes no sense. */
function scheduleFrom(body: Fields): ScheduleFields | undefined {
  const { schedule: id, name, volumes, target, everyMicros, beginMicros, ...rest } = body;
  const { activeMicros, isPaused, keyFile, passphraseFile, limitBytesPerSecond } = rest;
  const keep = keepFrom(rest.keep);
  if (!isId(id) || !isNameField(name) || keep === undefined) return undefined;
  if (!isVolumeList(volumes) || !isPath(target) || !isInterval(everyMicros)) return undefined;
  if (!isCount(beginMicros) || !isCount(activeMicros) || !isFlag(isPaused)) return undefined;
  if (!isOptional(keyFile, isPath) || !isOptional(passphraseFile, isPath)) return undefined;
  if (keyFile !== undefined && passphraseFile !== undefined) return undefined;
  if (!isOptional(limitBytesPerSecond, isRate)) return undefined;
  return {
    id,
    name,
    volumes: [...volumes],
    target,
    everyMicros,
    beginMicros,
    activeMicros,
    isPaused,
    keep,
    ...(keyFile === undefined ? {} : { keyFile }),
    ...(passphraseFile === undefined ? {} : { passphraseFile }),
    ...(limitBytesPerSecond === undefined ? {} : { limitBytesPerSecond }),
  };
}

/** undefined when it makes no sense, or would keep nothing. */
function keepFrom(value: unknown): ScheduleKeep | undefined {
  const fields = fieldsOf(value);
  const keep: { -readonly [rule in keyof ScheduleKeep]: ScheduleKeep[rule] } = {};
  for (const rule of KEEP_RULES) {
    const count = fields[rule];
    if (count === undefined) continue;
    if (!isCount(count) || count > KEEP_COUNT_MAX) return undefined;
    keep[rule] = count;
  }
  const { withinMicros } = fields;
  if (!isOptional(withinMicros, isCount)) return undefined;
  if (withinMicros !== undefined) keep.withinMicros = withinMicros;
  return Object.keys(keep).length === 0 || keepsSomething(keep) ? keep : undefined;
}

function keepsSomething({ withinMicros, ...counts }: ScheduleKeep): boolean {
  return withinMicros !== undefined || Object.values(counts).some((count) => count > 0);
}

function runFrom(body: Fields): ScheduleRun | undefined {
  const { dueMicros, startedMicros, durationMicros, isDone, attempt, point, problem } = body;
  const { readBytes, sentBytes, storedBytes } = body;
  if (!Number.isSafeInteger(dueMicros) || !isCount(startedMicros)) return undefined;
  if (!isCount(durationMicros) || !isFlag(isDone) || !isCount(attempt)) return undefined;
  if (!isCount(readBytes) || !isCount(sentBytes) || !isCount(storedBytes)) return undefined;
  if (!isOptional(point, isText) || (point?.length ?? 0) > PATH_LENGTH_MAX) return undefined;
  if (problem !== undefined && !isProblem(problem)) return undefined;
  return {
    dueMicros: dueMicros as number,
    startedMicros,
    durationMicros,
    isDone,
    attempt,
    ...(point === undefined ? {} : { point }),
    readBytes,
    sentBytes,
    storedBytes,
    ...(problem === undefined ? {} : { problem: { code: problem.code, message: problem.message } }),
  };
}

function isProblem(value: unknown): value is { code: string; message: string } {
  const { code, message } = fieldsOf(value);
  return (
    isText(code) &&
    code.length <= CODE_LENGTH_MAX &&
    isText(message) &&
    message.length <= PROBLEM_LENGTH_MAX
  );
}

/** One at least, and none twice. */
function isVolumeList(value: unknown): value is number[] {
  if (!isListOf(value, isId) || value.length === 0 || value.length > SCHEDULE_VOLUMES_MAX)
    return false;
  return new Set(value).size === value.length;
}

/** Absolute, and fit for a line of text. */
export function isPathText(text: string): boolean {
  return text.length <= PATH_LENGTH_MAX && /^\/\P{Cc}*$/u.test(text);
}

function isPath(value: unknown): value is string {
  return isText(value) && isPathText(value);
}

function isInterval(value: unknown): value is number {
  return isCount(value) && value >= EVERY_MICROS_MIN && value <= EVERY_MICROS_MAX;
}

function isRate(value: unknown): value is number {
  return isCount(value) && value >= RATE_MIN;
}
