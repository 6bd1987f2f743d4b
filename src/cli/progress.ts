// SPDX-License-Identifier: Apache-2.0
//
// How far a long copy is. On a terminal a bar that is drawn over itself, with the rate of the last
// seconds and the time that is left; elsewhere one line a minute, or one JSON document a second for a
// program that watches, or nothing. What is shown is a pure function of a snapshot; when it is shown, and
// the rate, are the meter's. The meter draws when it is told something, so it needs no timer of its own
// and stands still when the copy does.
//
//   disk.qcow2 [#########-----------]  45 %  4.5 GiB of 10 GiB  512 MiB/s  11 s left

import { formatDuration, formatSize } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";

export type ProgressStyle = "bar" | "lines" | "json" | "none";

export interface ProgressSnapshot {
  readonly label: string;
  readonly doneBytes: number;
  /** Undefined for a stream whose end nobody knows. */
  readonly totalBytes: number | undefined;
  readonly elapsedMs: number;
  /** Of the last seconds; undefined until there is something to measure. */
  readonly bytesPerSecond: number | undefined;
  /** What else a program may want to know; people aren't shown it. */
  readonly details?: ProgressDetails | undefined;
}

export type ProgressDetails = Readonly<Record<string, string | number>>;

const DRAW_EVERY_MS: Readonly<Record<ProgressStyle, number>> = {
  bar: 100,
  json: 1000,
  lines: 60_000,
  none: Number.POSITIVE_INFINITY,
};
/** The rate is measured over this long: short enough to follow, long enough not to dance. */
const RATE_WINDOW_MS = 8000;
const RATE_SAMPLE_MS = 250;
const BAR_CELLS_MAX = 30;
const BAR_CELLS_MIN = 8;
const DAYS_LEFT_MAX = 365;

const CLEAR_LINE = "\r\x1b[K";

/** One line of at most `columns` characters; what matters least is left out first. */
export function renderBar(snapshot: ProgressSnapshot, columns: number): string {
  const { label, totalBytes, doneBytes } = snapshot;
  const percent = percentOf(snapshot);
  const amount =
    totalBytes === undefined
      ? formatSize(doneBytes)
      : `${formatSize(doneBytes)} of ${formatSize(totalBytes)}`;
  const percentText = percent === undefined ? undefined : `${String(percent).padStart(3)} %`;
  // From most to least: a narrow terminal gets the first ones.
  const wanted = [percentText, amount, rateText(snapshot), leftText(snapshot)].filter(
    (part) => part !== undefined,
  );
  const rest: string[] = [];
  let used = 0;
  for (const part of wanted) {
    if (used + 2 + part.length > columns && rest.length > 0) break;
    rest.push(part);
    used += 2 + part.length;
  }
  const tail = rest.join("  ");
  const labelText = label.length + 2 + tail.length <= columns ? label : "";
  const room = columns - labelText.length - tail.length - 5;
  const bar =
    percent === undefined || room < BAR_CELLS_MIN
      ? ""
      : drawBar(snapshot, Math.min(room, BAR_CELLS_MAX));
  const head = [labelText, bar].filter((part) => part !== "").join(" ");
  return (head === "" ? tail : `${head}  ${tail}`).slice(0, columns);
}

/** The same for a log: one plain line. */
export function renderLine(snapshot: ProgressSnapshot): string {
  const { label, doneBytes, totalBytes } = snapshot;
  const percent = percentOf(snapshot);
  const amount =
    totalBytes === undefined
      ? formatSize(doneBytes)
      : `${formatSize(doneBytes)} of ${formatSize(totalBytes)} (${percent} %)`;
  const parts = [amount, rateText(snapshot), leftText(snapshot)];
  return `${label}: ${parts.filter((part) => part !== undefined).join(", ")}`;
}

/** The same for a program: one JSON document on one line, all numbers exact. */
export function renderJson(snapshot: ProgressSnapshot, isDone: boolean): string {
  const { label, doneBytes, totalBytes, elapsedMs, bytesPerSecond, details } = snapshot;
  return JSON.stringify({
    progress: label,
    ...details,
    doneBytes,
    totalBytes: totalBytes ?? null,
    elapsedMs: Math.round(elapsedMs),
    bytesPerSecond: bytesPerSecond === undefined ? null : Math.round(bytesPerSecond),
    secondsLeft: secondsLeft(snapshot) ?? null,
    isDone,
  });
}

/** What was done in all, when it is: "10 GiB in 20 s (512 MiB/s)". */
export function renderSummary(doneBytes: number, elapsedMs: number): string {
  return `${formatSize(doneBytes)} in ${formatDuration(elapsedMs)}${renderRate(doneBytes, elapsedMs)}`;
}

/** " (512 MiB/s)"; nothing where there was no time to measure. */
export function renderRate(doneBytes: number, elapsedMs: number): string {
  return elapsedMs < 1 ? "" : ` (${formatSize((doneBytes / elapsedMs) * 1000)}/s)`;
}

/** 100 only when all is done: rounding down keeps the last percent honest. */
function percentOf({ doneBytes, totalBytes }: ProgressSnapshot): number | undefined {
  if (totalBytes === undefined) return undefined;
  if (totalBytes === 0) return 100;
  return Math.min(100, Math.floor((doneBytes / totalBytes) * 100));
}

