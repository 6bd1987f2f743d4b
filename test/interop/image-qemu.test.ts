// SPDX-License-Identifier: Apache-2.0
//
// Images against qemu-img: what it writes in all its ways is read bit by bit, what Varve writes passes
// its check and is identical to it.

import { equal, match, ok, rejects } from "node:assert/strict";
import { spawn } from "node:child_process";
import { copyFile, open as openFile, stat, truncate } from "node:fs/promises";
import { test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import { copyImage } from "../../src/image/copy.ts";
import type { ImageFormat } from "../../src/image/image.ts";
import { openImage } from "../../src/image/open-image.ts";
import { createQcow2Sink, type Qcow2SinkOptions } from "../../src/image/qcow2-sink.ts";
import { RawSink } from "../../src/image/raw.ts";
import { createStreamSink, openStream } from "../../src/image/stream.ts";
import { openReal } from "../image/real-files.ts";
import { closed, run } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

const needs = { skip: requires("qemu-img --version", "qemu-io --version") };
const MIB = 1 << 20;
/** Not a multiple of any cluster size, so that each last cluster is cut. */
const DISK_BYTES = 24 * MIB + 5 * 512;

/** A sparse disk: text, noise, single sectors in long holes, and something in the last sector. */
async function makeDisk(path: string, sizeBytes: number = DISK_BYTES): Promise<void> {
  await using file = await openFile(path, "wx");
  await file.truncate(sizeBytes);
  await file.write(Buffer.alloc(3 * MIB, "a line of text that repeats\n"), 0, 3 * MIB, 512);
  const noise = Buffer.alloc(2 * MIB);
  for (let at = 0; at < noise.length; at += 4) {
    noise.writeInt32LE(Math.imul(at + 1, 0x9e3779b1) ^ (at >> 3), at);
  }
  await file.write(noise, 0, noise.length, 9 * MIB + 300 * 512);
  for (let at = 14 * MIB; at < 20 * MIB; at += 333 * 512) {
    await file.write(Buffer.from(`sector ${at}`), 0, undefined, at);
  }
  await file.write(Buffer.from("the end"), 0, undefined, sizeBytes - 7);
}

interface Conversion {
  readonly allowBacking?: boolean;
  readonly format?: ImageFormat;
}

async function toRaw(from: string, to: string, options: Conversion = {}): Promise<void> {
  const source = await openImage(from, { openFile: openReal, ...options });
  const target = await openReal(to, "create");
  await copyImage(source, new RawSink(target, { isEmpty: true }));
  await target.close();
  await source.close();
}

async function toQcow2(
  from: string,
  to: string,
  options: Partial<Qcow2SinkOptions>,
): Promise<void> {
  const source = await openImage(from, { openFile: openReal });
  const target = await openReal(to, "create");
  await copyImage(
    source,
    await createQcow2Sink(target, { sizeBytes: source.sizeBytes, ...options }),
  );
  await target.close();
  await source.close();
}

async function identical(a: string, b: string): Promise<void> {
  await run("cmp", [a, b]);
}

const WRITTEN_BY_QEMU: Readonly<Record<string, readonly string[]>> = {
  "as usual": [],
  "compat=0.10": ["-o", "compat=0.10"],
  "compat=0.10, compressed": ["-c", "-o", "compat=0.10"],
  "compat=0.10, clusters of 2 MiB": ["-o", "compat=0.10,cluster_size=2M"],
  "clusters of 512 B": ["-o", "cluster_size=512"],
  "clusters of 4 KiB": ["-o", "cluster_size=4k"],
  "clusters of 2 MiB": ["-o", "cluster_size=2M"],
  compressed: ["-c"],
  "compressed, clusters of 512 B": ["-c", "-o", "cluster_size=512"],
  "compressed, clusters of 2 MiB": ["-c", "-o", "cluster_size=2M"],
  "compressed with zstd": ["-c", "-o", "compression_type=zstd"],
  "compressed with zstd, clusters of 2 MiB": ["-c", "-o", "compression_type=zstd,cluster_size=2M"],
  extended_l2: ["-o", "extended_l2=on"],
  "extended_l2, compressed": ["-c", "-o", "extended_l2=on"],
  "extended_l2, clusters of 16 KiB": ["-o", "extended_l2=on,cluster_size=16k"],
  "extended_l2, clusters of 2 MiB": ["-o", "extended_l2=on,cluster_size=2M"],
  "preallocation=metadata": ["-o", "preallocation=metadata"],
  "preallocation=falloc": ["-o", "preallocation=falloc"],
  "lazy refcounts of 1 bit": ["-o", "lazy_refcounts=on,refcount_bits=1"],
  "not sparse": ["-S", "0"],
};

for (const [name, options] of Object.entries(WRITTEN_BY_QEMU)) {
  test(`a qcow2 image of qemu-img is read as it is: ${name}`, needs, async () => {
    await using scratch = await Scratch.create();
    const [disk, image, back] = ["disk.raw", "disk.qcow2", "back.raw"].map((n) => scratch.path(n));
    await makeDisk(disk!);
    await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", ...options, disk!, image!]);
    await toRaw(image!, back!);
    await identical(disk!, back!);
  });
}

for (const [name, options] of Object.entries<Partial<Qcow2SinkOptions>>({
  "as usual": {},
  "compressed with zlib": { compression: "zlib" },
  "compressed with zlib, level 9": { compression: "zlib", level: 9 },
  "compressed with zstd": { compression: "zstd" },
  "compressed with zstd, level 9": { compression: "zstd", level: 9 },
  "clusters of 512 B": { clusterBits: 9 },
  "clusters of 4 KiB, compressed": { clusterBits: 12, compression: "zlib" },
  "clusters of 1 KiB, compressed with zstd": { clusterBits: 10, compression: "zstd" },
  "clusters of 2 MiB, compressed": { clusterBits: 21, compression: "zlib" },
})) {
  test(`a qcow2 image of ours has no errors and is identical: ${name}`, needs, async () => {
    await using scratch = await Scratch.create();
    const [disk, image, back] = ["disk.raw", "disk.qcow2", "back.raw"].map((n) => scratch.path(n));
    await makeDisk(disk!);
    await toQcow2(disk!, image!, options);
    const check = await run("qemu-img", ["check", image!]);
    match(check.stdout, /No errors were found on the image/);
    ok(!/leaked|corrupt/i.test(check.stdout), check.stdout);
    await run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", disk!, image!]);
    await toRaw(image!, back!);
    await identical(disk!, back!);
    const map = JSON.parse((await run("qemu-img", ["map", "--output=json", image!])).stdout) as {
      zero: boolean;
      length: number;
    }[];
    const zeroBytes = map.reduce((sum, part) => sum + (part.zero ? part.length : 0), 0);
    if ((options.clusterBits ?? 16) <= 16) ok(zeroBytes > 11 * MIB, `${zeroBytes} bytes of zeros`);
  });
}

test("an image of ours is written on by qemu and still has no errors", needs, async () => {
  await using scratch = await Scratch.create();
  const [disk, image, back] = ["disk.raw", "disk.qcow2", "back.raw"].map((n) => scratch.path(n));
  await makeDisk(disk!);
  for (const compression of [undefined, "zlib", "zstd"] as const) {
    const path = `${image}-${compression}`;
    await toQcow2(disk!, path, { compression });
    const writes = ["write -P 7 100k 3M", "write -z 9M 1M", "discard 14M 2M", "write -P 9 20M 64k"];
    await run("qemu-io", ["-f", "qcow2", ...writes.flatMap((one) => ["-c", one]), path]);
    await run("qemu-img", ["check", path]);
    await toRaw(path, `${back}-${compression}`);
    await run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", path, `${back}-${compression}`]);
  }
});

test("empty, tiny and huge disks", needs, async () => {
  await using scratch = await Scratch.create();
  for (const sizeBytes of [0, 512, 65536, 65537, 64 * 2 ** 40]) {
    const raw = scratch.path(`${sizeBytes}.raw`);
    const image = scratch.path(`${sizeBytes}.qcow2`);
    await using file = await openFile(raw, "wx");
    await file.write(Buffer.alloc(Math.min(sizeBytes, 600), "x"));
    if (sizeBytes <= MIB) {
      await file.truncate(sizeBytes);
      await toQcow2(raw, image, {});
      // Disks have whole sectors.
      await file.truncate(Math.ceil(sizeBytes / 512) * 512);
      await toRaw(image, `${raw}.back`);
      await identical(raw, `${raw}.back`);
    } else {
      const target = await openReal(image, "create");
      const sink = await createQcow2Sink(target, { sizeBytes });
      await sink.write(Buffer.alloc(65536, "x"), sizeBytes - 65536);
      await sink.finish(sizeBytes);
      await target.close();
    }
    const info = await run("qemu-img", ["info", "--output=json", image]);
    equal(JSON.parse(info.stdout)["virtual-size"], Math.ceil(sizeBytes / 512) * 512);
    await run("qemu-img", ["check", image]);
    ok((await stat(image)).size < 5 * MIB);
  }
});

test("a backing chain is read as one disk, only when it's allowed", needs, async () => {
  await using scratch = await Scratch.create();
  const path = (name: string): string => scratch.path(name);
  const create = (
    name: string,
    base: string,
    format: string,
    ...more: string[]
  ): Promise<unknown> =>
    run(
      "qemu-img",
      ["create", "-q", "-f", "qcow2", "-b", base, "-F", format, ...more, path(name)],
      {
        cwd: scratch.directory,
      },
    );
  await makeDisk(path("base.raw"));
  await create("one.qcow2", "base.raw", "raw", "-o", "extended_l2=on");
  await create("two.qcow2", "one.qcow2", "qcow2");
  // The top is larger than what it stands on, and has zeros over its data.
  await create("top.qcow2", path("two.qcow2"), "qcow2", "-o", "cluster_size=4k");
  await run("qemu-img", ["resize", "-q", path("top.qcow2"), "+3M"]);
  for (const [name, ...writes] of [
    ["one.qcow2", "write -P 1 1M 3k", "write -z 2M 9k"],
    ["two.qcow2", "write -P 2 1025k 100k", "write -z 10M 1M"],
    ["top.qcow2", "write -P 3 24M 100k", "write -z 512 512", "write -P 4 15M 512"],
  ] as const) {
    const commands = writes.flatMap((one) => ["-c", one]);
    await run("qemu-io", ["-f", "qcow2", ...commands, path(name)], { cwd: scratch.directory });
  }
  await run("qemu-img", ["convert", "-O", "raw", path("top.qcow2"), path("wanted.raw")]);
  await toRaw(path("top.qcow2"), path("back.raw"), { allowBacking: true });
  await identical(path("wanted.raw"), path("back.raw"));
  await rejects(openImage(path("top.qcow2"), { openFile: openReal }), (error) => {
    ok(hasCode(error, "IMAGE_UNSUPPORTED"));
    match(error.message, /has a backing file, ".*two\.qcow2"/);
    return true;
  });
});

test("an external data file is read, only when it's allowed", needs, async () => {
  await using scratch = await Scratch.create();
  for (const isRaw of ["off", "on"]) {
    const [disk, image] = [scratch.path(`${isRaw}.raw`), scratch.path(`${isRaw}.qcow2`)];
    await makeDisk(disk);
    const options = `data_file=${image}.data,data_file_raw=${isRaw}`;
    // qemu-img makes the data file only when it creates the image, not when it converts to it.
    await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, image, `${DISK_BYTES}`]);
    await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "qcow2", disk, image]);
    await toRaw(image, `${disk}.back`, { allowBacking: true });
    await identical(disk, `${disk}.back`);
    await rejects(toRaw(image, `${disk}.no`), /its data is in another file/);
  }
});

