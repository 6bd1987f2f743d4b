// SPDX-License-Identifier: Apache-2.0
//
// LZ4 in the block kernel against a slow second decoder, which follows the format's description byte by
// byte. Whatever lies at the end of the memory traps when it is read beyond its end; whatever lies
// elsewhere has marks around it. Streams of other encoders are made of sequences drawn at random, and
// hostile ones by damaging good ones: for each the kernel has to say what the slow decoder says.

import { deepEqual, equal, ok } from "node:assert/strict";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { Prng } from "../sim/prng.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "./block-memory.ts";

const { kernel, bytes, slotsAddress } = new BlockMemory(shapeOf(24 << 20));
const MEMORY_END = bytes.length;
const TABLE_BYTES = 8192;
/** A block of noise: token, 17 more of its count, and itself. */
const COMPRESSED_MAX = 1 + 17 + BLOCK_BYTES;
const MARK = 0xa5;
const MARGIN = 64;

/** Calls with a place for `lengthBytes`, and looks whether anything was written around it. */
function guarded<T>(address: number, lengthBytes: number, call: () => T): T {
  const margins = [
    bytes.subarray(address - MARGIN, address),
    bytes.subarray(address + lengthBytes, address + lengthBytes + MARGIN),
  ];
  for (const margin of margins) margin.fill(MARK);
  const result = call();
  for (const margin of margins)
    if (margin.some((byte) => byte !== MARK)) throw new Error("written outside of the range");
  return result;
}

const garbage = new Prng(9);

/** The block's LZ4 form; none if it is longer than the limit. */
function compress(block: Uint8Array, limitBytes = COMPRESSED_MAX): Uint8Array | undefined {
  const source = MEMORY_END - BLOCK_BYTES;
  const target = slotsAddress + MARGIN;
  const table = slotsAddress + 3 * BLOCK_BYTES;
  bytes.set(block, source);
  bytes.fill(garbage.below(256), table, table + TABLE_BYTES);
  const lengthBytes = guarded(target, limitBytes, () =>
    guarded(table, TABLE_BYTES, () => kernel.compressBlock(source, target, limitBytes, table)),
  );
  ok(lengthBytes <= limitBytes);
  return lengthBytes === 0 ? undefined : bytes.slice(target, target + lengthBytes);
}

/** What the kernel makes of a stream, wherever it lies; none if it refuses it. */
function decompress(stream: Uint8Array, targetBytes = BLOCK_BYTES): Uint8Array | undefined {
  const middle = slotsAddress + MARGIN;
  const places = [
    { source: MEMORY_END - stream.length, target: middle },
    { source: middle, target: MEMORY_END - targetBytes },
  ];
  const [first, second] = places.map(({ source, target }) => {
    bytes.set(stream, source);
    const isValid = guarded(target, targetBytes, () =>
      kernel.decompressBlock(source, stream.length, target, targetBytes),
    );
    return isValid ? bytes.slice(target, target + targetBytes) : undefined;
  });
  ok(isSame(first, second), "it makes the same of a stream wherever that lies");
  return first;
}

/** The format as its description says it, one byte after the other. */
function slowDecompress(stream: Uint8Array, targetBytes = BLOCK_BYTES): Uint8Array | undefined {
  const out: number[] = [];
  let at = 0;
  const fullCount = (half: number): number => {
    let count = half;
    let more = half === 15 ? 255 : 0;
    while (more === 255) {
      more = stream[at++] ?? Number.NaN;
      count += more;
    }
    return count;
  };
  while (at < stream.length) {
    const token = stream[at++]!;
    const literalCount = fullCount(token >> 4);
    if (!(at + literalCount <= stream.length && out.length + literalCount <= targetBytes)) return;
    for (let index = 0; index < literalCount; index++) out.push(stream[at++]!);
    if (at === stream.length) return out.length === targetBytes ? Uint8Array.from(out) : undefined;
    if (at + 2 > stream.length) return;
    const offset = stream[at]! + 256 * stream[at + 1]!;
    at += 2;
    const matchBytes = 4 + fullCount(token & 15);
    if (offset === 0 || offset > out.length || !(out.length + matchBytes <= targetBytes)) return;
    for (let index = 0; index < matchBytes; index++) out.push(out[out.length - offset]!);
  }
  return;
}

