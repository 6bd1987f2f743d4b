// SPDX-License-Identifier: Apache-2.0
//
// Laws of images: what is written is read back, bit by bit, whatever the content, cluster size and
// compression; and whatever bytes stand in an image, reading it ends, within its memory, with content or
// with one of the two errors that images have.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { filesOf } from "../../test/image/handmade.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { StorageError } from "../base/errors.ts";
import { copyImage } from "./copy.ts";
import type { ImageSource } from "./image.ts";
import { openImage } from "./open-image.ts";
import { createQcow2Sink } from "./qcow2-sink.ts";
import { RawSource } from "./raw.ts";

const RUNS = Number(process.env.FUZZ_RUNS ?? 60);

/** A disk of up to 3 MiB: runs of zeros, of one byte and of noise, with borders anywhere. */
const anyDisk = fc
  .record({
    sizeBytes: fc.oneof(
      fc.nat(3 << 20),
      fc.nat(6144).map((sectors) => sectors * 512),
    ),
    runs: fc.array(
      fc.record({
        start: fc.nat(3 << 20),
        length: fc.oneof(fc.nat(1000), fc.nat(300_000)),
        kind: fc.constantFrom("byte", "noise", "zero"),
        seed: fc.integer({ min: 1, max: 255 }),
      }),
      { maxLength: 12 },
    ),
  })
  .map(({ sizeBytes, runs }) => {
    const disk = Buffer.alloc(sizeBytes);
    for (const { start, length, kind, seed } of runs) {
      const part = disk.subarray(start, start + length);
      if (kind === "byte") part.fill(seed);
      else if (kind === "zero") part.fill(0);
      else
        for (let i = 0; i < part.length; i += 1) part[i] = Math.imul(i + seed, 2654435761) >>> 24;
    }
    return disk;
  });

const anyOptions = fc.record({
  clusterBits: fc.integer({ min: 9, max: 17 }),
  compression: fc.constantFrom(undefined, "zlib" as const, "zstd" as const),
  laneCount: fc.integer({ min: 1, max: 8 }),
});

async function qcow2Of(
  disk: Uint8Array,
  options: { clusterBits: number; compression: "zlib" | "zstd" | undefined; laneCount: number },
): Promise<MemoryFile> {
  const { clusterBits, compression, laneCount } = options;
  const file = new MemoryFile();
  const sizeBytes = disk.length;
  const sink = await createQcow2Sink(file, { sizeBytes, clusterBits, compression });
  await copyImage(new RawSource(MemoryFile.of(disk), sizeBytes, "raw"), sink, { laneCount });
  return file;
}

function open(file: MemoryFile, allowBacking = false): Promise<ImageSource> {
  return openImage("a", { openFile: filesOf({ a: file }), format: "qcow2", allowBacking });
}

test("a disk written as qcow2 is read back as it was, and its zero extents are zero", async () => {
  await fc.assert(
    fc.asyncProperty(anyDisk, anyOptions, async (disk, options) => {
      const source = await open(await qcow2Of(disk, options));
      equal(source.sizeBytes, Math.ceil(disk.length / 512) * 512);
      const read = Buffer.alloc(source.sizeBytes, 0xee);
      await source.read(read, 0);
      ok(read.subarray(0, disk.length).equals(disk), "content");
      ok(
        read.subarray(disk.length).every((byte) => byte === 0),
        "the rest of the last sector",
      );
      for (let at = 0; at < source.sizeBytes; ) {
        const { start, end, kind } = await source.extentAt(at);
        ok(start === at && end > at && end <= source.sizeBytes, "extents follow one another");
        if (kind === "zero")
          ok(
            disk.subarray(start, end).every((byte) => byte === 0),
            "zero",
          );
        at = end;
      }
    }),
    { numRuns: RUNS },
  );
});

test("every cluster of a written image is counted as often as it is used", async () => {
  await fc.assert(
    fc.asyncProperty(anyDisk, anyOptions, async (disk, options) => {
      const bytes = Buffer.from((await qcow2Of(disk, options)).bytes());
      const used = usedClusters(bytes, 2 ** options.clusterBits);
      const clusters = bytes.length / 2 ** options.clusterBits;
      for (let cluster = 0; cluster < clusters; cluster += 1) {
        const counted = refcount(bytes, 2 ** options.clusterBits, cluster);
        equal(counted, used.get(cluster) ?? 0, `cluster ${cluster} of ${clusters}`);
      }
    }),
    { numRuns: Math.ceil(RUNS / 3) },
  );
});

function offsetAt(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n);
}

function refcount(bytes: Buffer, clusterBytes: number, cluster: number): number {
  const perBlock = clusterBytes / 2;
  const table = Number(bytes.readBigUInt64BE(48));
  const block = offsetAt(bytes, table + Math.floor(cluster / perBlock) * 8);
  return block === 0 ? 0 : bytes.readUInt16BE(block + (cluster % perBlock) * 2);
}

