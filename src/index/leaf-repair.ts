// SPDX-License-Identifier: Apache-2.0
//
// Rebuilds pages whose images in a run can't be read any more. An image says what the log said up to the newest
// checkpoint's cut, and the log is still there: one pass over its records gives all pages that are wanted then.
// Changes behind the cut are in the ring, and are merged on top as with any image.
//
// A rebuilt image is kept until a checkpoint has written the page anew, so that damage costs one pass, once.

import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { PlainState } from "../log/log-dump.ts";
import { readLogUntil } from "../log/log-range.ts";
import { PAGE_BLOCKS } from "./page-directory.ts";

/** A page's image in a run. */
export interface Leaf {
  readonly branch: number;
  readonly page: number;
  readonly run: number;
  readonly offset8: number;
}

export interface LeafRepairOptions {
  readonly log: LogFiles;
  readonly clock: Clock;
  /** LSN of the newest checkpoint's cut: what the images hold, and what is durable. */
  readonly cutLsn: () => number;
  /** A page can't be read, and is about to be rebuilt. */
  readonly onDamaged: (leaf: Leaf, cause: StorageError) => void;
  /** Pages were rebuilt: the next checkpoint must write them. */
  readonly onRebuilt: (leaves: readonly Leaf[]) => void;
}

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
      const wanted = this.#wanted;
      this.#wanted = new Map();
      try {
        await this.#pass(wanted);
      } catch (error) {
        for (const { leaf, reject } of wanted.values()) reject(notRebuilt(leaf, error));
      }
    }
    this.#isRunning = false;
  }

  async #pass(wanted: ReadonlyMap<string, Wanted>): Promise<void> {
    const { log, clock, cutLsn, onRebuilt } = this.#options;
    const leaves = [...wanted.values()].map(({ leaf }) => leaf);
    const places = new Set(leaves.map(({ branch, page }) => `${branch}:${page}`));
    const state = new PlainState((branch, page) => places.has(`${branch}:${page}`));
    let batchCount = 0;
    await readLogUntil({
      ...log,
      endLsn: cutLsn(),
      onRecord: (cursor) => state.apply(log.memory, cursor),
      afterBatch: () => {
        batchCount += 1;
        if (batchCount % SLICE_BATCHES !== 0) return undefined;
        return new Promise((resolve) => clock.afterInput(resolve));
      },
    });
    for (const [key, { leaf, resolve }] of wanted) {
      const page = state.branches.get(leaf.branch)?.page(leaf.page);
      const image = page?.slice() ?? new Uint32Array(PAGE_BLOCKS * 2);
      this.#images.set(key, image);
      resolve(image);
    }
    onRebuilt(leaves);
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
    `index: page ${page} of branch ${branch}: damaged, and not rebuilt from the log: ${error.message}`,
    { data: { branch, page }, cause: error },
  );
}