/** Where the last match begins and ends in the block. */
function lastMatch(stream: Uint8Array): { start: number; end: number } {
  let match = { start: 0, end: 0 };
  let length = 0;
  for (let at = 0; at < stream.length; ) {
    const token = stream[at++]!;
    let literalCount = token >> 4;
    if (literalCount === 15) while (stream[at++] === 255) literalCount += 255;
    if (token >> 4 === 15) literalCount += stream[at - 1]!;
    at += literalCount;
    length += literalCount;
    if (at >= stream.length) break;
    at += 2;
    let matchBytes = 4 + (token & 15);
    if ((token & 15) === 15) {
      while (stream[at++] === 255) matchBytes += 255;
      matchBytes += stream[at - 1]!;
    }
    match = { start: length, end: length + matchBytes };
    length += matchBytes;
  }
  return match;
}

/** Fails unless the block comes back, in both decoders, and the stream keeps the rules for its end. */
function roundTrip(block: Uint8Array): Uint8Array {
  const stream = compress(block);
  ok(stream !== undefined, "every block fits into the longest form");
  ok(isSame(slowDecompress(stream), block), "the slow decoder gives the block");
  ok(isSame(decompress(stream), block), "the kernel gives the block");
  const { start, end } = lastMatch(stream);
  ok(end <= BLOCK_BYTES - 5, "the last five bytes are literals");
  ok(start <= BLOCK_BYTES - 12, "no match begins in the last twelve bytes");
  return stream;
}

function isSame(first: Uint8Array | undefined, second: Uint8Array | undefined): boolean {
  if (first === undefined || second === undefined) return first === second;
  return Buffer.compare(first, second) === 0;
}

function noise(lengthBytes: number, seed: number): Uint8Array {
  const prng = new Prng(seed);
  return Uint8Array.from({ length: lengthBytes }, () => prng.word());
}

/** Up to `countMax` whole blocks of a file, spread over it. */
function fileBlocks(path: string, countMax: number): Uint8Array[] {
  const file = readFileSync(path);
  const count = Math.min(countMax, Math.floor(file.length / BLOCK_BYTES));
  const stride = Math.floor(file.length / count);
  return Array.from({ length: count }, (_, index) =>
    Uint8Array.from(file.subarray(index * stride, index * stride + BLOCK_BYTES)),
  );
}

/** A block of runs: noise, one byte again and again, or what was `distance` bytes before. */
const mixedBlock: fc.Arbitrary<Uint8Array> = fc
  .array(
    fc.record({
      sort: fc.constantFrom("noise", "same", "again"),
      lengthBytes: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 600 })),
      distance: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 4000 })),
    }),
    { minLength: 1, maxLength: 60 },
  )
  .chain((runs) => fc.nat().map((seed) => blockOf(runs, new Prng(seed))));

interface Run {
  readonly sort: string;
  readonly lengthBytes: number;
  readonly distance: number;
}

function blockOf(runs: readonly Run[], prng: Prng): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES);
  for (let at = 0, index = 0; at < BLOCK_BYTES; index++) {
    const { sort, lengthBytes, distance } = runs[index % runs.length]!;
    const end = Math.min(BLOCK_BYTES, at + lengthBytes);
    if (sort === "same") block.fill(distance, at, end);
    for (; at < end; at++) {
      if (sort === "noise") block[at] = prng.word();
      if (sort === "again") block[at] = block[at - distance] ?? 0;
    }
  }
  return block;
}

/** A stream that any encoder may have written, and what it stands for. */
const otherStream: fc.Arbitrary<{ stream: Uint8Array; block: Uint8Array }> = fc
  .array(
    fc.record({
      literals: fc.oneof(fc.uint8Array({ maxLength: 20 }), fc.uint8Array({ maxLength: 700 })),
      offset: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 5000 })),
      matchBytes: fc.oneof(fc.integer({ min: 4, max: 25 }), fc.integer({ min: 4, max: 1000 })),
    }),
    { maxLength: 40 },
  )
  .map((sequences) => {
    const stream: number[] = [];
    const out: number[] = [];
    const more = (count: number): void => {
      for (let rest = count - 15; rest >= 0; rest -= 255) stream.push(Math.min(rest, 255));
    };
    for (const { literals, offset, matchBytes } of sequences) {
      if (out.length + literals.length === 0) continue;
      stream.push(Math.min(literals.length, 15) * 16 + Math.min(matchBytes - 4, 15));
      more(literals.length);
      for (const literal of literals) stream.push(literal);
      for (const literal of literals) out.push(literal);
      const near = Math.min(offset, out.length);
      stream.push(near % 256, near >> 8);
      more(matchBytes - 4);
      for (let index = 0; index < matchBytes; index++) out.push(out[out.length - near]!);
    }
    stream.push(0x50, 1, 2, 3, 4, 5);
    return { stream: Uint8Array.from(stream), block: Uint8Array.of(...out, 1, 2, 3, 4, 5) };
  });

