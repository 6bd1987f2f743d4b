// SPDX-License-Identifier: Apache-2.0
//
// The benchmark of differences works, at smoke size: the figures mean nothing here, but what is told is compared with what
// was written, and the benchmark fails where that isn't the same.

import { equal, match, ok } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../test/interop/command.ts";
import { Scratch } from "../test/interop/scratch.ts";

const script = join(import.meta.dirname, "diff.ts");

test("it runs at smoke size and prints its table", async () => {
  await using scratch = await Scratch.create();
  const out = scratch.path("out");
  const args = [
    ...["--volume=64M", "--changes=5000", "--runs=2", "--page-cache=keep", "--no-warm"],
    ...[`--scratch=${scratch.directory}`, `--out=${out}`],
  ];
  const { stdout } = await run(process.execPath, [script, ...args], { timeoutMs: 100_000 });
  equal(stdout.includes("NaN"), false);
  match(stdout, /^ {2}cold +\d+ ms/m);
  match(stdout, /^ {2}median, warm +\d+ ms .* at most 1000: (met|MISSED)$/m);
  ok((await readFile(`${out}.md`, "utf8")).startsWith("# What differs"));
  const { results } = JSON.parse(await readFile(`${out}.json`, "utf8"));
  equal(results.length, 5);
});

test("numbers that aren't any are refused", async () => {
  const { stderr } = await run(process.execPath, [script, "--changes=many"], { accept: [2] });
  match(stderr, /"many" isn't a number/);
});