test("internal snapshots are passed over: the disk is as it is now", needs, async () => {
  await using scratch = await Scratch.create();
  const [disk, image] = [scratch.path("disk.raw"), scratch.path("disk.qcow2")];
  await makeDisk(disk);
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", disk, image]);
  await run("qemu-img", ["snapshot", "-c", "before", image]);
  await run("qemu-io", ["-f", "qcow2", "-c", "write -P 5 0 5M", image]);
  await run("qemu-img", ["convert", "-O", "raw", image, scratch.path("wanted.raw")]);
  await toRaw(image, scratch.path("back.raw"));
  await identical(scratch.path("wanted.raw"), scratch.path("back.raw"));
});

test("encrypted images are refused", needs, async () => {
  await using scratch = await Scratch.create();
  const image = scratch.path("secret.qcow2");
  const secret = ["--object", "secret,id=s,data=abc123"];
  const options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"];
  await run("qemu-img", ["create", "-q", ...secret, "-f", "qcow2", ...options, image, "1M"]);
  await rejects(openImage(image, { openFile: openReal }), /it is encrypted \(AES\)/);
});

test("an image that was cut short is refused, never filled up with zeros", needs, async () => {
  await using scratch = await Scratch.create();
  const [disk, image] = [scratch.path("disk.raw"), scratch.path("disk.qcow2")];
  await makeDisk(disk);
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", disk, image]);
  const { size } = await stat(image);
  for (const cut of [100, 70_000, 200_000, 300_000, size / 2, size - 100_000]) {
    const broken = `${image}-${cut}`;
    await copyFile(image, broken);
    await truncate(broken, Math.floor(cut));
    await rejects(toRaw(broken, `${broken}.raw`, { format: "qcow2" }), (error) =>
      hasCode(error, "IMAGE_CORRUPT"),
    );
  }
});

