// SPDX-License-Identifier: Apache-2.0
//
// What a qcow2 image says is read as it says, and what it may not say is refused with the reason.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import {
  BACKING_FORMAT,
  COMPRESSED,
  COPIED,
  compressedEntry,
  DATA_FILE_NAME,
  FEATURE_NAMES,
  filesOf,
  type Handmade,
  handmade,
} from "../../test/image/handmade.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { hasCode } from "../base/errors.ts";
import { ByteCache } from "./byte-cache.ts";
import type { Extent, ImageSource } from "./image.ts";
import { CHAIN_DEPTH_MAX, type OpenImageOptions, openImage } from "./open-image.ts";
import { parseHeader } from "./qcow2-header.ts";
import { CHAIN_MEMORY_BYTES, Qcow2Source } from "./qcow2-source.ts";

const K64 = 65536;
const text = new TextEncoder();

function open(options: Handmade, more: Partial<OpenImageOptions> = {}): Promise<ImageSource> {
  return openBytes(handmade(options), more);
}

function openBytes(bytes: Uint8Array, more: Partial<OpenImageOptions> = {}): Promise<ImageSource> {
  const openFile = filesOf({ "a.qcow2": MemoryFile.of(bytes) });
  return openImage("a.qcow2", { openFile, ...more });
}

async function content(source: ImageSource): Promise<Buffer> {
  const all = Buffer.alloc(source.sizeBytes, 0xee);
  await source.read(all, 0);
  return all;
}

async function extents(source: ImageSource): Promise<string> {
  const found: Extent[] = [];
  for (let at = 0; at < source.sizeBytes; at = found.at(-1)!.end) {
    found.push(await source.extentAt(at));
  }
  return found.map(({ start, end, kind }) => `${start}-${end} ${kind}`).join(", ");
}

async function refuses(
  what: Promise<unknown>,
  code: "IMAGE_UNSUPPORTED" | "IMAGE_CORRUPT",
  reason: RegExp,
): Promise<void> {
  await rejects(what, (error) => {
    ok(hasCode(error, code), String(error));
    match(error.message, reason);
    return true;
  });
}

function unreadable(options: Handmade, reason: RegExp): Promise<void> {
  const read = open(options).then((source) => content(source));
  return refuses(read, "IMAGE_CORRUPT", reason);
}

for (const version of [2, 3]) {
  for (let clusterBits = 9; clusterBits <= 21; clusterBits += 1) {
    test(`version ${version} with clusters of 2^${clusterBits} bytes: data, holes and order`, async () => {
      const cluster = 2 ** clusterBits;
      const source = await open({
        ...{ version, clusterBits, sizeBytes: 4 * cluster - 512 },
        l2: [BigInt(4 * cluster) | COPIED, 0n, BigInt(3 * cluster) | COPIED, BigInt(5 * cluster)],
        bytes: {
          [3 * cluster]: Buffer.alloc(cluster, "C"),
          [4 * cluster]: Buffer.alloc(cluster, "A"),
          [5 * cluster]: Buffer.alloc(cluster, "D"),
        },
      });
      const parts = ["A", 0, "C", "D"].map((fill) => Buffer.alloc(cluster, fill));
      const wanted = Buffer.concat(parts).subarray(0, source.sizeBytes);
      ok((await content(source)).equals(wanted));
      equal(
        await extents(source),
        `0-${cluster} data, ${cluster}-${2 * cluster} zero, ${2 * cluster}-${4 * cluster - 512} data`,
      );
      const across = Buffer.alloc(1000);
      await source.read(across.subarray(0, 600), 2 * cluster - 100);
      ok(across.subarray(0, 600).equals(wanted.subarray(2 * cluster - 100, 2 * cluster + 500)));
    });
  }
}

test("zero clusters read as zeros, whether they keep a place or not", async () => {
  const source = await open({
    l2: [1n, BigInt(3 * K64) | COPIED | 1n, BigInt(3 * K64)],
    bytes: { [3 * K64]: Buffer.alloc(K64, "x") },
  });
  const all = await content(source);
  ok(all.subarray(0, 2 * K64).every((byte) => byte === 0));
  ok(all.subarray(2 * K64, 3 * K64).every((byte) => byte === 120));
  equal(await extents(source), "0-131072 zero, 131072-196608 data, 196608-262144 zero");
});

