// SPDX-License-Identifier: Apache-2.0
//
// Schedules of backups in words, the same in `varve schedule` and in `varve info`: who looks at one volume sees what who
// looks after all backups sees.

import type { ScheduleJson, ScheduleRunJson } from "../api/schedule.ts";
import { parseTime } from "../base/moment-time.ts";
import { formatDuration, formatSize, spellDuration } from "../base/units.ts";
import { shortTime } from "./values.ts";

/** "db: 12 min ago (3.2 MiB sent) to /srv/backup, next 2026-03-01 13:00:00". */
export function backupText(schedule: ScheduleJson, nowMicros: number): string {
  const { name, target, lastDone, lastRun, isOverdue } = schedule;
  const last = lastDone === undefined ? "none yet" : agoText(lastDone, nowMicros);
  const failed = lastRun?.isDone === false ? ", the last one failed" : "";
  const late = isOverdue ? ", overdue" : "";
  return `${name}: ${last} to ${target}${failed}${late}, ${nextText(schedule)}`;
}

/** When it runs again, or why it doesn't. */
export function nextText(schedule: ScheduleJson): string {
  const { state, nextAt, progress } = schedule;
  switch (state) {
    case "running":
      return progress === undefined || progress.totalBytes === 0
        ? "running"
        : `running, ${Math.floor((100 * progress.doneBytes) / progress.totalBytes)} %`;
    case "queued":
      return "waits for its target";
    case "paused":
      return "paused";
    case "suspended":
      return `suspended: ${missingText(schedule)}`;
    case "waiting":
      return nextAt === undefined ? "waiting" : `next ${shortTime(nextAt)}`;
  }
}

/** "done", or what went wrong. */
export function resultText(run: ScheduleRunJson | undefined): string {
  if (run === undefined) return "";
  const { isDone, problem, attempt } = run;
  if (isDone) return problem === undefined ? "done" : `done, not pruned: ${problem.message}`;
  const times = attempt > 1 ? ` ${attempt} times` : "";
  return `failed${times}: ${problem?.message ?? "for an unknown reason"}`;
}

export function volumesText({ volumes }: ScheduleJson): string {
  return volumes.map(({ id, name }) => name ?? `number ${id}`).join(", ");
}

/** "last 3, daily 7, within 2d"; "everything" where there are no rules. */
export function keepText({ keep }: ScheduleJson): string {
  const { withinMs, ...counts } = keep;
  const rules = Object.entries(counts).map(([rule, count]) => `${rule} ${count}`);
  if (withinMs !== undefined) rules.push(`within ${spellDuration(withinMs * 1000)}`);
  return rules.length === 0 ? "everything" : rules.join(", ");
}

function agoText({ startedAt, sentBytes }: ScheduleRunJson, nowMicros: number): string {
  const micros = nowMicros - Number(parseTime(startedAt));
  // The clocks of two processes; and a clock may be set back.
  const ago = micros < 1e6 ? "just now" : `${formatDuration(Math.floor(micros / 1e6) * 1000)} ago`;
  return `${ago} (${formatSize(sentBytes)} sent)`;
}

function missingText({ volumes }: ScheduleJson): string {
  const missing = volumes.filter(({ name, isRemoved }) => name === undefined || isRemoved);
  const names = missing.map(({ id, name }) => (name === undefined ? `number ${id}` : `"${name}"`));
  return `volume ${names.join(", ")} is removed`;
}
