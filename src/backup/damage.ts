// SPDX-License-Identifier: Apache-2.0
//
// What a verification found wrong: objects, and within packs the groups. Found once, it is looked up for every point that
// needs the object (losses.ts).

import { hasCode } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import { DESCRIPTOR_NAME } from "./descriptor.ts";

/** An object that isn't what it must be. */
export interface Damage {
  /** "packs/ab/ab…" */
  readonly object: string;
  readonly why: string;
}

/** Told one by one; what is beyond is counted. */
export const DAMAGES_MAX = 10_000;

export class DamageList {
  readonly #store: ObjectStore;
  readonly all: Damage[] = [];
  count = 0;
  /** Why nothing of a pack can be had, by its ordinal. */
  readonly #packs: Map<number, Damage> = new Map();
  /** The same of groups, by ordinal and group. */
  readonly #groups: Map<number, Map<number, Damage>> = new Map();

  constructor(store: ObjectStore) {
    this.#store = store;
  }

  add(object: string, why: string): Damage {
    const damage = { object, why };
    this.count += 1;
    if (this.all.length < DAMAGES_MAX) this.all.push(damage);
    return damage;
  }

  /** Runs a check of an object; an error that says that the object is bad is damage, and returned. */
  async during(object: string, check: () => Promise<void>): Promise<Damage | undefined> {
    try {
      await check();
      return undefined;
    } catch (error) {
      const isBad = hasCode(error, "TARGET_CORRUPT") || hasCode(error, "FORMAT_UNSUPPORTED");
      // One object that can't be read is damage; a target that is gone is none.
      const isUnreadable = hasCode(error, "TARGET_UNAVAILABLE") && (await this.#isTargetThere());
      if (!isBad && !isUnreadable) throw error;
      return this.add(object, error.message);
    }
  }

  packIsLost(ordinal: number, damage: Damage): void {
    this.#packs.set(ordinal, damage);
  }

  groupIsLost(ordinal: number, group: number, damage: Damage): void {
    const groups = this.#groups.get(ordinal) ?? new Map<number, Damage>();
    groups.set(group, damage);
    this.#groups.set(ordinal, groups);
  }

  /** Anything of a pack. */
  get hasLosses(): boolean {
    return this.#packs.size > 0 || this.#groups.size > 0;
  }

  touches(ordinal: number): boolean {
    return this.#packs.has(ordinal) || this.#groups.has(ordinal);
  }

  at(ordinal: number, group: number): Damage | undefined {
    return this.#packs.get(ordinal) ?? this.#groups.get(ordinal)?.get(group);
  }

  async #isTargetThere(): Promise<boolean> {
    try {
      return (await this.#store.sizeOf(DESCRIPTOR_NAME)) !== undefined;
    } catch (error) {
      if (hasCode(error, "TARGET_UNAVAILABLE")) return false;
      throw error;
    }
  }
}
