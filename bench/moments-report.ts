// SPDX-License-Identifier: Apache-2.0
//
// The results of bench/moments.ts as a page: a table for each part, with the bars that Varve has set itself.
// Each row says what was measured, of how many, and the bar beside it.

import { type Machine, machineFacts } from "./machine.ts";
import { median } from "./measure.ts";
import type { CloneResult, EndOfChain, Made } from "./moments-clones.ts";
import type { BuiltHistory } from "./moments-history.ts";
import { NAMINGS, type Opening, type OpeningResult } from "./moments-opening.ts";
import type { Qcow2Result } from "./moments-qcow2.ts";
import type { RewindResult } from "./moments-rewind.ts";
import { READS, type ReadResult, type Run } from "./moments-speed.ts";
import { KIB, MIB } from "./rows.ts";

export interface MomentResults {
  readonly date: string;
  readonly machine: Machine;
  readonly options: Readonly<Record<string, string>>;
  readonly history?: BuiltHistory;
  readonly openings?: OpeningResult;
  readonly reading?: ReadResult;
  readonly writing?: {
    readonly history: readonly Run[];
    readonly none: readonly Run[];
  };
  readonly rewinds?: RewindResult;
  readonly clones?: CloneResult;
  readonly qcow2?: Qcow2Result;
}

const BARS = {
  openingMs: 50,
  readShare: 0.9,
  writeShare: 0.95,
  rewindMs: 100,
  /** A thousand in a second. */
  cloneMs: 1,
  cloneBytes: 4 * KIB,
};

export function momentsReport(results: MomentResults): string {
  const { date, machine, options } = results;
  const facts = [["date", date], ...machineFacts(machine), ...Object.entries(options)];
  return [
    ...facts.map(([name, value]) => `    ${name?.padEnd(18)} ${value}`),
    ...historyLines(results.history),
    ...openingLines(results.openings),
    ...readingLines(results.reading),
    ...writingLines(results.writing),
    ...rewindLines(results.rewinds),
    ...cloneLines(results.clones, results.qcow2),
  ].join("\n");
}

function historyLines(history: BuiltHistory | undefined): string[] {
  if (history === undefined) return [];
  const { recordCount, seconds, storedBytes, indexBytes } = history;
  return [
    "",
    `history: ${recordCount} records in ${history.segmentCount} segments, ${history.checkpointCount} checkpoints; made in`,
    `${seconds.toFixed(0)} s (${(recordCount / seconds).toFixed(0)}/s); stored ${mib(storedBytes)} MiB, of it index ${mib(indexBytes)} MiB`,
  ];
}

function openingLines(result: OpeningResult | undefined): string[] {
  if (result === undefined) return [];
  const { openings, cpuMsEach } = result;
  const lines = [
    "",
    "any moment, by its name: milliseconds until the export is open, and until a block is read",
    "",
    tableLine("", ["count", "open p50", "open p99", "p50", "p99", "longest", "bar"]),
  ];
  const add = (title: string, list: readonly Opening[], isJudged = false): void => {
    const opens = list.map(({ openMs }) => openMs);
    const blocks = list.map(({ blockMs }) => blockMs);
    const p99 = percentile(blocks, 0.99);
    lines.push(
      tableLine(title, [
        `${list.length}`,
        median(opens).toFixed(1),
        percentile(opens, 0.99).toFixed(1),
        median(blocks).toFixed(1),
        p99.toFixed(1),
        Math.max(...blocks).toFixed(1),
        isJudged ? atMost(p99, BARS.openingMs) : "",
      ]),
    );
  };
  for (const isCold of [true, false]) {
    const list = openings.filter((opening) => opening.isCold === isCold);
    const title = isCold ? "cold" : "warm";
    add(title, list, true);
    for (const naming of NAMINGS)
      add(
        `  by ${naming}`,
        list.filter((opening) => opening.naming === naming),
      );
  }
  add(
    "the first after a start",
    openings.filter(({ isFirst }) => isFirst),
  );
  const [cold, warm] = [cpuMsEach.cold.toFixed(1), cpuMsEach.warm.toFixed(1)];
  lines.push("", `    the daemon's CPU, of all its threads: ${cold} ms each cold, ${warm} ms warm`);
  return lines;
}

function readingLines(reading: ReadResult | undefined): string[] {
  if (reading === undefined) return [];
  const whats = Object.keys(reading.firstPass);
  const title = "reading the past against reading the live disk (median, and share of live)";
  const lines = ["", title, "", tableLine("", [...whats, "bar"])];
  const add = (name: string, series: Readonly<Record<string, Run[]>>, rate: Rate): void => {
    const medians = whats.map((what) => middle(series[what] ?? [], rate.of));
    const shares = medians.map((value) => value / medians[0]!);
    const cells = medians.map(
      (value, at) => `${value.toFixed(0)}${at === 0 ? "" : ` (${shares[at]!.toFixed(2)})`}`,
    );
    lines.push(
      tableLine(name, [...cells, rate.bar ? atLeast(Math.min(...shares.slice(1)), rate.bar) : ""]),
    );
  };
  for (const { id, isRandom } of READS) {
    const name = isRandom ? "random 4 KiB, depth 32, IOPS" : "sequential 1 MiB, MiB/s";
    const of = (run: Run): number => (isRandom ? run.iops : run.bytesPerSecond / MIB);
    add(name, reading.rows[id] ?? {}, { of, bar: BARS.readShare });
    add("  server's CPU s per million", reading.rows[id] ?? {}, CPU);
  }
  add("first pass after opening, MiB/s", reading.firstPass, {
    of: ({ bytesPerSecond }) => bytesPerSecond / MIB,
  });
  return lines;
}