test("foreign formats are refused rather than copied byte by byte", needs, async () => {
  await using scratch = await Scratch.create();
  for (const format of ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"]) {
    const image = scratch.path(`disk.${format}`);
    await run("qemu-img", ["create", "-q", "-f", format, image, "4M"]);
    await rejects(openImage(image, { openFile: openReal }), (error) => {
      ok(hasCode(error, "IMAGE_UNSUPPORTED"), String(error));
      return true;
    });
    const raw = await openImage(image, { openFile: openReal, format: "raw" });
    equal(raw.sizeBytes, (await stat(image)).size);
    await raw.close();
  }
});

const root = { what: "root", isMet: process.getuid?.() === 0 };

test("a block device is read to its end, and written over with zeros too", {
  skip: requires("qemu-img --version", "losetup --version", root),
}, async () => {
  await using scratch = await Scratch.create();
  const [disk, image, under] = ["disk.raw", "disk.qcow2", "under"].map((n) => scratch.path(n));
  await makeDisk(disk!);
  await using file = await openFile(under!, "wx");
  await file.write(Buffer.alloc(DISK_BYTES, "old"));
  const loop = (await run("losetup", ["--find", "--show", under!])).stdout.trim();
  scratch.defer(loop, () => run("losetup", ["-d", loop]));
  const source = await openImage(disk!, { openFile: openReal });
  const target = await openReal(loop, "write");
  await copyImage(source, new RawSink(target, { isEmpty: false }));
  await target.close();
  await source.close();
  await identical(disk!, loop);
  // The file system says that a device has no length.
  await toQcow2(loop, image!, { compression: "zlib" });
  await run("qemu-img", ["check", image!]);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", disk!, image!]);
});

test("a raw image through pipes arrives as it was", needs, async () => {
  await using scratch = await Scratch.create();
  const [disk, out] = [scratch.path("disk.raw"), scratch.path("out.raw")];
  await makeDisk(disk);
  const source = await openImage(disk, { openFile: openReal });
  const writer = spawn("sh", ["-c", `cat > "${out}"`], { stdio: ["pipe", "inherit", "inherit"] });
  const sink = createStreamSink(
    "raw",
    (bytes) =>
      new Promise((resolve, reject) => {
        writer.stdin.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
  );
  await copyImage(source, sink);
  writer.stdin.end();
  equal(await closed(writer), 0);
  await identical(disk, out);
  const reader = spawn("cat", [disk], { stdio: ["ignore", "pipe", "inherit"] });
  const target = await openReal(scratch.path("in.raw"), "create");
  const stream = await openStream(reader.stdout);
  const { writtenBytes } = await copyImage(stream, new RawSink(target, { isEmpty: true }));
  await target.close();
  await identical(disk, scratch.path("in.raw"));
  ok(writtenBytes < 6 * MIB, `${writtenBytes} bytes of data`);
});
