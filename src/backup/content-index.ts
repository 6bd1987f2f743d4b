// SPDX-License-Identifier: Apache-2.0
//
// Which blocks a target holds already, so that they are not sent again. It never has to find a block; but what it finds is
// there, byte for byte: a place is given only after the whole id was compared with the one in the pack.
//
// Memory is bounded. The ids of packs are kept, 24 bytes a slot, and a table leads to them; while all fit, every known
// block is found. When they don't, the packs that were of use longest ago are let go, and only their hooks stay in the
// table, one id of 64: a hit on one brings the whole pack's ids back, and since known blocks come in long rows, the rest
// of the row is found. That works on many blocks at a time: `prepare` looks for hooks among those that come next and
// fetches what they lead to, then `find` answers at once. Beyond that, hooks are thinned out, too.
//
// It offers packs that a point needed when the session began (reachable.ts), and those that the session itself made. Any
// other pack that a listing or an index shows may be condemned, or gone.

import { assert } from "../base/assert.ts";
import { hasCode } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import { IdTable } from "./id-table.ts";
import { HOOK_MASK, type IndexedPack, openPackIndex, PACK_INDEX_PREFIX } from "./pack-index.ts";
import { ordinalOf, PACK_SLOTS_MAX, type PackTable, placeAt, slotOf } from "./place.ts";
import { isHashName } from "./sealed-object.ts";
import { CONTENT_ID_BYTES, type Sealer } from "./sealing.ts";

/** Below this a table and a few packs don't fit. */
export const INDEX_MEMORY_MIN: number = 16 << 20;
/** Packs that one call of `prepare` fetches at most, and that are fetched at once when the index is opened. */
const FETCHES_MAX = 8;

/** The ids of a pack that are in memory. */
interface KnownIds {
  readonly ids: Uint8Array;
  slotCount: number;
  /** The session adds to it: it stays. */
  isGrowing: boolean;
}

/** What it needs of a target's reader. */
export interface IndexedTarget {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly packTable: PackTable;
  readonly packs: { ids(name: string): Promise<Uint8Array> };
}

export interface ContentIndexOptions {
  readonly reader: IndexedTarget;
  /** Packs that may be referred to, besides those that the session makes. */
  readonly packNames: Iterable<string>;
  /** At least 16 MiB. */
  readonly memoryBytes: number;
}

export class ContentIndex {
  readonly #reader: IndexedTarget;
  readonly #table: IdTable;
  readonly #slotsMax: number;
  /** The packs with ids in memory, the one that was of use last at the end. */
  readonly #known: Map<number, KnownIds> = new Map();
  #knownSlots = 0;
  #usedLast = -1;
  /** Packs whose ids can't be had: nothing of them is offered. */
  readonly #bad: Set<number> = new Set();
  /** Ids with none of these bits in their first word stay in the table when their pack is let go. */
  #hookMask: number = HOOK_MASK;

  private constructor(reader: IndexedTarget, memoryBytes: number) {
    assert(memoryBytes >= INDEX_MEMORY_MIN, "an index has room for a few packs");
    this.#reader = reader;
    this.#table = new IdTable(memoryBytes / 2);
    // A quarter of the table is for hooks.
    const slotsMax = Math.floor(memoryBytes / 2 / CONTENT_ID_BYTES);
    this.#slotsMax = Math.min(slotsMax, Math.floor(this.#table.sizeMax * 0.75));
  }

