// SPDX-License-Identifier: Apache-2.0
//
// When a schedule's next run is due: a pure function of what is known of its last one and of two clocks.
//
//   grid       begin + n · every, by the wall clock; a time of the grid is answered by one run
//   late       of the times that were missed only the newest is made up for, at once
//   failed     tried again, sooner at first and then more rarely, until the next time of the grid comes
//
// Wall clocks step. Forwards: one run is late, as after a pause. Backwards: the last answered time lies ahead; by up to an
// interval that is waited for, further ahead it counts for nothing. Whatever the wall clock does, by the monotone one two
// runs begin half an interval apart at least, and two intervals at most: so steps neither flood a target nor starve it.

/** What a plan goes by of a schedule. */
export interface PlannedSchedule {
  readonly everyMicros: number;
  readonly beginMicros: number;
  readonly lastRun?:
    | {
        readonly dueMicros: number;
        readonly startedMicros: number;
        readonly durationMicros: number;
        readonly isDone: boolean;
        readonly attempt: number;
      }
    | undefined;
}

/** What this process has seen, by the monotone clock; undefined: nothing yet. */
export interface SeenRuns {
  /** The last first attempt that was due by the plan. */
  readonly plannedMicros: number | undefined;
  /** The last start of any kind, or of the process. */
  readonly sinceMicros: number;
  readonly endedMicros: number | undefined;
}

export interface Plan {
  /** The time of the grid that the next run is for. */
  readonly dueMicros: number;
  /** From now; 0: at once. */
  readonly waitMicros: number;
  readonly attempt: number;
}

/** For one time of the grid; then it waits for the next. */
const ATTEMPTS_MAX = 10;
const RETRY_MICROS_MIN = 30_000_000;
const RETRY_MICROS_MAX = 3_600_000_000;

export function planNext(
  { everyMicros, beginMicros, lastRun }: PlannedSchedule,
  now: { readonly wallMicros: number; readonly monotoneMicros: number },
  seen: SeenRuns,
): Plan {
  const slot = gridTime({ everyMicros, beginMicros }, now.wallMicros);
  const spacing =
    seen.plannedMicros === undefined
      ? 0
      : Math.max(0, seen.plannedMicros + everyMicros / 2 - now.monotoneMicros);
  const atOnce = { dueMicros: slot, waitMicros: spacing, attempt: 1 };
  if (lastRun === undefined) return atOnce;
  const { dueMicros: last, isDone, attempt } = lastRun;
  if (slot > last || last > slot + everyMicros) return atOnce;
  const starved = Math.max(0, seen.sinceMicros + 2 * everyMicros - now.monotoneMicros);
  if (starved === 0) return atOnce;
  const untilNext = Math.min(last + everyMicros - now.wallMicros, starved);
  if (!isDone && attempt < ATTEMPTS_MAX) {
    const ended = seen.endedMicros ?? sinceRestart(lastRun, now);
    const again = Math.max(0, ended + backoff(attempt, everyMicros) - now.monotoneMicros);
    if (again < untilNext) return { dueMicros: last, waitMicros: again, attempt: attempt + 1 };
  }
  return { dueMicros: last + everyMicros, waitMicros: untilNext, attempt: 1 };
}

/** The newest time of the grid that isn't after the moment; there are ones before the begin, too, for clocks that are set back. */
export function gridTime(
  { everyMicros, beginMicros }: Pick<PlannedSchedule, "everyMicros" | "beginMicros">,
  micros: number,
): number {
  return beginMicros + Math.floor((micros - beginMicros) / everyMicros) * everyMicros;
}

/** Whether there should have been a point an interval ago. */
export function isOverdue(
  schedule: Omit<PlannedSchedule, "lastRun"> & {
    readonly activeMicros: number;
    readonly lastDone?: { readonly dueMicros: number };
  },
  wallMicros: number,
): boolean {
  const { everyMicros, activeMicros, lastDone } = schedule;
  // The first after a pause is due when the pause ends.
  const expected = Math.max(
    (lastDone?.dueMicros ?? Number.NEGATIVE_INFINITY) + everyMicros,
    activeMicros,
  );
  return wallMicros >= expected + everyMicros;
}

/** After so long a run that has failed so often is tried again. */
function backoff(attempt: number, everyMicros: number): number {
  const grown = RETRY_MICROS_MIN * 2 ** (attempt - 1);
  return Math.min(grown, RETRY_MICROS_MAX, everyMicros / 2);
}

/** The end of a run of an earlier process, by the monotone clock of this one; a clock that was set back ends it now. */
function sinceRestart(
  { startedMicros, durationMicros }: { startedMicros: number; durationMicros: number },
  { wallMicros, monotoneMicros }: { readonly wallMicros: number; readonly monotoneMicros: number },
): number {
  return monotoneMicros - Math.max(0, wallMicros - startedMicros - durationMicros);
}