for (const compression of ["zlib", "zstd"] as const) {
  test(`compressed clusters (${compression}) begin anywhere and are followed by anything`, async () => {
    const first = Buffer.alloc(K64, "varve ");
    const second = Buffer.alloc(K64, "layer ");
    const compress = compression === "zlib" ? deflateRawSync : zstdCompressSync;
    const [a, b] = [compress(first), compress(second)];
    const at = 3 * K64 + 17;
    const source = await open({
      ...(compression === "zstd" ? { compressionType: 1, incompatible: 8n } : {}),
      l2: [
        compressedEntry(at, a.length, 16),
        compressedEntry(at + a.length, b.length, 16),
        compressedEntry(at, a.length, 16),
      ],
      bytes: { [at]: Buffer.concat([a, b, Buffer.alloc(600, 0xa5)]) },
    });
    const wanted = Buffer.concat([first, second, first, Buffer.alloc(K64)]);
    ok((await content(source)).equals(wanted));
    const some = Buffer.alloc(10);
    await source.read(some, K64 - 5);
    ok(some.equals(wanted.subarray(K64 - 5, K64 + 5)));
    equal(await extents(source), "0-196608 data, 196608-262144 zero");
  });
}

test("a zstd cluster of several frames is read whole", async () => {
  const whole = Buffer.alloc(K64, "ab");
  const packed = Buffer.concat([
    zstdCompressSync(whole.subarray(0, 1000)),
    zstdCompressSync(whole.subarray(1000)),
  ]);
  const source = await open({
    ...{ compressionType: 1, incompatible: 8n, sizeBytes: K64 },
    l2: [compressedEntry(3 * K64, packed.length, 16)],
    bytes: { [3 * K64]: packed },
  });
  ok((await content(source)).equals(whole));
});

test("compressed data that ends with the file needs no padding", async () => {
  const packed = deflateRawSync(Buffer.alloc(K64, "ab"));
  const source = await open({
    sizeBytes: K64,
    l2: [compressedEntry(3 * K64, packed.length, 16)],
    bytes: { [3 * K64]: packed },
    fileBytes: 3 * K64 + packed.length,
  });
  ok((await content(source)).equals(Buffer.alloc(K64, "ab")));
});

test("subclusters are data, zero or nothing, one by one", async () => {
  const sub = K64 / 32;
  const source = await open({
    ...{ incompatible: 16n, sizeBytes: 2 * K64 },
    // Subclusters 0, 1 and 31 have data, 2 is zero, the others are not there; then a whole cluster.
    l2: [
      BigInt(3 * K64) | COPIED,
      (4n << 32n) | 0x8000_0003n,
      BigInt(4 * K64) | COPIED,
      0xffff_ffffn,
    ],
    bytes: { [3 * K64]: Buffer.alloc(K64, "s"), [4 * K64]: Buffer.alloc(K64, "t") },
  });
  const wanted = Buffer.alloc(2 * K64, "t");
  wanted
    .fill("s", 0, 2 * sub)
    .fill(0, 2 * sub, 31 * sub)
    .fill("s", 31 * sub, 32 * sub);
  ok((await content(source)).equals(wanted));
  equal(
    await extents(source),
    `0-${2 * sub} data, ${2 * sub}-${31 * sub} zero, ${31 * sub}-${64 * sub} data`,
  );
});

test("subclusters that contradict themselves are damage", async () => {
  const extended = { incompatible: 16n, sizeBytes: K64 };
  await unreadable({ ...extended, l2: [BigInt(3 * K64), (1n << 32n) | 1n] }, /both data and zero/);
  await unreadable({ ...extended, l2: [0n, 1n] }, /no cluster that holds them/);
  await refuses(
    open({ ...extended, clusterBits: 13 }),
    "IMAGE_CORRUPT",
    /subclusters in clusters of 8192/,
  );
});

test("an image that is marked dirty is read, with a warning", async () => {
  const source = await open({ incompatible: 1n });
  equal(source.warnings.length, 1);
  match(source.warnings[0]!, /in use/);
});

test("an image that is marked corrupt is refused", async () => {
  await refuses(open({ incompatible: 2n }), "IMAGE_CORRUPT", /marked as corrupt/);
});

test("unknown features are refused by the name that the image has for them", async () => {
  const name = Buffer.alloc(96);
  name.writeUInt8(0, 0);
  name.writeUInt8(33, 1);
  name.write("time\x1b[31m travel", 2);
  name.writeUInt8(1, 48); // a compatible feature with the same bit
  name.writeUInt8(33, 49);
  name.write("other", 50);
  await refuses(
    open({
      incompatible: (1n << 33n) | (1n << 63n),
      extensions: [{ type: FEATURE_NAMES, content: name }],
    }),
    "IMAGE_UNSUPPORTED",
    /"time\?\[31m travel" \(bit 33\), bit 63/,
  );
});

