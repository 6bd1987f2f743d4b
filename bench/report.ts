// SPDX-License-Identifier: Apache-2.0
//
// Turns samples into what a reader wants to know: per row the median of each server, how spread the runs
// were, and Varve's ratio to each peer beside the bar. The same text goes to the terminal and into the
// results; the JSON beside it keeps every single run, so that anyone may judge by another statistic.

import { SERVER_KINDS, type ServerKind } from "../test/interop/server.ts";
import type { Machine } from "./machine.ts";
import { median, type Sample } from "./measure.ts";
import { GIB, MIB, type Row } from "./rows.ts";
import type { RestartResult, TrimResult } from "./single-shots.ts";

const BLOCK_BYTES = 4096;

export type PerServer<T> = { readonly [kind in ServerKind]?: T };

export interface Results {
  readonly date: string;
  readonly machine: Machine;
  readonly options: Readonly<Record<string, string | number>>;
  readonly commandLines: PerServer<string>;
  readonly rows: readonly { readonly row: Row; readonly samples: PerServer<readonly Sample[]> }[];
  readonly restart?: PerServer<RestartResult>;
  readonly trim?: PerServer<TrimResult>;
}

/** Plain text that is also Markdown: tables are indented, as code blocks are. */
export function report(results: Results): string {
  return [
    ...header(results),
    ...results.rows.flatMap(({ row, samples }) => rowLines(row, samples)),
    ...restartLines(results.restart),
    ...trimLines(results.trim),
  ].join("\n");
}

function header({ date, machine, options, commandLines }: Results): string[] {
  const facts = [
    ["date", date],
    ["commit", machine.commit],
    ["machine", `${machine.cores} × ${machine.cpuModel}, ${gib(machine.memoryBytes)} GiB`],
    ["kernel", machine.kernel],
    ["file system", machine.fileSystem],
    ["node", machine.node],
    ...Object.entries(machine.versions),
    ...Object.entries(options),
    ...Object.entries(commandLines).map(([kind, line]) => [`run as ${kind}`, line]),
  ];
  return [...facts.map(([name, value]) => `    ${name!.padEnd(18)} ${value}`), ""];
}

export function rowLines(row: Row, samples: PerServer<readonly Sample[]>): string[] {
  const runs = Math.max(...Object.values(samples).map((list) => list.length));
  const columns = columnsOf(row);
  const lines = [`${row.label}: median of ${runs}`, ""];
  lines.push(tableLine("", ["spread", ...columns.map((column) => column.title), "varve is"]));
  const mid = (kind: ServerKind, value: (sample: Sample) => number): number =>
    median((samples[kind] ?? []).map(value));
  for (const kind of SERVER_KINDS) {
    const list = samples[kind];
    if (!list) continue;
    const main = list.map(columns[0]!.value);
    const spread = `±${Math.round(((Math.max(...main) - Math.min(...main)) / 2 / median(main)) * 100)}%`;
    const cells = columns.map(({ value, digits }) => format(mid(kind, value), digits));
    lines.push(tableLine(kind, [spread, ...cells, verdict(row, kind, samples, columns[0]!.value)]));
  }
  return [...lines, ""];
}

interface Column {
  readonly title: string;
  readonly value: (sample: Sample) => number;
  readonly digits: number;
}

function columnsOf(row: Row): Column[] {
  const rate: Column =
    row.blockBytes >= MIB
      ? { title: "MB/s", value: (sample) => sample.bytesPerSecond / 1e6, digits: 0 }
      : { title: "IOPS", value: (sample) => sample.iops, digits: 0 };
  const written: Column[] = [
    { title: "written/B", value: (sample) => sample.writtenPerByte ?? Number.NaN, digits: 2 },
    { title: "stored/B", value: (sample) => sample.storedPerByte ?? Number.NaN, digits: 2 },
  ];
  const fsync: Column[] = [
    { title: "fsync p50", value: (sample) => sample.fsyncP50Micros ?? Number.NaN, digits: 0 },
    { title: "fsync p99", value: (sample) => sample.fsyncP99Micros ?? Number.NaN, digits: 0 },
  ];
  return [
    rate,
    { title: "p50 µs", value: (sample) => sample.p50Micros, digits: 0 },
    { title: "p99 µs", value: (sample) => sample.p99Micros, digits: 0 },
    ...(row.hasFsync ? fsync : []),
    { title: "CPU s/M", value: (sample) => sample.cpuSecondsPerMillion, digits: 2 },
    { title: "RSS MiB", value: (sample) => sample.peakResidentBytes / MIB, digits: 0 },
    ...(row.isRead ? [] : written),
  ];
}

