// SPDX-License-Identifier: Apache-2.0
//
// This program as a process of its own: what it prints and how it ends is told, and a machine that can't start any more is an
// answer and no accident.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { type OwnProgram, startOwnProgram } from "./own-program.ts";

function start(...words: string[]): {
  program: OwnProgram;
  output: () => string;
  lines: string[];
} {
  let text = "";
  const lines: string[] = [];
  const program = startOwnProgram(words, {
    onOutput: (piece) => {
      text += piece;
    },
    onErrorLine: (line) => lines.push(line),
  });
  return { program, output: () => text, lines };
}

test("its output and its error lines are told, and its status", async () => {
  const fine = start("version");
  equal((await fine.program.ended).status, 0);
  match(fine.output(), /^varve \d/);
  const wrong = start("nonsense");
  equal((await wrong.program.ended).status, 2);
  deepEqual([wrong.output(), wrong.lines.length], ["", 2]);
  match(wrong.lines[0] ?? "", /^varve: error: command "nonsense"/);
});

test("one that is killed has no status", async () => {
  const { program } = start("version");
  program.kill();
  equal((await program.ended).status, undefined);
  program.end();
});

test("where nothing can be started that is how it ends", async () => {
  const { execPath } = process;
  try {
    process.execPath = "/nowhere/node";
    equal((await start("version").program.ended).status, undefined);
  } finally {
    process.execPath = execPath;
  }
});

test("without descriptors to spare it ends without a status, and the process that asked lives on", async () => {
  const script = `
    import { openSync } from "node:fs";
    import { startOwnProgram } from ${JSON.stringify(new URL("own-program.ts", import.meta.url).href)};
    try { for (;;) openSync("/dev/null", "r"); } catch {}
    const output = { onOutput: () => {}, onErrorLine: () => {} };
    const { status } = await startOwnProgram(["version"], output).ended;
    await new Promise((resolve) => setImmediate(resolve));
    process.stdout.write("status " + status);`;
  const words = [
    "-c",
    'ulimit -n 64; exec "$0" "$@"',
    process.execPath,
    "--input-type=module",
    "-e",
    script,
  ];
  const child = spawn("sh", words, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  ok(code === 0, text);
  equal(text, "status undefined");
});
