// SPDX-License-Identifier: Apache-2.0
//
// What a segment's footer, or its batches, say of the blocks that can be found: each under the name that references
// have for it, wherever it was moved; and that no bytes, however wrong, lead outside of the log.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { before, suite, test } from "node:test";
import { BLOCK, newHost, noise, PoolRig, turn } from "../../test/crash/memory-rig.ts";
import { homeOfBlock, moveAlone, moveShared } from "../../test/crash/moved-frames.ts";
import { StorageError } from "../base/errors.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { type Files, MemoryDirectory } from "../sim/memory-host.ts";
import { Prng } from "../sim/prng.ts";
import { hashOutside } from "./outside-hash.ts";
import {
  parseSegmentTrailer,
  putSegmentTrailer,
  SEGMENT_TRAILER_BYTES,
  segmentName,
  segmentNumberOf,
} from "./segment.ts";
import { FingerprintReader, type FingerprintReading } from "./segment-fingerprints.ts";

const MIB = 1 << 20;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: 1024 });
const { clock } = newHost();
const ALL = (): number => Number.POSITIVE_INFINITY;

interface Read {
  /** "hash segment.offset8", in order. */
  readonly names: string[];
  readonly pauseCount: number;
  readonly readBytes: number;
}

interface Fixture {
  readonly files: Files;
  readonly poolId: Uint8Array;
  /** Of the live blocks: the hash of the content, and where it was born. */
  readonly live: readonly string[];
  /** Hashes of everything that was ever written. */
  readonly hashes: ReadonlySet<string>;
}

function nameOf(hash: bigint, segment: number, offset8: number): string {
  return `${hash.toString(16)} ${segment}.${offset8}`;
}

function hashOf(block: Uint8Array): bigint {
  memory.bytes.set(block, memory.slotsAddress);
  return memory.hash(memory.slotsAddress, block.length);
}

async function read(
  files: Files,
  poolId: Uint8Array,
  reading: Partial<FingerprintReading> & { number: number },
): Promise<Read> {
  const names: string[] = [];
  let pauseCount = 0;
  const directory = new MemoryDirectory("log", files);
  const freeBytes = memory.staging.freeBytes;
  const reader = new FingerprintReader({
    memory,
    clock,
    directory,
    poolId,
    pause: async () => {
      equal(memory.staging.freeBytes, freeBytes, "nothing is kept while others have their turn");
      pauseCount += 1;
    },
    onRows: (rows, count, segment) => {
      ok(count > 0 && segment > 0 && segment <= reading.number);
      for (let row = rows; row < rows + count * 16; row += 16) {
        const offset8 = memory.view.getUint32(row, true);
        ok(offset8 >= 512 && offset8 < 2 ** 24, `offset / 8: ${offset8}`);
        names.push(nameOf(memory.view.getBigUint64(row + 8, true), segment, offset8));
      }
    },
  });
  try {
    const done = await reader.read({ endOf: ALL, isFooterNeeded: false, ...reading });
    equal(done.frameCount, names.length);
    return { names, pauseCount, readBytes: done.readBytes };
  } finally {
    equal(memory.staging.freeBytes, freeBytes);
    equal(directory.openCount, 0);
  }
}

/** Of segments that were begun. */
function numbersOf(files: Files): number[] {
  const begun = [...files].filter(([, bytes]) => bytes.length > 4096);
  return begun.map(([name]) => segmentNumberOf(name)).filter((number) => number > 0);
}

function sealedOf(files: Files): number[] {
  return numbersOf(files).filter(
    (number) => trailerOf(files.get(segmentName(number)) as Uint8Array) !== undefined,
  );
}

/** Three lives, each of which ends with a segment that isn't sealed; some frames were moved, alone and together. */
async function makeFixture(): Promise<Fixture> {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const hashes = new Set<string>();
  const contents = new Map<number, Uint8Array>();
  for (let life = 0; life < 3; life++) {
    for (let round = 0; round < 14; round++) {
      const bytes = noise(life * 100 + round, 3 * BLOCK);
      if (round % 3 === 0) bytes.fill(round + 1, 1000, BLOCK); // shrinks
      const lba = ((life * 5 + round) % 40) * 3;
      await rig.write("a", lba * BLOCK, bytes);
      for (let block = 0; block < 3; block++) {
        const content = bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
        contents.set(lba + block, content);
        hashes.add(hashOf(content).toString(16));
      }
      if (round === 8 && life > 0) {
        await moveAlone(rig, [...contents.keys()].slice(0, 5));
        await moveShared(rig, [...contents.keys()].slice(5, 12));
        await moveShared(rig, [...contents.keys()].slice(12, 15));
      }
    }
    await rig.flush("a");
    if (life < 2) rig = await PoolRig.open(rig.kill());
  }
  const live = [...contents].map(([lba, content]) => {
    const home = homeOfBlock(rig, lba);
    return nameOf(hashOf(content), home.segment, home.offset8);
  });
  const { poolId } = rig.pool;
  const files = rig.kill().log;
  return {
    files,
    poolId: Uint8Array.from(Buffer.from(poolId, "hex")),
    live,
    hashes,
  };
}

