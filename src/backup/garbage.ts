// SPDX-License-Identifier: Apache-2.0
//
// What no point needs any more goes in two steps, so that a writer, a reader or another prune at work never misses
// anything (I17, I19), wherever any of them dies:
//
//   1. condemn   objects that are listed and that no point of a generation reaches are named in the next one, k
//   2. delete    once no session and no lease is left that began before k: objects first, then their names in the catalog
//
// Why that is safe. Who began before k may refer to them: he is waited for, and if he commits a point that reaches some of
// them, that same commit takes them off the list (sessions.ts). Who begins at k or later sees the list and doesn't refer to
// them. So when nobody older is left nobody ever will; and because no name is given to two objects, a prune that slept
// through all of this deletes only what is gone.
//
// A listing is a hint: what it misses is found the next time, and what it shows is deleted only if no point reaches it.
// Which objects a point reaches is read from the point; if one can't be read nothing is condemned and nothing deleted.

import { hasCode, StorageError } from "../base/errors.ts";
import {
  type CatalogState,
  CONDEMNED_NAMES_MAX,
  type CondemnedEntry,
  isDeletable,
  type PointEntry,
} from "./catalog-state.ts";
import { holds } from "./leases.ts";
import { type Reached, spare } from "./sessions.ts";
import type { Target } from "./target.ts";

/** All objects that the points which were added reach. Grows only. */
export interface ReachedObjects extends Reached {
  /** Throws TARGET_CORRUPT where the manifest, or something it names, can't be read. */
  add(manifest: string): Promise<void>;
  /** Reads what has() must know of an object that was listed. */
  look(name: string): Promise<void>;
}

export interface GarbageReport {
  /** Objects that no point needs, condemned or not, that this prune saw; and their bytes. */
  readonly garbageCount: number;
  readonly garbageBytes: number;
  readonly deletedCount: number;
  readonly deletedBytes: number;
  /** Objects that wait for somebody who began before they were condemned. */
  readonly waitingCount: number;
  readonly waitingBytes: number;
  /** Puts that a crash had cut short, and progress of sessions that ended: taken away. */
  readonly leftoverCount: number;
}

export interface GarbageProgress {
  /** Objects, or points in the first phase. */
  progress(phase: "points" | "objects" | "deletion", doneCount: number, totalCount: number): void;
}

const PARALLEL = 8;
/** Of one prune: each takes away as much as fits into the catalog. */
const ROUNDS_MAX = 256;
const SESSION_OBJECT = /^sessions\/([0-9a-f]{32})\//;
const FOLDERS = ["packs/", "runs/", "points/", "history/", "index/"] as const;

