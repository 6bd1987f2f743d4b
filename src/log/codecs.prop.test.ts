// SPDX-License-Identifier: Apache-2.0
//
// The log's layouts: what is written is read back; bytes by chance, changed bytes and cut bytes are refused with a
// sentence or a StorageError, and never with anything else.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { type BatchHeader, parseBatchHeader, recordsMatch, sealBatch } from "./batch.ts";
import {
  encodeJsonRecord,
  getU64,
  newRecordCursor,
  parseRecord,
  putRecordHeader,
  putRelocated,
  putU64,
  RECORD_KIND,
  RECORD_NAME,
  type RelocatedFrame,
  relocatedBytes,
} from "./record.ts";
import { formatReference, offset8Of, REFERENCE_STATE, stateOf } from "./reference.ts";
import {
  parseSegmentHeader,
  parseSegmentTrailer,
  putSegmentHeader,
  putSegmentTrailer,
  segmentName,
  segmentNumberOf,
} from "./segment.ts";

const memory = new BlockMemory(shapeOf(24 << 20));
const at = memory.slotsAddress;
const POOL_ID = Uint8Array.from({ length: 16 }, (_, index) => index * 3 + 1);
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const safe = fc.maxSafeNat();
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

/** Calls `parse`; a StorageError counts as a sentence. */
function refused<T>(parse: () => T | string): T | string {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    return error.message;
  }
}

test("a reference keeps its state and offset, and is spelled with its segment", () => {
  fc.assert(
    fc.property(
      u32,
      fc.nat(3),
      fc.nat(2 ** 24 - 1),
      fc.nat(63),
      (segment, state, offset8, slot) => {
        const low = ((state << 30) | (offset8 << 6) | slot) >>> 0;
        deepEqual([stateOf(low), offset8Of(low)], [state, offset8]);
        const text = formatReference(segment, low);
        equal(text.startsWith(`${segment}:${offset8 * 8}`), state === REFERENCE_STATE.FRAME);
      },
    ),
  );
});

test("a u64 is kept up to 2^53, and read as -1 beyond", () => {
  const view = new DataView(new ArrayBuffer(8));
  fc.assert(
    fc.property(
      fc.oneof(safe, fc.constantFrom(0, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER)),
      (value) => {
        putU64(view, 0, value);
        equal(view.getBigUint64(0, true), BigInt(value));
        equal(getU64(view, 0), value);
      },
    ),
  );
  fc.assert(
    fc.property(u64, (value) => {
      view.setBigUint64(0, value, true);
      equal(getU64(view, 0), value < 2n ** 53n ? Number(value) : -1);
    }),
  );
});

const range = fc
  .tuple(fc.nat({ max: 2 ** 34 - 1 }), fc.nat({ max: 2 ** 34 - 1 }))
  .map(([lba, count]) => ({ lba, blockCount: Math.min(count + 1, 2 ** 34 - lba) }));
const json = fc.dictionary(fc.string({ maxLength: 10 }), fc.jsonValue({ maxDepth: 2 }), {
  maxKeys: 5,
});
const JSON_KINDS = [
  RECORD_KIND.VOLUME_MADE,
  RECORD_KIND.VOLUME_SET,
  RECORD_KIND.SEGMENT_DROPPED,
  RECORD_KIND.OPENED,
  RECORD_KIND.CLOCK_STEPPED,
];

interface Relocated {
  readonly frame: RelocatedFrame;
  /** Per slot: hash (two words), home segment, home offset / 8. */
  readonly slots: Uint32Array;
}

const relocated: fc.Arbitrary<Relocated> = fc
  .record({
    timeOffsetMicros: u32,
    placeSegment: u32,
    placeOffset8: fc.nat({ max: 2 ** 24 - 1 - 300 }),
    storedBytes: fc.integer({ min: 1, max: 2000 }),
    slotCount: fc.integer({ min: 1, max: 64 }),
    isShared: fc.boolean(),
    words: fc.array(u32, { minLength: 256, maxLength: 256 }),
  })
  .map(({ words, ...rest }) => {
    const slotCount = rest.isShared ? rest.slotCount : 1;
    const slots = Uint32Array.from(words.slice(0, slotCount * 4), (word, index) =>
      index % 4 === 3 ? word % 2 ** 24 : word,
    );
    return { frame: { ...rest, slotCount, slotsOffset: 0 }, slots };
  });

