// SPDX-License-Identifier: Apache-2.0
//
// Runs the backups that are scheduled: what is due (schedule-plan.ts), one at a time per target and few at once, the one
// that was due first first; then a record of how it ended. The work itself is a runner's (backup-runner.ts), in a process
// of its own.
//
//   waiting ──due──▶ queued ──the target is free──▶ running ──▶ waiting
//   paused: nothing begins by itself · suspended: likewise, while a volume of it is removed
//
// A run that the daemon's end cuts short is no result: its time is still unanswered, and the next start makes up for it.
// Timers know nothing of a wall clock that is set, so the clock is looked at twice a minute.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";
import type { ScheduledVolume } from "../pool/backup-schedules.ts";
import type { Schedule, ScheduleRun } from "../pool/catalog-schedules.ts";
import type {
  BackupJob,
  BackupOutcome,
  BackupProgress,
  BackupRunner,
  RunningBackup,
} from "./backup-runner.ts";
import type { EventLog } from "./event-log.ts";
import { gridTime, isOverdue, type Plan, planNext } from "./schedule-plan.ts";

/** Processes of backups at once. */
const RUNNING_MAX = 2;
const LOOK_EVERY_MS = 30_000;

/** What it needs of a pool. */
export interface WatchedSchedules {
  list(): readonly Schedule[];
  named(name: string): Schedule;
  volumesOf(schedule: Schedule): readonly ScheduledVolume[];
  ran(id: number, run: ScheduleRun): Promise<void>;
}

export interface SchedulesOptions {
  readonly schedules: WatchedSchedules;
  readonly runner: BackupRunner;
  readonly events: EventLog;
  readonly clock: Clock;
}

export type ScheduleState = "waiting" | "queued" | "running" | "paused" | "suspended";

/** A schedule as it stands. */
export interface ScheduleStatus {
  readonly schedule: Schedule;
  readonly volumes: readonly ScheduledVolume[];
  readonly state: ScheduleState;
  /** undefined: none comes by itself. */
  readonly nextMicros: number | undefined;
  readonly progress: BackupProgress | undefined;
  readonly isOverdue: boolean;
  /** Since the daemon started. */
  readonly runCount: number;
  readonly failureCount: number;
}

/** What this process knows of a schedule. */
interface Watched {
  /** Newer than what the catalog has, where that couldn't be recorded. */
  unrecorded: ScheduleRun | undefined;
  plannedMicros: number | undefined;
  sinceMicros: number;
  endedMicros: number | undefined;
  /** Somebody asked for a run now. */
  isAsked: boolean;
  /** By the monotone clock: since when it could run. */
  dueSince: number | undefined;
  running: RunningBackup | undefined;
  isOverdueTold: boolean;
  runCount: number;
  failureCount: number;
}

interface Due {
  readonly schedule: Schedule;
  readonly watched: Watched;
  readonly plan: Plan;
}

export class Schedules {
  readonly #options: SchedulesOptions;
  readonly #watched: Map<number, Watched> = new Map();
  readonly #startedMicros: number;
  /** Targets that are written to. */
  readonly #busy: Set<string> = new Set();
  readonly #ending: Set<Promise<void>> = new Set();
  #cancelLook: () => void = () => {};
  #isClosed = false;

  constructor(options: SchedulesOptions) {
    this.#options = options;
    this.#startedMicros = options.clock.monotoneMicros();
  }