export class Garbage {
  readonly #target: Target;
  readonly #reached: ReachedObjects;
  readonly #progress: GarbageProgress;
  /** Manifests that were added: they are reached, too. */
  readonly #added = new Set<string>();
  readonly #isReached: Reached = {
    has: (name) => this.#added.has(name) || this.#reached.has(name),
  };
  /** Unreached objects of the last listing, with their sizes. */
  readonly #found = new Map<string, number>();
  #isMore = false;
  #deletedCount = 0;
  #deletedBytes = 0;
  #leftoverCount = 0;

  constructor(
    target: Target,
    options: { readonly reached: ReachedObjects; readonly progress: GarbageProgress },
  ) {
    this.#target = target;
    this.#reached = options.reached;
    this.#progress = options.progress;
  }

  /** What there is of it, by the points given; nothing is changed. */
  async survey(state: CatalogState): Promise<GarbageReport> {
    await this.#reach(state.points);
    await this.#list();
    return this.#report(state);
  }

  /** Condemns, and deletes what nobody is left to need. */
  async collect(): Promise<GarbageReport> {
    const { catalog } = this.#target;
    let state = await catalog.read();
    for (let round = 1; round <= ROUNDS_MAX; round += 1) {
      await this.#reach(state.points);
      await this.#list();
      state = await this.#condemn();
      const before = this.#deletedCount;
      state = await this.#delete(state);
      if (!this.#isMore || this.#deletedCount === before) break;
    }
    await this.#clearLeftovers();
    return this.#report(state);
  }

  /** Adds what the points reach. What others have removed meanwhile stays: it is more than is needed, never less. */
  async #reach(points: readonly PointEntry[]): Promise<void> {
    const fresh = points.filter(({ manifest }) => !this.#added.has(manifest));
    let doneCount = 0;
    await inParallel(fresh, async ({ name, manifest }) => {
      try {
        await this.#reached.add(manifest);
      } catch (error) {
        if (!hasCode(error, "TARGET_CORRUPT")) throw error;
        // Another prune may have let go of it meanwhile, with all it had.
        const { points: latest } = await this.#target.catalog.read();
        if (latest.some((point) => point.manifest === manifest)) throw unreadable(name, error);
      }
      this.#added.add(manifest);
      doneCount += 1;
      this.#progress.progress("points", doneCount, fresh.length);
    });
  }

  async #list(): Promise<void> {
    this.#found.clear();
    this.#isMore = false;
    let seenCount = 0;
    for (const folder of FOLDERS) {
      for await (const { name, sizeBytes } of this.#target.store.list(folder)) {
        seenCount += 1;
        if (seenCount % 1024 === 0) this.#progress.progress("objects", seenCount, seenCount);
        if (!isDeletable(name)) continue;
        await this.#reached.look(name);
        if (this.#isReached.has(name)) continue;
        if (this.#found.size >= CONDEMNED_NAMES_MAX) this.#isMore = true;
        else this.#found.set(name, sizeBytes);
      }
    }
  }

  /** The generation that names them was made from one of which all points are reached. */
  #condemn(): Promise<CatalogState> {
    return this.#target.catalog.update(async (state) => {
      await this.#reach(state.points);
      const before = spare(state.condemned, this.#isReached);
      const known = new Set(before.flatMap(({ names }) => names));
      const room = CONDEMNED_NAMES_MAX - known.size;
      const names = [...this.#found.keys()]
        .filter((name) => !known.has(name) && !this.#isReached.has(name))
        .slice(0, room);
      if (names.length === 0 && known.size === countOf(state.condemned)) return undefined;
      const generation = state.generation + 1;
      const fresh = names.length === 0 ? [] : [{ generation, names }];
      return { ...state, condemned: [...before, ...fresh] };
    });
  }

  async #delete(state: CatalogState): Promise<CatalogState> {
    await this.#reach(state.points);
    const nowMicros = this.#target.clock.wallMicros();
    const due = state.condemned.filter((entry) => isDue(entry, state, nowMicros));
    const names = due
      .flatMap((entry) => entry.names)
      // A point reaches none of them: that was seen to when they were condemned, and at each commit since.
      .filter((name) => isDeletable(name) && !this.#isReached.has(name))
      .sort();
    if (names.length === 0) return state;
    let doneCount = 0;
    await inParallel(names, async (name) => {
      await this.#target.store.delete(name);
      doneCount += 1;
      this.#progress.progress("deletion", doneCount, names.length);
    });
    this.#deletedCount += names.length;
    for (const name of names) this.#deletedBytes += this.#found.get(name) ?? 0;
    const gone = new Set(names);
    return this.#target.catalog.update((latest) => {
      const condemned = spare(latest.condemned, gone);
      return countOf(condemned) === countOf(latest.condemned)
        ? undefined
        : { ...latest, condemned };
    });
  }

  /** What was there before a state that doesn't know its owner is nobody's: ids are never given twice. */
  async #clearLeftovers(): Promise<void> {
    const { store, catalog } = this.#target;
    const progress: string[] = [];
    for await (const { name } of store.list("sessions/")) progress.push(name);
    const unfinished: string[] = [];
    for await (const name of store.unfinished()) unfinished.push(name);
    const { sessions } = await catalog.read();
    const open = new Set(sessions.map(({ id }) => id));
    const ended = progress.filter((name) => {
      const id = SESSION_OBJECT.exec(name)?.[1];
      return id !== undefined && !open.has(id);
    });
    await inParallel(ended, (name) => store.delete(name));
    this.#leftoverCount = ended.length;
    // Those of the writers at work are among them.
    if (sessions.length > 0) return;
    await inParallel(unfinished, (name) => store.discard(name));
    this.#leftoverCount += unfinished.length;
  }

  #report(state: CatalogState): GarbageReport {
    const waiting = state.condemned.flatMap(({ names }) => names);
    const bytes = (names: Iterable<string>): number => {
      let sum = 0;
      for (const name of names) sum += this.#found.get(name) ?? 0;
      return sum;
    };
    return {
      garbageCount: this.#found.size,
      garbageBytes: bytes(this.#found.keys()),
      deletedCount: this.#deletedCount,
      deletedBytes: this.#deletedBytes,
      waitingCount: waiting.length,
      waitingBytes: bytes(waiting),
      leftoverCount: this.#leftoverCount,
    };
  }
}

/** Nobody is left who began before it was condemned. */
export function isDue(entry: CondemnedEntry, state: CatalogState, nowMicros: number): boolean {
  const { sessions, leases } = state;
  const readers = leases.filter((lease) => holds(lease, nowMicros));
  return [...sessions, ...readers].every(({ generation }) => generation >= entry.generation);
}

function countOf(condemned: readonly CondemnedEntry[]): number {
  return condemned.reduce((sum, { names }) => sum + names.length, 0);
}

function unreadable(point: string, error: StorageError): StorageError {
  const what = `prune: nothing deleted: point "${point}" can't be read: ${error.message}`;
  return new StorageError("TARGET_CORRUPT", what, {
    hint: `see "varve verify TARGET"; without the point it goes on: "varve prune TARGET --remove ${point}"`,
    data: error.data,
    cause: error,
  });
}

/** Runs for each item, some at once. The first failure ends it, when those under way have ended. */
async function inParallel<T>(items: Iterable<T>, run: (item: T) => Promise<void>): Promise<void> {
  const iterator = items[Symbol.iterator]();
  let isFailed = false;
  const work = async (): Promise<void> => {
    for (let next = iterator.next(); !next.done && !isFailed; next = iterator.next()) {
      try {
        await run(next.value);
      } catch (error) {
        isFailed = true;
        throw error;
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: PARALLEL }, work));
  for (const result of ended) if (result.status === "rejected") throw result.reason;
}
