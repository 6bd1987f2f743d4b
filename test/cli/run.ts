// SPDX-License-Identifier: Apache-2.0
//
// Runs a command-line script: a text file with commands, what they must print, and the files they need,
// against real daemons in a directory of its own. It reads like a session at a terminal:
//
//   # a comment                    kept
//   >>> varve.toml                 a file, up to the line <<<
//   ~ /\d+ ms/ N ms                a mask: matches are printed as the text behind it
//   ? test -c /dev/fuse            what the machine must have: the script is skipped when this fails
//   @ start --ack durable          starts a daemon (pool ./pool, only Unix sockets) and waits for it
//   @ stop · @ kill                SIGTERM and wait · kill -9 and wait
//   @ target DIR [key FILE]        makes a backup target with some points (small-target.ts)
//   $ varve list                   a command, run by sh
//   NAME  SIZE                     its stdout
//   ! varve: error: …              its stderr
//   = 2                            its exit code, when it isn't 0
//
// UPDATE=1 writes what was printed into the file; what is volatile is masked before it is compared.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeSmallTarget } from "./small-target.ts";

/** Thrown where the machine lacks what a script needs. */
export class Unsuitable extends Error {}

export interface ScriptResult {
  readonly expected: string;
  readonly actual: string;
}

const REPOSITORY = join(import.meta.dirname, "..", "..");
const COMMAND_TIMEOUT_MS = 60_000;
const START_TIMEOUT_MS = 20_000;

/** Volatile everywhere: places, times, processes. */
const MASKS: readonly (readonly [RegExp, string])[] = [
  [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z/g, "TIME"],
  [/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "TIME"],
  [/\bprocess \d+/g, "process PID"],
  [/"pid": ?\d+/g, '"pid": PID'],
];

/** Runs the script at `path`; with `isUpdating` the file then holds what was printed. */
export async function runScript(path: string, isUpdating: boolean): Promise<ScriptResult> {
  const expected = readFileSync(path, "utf8");
  const session = new Session();
  try {
    const actual = await session.run(expected);
    if (isUpdating) writeFileSync(path, actual);
    return { expected: isUpdating ? actual : expected, actual };
  } finally {
    await session.end();
  }
}

/** Runs a script that is in no file; gives it back with what was printed. */
export async function runText(script: string): Promise<string> {
  const session = new Session();
  try {
    return await session.run(script);
  } finally {
    await session.end();
  }
}

class Session {
  readonly #directory = mkdtempSync(join(realpathSync(tmpdir()), "varve-cli-"));
  readonly #masks: [RegExp, string][] = [];
  #daemon: { child: ChildProcess; ended: Promise<number>; log: () => string } | undefined;