  /** Learns of the packs as far as memory reaches: whole packs, and hooks of the others. Throws TARGET_UNAVAILABLE. */
  static async open(options: ContentIndexOptions): Promise<ContentIndex> {
    const { reader, memoryBytes } = options;
    const index = new ContentIndex(reader, memoryBytes);
    const unknown = new Set(options.packNames);
    const hooked = unknown.size > 0 ? await index.#learnHooks(unknown) : [];
    // From the end: packs of which there are no hooks come first.
    const ordinals = [...hooked, ...unknown].map((name) => reader.packTable.ordinalOf(name));
    const lane = async () => {
      while (ordinals.length > 0 && index.#knownSlots + PACK_SLOTS_MAX <= index.#slotsMax)
        await index.#fetch(ordinals.pop()!);
    };
    await Promise.all(Array.from({ length: FETCHES_MAX }, lane));
    return index;
  }

  /** Bytes that it holds. */
  get memoryBytes(): number {
    let bytes = this.#table.bytes;
    for (const { ids } of this.#known.values()) bytes += ids.length;
    return bytes;
  }

  /** A block that the session adds to a pack: found from now on. Its id is the 24 bytes at `ids[at…]`. */
  add(ids: Uint8Array, at: number, place: number): void {
    const ordinal = ordinalOf(place);
    let pack = this.#known.get(ordinal);
    if (pack === undefined) {
      this.#makeRoom(PACK_SLOTS_MAX);
      const own = new Uint8Array(PACK_SLOTS_MAX * CONTENT_ID_BYTES);
      pack = { ids: own, slotCount: 0, isGrowing: true };
      this.#known.set(ordinal, pack);
      this.#knownSlots += PACK_SLOTS_MAX;
    }
    const slot = slotOf(place);
    assert(
      pack.isGrowing && slot === pack.slotCount,
      "blocks are added in the order of their slots",
    );
    for (let index = 0; index < CONTENT_ID_BYTES; index += 1)
      pack.ids[slot * CONTENT_ID_BYTES + index] = ids[at + index]!;
    pack.slotCount += 1;
    this.#addId(pack.ids, ordinal, slot);
  }

  /** The session's pack is finished: it may be let go like any other. */
  finish(ordinal: number): void {
    const pack = this.#known.get(ordinal);
    if (pack !== undefined) pack.isGrowing = false;
  }

  /** The place of a block with this id, or -1. */
  find(ids: Uint8Array, at: number): number {
    const table = this.#table;
    table.search(wordAt(ids, at), wordAt(ids, at + 4));
    for (let place = table.nextPlace(); place >= 0; place = table.nextPlace()) {
      const ordinal = ordinalOf(place);
      const pack = this.#known.get(ordinal);
      if (pack === undefined || !isIdAt(pack, slotOf(place), ids, at)) continue;
      this.#use(ordinal, pack);
      return place;
    }
    return -1;
  }

  /**
   * Fetches the packs that hooks among these `count` ids lead to. undefined: nothing needs to be fetched. Throws
   * TARGET_UNAVAILABLE.
   */
  prepare(ids: Uint8Array, count: number): Promise<void> | undefined {
    const table = this.#table;
    let wanted: Set<number> | undefined;
    for (let at = 0; at < count * CONTENT_ID_BYTES; at += CONTENT_ID_BYTES) {
      const first = wordAt(ids, at);
      if ((first & this.#hookMask) !== 0) continue;
      table.search(first, wordAt(ids, at + 4));
      for (let place = table.nextPlace(); place >= 0; place = table.nextPlace()) {
        const ordinal = ordinalOf(place);
        if (this.#known.has(ordinal)) break;
        if (this.#bad.has(ordinal)) continue;
        wanted ??= new Set();
        wanted.add(ordinal);
      }
      if (wanted !== undefined && wanted.size >= FETCHES_MAX) break;
    }
    return wanted === undefined ? undefined : this.#fetchAll(wanted);
  }

  async #fetchAll(ordinals: Iterable<number>): Promise<void> {
    await Promise.all(Array.from(ordinals, (ordinal) => this.#fetch(ordinal)));
  }

  async #fetch(ordinal: number): Promise<void> {
    const { packs, packTable } = this.#reader;
    try {
      const ids = await packs.ids(packTable.nameOf(ordinal));
      if (!this.#known.has(ordinal)) this.#learn(ordinal, ids);
    } catch (error) {
      // It is damaged or missing: then its blocks are sent again.
      if (!hasCode(error, "TARGET_CORRUPT")) throw error;
      this.#bad.add(ordinal);
    }
  }

  #learn(ordinal: number, ids: Uint8Array): void {
    const slotCount = ids.length / CONTENT_ID_BYTES;
    this.#makeRoom(slotCount);
    const pack: KnownIds = { ids, slotCount, isGrowing: false };
    this.#known.set(ordinal, pack);
    this.#knownSlots += slotCount;
    for (let slot = 0; slot < slotCount; slot += 1) this.#addId(ids, ordinal, slot);
  }

  #addId(ids: Uint8Array, ordinal: number, slot: number): void {
    const first = wordAt(ids, slot * CONTENT_ID_BYTES);
    const second = wordAt(ids, slot * CONTENT_ID_BYTES + 4);
    const place = placeAt(ordinal, slot);
    // Its hooks may be there already.
    if ((first & this.#hookMask) === 0 && this.#table.has(first, second, place)) return;
    this.#table.add(first, second, place);
  }

  /** Of the index objects, as far as they can be read. Returns the packs that it found hooks of. */
  async #learnHooks(unknown: Set<string>): Promise<string[]> {
    const { store, sealer } = this.#reader;
    const found: string[] = [];
    for await (const { name } of store.list(PACK_INDEX_PREFIX)) {
      const hash = name.slice(name.lastIndexOf("/") + 1);
      if (!isHashName(hash)) continue;
      try {
        const index = await openPackIndex(store, sealer, hash);
        if (!index.packNames.some((pack) => unknown.has(pack))) continue;
        for (const pack of await index.packs())
          if (unknown.delete(pack.name)) {
            found.push(pack.name);
            this.#addHooks(pack);
          }
      } catch (error) {
        // A hint that is gone, damaged, or from a later version, is none.
        if (!hasCode(error, "TARGET_CORRUPT") && !hasCode(error, "FORMAT_UNSUPPORTED")) throw error;
      }
    }
    return found;
  }

  #addHooks({ name, slotCount, hooks }: IndexedPack): void {
    const ordinal = this.#reader.packTable.ordinalOf(name);
    if (hooks.length / 3 > this.#table.sizeMax - this.#table.size) this.#thinOut(hooks.length / 3);
    for (let at = 0; at < hooks.length; at += 3) {
      const [first, second, slot] = [hooks[at]!, hooks[at + 1]!, hooks[at + 2]!];
      if ((first & this.#hookMask) === 0 && slot < slotCount)
        this.#table.add(first, second, placeAt(ordinal, slot));
    }
  }

  /** Room for so many more ids: packs that were of no use for long go first, then every other hook. */
  #makeRoom(slotCount: number): void {
    for (const [ordinal, pack] of this.#known) {
      if (this.#knownSlots + slotCount <= this.#slotsMax) break;
      if (!pack.isGrowing) this.#letGo(ordinal, pack);
    }
    assert(this.#knownSlots + slotCount <= this.#slotsMax, "a session has few packs under way");
    this.#thinOut(slotCount);
  }

  #thinOut(entryCount: number): void {
    const table = this.#table;
    while (table.size + entryCount > table.sizeMax) {
      const mask = this.#hookMask * 2 + 1;
      assert(mask < 2 ** 31, "the ids of known packs leave room");
      this.#hookMask = mask;
      table.filter((first, place) => (first & mask) === 0 || this.#known.has(ordinalOf(place)));
    }
  }

  #letGo(ordinal: number, { ids, slotCount }: KnownIds): void {
    this.#known.delete(ordinal);
    this.#knownSlots -= ids.length / CONTENT_ID_BYTES;
    for (let slot = 0; slot < slotCount; slot += 1) {
      const first = wordAt(ids, slot * CONTENT_ID_BYTES);
      if ((first & this.#hookMask) === 0) continue;
      const second = wordAt(ids, slot * CONTENT_ID_BYTES + 4);
      this.#table.remove(first, second, placeAt(ordinal, slot));
    }
  }

  /** It was of use now. */
  #use(ordinal: number, pack: KnownIds): void {
    if (ordinal === this.#usedLast) return;
    this.#usedLast = ordinal;
    this.#known.delete(ordinal);
    this.#known.set(ordinal, pack);
  }
}

function wordAt(ids: Uint8Array, at: number): number {
  return (ids[at]! | (ids[at + 1]! << 8) | (ids[at + 2]! << 16) | (ids[at + 3]! << 24)) >>> 0;
}

function isIdAt(pack: KnownIds, slot: number, ids: Uint8Array, at: number): boolean {
  if (slot >= pack.slotCount) return false;
  const from = slot * CONTENT_ID_BYTES;
  for (let index = 0; index < CONTENT_ID_BYTES; index += 1)
    if (pack.ids[from + index] !== ids[at + index]) return false;
  return true;
}
