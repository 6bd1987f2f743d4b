// SPDX-License-Identifier: Apache-2.0
//
// Lets go of points, and gives back what only they needed. The points go in one commit; from then on nobody finds them,
// and what they alone reached is garbage (garbage.ts). A prune that dies anywhere is finished by the next one.
//
// Old generations of the catalog go last: the newest ones stay, for who reads while others commit, and for a look at what
// was before.

import { hasCode, StorageError } from "../base/errors.ts";
import type { CatalogState, PointEntry } from "./catalog-state.ts";
import {
  Garbage,
  type GarbageProgress,
  type GarbageReport,
  type ReachedObjects,
} from "./garbage.ts";
import { type Decision, decide, type KeepRules, newestFirst, volumeSetOf } from "./keep-rules.ts";
import { findPoint } from "./points.ts";
import { type RepackOptions, type RepackReport, repack, surveyPacks } from "./repack.ts";
import type { Target } from "./target.ts";

export interface PruneWish {
  /** Without rules no point goes by itself. */
  readonly rules?: KeepRules | undefined;
  /** Only points with this volume are looked at. */
  readonly volume?: string | undefined;
  /** Only points of the same volumes as this one, by name or id, are looked at. */
  readonly like?: string | undefined;
  /** Points to remove, to protect, and to protect no longer, by name or id. */
  readonly remove: readonly string[];
  readonly protect: readonly string[];
  readonly unprotect: readonly string[];
}

export interface PruneReport {
  /** Of the points that were looked at, newest first. */
  readonly decisions: readonly Decision[];
  readonly keptCount: number;
  readonly removedCount: number;
  /** Undefined: it wasn't asked for. */
  readonly repack: RepackReport | undefined;
  /** Why no pack was rewritten. */
  readonly repackProblem: StorageError | undefined;
  readonly garbage: GarbageReport;
  /** At the end: who is there, and what waits. */
  readonly state: CatalogState;
}

/** So many generations stay, and up to a quarter more: trimming is a commit, too. */
const GENERATIONS_KEPT = 64;

export async function prune(
  target: Target,
  options: {
    readonly wish: PruneWish;
    readonly reached: ReachedObjects;
    readonly progress: GarbageProgress;
    /** How packs are rewritten; undefined: not at all. */
    readonly repack?: RepackOptions | undefined;
    readonly isDryRun: boolean;
  },
): Promise<PruneReport> {
  const { wish, isDryRun } = options;
  const { catalog } = target;
  const garbage = new Garbage(target, options);
  let selection = select(await catalog.read(), wish);
  if (isDryRun) {
    const state = { ...(await catalog.read()), points: selection.points };
    const repacked = await attempt(options.repack, (how) =>
      surveyPacks(target, { ...how, points: selection.points }),
    );
    return reportOf(selection, { ...repacked, garbage: await garbage.survey(state), state });
  }
  await catalog.update((state) => {
    selection = select(state, wish);
    // A prune that is at work is told when it commits; one that died would be waited for.
    const sessions = state.sessions.filter(({ purpose }) => purpose !== "prune");
    const isChanged = selection.isChanged || sessions.length < state.sessions.length;
    return isChanged ? { ...state, points: selection.points, sessions } : undefined;
  });
  const repacked = await attempt(options.repack, (how) => repack(target, how));
  const report = await garbage.collect();
  await trimGenerations(target, GENERATIONS_KEPT);
  return reportOf(selection, { ...repacked, garbage: report, state: await catalog.read() });
}

/** What can't be read is the garbage collection's to say: where it is in a point's way, that refuses to go on. */
async function attempt(
  how: RepackOptions | undefined,
  run: (how: RepackOptions) => Promise<RepackReport>,
): Promise<Pick<PruneReport, "repack" | "repackProblem">> {
  if (how === undefined) return { repack: undefined, repackProblem: undefined };
  try {
    return { repack: await run(how), repackProblem: undefined };
  } catch (error) {
    if (!hasCode(error, "TARGET_CORRUPT")) throw error;
    return { repack: undefined, repackProblem: error };
  }
}

interface Selection {
  readonly decisions: readonly Decision[];
  /** Those that stay, in their order. */
  readonly points: readonly PointEntry[];
  readonly isChanged: boolean;
}

/** Throws POINT_NOT_FOUND, POINT_PROTECTED. */
function select(state: CatalogState, wish: PruneWish): Selection {
  const { rules, volume } = wish;
  const idsOf = (names: readonly string[]): Set<string> =>
    new Set(names.map((name) => findPoint(state.points, { name, volume }).id));
  const [removed, shielded, unshielded] = [wish.remove, wish.protect, wish.unprotect].map(idsOf);
  const points = state.points.map((point) => {
    const isProtected =
      shielded?.has(point.id) === true || (point.isProtected && unshielded?.has(point.id) !== true);
    return isProtected === point.isProtected ? point : { ...point, isProtected };
  });
  for (const point of points) {
    if (removed?.has(point.id) !== true || !point.isProtected) continue;
    throw new StorageError(
      "POINT_PROTECTED",
      `point "${point.name}": not removed: it is protected`,
    );
  }
  const left = points.filter(({ id }) => removed?.has(id) !== true);
  const like =
    wish.like === undefined ? undefined : findPoint(state.points, { name: wish.like, volume });
  const set = like === undefined ? undefined : volumeSetOf(like);
  const isLookedAt = (point: PointEntry): boolean =>
    (volume === undefined || point.volumes.some(({ name }) => name === volume)) &&
    (set === undefined || volumeSetOf(point) === set);
  const decided = rules === undefined ? [] : decide(left.filter(isLookedAt), rules);
  const gone = new Set(decided.flatMap(({ isKept, point }) => (isKept ? [] : [point.id])));
  const asked = newestFirst(points.filter(({ id }) => removed?.has(id) === true));
  const decisions = [...decided, ...asked.map((point) => ({ point, isKept: false, reasons: [] }))];
  const kept = left.filter(({ id }) => !gone.has(id));
  const isChanged =
    kept.length < state.points.length ||
    points.some((point, index) => point !== state.points[index]);
  return { decisions, points: kept, isChanged };
}

/** Deletes the generations of the catalog but for the newest. */
export async function trimGenerations({ catalog }: Target, keptCount: number): Promise<void> {
  const { generation, oldestGeneration } = await catalog.read();
  const end = generation - keptCount;
  if (end - oldestGeneration < keptCount / 4) return;
  await catalog.trim(oldestGeneration, end);
  await catalog.update((state) =>
    state.oldestGeneration >= end ? undefined : { ...state, oldestGeneration: end },
  );
}

function reportOf(
  { decisions, points }: Selection,
  rest: Omit<PruneReport, "decisions" | "keptCount" | "removedCount">,
): PruneReport {
  const removedCount = decisions.filter(({ isKept }) => !isKept).length;
  return { decisions, keptCount: points.length, removedCount, ...rest };
}