  /** Begins what is due; to be called when schedules have changed, too. */
  look(): void {
    this.#cancelLook();
    if (this.#isClosed) return;
    const schedules = this.#options.schedules.list();
    this.#forgetOthers(schedules);
    if (schedules.length === 0) return;
    const { clock } = this.#options;
    const due: Due[] = [];
    let waitMs = LOOK_EVERY_MS;
    for (const schedule of schedules) {
      const watched = this.#watch(schedule.id);
      this.#tellOverdue(schedule, watched);
      if (watched.running !== undefined) continue;
      const plan = this.#planOf(schedule, watched);
      if (plan?.waitMicros === 0) {
        watched.dueSince ??= clock.monotoneMicros();
        due.push({ schedule, watched, plan });
      } else {
        watched.dueSince = undefined;
        if (plan !== undefined) waitMs = Math.min(waitMs, Math.ceil(plan.waitMicros / 1000));
      }
    }
    due.sort((one, other) => (one.watched.dueSince ?? 0) - (other.watched.dueSince ?? 0));
    for (const one of due) if (this.#hasRoomFor(one.schedule)) this.#begin(one);
    this.#cancelLook = clock.after(waitMs, () => this.look());
  }

  /** As soon as its target is free; its time counts as answered. Throws SCHEDULE_NOT_FOUND, VOLUME_NOT_FOUND, POOL_STOPPED. */
  runNow(name: string): void {
    const schedule = this.#options.schedules.named(name);
    const missing = this.#missingOf(schedule);
    if (missing !== undefined) {
      throw new StorageError("VOLUME_NOT_FOUND", `schedule "${name}": not run: ${missing}`, {
        hint: 'bring the volume back with "varve undo VOLUME", or remove the schedule',
        data: { schedule: name },
      });
    }
    this.#watch(schedule.id).isAsked = true;
    this.look();
  }

  statuses(): ScheduleStatus[] {
    return this.#options.schedules.list().map((schedule) => this.statusOf(schedule));
  }

  statusOf(schedule: Schedule): ScheduleStatus {
    const { clock, schedules } = this.#options;
    const watched = this.#watch(schedule.id);
    const { running, runCount, failureCount, unrecorded } = watched;
    const plan = running === undefined ? this.#planOf(schedule, watched) : undefined;
    const state =
      running !== undefined
        ? "running"
        : plan?.waitMicros === 0
          ? "queued"
          : this.#missingOf(schedule) !== undefined
            ? "suspended"
            : schedule.isPaused
              ? "paused"
              : "waiting";
    return {
      schedule: unrecorded === undefined ? schedule : { ...schedule, lastRun: unrecorded },
      volumes: schedules.volumesOf(schedule),
      state,
      nextMicros: plan === undefined ? undefined : clock.wallMicros() + plan.waitMicros,
      progress: running?.progress,
      isOverdue: this.#isOverdue(schedule),
      runCount,
      failureCount,
    };
  }

  /** What an operator should know. */
  warnings(): string[] {
    return this.statuses().flatMap(({ schedule, isOverdue: isLate }) => {
      const { name, lastRun, lastDone, isPaused } = schedule;
      const warnings: string[] = [];
      const reason = lastRun?.problem === undefined ? "" : `: ${lastRun.problem.message}`;
      if (lastRun?.isDone === false && !isPaused)
        warnings.push(`the last backup of schedule "${name}" failed${reason}`);
      else if (lastRun?.problem !== undefined)
        warnings.push(`the last prune of schedule "${name}" failed${reason}`);
      const since =
        lastDone === undefined
          ? "there is none yet"
          : `the last one began ${formatTime(lastDone.startedMicros).slice(0, 19)}Z`;
      if (isLate) warnings.push(`the backup of schedule "${name}" is overdue: ${since}`);
      return warnings;
    });
  }

  /** Nothing begins any more; what runs is ended, and waited for. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelLook();
    for (const { running } of this.#watched.values()) running?.stop();
    await Promise.all(this.#ending);
  }

  #watch(id: number): Watched {
    const found = this.#watched.get(id);
    if (found !== undefined) return found;
    const watched: Watched = {
      unrecorded: undefined,
      plannedMicros: undefined,
      sinceMicros: this.#startedMicros,
      endedMicros: undefined,
      isAsked: false,
      dueSince: undefined,
      running: undefined,
      isOverdueTold: false,
      runCount: 0,
      failureCount: 0,
    };
    this.#watched.set(id, watched);
    return watched;
  }

  /** Of a schedule that was removed the run is ended. */
  #forgetOthers(schedules: readonly Schedule[]): void {
    const ids = new Set(schedules.map(({ id }) => id));
    for (const [id, { running }] of this.#watched) {
      if (ids.has(id)) continue;
      running?.stop();
      this.#watched.delete(id);
    }
  }

  /** undefined: none comes by itself. */
  #planOf(schedule: Schedule, watched: Watched): Plan | undefined {
    const { clock } = this.#options;
    const wallMicros = clock.wallMicros();
    if (this.#missingOf(schedule) !== undefined) return undefined;
    if (watched.isAsked)
      return { dueMicros: gridTime(schedule, wallMicros), waitMicros: 0, attempt: 1 };
    if (schedule.isPaused) return undefined;
    const { everyMicros, beginMicros } = schedule;
    const lastRun = watched.unrecorded ?? schedule.lastRun;
    const now = { wallMicros, monotoneMicros: clock.monotoneMicros() };
    return planNext({ everyMicros, beginMicros, lastRun }, now, watched);
  }

  /** Why it is suspended. */
  #missingOf(schedule: Schedule): string | undefined {
    const missing = this.#options.schedules
      .volumesOf(schedule)
      .find(({ name, isRemoved }) => name === undefined || isRemoved);
    return missing === undefined
      ? undefined
      : `volume ${missing.name === undefined ? `number ${missing.id}` : `"${missing.name}"`} is removed`;
  }