/** The files with a segment's footer cut off. */
function withoutFooter(files: Files, number: number): Files {
  const bytes = files.get(segmentName(number)) as Uint8Array;
  const trailer = trailerOf(bytes);
  if (trailer === undefined) return files;
  return new Map(files).set(segmentName(number), bytes.slice(0, trailer.end));
}

function trailerOf(bytes: Uint8Array): ReturnType<typeof trailerAt> | undefined {
  if (bytes.length < 8192) return undefined;
  const trailer = trailerAt(bytes);
  return typeof trailer === "string" ? undefined : trailer;
}

function trailerAt(bytes: Uint8Array): Exclude<ReturnType<typeof parseSegmentTrailer>, string> {
  memory.bytes.set(bytes.subarray(bytes.length - SEGMENT_TRAILER_BYTES), memory.slotsAddress);
  const trailer = parseSegmentTrailer(memory, memory.slotsAddress);
  return trailer as Exclude<typeof trailer, string>;
}

suite("fingerprints of a segment", () => {
  let fixture: Fixture;

  before(async () => {
    fixture = await makeFixture();
  });

  test("every live block is told once by its home, and nothing that was never written", async () => {
    const { files, poolId, live, hashes } = fixture;
    const all: string[] = [];
    let movedCount = 0;
    for (const number of numbersOf(files)) {
      const { names } = await read(files, poolId, { number });
      all.push(...names);
      movedCount += names.filter((name) => !name.includes(` ${number}.`)).length;
      const view = new DataView((files.get(segmentName(number)) as Uint8Array).buffer);
      for (const name of names) {
        const [hash, segment, offset8] = name.split(/[ .]/) as [string, string, string];
        ok(hashes.has(hash), name);
        if (Number(segment) !== number) continue;
        const home = [8, 12].map((at) => view.getUint32(Number(offset8) * 8 + at, true));
        deepEqual(home, [number, Number(offset8)], "it was born here");
      }
    }
    const told = new Set(all);
    for (const name of live) ok(told.has(name), `${name} is told`);
    equal(movedCount, 2 * 15, "some are told where they were moved to");
  });

  test("without its footer a segment tells the same", async () => {
    const { files, poolId } = fixture;
    ok(sealedOf(files).length > 5);
    for (const number of sealedOf(files)) {
      const cut = withoutFooter(files, number);
      const whole = await read(files, poolId, { number });
      const walked = await read(cut, poolId, { number });
      deepEqual(walked.names.sort(), whole.names.sort(), `segment ${number}`);
      const none = await read(cut, poolId, { number, isFooterNeeded: true });
      equal(none.names.length, 0);
    }
  });

  test("what lies behind the end of the log in a segment is not told, with a footer or without", async () => {
    const { files, poolId } = fixture;
    for (const number of sealedOf(files)) {
      const bytes = files.get(segmentName(number)) as Uint8Array;
      const trailer = trailerAt(bytes);
      const whole = await read(files, poolId, { number });
      let isPart = false;
      for (const end of [0, 4096, ...batchEnds(bytes, trailer.end)]) {
        const endOf = (): number => end;
        const part = await read(files, poolId, { number, endOf });
        const walked = await read(withoutFooter(files, number), poolId, { number, endOf });
        deepEqual(walked.names.sort(), part.names.sort(), `segment ${number} up to ${end}`);
        isPart ||= part.names.length > 0 && part.names.length < whole.names.length;
        for (const name of part.names) {
          const [segment, offset8] = (name.split(" ")[1] as string).split(".").map(Number);
          ok(segment !== number || (offset8 as number) * 8 < end, `${name} of ${end}`);
        }
      }
      ok(isPart || whole.names.length < 2);
    }
  });

  test("a batch that is missing where the log goes on is told", async () => {
    const { files, poolId } = fixture;
    const number = 2;
    const bytes = (withoutFooter(files, number).get(segmentName(number)) as Uint8Array).slice();
    const end = bytes.length;
    bytes.fill(0, end - 4096);
    const damaged = new Map(files).set(segmentName(number), bytes);
    await rejects(read(damaged, poolId, { number, endOf: () => end }), { code: "LOG_CORRUPT" });
    ok((await read(damaged, poolId, { number })).names.length > 0, "if it ends there or not");
    await rejects(read(new Map(), poolId, { number }), { code: "DISK_IO" });
    const other = new Map(files).set(segmentName(2), files.get(segmentName(3)) as Uint8Array);
    await rejects(read(other, poolId, { number }), /it is segment 3 by its header/);
  });

  test("a whole batch that doesn't continue the log counts as none", async () => {
    const { files, poolId } = fixture;
    const [first = 0, second = 0] = sealedOf(files);
    const bytes = (withoutFooter(files, first).get(segmentName(first)) as Uint8Array).slice();
    const other = withoutFooter(files, second).get(segmentName(second)) as Uint8Array;
    const [, at = 0] = batchEnds(bytes, bytes.length);
    bytes.set(other.subarray(4096, 4096 + bytes.length - at), at);
    const damaged = new Map(files).set(segmentName(first), bytes);
    const endOf = (): number => at;
    const expected = await read(files, poolId, { number: first, endOf });
    deepEqual((await read(damaged, poolId, { number: first })).names, expected.names);
    const whole = { number: first, endOf: () => bytes.length };
    await rejects(read(damaged, poolId, whole), { code: "LOG_CORRUPT" });
  });

  test("staging that others have is waited for", async () => {
    const { files, poolId } = fixture;
    const cut = withoutFooter(files, 2);
    for (const log of [files, cut]) {
      const taken: number[] = [];
      for (let at = memory.staging.allocate(MIB); at >= 0; at = memory.staging.allocate(MIB))
        taken.push(at);
      let rowCount = 0;
      const reader = new FingerprintReader({
        memory,
        clock,
        directory: new MemoryDirectory("log", log),
        poolId,
        pause: turn,
        onRows: (_rows, count) => {
          rowCount += count;
        },
      });
      const reading = reader.read({ number: 2, endOf: ALL, isFooterNeeded: false });
      for (let round = 0; round < 50; round++) await turn();
      equal(rowCount, 0);
      for (const at of taken) memory.staging.release(at);
      await reading;
      ok(rowCount > 0);
    }
  });

  test("who doesn't go on after a pause ends the reading", async () => {
    const { files, poolId } = fixture;
    const directory = new MemoryDirectory("log", files);
    const reader = new FingerprintReader({
      memory,
      clock,
      directory,
      poolId,
      pause: () => Promise.reject(new StorageError("POOL_STOPPED", "enough")),
      onRows: () => ok(false),
    });
    const reading = { number: 2, endOf: ALL, isFooterNeeded: false };
    await rejects(reader.read(reading), { code: "POOL_STOPPED" });
    await rejects(reader.read(reading), { code: "POOL_STOPPED" }, "and another may begin");
    equal(directory.openCount, 0);
  });

  test("a bit turned over anywhere costs some fingerprints or all, and harms nothing", async () => {
    const { files, poolId } = fixture;
    const prng = new Prng(5);
    for (const log of [files, withoutFooter(withoutFooter(files, 2), 3)]) {
      for (let round = 0; round < 400; round++) {
        const numbers = numbersOf(files);
        const number = numbers[round % numbers.length] as number;
        const bytes = (log.get(segmentName(number)) as Uint8Array).slice();
        // Half of them in the last pages, where the footer is.
        const span = round % 2 === 0 ? bytes.length : Math.min(bytes.length, 8192);
        const at = bytes.length - 1 - prng.below(span);
        bytes[at] = (bytes[at] as number) ^ (1 << prng.below(8));
        await tolerate(read(new Map(log).set(segmentName(number), bytes), poolId, { number }));
      }
    }
  });

  test("a footer with any content, and the right checksum, leads nowhere outside", async () => {
    const { files, poolId } = fixture;
    const prng = new Prng(6);
    const one = (values: readonly number[]): number => values[prng.below(values.length)] as number;
    let toldCount = 0;
    for (let round = 0; round < 1500; round++) {
      const number = one(sealedOf(files));
      const bytes = (files.get(segmentName(number)) as Uint8Array).slice();
      const trailer = trailerAt(bytes);
      const footerOffset = Math.ceil(trailer.end / 4096) * 4096;
      const view = new DataView(bytes.buffer);
      for (let change = 0; change < 1 + (round % 3); change++) {
        const at = footerOffset + (round % 2) * trailer.rowBytes + prng.below(trailer.metaBytes);
        const word = one([0, 1, 2 ** 32 - 1, 2 ** 24 - 1, 32, prng.word(), prng.below(65536)]);
        view.setUint32(at - (at % 4), word, true);
      }
      const end = bytes.length - SEGMENT_TRAILER_BYTES;
      const wild = (): number => one([0, 1, 2 ** 31, 2 ** 32 - 1, prng.below(100_000)]);
      const frameCount = round % 7 === 0 ? wild() : trailer.frameCount;
      putSegmentTrailer(memory, memory.slotsAddress, {
        ...trailer,
        frameCount,
        rowBytes: frameCount * 16,
        metaBytes: round % 5 === 0 ? wild() * one([1, 2 ** 20]) : trailer.metaBytes,
        checksum: hashOutside(memory, bytes.subarray(footerOffset, end)),
      });
      const { slotsAddress } = memory;
      bytes.set(memory.bytes.subarray(slotsAddress, slotsAddress + SEGMENT_TRAILER_BYTES), end);
      const damaged = new Map(files).set(segmentName(number), bytes);
      toldCount += (await tolerate(read(damaged, poolId, { number })))?.names.length ?? 0;
    }
    ok(toldCount > 1000);
  });
});

/** Where batches end, by their headers. */
function batchEnds(bytes: Uint8Array, end: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const ends: number[] = [];
  for (let at = 4096; at < end; at += view.getUint32(at + 52, true)) ends.push(at);
  return ends;
}

async function tolerate<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof StorageError && error.kind === "corrupt") return undefined;
    if (error instanceof StorageError && error.code === "FORMAT_UNSUPPORTED") return undefined;
    throw error;
  }
}
