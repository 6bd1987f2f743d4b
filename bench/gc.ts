// SPDX-License-Identifier: Apache-2.0
//
// `node bench/gc.ts`: what garbage collection costs. How many bytes of frames are written for each new one
// (gc-amplification.ts), and what clients feel while it runs (gc-latency.ts). Run by hand: it takes some minutes, and
// the first part needs no quiet machine.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chosen, openScratch, sizeOf } from "./command-line.ts";
import { AgingPool, type Amplification, ZIPF_THETA } from "./gc-amplification.ts";
import { type LatencyResult, type LatencySample, measureLatency } from "./gc-latency.ts";
import { describeMachine, type Machine, machineFacts } from "./machine.ts";
import { median } from "./measure.ts";
import { MIB } from "./rows.ts";

const PARTS = ["amplification", "window", "latency"];

const HELP = `usage: node bench/gc.ts [options]
  --only=a,b       of ${PARTS.join(", ")} (all)
  --live=SIZE      amplification: live set (512M)
  --segment=SIZE   amplification: segments (1M)
  --fill=PERCENT   of the pool, what it must keep (80)
  --sets=N         amplification: live sets overwritten while it is measured (3), after one to warm up
  --volume=SIZE    latency: volume, filled beforehand (2G)
  --runs=N         latency: runs of each kind (5)
  --seconds=N      latency: of each run (4)
  --scratch=DIR    where the stores go (a temporary directory on the disk of the checkout)
  --no-save        don't write bench/results`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    live: { type: "string", default: "512M" },
    segment: { type: "string", default: "1M" },
    fill: { type: "string", default: "80" },
    sets: { type: "string", default: "3" },
    volume: { type: "string", default: "2G" },
    runs: { type: "string", default: "5" },
    seconds: { type: "string", default: "4" },
    scratch: { type: "string" },
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
const SIZES = { units: "KMG", example: "512M" };
const liveBytes = sizeOf(values.live, SIZES);
const segmentBytes = sizeOf(values.segment, SIZES);
const fillShare = Number(values.fill) / 100;
const sets = Number(values.sets);
const WINDOW_SETS = 2;
const say = (line: string): void => console.log(line);

interface Work {
  readonly title: string;
  readonly bar: number;
  readonly result: Amplification | string;
}

await using scratch = await openScratch(values.scratch);
const startedMs = Date.now();
const machine = await describeMachine(scratch.directory);
const works: Work[] = [];
if (wanted.includes("amplification")) {
  const pool = await agingPool(0, 1);
  works.push({ title: "uniform", bar: 2.8, result: await pool.measure("uniform") });
  const zipf = await pool.measure("zipf");
  works.push({ title: `zipf ${ZIPF_THETA}`, bar: 1.6, result: zipf });
  await pool.remove();
}
if (wanted.includes("window")) {
  const title = `uniform, window of ${WINDOW_SETS} live sets`;
  works.push({ title, bar: 1.25, result: await measureWindow() });
}
const latency = wanted.includes("latency")
  ? await measureLatency({
      scratch,
      volumeBytes: sizeOf(values.volume, SIZES),
      runs: Number(values.runs),
      seconds: Number(values.seconds),
      fillShare,
      say,
    })
  : undefined;

const text = [...headerLines(machine), ...workLines(works), ...latencyLines(latency)].join("\n");
say(text);
if (values.save) {
  const name = `${new Date(startedMs).toISOString().slice(0, 10)}-gc.md`;
  const page = `# Garbage collection: what it writes, and what clients feel\n\n${text}`;
  await writeFile(join(import.meta.dirname, "results", name), `${page.trimEnd()}\n`);
  say(`kept as bench/results/${name}`);
}

function agingPool(windowSets: number, warmUpSets: number): Promise<AgingPool> {
  return AgingPool.create({
    directory: scratch.path(`pool-${windowSets}`),
    liveBytes,
    fillShare,
    segmentBytes,
    windowSets,
    warmUpSets,
    measuredSets: sets,
    say,
  });
}

/** A string is the reason why there is no figure. */
async function measureWindow(): Promise<Amplification | string> {
  const pool = await agingPool(WINDOW_SETS, WINDOW_SETS + 2);
  return await pool
    .measure("uniform")
    .catch((error: Error) => `not available: ${error.message}`)
    .finally(() => pool.remove());
}

