// SPDX-License-Identifier: Apache-2.0
//
// A descriptor proves itself, bounds what it asks for, and is put by one of many makers.

import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { hash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { type ErrorCode, hasCode } from "../base/errors.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { DESCRIPTOR_NAME, decodeDescriptor, encodeDescriptor } from "./descriptor.ts";
import { openOrMakeTarget, openTarget, type TargetOptions } from "./target.ts";
import { parseKeyFile } from "./target-key.ts";

const clock = {
  wallMicros: () => 5_000_000,
  monotoneMicros: () => 0,
  after: (_delayMs: number, callback: () => void) => {
    callback();
    return () => {};
  },
  afterInput: (callback: () => void) => callback(),
};
const random = new SimRandom(new Prng(3));
const key = parseKeyFile(new Uint8Array(32).fill(1));
const descriptor = { repositoryId: "ab".repeat(16), createdMicros: 5, encryption: "none" } as const;
const has = (code: ErrorCode) => (error: unknown) => hasCode(error, code);

function at(bucket: MemoryBucket): TargetOptions {
  return { store: new MemoryObjectStore(bucket), clock, random };
}

test("a descriptor is read back as it was written", () => {
  deepEqual(decodeDescriptor(encodeDescriptor(descriptor)), descriptor);
});

test("no changed byte of a descriptor goes unnoticed but in its spaces", () => {
  const bytes = encodeDescriptor(descriptor);
  for (let index = 0; index < bytes.length; index += 1) {
    for (const flip of [1, 4, 32]) {
      const damaged = Uint8Array.from(bytes);
      damaged[index] = damaged[index]! ^ flip;
      if (/\s/.test(String.fromCharCode(bytes[index]!))) continue;
      throws(() => decodeDescriptor(damaged), isRefusal, `byte ${index} ^ ${flip}`);
    }
  }
});

test("whatever a descriptor says, it is refused and not obeyed", () => {
  for (const text of ["", "{}", "[]", "null", "1", "{", `{"format":"varve-pool"}`])
    throws(() => decodeDescriptor(Buffer.from(text)), isRefusal, text);
  throws(() => decodeDescriptor(new Uint8Array(100_000)), has("TARGET_CORRUPT"));
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      throws(() => decodeDescriptor(bytes), isRefusal);
    }),
  );
  fc.assert(
    fc.property(fc.json(), (text) => {
      throws(() => decodeDescriptor(Buffer.from(text)), isRefusal);
    }),
  );
});

test("a newer version, and what must be understood and isn't, are refused as such", () => {
  const body = JSON.parse(Buffer.from(encodeDescriptor(descriptor)).toString());
  const resealed = (change: object): Uint8Array => {
    const { check: _, ...rest } = { ...body, ...change };
    const text = JSON.stringify(rest);
    const check = hash("sha256", text, "hex").slice(0, 32);
    return Buffer.from(JSON.stringify({ ...rest, check }));
  };
  throws(() => decodeDescriptor(resealed({ formatVersion: 2 })), has("FORMAT_UNSUPPORTED"));
  throws(() => decodeDescriptor(resealed({ requires: ["tape"] })), /needs tape/);
  throws(() => decodeDescriptor(resealed({ repositoryId: "x" })), has("TARGET_CORRUPT"));
  throws(() => decodeDescriptor(resealed({ encryption: { cipher: "rot13" } })), isRefusal);
  throws(() => decodeDescriptor(resealed({ requires: 1 })), has("TARGET_CORRUPT"));
});

test("of makers at once one wins and the others use what it made", async () => {
  const bucket = new MemoryBucket();
  const made = await Promise.all([0, 1, 2, 3].map(() => openOrMakeTarget(at(bucket))));
  equal(new Set(made.map((target) => target.descriptor.repositoryId)).size, 1);
  for (const { catalog } of made) equal((await catalog.read()).generation, 1);
});

test("a target without a descriptor isn't one, and one whose maker died is made to its end", async () => {
  const bucket = new MemoryBucket();
  await rejects(openTarget(at(bucket)), has("TARGET_NOT_FOUND"));
  bucket.objects.set(DESCRIPTOR_NAME, encodeDescriptor(descriptor));
  equal((await (await openTarget(at(bucket))).catalog.read()).generation, 1);
  bucket.objects.set(DESCRIPTOR_NAME, Buffer.from('{"format":"something else"}'));
  await rejects(openTarget(at(bucket)), has("NOT_A_TARGET"));
});

test("a place that holds other things isn't made a target", async () => {
  const bucket = new MemoryBucket();
  bucket.objects.set("letters/2026", new Uint8Array(3));
  await rejects(
    openOrMakeTarget(at(bucket)),
    /not made: it holds other things \("letters\/2026"\)/,
  );
  equal(bucket.objects.size, 1);
});

test("an encrypted target opens with its key, and says at once when it is another", async () => {
  const bucket = new MemoryBucket();
  await openOrMakeTarget({ ...at(bucket), key });
  ok((await openTarget({ ...at(bucket), key })).sealer.isEncrypted);
  await rejects(openTarget(at(bucket)), /it is encrypted with a key-file/);
  const other = parseKeyFile(new Uint8Array(32).fill(2));
  await rejects(openOrMakeTarget({ ...at(bucket), key: other }), has("TARGET_KEY_WRONG"));
  const plain = new MemoryBucket();
  await openOrMakeTarget(at(plain));
  await rejects(openTarget({ ...at(plain), key }), /it isn't encrypted, and a key was given/);
});

function isRefusal(error: unknown): boolean {
  const codes: ErrorCode[] = ["TARGET_CORRUPT", "NOT_A_TARGET", "FORMAT_UNSUPPORTED"];
  return codes.some((code) => hasCode(error, code));
}
