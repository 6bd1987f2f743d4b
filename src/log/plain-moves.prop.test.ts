// SPDX-License-Identifier: Apache-2.0
//
// The plain table of moved frames against a map.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { newPlainPlace, PlainMoves, type PlainPlace } from "./plain-moves.ts";

const OFFSET8_MAX = 2 ** 24 - 1;
const home = fc.record({
  segment: fc.constantFrom(1, 7, 2 ** 32 - 1),
  // Some again and again, some that fall on one place of a small table.
  offset8: fc.oneof(
    fc.integer({ min: 0, max: 40 }),
    fc.integer({ min: 0, max: OFFSET8_MAX }),
    fc.integer({ min: 0, max: 200 }).map((step) => step * 65536),
  ),
});
const place: fc.Arbitrary<PlainPlace> = fc.record({
  segment: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
  offset8: fc.oneof(fc.constant(OFFSET8_MAX), fc.integer({ min: 512, max: OFFSET8_MAX })),
  slot: fc.integer({ min: 0, max: 63 }),
  isShared: fc.boolean(),
  storedBytes: fc.integer({ min: 1, max: 300000 }),
});

test("a home's newest place is found, and no other", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(home, place), { maxLength: 200 }), home, (puts, other) => {
      const moves = new PlainMoves();
      const model = new Map<string, PlainPlace>();
      for (const [{ segment, offset8 }, to] of puts) {
        moves.put(segment, offset8, to);
        model.set(`${segment}:${offset8}`, to);
      }
      const found = newPlainPlace();
      for (const { segment, offset8 } of [...puts.map(([each]) => each), other]) {
        const wanted = model.get(`${segment}:${offset8}`);
        equal(moves.find(segment, offset8, found), wanted !== undefined);
        if (wanted !== undefined) deepEqual({ ...found }, { ...wanted });
      }
      const all = new Map<string, PlainPlace>();
      moves.forEach((segment, offset8, to) => {
        all.set(`${segment}:${offset8}`, { ...to });
      });
      equal(all.size, model.size);
      for (const [key, to] of model) deepEqual(all.get(key), { ...to });
    }),
  );
});
