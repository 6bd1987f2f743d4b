// SPDX-License-Identifier: Apache-2.0
//
// A copy is complete or it says what stopped it, keeps order where order is wanted, and writes no zeros.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { filesOf } from "../../test/image/handmade.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { hasCode } from "../base/errors.ts";
import { type CopyProgress, copyImage, PIECE_BYTES } from "./copy.ts";
import type { Extent, ImageSink, ImageSource } from "./image.ts";
import { openImage } from "./open-image.ts";
import { createQcow2Sink } from "./qcow2-sink.ts";
import { RawSink, RawSource } from "./raw.ts";
import { createStreamSink, openStream, StreamSink } from "./stream.ts";

const MIB = 1 << 20;

/** `sizeBytes` of zeros with some bytes of `fill` at each of `places`. */
async function sparseSource(sizeBytes: number, places: readonly number[]): Promise<RawSource> {
  const file = new MemoryFile();
  await file.truncate(sizeBytes);
  for (const place of places) file.writeSync(Buffer.from(`at ${place}`), place);
  return new RawSource(file, sizeBytes, "disk.raw");
}

async function* chunksOf(bytes: Uint8Array, chunkBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

test("only blocks that hold something are written to a new raw file", async () => {
  const sizeBytes = 20 * MIB + 100;
  const source = await sparseSource(sizeBytes, [0, 5 * MIB + 4096, sizeBytes - 20]);
  const target = new MemoryFile();
  const result = await copyImage(source, new RawSink(target, { isEmpty: true }));
  deepEqual(result, { sizeBytes, writtenBytes: 4096 * 2 + 100 });
  equal(target.pageCount, 3);
  equal(await target.sizeBytes(), sizeBytes);
  equal(target.datasyncCount, 1);
  const wanted = Buffer.alloc(sizeBytes);
  await source.read(wanted, 0);
  ok(wanted.equals(target.bytes()));
});

test("over what was there before, zeros are written", async () => {
  const source = await sparseSource(3 * MIB, [MIB]);
  const target = MemoryFile.of(Buffer.alloc(4 * MIB, "old"));
  await copyImage(source, new RawSink(target, { isEmpty: false }));
  const bytes = target.bytes();
  equal(bytes.length, 4 * MIB);
  equal(Buffer.from(bytes.subarray(MIB, MIB + 10)).toString(), `at ${MIB}`);
  ok(bytes.subarray(0, MIB).every((byte) => byte === 0));
  ok(bytes.subarray(3 * MIB).every((byte) => byte !== 0));
});

test("progress reaches the whole, never goes back, and counts what was written", async () => {
  const source = await sparseSource(10 * MIB, [0, 9 * MIB]);
  const seen: CopyProgress[] = [];
  await copyImage(source, new RawSink(new MemoryFile(), { isEmpty: true }), {
    onProgress: (progress) => seen.push(progress),
  });
  deepEqual(seen.at(-1), { doneBytes: 10 * MIB, totalBytes: 10 * MIB, writtenBytes: 8192 });
  ok(seen.every((one, index) => index === 0 || one.doneBytes > seen[index - 1]!.doneBytes));
});

test("a read that fails stops the copy, with the bytes it was about; nothing is finished", async () => {
  const file = new MemoryFile();
  await file.truncate(10 * MIB);
  file.failAt = { position: 5 * MIB + 7, errno: "EIO" };
  const target = new MemoryFile();
  const copy = copyImage(
    new RawSource(file, 10 * MIB, "disk.raw"),
    new RawSink(target, { isEmpty: true }),
  );
  await rejects(copy, (error) => {
    ok(hasCode(error, "DISK_IO"));
    match(error.message, /^copy: reading bytes 5242880 to 6291456 of the disk failed: "memory"/);
    deepEqual([error.data.startBytes, error.data.errno], [5 * MIB, "EIO"]);
    return true;
  });
  equal(target.datasyncCount, 0);
});

test("a target that is full stops the copy, and the hint speaks of the target", async () => {
  const target = new MemoryFile();
  target.failAt = { position: MIB, errno: "ENOSPC" };
  const copy = copyImage(
    await sparseSource(2 * MIB, [MIB]),
    new RawSink(target, { isEmpty: true }),
  );
  await rejects(copy, (error) => {
    ok(hasCode(error, "DISK_FULL"));
    match(error.message, /^copy: writing bytes 1048576 to 1052672/);
    match(error.hint, /where the image is written/);
    return true;
  });
});

test("a failing finish is an error too", async () => {
  const sink: ImageSink = {
    ...{ granuleBytes: 4096, isSequential: false },
    write: async () => {},
    zero: async () => {},
    finish: () => Promise.reject(new Error("no")),
  };
  await rejects(copyImage(await sparseSource(MIB, []), sink), /no/);
});

test("an abort ends the copy with its reason, before more is read", async () => {
  const aborter = new AbortController();
  const file = new MemoryFile();
  await file.truncate(100 * MIB);
  const target = new MemoryFile();
  const copy = copyImage(
    new RawSource(file, 100 * MIB, "disk.raw"),
    new RawSink(target, { isEmpty: true }),
    {
      ...{ signal: aborter.signal, laneCount: 2 },
      onProgress: () => aborter.abort(new Error("enough")),
    },
  );
  await rejects(copy, /enough/);
  ok(file.readCount <= 4, `${file.readCount} reads`);
  equal(target.datasyncCount, 0);
});

test("an abort doesn't wait for a pipe that is silent", async () => {
  const aborter = new AbortController();
  const silent: AsyncIterable<Uint8Array> = {
    [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }),
  };
  const source = await openStream(silent, { format: "raw" });
  const copy = copyImage(source, new RawSink(new MemoryFile(), { isEmpty: true }), {
    signal: aborter.signal,
  });
  aborter.abort(new Error("enough"));
  await rejects(copy, /enough/);
  const stuck = new StreamSink(() => new Promise(() => {}));
  const second = new AbortController();
  const blocked = copyImage(await sparseSource(MIB, [0]), stuck, { signal: second.signal });
  second.abort(new Error("enough"));
  await rejects(blocked, /enough/);
});