function headerLines(machine: Machine): string[] {
  const facts = [
    ["date", new Date(startedMs).toISOString()],
    ...machineFacts(machine),
    ["live set", `${mib(liveBytes)} MiB, segments of ${mib(segmentBytes)} MiB`],
    ["fill", `${values.fill} % of the pool's size is what it must keep, by what it says it stores`],
    ["took minutes", ((Date.now() - startedMs) / 60_000).toFixed(1)],
  ];
  return [...facts.map(([name, value]) => `    ${name?.padEnd(18)} ${value}`), ""];
}

function workLines(list: readonly Work[]): string[] {
  if (list.length === 0) return [];
  const lines = ["frame bytes written per new frame byte: random 4 KiB overwrites", ""];
  const titles = ["ratio", "each set", "log/new", "live/pool", "freed", "moved", "wait ms"];
  lines.push(tableLine("", [...titles, "bar"]));
  for (const { title, bar, result } of list) {
    if (typeof result === "string") {
      lines.push(tableLine(title, [result]));
      continue;
    }
    lines.push(
      tableLine(title, [
        result.ratio.toFixed(2),
        result.bySet.map((ratio) => ratio.toFixed(2)).join(" "),
        result.logRatio.toFixed(2),
        result.liveFrameShare.toFixed(3),
        `${result.freedSegments} seg`,
        `${mib(result.movedBytes)} MiB`,
        result.longestWaitMs.toFixed(0),
        `${bar}: ${result.ratio <= bar ? "met" : "MISSED"}`,
      ]),
    );
  }
  return [
    ...lines,
    "",
    "    each set: the ratio in each live set's worth of writes; log/new: all bytes of the log per new frame byte;",
    "    live/pool: frames of the live set alone, of the pool's size; wait: the longest that a write waited",
    "",
  ];
}

function latencyLines(result: LatencyResult | undefined): string[] {
  if (result === undefined) return [];
  const runs = result.quiet.length;
  const lines = [
    `random 4 KiB writes at depth 32 beside garbage collection: median of ${runs}`,
    "",
  ];
  const titles = [
    "IOPS",
    "p50 µs",
    "p99 µs",
    "longest ms",
    "collecting",
    "moved MiB/s",
    "p99 of quiet",
  ];
  lines.push(tableLine("", titles));
  const quietP99 = middle(result.quiet, ({ p99Micros }) => p99Micros);
  for (const [name, samples] of Object.entries(result) as [string, readonly LatencySample[]][]) {
    const of = (value: (sample: LatencySample) => number): number => middle(samples, value);
    const ratio = of(({ p99Micros }) => p99Micros) / quietP99;
    const verdict = name === "collecting" ? ` (bar 2: ${ratio <= 2 ? "met" : "MISSED"})` : "";
    lines.push(
      tableLine(name, [
        of(({ iops }) => iops).toFixed(0),
        of(({ p50Micros }) => p50Micros).toFixed(0),
        of(({ p99Micros }) => p99Micros).toFixed(0),
        of(({ longestMicros }) => longestMicros / 1000).toFixed(0),
        `${of(({ collectingShare }) => collectingShare * 100).toFixed(0)} %`,
        of(({ movedBytesPerSecond }) => movedBytesPerSecond / MIB).toFixed(1),
        `${ratio.toFixed(2)} ×${verdict}`,
      ]),
    );
  }
  return [
    ...lines,
    "",
    "    quiet: all history is kept; collecting: `varve gc` again and again, none kept; full: none kept, and the pool's",
    `    size such that what it must keep is ${values.fill} % of it`,
    "",
  ];
}

function middle(
  samples: readonly LatencySample[],
  value: (sample: LatencySample) => number,
): number {
  return median(samples.map(value));
}

function tableLine(name: string, cells: readonly string[]): string {
  const padded = cells.map((cell, at) =>
    at === cells.length - 1 ? `  ${cell}` : cell.padStart(13),
  );
  return `    ${name.padEnd(32)}${padded.join("")}`.trimEnd();
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(0);
}
