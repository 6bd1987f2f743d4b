// SPDX-License-Identifier: Apache-2.0
//
// The changes of the index since the last checkpoint, newest last, in a ring of 16-byte entries:
//
//   0  previous change of the same page (a sequence number, 0: none)
//   4  first block in the page: 9 bits | block count - 1: 9 bits << 9
//   8  reference: segment        12  reference: low
//
// and beside each entry the low word of its record's LSN: so the state at any LSN since the last checkpoint is a prefix
// of the ring (`endOf`).
//
// A page's changes form a chain from its newest back; the page directory holds the heads. So a page that is
// not in memory can be changed without reading it, a page that is read gets its changes applied, and a
// checkpoint knows exactly what to merge. Sequence numbers wrap; `isLive` compares distances.

import { assert } from "../base/assert.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { PAGE_BLOCKS } from "./page-directory.ts";

const ENTRY_WORDS = 4;

export class DeltaRing {
  readonly #words: Uint32Array;
  readonly #base: number;
  /** Where the LSNs are: a word per entry. */
  readonly #lsns: number;
  readonly #mask: number;
  readonly capacity: number;
  /** Sequence of the oldest entry and of the next one; 0 is never used. */
  #tail: number;
  #next: number;
  #count = 0;

  /** `first`: where sequences begin; they wrap after 2^32 changes. */
  constructor(memory: BlockMemory, first = 1) {
    this.#tail = first;
    this.#next = first;
    this.#words = memory.words;
    this.#base = memory.deltasAddress >>> 2;
    this.capacity = memory.shape.deltaCount;
    this.#lsns = this.#base + this.capacity * ENTRY_WORDS;
    this.#mask = this.capacity - 1;
    assert((this.capacity & this.#mask) === 0, "the ring's capacity is a power of two");
  }

  get count(): number {
    return this.#count;
  }
  get room(): number {
    return this.capacity - this.#count - 1;
  }
  /** Everything appended so far has a sequence before this one. */
  get next(): number {
    return this.#next;
  }

  /** Appends a change and returns its sequence: the new head of the page's chain. */
  push(
    head: number,
    run: { first: number; count: number },
    reference: { segment: number; low: number },
    lsn: number,
  ): number {
    const packedRun = run.first | ((run.count - 1) << 9);
    return this.pushBlocks(head, packedRun, reference.segment, reference.low, lsn >>> 0);
  }

  /** The same with the run packed, `first | (count - 1) << 9`, and the low word of the LSN. */
  pushBlocks(
    head: number,
    packedRun: number,
    segment: number,
    low: number,
    lsnLow: number,
  ): number {
    assert(this.#count < this.capacity - 1, "a change is appended only when the ring has room");
    const sequence = this.#next;
    const at = this.#base + (sequence & this.#mask) * ENTRY_WORDS;
    this.#words[at] = head;
    this.#words[at + 1] = packedRun;
    this.#words[at + 2] = segment;
    this.#words[at + 3] = low;
    this.#words[this.#lsns + (sequence & this.#mask)] = lsnLow;
    this.#next = following(sequence);
    this.#count += 1;
    if (this.#next === 1) this.#count += 1; // sequence 0 is skipped but its place is not
    return sequence;
  }

  isLive(sequence: number): boolean {
    return sequence !== 0 && (sequence - this.#tail) >>> 0 < (this.#next - this.#tail) >>> 0;
  }

  /** Whether `sequence` was appended before `cut`; both live. */
  isBefore(sequence: number, cut: number): boolean {
    return (sequence - this.#tail) >>> 0 < (cut - this.#tail) >>> 0;
  }

  /**
   * Applies the chain from `head` to the page of references at `pageAddress`: the newest change of each block
   * wins. Only changes before `cut`, if one is given.
   */
  apply(head: number, pageAddress: number, cut?: number): void {
    const words = this.#words;
    const page = pageAddress >>> 2;
    SEEN.fill(0);
    for (
      let at = head;
      this.isLive(at);
      at = words[this.#base + (at & this.#mask) * ENTRY_WORDS] as number
    ) {
      if (cut !== undefined && !this.isBefore(at, cut)) continue;
      const entry = this.#base + (at & this.#mask) * ENTRY_WORDS;
      const packedRun = words[entry + 1] as number;
      const first = packedRun & 511;
      const end = first + (packedRun >>> 9) + 1;
      for (let block = first; block < end; block++) {
        if (SEEN[block] === 1) continue;
        SEEN[block] = 1;
        words[page + block * 2] = words[entry + 2] as number;
        words[page + block * 2 + 1] = words[entry + 3] as number;
      }
    }
  }

  /** The sequence behind all changes of records up to `lsn`, one that is no further back than the ring's oldest. */
  endOf(lsn: number): number {
    // Entries stand in the order of their LSNs; those of one record have the same.
    let low = 0;
    let high = (this.#next - this.#tail) >>> 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const sequence = (this.#tail + middle) >>> 0;
      if (sequence !== 0 && isUpTo(this.#lsnLowOf(sequence), lsn)) low = middle + 1;
      else if (sequence === 0 && isUpTo(this.#lsnLowOf(2 ** 32 - 1), lsn)) low = middle + 1;
      else high = middle;
    }
    const end = (this.#tail + low) >>> 0;
    return end === 0 ? 1 : end;
  }

  /**
   * Appends the sequences of the chain's changes before `cut` to `target`, from index `count` on, oldest first. Returns
   * how many `target` holds then.
   */
  collect(head: number, cut: number, target: number[], count: number): number {
    let end = count;
    for (
      let at = head;
      this.isLive(at);
      at = this.#words[this.#base + (at & this.#mask) * ENTRY_WORDS] as number
    ) {
      if (!this.isBefore(at, cut)) continue;
      target[end] = at;
      end += 1;
    }
    for (let low = count, high = end - 1; low < high; low++, high--) {
      const swapped = target[low] as number;
      target[low] = target[high] as number;
      target[high] = swapped;
    }
    return end;
  }

  /** Writes a live change in the form of a change list: see change-list.ts. `fromLsn` is at most 2^31 below its own. */
  putChange(view: DataView, at: number, sequence: number, fromLsn: number): void {
    const entry = this.#base + (sequence & this.#mask) * ENTRY_WORDS;
    const packedRun = this.#words[entry + 1] as number;
    view.setUint32(at, this.lsnSince(sequence, fromLsn), true);
    view.setUint16(at + 4, packedRun & 511, true);
    view.setUint16(at + 6, packedRun >>> 9, true);
    view.setUint32(at + 8, this.#words[entry + 2] as number, true);
    view.setUint32(at + 12, this.#words[entry + 3] as number, true);
  }

  /** LSN of a live change less `fromLsn`, which is at most 2^31 below. */
  lsnSince(sequence: number, fromLsn: number): number {
    return (this.#lsnLowOf(sequence) - fromLsn) >>> 0;
  }

  #lsnLowOf(sequence: number): number {
    return this.#words[this.#lsns + (sequence & this.#mask)] as number;
  }

  /** Whether the chain has any change before `cut`. */
  hasBefore(head: number, cut: number): boolean {
    for (
      let at = head;
      this.isLive(at);
      at = this.#words[this.#base + (at & this.#mask) * ENTRY_WORDS] as number
    ) {
      if (this.isBefore(at, cut)) return true;
    }
    return false;
  }

  /** Whether the chain has any change from `begin` on and before `cut`. */
  hasBetween(head: number, begin: number, cut: number): boolean {
    for (
      let at = head;
      this.isLive(at) && !this.isBefore(at, begin);
      at = this.#words[this.#base + (at & this.#mask) * ENTRY_WORDS] as number
    ) {
      if (this.isBefore(at, cut)) return true;
    }
    return false;
  }

  /** Everything before `cut` has been merged: its room is free again. */
  release(cut: number): void {
    const released = (cut - this.#tail) >>> 0;
    assert(released <= (this.#next - this.#tail) >>> 0, "only what was appended is released");
    this.#tail = cut;
    this.#count = (this.#next - this.#tail) >>> 0;
  }
}

/** Which blocks of the page already have their newest change; reused. */
const SEEN = new Uint8Array(PAGE_BLOCKS);

/** Whether the LSN with this low word is `lsn` or before it; the two are less than 2^31 apart. */
function isUpTo(lsnLow: number, lsn: number): boolean {
  return (lsn - lsnLow) >>> 0 < 2 ** 31;
}

function following(sequence: number): number {
  const next = (sequence + 1) >>> 0;
  return next === 0 ? 1 : next;
}
