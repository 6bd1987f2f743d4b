// SPDX-License-Identifier: Apache-2.0
//
// Which checkpoints there are: the newest, the one before (its slot is what recovery falls back to), and the *bases*, earlier
// ones that history goes on from; and the change lists between them. A run is needed by a range of checkpoints, from the
// one that wrote it to the one that has all its pages elsewhere: so a thousand bases cost two numbers per run.
//
// What history needs is asked anew at each checkpoint, and what it doesn't need is let go for good: a base or a list that was
// left out never comes back, whatever clocks and settings say later.

import { assert } from "../base/assert.ts";
import type { ChangeListFile } from "./change-list.ts";
import type { HistoryBase, RunEntry } from "./checkpoint-body.ts";
import { isRunOf, type LoadedCheckpoint, runsOf } from "./checkpoint-loader.ts";
import { runName, runNumberOf } from "./run-file.ts";

/** What the checkpoints on disk come to. */
export interface CheckpointState {
  /** The newest; undefined: there is none. */
  newest: HistoryBase | undefined;
  /** Earlier ones that history goes on from, oldest first. */
  bases: readonly HistoryBase[];
  /** Oldest first, without overlap. */
  lists: readonly ChangeListFile[];
  /** All runs that any of them needs. */
  runs: readonly RunEntry[];
  /** Highest run number in use or on disk. */
  lastRun: number;
  /** Where the cuts of the newest checkpoint and of the one before lie; 0: there is none. */
  cutSegments: readonly [number, number];
}

/** Of a pool without any. */
export const NO_CHECKPOINT: CheckpointState = {
  newest: undefined,
  bases: [],
  lists: [],
  runs: [],
  lastRun: 0,
  cutSegments: [0, 0],
};

/** What these checkpoints, newest first, say is there, as far as it is among the files of those names. */
export function checkpointStateOf(
  checkpoints: readonly LoadedCheckpoint[],
  names: readonly string[],
): CheckpointState {
  const [newest, previous] = checkpoints;
  const there = new Set(names);
  const isThere = (run: number): boolean => there.has(runName(run));
  const lastRun = names.reduce((highest, name) => Math.max(highest, runNumberOf(name)), 0);
  const runs = newest === undefined ? [] : runsOf(newest);
  // What an older checkpoint kept for history alone may be gone by now, with what it was kept for.
  const isBase = ({ slot }: HistoryBase): boolean =>
    runs.every((run) => !isRunOf(run, slot.sequence) || isThere(run.number));
  return {
    newest: newest === undefined ? undefined : { slot: newest.slot, cut: newest.body.cut },
    bases: (newest?.body.bases ?? []).filter(isBase),
    lists: (newest?.body.lists ?? []).filter(({ run }) => isThere(run)),
    runs: runs.filter(({ number }) => isThere(number)),
    lastRun: Math.max(lastRun, newest?.slot.run ?? 0),
    cutSegments: [newest?.body.cut.segmentNumber ?? 0, previous?.body.cut.segmentNumber ?? 0],
  };
}

/** What a checkpoint asks of those who know what is promised. */
export interface HistoryPolicy {
  /** Whether any moment between these LSNs may be asked for: else no list is written of them. Asked at the cut. */
  needsList(fromLsn: number, endLsn: number): boolean;
  /**
   * Chooses the bases and lists that go on being needed, and what is promised with them; called when a checkpoint is
   * written, with all there are. The last base is the checkpoint before this one, the last list ends at this one's cut.
   */
  choose(known: KnownHistory): ChosenHistory;
  /** What was chosen last is in a durable checkpoint. */
  chosenIsDurable(): void;
}

export interface KnownHistory {
  readonly bases: readonly HistoryBase[];
  readonly lists: readonly ChangeListFile[];
  /** Recorded time of the cut, µs, and the first LSN behind it. */
  readonly cutMicros: number;
  readonly cutLsn: number;
}

export interface ChosenHistory {
  readonly bases: readonly HistoryBase[];
  readonly lists: readonly ChangeListFile[];
  readonly promise: Readonly<Record<string, unknown>>;
}

/** The runs that are left when `sequence` is written and `live` says what it reads from. */
export function runsAfter(
  { runs, newest }: CheckpointState,
  next: { readonly sequence: number; readonly bases: readonly HistoryBase[] },
  live: ReadonlyMap<number, number>,
): RunEntry[] {
  const { sequence, bases } = next;
  const needing = [...bases, ...(newest === undefined ? [] : [newest])].map(
    ({ slot }) => slot.sequence,
  );
  const left: RunEntry[] = [];
  for (const run of runs) {
    const { until, ...rest } = run;
    if ((live.get(run.number) ?? 0) > 0) left.push(rest);
    else {
      const ended = { ...rest, until: until ?? sequence };
      if (needing.some((each) => isRunOf(ended, each))) left.push(ended);
    }
  }
  return left;
}

/** The newest base that has no record behind `lsn`: what the volumes held after it is there, and what followed in lists. */
export function baseBefore(bases: readonly HistoryBase[], lsn: number): HistoryBase | undefined {
  let low = 0;
  let high = bases.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((bases[middle] as HistoryBase).cut.nextLsn <= lsn + 1) low = middle + 1;
    else high = middle;
  }
  return bases[low - 1];
}

/** The lists that lead from `fromLsn` through `lsn`; undefined where one is missing. */
export function listsThrough(
  lists: readonly ChangeListFile[],
  fromLsn: number,
  lsn: number,
): readonly ChangeListFile[] | undefined {
  if (lsn < fromLsn) return [];
  const first = lists.findIndex((list) => list.fromLsn === fromLsn);
  if (first < 0) return undefined;
  let end = first;
  let reached = fromLsn;
  while (reached <= lsn) {
    const list = lists[end];
    if (list === undefined || list.fromLsn !== reached) return undefined;
    assert(list.endLsn > reached, "a list tells of some record");
    reached = list.endLsn;
    end += 1;
  }
  return lists.slice(first, end);
}
