// SPDX-License-Identifier: Apache-2.0
//
// The small parts of the image layer: knowing formats, finding zeros, sizes of devices, the cache, the
// allocator and the ends of zstd frames.

import { deepEqual, equal, match, ok, rejects, throws } from "node:assert/strict";
import { test } from "node:test";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import { filesOf } from "../../test/image/handmade.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { hasCode } from "../base/errors.ts";
import { ByteCache } from "./byte-cache.ts";
import { decompressCluster, zstdFrameBytes } from "./cluster-codec.ts";
import { detectFormat } from "./detect.ts";
import { printable } from "./image-error.ts";
import { openImage } from "./open-image.ts";
import { ClusterAllocator } from "./qcow2-allocator.ts";
import { createQcow2Sink } from "./qcow2-sink.ts";
import { fileSizeBytes, RawSource } from "./raw.ts";
import { isZero, zeroRuns } from "./zero.ts";

test("formats are known by their first bytes; what is known but not read is refused", () => {
  const head = (text: string, at = 0): Buffer => {
    const bytes = Buffer.alloc(512);
    bytes.write(text, at, "latin1");
    return bytes;
  };
  equal(detectFormat(head("QFI\xfb"), "x"), "qcow2");
  equal(detectFormat(head("anything"), "x"), "raw");
  equal(detectFormat(new Uint8Array(0), "x"), "raw");
  for (const [bytes, name, hint] of [
    [head("KDMV"), /VMDK/, /qemu-img convert/],
    [head("vhdxfile"), /VHDX/, /--format raw/],
    [head("\x7f\x10\xda\xbe", 0x40), /VDI/, /qemu-img/],
    [head("\x1f\x8b\x08"), /gzip/, /zcat "x" \| varve import/],
    [head("\xfd7zXZ\0"), /xz/, /xzcat/],
  ] as const) {
    throws(
      () => detectFormat(bytes, "x"),
      (error) => {
        ok(hasCode(error, "IMAGE_UNSUPPORTED"));
        match(error.message, name);
        match(error.hint, hint);
        return true;
      },
    );
  }
});

test("zero is seen whole and by granule, also in an odd end and at any alignment", () => {
  const memory = new Uint8Array(300_000);
  for (const shift of [0, 1, 7]) {
    const bytes = memory.subarray(shift, shift + 200_001);
    ok(isZero(bytes));
    deepEqual([...zeroRuns(bytes, 4096)], [{ start: 0, end: 200_001, isZero: true }]);
    for (const at of [0, 70_000, 200_000]) {
      bytes[at] = 1;
      equal(isZero(bytes), false);
      bytes[at] = 0;
    }
    bytes[8192] = 1;
    bytes[200_000] = 1;
    deepEqual(
      [...zeroRuns(bytes, 4096)],
      [
        { start: 0, end: 8192, isZero: true },
        { start: 8192, end: 12288, isZero: false },
        { start: 12288, end: 196_608, isZero: true },
        { start: 196_608, end: 200_001, isZero: false },
      ],
    );
    bytes[8192] = 0;
    bytes[200_000] = 0;
  }
  deepEqual([...zeroRuns(new Uint8Array(0), 4096)], []);
});

test("the size of a device that says 0 is found by reading", async () => {
  for (const sectors of [1, 2, 3, 1000, 2 ** 31 + 1]) {
    const device = new MemoryFile();
    await device.truncate(sectors * 512);
    device.sizeBytes = async () => 0;
    equal(await fileSizeBytes(device), sectors * 512);
    ok(device.readCount < 100);
  }
  equal(await fileSizeBytes(new MemoryFile()), 0);
  const endless = new MemoryFile();
  endless.read = async () => 1;
  await rejects(fileSizeBytes(endless), (error) => hasCode(error, "IMAGE_UNSUPPORTED"));
});

test("a raw file that shrank while it was read is damage, not zeros", async () => {
  const file = MemoryFile.of(new Uint8Array(1000));
  const source = new RawSource(file, 2000, "x");
  await rejects(source.read(new Uint8Array(100), 950), (error) => hasCode(error, "IMAGE_CORRUPT"));
});

test("the cache keeps to its limit, keeps what is used, loads once, forgets failures", async () => {
  const cache = new ByteCache(100);
  let loads = 0;
  const load = async (): Promise<Buffer> => {
    loads += 1;
    return Buffer.alloc(40);
  };
  const [one, same] = await Promise.all([cache.get("a", 40, load), cache.get("a", 40, load)]);
  ok(one === same && loads === 1);
  await cache.get("b", 40, load);
  await cache.get("a", 40, load);
  await cache.get("c", 40, load); // b goes, for a was used since
  equal(cache.usedBytes, 80);
  await cache.get("a", 40, load);
  equal(loads, 3);
  await rejects(cache.get("d", 10, () => Promise.reject(new Error("bad"))));
  await cache.get("d", 10, load);
  equal(loads, 4);
  equal(cache.usedBytes, 90);
  await cache.get("huge", 1000, load);
  equal(cache.usedBytes, 1000);
});