test("at most as many pieces are under way as there are lanes", async () => {
  let underWay = 0;
  let most = 0;
  const source: ImageSource = {
    ...{ format: "raw", sizeBytes: 30 * PIECE_BYTES, warnings: [] },
    extentAt: async (offset): Promise<Extent> => ({
      ...{ start: offset, end: 30 * PIECE_BYTES, kind: "data" },
    }),
    read: async (target) => {
      most = Math.max(most, ++underWay);
      await new Promise((resolve) => setImmediate(resolve));
      target.fill(1);
      underWay -= 1;
    },
    close: async () => {},
  };
  await copyImage(source, new RawSink(new MemoryFile(), { isEmpty: true }), { laneCount: 3 });
  equal(most, 3);
});

test("a stream gets all bytes in order, zeros too, however reads finish", async () => {
  const sizeBytes = 12 * MIB + 5;
  const plain = await sparseSource(sizeBytes, [0, 3 * MIB, 7 * MIB + 1, sizeBytes - 9]);
  const wanted = Buffer.alloc(sizeBytes);
  await plain.read(wanted, 0);
  let turn = 0;
  const jumbled: ImageSource = {
    ...{ format: "raw", sizeBytes, warnings: [], close: async () => {} },
    extentAt: (offset) => plain.extentAt(offset),
    read: async (target, offset) => {
      // Every other piece takes its time.
      turn += 1;
      for (let wait = turn % 2 === 0 ? 20 : 0; wait > 0; wait -= 1) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      await plain.read(target, offset);
    },
  };
  const received: Buffer[] = [];
  const sink = createStreamSink("raw", async (bytes) => {
    received.push(Buffer.from(bytes));
  });
  await copyImage(jumbled, sink);
  ok(Buffer.concat(received).equals(wanted));
});

test("after a failure a stream gets nothing that comes later", async () => {
  const file = new MemoryFile();
  await file.truncate(10 * MIB);
  for (let at = 0; at < 10; at += 1) file.writeSync(Buffer.from([at + 1]), at * MIB);
  file.failAt = { position: 4 * MIB, errno: "EIO" };
  const received: number[] = [];
  const sink = new StreamSink(async (bytes) => {
    if (bytes[0] !== 0) received.push(bytes[0]!);
  });
  await rejects(
    copyImage(new RawSource(file, 10 * MIB, "disk.raw"), sink),
    /reading bytes 4194304/,
  );
  ok(received.length <= 4 && received.every((one, index) => one === index + 1), `${received}`);
});

