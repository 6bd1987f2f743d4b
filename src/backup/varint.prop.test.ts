// SPDX-License-Identifier: Apache-2.0
//
// Numbers of few bytes: what is written is read, and nothing else is taken for a number.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { foldSign, putVarint, unfoldSign, VARINT_BYTES_MAX, VarintReader } from "./varint.ts";

const NUMBERS = fc.oneof(
  fc.nat(),
  fc.maxSafeNat(),
  fc.integer({ min: 0, max: 52 }).map((power) => 2 ** power),
  fc.integer({ min: 1, max: 53 }).map((power) => 2 ** power - 1),
);

function written(numbers: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(numbers.length * VARINT_BYTES_MAX);
  return bytes.subarray(
    0,
    numbers.reduce((at, value) => putVarint(bytes, at, value), 0),
  );
}

test("numbers are read as they were written", () => {
  fc.assert(
    fc.property(fc.array(NUMBERS), (numbers) => {
      const reader = new VarintReader(written(numbers));
      deepEqual(
        numbers.map(() => reader.next()),
        numbers,
      );
      equal(reader.isAtEnd, true);
    }),
  );
});

test("signed numbers keep their sign, and small ones stay small", () => {
  fc.assert(
    fc.property(fc.integer({ min: -(2 ** 51), max: 2 ** 51 }), (value) => {
      equal(unfoldSign(foldSign(value)), value);
    }),
  );
  deepEqual([0, -1, 1, -2].map(foldSign), [0, 1, 2, 3]);
});

test("a number that is cut breaks the reader, and it gives zeros from then on", () => {
  fc.assert(
    fc.property(NUMBERS, (value) => {
      const bytes = written([value]);
      const reader = new VarintReader(bytes.subarray(0, bytes.length - 1));
      equal(reader.next(), 0);
      equal(reader.isBroken, true);
      equal(reader.isAtEnd, false);
      equal(reader.next(), 0);
    }),
  );
});

test("a number beyond 2^53, one that never ends, and one with needless bytes are refused", () => {
  const refused = [
    [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    new Array(20).fill(0x80),
    [0x80, 0x00],
  ];
  for (const bytes of refused) {
    const reader = new VarintReader(Uint8Array.from(bytes));
    equal(reader.next(), 0);
    equal(reader.isBroken, true);
  }
});

test("whatever bytes there are, reading ends and gives whole numbers", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const reader = new VarintReader(bytes);
      for (let count = 0; count < 80; count += 1) equal(Number.isSafeInteger(reader.next()), true);
      equal(reader.isBroken || bytes.length === 0, true);
    }),
  );
});
