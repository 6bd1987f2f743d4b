// SPDX-License-Identifier: Apache-2.0
//
// The pool's lock with real processes: it excludes, it names its holder, and it dies with it.

import { equal, ok, throws } from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { lockPool } from "../../src/host/node/pool-lock.ts";

const MODULE = new URL("../../src/host/node/pool-lock.ts", import.meta.url).href;
let path: string;

beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), "varve-lock-"));
});
afterEach(() => rmSync(path, { recursive: true }));

test("a pool is locked by one holder at a time, in the same process too", () => {
  const lock = lockPool(path);
  throws(() => lockPool(path), { code: "POOL_LOCKED" });
  lock.release();
  lock.release();
  lockPool(path).release();
});

test("the refusal names the process that holds the lock", () => {
  const lock = lockPool(path);
  throws(() => lockPool(path), { message: new RegExp(`process ${process.pid} holds it`) });
  equal(readFileSync(join(path, "lock"), "utf8").trim(), String(process.pid));
  lock.release();
});

test("the lock of a process that is killed is free at once", async () => {
  const child = await holder();
  throws(() => lockPool(path), { code: "POOL_LOCKED", data: { pid: child.pid } });
  child.kill("SIGKILL");
  await once(child, "exit");
  lockPool(path).release();
});

test("a child of the holder doesn't inherit the lock", async () => {
  const child = await holder('require("node:child_process").spawn("sleep", ["30"]).pid');
  const line = child.stdout === null ? "" : String(await once(child.stdout, "data"));
  const grandchild = Number(/pid (\d+)/.exec(line)?.[1]);
  ok(grandchild > 1, `the holder told its child's pid: ${line}`);
  child.kill("SIGKILL");
  await once(child, "exit");
  try {
    lockPool(path).release();
  } finally {
    process.kill(grandchild, "SIGKILL");
  }
});

test("a directory that can't be locked is named with the reason", () => {
  throws(() => lockPool(join(path, "missing")), {
    code: "DISK_IO",
    message: /missing\/lock": open/,
  });
});

test("without the program flock a pool isn't opened, and the hint says what to install", () => {
  const { PATH } = process.env;
  process.env.PATH = path;
  try {
    throws(() => lockPool(path), { code: "PROGRAM_MISSING", hint: /apt-get install util-linux/ });
  } finally {
    process.env.PATH = PATH;
  }
});

/** Another process that holds the lock; `expression` is evaluated there and told on its stdout. */
async function holder(expression = "0"): Promise<ChildProcess> {
  const script = `
    import { createRequire } from "node:module";
    const require = createRequire(${JSON.stringify(MODULE)});
    const { lockPool } = await import(${JSON.stringify(MODULE)});
    lockPool(${JSON.stringify(path)});
    process.stderr.write("held");
    process.stdout.write("pid " + (${expression}));
    setTimeout(() => {}, 30000);`;
  const options = ["--input-type=module", "-e", script];
  const child = spawn(process.execPath, options, { stdio: ["ignore", "pipe", "pipe"] });
  equal(String(await once(child.stderr, "data")), "held");
  return child;
}