function encodeRelocated({ frame, slots }: Relocated): Uint8Array {
  const bytes = new Uint8Array(2048 + relocatedBytes(frame.slotCount));
  for (const [index, word] of slots.entries()) viewOf(bytes).setUint32(index * 4, word, true);
  const lengthBytes = putRelocated(viewOf(bytes), 2048, frame);
  equal(lengthBytes, bytes.length - 2048);
  return bytes.slice(2048);
}

const anyRecord: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc
    .record({
      branch: u32,
      blockCount: fc.integer({ min: 1, max: 257 }),
      lba: fc.nat({ max: 2 ** 34 - 257 }),
      time: u32,
    })
    .map(({ branch, blockCount, lba, time }) => {
      const bytes = new Uint8Array(24 + 8 * blockCount).fill(7, 24);
      const view = new DataView(bytes.buffer);
      putRecordHeader(view, 0, RECORD_KIND.WROTE, bytes.length, time);
      view.setUint32(8, branch, true);
      view.setUint32(12, blockCount, true);
      putU64(view, 16, lba);
      return bytes;
    }),
  fc
    .tuple(fc.constantFrom(RECORD_KIND.ZEROED, RECORD_KIND.TRIMMED), u32, range)
    .map(([kind, branch, { lba, blockCount }]) => {
      const view = new DataView(new ArrayBuffer(32));
      putRecordHeader(view, 0, kind, 32, 5);
      view.setUint32(8, branch, true);
      putU64(view, 16, lba);
      putU64(view, 24, blockCount);
      return new Uint8Array(view.buffer);
    }),
  u32.map((branch) => {
    const view = new DataView(new ArrayBuffer(16));
    putRecordHeader(view, 0, RECORD_KIND.FLUSHED, 16, 0);
    view.setUint32(8, branch, true);
    return new Uint8Array(view.buffer);
  }),
  fc
    .tuple(fc.constantFrom(...JSON_KINDS), json)
    .map(([kind, body]) => encodeJsonRecord(kind, body)),
  relocated.map(encodeRelocated),
);

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

test("a record is parsed to its end, and not if a byte of it is missing", () => {
  fc.assert(
    fc.property(anyRecord, (bytes) => {
      const cursor = newRecordCursor();
      equal(parseRecord(viewOf(bytes), 0, bytes.length, cursor), bytes.length);
      equal(cursor.kind, bytes[0]);
      for (let end = 0; end < bytes.length; end += bytes.length > 200 ? 37 : 1)
        equal(typeof parseRecord(viewOf(bytes), 0, end, cursor), "string", `cut at ${end}`);
    }),
  );
});

test("what a record says comes back", () => {
  fc.assert(
    fc.property(fc.constantFrom(...JSON_KINDS), json, (kind, body) => {
      const bytes = encodeJsonRecord(kind, body);
      const cursor = newRecordCursor();
      equal(parseRecord(viewOf(bytes), 0, bytes.length, cursor), bytes.length);
      deepEqual(cursor.json, JSON.parse(JSON.stringify(body)));
    }),
  );
});

test("a relocated record says which homes are now at which slots of a place", () => {
  fc.assert(
    fc.property(relocated, (wanted) => {
      const bytes = encodeRelocated(wanted);
      const view = viewOf(bytes);
      const cursor = newRecordCursor();
      equal(parseRecord(view, 0, bytes.length, cursor), bytes.length);
      const { placeSegment, placeOffset8, storedBytes, slotCount, isShared } = cursor;
      const { timeOffsetMicros, slotsOffset, ...frame } = wanted.frame;
      deepEqual({ placeSegment, placeOffset8, storedBytes, slotCount, isShared }, frame);
      equal(view.getUint32(4, true), timeOffsetMicros);
      equal(view.getUint8(1), 1, "it must be understood");
      equal(cursor.referencesOffset, 24 + slotsOffset);
      for (const [index, word] of wanted.slots.entries())
        equal(view.getUint32(cursor.referencesOffset + index * 4, true), word);
    }),
  );
});

