// SPDX-License-Identifier: Apache-2.0
//
// The tables of bench/reduction-fio.ts, as plain text that is also Markdown: what each content costs and
// how far it shrinks, and what a duplicate costs against new data. Medians; the JSON keeps every run.

import { type Machine, machineFacts } from "./machine.ts";
import { median } from "./measure.ts";
import type { Content, Measured, PairWork } from "./reduction-fio-pool.ts";
import type { CellRun, ImageResult, PairRun } from "./reduction-fio-work.ts";
import { format } from "./report.ts";
import { GIB, MIB } from "./rows.ts";

export interface Cell {
  readonly content: Content;
  readonly runs: readonly CellRun[];
  readonly image?: ImageResult;
}

export interface Pair {
  readonly work: PairWork;
  readonly compressPercent: number;
  readonly runs: readonly PairRun[];
}

export interface FioReductionResults {
  readonly date: string;
  readonly machine: Machine;
  readonly options: Readonly<Record<string, string | number>>;
  readonly cells: readonly Cell[];
  readonly pairs: readonly Pair[];
}

export function fioReductionReport(results: FioReductionResults): string {
  const { cells, pairs } = results;
  return [...header(results), ...cellLines(cells), ...pairLines(pairs)].join("\n").trimEnd();
}

function header({ date, machine, options }: FioReductionResults): string[] {
  const facts = [["date", date], ...machineFacts(machine), ...Object.entries(options)];
  const lines = facts.map(([name, value]) => `    ${`${name}`.padEnd(18)} ${value}`);
  return [
    "# What fio's duplicates and compressible data cost, and how far they shrink",
    "",
    ...lines,
    "",
  ];
}

function cellLines(cells: readonly Cell[]): string[] {
  if (cells.length === 0) return [];
  const runs = Math.max(...cells.map((cell) => cell.runs.length));
  const lines = [
    `sequential 1 MiB writes to an empty volume, then random 4 KiB overwrites at depth 32 (runs: ${runs}; medians),`,
    "and a file with the same content, written in blocks of 4 KiB, in Varve and in dm-vdo",
    "",
    tableLine("", [...Array(4).fill("seq"), ...Array(6).fill("4K"), ...Array(3).fill("file"), ""]),
    tableLine("dedupe, compress %", [
      "MB/s",
      "spread",
      "CPU s/GiB",
      "ratio",
      "IOPS",
      "spread",
      "p50 µs",
      "p99 µs",
      "CPU s/M",
      "ratio",
      "unique %",
      "varve",
      "vdo",
      "varve is",
    ]),
  ];
  const saved: string[] = [];
  const remarks = new Set<string>();
  for (const { content, runs, image } of cells) {
    const name = `${content.dedupePercent}, ${content.compressPercent}`;
    const sequential = medianOf(runs.map((run) => run.sequential));
    const random = medianOf(runs.map((run) => run.random));
    lines.push(
      tableLine(name, [
        sequential(({ bytesPerSecond }) => bytesPerSecond / 1e6, 0),
        spreadOf(runs.map((run) => run.sequential.bytesPerSecond)),
        sequential(({ cpuSeconds, bytes }) => (cpuSeconds * GIB) / bytes, 2),
        sequential(ratioOf, 2),
        random(({ iops }) => iops, 0),
        spreadOf(runs.map((run) => run.random.iops)),
        random(({ p50Micros }) => p50Micros, 0),
        random(({ p99Micros }) => p99Micros, 0),
        random(({ cpuSeconds, requestCount }) => (cpuSeconds / requestCount) * 1e6, 2),
        random(ratioOf, 2),
        ...imageCells(image),
      ]),
    );
    if (image) saved.push(savedLine(name, image));
    for (const remark of vdoRemarks(name, image)) remarks.add(remark);
  }
  return [
    ...lines,
    "",
    "    ratio: bytes that were written, none of them in a block of zeros, by the growth of what the pool stores, with",
    "    the index and all history; 4K: of the overwrites alone. vdo: by its data blocks, without index and metadata.",
    "    unique: what is distinct of the file's blocks, counted here.",
    "",
    ...saved,
    ...remarks,
    "",
  ];
}

