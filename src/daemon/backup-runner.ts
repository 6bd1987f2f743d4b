// SPDX-License-Identifier: Apache-2.0
//
// One run of a schedule: this very program as `varve backup`, and where there are rules `varve prune` after it, each a
// process of its own with low priority, that talks to the daemon as any client does. So what a backup takes, and what goes
// wrong in it, isn't the daemon's. Of what they print nothing is believed that isn't as it should be.
//
// Asked to stop, a process gets SIGTERM; one that doesn't end in time is killed. A daemon that dies takes its processes
// with it: they end when their standard input does.

import { ERRORS } from "../base/errors.ts";
import { spellDuration } from "../base/units.ts";
import type { OwnProgram, StartOwnProgram } from "../host/node/own-program.ts";
import type { Clock } from "../host/ports.ts";
import { PROBLEM_LENGTH_MAX, type ScheduleKeep } from "../pool/catalog-schedules.ts";

export interface BackupJob {
  /** By name. */
  readonly volumes: readonly string[];
  readonly target: string;
  readonly keep: ScheduleKeep;
  readonly keyFile: string | undefined;
  readonly passphraseFile: string | undefined;
  readonly limitBytesPerSecond: number | undefined;
}

export interface BackupProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

interface Problem {
  readonly code: string;
  readonly message: string;
}

/** stopped: it was asked to end, and is no result. */
export type BackupOutcome =
  | "stopped"
  | {
      /** Of the new point; undefined: there is none. */
      readonly point: string | undefined;
      readonly readBytes: number;
      readonly sentBytes: number;
      readonly storedBytes: number;
      readonly problem: Problem | undefined;
    };

export interface RunningBackup {
  readonly ended: Promise<BackupOutcome>;
  readonly progress: BackupProgress | undefined;
  stop(): void;
}

export interface BackupRunner {
  start(job: BackupJob): RunningBackup;
}

export interface ProcessRunnerOptions {
  /** Of the pool. */
  readonly directory: string;
  readonly clock: Clock;
  readonly start: StartOwnProgram;
}

const STOP_GRACE_MS = 5_000;
/** What follows counts for nothing. */
const ANSWER_LENGTH_MAX = 256 * 1024;
const KEEP_COUNTS = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;

export function createBackupRunner(options: ProcessRunnerOptions): BackupRunner {
  return { start: (job) => new BackupProcess(options, job) };
}

class BackupProcess implements RunningBackup {
  readonly ended: Promise<BackupOutcome>;
  progress: BackupProgress | undefined;
  readonly #options: ProcessRunnerOptions;
  readonly #job: BackupJob;
  #program: OwnProgram | undefined;
  #isStopping = false;

  constructor(options: ProcessRunnerOptions, job: BackupJob) {
    this.#options = options;
    this.#job = job;
    this.ended = this.#run();
  }

