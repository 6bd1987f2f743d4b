// SPDX-License-Identifier: Apache-2.0
//
// What a prune keeps, by the name of each object: all that the points reach (reachable.ts), and those indexes of packs that
// still tell of one that is reached. An index is a hint for later backups; one that can't be read is of no use to them.

import { hasCode } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { ReachedObjects } from "./garbage.ts";
import { openPackIndex, PACK_INDEX_PREFIX } from "./pack-index.ts";
import { Reachable } from "./reachable.ts";
import type { Sealer } from "./sealing.ts";

export class TargetObjects implements ReachedObjects {
  readonly #store: ObjectStore;
  readonly #sealer: Sealer;
  readonly #reachable: Reachable;
  /** Packs of the indexes that were looked at. */
  readonly #indexed = new Map<string, readonly string[]>();

  constructor(store: ObjectStore, sealer: Sealer) {
    this.#store = store;
    this.#sealer = sealer;
    this.#reachable = new Reachable(store, sealer);
  }

  add(manifest: string): Promise<void> {
    return this.#reachable.add(manifest);
  }

  async look(name: string): Promise<void> {
    if (!name.startsWith(PACK_INDEX_PREFIX) || this.#indexed.has(name)) return;
    const hash = name.slice(name.lastIndexOf("/") + 1);
    try {
      const { packNames } = await openPackIndex(this.#store, this.#sealer, hash);
      this.#indexed.set(name, packNames);
    } catch (error) {
      if (!hasCode(error, "TARGET_CORRUPT") && !hasCode(error, "FORMAT_UNSUPPORTED")) throw error;
    }
  }

  has(name: string): boolean {
    const packNames = this.#indexed.get(name);
    if (packNames === undefined) return this.#reachable.has(name);
    return packNames.some((pack) => this.#reachable.hasPack(pack));
  }
}