const IOPS = { of: ({ iops }: Run): number => iops };
const CPU = { of: ({ cpuSecondsPerMillion }: Run): number => cpuSecondsPerMillion };

interface Rate {
  readonly of: (run: Run) => number;
  readonly bar?: number;
}

function writingLines(writing: MomentResults["writing"]): string[] {
  if (writing === undefined) return [];
  const [history, none] = [middle(writing.history, IOPS.of), middle(writing.none, IOPS.of)];
  return [
    "",
    "writing with this history against a pool with none",
    "",
    tableLine("", ["history", "none", "bar"]),
    tableLine("random 4 KiB, depth 32, IOPS", [
      history.toFixed(0),
      none.toFixed(0),
      atLeast(history / none, BARS.writeShare),
    ]),
    tableLine("  server's CPU s per million", [
      middle(writing.history, CPU.of).toFixed(1),
      middle(writing.none, CPU.of).toFixed(1),
      "",
    ]),
  ];
}

function rewindLines(rewinds: RewindResult | undefined): string[] {
  if (rewinds === undefined) return [];
  const line = (name: string, list: readonly number[], isJudged: boolean): string =>
    tableLine(name, [
      `${list.length}`,
      median(list).toFixed(1),
      Math.max(...list).toFixed(1),
      isJudged ? atMost(Math.max(...list), BARS.rewindMs) : "",
    ]);
  return [
    "",
    "rewind in place, ms",
    "",
    tableLine("", ["count", "median", "longest", "bar"]),
    line("control socket", rewinds.apiMs, true),
    line("command", rewinds.commandMs, true),
    line("then, until a block is read", rewinds.firstBlockMs, false),
  ];
}

function cloneLines(clones: CloneResult | undefined, qcow2: Qcow2Result | undefined): string[] {
  if (clones === undefined && qcow2 === undefined) return [];
  const lines = ["", "clones", "", tableLine("", ["count", "seconds", "bytes each", "bars"])];
  if (clones) lines.push(madeLine("varve clones, at once", clones.clones, cloneVerdict(clones)));
  if (qcow2) lines.push(madeLine("qcow2 overlays", qcow2.overlays));
  if (qcow2) lines.push(madeLine("qcow2 snapshots in an image", qcow2.snapshots));
  const titles = ["length", "ms a link", "at its root", "at its end", "share"];
  lines.push("", "a chain of them: random 4 KiB reads, depth 32, IOPS", "", tableLine("", titles));
  if (clones) lines.push(chainLine("varve", clones.chain));
  if (qcow2) lines.push(chainLine("qcow2", qcow2.chain));
  if (clones) {
    const memory = (clones.memoryBytesEach / KIB).toFixed(1);
    const restart = `with all of them the daemon starts and answers in ${clones.restartMs.toFixed(0)} ms`;
    lines.push("", `    a clone takes ${memory} KiB of memory; ${restart}`);
  }
  const commandLines = Object.entries(qcow2?.commandLines ?? {});
  if (commandLines.length > 0) lines.push("");
  return [...lines, ...commandLines.map(([what, line]) => `    ${`${what}:`.padEnd(19)} ${line}`)];
}

function madeLine(name: string, { count, seconds, bytesEach }: Made, verdict = ""): string {
  return tableLine(name, [`${count}`, seconds.toFixed(2), bytesEach.toFixed(0), verdict]);
}

function cloneVerdict({ clones: { count, seconds, bytesEach } }: CloneResult): string {
  const msEach = (seconds * 1000) / count;
  return `ms each ${atMost(msEach, BARS.cloneMs)}; bytes ${atMost(bytesEach, BARS.cloneBytes)}`;
}

function chainLine(name: string, { length, linkMs, base, end }: EndOfChain): string {
  const [root, last] = [middle(base, IOPS.of), middle(end, IOPS.of)];
  const share = (last / root).toFixed(2);
  return tableLine(name, [`${length}`, linkMs.toFixed(2), root.toFixed(0), last.toFixed(0), share]);
}

function middle(runs: readonly Run[], of: (run: Run) => number): number {
  return median(runs.map(of));
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

function atMost(value: number, bar: number): string {
  return `${bar}: ${value <= bar ? "met" : "MISSED"}`;
}

function atLeast(value: number, bar: number): string {
  return `${value.toFixed(2)} of ${bar}: ${value >= bar ? "met" : "MISSED"}`;
}

function tableLine(name: string, cells: readonly string[]): string {
  const padded = cells.map((cell, at) =>
    at === cells.length - 1 ? `  ${cell}` : cell.padStart(15),
  );
  return `    ${name.padEnd(33)}${padded.join("")}`.trimEnd();
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(0);
}
