// SPDX-License-Identifier: Apache-2.0
//
// The benchmark of the past works: all parts at smoke size. The figures mean nothing here, but what is read of past
// moments, clones and rewound disks is compared with what was written, and the benchmark fails where that isn't so.

import { equal, match, ok } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../test/interop/command.ts";
import { requires } from "../test/interop/requires.ts";
import { Scratch } from "../test/interop/scratch.ts";

const script = join(import.meta.dirname, "moments.ts");
const skip = requires("fio --version", "qemu-img --version", "qemu-io --version");

test("every part runs at smoke size and prints its table", { skip }, async () => {
  await using scratch = await Scratch.create();
  const out = scratch.path("out");
  const args = [
    ...["--records=20000", "--volume=32M", "--openings=4", "--working-set=8M", "--runs=1"],
    ...["--seconds=0.2", "--rewinds=1", "--cloned=16M", "--clones=20", "--chain=10"],
    ...["--page-cache=keep", "--no-warm", `--scratch=${scratch.directory}`, `--out=${out}`],
  ];
  const { stdout } = await run(process.execPath, [script, ...args], { timeoutMs: 240_000 });
  equal(stdout.includes("NaN"), false);
  match(stdout, /^history: 20000 records in \d+ segments, \d+ checkpoints/m);
  match(stdout, /^ +cold +12 .*50: (met|MISSED)$/m);
  match(stdout, /^ +random 4 KiB, depth 32, IOPS +\d+ .* of 0\.9: (met|MISSED)$/m);
  match(stdout, /^ +random 4 KiB, depth 32, IOPS +\d+ .* of 0\.95: (met|MISSED)$/m);
  match(stdout, /^ +control socket +1 .*100: (met|MISSED)$/m);
  match(stdout, /^ +varve clones, at once +20 /m);
  match(stdout, /^ +qcow2 +1 /m);
  match(stdout, /qemu-img snapshot -c/);
  ok((await readFile(`${out}.md`, "utf8")).includes("# What the past costs"));

  const { history, openings, clones } = JSON.parse(await readFile(`${out}.json`, "utf8"));
  ok(history.checkpointCount >= 5, "the history has checkpoints in it");
  equal(openings.openings.length, 24);
  equal(clones.chain.length, 10);
});

test("parts and numbers that don't exist are refused", async () => {
  const refused = async (option: string): Promise<string> =>
    (await run(process.execPath, [script, option], { accept: [2] })).stderr;
  match(await refused("--only=nosuch"), /unknown part "nosuch".*qcow2/);
  match(await refused("--records=many"), /"many" isn't a number/);
  match(await refused("--volume=2"), /"2" isn't a size/);
});
