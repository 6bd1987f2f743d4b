// SPDX-License-Identifier: Apache-2.0
//
// What `varve history` makes of a volume's history.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import type { HistoryJson, HistoryLineJson } from "../../api/history.ts";
import { Output } from "../output.ts";
import { printHistory } from "./history.ts";

const MIB = 1024 ** 2;

class KeptOutput extends Output {
  readonly lines: string[] = [];
  readonly notes: string[] = [];
  readonly #columns: number;

  /** 0 columns: no terminal. */
  constructor(columns: number) {
    super(false);
    this.#columns = columns;
  }
  override get isTerminal(): boolean {
    return this.#columns > 0;
  }
  override get width(): number {
    return this.#columns;
  }
  override line(text = ""): void {
    this.lines.push(text);
  }
  override note(text: string): void {
    this.notes.push(text);
  }
}

function printed(history: HistoryJson, columns = 0, isUnicode = true): KeptOutput {
  const output = new KeptOutput(columns);
  printHistory(history, output, { isUnicode });
  return output;
}

/** Five minutes from 11:`minute` on. */
function line(minute: number, change: Partial<HistoryLineJson> = {}): HistoryLineJson {
  const time = (at: number): string => `2026-03-01T11:${String(at).padStart(2, "0")}:00.000Z`;
  return {
    from: time(minute),
    to: time(minute + 5),
    firstLsn: minute * 100 + 1,
    lastLsn: minute * 100 + 90,
    writeCount: 80,
    writtenBytes: 4 * MIB,
    distinctBytes: 3 * MIB,
    rewrittenBytes: MIB,
    freshBytes: 3 * MIB,
    newBlockCount: 1000,
    hardBlockCount: 100,
    storedBytes: 2 * MIB,
    zeroBytes: 0,
    duplicateBytes: 0,
    trimCount: 0,
    trimmedBytes: 0,
    zeroedCount: 0,
    zeroedBytes: 0,
    flushCount: 9,
    ...change,
  };
}

const QUIET: HistoryJson = {
  volume: "db",
  from: "2026-03-01T11:00:00.000Z",
  to: "2026-03-01T11:30:00.000Z",
  stepMs: 300_000,
  lines: [],
  kept: [],
  changes: [],
  names: [],
  holes: [],
  branches: [],
  clockSteps: [],
  flagged: [],
};

const EVENTFUL: HistoryJson = {
  ...QUIET,
  lines: [
    line(0),
    line(10, {
      writtenBytes: 40 * MIB,
      hardBlockCount: 990,
      rewrittenBytes: 4 * MIB,
      freshBytes: 0,
    }),
    line(20, {
      firstLsn: 2010,
      lastLsn: 2010,
      writeCount: 0,
      writtenBytes: 0,
      distinctBytes: 0,
      rewrittenBytes: 0,
      freshBytes: 0,
      newBlockCount: 0,
      hardBlockCount: 0,
      storedBytes: 0,
      trimCount: 1,
      trimmedBytes: 100 * MIB,
      flushCount: 0,
    }),
  ],
  names: [{ name: "before-upgrade", lsn: 44, at: "2026-03-01T11:00:00.000001Z" }],
  branches: [
    { at: "2026-03-01T11:26:00.000Z", lsn: 2100, reason: "rewind", parentLsn: 1009 },
    { at: "2026-03-01T10:59:59.000Z", lsn: 1, reason: "created" },
  ],
  holes: [
    {
      from: "2026-03-01T11:06:00.000Z",
      to: "2026-03-01T11:07:00.000Z",
      fromLsn: 700,
      toLsn: 710,
      why: "the pool was nearly full",
    },
  ],
  clockSteps: [{ at: "2026-03-01T11:21:00.000Z", lsn: 2010, stepMs: -3_600_000 }],
  flagged: [
    {
      since: "2026-03-01T11:10:02.000Z",
      lastLsnBefore: 1009,
      lastAtBefore: "2026-03-01T11:10:01.000Z",
      noticedAt: "2026-03-01T11:10:04.000Z",
    },
  ],
};

const TABLE = [
  "FROM                 MOMENTS     WRITES   WRITTEN  DISTINCT  REWRITTEN  SHRUNK TO  FLUSHES  NOTES",
  "2026-03-01 10:59:59  #1               0         -         -          -          -        0  created",
  "2026-03-01 11:00:00  #1-90           80   4.0 MiB   3.0 MiB        25%        51%        9  before-upgrade (#44)",
  "2026-03-01 11:06:00  #700             0         -         -          -          -        0  hole up to #710: the pool was nearly full",
  "2026-03-01 11:10:00  #1001-1090      80  40.0 MiB   3.0 MiB       100%        51%        9  SUSPICIOUS",
  "2026-03-01 11:20:00  #2010            0         -         -          -          -        0  clock set back by 1 h, trimmed 100 MiB",
  "2026-03-01 11:26:00  #2100            0         -         -          -          -        0  rewind from #1009",
];
const WARNING = [
  "",
  "suspicious since 2026-03-01 11:10:02: content that shrank gives way to content that doesn't, as when ransomware encrypts files",
  "the last moment before it is #1009 (2026-03-01 11:10:01); look at it with \"varve clone 'db@#1009' NAME\", go back with \"varve rewind 'db@#1009'\"",
];

test("a pipe gets a line per interval, notes in their place, and the warning at the end", () => {
  deepEqual(printed(EVENTFUL).lines, [...TABLE, ...WARNING]);
});

test("a terminal gets bars above it, of what was written and of what doesn't shrink", () => {
  deepEqual(printed(EVENTFUL, 100).lines.slice(0, 4), [
    "db from 2026-03-01 11:00:00 to 2026-03-01 11:30:00, 5 min a line",
    "written         ▁ █     up to 40.0 MiB",
    "doesn't shrink  ▁ █     up to 99%",
    "",
  ]);
  deepEqual(printed(EVENTFUL, 100, false).lines.slice(1, 3), [
    "written         . @     up to 40.0 MiB",
    "doesn't shrink  . @     up to 99%",
  ]);
  // Three columns are left for six intervals.
  deepEqual(printed(EVENTFUL, 43).lines[1], "written         ▁█   up to 40.0 MiB");
});

test("a line that is longer than an interval is spread over its intervals", () => {
  const lines = [line(0, { to: "2026-03-01T11:20:00.000Z" }), line(25)];
  equal(printed({ ...QUIET, lines }, 100).lines[1], "written         ▂▂▂▂ █  up to 4.0 MiB");
});

test("where nothing happened, that is said on stderr", () => {
  const { lines, notes } = printed(QUIET, 80);
  deepEqual(lines, []);
  deepEqual(notes, ['nothing happened to "db" from 2026-03-01 11:00:00 to 2026-03-01 11:30:00']);
});
