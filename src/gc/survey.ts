// SPDX-License-Identifier: Apache-2.0
//
// Counts what the live volumes refer to: for statistics, and to find segments that are mostly garbage. Which frames are
// the same is known exactly for up to a million of them; beyond that a part of the frames, chosen by their names, is
// counted and scaled: with a million names the error is about a thousandth.

import { PAGE_BLOCKS } from "../index/page-directory.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import type { ReferenceTaker } from "./history.ts";

export interface BranchCount {
  /** Blocks that have a frame. */
  mappedCount: number;
  zeroCount: number;
  /** Frames that no branch scanned before refers to; and of those, that no other branch refers to at all. */
  firstCount: number;
  uniqueCount: number;
}

const NAMES_MAX: number = 1 << 20;
const SHARED_BY_BRANCHES = -1;
const OFFSET8_RANGE: number = 2 ** 24;

export class Survey implements ReferenceTaker {
  readonly #branches: Map<number, BranchCount> = new Map();
  /** Frame → the branch that refers to it, or SHARED_BY_BRANCHES; of those whose hash has no bits of the mask. */
  readonly #names: Map<number, number> = new Map();
  readonly #first: Map<number, number> = new Map();
  readonly #namesMax: number;
  #mask = 0;
  /**
   * Whose every reference is that is visited from now on, whatever branch has it; of frames that were seen before nothing
   * is noted any more. Undefined: each is its branch's own.
   */
  owner: number | undefined;

  constructor(namesMax: number = NAMES_MAX) {
    this.#namesMax = namesMax;
  }

  page(of: number, words: Uint32Array, first: number): void {
    const branch = this.owner ?? of;
    const count = this.of(branch);
    for (let word = first; word < first + PAGE_BLOCKS * 2; word += 2) {
      const low = words[word + 1] as number;
      const state = stateOf(low);
      if (state === REFERENCE_STATE.ZERO) count.zeroCount += 1;
      if (state !== REFERENCE_STATE.FRAME) continue;
      count.mappedCount += 1;
      this.#name(branch, words[word] as number, offset8Of(low));
    }
  }

  note(branch: number, segment: number, low: number): void {
    if (stateOf(low) === REFERENCE_STATE.FRAME)
      this.#name(this.owner ?? branch, segment, offset8Of(low));
  }

  zeros(branch: number, blockCount: number): void {
    this.of(this.owner ?? branch).zeroCount += blockCount;
  }

  /** One in so many frames was counted. */
  get scale(): number {
    return this.#mask + 1;
  }

  get branches(): ReadonlyMap<number, BranchCount> {
    return this.#branches;
  }

  of(branch: number): BranchCount {
    let count = this.#branches.get(branch);
    if (count === undefined) {
      count = { mappedCount: 0, zeroCount: 0, firstCount: 0, uniqueCount: 0 };
      this.#branches.set(branch, count);
    }
    return count;
  }

  /** Frames that were counted, by name: home segment and offset / 8, and whose they are. */
  *frames(): IterableIterator<{
    homeSegment: number;
    homeOffset8: number;
    firstBranch: number;
    /** The only branch that refers to it; -1: there are several. */
    branch: number;
  }> {
    for (const [name, branch] of this.#names)
      yield {
        homeSegment: Math.floor(name / OFFSET8_RANGE),
        homeOffset8: name % OFFSET8_RANGE,
        firstBranch: this.#first.get(name) ?? branch,
        branch,
      };
  }

  #name(branch: number, segment: number, offset8: number): void {
    if ((mixed(segment, offset8) & this.#mask) !== 0) return;
    const name = segment * OFFSET8_RANGE + offset8;
    const known = this.#names.get(name);
    if (known === branch || (known !== undefined && this.owner !== undefined)) return;
    if (known !== undefined) {
      if (known !== SHARED_BY_BRANCHES) this.#first.set(name, known);
      this.#names.set(name, SHARED_BY_BRANCHES);
      return;
    }
    this.#names.set(name, branch);
    if (this.#names.size > this.#namesMax) this.#thin();
  }

  #thin(): void {
    this.#mask = this.#mask * 2 + 1;
    for (const name of this.#names.keys()) {
      if ((mixed(Math.floor(name / OFFSET8_RANGE), name % OFFSET8_RANGE) & this.#mask) === 0)
        continue;
      this.#names.delete(name);
      this.#first.delete(name);
    }
  }
}

/** Evenly spread, whatever the names. */
function mixed(segment: number, offset8: number): number {
  let hash = Math.imul(segment ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(offset8, 0xc2b2ae35);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x2c1b3c6d);
  return hash ^ (hash >>> 13);
}