test("a relocated record with impossible numbers is refused with a sentence", () => {
  const wrong: readonly [string, (view: DataView) => void, RegExp][] = [
    ["no slots", (view) => view.setUint16(20, 0, true), /^relocated record of 0 slots$/],
    ["65 slots", (view) => view.setUint16(20, 65, true), /^relocated record of 65 slots$/],
    ["fewer slots", (view) => view.setUint16(20, 2, true), /2 slots in 72 bytes$/],
    [
      "not shared",
      (view) => view.setUint16(22, 0, true),
      /^frame of 3 slots that was moved alone$/,
    ],
    ["flags", (view) => view.setUint16(22, 3, true), /^relocated record with flags 3$/],
    ["nothing stored", (view) => view.setUint32(16, 0, true), /^frame of 0 stored bytes$/],
    ["too much", (view) => view.setUint32(16, 65 * 4096 + 1, true), /^frame of 266241 stored/],
    ["place", (view) => view.setUint32(12, 2 ** 24, true), /place is beyond a segment$/],
    ["end", (view) => view.setUint32(12, 2 ** 24 - 1, true), /place is beyond a segment$/],
    [
      "home",
      (view) => view.setUint32(24 + 2 * 16 + 12, 2 ** 24, true),
      /home is beyond a segment$/,
    ],
  ];
  for (const [what, change, sentence] of wrong) {
    const [good] = fc.sample(relocated, { seed: 1, numRuns: 1 }) as [Relocated];
    const slots = new Uint32Array(12).fill(7);
    const bytes = encodeRelocated({
      frame: { ...good.frame, slotCount: 3, isShared: true },
      slots,
    });
    equal(parseRecord(viewOf(bytes), 0, bytes.length, newRecordCursor()), bytes.length);
    change(viewOf(bytes));
    match(String(parseRecord(viewOf(bytes), 0, bytes.length, newRecordCursor())), sentence, what);
  }
});

test("changed records give a record or a sentence; a range never reaches beyond 64 TiB", () => {
  fc.assert(
    fc.property(
      anyRecord,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
      (record, changes) => {
        const bytes = record.slice();
        for (const [place, byte] of changes) bytes[place % Math.min(bytes.length, 40)] = byte;
        const cursor = newRecordCursor();
        const result = parseRecord(viewOf(bytes), 0, bytes.length, cursor);
        if (typeof result === "string") return;
        ok(result >= 16 && result <= bytes.length && result % 8 === 0);
        if (cursor.kind >= RECORD_KIND.WROTE && cursor.kind <= RECORD_KIND.TRIMMED)
          ok(cursor.lba >= 0 && cursor.blockCount > 0 && cursor.lba + cursor.blockCount <= 2 ** 34);
      },
    ),
    { numRuns: 2000 },
  );
});

test("bytes by chance are never more than a sentence", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 300 }),
      fc.constantFrom(1, 2, 4, 16, 32, 33, 48, 200, undefined),
      (bytes, kind) => {
        if (kind !== undefined && bytes.length > 4) {
          bytes[0] = kind;
          viewOf(bytes).setUint16(2, bytes.length & ~7, true);
        }
        parseRecord(viewOf(bytes), 0, bytes.length, newRecordCursor());
        memory.bytes.set(bytes, at);
        refused(() => parseBatchHeader(memory, at, bytes.length, POOL_ID));
        refused(() => parseSegmentHeader(memory, at, bytes.length, POOL_ID));
        refused(() => parseSegmentTrailer(memory, at));
      },
    ),
    { numRuns: 1000 },
  );
});

test("every kind that has a name has one of its own", () => {
  equal(new Set(Object.values(RECORD_NAME)).size, Object.keys(RECORD_NAME).length);
  equal(RECORD_NAME[17], "volume-resized");
});

const header: fc.Arbitrary<BatchHeader> = fc
  .record({
    incarnation: safe,
    firstLsn: fc.nat({ max: 2 ** 50 }),
    recordCount: fc.nat(100),
    frameBytes: fc.nat(20).map((count) => count * 8),
    previousChecksum: u64,
    durable: fc.nat({ max: 2 ** 50 }),
    wallMicros: safe,
    monotoneMicros: safe,
    recordedMicros: safe,
    flags: fc.nat(3),
    padding: fc.nat(7),
  })
  .map(({ durable, padding, ...rest }) => {
    const recordBytes = rest.recordCount * 16;
    const usedBytes = 128 + rest.frameBytes + recordBytes;
    const totalBytes = Math.ceil(usedBytes / 512 + (padding === 0 ? 0 : padding % 7)) * 512;
    const isFitting = totalBytes - usedBytes < 4096;
    return {
      ...rest,
      recordBytes,
      durableLsn: Math.min(durable, rest.firstLsn),
      totalBytes: isFitting ? totalBytes : Math.ceil(usedBytes / 512) * 512,
      checksum: 0n,
    };
  });