test("a block of noise, of runs and of repetitions comes back", () => {
  fc.assert(fc.property(mixedBlock, (block) => void roundTrip(block)));
});

test("a pattern of 1 to 24 bytes comes back, wherever it breaks off near the end", () => {
  for (let period = 1; period <= 24; period++)
    for (let restBytes = 0; restBytes <= 40; restBytes += 1 + (period % 3)) {
      const block = noise(BLOCK_BYTES, period);
      for (let at = period; at < BLOCK_BYTES - restBytes; at++) block[at] = block[at - period]!;
      ok(roundTrip(block).length < 2 * period + 2 * restBytes + 60);
    }
});

test("noise that ends anywhere in zeros comes back, and so does a single byte", () => {
  const all = noise(BLOCK_BYTES, 1);
  for (let count = 0; count <= BLOCK_BYTES; count += count < 600 ? 1 : 13) {
    const half = new Uint8Array(BLOCK_BYTES);
    half.set(all.subarray(0, count));
    const { length } = roundTrip(half);
    ok(count > 4000 || length < count + 100, `${count} bytes of noise became ${length}`);
    const single = new Uint8Array(BLOCK_BYTES);
    single[(count * 7) % BLOCK_BYTES] = 1;
    ok(roundTrip(single).length < 64);
  }
});

test("real text and real machine code come back, and shrink", () => {
  const text = fileBlocks(fileURLToPath(import.meta.resolve("fast-check")), 40);
  const textBytes = text.reduce((sum, block) => sum + roundTrip(block).length, 0);
  ok(textBytes < 0.5 * text.length * BLOCK_BYTES, `text: ${textBytes / text.length} bytes a block`);
  const code = machineCode(100);
  const codeBytes = code.reduce((sum, block) => sum + roundTrip(block).length, 0);
  ok(codeBytes < 0.8 * code.length * BLOCK_BYTES, `code: ${codeBytes / code.length} bytes a block`);
});

/** Blocks from the middle of the running program, of which there are some hundred megabytes. */
function machineCode(count: number): Uint8Array[] {
  const program = openSync(process.execPath, "r");
  const blocks = Array.from({ length: count }, (_, index) => {
    const block = new Uint8Array(BLOCK_BYTES);
    readSync(program, block, { position: (index * 150 + 5000) * BLOCK_BYTES });
    return block;
  });
  closeSync(program);
  return blocks;
}

test("a limit changes nothing but whether the block fits, and nothing is written beyond it", () => {
  const checkLimit = (block: Uint8Array, whole: Uint8Array, limitBytes: number): void => {
    const expected = limitBytes < whole.length ? undefined : whole;
    ok(isSame(compress(block, limitBytes), expected), `limit ${limitBytes} of ${whole.length}`);
  };
  for (const block of machineCode(6)) {
    const whole = roundTrip(block);
    for (let limit = 0; limit <= whole.length + 40; limit++) checkLimit(block, whole, limit);
  }
  const property = fc.property(mixedBlock, fc.nat({ max: COMPRESSED_MAX }), (block, limit) => {
    const whole = roundTrip(block);
    checkLimit(block, whole, limit);
    checkLimit(block, whole, whole.length - 1);
    checkLimit(block, whole, whole.length);
  });
  fc.assert(property, { numRuns: 60 });
});

test("noise is refused where it has to shrink, and takes no more than the longest form where not", () => {
  for (let seed = 0; seed < 50; seed++) {
    const block = noise(BLOCK_BYTES, seed);
    equal(compress(block, BLOCK_BYTES - 1), undefined);
    ok(roundTrip(block).length <= COMPRESSED_MAX);
  }
});

test("what another encoder wrote is decompressed, in full and at its exact size only", () => {
  const property = fc.property(otherStream, ({ stream, block }) => {
    ok(isSame(slowDecompress(stream, block.length), block));
    ok(isSame(decompress(stream, block.length), block));
    equal(decompress(stream, block.length - 1), undefined);
    equal(decompress(stream, block.length + 1), undefined);
  });
  fc.assert(property, { numRuns: 200 });
});