test("a stream of unknown length becomes a disk of what came", async () => {
  const bytes = Buffer.alloc(3 * MIB + 123, "stream");
  bytes.fill(0, MIB, 2 * MIB);
  for (const chunkBytes of [999, 100_000, 5 * MIB]) {
    const target = new MemoryFile();
    const source = await openStream(chunksOf(bytes, chunkBytes));
    const result = await copyImage(source, new RawSink(target, { isEmpty: true }));
    equal(result.sizeBytes, bytes.length);
    ok(bytes.equals(target.bytes()));
  }
});

test("a stream must have the length that was announced", async () => {
  const bytes = Buffer.alloc(2 * MIB, "x");
  const copyOf = async (sizeBytes: number): Promise<unknown> =>
    copyImage(
      await openStream(chunksOf(bytes, 65536), { sizeBytes }),
      new RawSink(new MemoryFile(), { isEmpty: true }),
    );
  await copyOf(2 * MIB);
  await rejects(copyOf(2 * MIB + 1), (error) => hasCode(error, "IMAGE_CORRUPT"));
  await rejects(copyOf(2 * MIB - 1), /more than the 2097151 bytes/);
  await rejects(copyOf(3 * MIB), /ended after 2097152 of 3145728 bytes/);
});

test("qcow2 goes through no pipe, and the message says why", async () => {
  const bytes = Buffer.concat([Buffer.from("QFI\xfb", "latin1"), Buffer.alloc(1000)]);
  const refused = (error: unknown): boolean => hasCode(error, "IMAGE_UNSUPPORTED");
  await rejects(openStream(chunksOf(bytes, 3)), refused);
  await rejects(openStream(chunksOf(bytes, 3), { format: "qcow2" }), /found by position/);
  await rejects(async () => createStreamSink("qcow2", async () => {}), refused);
  const asRaw = await openStream(chunksOf(bytes, 3), { format: "raw" });
  const target = new MemoryFile();
  await copyImage(asRaw, new RawSink(target, { isEmpty: true }));
  ok(bytes.equals(target.bytes()));
});

test("a cluster that is zero only in part is written whole", async () => {
  const disk = Buffer.alloc(10 * 65536);
  const edges = [0, 512, 65536 * 2 - 512, 65536 * 2 + 512, 65536 * 5 + 1024, 65536 * 5 + 1536];
  for (let i = 0; i < edges.length; i += 2) disk.fill("d", edges[i], edges[i + 1]);
  const source: ImageSource = {
    ...{ format: "raw", sizeBytes: disk.length, warnings: [], close: async () => {} },
    extentAt: async (offset): Promise<Extent> => {
      const next = edges.findIndex((edge) => edge > offset);
      const end = next === -1 ? disk.length : edges[next]!;
      return { start: offset, end, kind: next % 2 === 1 ? "data" : "zero" };
    },
    read: async (target, offset) => {
      target.set(disk.subarray(offset, offset + target.length));
    },
  };
  const file = new MemoryFile();
  const { writtenBytes } = await copyImage(
    source,
    await createQcow2Sink(file, { sizeBytes: disk.length }),
  );
  equal(writtenBytes, 4 * 65536);
  const back = await openImage("a", { openFile: filesOf({ a: file }) });
  const read = Buffer.alloc(disk.length);
  await back.read(read, 0);
  ok(read.equals(disk));
});

test("an empty disk costs neither reads nor writes of data", async () => {
  const file = new MemoryFile();
  const sink = await createQcow2Sink(file, { sizeBytes: 16 * 2 ** 40 });
  const empty = new MemoryFile();
  await copyImage(new RawSource(empty, 0, "x"), new RawSink(new MemoryFile(), { isEmpty: true }));
  await sink.zero();
  await sink.finish(16 * 2 ** 40);
  const source = await openImage("a", { openFile: filesOf({ a: file }) });
  const target = new MemoryFile();
  const result = await copyImage(source, new RawSink(target, { isEmpty: true }));
  deepEqual(result, { sizeBytes: 16 * 2 ** 40, writtenBytes: 0 });
  equal(await target.sizeBytes(), 16 * 2 ** 40);
  equal(target.pageCount, 0);
});