function verdict(
  row: Row,
  kind: ServerKind,
  samples: PerServer<readonly Sample[]>,
  value: (sample: Sample) => number,
): string {
  const ours = samples.varve;
  const theirs = samples[kind];
  if (kind === "varve" || !ours || !theirs) return "";
  const ratio = median(ours.map(value)) / median(theirs.map(value));
  const bar = row.bars[kind];
  const judged =
    bar === undefined ? "" : ratio >= bar ? ` (bar ${bar} ×: met)` : ` (bar ${bar} ×: MISSED)`;
  return `${ratio.toFixed(2)} ×${judged}`;
}

function restartLines(restart: Results["restart"]): string[] {
  if (!restart) return [];
  const lines = ["start after kill -9 under load, until the first read is answered", ""];
  lines.push(
    tableLine("", ["median ms", "worst ms", "mapped GiB", "fill RSS", "new RSS", "store GiB"]),
  );
  for (const [kind, result] of Object.entries(restart)) {
    const cells = [
      format(median(result.firstReadMs), 0),
      format(Math.max(...result.firstReadMs), 0),
      gib(result.mappedBytes),
      format(result.fillPeakResidentBytes / MIB, 0),
      format(result.restartedResidentBytes / MIB, 0),
      gib(result.storedBytes),
    ];
    lines.push(tableLine(kind, cells), ...indexLines(result));
  }
  return [...lines, ""];
}

/** What the index costs, where the server says: per mapped block, and against the frames it indexes. */
function indexLines({ mappedBytes, fillPeakResidentBytes, statistics }: RestartResult): string[] {
  if (!statistics) return [];
  const { indexBytes, frameBytes, memoryUsedBytes, memoryLimitBytes } = statistics;
  const blockCount = mappedBytes / BLOCK_BYTES;
  const percent = (100 * Number(indexBytes)) / Number(frameBytes);
  const memory = `${mib(memoryUsedBytes)} of ${mib(memoryLimitBytes)} MiB budget used`;
  const resident = format(fillPeakResidentBytes / blockCount, 1);
  return [
    `                index bytes written: ${mib(indexBytes)} MiB, ${format(percent, 1)} % of frame bytes;`,
    `                ${memory}, ${resident} resident bytes per mapped block`,
  ];
}

function mib(bytes: unknown): string {
  return format(Number(bytes) / MIB, 0);
}

function trimLines(trim: Results["trim"]): string[] {
  if (!trim) return [];
  const lines = ["trim of a whole huge device with data all over it", ""];
  lines.push(tableLine("", ["median ms", "worst ms", "flushed ms", "requests", "TiB"]));
  for (const [kind, result] of Object.entries(trim)) {
    const cells = [
      format(median(result.trimMs), 1),
      format(Math.max(...result.trimMs), 1),
      format(median(result.flushedMs), 1),
      String(result.requestCount),
      format(result.volumeBytes / GIB / 1024, 0),
    ];
    lines.push(tableLine(kind, cells));
  }
  return [...lines, ""];
}

function tableLine(name: string, cells: readonly string[]): string {
  const last = cells.length - 1;
  const padded = cells.map((cell, at) => (at === last ? `  ${cell}` : cell.padStart(11)));
  return `    ${name.padEnd(11)}${padded.join("")}`.trimEnd();
}

/** With thousands apart; a dash where there is nothing. */
export function format(value: number, digits: number): string {
  return Number.isNaN(value)
    ? "-"
    : value.toLocaleString("en-US", {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
      });
}

function gib(bytes: number): string {
  return format(bytes / GIB, 1);
}