/** Cluster → number of references, counted from the tables. */
function usedClusters(bytes: Buffer, clusterBytes: number): Map<number, number> {
  const used = new Map<number, number>();
  const use = (offset: number, length = clusterBytes): void => {
    const last = Math.floor((offset + length - 1) / clusterBytes);
    for (let at = Math.floor(offset / clusterBytes); at <= last; at += 1) {
      used.set(at, (used.get(at) ?? 0) + 1);
    }
  };
  use(0);
  const tableClusters = bytes.readUInt32BE(56);
  const table = Number(bytes.readBigUInt64BE(48));
  use(table, tableClusters * clusterBytes);
  for (let at = table; at < table + tableClusters * clusterBytes; at += 8) {
    if (offsetAt(bytes, at) !== 0) use(offsetAt(bytes, at));
  }
  const l1Count = bytes.readUInt32BE(36);
  const l1 = Number(bytes.readBigUInt64BE(40));
  use(l1, Math.max(1, l1Count * 8));
  const bits = Math.log2(clusterBytes);
  for (let index = 0; index < l1Count; index += 1) {
    const l2 = offsetAt(bytes, l1 + index * 8);
    if (l2 === 0) continue;
    use(l2);
    for (let at = l2; at < l2 + clusterBytes; at += 8) {
      const word = bytes.readBigUInt64BE(at);
      if (((word >> 62n) & 1n) === 0n) {
        if (offsetAt(bytes, at) !== 0) use(offsetAt(bytes, at));
        continue;
      }
      const host = Number(word & ((1n << BigInt(70 - bits)) - 1n));
      const sectors = Number((word & (COMPRESSED_MASK - 1n)) >> BigInt(70 - bits)) + 1;
      use(host, sectors * 512 - (host % 512));
    }
  }
  return used;
}

const COMPRESSED_MASK = 1n << 62n;

/** Reads all a fuzzed image lets us, within bounds: a mutated size may be petabytes. */
async function exercise(file: MemoryFile): Promise<void> {
  const longest = watchReads(file);
  try {
    const source = await open(file, true);
    let at = 0;
    for (let count = 0; count < 200 && at < source.sizeBytes; count += 1) {
      const extent = await source.extentAt(at);
      ok(extent.start === at && extent.end > at && extent.end <= source.sizeBytes);
      const target = Buffer.alloc(Math.min(200_000, extent.end - at));
      await source.read(target, at);
      if (extent.kind === "zero") ok(target.every((byte) => byte === 0));
      at = extent.end;
    }
    await source.close();
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    const known = ["IMAGE_UNSUPPORTED", "IMAGE_CORRUPT", "DISK_IO"];
    ok(known.includes(error.code), `${error.code}: ${error.message}`);
  }
  ok(longest() <= 4 << 20, `a read of ${longest()} bytes`);
}

/** The longest read that anyone asks for is the most memory that an image can claim at once. */
function watchReads(file: MemoryFile): () => number {
  let longest = 0;
  const read = file.read.bind(file);
  file.read = (target, position) => {
    longest = Math.max(longest, target.length);
    ok(Number.isSafeInteger(position) && position >= 0, `a read at ${position}`);
    return read(target, position);
  };
  return () => longest;
}

test("random bytes behind the magic are refused or read, never more", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(2, 3),
      fc.uint8Array({ minLength: 0, maxLength: 3000 }),
      async (version, noise) => {
        const head = Buffer.from([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, version]);
        await exercise(MemoryFile.of(Buffer.concat([head, noise])));
      },
    ),
    { numRuns: RUNS * 4 },
  );
});

/** Values that break arithmetic more often than random ones do. */
const edge = fc.constantFrom(0, 1, 2, 0x7f, 0x80, 0xff);

const anyMutation = fc.record({
  // Most lies are told in the header and the tables, which begin the clusters.
  where: fc.oneof(
    fc.nat(111).map((at) => ({ at, cluster: false })),
    fc.nat(40).map((at) => ({ at, cluster: true })),
  ),
  bytes: fc.array(fc.oneof(edge, fc.nat(255)), { minLength: 1, maxLength: 9 }),
});

test("a valid image with some bytes changed, or cut, is refused or read, never more", async () => {
  const disk = Buffer.alloc(300_000);
  disk.fill("data", 1000, 90_000).fill("more", 200_000, 290_000);
  const images = new Map<string, Uint8Array>();
  for (const compression of [undefined, "zlib", "zstd"] as const) {
    for (const clusterBits of [9, 12, 16]) {
      const file = await qcow2Of(disk, { clusterBits, compression, laneCount: 1 });
      images.set(`${compression} ${clusterBits}`, file.bytes());
    }
  }
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...images.keys()),
      fc.array(anyMutation, { minLength: 1, maxLength: 6 }),
      fc.array(fc.nat(200), { maxLength: 6 }),
      fc.option(fc.nat(400_000), { freq: 4 }),
      async (name, mutations, clusters, cut) => {
        const image = Uint8Array.from(images.get(name)!);
        const clusterBytes = 2 ** Number(name.split(" ")[1]);
        for (const [index, { where, bytes }] of mutations.entries()) {
          const base = where.cluster ? (clusters[index] ?? index + 2) * clusterBytes : 0;
          for (const [i, byte] of bytes.entries()) {
            if (base + where.at + i < image.length) image[base + where.at + i] = byte;
          }
        }
        await exercise(MemoryFile.of(cut === null ? image : image.subarray(0, cut)));
      },
    ),
    { numRuns: RUNS * 6 },
  );
});