function imageCells(image: ImageResult | undefined): string[] {
  if (!image) return ["-", "-", "-", "-"];
  const { nonZeroBytes, distinctBytes, varve, vdo } = image;
  const ours = nonZeroBytes / varve.storedBytes;
  const theirs = typeof vdo === "string" ? Number.NaN : nonZeroBytes / vdo.storedBytes;
  return [
    format((distinctBytes / nonZeroBytes) * 100, 1),
    format(ours, 2),
    format(theirs, 2),
    Number.isNaN(theirs) ? "-" : `${format(ours / theirs, 2)} ×`,
  ];
}

function savedLine(name: string, { nonZeroBytes, varve }: ImageResult): string {
  const share = (bytes: number): string => `${format((bytes / nonZeroBytes) * 100, 1)} %`;
  const { dedupSavedBytes, compressionSavedBytes } = varve;
  return `* ${name}: varve says: deduplication saves ${share(dedupSavedBytes)}, compression ${share(compressionSavedBytes)}`;
}

function vdoRemarks(name: string, image: ImageResult | undefined): string[] {
  if (image === undefined) return [];
  if (typeof image.vdo === "string") return [`* vdo: ${image.vdo}`];
  const late = image.vdo.notes.filter((note) => note.includes("timed out"));
  return late.map((note) => `* vdo: ${name}: ${note}`);
}

function pairLines(pairs: readonly Pair[]): string[] {
  if (pairs.length === 0) return [];
  const runs = Math.max(...pairs.map((pair) => pair.runs.length));
  const lines = [
    `overwriting with new data, and with data that is stored already, in turn: median of ${runs}`,
    "",
    tableLine("", [
      "new",
      "spread",
      "stored",
      "spread",
      "new CPU",
      "stored CPU",
      "found %",
      "stored is",
    ]),
  ];
  for (const { work, compressPercent, runs } of pairs) {
    const unique = runs.map((run) => run.unique);
    const duplicate = runs.map((run) => run.duplicate);
    const [isRandom, rate, unit] =
      work === "random"
        ? [true, (one: Measured) => one.iops, "random 4 KiB, IOPS"]
        : [false, (one: Measured) => one.bytesPerSecond / 1e6, "sequential 1 MiB, MB/s"];
    const cpu = ({ cpuSeconds, requestCount, bytes }: Measured): number =>
      isRandom ? (cpuSeconds / requestCount) * 1e6 : (cpuSeconds * GIB) / bytes;
    // Each pair is as near in time as can be, so the ratios of pairs are compared, not those of medians.
    const ratio = median(runs.map((run) => rate(run.duplicate) / rate(run.unique)));
    lines.push(
      tableLine(`${unit}, compress ${compressPercent} %`, [
        medianOf(unique)(rate, 0),
        spreadOf(unique.map(rate)),
        medianOf(duplicate)(rate, 0),
        spreadOf(duplicate.map(rate)),
        medianOf(unique)(cpu, 2),
        medianOf(duplicate)(cpu, 2),
        medianOf(duplicate)(({ duplicateShare }) => duplicateShare * 100, 1),
        `${format(ratio, 2)} × (bar > 1: ${ratio > 1 ? "met" : "MISSED"})`,
      ]),
    );
  }
  return [
    ...lines,
    "",
    "    CPU: of the server, seconds per million requests (4 KiB) or per GiB (1 MiB); found: duplicates that the pool",
    "    recognised; the last column is the median of the runs' own ratios",
    "",
  ];
}

function ratioOf({ bytes, storedBytes }: Measured): number {
  return bytes / storedBytes;
}

function medianOf(
  samples: readonly Measured[],
): (value: (sample: Measured) => number, digits: number) => string {
  return (value, digits) => format(median(samples.map(value)), digits);
}

function spreadOf(values: readonly number[]): string {
  if (values.length === 0) return "-";
  const half = (Math.max(...values) - Math.min(...values)) / 2;
  return `±${Math.round((half / median(values)) * 100)}%`;
}

function tableLine(name: string, cells: readonly string[]): string {
  const width = cells.length > 10 ? 10 : 11;
  const padded = cells.map((cell, at) =>
    at === cells.length - 1 ? `  ${cell}` : cell.padStart(width),
  );
  return `    ${name.padEnd(cells.length > 10 ? 18 : 36)}${padded.join("")}`.trimEnd();
}

export function progressLine({ content, runs }: Cell): string {
  const { dedupePercent, compressPercent } = content;
  const { sequential, random } = runs.at(-1)!;
  return (
    `  dedupe ${dedupePercent}, compress ${compressPercent}: ` +
    `${format(sequential.bytesPerSecond / MIB, 0)} MiB/s, ${format(random.iops, 0)} IOPS`
  );
}
