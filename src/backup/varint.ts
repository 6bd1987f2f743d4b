// SPDX-License-Identifier: Apache-2.0
//
// Numbers of few bytes: seven bits each, the low ones first, the high bit says that more follow (LEB128). Up to 2^53, so
// the shifts are multiplications beyond 32 bits. Reading never trusts what it reads: a cut number, one with needless bytes
// or one beyond 2^53 leaves the reader broken, and everything it gives afterwards is 0. So a decoder looks once, at the
// end of a piece or before it uses a number as a length.

import { assert } from "../base/assert.ts";

/** What the longest number takes: 2^53 has 54 bits. */
export const VARINT_BYTES_MAX = 8;

/** Writes `value` at `at`; returns where it ends. */
export function putVarint(target: Uint8Array, at: number, value: number): number {
  assert(Number.isSafeInteger(value) && value >= 0, "a varint is a whole number");
  let rest = value;
  let end = at;
  while (rest >= 0x80) {
    // A bit operation sees the low 32 bits of any number, and only the low seven are wanted.
    target[end] = (rest & 0x7f) | 0x80;
    rest = rest < 2 ** 31 ? rest >>> 7 : Math.floor(rest / 128);
    end += 1;
  }
  target[end] = rest;
  return end + 1;
}

/** A number that may be negative, as one that isn't: 0, -1, 1, -2 … become 0, 1, 2, 3 … */
export function foldSign(value: number): number {
  return value >= 0 ? value * 2 : -value * 2 - 1;
}

export function unfoldSign(folded: number): number {
  const half = Math.floor(folded / 2);
  return half * 2 === folded ? half : -half - 1;
}

export class VarintReader {
  readonly #bytes: Uint8Array;
  #at: number;
  /** A number was cut, too long or too large. */
  isBroken = false;

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  /** All bytes are read, and each was part of a number. */
  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length && !this.isBroken;
  }

  next(): number {
    const bytes = this.#bytes;
    const first = bytes[this.#at] ?? 0x80;
    if (first < 0x80) {
      this.#at += 1;
      return this.isBroken ? 0 : first;
    }
    return this.#nextLong();
  }

  /** So many bytes as they are, a view; none when there are not enough. */
  take(count: number): Uint8Array {
    const end = this.#at + count;
    if (this.isBroken || end > this.#bytes.length) {
      this.isBroken = true;
      return new Uint8Array(0);
    }
    const bytes = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return bytes;
  }

  #nextLong(): number {
    let value = 0;
    let scale = 1;
    for (let count = 0; count < VARINT_BYTES_MAX; count += 1) {
      const byte = this.#bytes[this.#at];
      if (byte === undefined) break;
      this.#at += 1;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (this.isBroken || byte === 0 || !Number.isSafeInteger(value)) break;
        return value;
      }
      scale *= 128;
    }
    this.isBroken = true;
    return 0;
  }
}
