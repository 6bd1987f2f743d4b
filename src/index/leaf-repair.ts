// SPDX-License-Identifier: Apache-2.0
//
// Rebuilds pages whose images in a run can't be read any more. An image is what a branch held at some moment, and that
// can be had in other ways:
//
//   1. an earlier base's image, and the change lists from there (past.ts), as with any moment;
//   2. an earlier checkpoint's image, and the records from there, where no list is left;
//   3. all records from the log's beginning, while that is there.
//
// An earlier image helps only where it is another one: so a page that nobody changed, behind a log that begins late, is
// lost. One pass over records gives all pages that are wanted then. A rebuilt image is kept until a checkpoint has
// written the page anew, so that damage costs one pass, once; of pages that only history has, some hundreds are kept.

import { StorageError } from "../base/errors.ts";
import { RecentMap } from "../base/recent-map.ts";
import type { Clock } from "../host/ports.ts";
import { readLogUntil } from "../log/log-range.ts";
import { PlainMap } from "../log/plain-map.ts";
import { PlainState } from "../log/plain-state.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import type { BlockIndex } from "./block-index.ts";
import type { CheckpointBody, HistoryBase } from "./checkpoint-body.ts";
import { type CheckpointSource, readBody, readCheckpoints } from "./checkpoint-loader.ts";
import type { CheckpointState } from "./kept-checkpoints.ts";
import { type Origin, PAGE_BLOCKS } from "./page-directory.ts";
import type { Past } from "./past.ts";

/** A page's image in a run. */
export interface Leaf {
  readonly branch: number;
  readonly page: number;
  readonly run: number;
  readonly offset8: number;
}

export interface LeafRepairOptions {
  readonly log: CheckpointSource;
  readonly clock: Clock;
  readonly index: BlockIndex;
  readonly past: Past;
  readonly state: () => Readonly<CheckpointState>;
  /** Until the returned function is called no base and no list is let go. */
  readonly pinHistory: () => Promise<() => void>;
  /** A checkpoint's volumes and branches, without content. Throws POOL_CORRUPT. */
  readonly stateOf: (body: CheckpointBody, isWanted: IsWanted) => PlainState;
  /** A page can't be read, and is about to be rebuilt. */
  readonly onDamaged: (leaf: Leaf, cause: StorageError) => void;
  /** So many pages were rebuilt. */
  readonly onRebuilt: (pageCount: number) => void;
  /** Pages that live branches name were rebuilt: the next checkpoint must write them. */
  readonly onToWrite: () => void;
}

type IsWanted = (branch: number, page: number) => boolean;

interface Wanted extends PromiseWithResolvers<Uint32Array> {
  readonly leaf: Leaf;
  /** A moment at which the leaf was the page's image. */
  readonly origin: Origin;
}

/** Batches between two turns of the event loop. */
const SLICE_BATCHES = 64;
/** Images that only history needs. */
const PAST_IMAGES_MAX = 256;
/** Earlier checkpoints that are tried with the records behind them. */
const STARTS_MAX = 4;

export class LeafRepair {
  readonly #options: LeafRepairOptions;
  /** For the next pass. */
  #wanted: Map<string, Wanted> = new Map();
  /** Rebuilt, and not yet in a new run. */
  readonly #images: Map<string, Uint32Array> = new Map();
  readonly #pastImages: RecentMap<string, Uint32Array> = new RecentMap(PAST_IMAGES_MAX);
  #isRunning = false;

  constructor(options: LeafRepairOptions) {
    this.#options = options;
  }

  /** The moment that the branch's images in memory are of now; of a view, that and its own. */
  originOf(branch: number): Origin {
    const { index, state } = this.#options;
    const lsn = (state().newest?.cut.nextLsn ?? 1) - 1;
    const origin = index.views.get(branch)?.origin;
    return origin === undefined
      ? { branch, lsn }
      : { branch: origin.branch, lsn: Math.min(origin.lsn, lsn) };
  }

