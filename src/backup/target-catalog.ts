// SPDX-License-Identifier: Apache-2.0
//
// The catalog of a target: read() gives the newest state, update() changes it. A change is a function of the state that it
// finds, because it may have to be made anew on another one: whoever commits first wins, the other begins again with what
// the winner left (generations.ts). So everything that must hold together is decided inside one change.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Clock, Random } from "../host/ports.ts";
import {
  CATALOG_BYTES_MAX,
  type CatalogState,
  decodeState,
  EMPTY_STATE,
  encodeState,
  fits,
  isReadable,
} from "./catalog-state.ts";
import { type Generation, Generations } from "./generations.ts";
import type { Sealer } from "./sealing.ts";

/** Each lost race means that somebody else got on. */
const CONFLICTS_MAX = 64;
const WAIT_MS_MAX = 500;

export interface TargetHost {
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * The next state; undefined where there is nothing to change. May be called several times, and may find that it was
 * made already: of a program that slept between its put and its look nobody can say which of the two happened.
 */
export type CatalogChange = (
  state: CatalogState,
) => CatalogState | undefined | Promise<CatalogState | undefined>;

export class TargetCatalog {
  readonly #host: TargetHost;
  readonly #label: string;
  readonly #generations: Generations;
  /** The state of the generation that was decoded last. */
  #decoded: { readonly id: string; readonly state: CatalogState } | undefined;

  private constructor(options: TargetHost & { store: ObjectStore; sealer: Sealer }) {
    this.#host = options;
    this.#label = options.store.label;
    this.#generations = new Generations({ ...options, bodyBytesMax: CATALOG_BYTES_MAX });
  }

  /** Of a target whose descriptor is there; a catalog that its maker didn't come to is begun. */
  static async open(
    options: TargetHost & { readonly store: ObjectStore; readonly sealer: Sealer },
  ): Promise<TargetCatalog> {
    const catalog = new TargetCatalog(options);
    await catalog.#generations.begin(encodeState(EMPTY_STATE));
    return catalog;
  }

  /** The newest state. Throws TARGET_CORRUPT, TARGET_UNAVAILABLE. */
  async read(): Promise<CatalogState> {
    return this.#stateOf(await this.#generations.newest());
  }

  /**
   * The newest state that can be read, for who only reads. `damage`: it isn't the newest, which is damaged; what one
   * commit had changed is missing. Throws TARGET_CORRUPT, TARGET_UNAVAILABLE.
   */
  async readSound(): Promise<{ readonly state: CatalogState; readonly damage?: StorageError }> {
    const { generation, damage } = await this.#generations.newestReadable();
    const state = this.#stateOf(generation);
    return damage === undefined ? { state } : { state, damage };
  }

  /** Takes the last commit back, if the newest generation is damaged. */
  repair(): Promise<void> {
    return this.#generations.undoDamaged();
  }

  /**
   * Commits the change; gives the state that holds it, or where there was nothing to change, the one that was found.
   * What the change throws ends it. Whether it took place is unknown after TARGET_UNAVAILABLE and TARGET_FULL.
   */
  async update(change: CatalogChange): Promise<CatalogState> {
    for (let attempt = 1; attempt <= CONFLICTS_MAX; attempt += 1) {
      const base = await this.#generations.newest();
      const before = this.#stateOf(base);
      const wanted = await change(before);
      if (wanted === undefined) return before;
      const after = { ...wanted, generation: base.number + 1 };
      const body = encodeState(after);
      if (!fits(after) || body.length > CATALOG_BYTES_MAX) throw this.#overfull();
      assert(isReadable(after), "a committed state can be read back");
      const made = await this.#generations.append(base, body);
      if (made !== undefined) {
        this.#decoded = { id: made.id, state: after };
        return after;
      }
      await this.#wait(attempt);
    }
    const what = `target "${this.#label}": change not made: others were quicker`;
    throw new StorageError("TARGET_UNAVAILABLE", `${what} ${CONFLICTS_MAX} times`, {
      hint: "start it again when fewer programs use the target at once",
    });
  }

  /** Deletes generations before `end`, of which those before `oldest` are gone. */
  trim(oldest: number, end: number): Promise<void> {
    return this.#generations.trim(oldest, end);
  }

  #stateOf(generation: Generation): CatalogState {
    if (this.#decoded?.id !== generation.id) {
      const state = decodeState(`catalog generation ${generation.number}`, generation.body);
      this.#decoded = { id: generation.id, state: { ...state, generation: generation.number } };
    }
    return this.#decoded.state;
  }

  /** Longer after each conflict, and never as long as somebody else. */
  #wait(attempt: number): Promise<void> {
    const byte = new Uint8Array(1);
    this.#host.random.fill(byte);
    const waitMs = (Math.min(WAIT_MS_MAX, 2 ** attempt) * (byte[0] ?? 0)) / 255;
    return new Promise((resolve) => void this.#host.clock.after(waitMs, resolve));
  }

  #overfull(): StorageError {
    const what = `target "${this.#label}": change not made: its catalog can't hold more`;
    return new StorageError("TARGET_FULL", what, {
      hint: 'let go of old points: "varve prune TARGET --keep-daily 7 --dry-run"',
    });
  }
}
