// SPDX-License-Identifier: Apache-2.0
//
// What a key protects, and what every single flipped bit of a document must not do.

import { deepEqual, equal, notDeepEqual, ok, throws } from "node:assert/strict";
import { createHash, createHmac, hkdfSync } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { type DocumentName, documentId, openDocument, sealDocument } from "./document.ts";
import { CONTENT_ID_BYTES, KeySealer, type Piece, PLAIN_SEALER, type Sealer } from "./sealing.ts";
import { isWrappedKey, parseKeyFile, unwrapKey, wrapNewKey } from "./target-key.ts";

const keyed = new KeySealer(new Uint8Array(32).fill(7));
const otherKey = new KeySealer(new Uint8Array(32).fill(8));
const SEALERS: readonly Sealer[] = [PLAIN_SEALER, keyed];
const nonce = new Uint8Array(16).fill(3);
const piece: Piece = { kind: "pack", nonce, ordinal: 5 };
const random = new SimRandom(new Prng(1));
const repositoryId = "00".repeat(16);

test("a keyed id is the HMAC of the block", () => {
  const derived = hkdfSync(
    "sha256",
    new Uint8Array(32).fill(7),
    "",
    "varve backup: content ids",
    32,
  );
  const id = new Uint8Array(CONTENT_ID_BYTES);
  for (const fill of [0, 1, 255]) {
    const block = new Uint8Array(4096).fill(fill);
    keyed.contentId(block, id, 0);
    const expected = createHmac("sha256", new Uint8Array(derived)).update(block).digest();
    deepEqual([...id], [...expected.subarray(0, CONTENT_ID_BYTES)]);
  }
});

test("a sealed piece opens as what it was, and costs the overhead that is announced", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 5000 }), fc.nat(0xffffffff), (bytes, ordinal) => {
      for (const sealer of SEALERS) {
        const stored = sealer.seal({ ...piece, ordinal }, bytes);
        equal(stored.length, bytes.length + sealer.overheadBytes);
        deepEqual([...(sealer.open({ ...piece, ordinal }, stored) ?? [])], [...bytes]);
      }
    }),
  );
});

test("a sealed piece doesn't open in another place, under another key, or changed", () => {
  const stored = keyed.seal(piece, Buffer.from("content"));
  const elsewhere: Piece[] = [
    { ...piece, ordinal: 6 },
    { ...piece, kind: "run" },
    { ...piece, nonce: new Uint8Array(16) },
    { ...piece, name: "x" },
  ];
  for (const place of elsewhere) equal(keyed.open(place, stored), undefined);
  equal(otherKey.open(piece, stored), undefined);
  for (let bit = 0; bit < stored.length * 8; bit += 1) {
    const damaged = Uint8Array.from(stored);
    damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
    equal(keyed.open(piece, damaged), undefined);
  }
  for (let length = 0; length < stored.length; length += 1)
    equal(keyed.open(piece, stored.subarray(0, length)), undefined);
});

test("a sealed piece shows nothing of its content: equal pieces of two objects differ", () => {
  const bytes = new Uint8Array(64);
  notDeepEqual(keyed.seal(piece, bytes), keyed.seal({ ...piece, ordinal: 6 }, bytes));
  notDeepEqual(
    keyed.seal(piece, bytes),
    keyed.seal({ ...piece, nonce: new Uint8Array(16) }, bytes),
  );
});

test("a content id is the hash of the block, or with a key one that only the key can make", () => {
  const block = new Uint8Array(4096).fill(9);
  const ids = [PLAIN_SEALER, keyed, otherKey].map((sealer) => {
    const target = new Uint8Array(CONTENT_ID_BYTES + 6);
    sealer.contentId(block, target, 3);
    deepEqual([...target.subarray(0, 3), ...target.subarray(27)], [0, 0, 0, 0, 0, 0]);
    return Buffer.from(target.subarray(3, 27)).toString("hex");
  });
  equal(ids[0], createHash("sha256").update(block).digest("hex").slice(0, 48));
  equal(new Set(ids).size, 3);
});

const DOCUMENT: DocumentName = { kind: "point", name: "points/one" };

test("a document opens as what it was, and only as what it is", () => {
  for (const sealer of SEALERS) {
    const stored = Buffer.concat(sealDocument({ ...DOCUMENT, sealer, random }, Buffer.from("{}")));
    equal(Buffer.from(openDocument({ ...DOCUMENT, sealer }, stored)).toString(), "{}");
    match32(documentId(stored));
    for (const wrong of [{ kind: "session" }, { name: "points/two" }] as const)
      throws(() => openDocument({ ...DOCUMENT, ...wrong, sealer }, stored), isCorrupt);
    for (const other of [PLAIN_SEALER, otherKey, keyed])
      if (other !== sealer)
        throws(() => openDocument({ ...DOCUMENT, sealer: other }, stored), isCorrupt);
  }
});

