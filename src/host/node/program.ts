// SPDX-License-Identifier: Apache-2.0
//
// Other programs: run one to its end, or start one that outlives us (nbdfuse for `varve attach`). A
// process that outlives us is remembered by pid and start time together, because pids are used again:
// nothing is ever ended by a pid alone.

import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { StorageError } from "../../base/errors.ts";

export interface ProgramResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProcessIdentity {
  readonly pid: number;
  /** Start time in ticks since boot (/proc/PID/stat), which no later process with this pid shares. */
  readonly startTicks: number;
}

const OUTPUT_BYTES_MAX = 1 << 20;
const HOOK_OUTPUT_MAX = 500;
/** The system's tools live here, whatever the caller's PATH leaves out. */
const SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin";

function environment(): NodeJS.ProcessEnv {
  return {
    ...process.env,
    PATH: `${process.env.PATH ?? "/usr/bin:/bin"}:${SYSTEM_PATH}`,
    LC_ALL: "C",
  };
}

/** Runs a program to its end, with variables of ours. Throws PROGRAM_MISSING where there is none of that name. */
export function runProgram(
  command: string,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const env = { ...environment(), ...variables };
    const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8");
      child[name].on("data", (text: string) => {
        if (output[name].length < OUTPUT_BYTES_MAX) output[name] += text;
      });
    }
    child.once("error", (error) => reject(missing(command, error)));
    child.once("close", (code, signal) => {
      resolve({ status: code ?? (signal === null ? 1 : 128), ...output });
    });
  });
}

/** Runs an operator's program with variables of ours; one that takes too long is killed (status undefined). */
export function runBounded(run: {
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}): Promise<{ readonly status: number | undefined; readonly output: string }> {
  const [program = "", ...args] = run.command;
  return new Promise((resolve) => {
    // A process group of its own: what the program has started ends with it.
    const child = spawn(program, args, {
      env: { ...environment(), ...run.environment },
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const keep = (text: string): void => {
      if (output.length < HOOK_OUTPUT_MAX) output += text.slice(0, HOOK_OUTPUT_MAX - output.length);
    };
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    const timer = setTimeout(() => {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    }, run.timeoutMs);
    const done = (status: number | undefined): void => {
      clearTimeout(timer);
      resolve({ status, output: output.trim() });
    };
    child.once("error", (error) => {
      keep(error.message);
      done(undefined);
    });
    // Not "close": what it has started may keep its output open.
    child.once("exit", (code) => done(code ?? undefined));
  });
}

/** Starts a program that outlives this process, in a session of its own, its output in a file. */
export function startProgram(
  command: string,
  args: readonly string[],
  outputPath: string,
): Promise<ProcessIdentity> {
  return new Promise((resolve, reject) => {
    const output = openSync(outputPath, "w", 0o600);
    const child = spawn(command, args, {
      env: environment(),
      detached: true,
      stdio: ["ignore", output, output],
    });
    closeSync(output);
    child.once("error", (error) => reject(missing(command, error)));
    child.once("spawn", () => {
      child.unref();
      const pid = child.pid ?? 0;
      // One that has ended already never runs again: no process has started at tick -1.
      resolve(identify(pid) ?? { pid, startTicks: -1 });
    });
  });
}

/** The identity of a running process; undefined when there is none with this pid. */
function identify(pid: number): ProcessIdentity | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold anything, also parentheses; field 22 is the start time.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    // A zombie has ended: its parent just hasn't looked yet.
    if (fields[0] === "Z") return undefined;
    return { pid, startTicks: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

export function isRunning(process: ProcessIdentity): boolean {
  return identify(process.pid)?.startTicks === process.startTicks;
}

/** SIGTERM to exactly that process. */
export function endProgram(identity: ProcessIdentity): void {
  if (isRunning(identity)) process.kill(identity.pid, "SIGTERM");
}

function missing(command: string, error: NodeJS.ErrnoException | Error): StorageError {
  const why =
    (error as NodeJS.ErrnoException).code === "ENOENT" ? "it isn't installed" : error.message;
  return new StorageError("PROGRAM_MISSING", `program "${command}": start failed: ${why}`, {
    cause: error,
  });
}