  stop(): void {
    if (this.#isStopping) return;
    this.#isStopping = true;
    const program = this.#program;
    if (program === undefined) return;
    program.end();
    const cancel = this.#options.clock.after(STOP_GRACE_MS, () => program.kill());
    void program.ended.then(cancel);
  }

  async #run(): Promise<BackupOutcome> {
    const { directory } = this.#options;
    const { volumes, target, limitBytesPerSecond } = this.#job;
    const limit =
      limitBytesPerSecond === undefined ? [] : ["--limit-rate", String(limitBytesPerSecond)];
    const backup = await this.#command([
      ...["backup", ...volumes, target, "--pool", directory, "--existing"],
      ...["--progress", "json", ...limit],
    ]);
    const sums = sumsOf(backup.answer);
    // Nothing after it is started; what it has made before it was told to end is a point.
    if (sums === undefined || backup.status !== 0) {
      if (this.#isStopping) return "stopped";
      return { ...NOTHING, point: undefined, problem: problemOf(backup) };
    }
    return { ...sums, problem: this.#isStopping ? undefined : await this.#prune(sums.pointId) };
  }

  /** By the rules, among the points of the same volumes; why it failed. */
  async #prune(pointId: string): Promise<Problem | undefined> {
    const { keep, target } = this.#job;
    const rules = rulesOf(keep);
    if (rules.length === 0) return undefined;
    const pruned = await this.#command(["prune", target, "--like", pointId, ...rules]);
    return pruned.status === 0 || this.#isStopping ? undefined : problemOf(pruned);
  }

  async #command(words: readonly string[]): Promise<Answer> {
    const { keyFile, passphraseFile } = this.#job;
    const key =
      keyFile !== undefined
        ? ["--key-file", keyFile]
        : passphraseFile !== undefined
          ? ["--passphrase-file", passphraseFile]
          : [];
    let answer = "";
    let problem: Problem | undefined;
    const program = this.#options.start([...words, ...key, "--json", "--exit-with-parent"], {
      onOutput: (text) => {
        if (answer.length <= ANSWER_LENGTH_MAX) answer += text;
      },
      onErrorLine: (line) => {
        const told = fieldsOf(parsed(line));
        this.progress = progressOf(told) ?? this.progress;
        problem = problemFrom(told.error) ?? problem;
      },
    });
    this.#program = program;
    const { status } = await program.ended;
    this.#program = undefined;
    return { status, answer: fieldsOf(parsed(answer)), problem };
  }
}

interface Answer {
  /** undefined: a signal ended it, or it didn't start. */
  readonly status: number | undefined;
  readonly answer: Fields;
  /** In its own words. */
  readonly problem: Problem | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

const NOTHING = { readBytes: 0, sentBytes: 0, storedBytes: 0 };

function rulesOf({ withinMicros, ...keep }: ScheduleKeep): string[] {
  const counts = KEEP_COUNTS.flatMap((rule) =>
    keep[rule] === undefined ? [] : [`--keep-${rule}`, String(keep[rule])],
  );
  return withinMicros === undefined
    ? counts
    : [...counts, "--keep-within", spellDuration(withinMicros)];
}

function problemOf({ status, problem }: Answer): Problem {
  if (problem !== undefined) return problem;
  const how =
    status === undefined
      ? "it was killed, or couldn't be started"
      : `it ended with exit code ${status}`;
  return { code: "COMMAND_FAILED", message: `backup: failed: ${how}, without a word` };
}

/** What a backup says of itself; undefined when that isn't what it should say. */
function sumsOf({ point, readBytes, newBytes, storedBytes }: Fields):
  | {
      readonly point: string;
      readonly pointId: string;
      readonly readBytes: number;
      readonly sentBytes: number;
      readonly storedBytes: number;
    }
  | undefined {
  const { id, name } = fieldsOf(point);
  if (typeof id !== "string" || !/^[0-9a-f]{8,64}$/.test(id)) return undefined;
  if (typeof name !== "string" || name.length > 200) return undefined;
  if (!isBytes(readBytes) || !isBytes(newBytes) || !isBytes(storedBytes)) return undefined;
  return { point: name, pointId: id, readBytes, sentBytes: newBytes, storedBytes };
}

function progressOf({ progress, doneBytes, totalBytes }: Fields): BackupProgress | undefined {
  const isOne = progress !== undefined && isBytes(doneBytes) && isBytes(totalBytes);
  return isOne ? { doneBytes, totalBytes } : undefined;
}

function problemFrom(error: unknown): Problem | undefined {
  const { code, message } = fieldsOf(error);
  if (typeof code !== "string" || !Object.hasOwn(ERRORS, code)) return undefined;
  return typeof message === "string"
    ? { code, message: message.slice(0, PROBLEM_LENGTH_MAX) }
    : undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function fieldsOf(value: unknown): Fields {
  return typeof value === "object" && value !== null ? (value as Fields) : {};
}

function isBytes(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
