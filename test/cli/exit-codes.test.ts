// SPDX-License-Identifier: Apache-2.0
//
// What a script sees when a command fails: the error as JSON on stderr, nothing on stdout, and the exit
// status that the manual names. The codes that only a machine in a certain state brings about are here;
// the scripts beside have the rest.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { type ErrorCode, spell } from "../../src/base/errors.ts";
import { closed, delay, programEnv, until } from "../interop/command.ts";
import { Scratch } from "../interop/scratch.ts";
import { Server, VARVE } from "../interop/server.ts";

interface Ended {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Running {
  readonly child: ReturnType<typeof spawn>;
  readonly ended: Promise<Ended>;
}

function begin(args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  const child = spawn(VARVE, args, { env: programEnv(env), stdio: ["pipe", "pipe", "pipe"] });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  child.stdin.on("error", () => {});
  return { child, ended: closed(child).then((status) => ({ status, ...output })) };
}

function fails({ status, stdout, stderr }: Ended, code: ErrorCode): void {
  equal(stdout, "");
  const lines = stderr.trim().split("\n");
  const { error } = JSON.parse(lines.at(-1)!) as { error: Record<string, string> };
  equal(error.code, code, stderr);
  equal(status, spell(code, "exit"), stderr);
  deepEqual(Object.keys(error), ["code", "kind", "message", "hint", "data"]);
}

async function failsWith(
  code: ErrorCode,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<void> {
  const { child, ended } = begin([...args, "--json"], env);
  child.stdin?.end();
  fails(await ended, code);
}

test("without a pool or a daemon", async () => {
  await using scratch = await Scratch.create();
  await failsWith("POOL_NOT_FOUND", ["list", "--pool", scratch.path("none")]);
  await failsWith("DAEMON_NOT_RUNNING", ["list", "--pool", scratch.directory]);
  await failsWith("NOT_A_POOL", ["check", "--pool", scratch.directory]);
});

test("images and attachments that aren't there, or are already", async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 << 20 });
  const pool = ["--pool", `${server.directory}/pool`];
  await failsWith("IMAGE_NOT_FOUND", ["import", scratch.path("none.raw"), "new", ...pool]);
  writeFileSync(scratch.path("there.raw"), "");
  await failsWith("IMAGE_EXISTS", ["export", "db", scratch.path("there.raw"), ...pool]);
  await failsWith("NOT_ATTACHED", ["detach", "db", ...pool]);
});

test("an attachment that fails leaves nothing behind, and says the program's own words", async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 << 20 });
  mkdirSync(scratch.path("bin"));
  const broken = scratch.path("bin/nbdfuse");
  writeFileSync(broken, "#!/bin/sh\necho 'no fuse today' >&2\nexit 1\n");
  chmodSync(broken, 0o755);
  const env = { PATH: `${scratch.path("bin")}:${programEnv().PATH}` };
  const pool = `${server.directory}/pool`;
  const { child, ended } = begin(["attach", "db", "--pool", pool, "--json"], env);
  child.stdin?.end();
  const outcome = await ended;
  fails(outcome, "ATTACH_FAILED");
  match(outcome.stderr, /no fuse today/);
  ok(!existsSync(`${pool}/attached/1.json`));
});

test("an import that is interrupted ends at once, and takes its volume away", async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 << 20 });
  const pool = ["--pool", `${server.directory}/pool`];
  const { child, ended } = begin(["import", "-", "new", "--json", "--format", "raw", ...pool]);
  child.stdin?.write(Buffer.alloc(4 << 20, 7));
  await until("the volume is there", async () => {
    return (await server.varve(["list", "--names"])).stdout.includes("new");
  });
  await delay(200);
  child.kill("SIGINT");
  fails(await ended, "INTERRUPTED");
  equal((await server.varve(["list", "--names"])).stdout, "db\n");
});

test("an export whose reader goes away fails", async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 << 20 });
  const pool = ["--pool", `${server.directory}/pool`];
  const { child, ended } = begin(["export", "db", "-", "--json", ...pool]);
  child.stdout?.destroy();
  fails(await ended, "OUTPUT_CLOSED");
});
