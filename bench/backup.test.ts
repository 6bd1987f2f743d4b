// SPDX-License-Identifier: Apache-2.0
//
// The benchmark of backups works, on a tiny volume and with the peers that every machine has. The figures mean nothing
// here, but for one: an incremental stores no more than what changed.

import { ok } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../test/interop/command.ts";
import { requires } from "../test/interop/requires.ts";
import { Scratch } from "../test/interop/scratch.ts";

test("a volume is backed up, restored, changed and backed up again", {
  skip: requires("qemu-img --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const out = scratch.path("results");
  const script = join(import.meta.dirname, "backup.ts");
  const args = [
    "--volume=16M",
    "--only=varve,qemu",
    `--scratch=${scratch.directory}`,
    `--out=${out}`,
  ];
  await run(process.execPath, [script, ...args]);
  const { rows, changedBytes } = JSON.parse(await readFile(`${out}.json`, "utf8")) as {
    rows: { system: string; work: string; bytes: number }[];
    changedBytes: number;
  };
  const bytesOf = (work: string): number =>
    rows.find((row) => row.system === "varve" && row.work === work)?.bytes ?? 0;
  ok(bytesOf("full") > 8 << 20 && bytesOf("full") < 12 << 20, `${bytesOf("full")}`);
  ok(bytesOf("incremental") < changedBytes + 128 * 1024, `${bytesOf("incremental")}`);
});
