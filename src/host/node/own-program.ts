// SPDX-License-Identifier: Apache-2.0
//
// This very program once more, as a command in a process of its own, with the Node and the code that run now. It never
// outlives us: its standard input is a pipe that we hold and nobody writes to, which the kernel closes when we end, however
// that comes about; `--exit-with-parent` makes the command end with it. No pid is looked up that could be another's by then.

import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { setPriority } from "node:os";
import { fileURLToPath } from "node:url";

export interface OwnProgram {
  /** Status undefined: a signal ended it, or it couldn't be started. */
  readonly ended: Promise<{ readonly status: number | undefined }>;
  /** SIGTERM. */
  end(): void;
  /** SIGKILL. */
  kill(): void;
}

export interface OwnProgramOutput {
  readonly onOutput: (text: string) => void;
  /** Of stderr. What is too long for a line is left out. */
  readonly onErrorLine: (line: string) => void;
}

export type StartOwnProgram = (words: readonly string[], output: OwnProgramOutput) => OwnProgram;

const END_GRACE_MS = 10_000;
const LINE_LENGTH_MAX = 64 * 1024;
/** Clients of the daemon come first. */
const NICENESS = 10;
/** Beside this file in the source as in what is compiled. */
const MAIN = fileURLToPath(
  new URL(`../../cli/main.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`, import.meta.url),
);

export const startOwnProgram: StartOwnProgram = (words, { onOutput, onErrorLine }) => {
  const child = startChild(words);
  // Without descriptors or processes to spare there is no child, or one without pipes.
  if (child?.stdin === undefined || child.stdout === undefined || child.stderr === undefined) {
    child?.once("error", () => {});
    const nothing = (): void => {};
    return { ended: Promise.resolve({ status: undefined }), end: nothing, kill: nothing };
  }
  const ended = new Promise<{ readonly status: number | undefined }>((resolve) => {
    child.once("error", () => resolve({ status: undefined }));
    child.once("close", (code) => resolve({ status: code ?? undefined }));
  });
  child.stdin.on("error", () => {}); // It has ended: "close" says so.
  child.stdout.setEncoding("utf8").on("data", onOutput);
  child.stderr.setEncoding("utf8").on("data", lines(onErrorLine));
  if (child.pid !== undefined) lowerPriority(child.pid);
  return {
    ended,
    // Both do nothing once it has ended.
    end: () => void child.kill("SIGTERM"),
    kill: () => void child.kill("SIGKILL"),
  };
};

type Child = Omit<ChildProcess, "stdin" | "stdout" | "stderr"> &
  Partial<Pick<ChildProcessWithoutNullStreams, "stdin" | "stdout" | "stderr">>;

function startChild(words: readonly string[]): Child | undefined {
  try {
    const stdio: ["pipe", "pipe", "pipe"] = ["pipe", "pipe", "pipe"];
    return spawn(process.execPath, [MAIN, ...words], { stdio, env: process.env });
  } catch {
    return undefined;
  }
}

/** Ends this process as SIGTERM does once standard input ends: whoever started it has gone. */
export function endWithParent(): void {
  const { stdin } = process;
  const end = (): void => {
    process.kill(process.pid, "SIGTERM");
    // What it waits for may have gone with the parent.
    setTimeout(() => process.kill(process.pid, "SIGKILL"), END_GRACE_MS).unref();
  };
  stdin.once("end", end).once("error", end).resume();
  // Waiting for it is no reason to stay.
  if ("unref" in stdin) stdin.unref();
}

/** Cuts text into lines. */
function lines(onLine: (line: string) => void): (text: string) => void {
  let begun = "";
  return (text) => {
    const [first = "", ...rest] = text.split("\n");
    if (begun.length <= LINE_LENGTH_MAX) begun += first;
    for (const next of rest) {
      if (begun.length <= LINE_LENGTH_MAX) onLine(begun);
      begun = next;
    }
  };
}

function lowerPriority(pid: number): void {
  try {
    setPriority(pid, NICENESS);
  } catch {
    // It has ended already.
  }
}
