// SPDX-License-Identifier: Apache-2.0
//
// The block kernel against a slow second implementation of XXH64 and published vectors, its frames against every
// flipped bit, and the shape of the memory against its budget.

import { deepEqual, equal, notEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../sim/prng.ts";
import {
  BLOCK_BYTES,
  BlockMemory,
  FRAME_HEADER_BYTES,
  RAW_FRAME_BYTES,
  shapeOf,
} from "./block-memory.ts";
import {
  preparedBytes,
  preparedContentOf,
  preparedHashesOf,
  preparedSizesOf,
} from "./prepared-blocks.ts";

const memory = new BlockMemory(shapeOf(24 << 20));
const at = memory.slotsAddress;
const MASK = (1n << 64n) - 1n;
const PRIMES: readonly bigint[] = [
  0x9e3779b185ebca87n,
  0xc2b2ae3d27d4eb4fn,
  0x165667b19e3779f9n,
  0x85ebca77c2b2ae63n,
  0x27d4eb2f165667c5n,
];
const [P1, P2, P3, P4, P5] = PRIMES as [bigint, bigint, bigint, bigint, bigint];

function rotate(value: bigint, bits: bigint): bigint {
  return ((value << bits) | (value >> (64n - bits))) & MASK;
}

function round(lane: bigint, value: bigint): bigint {
  return (rotate((lane + value * P2) & MASK, 31n) * P1) & MASK;
}

/** XXH64 with seed 0, as its specification says it, one step after the other. */
function slowHash(bytes: Uint8Array): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let from = 0;
  let hash = P5;
  if (bytes.length >= 32) {
    const lanes = [(P1 + P2) & MASK, P2, 0n, -P1 & MASK];
    for (; from + 32 <= bytes.length; from += 32)
      lanes.forEach((lane, index) => {
        lanes[index] = round(lane, view.getBigUint64(from + index * 8, true));
      });
    hash = lanes.reduce(
      (sum, lane, index) => (sum + rotate(lane, [1n, 7n, 12n, 18n][index] as bigint)) & MASK,
      0n,
    );
    for (const lane of lanes) hash = ((hash ^ round(0n, lane)) * P1 + P4) & MASK;
  }
  hash = (hash + BigInt(bytes.length)) & MASK;
  for (; from + 8 <= bytes.length; from += 8)
    hash = (rotate(hash ^ round(0n, view.getBigUint64(from, true)), 27n) * P1 + P4) & MASK;
  if (from + 4 <= bytes.length) {
    hash =
      (rotate(hash ^ ((BigInt(view.getUint32(from, true)) * P1) & MASK), 23n) * P2 + P3) & MASK;
    from += 4;
  }
  for (; from < bytes.length; from++)
    hash = (rotate(hash ^ ((BigInt(bytes[from] as number) * P5) & MASK), 11n) * P1) & MASK;
  hash = ((hash ^ (hash >> 33n)) * P2) & MASK;
  hash = ((hash ^ (hash >> 29n)) * P3) & MASK;
  return hash ^ (hash >> 32n);
}

function hashOf(bytes: Uint8Array): bigint {
  memory.bytes.set(bytes, at);
  return memory.hash(at, bytes.length);
}

function noiseAt(address: number, lengthBytes: number, seed: number): void {
  const prng = new Prng(seed);
  for (let index = 0; index < lengthBytes; index++) memory.bytes[address + index] = prng.word();
}

