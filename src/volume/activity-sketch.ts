// SPDX-License-Identifier: Apache-2.0
//
// How many different blocks were written, in 256 bytes: a HyperLogLog sketch. Each block's number is hashed; the hash
// chooses one of 256 registers, which keeps the longest row of leading zeros that it has met. So the same block counts
// once, and the sketch of two intervals together is the larger of each pair of registers: minutes add up to hours
// without anybody remembering blocks. The standard error is 6.5 % (1.04 / √256); few blocks are counted nearly exactly.
//
// Encoded: one byte says how. 0 to 63: so many pairs (register, value), ascending; 64: the smallest value, then half a byte
// for what each register has above it; 65: a byte each.

const REGISTERS = 256;
const SPARSE_MAX = 63;
const FORM_NIBBLES = 64;
const FORM_BYTES = 65;
/** What is read behind the end. */
const FORM_NONE = 256;
const NIBBLE_MAX = 15;
/** A hash of 32 bits has at most 32 leading zeros. */
const VALUE_MAX = 33;
const ALPHA = 0.7213 / (1 + 1.079 / REGISTERS);
/** Below so many, registers that are still empty tell more than the values of the others. */
const LINEAR_MAX = 2.5 * REGISTERS;
export const SKETCH_BYTES_MAX: number = 1 + REGISTERS;

export class BlockSketch {
  readonly #values: Uint8Array = new Uint8Array(REGISTERS);

  addRange(lba: number, blockCount: number): void {
    const values = this.#values;
    const end = lba + blockCount;
    for (let block = lba; block < end; block++) {
      // Something is mixed in, or block 0 would be the rarest of all.
      const both = (block | 0) ^ Math.imul(((block / 0x100000000) | 0) + 1, 0x27d4eb2f);
      let hash = Math.imul(both, 0x85ebca6b);
      hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
      hash ^= hash >>> 13;
      const register = hash & (REGISTERS - 1);
      hash = Math.imul(hash, 0x297a2d39);
      const value = Math.clz32(hash ^ (hash >>> 15)) + 1;
      if (value > (values[register] as number)) values[register] = value;
    }
  }

  /** Blocks of either are blocks of this one. */
  merge(other: BlockSketch): void {
    const values = this.#values;
    for (let register = 0; register < REGISTERS; register++) {
      const value = other.#values[register] as number;
      if (value > (values[register] as number)) values[register] = value;
    }
  }

  estimate(): number {
    let sum = 0;
    let emptyCount = 0;
    for (const value of this.#values) {
      sum += 2 ** -value;
      if (value === 0) emptyCount += 1;
    }
    const raw = (ALPHA * REGISTERS * REGISTERS) / sum;
    const isLinear = raw <= LINEAR_MAX && emptyCount > 0;
    return Math.round(isLinear ? REGISTERS * Math.log(REGISTERS / emptyCount) : raw);
  }

  /** Writes it at `at` and returns where that ends; there is room for SKETCH_BYTES_MAX. */
  encode(target: Uint8Array, at: number): number {
    const values = this.#values;
    let least = VALUE_MAX;
    let most = 0;
    let count = 0;
    for (const value of values) {
      least = Math.min(least, value);
      most = Math.max(most, value);
      if (value > 0) count += 1;
    }
    if (count <= SPARSE_MAX) return this.#encodeSparse(target, at, count);
    if (most - least > NIBBLE_MAX) {
      target[at] = FORM_BYTES;
      target.set(values, at + 1);
      return at + 1 + REGISTERS;
    }
    target[at] = FORM_NIBBLES;
    target[at + 1] = least;
    for (let pair = 0; pair < REGISTERS / 2; pair++) {
      const low = (values[pair * 2] as number) - least;
      const high = (values[pair * 2 + 1] as number) - least;
      target[at + 2 + pair] = low | (high << 4);
    }
    return at + 2 + REGISTERS / 2;
  }

  #encodeSparse(target: Uint8Array, at: number, count: number): number {
    target[at] = count;
    let end = at + 1;
    for (const [register, value] of this.#values.entries()) {
      if (value === 0) continue;
      target[end] = register;
      target[end + 1] = value;
      end += 2;
    }
    return end;
  }

  /** Adds what is encoded at `at`, and returns where that ends; -1: that is no sketch. */
  mergeEncoded(bytes: Uint8Array, at: number): number {
    const form = bytes[at] ?? FORM_NONE;
    if (form <= SPARSE_MAX) return this.#mergeSparse(bytes, at + 1, form);
    if (form === FORM_BYTES) return this.#mergeValues(bytes, at + 1);
    return form === FORM_NIBBLES ? this.#mergeNibbles(bytes, at + 1) : -1;
  }

  #mergeSparse(bytes: Uint8Array, at: number, count: number): number {
    const end = at + count * 2;
    if (end > bytes.length) return -1;
    for (let pair = at; pair < end; pair += 2) {
      const value = bytes[pair + 1] as number;
      if (value === 0 || value > VALUE_MAX) return -1;
      this.#raise(bytes[pair] as number, value);
    }
    return end;
  }

  #mergeNibbles(bytes: Uint8Array, at: number): number {
    const end = at + 1 + REGISTERS / 2;
    const least = bytes[at] as number;
    if (end > bytes.length) return -1;
    for (let pair = 0; pair < REGISTERS / 2; pair++) {
      const both = bytes[at + 1 + pair] as number;
      const low = least + (both & NIBBLE_MAX);
      const high = least + (both >>> 4);
      if (low > VALUE_MAX || high > VALUE_MAX) return -1;
      this.#raise(pair * 2, low);
      this.#raise(pair * 2 + 1, high);
    }
    return end;
  }

  #mergeValues(bytes: Uint8Array, at: number): number {
    if (at + REGISTERS > bytes.length) return -1;
    for (let register = 0; register < REGISTERS; register++) {
      const value = bytes[at + register] as number;
      if (value > VALUE_MAX) return -1;
      this.#raise(register, value);
    }
    return at + REGISTERS;
  }

  #raise(register: number, value: number): void {
    if (value > (this.#values[register] as number)) this.#values[register] = value;
  }
}
