// SPDX-License-Identifier: Apache-2.0
//
// The process's own events with real processes: what nobody catches ends it with exit code 70, also when
// saying why fails; a signal to stop is a callback and nothing else.

import { deepEqual, equal } from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";

const MODULE = JSON.stringify(new URL("../../src/host/node/signals.ts", import.meta.url).href);

function script(body: string): string[] {
  return ["--input-type=module", "-e", `const host = await import(${MODULE}); ${body}`];
}

function runBroken(how: string, callback: string): { status: number | null; stdout: string } {
  const body = `host.onBug(${callback}); setTimeout(() => {}, 20000); ${how}`;
  const { status, stdout } = spawnSync(process.execPath, script(body), { encoding: "utf8" });
  return { status, stdout };
}

test("an uncaught error and an unhandled rejection end the process with exit code 70", () => {
  const tell = '(error) => process.stdout.write("told " + error.message)';
  const throws = 'setTimeout(() => { throw new Error("a"); }, 1);';
  deepEqual(runBroken(throws, tell), { status: 70, stdout: "told a" });
  deepEqual(runBroken('Promise.reject(new Error("b"));', tell), { status: 70, stdout: "told b" });
});

test("a failure while saying why changes nothing about the end", () => {
  const throws = 'setTimeout(() => { throw new Error("a"); }, 1);';
  equal(runBroken(throws, '() => { throw new Error("log is gone"); }').status, 70);
});

test("a signal to stop calls back and doesn't end the process", async () => {
  const body = `
    const off = host.onStopSignal((signal) => { process.stdout.write(signal); off(); clearTimeout(t); });
    const t = setTimeout(() => {}, 20000);
    process.stdout.write("ready ");`;
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    const child = spawn(process.execPath, script(body), { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (text === "ready ") child.kill(signal);
    });
    const [status] = await once(child, "close");
    equal(text, `ready ${signal}`);
    equal(status, 0);
  }
});
