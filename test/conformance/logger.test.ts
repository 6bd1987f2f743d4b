// SPDX-License-Identifier: Apache-2.0
//
// The real log over real descriptors: a reader that stalls or goes away costs lines, never the daemon.

import { equal, match } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLogger } from "../../src/host/node/logger.ts";

const MODULE = JSON.stringify(new URL("../../src/host/node/logger.ts", import.meta.url).href);

/** Logs 20 MB to its stdout, turn by turn, then says "done" on stderr. */
const TALKER = `
  const { createLogger } = await import(${MODULE});
  const logger = createLogger({ level: "info", descriptor: 1 });
  const text = "x".repeat(1000);
  for (let turn = 0; turn < 200; turn += 1) {
    for (let i = 0; i < 100; i += 1) logger.log("info", "test.line", { text });
    await new Promise((resolve) => setImmediate(resolve));
  }
  process.stderr.write("done");
  setInterval(() => logger.log("info", "test.line"), 10);
  setTimeout(() => process.kill(process.pid, "SIGKILL"), 10000);`;

function talker() {
  const options = ["--input-type=module", "-e", TALKER];
  return spawn(process.execPath, options, { stdio: ["ignore", "pipe", "pipe"] });
}

test("what was logged before a flush is in the file", () => {
  const folder = mkdtempSync(join(tmpdir(), "varve-log-"));
  const descriptor = openSync(join(folder, "log"), "w");
  const logger = createLogger({ level: "info", descriptor });
  for (let i = 0; i < 100; i += 1) logger.log("info", "test.line", { i });
  logger.flush();
  const lines = readFileSync(join(folder, "log"), "utf8").trimEnd().split("\n");
  closeSync(descriptor);
  rmSync(folder, { recursive: true });
  equal(lines.length, 100);
  match(lines[99]!, /"event":"test.line","i":99/);
});

test("a reader that never reads costs lines, never the process's time", {
  timeout: 20_000,
}, async () => {
  const child = talker();
  const [said] = await once(child.stderr, "data");
  equal(String(said), "done");
  child.kill("SIGKILL");
  await once(child, "exit");
});

test("lines that were lost are counted when the reader reads again", {
  timeout: 20_000,
}, async () => {
  const child = talker();
  await once(child.stderr, "data");
  let text = "";
  for await (const chunk of child.stdout) {
    text += chunk;
    if (text.includes("log.lines-lost")) break;
  }
  match(text, /"event":"log.lines-lost","atLeast":\d+/);
  child.kill("SIGKILL");
});

test("a reader that goes away doesn't end the process", { timeout: 20_000 }, async () => {
  const child = talker();
  await once(child.stdout, "data");
  child.stdout.destroy();
  const [said] = await once(child.stderr, "data");
  equal(String(said), "done");
  child.kill("SIGKILL");
  await once(child, "exit");
});

test("a full disk under the log doesn't end the process", async () => {
  const descriptor = openSync("/dev/full", "w");
  const logger = createLogger({ level: "info", descriptor });
  for (let turn = 0; turn < 10; turn += 1) {
    logger.log("error", "test.line");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  logger.flush();
  closeSync(descriptor);
});
