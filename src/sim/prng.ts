// SPDX-License-Identifier: Apache-2.0
//
// Chance from a seed: sfc32 (Doty-Humphrey), started through splitmix32. Small, fast, and the same on
// every machine, so that one number is enough to repeat a run. Forks give each part of a simulation a
// stream of its own: a change in how the disk draws doesn't change what the clients do.

import { assert } from "../base/assert.ts";

export class Prng {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    assert(Number.isSafeInteger(seed) && seed >= 0, "a seed is a non-negative integer");
    let state = (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
    const next = (): number => {
      state = (state + 0x9e3779b9) | 0;
      let word = state ^ (state >>> 16);
      word = Math.imul(word, 0x21f0aaad);
      word ^= word >>> 15;
      word = Math.imul(word, 0x735a2d97);
      return (word ^ (word >>> 15)) | 0;
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    for (let round = 0; round < 12; round++) this.word();
  }

  /** 32 random bits as an unsigned number. */
  word(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** Uniform in [0, 1). */
  fraction(): number {
    return this.word() / 2 ** 32;
  }

  /** An integer in [0, end). */
  below(end: number): number {
    assert(end >= 1, "a choice has at least one outcome");
    return Math.floor((this.word() / 2 ** 32) * end);
  }

  /** An integer in [start, end). */
  between(start: number, end: number): number {
    return start + this.below(end - start);
  }

  /** True once in `1 / probability` times. */
  chance(probability: number): boolean {
    return this.word() < probability * 2 ** 32;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }

  /** Small numbers often, large ones sometimes: uniform in the logarithm, in [1, end]. */
  skewed(end: number): number {
    return Math.min(end, Math.floor(Math.exp(this.fraction() * Math.log(end + 1))));
  }

  shuffle<T>(items: T[]): T[] {
    for (let index = items.length - 1; index > 0; index--) {
      const other = this.below(index + 1);
      const item = items[index] as T;
      items[index] = items[other] as T;
      items[other] = item;
    }
    return items;
  }

  /** A stream that depends on this one only through the moment of the fork. */
  fork(): Prng {
    return new Prng(this.word() * 2 ** 20 + (this.word() >>> 12));
  }
}
