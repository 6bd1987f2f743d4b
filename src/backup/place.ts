// SPDX-License-Identifier: Apache-2.0
//
// Where a block lies in a backup: a slot of a pack. Inside one program both are one number, the place; so maps and
// lists of places are typed arrays. A pack's number, its ordinal, holds only within the table that gave it: a program
// has one table for all packs that it meets, and each run file has its own, small one.
//
//   place = ordinal × 16384 + slot
//
// A pack that is being written has an ordinal before it has a name (the name is a hash of what is in it), so the table
// gives the one first and takes the other later.

import { assert, must } from "../base/assert.ts";

export const BLOCK_BYTES = 4096;
/** Slots of a pack: 64 MiB of blocks. */
export const PACK_SLOTS_MAX: number = 1 << 14;
/** Slots that are compressed together. All groups of a pack but the last one have so many. */
export const GROUP_SLOTS: number = 64;
export const GROUP_BYTES: number = GROUP_SLOTS * BLOCK_BYTES;
/** The largest volume has 64 TiB. */
export const LBA_END_MAX: number = 2 ** 34;

export function placeAt(ordinal: number, slot: number): number {
  return ordinal * PACK_SLOTS_MAX + slot;
}

export function ordinalOf(place: number): number {
  return Math.floor(place / PACK_SLOTS_MAX);
}

export function slotOf(place: number): number {
  // The remainder of numbers beyond 32 bits takes ten times as long.
  return place - ordinalOf(place) * PACK_SLOTS_MAX;
}

/** The packs that a program knows of. Ordinals are given in order and never taken back. */
export class PackTable {
  readonly #names: (string | undefined)[] = [];
  readonly #ordinals: Map<string, number> = new Map();

  get size(): number {
    return this.#names.length;
  }

  /** The ordinal of the pack of that name, a new one where it has none. */
  ordinalOf(name: string): number {
    const known = this.#ordinals.get(name);
    if (known !== undefined) return known;
    const ordinal = this.reserve();
    this.name(ordinal, name);
    return ordinal;
  }

  /** An ordinal for a pack that will be named. */
  reserve(): number {
    return this.#names.push(undefined) - 1;
  }

  name(ordinal: number, name: string): void {
    assert(ordinal < this.#names.length, "an ordinal was given before it is named");
    assert(this.#names[ordinal] === undefined, "a pack is named once");
    this.#names[ordinal] = name;
    this.#ordinals.set(name, ordinal);
  }

  has(name: string): boolean {
    return this.#ordinals.has(name);
  }

  /** Of all packs that have one. */
  names(): IterableIterator<string> {
    return this.#ordinals.keys();
  }

  nameOf(ordinal: number): string {
    return must(this.#names[ordinal], "a pack that is referred to by name was finished");
  }
}
