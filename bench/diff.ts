// SPDX-License-Identifier: Apache-2.0
//
// `node bench/diff.ts`: how long it takes to say what differs between two moments, asked over the control socket as a backup
// program asks, to the last line of the answer. A volume is filled, then changed at random; the first time the daemon
// has just started, on an empty page cache, then several times in a row. What is told is compared with what was written.

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { until } from "../test/interop/command.ts";
import { accepts, Server } from "../test/interop/server.ts";
import { openScratch, refuse, sizeOf } from "./command-line.ts";
import { type BuiltDiffPool, buildDiffPool } from "./diff-pool.ts";
import { describeMachine, dropPageCache, settle, warmMemory } from "./machine.ts";
import { MIB } from "./rows.ts";

const HELP = `usage: node bench/diff.ts [options]
  --volume=SIZE       that is filled (16G)
  --changes=N         writes of 4 KiB at random behind that (1000000)
  --runs=N            warm (5)
  --scratch=DIR       where the pool goes: some 14 GiB (a temporary directory on the disk of the checkout)
  --page-cache=keep   don't empty it before the first
  --no-warm           don't touch free memory first
  --out=PREFIX        the result goes to PREFIX.md and .json (bench/results/DATE-diff)
  --no-save           don't keep the result`;

const { values } = parseArgs({
  options: {
    volume: { type: "string", default: "16G" },
    changes: { type: "string", default: "1000000" },
    runs: { type: "string", default: "5" },
    scratch: { type: "string" },
    "page-cache": { type: "string", default: "drop" },
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
/** DESIGN 13. */
const BAR_MS = 1000;
const VOLUME = "db";
const volumeBytes = sizeOf(values.volume, { units: "KMGT", example: "16G" });
const changeCount = numberOf(values.changes);
const runs = numberOf(values.runs);
const say = (line: string): void => console.log(line);

interface Run {
  readonly what: string;
  readonly ms: number;
  /** Until the first line with extents. */
  readonly firstMs: number;
}

await using scratch = await openScratch(values.scratch);
const startedMs = Date.now();
const machine = await describeMachine(scratch.directory);
if (values.warm) await warmMemory(scratch.directory, say);
say(`pool: ${volumeBytes / MIB} MiB, then ${changeCount} changes`);
const { server, built } = await makePool();
const results: Run[] = [];
await settle();
if (values["page-cache"] !== "keep") await dropPageCache();
await server.restart();
const pool = join(server.directory, "pool");
// It comes after the one that the restart waits for.
await until("the control socket", () => accepts(join(pool, "control.sock")));
const daemon = new DaemonClient(pool);
const filled = `${VOLUME}@#${built.filledLsn}`;
const changed = `${VOLUME}@#${built.changedLsn}`;
results.push(await measure("cold", filled, changed));
for (let run = 0; run < runs; run++) results.push(await measure("warm", filled, changed));
results.push(await measure("the other way", changed, filled));
results.push(await measure("the same moment", changed, changed));
await server.stop();

const warm = results.filter(({ what }) => what === "warm").map(({ ms }) => ms);
const median = [...warm].sort((a, b) => a - b)[Math.floor(warm.length / 2)] as number;
const report = [
  `diff of ${changeCount} changes (${built.changedBlocks} blocks in ${built.changedRanges} ranges) over ${volumeBytes / MIB} MiB, over the control socket:`,
  ...results.map(
    ({ what, ms, firstMs }) =>
      `  ${what.padEnd(16)} ${ms.toFixed(0).padStart(6)} ms   first ranges after ${firstMs.toFixed(0)} ms`,
  ),
  `  median, warm     ${median.toFixed(0).padStart(6)} ms   wanted: at most ${BAR_MS}: ${median <= BAR_MS ? "met" : "MISSED"}`,
].join("\n");
say(report);
if (values.save) {
  const date = new Date(startedMs).toISOString();
  const prefix = values.out ?? join(import.meta.dirname, "results", `${date.slice(0, 10)}-diff`);
  const kept = { date, machine, volumeBytes, changeCount, built, results, medianMs: median };
  await writeFile(`${prefix}.json`, `${JSON.stringify(kept, null, 1)}\n`);
  await writeFile(`${prefix}.md`, `# What differs between two moments\n\n${indented(report)}\n`);
  say(`kept as ${basename(prefix)}.{json,md}`);
}

async function makePool(): Promise<{ server: Server; built: BuiltDiffPool }> {
  const directory = scratch.path("diff");
  const serveArgs = ["--exit-with-parent"];
  const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
  scratch.defer("the daemon", () => server.stop());
  await server.stop();
  const built = await buildDiffPool({
    poolDirectory: join(directory, "pool"),
    volume: VOLUME,
    volumeBytes,
    changeCount,
    // As the daemon's, for a million changes.
    checkpointChanges: Math.max(1024, Math.min(2 ** 20, changeCount)),
    seed: 1,
    say,
  });
  return { server, built };
}

/** Throws if what is told isn't what was changed. */
async function measure(what: string, from: string, to: string): Promise<Run> {
  const started = performance.now();
  let firstMs = 0;
  let blocks = 0;
  let ranges = 0;
  let isWhole = false;
  for await (const line of daemon.diff({ from, to })) {
    if ("extentCount" in line) isWhole = true;
    if (!("kind" in line)) continue;
    firstMs ||= performance.now() - started;
    ranges += line.extents.length / 2;
    for (let at = 1; at < line.extents.length; at += 2)
      blocks += (line.extents[at] as number) / 4096;
  }
  const ms = performance.now() - started;
  const isSame = from === to;
  const isRight =
    isWhole &&
    blocks === (isSame ? 0 : built.changedBlocks) &&
    ranges === (isSame ? 0 : built.changedRanges);
  if (!isRight) throw new Error(`${what}: ${blocks} blocks in ${ranges} ranges were told`);
  return { what, ms, firstMs };
}

function indented(text: string): string {
  return text
    .split("\n")
    .map((line) => `    ${line}`)
    .join("\n");
}

function numberOf(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : refuse(`"${text}" isn't a number`);
}