  /**
   * The page's references, two words a block, in place of the image that `cause` says can't be read, and which the branch
   * of `origin` had then. Throws POOL_CORRUPT when nothing gives them.
   */
  image(leaf: Leaf, origin: Origin, cause: StorageError): Promise<Uint32Array> {
    const key = keyOf(leaf);
    const image = this.#images.get(key) ?? this.#pastImages.get(key);
    if (image !== undefined) return Promise.resolve(image);
    let wanted = this.#wanted.get(key);
    if (wanted === undefined) {
      wanted = { leaf, origin, ...Promise.withResolvers<Uint32Array>() };
      this.#wanted.set(key, wanted);
      this.#options.onDamaged(leaf, cause);
    }
    if (!this.#isRunning) void this.#run();
    return wanted.promise;
  }

  /** Whether the image at (run, offset) was rebuilt: a checkpoint writes the page anew. */
  isRebuilt(run: number, offset8: number): boolean {
    return this.#images.size > 0 && this.#images.has(keyOf({ run, offset8 }));
  }

  /** What a checkpoint that is cut now will have written. */
  rebuilt(): readonly string[] {
    return [...this.#images.keys()];
  }

  /** A checkpoint has written these anew. */
  forget(keys: readonly string[]): void {
    for (const key of keys) this.#images.delete(key);
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    const unpin = await this.#options.pinHistory();
    while (this.#wanted.size > 0) {
      const wanted = [...this.#wanted.values()];
      this.#wanted = new Map();
      const rest = await this.#fromLists(wanted);
      const lsns = new Set(rest.map(({ origin }) => origin.lsn));
      for (const lsn of lsns)
        await this.#fromRecords(
          rest.filter(({ origin }) => origin.lsn === lsn),
          lsn,
        );
    }
    unpin();
    this.#isRunning = false;
  }

  #give(given: readonly (readonly [Wanted, Uint32Array])[]): void {
    const { index, onRebuilt, onToWrite } = this.#options;
    let toWrite = 0;
    for (const [{ leaf, resolve }, image] of given) {
      if (index.markImage(leaf)) {
        this.#images.set(keyOf(leaf), image);
        toWrite += 1;
      } else this.#pastImages.set(keyOf(leaf), image);
      resolve(image);
    }
    if (given.length > 0) onRebuilt(given.length);
    if (toWrite > 0) onToWrite();
  }

  /** Rebuilds what bases and lists help with; gives the others. */
  async #fromLists(wanted: readonly Wanted[]): Promise<readonly Wanted[]> {
    const rest: Wanted[] = [];
    for (const each of wanted) {
      const { leaf, origin } = each;
      const image = await orUndefined(this.#options.past.pageWithout(origin, leaf.page, leaf));
      if (image === undefined) rest.push(each);
      else this.#give([[each, image]]);
    }
    return rest;
  }

  /** Rebuilds what records help with, up to the moment; what can't be rebuilt is told. */
  async #fromRecords(wanted: readonly Wanted[], lsn: number): Promise<void> {
    let rest = wanted;
    for (const base of await this.#startsBefore(lsn)) {
      if (rest.length === 0) return;
      const seeded = await orUndefined(this.#seed(rest, base));
      if (seeded === undefined || seeded.wanted.length === 0) continue;
      const given = await orUndefined(this.#replay(seeded.wanted, seeded.state, base.cut, lsn));
      if (given === undefined) continue;
      this.#give(given);
      rest = rest.filter((each) => !seeded.wanted.includes(each));
    }
    if (rest.length === 0) return;
    const state = new PlainState(isWantedIn(rest));
    try {
      this.#give(await this.#replay(rest, state, LOG_BEGIN, lsn));
    } catch (error) {
      for (const { leaf, reject } of rest) reject(notRebuilt(leaf, error));
    }
  }

  /** Checkpoints before the moment, newest first: bases, and the one that recovery would fall back to. */
  async #startsBefore(lsn: number): Promise<readonly HistoryBase[]> {
    const { log, state } = this.#options;
    const { checkpoints } = (await orUndefined(readCheckpoints(log))) ?? { checkpoints: [] };
    const slots = checkpoints.map(({ slot, body }) => ({ slot, cut: body.cut }));
    const bySequence = new Map(
      [...slots, ...state().bases].map((base) => [base.slot.sequence, base]),
    );
    return [...bySequence.values()]
      .filter(({ cut }) => cut.nextLsn <= lsn)
      .sort((a, b) => b.cut.nextLsn - a.cut.nextLsn)
      .slice(0, STARTS_MAX);
  }

  /** The checkpoint's volumes and branches, with the wanted pages as far as it has them. Throws POOL_CORRUPT, DISK_IO. */
  async #seed(
    wanted: readonly Wanted[],
    base: HistoryBase,
  ): Promise<{ readonly state: PlainState; readonly wanted: readonly Wanted[] }> {
    const { log, stateOf } = this.#options;
    const state = stateOf(await readBody(log, base.slot), isWantedIn(wanted));
    const begun = new Map<number, PlainMap>();
    const seeded: Wanted[] = [];
    for (const each of wanted)
      if ((await orUndefined(this.#seedPage(each, base, { state, begun }))) === true)
        seeded.push(each);
    for (const [branch, map] of begun) state.expectBranch(branch, map);
    return { state, wanted: seeded };
  }

  /** Puts the page into the nearest ancestor that there was; or what a branch begins with that began before. */
  async #seedPage(
    { leaf, origin }: Wanted,
    base: HistoryBase,
    { state, begun }: { readonly state: PlainState; readonly begun: Map<number, PlainMap> },
  ): Promise<true> {
    const { index, past } = this.#options;
    const lsn = base.cut.nextLsn - 1;
    let branch = origin.branch;
    for (;;) {
      const map = state.branches.get(branch);
      if (map !== undefined) {
        map.putPage(leaf.page, await past.pageOfBase(base, { branch, lsn }, leaf.page, leaf));
        return true;
      }
      const above = index.branches.get(branch)?.origin;
      if (above === undefined) return true; // begins empty, behind the checkpoint
      if (above.lsn < lsn) {
        const own = begun.get(branch) ?? new PlainMap();
        own.putPage(leaf.page, await past.pageWithout(above, leaf.page, leaf));
        begun.set(branch, own);
        return true;
      }
      branch = above.branch;
    }
  }

  /** One pass over the records from a place through the moment. Throws LOG_CORRUPT, DISK_IO. */
  async #replay(
    wanted: readonly Wanted[],
    state: PlainState,
    start: ReplayStart,
    lsn: number,
  ): Promise<readonly (readonly [Wanted, Uint32Array])[]> {
    const { log, clock, index } = this.#options;
    const points = [...index.branches.values()].flatMap(({ branch, origin }) =>
      origin === undefined ? [] : [{ branch, parent: origin.branch, parentLsn: origin.lsn }],
    );
    points.sort((a, b) => a.parentLsn - b.parentLsn || a.branch - b.branch);
    state.expectBranches(points, start.nextLsn);
    let batchCount = 0;
    await readLogUntil({
      ...log,
      start,
      endLsn: lsn + 1,
      onRecord: (cursor) => state.apply(log.memory, cursor),
      afterBatch: () => {
        batchCount += 1;
        if (batchCount % SLICE_BATCHES !== 0) return undefined;
        return new Promise((resolve) => clock.afterInput(resolve));
      },
    });
    return wanted.map((each) => {
      const page = this.#mapOf(state, each.origin)?.page(each.leaf.page);
      return [each, page?.slice() ?? new Uint32Array(PAGE_BLOCKS * 2)] as const;
    });
  }

  /** Of a branch whose record comes later: what it begins with, as far as that was passed. */
  #mapOf(state: PlainState, { branch }: Origin): PlainMap | undefined {
    const map = state.branches.get(branch) ?? state.begunWith(branch);
    const above = this.#options.index.branches.get(branch)?.origin;
    return map !== undefined || above === undefined ? map : this.#mapOf(state, above);
  }
}

/** Pages of that number, of all branches: they may be each other's ancestors. */
function isWantedIn(wanted: readonly Wanted[]): IsWanted {
  const pages = new Set(wanted.map(({ leaf }) => leaf.page));
  return (_branch, page) => pages.has(page);
}

/** Undefined: it can't be read. */
async function orUndefined<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof StorageError) return undefined;
    throw error;
  }
}

function keyOf(place: { readonly run: number; readonly offset8: number }): string {
  return `${place.run}:${place.offset8}`;
}

function notRebuilt(leaf: Leaf, error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  const { branch, page } = leaf;
  return new StorageError(
    "POOL_CORRUPT",
    `index: page ${page} of branch ${branch}: damaged, and not rebuilt, from an earlier checkpoint or the log's beginning: ${error.message}`,
    { data: { branch, page }, cause: error },
  );
}
