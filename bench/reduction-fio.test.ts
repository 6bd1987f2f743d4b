// SPDX-License-Identifier: Apache-2.0
//
// The benchmark of fio's duplicates works: all parts on tiny volumes, and a stand-in for the program that
// runs dm-vdo. The speeds mean nothing here, the ratios something: fio's percentages must be seen in them.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { programEnv, run } from "../test/interop/command.ts";
import { requires } from "../test/interop/requires.ts";
import { Scratch } from "../test/interop/scratch.ts";

const script = join(import.meta.dirname, "reduction-fio.ts");
const skip = requires("fio --version");
const VDO_STAND_IN = `
const dataBytes = require("node:fs").statSync(process.argv.at(-1)).size / 4;
console.log(JSON.stringify({ dataBytes, overheadBytes: 0, dedupeAdviceTimeouts: 3, after: [{ dataBytes }] }));
`;

test("duplicates and compressible data are seen in every table", { skip }, async () => {
  await using scratch = await Scratch.create();
  const standIn = scratch.path("vdo.cjs");
  await writeFile(standIn, VDO_STAND_IN);
  const out = scratch.path("out");
  const args = [
    ...["--dedupe=50", "--compress=55", "--runs=1", "--seconds=0.2", "--no-warm"],
    ...["--size=32M", "--size-vdo=8M", `--scratch=${scratch.directory}`, `--out=${out}`],
  ];
  const env = programEnv({ VARVE_VDO_RATIO: `${process.execPath} ${standIn}` });
  const { stdout } = await run(process.execPath, [script, ...args], { env });
  equal(stdout.includes("NaN"), false);
  match(stdout, /^ +50, 55 .* 4\.00 +\d\.\d\d ×$/m);
  match(stdout, /vdo: 50, 55: 3 lookups timed out/);
  match(stdout, /^ +random 4 KiB, IOPS, compress 55 % .*bar > 1: (met|MISSED)/m);
  ok((await readFile(`${out}.md`, "utf8")).includes("sequential 1 MiB"));

  const { cells, pairs } = JSON.parse(await readFile(`${out}.json`, "utf8"));
  const [halved] = cells;
  deepEqual(halved.content, { dedupePercent: 50, compressPercent: 55 });
  near(halved.runs[0].random.duplicateShare, 0.5, 0.1);
  near(halved.image.distinctBytes / halved.image.nonZeroBytes, 0.5, 0.1);
  near(halved.image.varve.dedupSavedBytes / halved.image.nonZeroBytes, 0.5, 0.1);
  near(halved.image.varve.compressionSavedBytes / halved.image.nonZeroBytes, 0.25, 0.1);
  for (const { runs } of pairs) {
    equal(runs[0].unique.duplicateShare, 0);
    near(runs[0].duplicate.duplicateShare, 1, 0.3);
  }
});

test("parts and percentages that don't exist are refused", async () => {
  const refused = async (option: string): Promise<string> =>
    (await run(process.execPath, [script, option], { accept: [2] })).stderr;
  match(await refused("--only=nosuch"), /unknown part "nosuch".*pairs/);
  match(await refused("--dedupe=100"), /"100" isn't a percentage/);
  match(await refused("--size=2"), /"2" isn't a size/);
});

function near(value: number, wanted: number, tolerance: number): void {
  ok(Math.abs(value - wanted) <= tolerance, `${value} isn't about ${wanted}`);
}
