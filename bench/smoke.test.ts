// SPDX-License-Identifier: Apache-2.0
//
// The benchmark itself works: every kind of row, at smoke size, on the server under test. The figures
// mean nothing here, and the machine's state is left alone.

import { equal, match } from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../test/interop/command.ts";
import { requires } from "../test/interop/requires.ts";
import { KIND_UNDER_TEST } from "../test/interop/server.ts";

const skip = requires("fio --version");
const script = join(import.meta.dirname, "run.ts");

test("the benchmark runs every row at smoke size and prints its table", { skip }, async () => {
  const { stdout } = await run(process.execPath, [
    script,
    "--smoke",
    "--page-cache=keep",
    `--servers=${KIND_UNDER_TEST}`,
  ]);
  for (const title of ["sequential 1 MiB read", "fsync=1", "until the first read", "whole huge"])
    match(stdout, new RegExp(title));
  match(stdout, new RegExp(`run as ${KIND_UNDER_TEST} +\\S+`));
  equal(stdout.includes("NaN"), false);
});

test("an unknown row is refused with the known ones", async () => {
  const { stderr } = await run(process.execPath, [script, "--rows=nosuch"], { accept: [2] });
  match(stderr, /unknown row "nosuch".*randwrite-32/);
});