  async run(script: string): Promise<string> {
    const printed: string[] = [];
    const lines = script.replace(/\n$/, "").split("\n");
    let index = 0;
    while (index < lines.length) {
      const line = lines[index]!;
      index += 1;
      if (line.startsWith(">>> ")) {
        const end = lines.indexOf("<<<", index);
        if (end === -1) throw new Error(`"${line}" has no end`);
        writeFileSync(
          join(this.#directory, line.slice(4)),
          `${lines.slice(index, end).join("\n")}\n`,
        );
        printed.push(line, ...lines.slice(index, end + 1));
        index = end + 1;
      } else if (line.startsWith("~ ")) {
        this.#masks.push(parseMask(line));
        printed.push(line);
      } else if (line.startsWith("? ")) {
        const outcome = await this.#command(line.slice(2));
        if (outcome.at(-1)?.startsWith("= ")) throw new Unsuitable(`it needs: ${line.slice(2)}`);
        printed.push(line);
      } else if (line.startsWith("@ ")) {
        await this.#control(line.slice(2).split(" "));
        printed.push(line);
      } else if (line.startsWith("$ ")) {
        printed.push(line, ...(await this.#command(line.slice(2))));
      } else if (line === "" || line.startsWith("#")) {
        printed.push(line);
      }
      // Anything else is the expected output of the command before.
    }
    return `${printed.join("\n")}\n`;
  }

  async end(): Promise<void> {
    await this.#stop("SIGKILL");
    rmSync(this.#directory, { recursive: true, force: true });
  }

  get #environment(): NodeJS.ProcessEnv {
    const path = `${join(REPOSITORY, "bin")}:/usr/bin:/bin:/usr/sbin:/sbin`;
    // The system's directories only: nbdsh needs the system's python.
    return { ...process.env, PATH: path, LC_ALL: "C.UTF-8", VARVE_POOL: "pool" };
  }

  #command(text: string): Promise<string[]> {
    const child = spawn("sh", ["-c", text], {
      cwd: this.#directory,
      env: this.#environment,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (chunk: string) => {
        output[name] += chunk;
      });
    }
    const timer = setTimeout(() => child.kill("SIGKILL"), COMMAND_TIMEOUT_MS);
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, signal) => {
        clearTimeout(timer);
        resolve([
          ...this.#lines(output.stdout, ""),
          ...this.#lines(output.stderr, "! "),
          ...(code === 0 ? [] : [`= ${code ?? signal}`]),
        ]);
      });
    });
  }

  /** Masked, each behind `prefix`; what could be taken for the script's own lines gets a mark: a dot, a backslash. */
  #lines(text: string, prefix: string): string[] {
    if (text === "") return [];
    let masked = text.replaceAll(this.#directory, "DIR").replaceAll(REPOSITORY, "REPOSITORY");
    for (const [pattern, word] of [...MASKS, ...this.#masks])
      masked = masked.replace(pattern, word);
    return masked
      .replace(/\n$/, "")
      .split("\n")
      .map((line) => (line === "" ? `${prefix}.` : prefix + line))
      .map((line) => (/^(?:#|[$@?~] |>>> )/.test(line) ? `\\${line}` : line));
  }

  async #control([verb, ...args]: string[]): Promise<void> {
    switch (verb) {
      case "start":
        return this.#start(args);
      case "stop":
        return this.#stop("SIGTERM");
      case "kill":
        return this.#stop("SIGKILL");
      case "target":
        return makeSmallTarget(this.#directory, args);
      default:
        throw new Error(`"@ ${verb}" is not known`);
    }
  }

  async #start(args: readonly string[]): Promise<void> {
    const words = ["serve", "--listen", "none", "--memory", "256M", "--exit-with-parent", ...args];
    const child = spawn(join(REPOSITORY, "bin", "varve"), words, {
      cwd: this.#directory,
      env: this.#environment,
      stdio: ["ignore", "ignore", "pipe"],
    });
    let log = "";
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      log += chunk;
    });
    const ended = new Promise<number>((resolve) => {
      child.once("close", (code) => resolve(code ?? -1));
    });
    this.#daemon = { child, ended, log: () => log };
    const socket = join(this.#directory, "pool", "control.sock");
    const start = performance.now();
    while (!(await answers(socket))) {
      if (child.exitCode !== null || performance.now() - start > START_TIMEOUT_MS) {
        throw new Error(`the daemon didn't come up (status ${child.exitCode}):\n${log}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async #stop(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    if (this.#daemon === undefined) return;
    const { child, ended, log } = this.#daemon;
    this.#daemon = undefined;
    child.kill(signal);
    const code = await ended;
    if (signal === "SIGTERM" && code !== 0)
      throw new Error(`the daemon ended with ${code}:\n${log()}`);
  }
}

function parseMask(line: string): [RegExp, string] {
  const match = /^~ \/(.+)\/ (.*)$/.exec(line);
  if (!match) throw new Error(`"${line}" is not a mask`);
  return [new RegExp(match[1]!, "g"), match[2]!];
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket);
    connection.once("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.once("error", () => resolve(false));
  });
}