test("the kernel and the slow decoder agree about damaged streams", () => {
  const prng = new Prng(11);
  const counts = { accepted: 0, refused: 0 };
  const sources = [...machineCode(20), ...fileBlocks(import.meta.filename, 3)].map(roundTrip);
  for (let round = 0; round < 3000; round++) {
    const stream = damage(prng.pick(sources), prng);
    const targetBytes = prng.below(8) === 0 ? prng.below(6000) : BLOCK_BYTES;
    const expected = slowDecompress(stream, targetBytes);
    ok(isSame(decompress(stream, targetBytes), expected), `round ${round}`);
    counts[expected === undefined ? "refused" : "accepted"] += 1;
  }
  ok(counts.accepted > 200 && counts.refused > 1000, JSON.stringify(counts));
});

/** Changes, cuts out or doubles some bytes; few, so that some of what comes out is still valid. */
function damage(stream: Uint8Array, prng: Prng): Uint8Array {
  const damaged = [...stream];
  for (let count = 1 + prng.below(3); count > 0; count--) {
    const at = prng.below(damaged.length);
    const sort = prng.below(8);
    if (sort === 0) damaged.length = at + 1;
    else if (sort === 1) damaged.splice(at, 1 + prng.below(3));
    else if (sort === 2) damaged.splice(at, 0, ...damaged.slice(at, at + prng.below(300)));
    else if (sort === 3) damaged[at] = 255;
    else if (sort === 4) damaged[at] = 0;
    else damaged[at] = prng.word() & 255;
  }
  return Uint8Array.from(damaged);
}

test("random bytes are decompressed as the slow decoder does it", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat({ max: 200 }), (stream, targetBytes) => {
      deepEqual(decompress(stream, targetBytes), slowDecompress(stream, targetBytes));
    }),
    { numRuns: 2000 },
  );
});

test("hostile streams are refused", () => {
  const endless = new Uint8Array(60_000).fill(255);
  const literals = [0x50, 1, 2, 3, 4, 5];
  const sevens = [0x1f, 7, 1, 0, ...Array(15).fill(255), 251, 0];
  const literalSevens = [0xf0, ...Array(16).fill(255), 1, ...Array(BLOCK_BYTES).fill(7)];
  const streams: Record<string, Iterable<number>> = {
    empty: [],
    "a count of literals without end": endless,
    "a count of literals beyond the stream": [0xf0, 200, 1, 2, 3],
    "a literal short of the block": literalSevens.toSpliced(17, 2, 0),
    "a literal beyond the block": literalSevens.toSpliced(17, 1, 2, 7),
    "more behind the block": [...literalSevens, 0],
    "a match without offset": [0x10, 7],
    "half an offset": [0x10, 7, 1],
    "an offset of 0": sevens.with(2, 0),
    "an offset before the block": sevens.with(2, 2),
    "the largest offset": sevens.with(2, 255).with(3, 255),
    "a match first": [0x04, 1, 0, ...literals],
    "a match length without end": [...sevens.slice(0, 4), ...endless],
    "a match length cut off": sevens.slice(0, 10),
    "a match short of the block": sevens.with(19, 250),
    "a match beyond the block": sevens.with(19, 252),
    "a match last": sevens.slice(0, -1),
  };
  for (const [name, stream] of Object.entries(streams))
    equal(decompress(Uint8Array.from(stream)), undefined, name);
  const block = new Uint8Array(BLOCK_BYTES).fill(7);
  deepEqual(decompress(Uint8Array.from(sevens)), block);
  deepEqual(decompress(Uint8Array.from(literalSevens)), block);
  deepEqual(decompress(Uint8Array.of(0), 0), new Uint8Array(0));
});

test("a length beyond 32 bits is refused, and not taken for what is left of it", () => {
  // So many bytes of 255 that the sum wraps to what would complete the block, and the literals after it.
  const excess = 2 ** 32 - 15;
  const count = Math.floor(excess / 255);
  const literals = [0x50, 1, 2, 3, 4, 5];
  const source = MEMORY_END - count - 200;
  const target = 1 << 17;
  ok(target + BLOCK_BYTES < source);
  const isAccepted = (
    head: readonly number[],
    wrapped: number,
    tail: readonly number[],
  ): number => {
    const rest = excess - 255 * count + wrapped;
    const more = rest < 255 ? [rest] : [255, rest - 255];
    bytes.fill(255, source, MEMORY_END);
    bytes.set(head, source);
    bytes.set([...more, ...tail], source + head.length + count);
    const lengthBytes = head.length + count + more.length + tail.length;
    return kernel.decompressBlock(source, lengthBytes, target, 100);
  };
  equal(isAccepted([0x1f, 7, 1, 0], 100 - 1 - 4 - 5, literals), 0);
  equal(isAccepted([0xf0], 100, Array(100).fill(7)), 0);
});
