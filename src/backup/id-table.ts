// SPDX-License-Identifier: Apache-2.0
//
// Places by the first 64 bits of ids: a hash table with open addressing in typed arrays, 16 bytes an entry, at most three
// quarters full. An id may have several places. It is a hint: whoever finds a place compares the whole id with the one
// that is there.
//
// Bytes from a target may hold any words, also a million that all begin at the same slot: nobody looks further than
// PROBES_MAX slots, and what doesn't find room within them is not taken.

import { assert } from "../base/assert.ts";

const PROBES_MAX = 128;
const CAPACITY_MIN: number = 1 << 12;
const ENTRY_BYTES = 16;

export class IdTable {
  readonly #capacityMax: number;
  #capacity = 0;
  #firsts: Uint32Array = new Uint32Array(0);
  #seconds: Uint32Array = new Uint32Array(0);
  /** -1: the slot is free. */
  #places: Float64Array = new Float64Array(0);
  /** Entries. */
  size = 0;
  // The search under way: what it looks for, where it goes on, and how far it has come.
  #first = 0;
  #second = 0;
  #slot = 0;
  #probe = 0;

  /** Of so many bytes when it is as large as it may become. */
  constructor(bytesMax: number) {
    const most = Math.floor(bytesMax / ENTRY_BYTES);
    assert(most >= CAPACITY_MIN, "a table has room for some ids");
    this.#capacityMax = 2 ** Math.floor(Math.log2(most));
    this.#refill(CAPACITY_MIN, () => true);
  }

  get sizeMax(): number {
    return (this.#capacityMax / 4) * 3;
  }

  get bytes(): number {
    return this.#capacity * ENTRY_BYTES;
  }

  /** Adds an entry, unless there is no room near where it belongs. */
  add(first: number, second: number, place: number): void {
    assert(this.size < this.sizeMax, "the table has room");
    if (this.size >= (this.#capacity / 4) * 3) this.#refill(this.#capacity * 2, () => true);
    this.#put(first, second, place);
  }

  /** Begins a search: `nextPlace` gives what it finds. One at a time, and nothing is changed meanwhile. */
  search(first: number, second: number): void {
    this.#first = first;
    this.#second = second;
    this.#slot = homeOf(first, second) & (this.#capacity - 1);
    this.#probe = 0;
  }

  /** The next place that the id may have, or -1. */
  nextPlace(): number {
    const mask = this.#capacity - 1;
    while (this.#probe < PROBES_MAX) {
      const slot = this.#slot;
      const place = this.#places[slot]!;
      if (place < 0) return -1;
      this.#probe += 1;
      this.#slot = (slot + 1) & mask;
      if (this.#firsts[slot] === this.#first && this.#seconds[slot] === this.#second) return place;
    }
    return -1;
  }

  has(first: number, second: number, place: number): boolean {
    this.search(first, second);
    for (let found = this.nextPlace(); found >= 0; found = this.nextPlace())
      if (found === place) return true;
    return false;
  }

  /** Takes away the entry of that id and place, if there is one. */
  remove(first: number, second: number, place: number): void {
    const mask = this.#capacity - 1;
    let slot = homeOf(first, second) & mask;
    for (let probe = 0; probe < PROBES_MAX && this.#places[slot]! >= 0; probe += 1) {
      const isIt = this.#firsts[slot] === first && this.#seconds[slot] === second;
      if (isIt && this.#places[slot] === place) {
        this.#close(slot);
        return;
      }
      slot = (slot + 1) & mask;
    }
  }

  /** Keeps the entries for which `isKept`, given the first word and the place. */
  filter(isKept: (first: number, place: number) => boolean): void {
    this.#refill(this.#capacity, isKept);
  }

  #put(first: number, second: number, place: number): void {
    const mask = this.#capacity - 1;
    let slot = homeOf(first, second) & mask;
    for (let probe = 0; probe < PROBES_MAX; probe += 1) {
      if (this.#places[slot]! < 0) {
        this.#firsts[slot] = first;
        this.#seconds[slot] = second;
        this.#places[slot] = place;
        this.size += 1;
        return;
      }
      slot = (slot + 1) & mask;
    }
  }

  /** Frees the slot, and moves back what then could not be found any more. */
  #close(slot: number): void {
    const mask = this.#capacity - 1;
    let free = slot;
    for (let next = (free + 1) & mask; this.#places[next]! >= 0; next = (next + 1) & mask) {
      const home = homeOf(this.#firsts[next]!, this.#seconds[next]!) & mask;
      // It may move only if its way from home to here leads over the free slot.
      if (((next - home) & mask) < ((next - free) & mask)) continue;
      this.#firsts[free] = this.#firsts[next]!;
      this.#seconds[free] = this.#seconds[next]!;
      this.#places[free] = this.#places[next]!;
      free = next;
    }
    this.#places[free] = -1;
    this.size -= 1;
  }

  #refill(capacity: number, isKept: (first: number, place: number) => boolean): void {
    assert(capacity <= this.#capacityMax, "the table keeps to its size");
    const [firsts, seconds, places] = [this.#firsts, this.#seconds, this.#places];
    this.#capacity = capacity;
    this.#firsts = new Uint32Array(capacity);
    this.#seconds = new Uint32Array(capacity);
    this.#places = new Float64Array(capacity).fill(-1);
    this.size = 0;
    for (let slot = 0; slot < places.length; slot += 1)
      if (places[slot]! >= 0 && isKept(firsts[slot]!, places[slot]!))
        this.#put(firsts[slot]!, seconds[slot]!, places[slot]!);
  }
}

/** Ids are hashes, but for the low bits of hooks, which are all zero. */
function homeOf(first: number, second: number): number {
  return (second ^ (first >>> 6)) >>> 0;
}
