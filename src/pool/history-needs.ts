// SPDX-License-Identifier: Apache-2.0
//
// What garbage collection must keep for history, volume by volume: out of what is promised (history-promise.ts) and what
// is pinned besides (history-keeper.ts), in the terms of branches, records and moments (gc/history.ts).

import type { History, KeptMoment } from "../gc/history.ts";
import { type Need, NO_HISTORY } from "../gc/needs.ts";
import type { CheckpointState } from "../index/kept-checkpoints.ts";
import { CHUNK_BLOCKS } from "../index/page-directory.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { Catalog } from "./catalog.ts";
import { stateAt, type Volume } from "./catalog-volume.ts";
import type { PromisedHistory } from "./history-keeper.ts";
import { unneededBranches } from "./unneeded-branches.ts";

export interface HistoryOfPool {
  readonly catalog: Catalog;
  readonly keeper: PromisedHistory;
  readonly state: Readonly<CheckpointState>;
}

export function historyOf({ catalog, keeper, state }: HistoryOfPool): History {
  if (keeper.promises.every(({ fromLsn }) => fromLsn === 0)) return { kind: "all" };
  const fromLsns = new Map<number, number>();
  const moments: KeptMoment[] = [];
  const addMoment = (volume: Volume, lsn: number): void => {
    const then = stateAt(volume, lsn);
    if (then === undefined || then.isRemoved) return;
    moments.push({ branch: then.branch, lsn, chunkCount: chunkCountOf(then.sizeBytes) });
  };
  for (const volume of catalog.volumes.values()) {
    const { fromLsn, kept } = keeper.promiseOf(volume);
    for (const nextLsn of kept) addMoment(volume, nextLsn - 1);
    for (const { lsn } of catalog.moments.of(volume.id)) addMoment(volume, lsn);
    if (fromLsn === undefined) continue;
    fromLsns.set(volume.id, fromLsn);
    addMoment(volume, fromLsn - 1);
  }
  moments.push(...keeper.readers());
  // Also of windows that no volume is under: the next one that is made will be.
  const windows = keeper.promises.flatMap(({ fromLsn }) => fromLsn ?? []);
  const start = windows.length === 0 ? undefined : startAt(state, Math.min(...windows));
  // Without the checkpoint that the window begins at nothing can be told: it all stays until there is another.
  if (windows.length > 0 && start === undefined) return { kind: "all" };
  const fromLsnOf = (branch: number): number | undefined =>
    fromLsns.get(catalog.branches.get(branch)?.volume ?? 0);
  return { kind: "some", start, fromLsnOf, moments };
}

/** What volumes hold now. */
export function needOfVolumes(catalog: Catalog): Need {
  return { isLive: (branch) => catalog.isServed(branch), history: NO_HISTORY };
}

/** What is promised of the past, with what removed volumes held last, while a promised moment lies there. */
export function needOfPast(asked: HistoryOfPool): Need {
  const { catalog, keeper } = asked;
  const forgotten = new Set(unneededBranches(catalog, keeper).branches);
  const isLive = (branch: number): boolean => catalog.isCurrent(branch) && !forgotten.has(branch);
  return { isLive, history: historyOf(asked) };
}

/** Chunks of the index that so many bytes take. */
export function chunkCountOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / (CHUNK_BLOCKS * BLOCK_BYTES));
}

function startAt(
  { bases, newest }: Readonly<CheckpointState>,
  nextLsn: number,
): ReplayStart | undefined {
  if (nextLsn <= LOG_BEGIN.nextLsn) return LOG_BEGIN;
  const all = newest === undefined ? bases : [...bases, newest];
  return all.find(({ cut }) => cut.nextLsn === nextLsn)?.cut;
}
