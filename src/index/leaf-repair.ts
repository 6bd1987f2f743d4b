// SPDX-License-Identifier: Apache-2.0
//
// Rebuilds pages whose images in a run can't be read any more. An image says what the log said up to the newest
// checkpoint's cut: so it is the older checkpoint's image, where that is another one, and the records between the two
// cuts; or else all records from the log's beginning, while that is still there. One pass gives all pages that are
// wanted then. Changes behind the cut are in the ring, and are merged on top as with any image.
//
// A rebuilt image is kept until a checkpoint has written the page anew, so that damage costs one pass, once.

import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { readLogUntil } from "../log/log-range.ts";
import { PlainState } from "../log/plain-state.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import type { CheckpointBody } from "./checkpoint-body.ts";
import { type CheckpointSource, readCheckpoints } from "./checkpoint-loader.ts";
import { placeOfPage, readPageAt } from "./older-page.ts";
import { PAGE_BLOCKS } from "./page-directory.ts";

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
  /** LSN of the newest checkpoint's cut: what the images hold, and what is durable. */
  readonly cutLsn: () => number;
  /** A checkpoint's volumes and branches, without content. Throws POOL_CORRUPT. */
  readonly stateOf: (body: CheckpointBody, isWanted: IsWanted) => PlainState;
  /** A page can't be read, and is about to be rebuilt. */
  readonly onDamaged: (leaf: Leaf, cause: StorageError) => void;
  /** Pages were rebuilt: the next checkpoint must write them. */
  readonly onRebuilt: (leaves: readonly Leaf[]) => void;
}

type IsWanted = (branch: number, page: number) => boolean;

interface Wanted extends PromiseWithResolvers<Uint32Array> {
  readonly leaf: Leaf;
}

/** Batches between two turns of the event loop. */
const SLICE_BATCHES = 64;

export class LeafRepair {
  readonly #options: LeafRepairOptions;
  /** For the next pass. */
  #wanted: Map<string, Wanted> = new Map();
  /** Rebuilt, and not yet in a new run. */
  readonly #images: Map<string, Uint32Array> = new Map();
  #isRunning = false;

  constructor(options: LeafRepairOptions) {
    this.#options = options;
  }

  /**
   * The page's references, two words a block, in place of the image that `cause` says can't be read. Throws
   * POOL_CORRUPT when the log can't give them either.
   */
  image(leaf: Leaf, cause: StorageError): Promise<Uint32Array> {
    const key = keyOf(leaf);
    const image = this.#images.get(key);
    if (image !== undefined) return Promise.resolve(image);
    let wanted = this.#wanted.get(key);
    if (wanted === undefined) {
      wanted = { leaf, ...Promise.withResolvers<Uint32Array>() };
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
    while (this.#wanted.size > 0) {
      const wanted = [...this.#wanted.values()];
      this.#wanted = new Map();
      const endLsn = this.#options.cutLsn();
      const rest = await this.#fromOlder(wanted, endLsn);
      await this.#rebuild(rest, endLsn, { start: LOG_BEGIN, stateOf: emptyState }).catch(
        (error: unknown) => {
          for (const { leaf, reject } of rest) reject(notRebuilt(leaf, error));
        },
      );
    }
    this.#isRunning = false;
  }

  /** Rebuilds what the older checkpoint helps with; gives the others. */
  async #fromOlder(wanted: readonly Wanted[], endLsn: number): Promise<readonly Wanted[]> {
    const { log, stateOf } = this.#options;
    const found: Wanted[] = [];
    try {
      const { checkpoints } = await readCheckpoints(log);
      const body = checkpoints.find((checkpoint) => checkpoint.body.cut.nextLsn < endLsn)?.body;
      if (body === undefined) return wanted;
      const images = new Map<Wanted, Uint32Array | number>();
      for (const each of wanted) {
        const image = await this.#olderImage(body, each.leaf);
        if (image !== undefined) images.set(each, image);
      }
      found.push(...images.keys());
      await this.#rebuild(found, endLsn, {
        start: body.cut,
        stateOf: (isWanted) => {
          const state = stateOf(body, isWanted);
          for (const [{ leaf }, image] of images) putPage(state, leaf, image);
          return state;
        },
      });
      return wanted.filter((each) => !images.has(each));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      return wanted; // the log's beginning is the other way
    }
  }

  /** What the older checkpoint has of the page, or the low word of all its references; undefined: nothing of use. */
  async #olderImage(body: CheckpointBody, leaf: Leaf): Promise<Uint32Array | number | undefined> {
    const { log } = this.#options;
    try {
      const place = await placeOfPage(log, body, leaf);
      if ("low" in place) return place.low;
      const isSame = place.run === leaf.run && place.offset8 === leaf.offset8;
      return isSame ? undefined : await readPageAt(log, leaf, place);
    } catch (error) {
      if (error instanceof StorageError) return undefined;
      throw error;
    }
  }

  /** One pass over the records from a place on, for all of these pages. */
  async #rebuild(
    wanted: readonly Wanted[],
    endLsn: number,
    begin: { readonly start: ReplayStart; readonly stateOf: (isWanted: IsWanted) => PlainState },
  ): Promise<void> {
    if (wanted.length === 0) return;
    const { log, clock, onRebuilt } = this.#options;
    const leaves = wanted.map(({ leaf }) => leaf);
    const places = new Set(leaves.map(({ branch, page }) => `${branch}:${page}`));
    const state = begin.stateOf((branch, page) => places.has(`${branch}:${page}`));
    let batchCount = 0;
    await readLogUntil({
      ...log,
      start: begin.start,
      endLsn,
      onRecord: (cursor) => state.apply(log.memory, cursor),
      afterBatch: () => {
        batchCount += 1;
        if (batchCount % SLICE_BATCHES !== 0) return undefined;
        return new Promise((resolve) => clock.afterInput(resolve));
      },
    });
    for (const { leaf, resolve } of wanted) {
      const page = state.branches.get(leaf.branch)?.page(leaf.page);
      const image = page?.slice() ?? new Uint32Array(PAGE_BLOCKS * 2);
      this.#images.set(keyOf(leaf), image);
      resolve(image);
    }
    onRebuilt(leaves);
  }
}

function emptyState(isWanted: IsWanted): PlainState {
  return new PlainState(isWanted);
}

/** The page's references as they were, or all with one low word. */
function putPage(state: PlainState, { branch, page }: Leaf, image: Uint32Array | number): void {
  const map = state.branches.get(branch);
  const first = page * PAGE_BLOCKS;
  if (typeof image === "number") map?.fill(first, PAGE_BLOCKS, image);
  else
    for (let block = 0; block < PAGE_BLOCKS; block++)
      map?.set(first + block, image[block * 2] as number, image[block * 2 + 1] as number);
}

function keyOf(place: { readonly run: number; readonly offset8: number }): string {
  return `${place.run}:${place.offset8}`;
}

function notRebuilt(leaf: Leaf, error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  const { branch, page } = leaf;
  return new StorageError(
    "POOL_CORRUPT",
    `index: page ${page} of branch ${branch}: damaged, and not rebuilt, from the older checkpoint or the log's beginning: ${error.message}`,
    { data: { branch, page }, cause: error },
  );
}
