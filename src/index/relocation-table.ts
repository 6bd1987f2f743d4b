// SPDX-License-Identifier: Apache-2.0
//
// Moves of frames of one home segment, sorted by where they were born, four words an entry:
//
//   0  home offset / 8
//   1  segment of the place
//   2  low of the place: bits 31-30: 1 alone, 2 shared; 29-6 offset / 8; 5-0 slot in the shared frame
//   3  bytes stored behind the frame's header
//
// The same form serves changes in memory and nodes in runs. In memory an entry takes what it takes on disk, and no
// object of its own: garbage collection moves tens of thousands of frames of a segment. Mostly they come in order; what
// doesn't goes to a small sorted list besides, so that none of them moves all the others.

import { assert } from "../base/assert.ts";

export const ENTRY_WORDS = 4;
/** State of a place: the frame was moved alone, with its home in its header, or lies with others in a new one. */
export const PLACE_STATE = { ALONE: 1, SHARED: 2 } as const;
const FIRST_ENTRIES = 16;
const RECENT_ENTRIES_MAX = 1024;

/** The word where the entry of `offset8` is among `count` sorted ones from word `start` on; else -1. */
export function findEntry(
  words: Uint32Array,
  start: number,
  count: number,
  offset8: number,
): number {
  const at = start + firstNotBelow(words, start, count, offset8) * ENTRY_WORDS;
  return at < start + count * ENTRY_WORDS && words[at] === offset8 ? at : -1;
}

/** How many of the entries are below `offset8`. */
function firstNotBelow(words: Uint32Array, start: number, count: number, offset8: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((words[start + middle * ENTRY_WORDS] as number) < offset8) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class RelocationTable {
  /** Grows by doubling; entries in order. */
  #sorted: Uint32Array = new Uint32Array(FIRST_ENTRIES * ENTRY_WORDS);
  #sortedCount = 0;
  /** Entries that came behind a later one, in order among themselves; none is in both. */
  #recent: Uint32Array = NO_ENTRIES;
  #recentCount = 0;

  get count(): number {
    return this.#sortedCount + this.#recentCount;
  }

  get memoryBytes(): number {
    return this.#sorted.byteLength + this.#recent.byteLength;
  }

  /** Copies the entry of `offset8` to the beginning of `target`. False: there is none. */
  find(offset8: number, target: Uint32Array): boolean {
    let words = this.#sorted;
    let at = findEntry(words, 0, this.#sortedCount, offset8);
    if (at < 0) {
      words = this.#recent;
      at = findEntry(words, 0, this.#recentCount, offset8);
    }
    if (at < 0) return false;
    copyEntry(words, at, target, 0);
    return true;
  }

  /** Takes the entry at word `from` of `source`; one of the same home is replaced. */
  put(source: Uint32Array, from: number): void {
    const offset8 = source[from] as number;
    const end = this.#sortedCount * ENTRY_WORDS;
    if (end === 0 || (this.#sorted[end - ENTRY_WORDS] as number) < offset8) {
      this.#sorted = withRoom(this.#sorted, this.#sortedCount);
      copyEntry(source, from, this.#sorted, end);
      this.#sortedCount += 1;
      return;
    }
    const at = findEntry(this.#sorted, 0, this.#sortedCount, offset8);
    if (at >= 0) copyEntry(source, from, this.#sorted, at);
    else this.#putRecent(source, from);
  }

  /** All entries in order; valid until the next `put`. */
  entries(): Uint32Array {
    this.#fold();
    return this.#sorted.subarray(0, this.#sortedCount * ENTRY_WORDS);
  }

  checkInvariants(): void {
    const homes = new Set<number>();
    for (const [words, count] of [
      [this.#sorted, this.#sortedCount],
      [this.#recent, this.#recentCount],
    ] as const)
      for (let index = 0; index < count; index++) {
        const offset8 = words[index * ENTRY_WORDS] as number;
        const previous = index === 0 ? -1 : (words[(index - 1) * ENTRY_WORDS] as number);
        assert(previous < offset8, "entries are in order");
        homes.add(offset8);
      }
    assert(homes.size === this.count, "no home has two entries");
  }

  #putRecent(source: Uint32Array, from: number): void {
    const offset8 = source[from] as number;
    const before = firstNotBelow(this.#recent, 0, this.#recentCount, offset8);
    const at = before * ENTRY_WORDS;
    if (before < this.#recentCount && this.#recent[at] === offset8) {
      copyEntry(source, from, this.#recent, at);
      return;
    }
    this.#recent = withRoom(this.#recent, this.#recentCount);
    this.#recent.copyWithin(at + ENTRY_WORDS, at, this.#recentCount * ENTRY_WORDS);
    copyEntry(source, from, this.#recent, at);
    this.#recentCount += 1;
    if (this.#recentCount === RECENT_ENTRIES_MAX) this.#fold();
  }

  /** Merges what came out of order into the others, from the back, in place. */
  #fold(): void {
    if (this.#recentCount === 0) return;
    let left = this.#sortedCount;
    let right = this.#recentCount;
    this.#sortedCount = left + right;
    this.#sorted = withRoom(this.#sorted, this.#sortedCount - 1);
    while (right > 0) {
      const target = (left + right - 1) * ENTRY_WORDS;
      const candidate = (right - 1) * ENTRY_WORDS;
      const isLeft =
        left > 0 &&
        (this.#sorted[(left - 1) * ENTRY_WORDS] as number) > (this.#recent[candidate] as number);
      if (isLeft) left -= 1;
      else right -= 1;
      if (isLeft) copyEntry(this.#sorted, left * ENTRY_WORDS, this.#sorted, target);
      else copyEntry(this.#recent, candidate, this.#sorted, target);
    }
    this.#recentCount = 0;
  }
}

/** Two sorted lists as one: of the same home the newer entry counts, and none whose place is in a segment of `dropped`. */
export function mergeEntries(
  older: Uint32Array,
  newer: Uint32Array,
  dropped: ReadonlySet<number>,
): Uint32Array {
  const merged = new Uint32Array(older.length + newer.length);
  let length = 0;
  for (let left = 0, right = 0; left < older.length || right < newer.length; ) {
    const leftHome = left < older.length ? (older[left] as number) : Number.POSITIVE_INFINITY;
    const rightHome = right < newer.length ? (newer[right] as number) : Number.POSITIVE_INFINITY;
    const isOlder = leftHome < rightHome;
    copyEntry(isOlder ? older : newer, isOlder ? left : right, merged, length);
    if (leftHome <= rightHome) left += ENTRY_WORDS;
    if (rightHome <= leftHome) right += ENTRY_WORDS;
    if (!dropped.has(merged[length + 1] as number)) length += ENTRY_WORDS;
  }
  return merged.subarray(0, length);
}

const NO_ENTRIES = new Uint32Array(0);

/** The list, or a larger copy of it, with room for one entry behind `count`. */
function withRoom(words: Uint32Array, count: number): Uint32Array {
  if ((count + 1) * ENTRY_WORDS <= words.length) return words;
  const larger = new Uint32Array(Math.max(FIRST_ENTRIES, count * 2) * ENTRY_WORDS);
  larger.set(words);
  return larger;
}

function copyEntry(source: Uint32Array, from: number, target: Uint32Array, to: number): void {
  target[to] = source[from] as number;
  target[to + 1] = source[from + 1] as number;
  target[to + 2] = source[from + 2] as number;
  target[to + 3] = source[from + 3] as number;
}
