// SPDX-License-Identifier: Apache-2.0
//
// `node bench/reduction-fio.ts`: what duplicates and compressible data cost and save, in the terms that fio
// users know: --dedupe_percentage by --buffer_compress_percentage. Three parts: `cells` (speed and ratio on
// a new pool, for each content), `ratio` (the same content as a file, in Varve and in dm-vdo) and `pairs` (whether
// data that is stored already is written faster than new data). See reduction-fio-work.ts for how.

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { chosen, openScratch, refuse, sizeOf } from "./command-line.ts";
import { describeMachine, warmMemory } from "./machine.ts";
import { PAIR_WORKS, type WorkOptions } from "./reduction-fio-pool.ts";
import {
  type Cell,
  type FioReductionResults,
  fioReductionReport,
  type Pair,
  progressLine,
} from "./reduction-fio-report.ts";
import { type CellRun, measureImage, runCell, runPairs } from "./reduction-fio-work.ts";
import { MIB } from "./rows.ts";

const PARTS = ["cells", "ratio", "pairs"];

const HELP = `usage: node bench/reduction-fio.ts [options]
  --only=a,b         of ${PARTS.join(", ")} (all)
  --dedupe=a,b       percentages of requests that are duplicates (0,30,50,90)
  --compress=a,b     percentages of each block that are a constant (0,55)
  --runs=N           of each cell and pair (3)
  --seconds=N        of each run of random writes (4); the warm-up takes half as long
  --size=SIZE        of the volume, and of the sequential writes (2G)
  --size-vdo=SIZE    of the file that Varve and dm-vdo store (256M)
  --varve-args=".."  more arguments for varve serve
  --vdo-ratio="F -x" program, with arguments, that stores raw images in dm-vdo and prints its counts
                     (VARVE_VDO_RATIO)
  --scratch=DIR      where the stores go (a temporary directory on the disk of the checkout)
  --no-warm          don't touch free memory first
  --out=PREFIX       the result goes to PREFIX.md and .json (bench/results/DATE-reduction-fio)
  --no-save          don't keep the result`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    dedupe: { type: "string", default: "0,30,50,90" },
    compress: { type: "string", default: "0,55" },
    runs: { type: "string", default: "3" },
    seconds: { type: "string", default: "4" },
    size: { type: "string", default: "2G" },
    "size-vdo": { type: "string", default: "256M" },
    "varve-args": { type: "string", default: "" },
    "vdo-ratio": { type: "string" },
    scratch: { type: "string" },
    warm: { type: "boolean", default: true },
    out: { type: "string" },
    save: { type: "boolean", default: true },
    help: { type: "boolean", default: false },
  },
  allowNegative: true,
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const wanted = chosen(values.only, PARTS, "part");
const SIZES = { units: "MG", example: "512M" };
const dedupePercents = percentagesOf(values.dedupe);
const compressPercents = percentagesOf(values.compress);
const contents = dedupePercents.flatMap((dedupePercent) =>
  compressPercents.map((compressPercent) => ({ dedupePercent, compressPercent })),
);
const runs = Number(values.runs);
const volumeBytes = sizeOf(values.size, SIZES);
const imageBytes = sizeOf(values["size-vdo"], SIZES);
const vdoRatio = values["vdo-ratio"] ?? process.env.VARVE_VDO_RATIO;
// A daemon takes each variable of that kind for a setting, and refuses those it doesn't know.
delete process.env.VARVE_VDO_RATIO;
const say = (line: string): void => console.log(line);

await using scratch = await openScratch(values.scratch);
const work: WorkOptions = {
  scratch,
  volumeBytes,
  imageBytes,
  seconds: Number(values.seconds),
  serveArgs: values["varve-args"].split(" ").filter(Boolean),
  vdoRatio,
};
const startedMs = Date.now();
const machine = await describeMachine(scratch.directory);
if (values.warm) await warmMemory(scratch.directory, say);

const pairs: Pair[] = [];
if (wanted.includes("pairs")) {
  for (const compressPercent of compressPercents) {
    for (const kind of PAIR_WORKS) {
      say(`new and stored data: ${kind}, compress ${compressPercent}`);
      const pairRuns = await runPairs(kind, compressPercent, { ...work, runs });
      pairs.push({ work: kind, compressPercent, runs: pairRuns });
    }
  }
}
const samples: CellRun[][] = contents.map(() => []);
// Interleaved: what changes in the machine over time changes for all.
for (let round = 0; round < (wanted.includes("cells") ? runs : 0); round++) {
  say(`round ${round + 1} of ${runs}`);
  for (const [at, content] of contents.entries()) {
    samples[at]!.push(await runCell(content, round, work));
    say(progressLine({ content, runs: samples[at]! }));
  }
}
const cells: Cell[] = [];
for (const [at, content] of contents.entries()) {
  if (!wanted.includes("ratio")) {
    if (samples[at]!.length > 0) cells.push({ content, runs: samples[at]! });
    continue;
  }
  say(`file: dedupe ${content.dedupePercent}, compress ${content.compressPercent}`);
  cells.push({ content, runs: samples[at]!, image: await measureImage(content, work) });
}

const results: FioReductionResults = {
  date: new Date(startedMs).toISOString(),
  machine,
  options: {
    volume: `${volumeBytes / MIB} MiB, new in every run of a cell; filled beforehand for pairs`,
    seconds: `${values.seconds} of random writes; warm-up ${Number(values.seconds) / 2} on another volume`,
    file: `${imageBytes / MIB} MiB`,
    duplicates: "of the first 1 % of a job's requests (dedupe_mode=working_set)",
    "served with": values["varve-args"] || "the defaults",
    "took minutes": ((Date.now() - startedMs) / 60_000).toFixed(1),
  },
  cells,
  pairs,
};
say(fioReductionReport(results));
if (values.save) {
  const name = `${results.date.slice(0, 10)}-reduction-fio`;
  const prefix = values.out ?? join(import.meta.dirname, "results", name);
  await writeFile(`${prefix}.json`, `${JSON.stringify(results, null, 1)}\n`);
  await writeFile(`${prefix}.md`, `${fioReductionReport(results)}\n`);
  say(`kept as ${basename(prefix)}.{json,md}`);
}

function percentagesOf(list: string): number[] {
  return list.split(",").map((text) => {
    if (/^\d\d?$/.test(text)) return Number(text);
    return refuse(`"${text}" isn't a percentage: write it like 30`);
  });
}
