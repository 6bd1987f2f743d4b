// SPDX-License-Identifier: Apache-2.0
//
// Schedules of backups, as the control door tells them: what is to be done, how it stands, and how the last runs ended. What a
// run did on the way isn't kept, only told while it runs.

/** Rules of a prune after each backup; none: every point stays. */
export interface ScheduleKeepJson {
  readonly last?: number;
  readonly withinMs?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
}

export interface ScheduleRunJson {
  /** The time that it was due. */
  readonly dueAt: string;
  readonly startedAt: string;
  readonly durationMs: number;
  /** There is a new point. */
  readonly isDone: boolean;
  /** How many there were for this time. */
  readonly attempt: number;
  /** Name of the new point. */
  readonly point?: string;
  readonly readBytes: number;
  /** What the target didn't hold, and what of it is stored there. */
  readonly sentBytes: number;
  readonly storedBytes: number;
  /** Why it failed; of one that is done, why its prune failed. */
  readonly problem?: { readonly code: string; readonly message: string };
}

export interface ScheduleJson {
  readonly name: string;
  /** suspended: a volume of it is removed. */
  readonly state: "waiting" | "queued" | "running" | "paused" | "suspended";
  readonly volumes: readonly {
    readonly id: number;
    /** Missing: nothing is known of it any more. */
    readonly name?: string;
    readonly isRemoved: boolean;
  }[];
  /** An absolute path. */
  readonly target: string;
  readonly everyMs: number;
  readonly keep: ScheduleKeepJson;
  readonly keyFile?: string;
  readonly passphraseFile?: string;
  readonly limitBytesPerSecond?: number;
  readonly isPaused: boolean;
  readonly createdAt: string;
  /** Missing: none comes by itself, or it runs now. */
  readonly nextAt?: string;
  readonly progress?: { readonly doneBytes: number; readonly totalBytes: number };
  /** There should have been a point an interval ago. */
  readonly isOverdue: boolean;
  readonly lastRun?: ScheduleRunJson;
  /** The last that made a point. */
  readonly lastDone?: ScheduleRunJson;
}

export interface ScheduleList {
  readonly schedules: readonly ScheduleJson[];
}

/** Counters begin with the start of the daemon. */
export interface ScheduleStatisticsJson {
  readonly name: string;
  readonly target: string;
  readonly isRunning: boolean;
  readonly isOverdue: boolean;
  readonly runCount: number;
  readonly failureCount: number;
  /** Of the last that made a point: when it ended, how long it took, what it sent and what of that is stored. */
  readonly lastDone?: {
    readonly endedAt: string;
    readonly durationMs: number;
    readonly sentBytes: number;
    readonly storedBytes: number;
  };
}
