// SPDX-License-Identifier: Apache-2.0
//
// Runs the real programs that tests, the tour and the benchmark drive. A program that fails or takes too
// long throws an error with its command line and all it printed, because that is what one wants to read
// in a test report. The system's own directories come first in PATH: nbdsh needs the system's python.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";

/** What a program printed, and how it ended. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly timeoutMs?: number;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string;
  /** Exit statuses that are fine; default 0 alone. */
  readonly accept?: readonly number[];
}

export const PROGRAM_PATH: string = `/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:${process.env.PATH ?? ""}`;

export function programEnv(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  return { ...process.env, PATH: PROGRAM_PATH, LC_ALL: "C.UTF-8", ...extra };
}

/** Runs `command` to its end and returns what it printed; throws unless its status is accepted. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Outcome> {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: options.env ?? programEnv(),
    stdio: ["pipe", "pipe", "pipe"],
  } satisfies SpawnOptions);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout!.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr!.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin!.on("error", () => {}); // it may end without reading all
  child.stdin!.end(options.input ?? "");
  const timeoutMs = options.timeoutMs ?? 120_000;
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const status = await closed(child).finally(() => clearTimeout(timer));
  const outcome = { status, stdout: text(stdout), stderr: text(stderr) };
  if (!isLate && (options.accept ?? [0]).includes(status)) return outcome;
  const what = isLate ? `still running after ${timeoutMs} ms` : `ended with status ${status}`;
  throw new Error(
    `${[command, ...args].join(" ")}: ${what}\n${outcome.stdout}${outcome.stderr}`.trimEnd(),
  );
}

function text(chunks: readonly Buffer[]): string {
  return Buffer.concat(chunks).toString("utf8");
}

/** Resolves with the status once the process has ended and its output is complete; 128 + n for signals. */
export function closed(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) =>
      resolve(code ?? 128 + (signal === "SIGKILL" ? 9 : signal === "SIGTERM" ? 15 : 0)),
    );
  });
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Asks `isTrue` every `everyMs` until it says yes; throws after `timeoutMs`. */
export async function until(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
  { timeoutMs = 20_000, everyMs = 5 }: { timeoutMs?: number; everyMs?: number } = {},
): Promise<void> {
  const start = performance.now();
  while (!(await isTrue())) {
    if (performance.now() - start > timeoutMs)
      throw new Error(`${what}: not so after ${timeoutMs} ms`);
    await delay(everyMs);
  }
}
