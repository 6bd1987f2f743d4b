// SPDX-License-Identifier: Apache-2.0
//
// `npm run bench`: Varve against the installed peers, in turn, on the same disk, with the same fio jobs,
// in one run. Prints medians and ratios and keeps every sample in bench/results. See bench/README.md for
// the lies that such a comparison can tell, and what is done about each.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SERVER_KINDS, type ServerKind } from "../test/interop/server.ts";
import { chosen, openScratch, sizeOf } from "./command-line.ts";
import { describeMachine, dropPageCache, warmMemory } from "./machine.ts";
import { type BenchOptions, Contender, type Sample } from "./measure.ts";
import { type PerServer, type Results, report, rowLines } from "./report.ts";
import { GIB, MIB, ROWS, type Row } from "./rows.ts";
import {
  measureRestart,
  measureTrim,
  type RestartResult,
  type TrimResult,
} from "./single-shots.ts";

const HELP = `usage: npm run bench -- [options]
  --rows=a,b       of ${ROWS.map(({ id }) => id).join(", ")}, restart, trim (all)
  --servers=a,b    of ${SERVER_KINDS.join(", ")} (all)
  --seconds=N      measured per run (2), after a warm-up of a quarter of it
  --runs=N         runs per row and server (5; 9 at depth 1)
  --volume=SIZE    of the volume, filled beforehand (4G)
  --mapped=SIZE    restart: written at random before the first kill (4G)
  --restart-volume=SIZE   restart: size of the volume (that of --mapped)
  --forgetful      restart, Varve: punch out old payloads while filling, to map more than the disk holds
  --store-limit=SIZE      a store that has grown beyond is made anew and filled again (20G)
  --varve-args=".."  more arguments for varve serve
  --scratch=DIR    where the stores go (a temporary directory on the disk of the checkout)
  --page-cache=drop|keep  before each run (drop): see bench/README.md for why it matters
  --smoke          seconds in all, on a tiny volume: shows that everything works, measures nothing
  --no-warm        don't touch free memory first
  --no-save        don't write bench/results`;

const { values } = parseArgs({
  options: {
    rows: { type: "string" },
    servers: { type: "string" },
    seconds: { type: "string" },
    runs: { type: "string" },
    volume: { type: "string" },
    mapped: { type: "string" },
    "restart-volume": { type: "string" },
    forgetful: { type: "boolean", default: false },
    "store-limit": { type: "string", default: "20G" },
    "varve-args": { type: "string", default: "" },
    "page-cache": { type: "string", default: "drop" },
    scratch: { type: "string" },
    smoke: { type: "boolean", default: false },
    warm: { type: "boolean", default: true },
    save: { type: "boolean", default: true },
    help: { type: "boolean", default: false },
  },
  allowNegative: true,
});

if (values.help) {
  console.log(HELP);
  process.exit(0);
}

const SIZES = { units: "KMGT", example: "4G", isPlainAllowed: true };
const SHOTS = ["restart", "trim"];
const isSmoke = values.smoke;
const wantedRows = chosen(values.rows, [...ROWS.map(({ id }) => id), ...SHOTS], "row");
const kinds = chosen(values.servers, SERVER_KINDS, "server");
const seconds = Number(values.seconds ?? (isSmoke ? 0.3 : 2));
const runs = values.runs === undefined ? undefined : Number(values.runs);
const volumeBytes = sizeOf(values.volume ?? (isSmoke ? "64M" : "4G"), SIZES);
const mappedBytes = sizeOf(values.mapped ?? (isSmoke ? "16M" : "4G"), SIZES);
const say = (line: string): void => console.log(line);

await using scratch = await openScratch(values.scratch);

const options: BenchOptions = {
  scratch: scratch.directory,
  volumeBytes,
  seconds,
  warmUpSeconds: seconds / 4,
  storeLimitBytes: sizeOf(values["store-limit"], SIZES),
  isPageCacheDropped: chosen(values["page-cache"], ["drop", "keep"], "page cache")[0] === "drop",
  varveArgs: values["varve-args"].split(" ").filter(Boolean),
  say,
};

