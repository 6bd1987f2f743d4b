// SPDX-License-Identifier: Apache-2.0
//
// Where the frames are that garbage collection moved, plainly: what the relocated records say, for readers without an
// index and for the check of the index against it. Of a home, which is where a frame was born, the newest record
// counts. Four u32 an entry, hashed by the home's offset, in a table for each home segment: a pool may have tens of
// millions of moved frames.

import type { BlockMemory } from "../reduce/block-memory.ts";
import { homeOf } from "./moved-frame.ts";
import type { RecordCursor } from "./record.ts";

/** Where a frame's block is. Slots count only in a shared frame. */
export interface PlainPlace {
  segment: number;
  offset8: number;
  slot: number;
  isShared: boolean;
  /** Behind the frame's header. */
  storedBytes: number;
}

const ENTRY_WORDS = 4;
const FIRST_CAPACITY = 16;

export class PlainMoves {
  readonly #tables: Map<number, MoveTable> = new Map();

  /** Takes what a relocated record says. */
  apply(memory: BlockMemory, cursor: RecordCursor): void {
    const { placeSegment, placeOffset8, storedBytes, slotCount, isShared } = cursor;
    const place = { segment: placeSegment, offset8: placeOffset8, slot: 0, isShared, storedBytes };
    for (let slot = 0; slot < slotCount; slot++) {
      place.slot = slot;
      const { segment, offset8 } = homeOf(memory, cursor, slot);
      this.put(segment, offset8, place);
    }
  }

  put(homeSegment: number, homeOffset8: number, place: PlainPlace): void {
    let table = this.#tables.get(homeSegment);
    if (table === undefined) {
      table = new MoveTable();
      this.#tables.set(homeSegment, table);
    }
    table.put(homeOffset8, place);
  }

  /** Sets `place` to where the frame born there is now. False: it is at home, as far as is known. */
  find(homeSegment: number, homeOffset8: number, place: PlainPlace): boolean {
    return this.#tables.get(homeSegment)?.find(homeOffset8, place) ?? false;
  }

  /** Tells every home and its place, in no order; the place is valid during the call. */
  forEach(tell: (homeSegment: number, homeOffset8: number, place: PlainPlace) => void): void {
    for (const [segment, table] of this.#tables)
      table.forEach((offset8, place) => {
        tell(segment, offset8, place);
      });
  }
}

export function newPlainPlace(): PlainPlace {
  return { segment: 0, offset8: 0, slot: 0, isShared: false, storedBytes: 0 };
}

/** Open addressing; an entry: home offset / 8 + 1, segment, offset / 8 with the slot and whether it is shared, stored bytes. */
class MoveTable {
  #words: Uint32Array = new Uint32Array(FIRST_CAPACITY * ENTRY_WORDS);
  #count = 0;

  put(offset8: number, { segment, offset8: to, slot, isShared, storedBytes }: PlainPlace): void {
    if ((this.#count + 1) * ENTRY_WORDS * 4 > this.#words.length * 3) this.#grow();
    const at = this.#wordOf(offset8);
    if (this.#words[at] === 0) this.#count += 1;
    this.#words[at] = offset8 + 1;
    this.#words[at + 1] = segment;
    this.#words[at + 2] = (to << 7) | (slot << 1) | (isShared ? 1 : 0);
    this.#words[at + 3] = storedBytes;
  }

  find(offset8: number, place: PlainPlace): boolean {
    const at = this.#wordOf(offset8);
    if (this.#words[at] === 0) return false;
    this.#read(at, place);
    return true;
  }

  forEach(tell: (offset8: number, place: PlainPlace) => void): void {
    const place = newPlainPlace();
    for (let at = 0; at < this.#words.length; at += ENTRY_WORDS) {
      const home = this.#words[at] as number;
      if (home === 0) continue;
      this.#read(at, place);
      tell(home - 1, place);
    }
  }

  #read(at: number, place: PlainPlace): void {
    const low = this.#words[at + 2] as number;
    place.segment = this.#words[at + 1] as number;
    place.offset8 = low >>> 7;
    place.slot = (low >>> 1) & 63;
    place.isShared = (low & 1) !== 0;
    place.storedBytes = this.#words[at + 3] as number;
  }

  /** The word of the home's entry, or of the empty one that would be its. */
  #wordOf(offset8: number): number {
    const mask = this.#words.length / ENTRY_WORDS - 1;
    let entry = (Math.imul(offset8, 0x9e3779b1) >>> 8) & mask;
    for (;;) {
      const home = this.#words[entry * ENTRY_WORDS] as number;
      if (home === 0 || home === offset8 + 1) return entry * ENTRY_WORDS;
      entry = (entry + 1) & mask;
    }
  }

  #grow(): void {
    const old = this.#words;
    this.#words = new Uint32Array(old.length * 2);
    for (let at = 0; at < old.length; at += ENTRY_WORDS)
      if (old[at] !== 0)
        this.#words.set(old.subarray(at, at + ENTRY_WORDS), this.#wordOf((old[at] as number) - 1));
  }
}