test("a batch header is read back, refused when any bit is turned over, and when it is another pool's", () => {
  fc.assert(
    fc.property(header, fc.nat(127), fc.nat(7), (wanted, place, bit) => {
      memory.bytes.fill(9, at, at + wanted.totalBytes);
      const checksum = sealBatch(memory, at, POOL_ID, wanted);
      deepEqual(parseBatchHeader(memory, at, 128, POOL_ID), { ...wanted, checksum });
      ok(recordsMatch(memory, at, at + 128 + wanted.frameBytes, wanted.recordBytes));
      equal(typeof parseBatchHeader(memory, at, 127, POOL_ID), "string");
      equal(parseBatchHeader(memory, at, 128, new Uint8Array(16)), "another pool's batch");
      memory.bytes[at + place] = (memory.bytes[at + place] as number) ^ (1 << bit);
      equal(typeof refused(() => parseBatchHeader(memory, at, 128, POOL_ID)), "string");
    }),
    { numRuns: 500 },
  );
});

test("a batch header with a right checksum and impossible numbers is refused", () => {
  const base: BatchHeader = {
    incarnation: 1,
    firstLsn: 10,
    recordCount: 2,
    frameBytes: 8,
    recordBytes: 32,
    totalBytes: 512,
    previousChecksum: 0n,
    durableLsn: 10,
    wallMicros: 1,
    monotoneMicros: 1,
    recordedMicros: 1,
    flags: 0,
    checksum: 0n,
  };
  for (const wrong of [
    { frameBytes: 4 },
    { recordBytes: 36 },
    { totalBytes: 0 },
    { totalBytes: 100 },
    { totalBytes: 0xfffffe00 },
    { frameBytes: 0xfffffff8, totalBytes: 512 },
    { durableLsn: 11 },
    { recordCount: 3 },
    { recordCount: 0xffffffff },
  ]) {
    memory.bytes.fill(0, at, at + 512);
    const sealed = { ...base, ...wrong };
    // The records' checksum is of a length that fits the memory; the header's is right all the same.
    sealBatch(memory, at, POOL_ID, { ...sealed, frameBytes: 8, recordBytes: 32 });
    memory.view.setUint32(at + 44, sealed.frameBytes, true);
    memory.view.setUint32(at + 48, sealed.recordBytes, true);
    memory.kernel.hash(at, 120, at + 120);
    equal(
      parseBatchHeader(memory, at, 512, POOL_ID),
      "impossible numbers in the header",
      JSON.stringify(wrong),
    );
  }
});

test("a segment's header and trailer are read back, and refused when any bit of them is turned over", () => {
  fc.assert(
    fc.property(
      fc.record({
        number: fc.nat({ max: 2 ** 32 - 1 }),
        incarnation: safe,
        firstLsn: safe,
        previousNumber: safe,
        previousEnd: safe,
        chain: u64,
        durableLsn: safe,
        wallMicros: safe,
      }),
      fc.nat(127),
      fc.nat(7),
      (wanted, place, bit) => {
        putSegmentHeader(memory, at, POOL_ID, wanted);
        deepEqual(parseSegmentHeader(memory, at, 4096, POOL_ID), { ...wanted });
        equal(parseSegmentHeader(memory, at, 4095, POOL_ID), "cut off");
        equal(parseSegmentHeader(memory, at, 4096, new Uint8Array(16)), "another pool's segment");
        memory.bytes[at + place] = (memory.bytes[at + place] as number) ^ (1 << bit);
        equal(typeof refused(() => parseSegmentHeader(memory, at, 4096, POOL_ID)), "string");
        const trailer = {
          number: wanted.number,
          end: wanted.previousEnd,
          frameCount: 5,
          batchCount: 6,
          rowBytes: 80,
          metaBytes: 1000,
          checksum: wanted.chain,
        };
        putSegmentTrailer(memory, at, trailer);
        deepEqual(parseSegmentTrailer(memory, at), trailer);
        memory.bytes[at + (place % 64)] = (memory.bytes[at + (place % 64)] as number) ^ (1 << bit);
        equal(typeof parseSegmentTrailer(memory, at), "string");
      },
    ),
  );
});

test("segments are named by their numbers, and nothing else is a segment", () => {
  fc.assert(
    fc.property(safe, (number) => {
      equal(segmentNumberOf(segmentName(number)), number);
    }),
  );
  for (const name of [
    "reserve",
    "0000000000000001.run",
    "000000000000001.seg",
    "0000000000000001.SEG",
    "000000000000000g.seg",
    "",
  ])
    equal(segmentNumberOf(name), -1, name);
});