function drawBar({ doneBytes, totalBytes }: ProgressSnapshot, cells: number): string {
  const share = totalBytes ? Math.min(1, doneBytes / totalBytes) : 1;
  const full = Math.floor(share * cells);
  return `[${"#".repeat(full)}${"-".repeat(cells - full)}]`;
}

function rateText({ bytesPerSecond }: ProgressSnapshot): string | undefined {
  return bytesPerSecond === undefined ? undefined : `${formatSize(bytesPerSecond)}/s`;
}

function leftText(snapshot: ProgressSnapshot): string | undefined {
  const seconds = secondsLeft(snapshot);
  if (seconds === undefined || seconds === 0) return undefined;
  return `${formatDuration(seconds * 1000)} left`;
}

function secondsLeft({
  doneBytes,
  totalBytes,
  bytesPerSecond,
}: ProgressSnapshot): number | undefined {
  if (totalBytes === undefined || !bytesPerSecond) return undefined;
  const seconds = Math.ceil(Math.max(0, totalBytes - doneBytes) / bytesPerSecond);
  return seconds > DAYS_LEFT_MAX * 86_400 ? undefined : seconds;
}

export interface ProgressOptions {
  readonly label: string;
  readonly style: ProgressStyle;
  readonly clock: Clock;
  /** Where it goes: stderr, as it is. */
  readonly write: (text: string) => void;
  /** Columns of the terminal now; asked at every draw, for windows are resized. Default 80. */
  readonly columns?: () => number;
}

export class ProgressMeter {
  readonly #options: ProgressOptions;
  readonly #startMs: number;
  /** Moments of the rate's window, oldest first; one every RATE_SAMPLE_MS. */
  readonly #samples: { readonly atMs: number; readonly doneBytes: number }[] = [];
  #doneBytes = 0;
  #totalBytes: number | undefined;
  #details: ProgressDetails | undefined;
  #drawnMs: number;
  #isBarVisible = false;
  #isEnded = false;

  constructor(options: ProgressOptions) {
    this.#options = options;
    this.#startMs = options.clock.monotoneMicros() / 1000;
    // A bar shows at once; a line only once there was a minute to wait for.
    this.#drawnMs = options.style === "bar" ? Number.NEGATIVE_INFINITY : this.#startMs;
    this.#samples.push({ atMs: this.#startMs, doneBytes: 0 });
  }

  get elapsedMs(): number {
    return this.#options.clock.monotoneMicros() / 1000 - this.#startMs;
  }

  /** Tells how far it is; draws if it is time to. Made to be called often. */
  update(doneBytes: number, totalBytes: number | undefined, details?: ProgressDetails): void {
    if (this.#isEnded) return;
    this.#doneBytes = doneBytes;
    this.#totalBytes = totalBytes;
    this.#details = details;
    const nowMs = this.#options.clock.monotoneMicros() / 1000;
    this.#sample(nowMs);
    if (nowMs - this.#drawnMs < DRAW_EVERY_MS[this.#options.style]) return;
    this.#drawnMs = nowMs;
    this.#draw(false);
  }

  /** All is done: the bar stays as it is at last. */
  finish(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    const { style, write } = this.#options;
    if (style === "bar" || style === "json") this.#draw(true);
    if (style === "bar") write("\n");
  }

  /** It failed or was ended: the bar goes, so that the message stands alone. */
  stop(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#isBarVisible) this.#options.write(CLEAR_LINE);
  }

  #draw(isDone: boolean): void {
    const { style, write, columns } = this.#options;
    const snapshot = this.#snapshot(isDone);
    if (style === "bar") {
      // The last column stays free: terminals wrap when it is written.
      write(`${CLEAR_LINE}${renderBar(snapshot, Math.max(10, (columns?.() ?? 80) - 1))}`);
      this.#isBarVisible = true;
    }
    if (style === "lines") write(`${renderLine(snapshot)}\n`);
    if (style === "json") write(`${renderJson(snapshot, isDone)}\n`);
  }

  #snapshot(isDone: boolean): ProgressSnapshot {
    const elapsedMs = this.elapsedMs;
    const oldest = isDone ? { atMs: this.#startMs, doneBytes: 0 } : this.#samples[0]!;
    const nowMs = this.#startMs + elapsedMs;
    const spanMs = nowMs - oldest.atMs;
    return {
      label: this.#options.label,
      doneBytes: this.#doneBytes,
      totalBytes: this.#totalBytes,
      details: this.#details,
      elapsedMs,
      bytesPerSecond:
        spanMs < RATE_SAMPLE_MS
          ? undefined
          : ((this.#doneBytes - oldest.doneBytes) / spanMs) * 1000,
    };
  }

  #sample(nowMs: number): void {
    if (nowMs - this.#samples.at(-1)!.atMs < RATE_SAMPLE_MS) return;
    this.#samples.push({ atMs: nowMs, doneBytes: this.#doneBytes });
    // One that is older than the window stays, so that there is always a whole window to look at.
    while (this.#samples.length > 2 && nowMs - this.#samples[1]!.atMs > RATE_WINDOW_MS) {
      this.#samples.shift();
    }
  }
}
