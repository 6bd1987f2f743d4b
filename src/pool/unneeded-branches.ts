// SPDX-License-Identifier: Apache-2.0
//
// Lines of history that no promised moment lies in any more: what removed volumes were, and what rewinds left behind. They
// are forgotten by a record, and garbage collection does the rest.

import type { Catalog } from "./catalog.ts";
import { isListOf } from "./catalog-fields.ts";
import { stateAt, type Volume } from "./catalog-volume.ts";
import type { PromisedHistory } from "./history-keeper.ts";

export interface UnneededBranches {
  readonly branches: readonly number[];
  /** Removed volumes that have no moment left; others may begin from their branches still. */
  readonly volumes: readonly number[];
}

/** One record names so many, at most: JSON of 16 KiB. */
const FORGOTTEN_MAX = 1000;

export function unneededBranches(catalog: Catalog, keeper: PromisedHistory): UnneededBranches {
  const needed = new Set<number>(keeper.readers().map(({ branch }) => branch));
  for (const volume of catalog.volumes.values()) addNeeded(needed, volume, catalog, keeper);
  const isGone = ({ removedMicros, states }: Volume): boolean =>
    removedMicros !== undefined && !states.some(({ branch }) => needed.has(branch));
  const volumes = [...catalog.volumes.values()]
    .filter(isGone)
    .map(({ id }) => id)
    .slice(0, FORGOTTEN_MAX);
  // A volume that stays, if only for a name that an older line has, stays with the line it was on last.
  const forgotten = new Set(volumes);
  for (const { id, branch } of catalog.volumes.values()) if (!forgotten.has(id)) needed.add(branch);
  // Where a needed branch begins is needed. Parents have lower numbers.
  const ids = [...catalog.branches.keys()].sort((a, b) => b - a);
  for (const id of ids) if (needed.has(id)) needed.add(catalog.branches.get(id)?.parent ?? 0);
  const branches = ids.filter((id) => !needed.has(id)).slice(0, FORGOTTEN_MAX);
  return { branches, volumes };
}

function addNeeded(
  needed: Set<number>,
  volume: Volume,
  catalog: Catalog,
  keeper: PromisedHistory,
): void {
  const { states, removedMicros, branch } = volume;
  if (removedMicros === undefined) needed.add(branch);
  const { fromLsn, kept } = keeper.promiseOf(volume);
  const moments = [
    ...kept.map((nextLsn) => nextLsn - 1),
    ...catalog.moments.of(volume.id).map(({ lsn }) => lsn),
  ];
  for (const lsn of moments) {
    const then = stateAt(volume, lsn);
    if (then !== undefined && !then.isRemoved) needed.add(then.branch);
  }
  if (fromLsn === undefined) return;
  for (const [at, state] of states.entries()) {
    const next = states[at + 1];
    const endsBefore = next !== undefined && next.fromLsn < fromLsn;
    if (!state.isRemoved && !endsBefore) needed.add(state.branch);
  }
}

/** The lists of a record; undefined when they make no sense. */
export function forgottenFrom(
  body: Readonly<Record<string, unknown>>,
): UnneededBranches | undefined {
  const { branches, volumes } = body;
  const isNumber = (value: unknown): value is number => typeof value === "number";
  if (!isListOf(branches, isNumber) || !isListOf(volumes, isNumber)) return undefined;
  return { branches, volumes };
}
