// SPDX-License-Identifier: Apache-2.0
//
// What `varve history` prints: a line per interval in which something happened, with names, branches, holes and clock steps
// where they belong; on a terminal two sparklines above it: how much was written, and how much of it doesn't shrink. What
// looks like ransomware is said at the end, with the moment before it and what to type, for that is what one looks for.

import type {
  HistoryChangeJson,
  HistoryFlagJson,
  HistoryJson,
  HistoryLineJson,
} from "../../api/history.ts";
import { StorageError } from "../../base/errors.ts";
import { formatMoment, parsePastMoment } from "../../base/moment.ts";
import { parseTime } from "../../base/moment-time.ts";
import { formatDuration, formatSize } from "../../base/units.ts";
import { environmentVariable } from "../../host/node/environment.ts";
import { type CommandContext, required } from "../command.ts";
import type { Output } from "../output.ts";
import { showsBars, sparkline } from "../sparkline.ts";
import { keepOf, shortTime } from "../values.ts";

const BLOCK_BYTES = 4096;
const MINUTE_MS = 60_000;
/** Of single moments that are left. */
const KEPT_SHOWN_MAX = 8;
const SUSPICIOUS = "SUSPICIOUS";
/** Before the bars, and behind them. */
const LABEL_COLUMNS = 16;
const LEGEND_COLUMNS = 24;
/** A bar is never wider than its interval is worth looking at. */
const BARS_MAX = 120;

const TITLES = [
  "FROM",
  "MOMENTS",
  "WRITES",
  "WRITTEN",
  "DISTINCT",
  "REWRITTEN",
  "SHRUNK TO",
  "FLUSHES",
  "NOTES",
];

export async function run(context: CommandContext): Promise<undefined> {
  const volume = required(context, "VOLUME");
  const [since, until, step] = [
    context.option("since"),
    context.option("until"),
    context.option("step"),
  ];
  const history = await (await context.daemon()).call("getHistory", {
    volume,
    ...(since === undefined ? {} : { from: formatMoment(parsePastMoment(since)) }),
    ...(until === undefined ? {} : { to: formatMoment(parsePastMoment(until)) }),
    ...(step === undefined ? {} : { stepMs: String(stepOf(step)) }),
  });
  if (context.isJson) return context.output.json(history) as undefined;
  printHistory(history, context.output, { isUnicode: showsBars(environmentVariable) });
}

/** Milliseconds of an interval. Throws USAGE. */
function stepOf(text: string): number {
  const ms = keepOf('option "--step"', text);
  if (ms % MINUTE_MS === 0) return ms;
  throw new StorageError("USAGE", `option "--step": "${text}" refused: it isn't whole minutes`, {
    hint: "write it like 1m, 15m, 1h or 1d",
  });
}

export function printHistory(
  history: HistoryJson,
  output: Output,
  { isUnicode }: { readonly isUnicode: boolean },
): void {
  const { volume, from, to, stepMs, lines, flagged } = history;
  const rows = rowsOf(history);
  if (rows.length === 0) {
    output.note(`nothing happened to "${volume}" from ${shortTime(from)} to ${shortTime(to)}`);
    return;
  }
  if (output.isTerminal && lines.length > 0) {
    const title = `${volume} from ${shortTime(from)} to ${shortTime(to)}`;
    output.line(`${title}, ${formatDuration(stepMs)} a line`);
    for (const line of barsOf(history, output.width, isUnicode)) output.line(line);
    output.line();
  }
  output.table(TITLES, rows);
  for (const line of reachOf(history)) output.note(line);
  for (const flag of flagged) {
    output.line();
    for (const line of warningOf(volume, flag)) output.line(line);
  }
}

/** What of all this can be opened, where that isn't everything. */
function reachOf({ volume, holes, everyWriteFrom, kept }: HistoryJson): string[] {
  if (holes.length === 0) return [];
  const every =
    everyWriteFrom === undefined
      ? "no longer every write can be opened"
      : `every write since #${everyWriteFrom.lsn} (${shortTime(everyWriteFrom.at)}) can be opened`;
  const list = kept.slice(-KEPT_SHOWN_MAX).map(({ lsn }) => `${volume}@#${lsn}`);
  const single = kept.length === 0 ? "" : `, and of those before ${list.join(" ")}`;
  const more = kept.length > list.length ? ` and ${kept.length - list.length} older` : "";
  return [`${every}${single}${more}`];
}

// ---- bars

function barsOf(
  { from, to, stepMs, lines }: HistoryJson,
  width: number,
  isUnicode: boolean,
): string[] {
  const fromMicros = microsOf(from);
  const intervalsTo = (time: string): number => (microsOf(time) - fromMicros) / 1000 / stepMs;
  const count = Math.max(1, Math.ceil(intervalsTo(to)));
  const written = new Array<number>(count).fill(0);
  const hard = new Array<number>(count).fill(0);
  for (const line of lines) {
    const first = Math.max(0, Math.floor(intervalsTo(line.from)));
    const end = Math.min(count, Math.ceil(intervalsTo(line.to)));
    // A line of several intervals is spread over them.
    for (let at = first; at < end; at++) {
      written[at] = (written[at] as number) + line.writtenBytes / (end - first);
      hard[at] = Math.max(hard[at] as number, hardShare(line));
    }
  }
  const columns = Math.min(BARS_MAX, Math.max(1, width - LABEL_COLUMNS - LEGEND_COLUMNS));
  const peak = Math.max(...written);
  return [
    `${"written".padEnd(LABEL_COLUMNS)}${sparkline(written, { columns, isUnicode })}  up to ${formatSize(Math.round(peak))}`,
    `${"doesn't shrink".padEnd(LABEL_COLUMNS)}${sparkline(hard, { columns, isUnicode, full: 1 })}  up to ${percent(Math.max(...hard))}`,
  ];
}