  #hasRoomFor({ target }: Schedule): boolean {
    return this.#busy.size < RUNNING_MAX && !this.#busy.has(target);
  }

  #begin({ schedule, watched, plan }: Due): void {
    const { clock, events, runner } = this.#options;
    const { target, name } = schedule;
    const job = this.#jobOf(schedule);
    const startedMicros = Math.floor(clock.wallMicros());
    const begunMicros = clock.monotoneMicros();
    if (!watched.isAsked && plan.attempt === 1) watched.plannedMicros = begunMicros;
    watched.sinceMicros = begunMicros;
    watched.isAsked = false;
    watched.dueSince = undefined;
    this.#busy.add(target);
    events.add("info", "backup.started", {
      schedule: name,
      volumes: job.volumes,
      target,
      dueAt: formatTime(plan.dueMicros),
      attempt: plan.attempt,
    });
    const running = runner.start(job);
    watched.running = running;
    const ending = running.ended
      .then((outcome) => {
        const durationMicros = Math.floor(clock.monotoneMicros() - begunMicros);
        watched.running = undefined;
        watched.endedMicros = clock.monotoneMicros();
        this.#busy.delete(target);
        if (outcome === "stopped") return undefined;
        const { dueMicros, attempt } = plan;
        const run = { dueMicros, attempt, startedMicros, durationMicros, ...resultOf(outcome) };
        return this.#note({ schedule, watched, run });
      })
      .finally(() => {
        this.#ending.delete(ending);
        this.look();
      });
    this.#ending.add(ending);
  }

  #jobOf(schedule: Schedule): BackupJob {
    const { target, keep, keyFile, passphraseFile, limitBytesPerSecond } = schedule;
    const volumes = this.#options.schedules.volumesOf(schedule).map(({ name }) => {
      assert(name !== undefined, "a schedule that runs has its volumes");
      return name;
    });
    return { volumes, target, keep, keyFile, passphraseFile, limitBytesPerSecond };
  }

  async #note(ended: {
    readonly schedule: Schedule;
    readonly watched: Watched;
    readonly run: ScheduleRun;
  }): Promise<void> {
    const { schedule, watched, run } = ended;
    const { events, schedules } = this.#options;
    watched.runCount += 1;
    if (!run.isDone) watched.failureCount += 1;
    else watched.isOverdueTold = false;
    const { problem, durationMicros, sentBytes, storedBytes, point, attempt } = run;
    const about = { schedule: schedule.name, target: schedule.target };
    const durationMs = Math.round(durationMicros / 1000);
    if (run.isDone)
      events.add("info", "backup.ended", { ...about, point, durationMs, sentBytes, storedBytes });
    else events.add("warn", "backup.failed", { ...about, durationMs, attempt, ...problem });
    if (run.isDone && problem !== undefined)
      events.add("warn", "backup.prune-failed", { ...about, ...problem });
    watched.unrecorded = run;
    try {
      await schedules.ran(schedule.id, run);
      watched.unrecorded = undefined;
    } catch (error) {
      // The pool is full, or has stopped: the result holds as long as this process does.
      if (!(error instanceof StorageError)) throw error;
      events.add("warn", "backup.not-recorded", { ...about, code: error.code });
    }
  }

  #isOverdue(schedule: Schedule): boolean {
    if (schedule.isPaused || this.#missingOf(schedule) !== undefined) return false;
    return isOverdue(schedule, this.#options.clock.wallMicros());
  }

  #tellOverdue(schedule: Schedule, watched: Watched): void {
    const isLate = this.#isOverdue(schedule);
    if (isLate && !watched.isOverdueTold) {
      const { name, target, lastDone } = schedule;
      this.#options.events.add("warn", "backup.overdue", {
        schedule: name,
        target,
        ...(lastDone === undefined ? {} : { lastDoneAt: formatTime(lastDone.startedMicros) }),
      });
    }
    watched.isOverdueTold = isLate;
  }
}

function resultOf(
  outcome: Exclude<BackupOutcome, "stopped">,
): Omit<ScheduleRun, "dueMicros" | "attempt" | "startedMicros" | "durationMicros"> {
  const { point, problem, readBytes, sentBytes, storedBytes } = outcome;
  return {
    isDone: point !== undefined,
    ...(point === undefined ? {} : { point }),
    readBytes,
    sentBytes,
    storedBytes,
    ...(problem === undefined ? {} : { problem }),
  };
}