test("checksums are XXH64 as published", () => {
  const text = new TextEncoder();
  for (const [input, hash] of [
    ["", 0xef46db3751d8e999n],
    ["a", 0xd24ec4f1a98c6e5bn],
    ["abc", 0x44bc2cf5ad770999n],
    ["xxhash", 0x32dd38952c4bc720n],
    ["Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1n],
  ] as const)
    equal(hashOf(text.encode(input)), hash, input);
});

test("checksums of all lengths agree with a second implementation, at any address", () => {
  const prng = new Prng(7);
  for (let length = 0; length <= 300; length++) {
    const bytes = Uint8Array.from({ length }, () => prng.word());
    equal(hashOf(bytes), slowHash(bytes), `${length} bytes`);
    memory.bytes.set(bytes, at + 3);
    equal(memory.hash(at + 3, length), slowHash(bytes), `${length} bytes, not aligned`);
  }
  const block = Uint8Array.from({ length: BLOCK_BYTES }, () => prng.word());
  equal(hashOf(block), slowHash(block));
});

const SEGMENT = 0x80000001;
const OFFSET8 = 0xabcdef;

interface Packed {
  readonly frameCount: number;
  readonly sharedCount: number;
  readonly frameBytes: number;
  readonly target: number;
  readonly references: number;
  readonly table: number;
}

/** Examines and packs what lies at `at` and returns how many frames that gave; they lie behind it. */
function pack(
  blockCount: number,
  options = { isShared: false, compressEvery: 0 },
  piece = 0,
): Packed {
  const target = at + 32 * BLOCK_BYTES;
  const references = at + 50 * BLOCK_BYTES;
  const table = references + 1024;
  const hashes = table + 1024;
  const result = hashes + 1024;
  const { kernel } = memory;
  if (piece === 0) kernel.examineBlocks(at, blockCount, hashes, references);
  else {
    const [from, sizes] = [preparedHashesOf(piece), preparedSizesOf(piece)];
    kernel.examinePrepared(from, sizes, blockCount, hashes, references);
  }
  const frameBytes = memory.kernel.packBlocks(
    at,
    blockCount,
    target,
    SEGMENT,
    OFFSET8,
    hashes,
    references,
    table,
    options.isShared ? 1 : 0,
    options.compressEvery,
    piece === 0 ? 0 : preparedSizesOf(piece),
    piece === 0 ? 0 : preparedContentOf(piece),
    result,
  );
  const frameCount = memory.view.getUint32(result, true);
  const sharedCount = memory.view.getUint32(result + 4, true);
  return { frameCount, sharedCount, frameBytes, target, references, table };
}

/** Zeros, noise, what shrinks, and equals of them, by chance. */
function mixedAt(address: number, blockCount: number, seed: number): void {
  const prng = new Prng(seed);
  for (let block = 0; block < blockCount; block++) {
    const target = address + block * BLOCK_BYTES;
    const kind = prng.below(4);
    memory.bytes.fill(0, target, target + BLOCK_BYTES);
    if (kind === 1) noiseAt(target, BLOCK_BYTES, prng.below(3));
    else if (kind > 1) noiseAt(target, 1 + prng.below(BLOCK_BYTES), prng.below(3));
  }
}

test("blocks that were prepared, or only hashed, are packed byte for byte as those that weren't", () => {
  const blockCount = 16;
  const piece = memory.prepared.allocate(preparedBytes(blockCount));
  const prepare = (compressEvery: number): void =>
    memory.kernel.prepareBlocks(
      at,
      blockCount,
      preparedHashesOf(piece),
      preparedSizesOf(piece),
      preparedContentOf(piece),
      compressEvery,
      at + 55 * BLOCK_BYTES,
    );
  for (let seed = 0; seed < 200; seed++) {
    mixedAt(at, blockCount, seed);
    const options = { isShared: seed % 2 === 1, compressEvery: seed % 3 };
    const packed = pack(blockCount, options);
    const inLine = memory.bytes.slice(packed.target, packed.target + packed.frameBytes);
    for (const compressEvery of [0, options.compressEvery]) {
      prepare(compressEvery);
      memory.bytes.fill(0, packed.target, packed.target + packed.frameBytes);
      const prepared = pack(blockCount, options, piece);
      // Of equals every one is tried ahead, in line only the first: then every second one is another one.
      if (compressEvery < 2) {
        deepEqual(prepared, packed, `seed ${seed}`);
        const ahead = memory.bytes.slice(prepared.target, prepared.target + packed.frameBytes);
        deepEqual(ahead, inLine);
      }
      for (let block = 0; block < blockCount; block++) {
        const low = memory.view.getUint32(prepared.references + block * 8 + 4, true);
        if (low >>> 30 !== 1) continue;
        const offset8 = (low & 0x3fffffff) >>> 6;
        const frame = prepared.target + (offset8 - (OFFSET8 & 0xffffff)) * 8;
        const opened = at + 60 * BLOCK_BYTES;
        equal(memory.kernel.openFrame(frame, RAW_FRAME_BYTES, SEGMENT, offset8, opened), 0);
        equal(memory.kernel.compareBlocks(opened, at + block * BLOCK_BYTES), 1, `seed ${seed}`);
      }
    }
  }
  memory.prepared.release(piece);
});

test("packed blocks are opened again, zero blocks become no frame, and rows tell of each frame", () => {
  for (let blockCount = 0; blockCount <= 8; blockCount++) {
    for (let zeros = 0; zeros < 2 ** blockCount; zeros += 1 + (zeros % 3)) {
      noiseAt(at, blockCount * BLOCK_BYTES, zeros);
      for (let block = 0; block < blockCount; block++)
        if ((zeros >> block) % 2 === 1)
          memory.bytes.fill(0, at + block * BLOCK_BYTES, at + (block + 1) * BLOCK_BYTES);
      const { frameCount, target, references, table } = pack(blockCount);
      let frame = 0;
      for (let block = 0; block < blockCount; block++) {
        const segment = memory.view.getUint32(references + block * 8, true);
        const low = memory.view.getUint32(references + block * 8 + 4, true);
        if ((zeros >> block) % 2 === 1) {
          deepEqual([segment, low], [0, 0x80000000]);
          continue;
        }
        const offset8 = OFFSET8 + (frame * RAW_FRAME_BYTES) / 8;
        deepEqual([segment, low], [SEGMENT, (0x40000000 | (offset8 << 6)) >>> 0]);
        equal(memory.view.getUint32(table + frame * 16, true), offset8);
        equal(memory.view.getUint32(table + frame * 16 + 4, true), BLOCK_BYTES);
        const opened = at + 60 * BLOCK_BYTES;
        const place = target + frame * RAW_FRAME_BYTES;
        equal(
          memory.view.getBigUint64(table + frame * 16 + 8, true),
          memory.view.getBigUint64(place, true),
        );
        equal(memory.kernel.openFrame(place, RAW_FRAME_BYTES, SEGMENT, offset8, opened), 0);
        const source = memory.bytes.subarray(
          at + block * BLOCK_BYTES,
          at + (block + 1) * BLOCK_BYTES,
        );
        equal(Buffer.compare(memory.bytes.subarray(opened, opened + BLOCK_BYTES), source), 0);
        frame += 1;
      }
      equal(frameCount, frame);
    }
  }
});

test("a block with a single bit anywhere is no zero block", () => {
  memory.bytes.fill(0, at, at + BLOCK_BYTES);
  equal(pack(1).frameCount, 0);
  for (let place = 0; place < BLOCK_BYTES; place++) {
    memory.bytes[at + place] = 1 << (place % 8);
    equal(pack(1).frameCount, 1, `byte ${place}`);
    memory.bytes[at + place] = 0;
  }
});

test("every flipped bit of a frame is refused, and nothing is copied", () => {
  noiseAt(at, BLOCK_BYTES, 3);
  const { target } = pack(1);
  const opened = at + 60 * BLOCK_BYTES;
  memory.bytes.fill(0x5a, opened, opened + BLOCK_BYTES);
  for (let place = 0; place < RAW_FRAME_BYTES; place++) {
    // All bits of the header, one of each byte of the content.
    for (let bit = 0; bit < 8; bit += place < FRAME_HEADER_BYTES ? 1 : 8) {
      const flip = 1 << (place < FRAME_HEADER_BYTES ? bit : place % 8);
      memory.bytes[target + place] = (memory.bytes[target + place] as number) ^ flip;
      notEqual(
        memory.kernel.openFrame(target, RAW_FRAME_BYTES, SEGMENT, OFFSET8, opened),
        0,
        `byte ${place}, bit ${flip}`,
      );
      memory.bytes[target + place] = (memory.bytes[target + place] as number) ^ flip;
    }
  }
  ok(memory.bytes.subarray(opened, opened + BLOCK_BYTES).every((byte) => byte === 0x5a));
  equal(memory.kernel.openFrame(target, RAW_FRAME_BYTES, SEGMENT, OFFSET8, 0), 0);
});

test("a frame that is cut off, or another one, is refused by its own reason", () => {
  noiseAt(at, BLOCK_BYTES, 4);
  const { target } = pack(1);
  for (const available of [0, 23, 24, RAW_FRAME_BYTES - 1])
    notEqual(
      memory.kernel.openFrame(target, available, SEGMENT, OFFSET8, 0),
      0,
      `${available} bytes`,
    );
  equal(memory.kernel.openFrame(target, RAW_FRAME_BYTES, SEGMENT + 1, OFFSET8, 0), 2);
  equal(memory.kernel.openFrame(target, RAW_FRAME_BYTES, SEGMENT, OFFSET8 + 1, 0), 2);
  memory.bytes[target + 20] = 1;
  equal(memory.kernel.openFrame(target, RAW_FRAME_BYTES, SEGMENT, OFFSET8, 0), 3);
});

test("the memory of any budget fits it, from 64 MiB to 4 GiB", () => {
  for (let megabytes = 64; megabytes <= 4096; megabytes += 32) {
    const shape = shapeOf(megabytes * (1 << 20));
    const total =
      shape.clientBytes +
      shape.stagingBytes +
      shape.operationBytes +
      shape.readBytes +
      shape.batchBufferCount * (2 << 20) +
      shape.deltaCount * 16 +
      shape.slotCount * BLOCK_BYTES;
    ok(total <= megabytes * (1 << 20), `${megabytes} MiB: ${total >> 20} MiB`);
    ok(total <= 2 ** 32 - (8 << 20), "WebAssembly's limit");
    equal(Math.log2(shape.deltaCount) % 1, 0);
    ok(shape.slotCount >= 64);
  }
});