test("a refcount block counts each cluster of its span, packed pieces each", () => {
  const allocator = new ClusterAllocator(512);
  // 256 clusters a span; 0 is the header, 1 the block.
  deepEqual(allocator.allocate(3), { offset: 2 * 512, count: 3 });
  equal(allocator.allocatePacked(100), 5 * 512);
  equal(allocator.allocatePacked(400), 5 * 512 + 100);
  equal(allocator.allocatePacked(100), 5 * 512 + 500); // into the next cluster
  equal(allocator.allocate(1).offset, 7 * 512);
  equal(allocator.allocatePacked(500), 8 * 512); // can't grow past cluster 7
  deepEqual(allocator.allocate(1000), { offset: 9 * 512, count: 247 });
  deepEqual(allocator.takeFinished(), []);
  // The next span begins with its own block, and never touches the counts of the first.
  deepEqual(allocator.allocate(1), { offset: 257 * 512, count: 1 });
  const [block] = allocator.takeFinished();
  equal(block!.offset, 512);
  const counts = Array.from({ length: 256 }, (_, index) => block!.bytes.readUInt16BE(index * 2));
  deepEqual(counts.slice(0, 10), [1, 1, 1, 1, 1, 3, 1, 1, 1, 1]);
  ok(counts.slice(9).every((count) => count === 1));
  equal(allocator.allocatePacked(10), 258 * 512);
  const { tableOffset, tableClusters, table, blocks } = allocator.finish();
  deepEqual([tableOffset, tableClusters, blocks.length], [259 * 512, 1, 1]);
  deepEqual([blocks[0]!.offset, allocator.endOffset], [256 * 512, 260 * 512]);
  deepEqual(
    [0, 8, 16].map((at) => Number(table.readBigUInt64BE(at))),
    [512, 256 * 512, 0],
  );
});

test("a packed piece doesn't grow across the block at the beginning of the next span", () => {
  const allocator = new ClusterAllocator(512);
  allocator.allocate(253);
  equal(allocator.allocatePacked(100), 255 * 512);
  equal(allocator.allocatePacked(500), 257 * 512);
  equal(allocator.takeFinished()[0]!.bytes.readUInt16BE(255 * 2), 1);
});

test("a row of clusters that must stay together moves to the next span where it has to", () => {
  const allocator = new ClusterAllocator(512);
  allocator.allocate(250);
  equal(allocator.allocateWhole(10), 257 * 512);
  const block = allocator.takeFinished()[0]!.bytes;
  deepEqual(
    [251, 252, 255].map((cluster) => block.readUInt16BE(cluster * 2)),
    [1, 0, 0],
  );
});

test("a bomb is stopped when the cluster is full", async () => {
  const bomb = Buffer.alloc(50 << 20);
  const stopped = { code: "ERR_BUFFER_TOO_LARGE" };
  await rejects(decompressCluster(deflateRawSync(bomb), "zlib", 65536), stopped);
  await rejects(decompressCluster(zstdCompressSync(bomb), "zstd", 65536), stopped);
  // 2^27 bytes of window, without a content size: more than any cluster can need.
  const wide = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x88, 0x03, 0x00, 0x10, 0x00]);
  await rejects(decompressCluster(wide, "zstd", 65536), /ZSTD|window|memory/i);
});

test("an image is whole although its clusters arrive in any order", async () => {
  // 40 tables of 32 KiB; each comes back after all others were used, and more than are kept.
  const file = new MemoryFile();
  const sizeBytes = 40 * 32768;
  const sink = await createQcow2Sink(file, { sizeBytes, clusterBits: 9 });
  const disk = Buffer.alloc(sizeBytes);
  for (const step of [0, 512, 5120]) {
    for (let table = 0; table < 40; table += 1) {
      const at = ((table * 17) % 40) * 32768 + step;
      disk.fill(table + step / 512 + 1, at, at + 512);
      await sink.write(disk.subarray(at, at + 512), at);
    }
  }
  await sink.finish(sizeBytes);
  const source = await openImage("a", { openFile: filesOf({ a: file }) });
  const read = Buffer.alloc(sizeBytes);
  await source.read(read, 0);
  ok(read.equals(disk));
});

test("the end of a zstd frame is found whatever follows", () => {
  for (const size of [0, 1, 300, 70_000, 3_000_000]) {
    const noise = Buffer.from(Array.from({ length: size }, (_, i) => (i * i * 31) >> 3));
    for (const input of [Buffer.alloc(size), noise]) {
      const frame = zstdCompressSync(input);
      equal(zstdFrameBytes(Buffer.concat([frame, Buffer.alloc(700, 0xfd)])), frame.length);
      throws(() => zstdFrameBytes(frame.subarray(0, frame.length - 1)), RangeError);
    }
  }
  throws(() => zstdFrameBytes(Buffer.alloc(100)), /no zstd frame/);
});

test("a level that the compression doesn't have is a usage error", async () => {
  const refused = (error: unknown): boolean => hasCode(error, "USAGE");
  const create = (options: object): Promise<unknown> =>
    createQcow2Sink(new MemoryFile(), { sizeBytes: 1 << 20, ...options });
  await rejects(create({ compression: "zlib", level: 10 }), refused);
  await rejects(create({ compression: "zstd", level: 0 }), refused);
  await rejects(create({ compression: "zstd", level: 1.5 }), refused);
  await rejects(create({ level: 3 }), /no compression was asked for/);
  await create({ compression: "zstd", level: 19 });
});

test("a disk that is too large for its clusters is refused", async () => {
  const options = { sizeBytes: 2 ** 40, clusterBits: 9 };
  await rejects(createQcow2Sink(new MemoryFile(), options), (error) =>
    hasCode(error, "IMAGE_UNSUPPORTED"),
  );
});

test("what would steer a terminal is not printed", () => {
  equal(printable("a\x1b[2J\u202eb\nc é"), "a?[2J?b?c é");
});
