// SPDX-License-Identifier: Apache-2.0
//
// Extents as bytes: what is written is read, in any order and over any packs; and whatever the bytes are, what is read lies
// in the largest volume, and in a pack that the object names.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { EXTENT_BYTES_MAX, ExtentDecoder, ExtentEncoder } from "./extent-codec.ts";
import { EXTENT_KIND } from "./extents.ts";
import { LBA_END_MAX, ordinalOf, PACK_SLOTS_MAX, placeAt, slotOf } from "./place.ts";
import { putVarint, VARINT_BYTES_MAX, VarintReader } from "./varint.ts";

const EXTENT = fc
  .record({
    lba: fc.nat(LBA_END_MAX - PACK_SLOTS_MAX),
    blockCount: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: PACK_SLOTS_MAX })),
    kind: fc.constantFrom(0, 0, 0, 1, 2),
    ordinal: fc.nat(20),
    slot: fc.oneof(fc.nat(30), fc.nat(PACK_SLOTS_MAX - 1)),
  })
  .map(({ lba, blockCount, kind, ordinal, slot }) => ({
    lba,
    blockCount: Math.min(blockCount, PACK_SLOTS_MAX - slot),
    kind,
    place: kind === EXTENT_KIND.frames ? placeAt(ordinal, slot) : 0,
  }));

/** The program's ordinals: others than the object's. */
const ORDINALS = Float64Array.from({ length: 21 }, (_, own) => 1000 - own);

test("extents are read as they were written, whatever they are and in any order", () => {
  fc.assert(
    fc.property(fc.array(EXTENT, { maxLength: 60 }), fc.nat(1000), (extents, firstLba) => {
      const bytes = new Uint8Array(extents.length * EXTENT_BYTES_MAX);
      const encoder = new ExtentEncoder("any");
      encoder.begin(firstLba);
      const end = extents.reduce((at, extent) => encoder.put(bytes, at, extent), 0);
      const reader = new VarintReader(bytes.subarray(0, end));
      const decoder = new ExtentDecoder(reader, { order: "any", ordinals: ORDINALS, firstLba });
      for (const { lba, blockCount, kind, place } of extents) {
        equal(decoder.next(), true);
        const isFrames = kind === EXTENT_KIND.frames;
        const expected = isFrames ? placeAt(1000 - ordinalOf(place), slotOf(place)) : 0;
        deepEqual(
          [decoder.lba, decoder.blockCount, decoder.kind, decoder.place],
          [lba, blockCount, kind, expected],
        );
      }
      equal(reader.isAtEnd, true);
    }),
  );
});

test("whatever numbers there are, extents keep to the volume and to packs that are named", () => {
  const words = fc.array(fc.oneof(fc.nat(40), fc.nat(70_000), fc.nat(2 ** 30), fc.maxSafeNat()), {
    maxLength: 20,
  });
  let readCount = 0;
  fc.assert(
    fc.property(words, fc.constantFrom("any", "ascending"), (numbers, order) => {
      const bytes = new Uint8Array(numbers.length * VARINT_BYTES_MAX);
      const end = numbers.reduce((at, word) => putVarint(bytes, at, word), 0);
      const reader = new VarintReader(bytes.subarray(0, end));
      const ordinals = Float64Array.of(7, 3);
      const decoder = new ExtentDecoder(reader, { order, ordinals, firstLba: 0 });
      while (decoder.next()) {
        readCount += 1;
        const { lba, blockCount, kind, place } = decoder;
        ok(lba >= 0 && blockCount > 0 && lba + blockCount <= LBA_END_MAX);
        if (kind !== EXTENT_KIND.frames) continue;
        ok(ordinalOf(place) === 7 || ordinalOf(place) === 3);
        ok(slotOf(place) + blockCount <= PACK_SLOTS_MAX);
      }
    }),
    { numRuns: 3000 },
  );
  ok(readCount > 100, `some of it makes sense: ${readCount} extents`);
});
