// SPDX-License-Identifier: Apache-2.0
//
// The operations of the control door that have to do with schedules of backups: translations between the contract's JSON,
// the pool's records and what runs.

import type {
  ScheduleJson,
  ScheduleKeepJson,
  ScheduleRunJson,
  ScheduleStatisticsJson,
} from "../api/schedule.ts";
import type { Operations } from "../api/types.ts";
import { formatTime } from "../base/units.ts";
import type { ScheduleWish } from "../pool/backup-schedules.ts";
import type { Schedule, ScheduleKeep, ScheduleRun } from "../pool/catalog-schedules.ts";
import type { ScheduleStatus, Schedules, WatchedSchedules } from "./schedules.ts";

/** What the operations need of a pool. */
export interface ServedSchedules extends WatchedSchedules {
  make(wish: ScheduleWish): Promise<Schedule>;
  setPaused(name: string, isPaused: boolean): Promise<Schedule>;
  remove(name: string): Promise<Schedule>;
}

type ScheduleOperationName =
  | "listSchedules"
  | "createSchedule"
  | "setSchedule"
  | "runSchedule"
  | "removeSchedule";

export function createScheduleOperations({
  pool,
  schedules,
}: {
  readonly pool: ServedSchedules;
  readonly schedules: Schedules;
}): Pick<Operations, ScheduleOperationName> {
  const toldOf = (name: string): ScheduleJson =>
    toScheduleJson(schedules.statusOf(pool.named(name)));
  return {
    listSchedules: async () => ({ schedules: schedules.statuses().map(toScheduleJson) }),
    createSchedule: async ({ everyMs, keep = {}, ...rest }) => {
      await pool.make({ ...rest, everyMicros: everyMs * 1000, keep: toKeep(keep) });
      schedules.look();
      return toldOf(rest.name);
    },
    setSchedule: async ({ schedule, isPaused }) => {
      await pool.setPaused(schedule, isPaused);
      schedules.look();
      return toldOf(schedule);
    },
    runSchedule: async ({ schedule }) => {
      schedules.runNow(schedule);
      return toldOf(schedule);
    },
    removeSchedule: async ({ schedule }) => {
      const told = toldOf(schedule);
      await pool.remove(schedule);
      schedules.look();
      return told;
    },
  };
}

export function toScheduleJson(status: ScheduleStatus): ScheduleJson {
  const { schedule, state, nextMicros, progress, isOverdue } = status;
  const { name, target, everyMicros, beginMicros, isPaused, lastRun, lastDone } = schedule;
  const { keyFile, passphraseFile, limitBytesPerSecond } = schedule;
  return {
    name,
    state,
    volumes: status.volumes.map(({ id, name: volume, isRemoved }) => ({
      id,
      ...(volume === undefined ? {} : { name: volume }),
      isRemoved,
    })),
    target,
    everyMs: everyMicros / 1000,
    keep: toKeepJson(schedule.keep),
    ...(keyFile === undefined ? {} : { keyFile }),
    ...(passphraseFile === undefined ? {} : { passphraseFile }),
    ...(limitBytesPerSecond === undefined ? {} : { limitBytesPerSecond }),
    isPaused,
    createdAt: formatTime(beginMicros),
    ...(nextMicros === undefined ? {} : { nextAt: formatTime(Math.floor(nextMicros)) }),
    ...(progress === undefined ? {} : { progress }),
    isOverdue,
    ...(lastRun === undefined ? {} : { lastRun: toRunJson(lastRun) }),
    ...(lastDone === undefined ? {} : { lastDone: toRunJson(lastDone) }),
  };
}

function toRunJson({
  dueMicros,
  startedMicros,
  durationMicros,
  ...run
}: ScheduleRun): ScheduleRunJson {
  return {
    dueAt: formatTime(dueMicros),
    startedAt: formatTime(startedMicros),
    durationMs: durationMicros / 1000,
    ...run,
  };
}

export function toScheduleStatistics(status: ScheduleStatus): ScheduleStatisticsJson {
  const { schedule, state, isOverdue, runCount, failureCount } = status;
  const { name, target, lastDone } = schedule;
  const isRunning = state === "running";
  const counts = { name, target, isRunning, isOverdue, runCount, failureCount };
  if (lastDone === undefined) return counts;
  const { startedMicros, durationMicros, sentBytes, storedBytes } = lastDone;
  const endedAt = formatTime(startedMicros + durationMicros);
  const durationMs = durationMicros / 1000;
  return { ...counts, lastDone: { endedAt, durationMs, sentBytes, storedBytes } };
}

function toKeep({ withinMs, ...counts }: ScheduleKeepJson): ScheduleKeep {
  return withinMs === undefined ? counts : { ...counts, withinMicros: withinMs * 1000 };
}

function toKeepJson({ withinMicros, ...counts }: ScheduleKeep): ScheduleKeepJson {
  return withinMicros === undefined ? counts : { ...counts, withinMs: withinMicros / 1000 };
}