const startedMs = Date.now();
const machine = await describeMachine(scratch.directory);
if (values.warm && !isSmoke) await warmMemory(scratch.directory, say);

const contenders = kinds.map((kind) => new Contender(kind, options));
for (const contender of contenders)
  scratch.defer(`the store of ${contender.kind}`, () => contender.discard());

const rows: { row: Row; samples: PerServer<readonly Sample[]> }[] = [];
for (const row of ROWS.filter(({ id }) => wantedRows.includes(id))) {
  const samples: { [kind in ServerKind]?: Sample[] } = {};
  // Interleaved: what changes in the machine over time changes for all.
  for (let round = 0; round < (runs ?? (isSmoke ? 1 : row.runs)); round++) {
    for (const contender of contenders) {
      samples[contender.kind] ??= [];
      samples[contender.kind]!.push(await contender.measure(row));
    }
  }
  rows.push({ row, samples });
  say(rowLines(row, samples).join("\n"));
}
const commandLines = Object.fromEntries(
  contenders.filter(({ commandLine }) => commandLine).map((one) => [one.kind, one.commandLine]),
);
for (const contender of contenders) await contender.discard();

const shots = {
  scratch: scratch.directory,
  runs: runs ?? (isSmoke ? 1 : 5),
  varveArgs: options.varveArgs,
  say,
};
const restart: { [kind in ServerKind]?: RestartResult } = {};
const trim: { [kind in ServerKind]?: TrimResult } = {};
for (const kind of kinds) {
  if (wantedRows.includes("restart")) {
    const size = values["restart-volume"];
    const volume = size === undefined ? mappedBytes : sizeOf(size, SIZES);
    const isForgetful = values.forgetful && kind === "varve";
    const where = { volumeBytes: volume, mappedBytes, isForgetful };
    restart[kind] = await measureRestart(kind, { ...shots, ...where });
  }
  // qcow2 takes a minute for it; once is enough to know.
  if (wantedRows.includes("trim") && !(isSmoke && kind === "qemu-qcow2")) {
    const writtenBytes = isSmoke ? MIB : 256 * MIB;
    const whole = 16 * 1024 * GIB;
    trim[kind] = await measureTrim(kind, {
      ...shots,
      runs: kind === "qemu-qcow2" ? 1 : shots.runs,
      volumeBytes: whole,
      writtenBytes,
    });
  }
}

const results: Results = {
  date: new Date(startedMs).toISOString(),
  machine,
  options: {
    statistic: "median; every run is in the JSON",
    volume: `${volumeBytes / MIB} MiB, filled beforehand`,
    seconds: `${seconds} per run, warm-up ${seconds / 4}`,
    "page cache": await pageCacheState(),
    "took minutes": ((Date.now() - startedMs) / 60_000).toFixed(1),
  },
  commandLines,
  rows,
  ...(Object.keys(restart).length > 0 && { restart }),
  ...(Object.keys(trim).length > 0 && { trim }),
};
say(report({ ...results, rows: [] }));
if (values.save && !isSmoke) {
  const directory = join(import.meta.dirname, "results");
  await mkdir(directory, { recursive: true });
  const name = `${results.date.slice(0, 16).replace("T", "-").replace(":", "")}-${machine.commit}`;
  await writeFile(join(directory, `${name}.json`), `${JSON.stringify(results, null, 1)}\n`);
  await writeFile(join(directory, `${name}.md`), `${report(results)}\n`);
  say(`kept as bench/results/${name}.{json,md}`);
}

async function pageCacheState(): Promise<string> {
  if (!options.isPageCacheDropped) return "as the run before left it";
  return (await dropPageCache()) ? "dropped before each run" : "not dropped: needs root";
}