function hardShare({ hardBlockCount, newBlockCount }: HistoryLineJson): number {
  return newBlockCount === 0 ? 0 : hardBlockCount / newBlockCount;
}

// ---- lines

type Row = readonly (string | number)[];

/** Something on the line of time. */
interface Note {
  readonly at: string;
  readonly lsn: number;
  readonly text: string;
}

function rowsOf(history: HistoryJson): Row[] {
  const notes = notesOf(history);
  const rows: Row[] = [];
  let next = 0;
  const addAlone = (note: Note): void => {
    rows.push([shortTime(note.at), `#${note.lsn}`, 0, "-", "-", "-", "-", 0, note.text]);
  };
  for (const line of history.lines) {
    const [from, to] = [microsOf(line.from), microsOf(line.to)];
    const own: Note[] = [];
    for (let note = notes[next]; note !== undefined; note = notes[next]) {
      if (microsOf(note.at) >= to) break;
      if (microsOf(note.at) < from) addAlone(note);
      else own.push(note);
      next += 1;
    }
    rows.push(rowOf(line, own));
  }
  for (const note of notes.slice(next)) addAlone(note);
  return rows;
}

function rowOf(line: HistoryLineJson, notes: readonly Note[]): Row {
  const { rewrittenBytes, freshBytes, newBlockCount, storedBytes } = line;
  const known = rewrittenBytes + freshBytes;
  const trims = line.trimmedBytes === 0 ? [] : [`trimmed ${formatSize(line.trimmedBytes)}`];
  const zeroes = line.zeroedBytes === 0 ? [] : [`zeroed ${formatSize(line.zeroedBytes)}`];
  return [
    shortTime(line.from),
    line.firstLsn === line.lastLsn ? `#${line.lastLsn}` : `#${line.firstLsn}-${line.lastLsn}`,
    line.writeCount,
    line.writtenBytes === 0 ? "-" : formatSize(line.writtenBytes),
    line.writtenBytes === 0 ? "-" : formatSize(line.distinctBytes),
    known === 0 ? "-" : percent(rewrittenBytes / known),
    newBlockCount === 0 ? "-" : percent(storedBytes / (newBlockCount * BLOCK_BYTES)),
    line.flushCount,
    [...notes.map(({ text }) => text), ...trims, ...zeroes].join(", "),
  ];
}

function notesOf({ names, holes, branches, changes, clockSteps, flagged }: HistoryJson): Note[] {
  const notes: Note[] = [
    ...names.map(({ name, lsn, at }) => ({ at, lsn, text: `${name} (#${lsn})` })),
    ...holes.map(({ from, fromLsn, toLsn, why }) => ({
      at: from,
      lsn: fromLsn,
      text: `hole up to #${toLsn}: ${why}`,
    })),
    ...branches.map(({ at, lsn, reason, parentLsn }) => ({
      at,
      lsn,
      text: parentLsn === undefined ? reason : `${reason} from #${parentLsn}`,
    })),
    ...changes.map((change) => ({ at: change.at, lsn: change.lsn, text: changeText(change) })),
    ...clockSteps.map(({ at, lsn, stepMs }) => ({
      at,
      lsn,
      text: `clock set ${stepMs < 0 ? "back" : "forward"} by ${formatDuration(Math.abs(stepMs))}`,
    })),
    ...flagged.map(({ since, lastLsnBefore }) => ({
      at: since,
      lsn: lastLsnBefore + 1,
      text: SUSPICIOUS,
    })),
  ];
  return notes.sort((a, b) => microsOf(a.at) - microsOf(b.at) || a.lsn - b.lsn);
}

function changeText({ change, ...rest }: HistoryChangeJson): string {
  const { fromBytes = 0, toBytes = 0, fromName = "", toName = "", parentLsn = 0 } = rest;
  switch (change) {
    case "resized":
      return `resized from ${formatSize(fromBytes)} to ${formatSize(toBytes)}`;
    case "renamed":
      return `renamed from ${fromName} to ${toName}`;
    case "cloned":
      return `clone ${toName} of #${parentLsn}`;
    default:
      return change;
  }
}

function warningOf(
  volume: string,
  { since, lastLsnBefore, lastAtBefore }: HistoryFlagJson,
): string[] {
  const moment = `'${volume}@#${lastLsnBefore}'`;
  return [
    `suspicious since ${shortTime(since)}: content that shrank gives way to content that doesn't, as when ransomware encrypts files`,
    `the last moment before it is #${lastLsnBefore} (${shortTime(lastAtBefore)}); look at it with "varve clone ${moment} NAME", go back with "varve rewind ${moment}"`,
  ];
}

/** What the daemon sends is a time; anything else stands at the beginning. */
function microsOf(time: string): number {
  const micros = parseTime(time);
  return typeof micros === "number" ? micros : 0;
}

/** Rounded to whole ones. */
function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}