test("no changed, cut or lengthened document opens, and none breaks an invariant", () => {
  for (const sealer of SEALERS) {
    const body = Buffer.from('{"points":[]}');
    const stored = Buffer.concat(sealDocument({ ...DOCUMENT, sealer, random }, body));
    const refused = (bytes: Uint8Array): void =>
      throws(() => openDocument({ ...DOCUMENT, sealer }, bytes), isRefusal);
    for (let bit = 0; bit < stored.length * 8; bit += 1) {
      const damaged = Buffer.from(stored);
      damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
      refused(damaged);
    }
    for (let length = 0; length < stored.length; length += 1) refused(stored.subarray(0, length));
    refused(Buffer.concat([stored, Buffer.from([0])]));
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), refused));
  }
});

test("a repository key comes back with the key that it was wrapped with, and with no other", () => {
  const file = parseKeyFile(new Uint8Array(32).fill(1));
  const wrapped = wrapNewKey(file, { repositoryId, random });
  ok(isWrappedKey(JSON.parse(JSON.stringify(wrapped))));
  equal(unwrapKey(file, { repositoryId, wrapped }).length, 32);
  const wrong = (error: unknown): boolean => hasCode(error, "TARGET_KEY_WRONG");
  const other = parseKeyFile(new Uint8Array(32).fill(2));
  throws(() => unwrapKey(other, { repositoryId, wrapped }), wrong);
  throws(() => unwrapKey(file, { repositoryId: "11".repeat(16), wrapped }), wrong);
  throws(
    () => unwrapKey({ from: "passphrase", text: "x" }, { repositoryId, wrapped }),
    /made with a key-file, not with a passphrase/,
  );
});

test("a passphrase unwraps, however its letters are composed", () => {
  const wrapped = wrapNewKey({ from: "passphrase", text: "caf\u00e9" }, { repositoryId, random });
  ok(isWrappedKey(wrapped));
  equal(
    unwrapKey({ from: "passphrase", text: "cafe\u0301" }, { repositoryId, wrapped }).length,
    32,
  );
});

test("a descriptor can't ask for more memory or time than is bounded", () => {
  const wrapped = wrapNewKey({ from: "passphrase", text: "x" }, { repositoryId, random });
  const scrypt = wrapped.scrypt!;
  ok(isWrappedKey(wrapped));
  for (const wrong of [
    { logCost: 30 },
    { logCost: 9 },
    { logCost: 20, blockSize: 1000 },
    { blockSize: 0 },
    { parallel: 17 },
    { parallel: 0 },
    { logCost: 17.5 },
    { salt: "" },
    { salt: "zz".repeat(16) },
  ])
    ok(!isWrappedKey({ ...wrapped, scrypt: { ...scrypt, ...wrong } }), JSON.stringify(wrong));
  for (const wrong of [null, 1, {}, { ...wrapped, cipher: "none" }, { ...wrapped, from: "x" }])
    ok(!isWrappedKey(wrong));
  ok(!isWrappedKey({ ...wrapped, wrappedKey: wrapped.wrappedKey.slice(2) }));
});

test("a key file is 32 bytes, or 64 hexadecimal digits", () => {
  const bytes = new Uint8Array(32).map((_, index) => index);
  const hex = Buffer.from(bytes).toString("hex");
  for (const text of [hex, `${hex}\n`, `  ${hex.toUpperCase()}\r\n`])
    deepEqual([...keyBytes(Buffer.from(text))], [...bytes]);
  for (const wrong of ["", "short", hex.slice(1), `${hex}00`])
    throws(
      () => parseKeyFile(Buffer.from(wrong)),
      (error) => hasCode(error, "TARGET_KEY_WRONG"),
    );
});

function keyBytes(file: Uint8Array): Uint8Array {
  const key = parseKeyFile(file);
  return key.from === "key-file" ? key.bytes : new Uint8Array(0);
}

function match32(id: string | undefined): void {
  ok(id !== undefined && /^[0-9a-f]{32}$/.test(id));
}

function isCorrupt(error: unknown): boolean {
  return hasCode(error, "TARGET_CORRUPT");
}

function isRefusal(error: unknown): boolean {
  return isCorrupt(error) || hasCode(error, "FORMAT_UNSUPPORTED");
}