test("unknown header extensions are skipped", async () => {
  const extensions = [{ type: 0x12345678, content: text.encode("whatever") }];
  equal((await open({ extensions })).sizeBytes, 4 * K64);
});

test("encryption, old and future versions are refused", async () => {
  await refuses(open({ method: 1 }), "IMAGE_UNSUPPORTED", /encrypted \(AES\)/);
  await refuses(open({ method: 2 }), "IMAGE_UNSUPPORTED", /encrypted \(LUKS\)/);
  await refuses(open({ method: 7 }), "IMAGE_UNSUPPORTED", /encrypted \(method 7\)/);
  await refuses(open({ version: 1 }), "IMAGE_UNSUPPORTED", /qcow version 1/);
  await refuses(open({ version: 4 }), "IMAGE_UNSUPPORTED", /qcow version 4/);
  await refuses(
    open({ compressionType: 2, incompatible: 8n }),
    "IMAGE_UNSUPPORTED",
    /compression type 2/,
  );
});

test("a header that can't be true is damage", async () => {
  const cases: [Handmade, RegExp][] = [
    [{ clusterBits: 8 }, /clusters of 2\^8/],
    [{ clusterBits: 22 }, /clusters of 2\^22/],
    [{ clusterBits: 0xffff_ffff }, /clusters of 2\^4294967295/],
    [{ fileBytes: 40 }, /cut short/],
    [{ fileBytes: 80 }, /cut short/],
    [{ headerBytes: 96 }, /header of 96 bytes/],
    [{ headerBytes: 107 }, /header of 107 bytes/],
    [{ headerBytes: 0xffff_fff8 }, /header of 4294967288 bytes/],
    [{ compressionType: 1 }, /feature bit for it is not set/],
    [{ compressionType: 0, incompatible: 8n }, /feature bit for it is set/],
    [{ l1Offset: 0 }, /no cluster begins there/],
    [{ l1Offset: K64 + 8 }, /no cluster begins there/],
    [{ l1Offset: K64 * 1000 }, /L1 table ends at 65536008, the file at 196608/],
    [{ l1Count: 0 }, /L1 table of 0 entries; the disk needs 1/],
    [{ sizeBytes: 2 ** 50 }, /L1 table of 1 entries; the disk needs/],
    [{ backing: { name: "x", offset: 70_000 } }, /backing file's name/],
    [{ backing: { name: "x", length: 1024 } }, /backing file's name/],
    [{ backing: { name: "x", offset: 10 } }, /backing file's name/],
  ];
  for (const [options, reason] of cases) {
    // With the format given: a file that is cut to nothing no longer looks like qcow2.
    await refuses(open(options, { format: "qcow2" }), "IMAGE_CORRUPT", reason);
  }
  const overlong = handmade({ extensions: [{ type: 7, content: new Uint8Array(8) }] });
  overlong.writeUInt32BE(0xffff_fff0, 108);
  await refuses(openBytes(overlong), "IMAGE_CORRUPT", /extension 0x7 ends at/);
  await refuses(open({ l1Count: 0x7fff_ffff }), "IMAGE_UNSUPPORTED", /L1 table of/);
  await refuses(open({ sizeBytes: 2 ** 62 }), "IMAGE_UNSUPPORTED", /a disk of 46116860184273/);
});

test("tables that point outside the file, or between clusters, are damage", async () => {
  await unreadable({ l1: [BigInt(99 * K64)] }, /table ends at .* cut short/);
  await unreadable({ l1: [BigInt(2 * K64 + 512)] }, /L2 table is at 131584: no cluster/);
  await unreadable({ l1: [0x00ff_ffff_ffff_0000n] }, /cut short/);
  await unreadable({ l2: [BigInt(3 * K64 + 512)] }, /cluster is at 197120: no cluster/);
  await unreadable({ l2: [BigInt(3 * K64)] }, /data ends at 262144, the file at 196608/);
  await unreadable({ l2: [0x00ff_ffff_ffff_0000n] }, /data ends at .* cut short/);
  await unreadable({ version: 2, l2: [1n] }, /version 2 doesn't have/);
});

test("compressed data that isn't one cluster is damage", async () => {
  const at = 3 * K64;
  const cases: [Buffer, RegExp][] = [
    [Buffer.alloc(512, 0xff), /512 compressed bytes at 196608 aren't a cluster/],
    [deflateRawSync(Buffer.alloc(K64 - 1)), /aren't a cluster/],
    [deflateRawSync(Buffer.alloc(K64 + 1)), /aren't a cluster/],
    [deflateRawSync(Buffer.alloc(K64, "abc")).subarray(0, 20), /aren't a cluster/],
  ];
  for (const [packed, reason] of cases) {
    await unreadable(
      { l2: [compressedEntry(at, packed.length, 16)], bytes: { [at]: packed } },
      reason,
    );
  }
  const zstd = { compressionType: 1, incompatible: 8n };
  for (const packed of [
    Buffer.alloc(512, 0xff),
    zstdCompressSync(Buffer.alloc(K64 + 1)),
    zstdCompressSync(Buffer.alloc(10)),
    zstdCompressSync(Buffer.alloc(0)),
  ]) {
    await unreadable(
      { ...zstd, l2: [compressedEntry(at, packed.length, 16)], bytes: { [at]: packed } },
      /aren't a cluster/,
    );
  }
  await unreadable({ l2: [COMPRESSED | BigInt(99 * K64)] }, /cut short/);
});

test("a table with a reach of a petabyte is walked without being loaded", async () => {
  const file = new MemoryFile();
  const l1Count = 2 ** 22;
  file.writeSync(handmade({ sizeBytes: l1Count * 2 ** 29, l1Count, l1Offset: K64 * 16 }), 0);
  await file.truncate(K64 * 16 + l1Count * 8);
  const source = await openImage("a", { openFile: filesOf({ a: file }) });
  const extent = await source.extentAt(0);
  equal(extent.kind, "zero");
  ok(extent.end >= 2 ** 40);
  equal((await source.extentAt(source.sizeBytes - 1)).end, source.sizeBytes);
});

test("a backing file is refused, unless it's allowed", async () => {
  const image = { backing: { name: "base" } };
  await refuses(open(image), "IMAGE_UNSUPPORTED", /has a backing file, "base"/);
});

const backed = (name: string, format: string): Handmade => ({
  backing: { name },
  extensions: [{ type: BACKING_FORMAT, content: text.encode(format) }],
});

test("what the image lacks comes from the backing file, as far as that reaches", async () => {
  const top = handmade({
    ...backed("base.raw", "raw"),
    l2: [BigInt(3 * K64), 0n, 1n, 0n],
    bytes: { [3 * K64]: Buffer.alloc(K64, "T") },
  });
  const base = Buffer.alloc(3 * K64 + 1000, "B");
  const openFile = filesOf({
    "dir/top": MemoryFile.of(top),
    "dir/base.raw": MemoryFile.of(base),
  });
  const source = await openImage("dir/top", { openFile, allowBacking: true });
  const wanted = Buffer.concat([
    Buffer.alloc(K64, "T"),
    Buffer.alloc(K64, "B"),
    Buffer.alloc(K64),
    Buffer.alloc(1000, "B"),
    Buffer.alloc(K64 - 1000),
  ]);
  ok((await content(source)).equals(wanted));
  equal(
    await extents(source),
    "0-131072 data, 131072-196608 zero, 196608-197608 data, 197608-262144 zero",
  );
});

test("a fragmented image asks its backing image only for what it lacks", async () => {
  // Every other cluster is there. If each hole asked for all that lies below, that would be quadratic.
  const words = Array.from({ length: 8192 }, (_, i) => (i % 2 === 0 ? 0n : BigInt(K64 * (3 + i))));
  const sizeBytes = 8192 * K64;
  const bytes = handmade({ sizeBytes, l2: words });
  const asked: number[] = [];
  const backing: ImageSource = {
    ...{ format: "raw", sizeBytes, warnings: [] },
    extentAt: async (offset, enough = sizeBytes): Promise<Extent> => {
      asked.push(enough - offset);
      return { start: offset, end: enough, kind: "data" };
    },
    read: async () => {},
    close: async () => {},
  };
  const source = new Qcow2Source({
    ...{ path: "top", file: MemoryFile.of(bytes), fileBytes: bytes.length, depth: 1, backing },
    ...{ header: parseHeader(bytes, bytes.length, "top"), warnings: [] },
    cache: new ByteCache(CHAIN_MEMORY_BYTES),
  });
  // One call looks at 4096 runs at most.
  const half = sizeBytes / 2;
  equal(await extents(source), `0-${half} data, ${half}-${sizeBytes} data`);
  ok(asked.length === 4096 && asked.every((length) => length === K64));
});

test("a backing file whose format isn't stated, or isn't read, is refused", async () => {
  const allow = { allowBacking: true };
  await refuses(
    open({ backing: { name: "base" } }, allow),
    "IMAGE_UNSUPPORTED",
    /doesn't say the format/,
  );
  await refuses(open(backed("base", "vmdk"), allow), "IMAGE_UNSUPPORTED", /is vmdk, not raw/);
});

test("a backing file that isn't a plain file name is refused", async () => {
  for (const name of ["nbd://host/x", 'json:{"driver":"raw"}', "https://host/x", "nul\0byte"]) {
    await refuses(
      open(backed(name, "raw"), { allowBacking: true }),
      "IMAGE_UNSUPPORTED",
      /only files are followed/,
    );
  }
});

test("a backing chain that comes back to itself, or doesn't end, is refused", async () => {
  const circle = filesOf({
    a: MemoryFile.of(handmade(backed("b", "qcow2"))),
    b: MemoryFile.of(handmade(backed("a", "qcow2"))),
  });
  await refuses(
    openImage("a", { openFile: circle, allowBacking: true }),
    "IMAGE_CORRUPT",
    /its own backing file/,
  );
  const opened: MemoryFile[] = [];
  const endless = async (): Promise<MemoryFile> => {
    opened.push(MemoryFile.of(handmade(backed(`${opened.length}`, "qcow2"))));
    return opened.at(-1)!;
  };
  await refuses(
    openImage("a", { openFile: endless, allowBacking: true }),
    "IMAGE_UNSUPPORTED",
    /more than 32 images/,
  );
  equal(opened.length, CHAIN_DEPTH_MAX);
  ok(opened.every((file) => file.isClosed));
});

test("an external data file is refused, unless it's allowed; then offset 0 may hold data", async () => {
  const image: Handmade = {
    incompatible: 4n,
    sizeBytes: 2 * K64,
    extensions: [{ type: DATA_FILE_NAME, content: text.encode("disk.data") }],
    l2: [COPIED, 0n],
  };
  await refuses(open(image), "IMAGE_UNSUPPORTED", /its data is in another file, "disk.data"/);
  const files = {
    a: MemoryFile.of(handmade(image)),
    "disk.data": MemoryFile.of(Buffer.alloc(2 * K64, "E")),
  };
  const source = await openImage("a", { openFile: filesOf(files), allowBacking: true });
  ok((await content(source)).equals(Buffer.concat([Buffer.alloc(K64, "E"), Buffer.alloc(K64)])));
  await source.close();
  ok(files.a.isClosed && files["disk.data"].isClosed);
  const nameless = { ...image, extensions: [] };
  await refuses(open(nameless, { allowBacking: true }), "IMAGE_UNSUPPORTED", /doesn't say which/);
});

test("a refused image is closed", async () => {
  const file = MemoryFile.of(handmade({ method: 1 }));
  await rejects(openImage("a", { openFile: filesOf({ a: file }) }));
  ok(file.isClosed);
});

test("when a backing file can't be opened, all that was opened is closed", async () => {
  const image: Handmade = {
    incompatible: 4n,
    ...backed("missing", "raw"),
    extensions: [
      { type: DATA_FILE_NAME, content: text.encode("disk.data") },
      { type: BACKING_FORMAT, content: text.encode("raw") },
    ],
  };
  const files = { a: MemoryFile.of(handmade(image)), "disk.data": new MemoryFile() };
  await rejects(openImage("a", { openFile: filesOf(files), allowBacking: true }), /ENOENT/);
  ok(files.a.isClosed && files["disk.data"].isClosed);
});

test("a raw image that begins like qcow2 is not looked into when it's said to be raw", async () => {
  const bytes = handmade(backed("/etc/shadow", "raw"));
  const source = await openBytes(bytes, { format: "raw" });
  deepEqual([source.format, source.sizeBytes], ["raw", bytes.length]);
  ok((await content(source)).equals(bytes));
});

test("qcow2 that isn't is refused", async () => {
  await refuses(
    openBytes(Buffer.alloc(1000), { format: "qcow2" }),
    "IMAGE_UNSUPPORTED",
    /doesn't begin like a qcow2/,
  );
});
