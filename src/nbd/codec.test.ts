// SPDX-License-Identifier: Apache-2.0
//
// Every head on the wire, as hex: magic by magic and field by field.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HEADERS, readU64, writeChunkHeader, writeSimpleReply, writeU64 } from "./codec.ts";
import { REPLY_TYPE } from "./constants.ts";

const SUBJECT = {
  cookieHigh: 0x01020304,
  cookieLow: 0xfdfeff00,
  offsetHigh: 0x11,
  offsetLow: 0x80000000,
};

function hexOf(write: (view: DataView) => number): string {
  const bytes = new Uint8Array(64);
  const count = write(new DataView(bytes.buffer));
  return Buffer.from(bytes.subarray(0, count)).toString("hex");
}

test("a simple reply is magic, error, cookie", () => {
  equal(
    hexOf((view) => writeSimpleReply(view, 0, SUBJECT, 28)),
    "67446698" + "0000001c" + "01020304fdfeff00",
  );
});

test("a structured chunk is magic, flags, type, cookie, length", () => {
  const chunk = { isExtended: false, isLast: true, type: REPLY_TYPE.ERROR, payloadBytes: 6 };
  equal(
    hexOf((view) => writeChunkHeader(view, 0, SUBJECT, chunk)),
    "668e33ef" + "0001" + "8001" + "01020304fdfeff00" + "00000006",
  );
});

test("an extended chunk repeats the request's offset and has a length of 64 bits", () => {
  const chunk = {
    isExtended: true,
    isLast: false,
    type: REPLY_TYPE.OFFSET_DATA,
    payloadBytes: 520,
  };
  equal(
    hexOf((view) => writeChunkHeader(view, 0, SUBJECT, chunk)),
    "6e8a278c" + "0000" + "0001" + "01020304fdfeff00" + "0000001180000000" + "0000000000000208",
  );
});

test("a u64 below 2^53 is read exactly, and one above is above", () => {
  const view = new DataView(new ArrayBuffer(8));
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
      view.setBigUint64(0, value);
      const number = readU64(view, 0);
      if (value <= BigInt(Number.MAX_SAFE_INTEGER)) equal(BigInt(number), value);
      else ok(number >= 2 ** 53, `${value} became ${number}`);
    }),
  );
});

test("a u64 is written as it was", () => {
  const view = new DataView(new ArrayBuffer(8));
  fc.assert(
    fc.property(fc.maxSafeNat(), (value) => {
      writeU64(view, 0, value);
      equal(view.getBigUint64(0), BigInt(value));
    }),
  );
});

test("the kinds of headers are distinct", () => {
  equal(new Set(Object.values(HEADERS)).size, 3);
});
