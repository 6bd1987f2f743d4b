// SPDX-License-Identifier: Apache-2.0
//
// Packs, written and read through a target in memory: what was added comes back from its place, whatever was changed is
// noticed, and costs no more than it has to.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { hash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import type { Zstd } from "../host/ports.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { SIM_ZSTD } from "../sim/sim-zstd.ts";
import { PACK_BYTES_MAX } from "./pack-head.ts";
import { PackReader } from "./pack-reader.ts";
import { type FinishedPack, PackWriter } from "./pack-writer.ts";
import {
  BLOCK_BYTES,
  GROUP_SLOTS,
  ordinalOf,
  PACK_SLOTS_MAX,
  PackTable,
  placeAt,
  slotOf,
} from "./place.ts";
import { objectPath } from "./sealed-object.ts";
import { CONTENT_ID_BYTES, PLAIN_SEALER } from "./sealing.ts";

const RAW: Zstd = { ...SIM_ZSTD, compress: (content) => Promise.resolve(content.slice()) };

/** A block that its number tells; every third one does not shrink. */
function blockOf(number: number): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES);
  const words = new Uint32Array(block.buffer);
  if (number % 3 === 0) {
    const prng = new Prng(number);
    for (let at = 0; at < words.length; at += 1) words[at] = prng.word();
  } else words.fill(number + 1);
  return block;
}

class Rig {
  readonly bucket: MemoryBucket = new MemoryBucket();
  readonly store: MemoryObjectStore = new MemoryObjectStore(this.bucket);
  readonly packs: PackTable = new PackTable();
  readonly finished: FinishedPack[] = [];
  readonly writer: PackWriter;

  constructor(zstd: Zstd = SIM_ZSTD) {
    this.writer = new PackWriter({
      store: this.store,
      sealer: PLAIN_SEALER,
      zstd,
      random: new SimRandom(new Prng(1)),
      packs: this.packs,
      onFinished: (pack) => this.finished.push(pack),
    });
  }

  async add(count: number): Promise<number[]> {
    const places: number[] = [];
    const id = new Uint8Array(CONTENT_ID_BYTES);
    for (let number = 0; number < count; number += 1) {
      if (this.writer.isBusy) await this.writer.drained();
      const block = blockOf(number);
      PLAIN_SEALER.contentId(block, id, 0);
      places.push(this.writer.add(block, id, 0));
    }
    return places;
  }

  reader(cacheBytes = 0): PackReader {
    const { store, packs } = this;
    return new PackReader({ store, sealer: PLAIN_SEALER, zstd: SIM_ZSTD, packs, cacheBytes });
  }

  /** The one pack's bytes, to be spoiled. */
  onlyPack(): { path: string; bytes: Uint8Array } {
    equal(this.finished.length, 1);
    const path = objectPath("pack", this.finished[0]!.name);
    return { path, bytes: this.bucket.objects.get(path)! };
  }
}

async function blockAt(reader: PackReader, place: number): Promise<Uint8Array> {
  const group = Math.floor(slotOf(place) / GROUP_SLOTS);
  const [content] = reader.groups(ordinalOf(place), group, group + 1);
  const start = (slotOf(place) % GROUP_SLOTS) * BLOCK_BYTES;
  return (await content!).subarray(start, start + BLOCK_BYTES);
}

test("every block comes back from its place, with its id", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 300 }), fc.boolean(), async (count, isRaw) => {
      const rig = new Rig(isRaw ? RAW : SIM_ZSTD);
      const places = await rig.add(count);
      await rig.writer.flush();
      const reader = rig.reader();
      for (const [number, place] of places.entries())
        deepEqual(Buffer.from(await blockAt(reader, place)), Buffer.from(blockOf(number)));
      const { name, ids, slotCount } = rig.finished[0]!;
      equal(slotCount, count);
      deepEqual(Buffer.from(await reader.ids(name)), Buffer.from(ids));
      const id = new Uint8Array(CONTENT_ID_BYTES);
      PLAIN_SEALER.contentId(blockOf(count - 1), id, 0);
      deepEqual(Buffer.from(ids.subarray((count - 1) * CONTENT_ID_BYTES)), Buffer.from(id));
      equal(await reader.sizeBytes(name), rig.onlyPack().bytes.length);
    }),
    { numRuns: 12 },
  );
});

test("a pack ends at its last slot, and before it grows beyond 32 MiB", async () => {
  const many = new Rig();
  const places = await many.add(PACK_SLOTS_MAX + 1);
  await many.writer.flush();
  deepEqual(
    many.finished.map(({ slotCount }) => slotCount),
    [PACK_SLOTS_MAX, 1],
  );
  equal(places.at(-1), placeAt(1, 0));

  const large = new Rig(RAW);
  const largePlaces = await large.add(9000);
  await large.writer.flush();
  // Buffers of groups were used again: no block went with them.
  const reader = large.reader(4 << 20);
  for (let number = 0; number < 9000; number += 77)
    deepEqual(await blockAt(reader, largePlaces[number]!), blockOf(number));
  equal(large.finished.length, 2);
  for (const { sizeBytes } of large.finished) ok(sizeBytes <= PACK_BYTES_MAX);
  ok(large.finished[0]!.sizeBytes > PACK_BYTES_MAX - (4 << 20));
});

test("two packs of the same blocks have different names", async () => {
  const rig = new Rig();
  await rig.add(3);
  await rig.writer.flush();
  await rig.add(3);
  await rig.writer.flush();
  equal(rig.packs.size, 2);
  ok(rig.packs.nameOf(0) !== rig.packs.nameOf(1));
});

test("the writer makes the caller wait while the compressor is behind", async () => {
  const waiting: (() => void)[] = [];
  const slow: Zstd = {
    ...SIM_ZSTD,
    compress: (content) => new Promise((resolve) => waiting.push(() => resolve(content.slice()))),
  };
  const { writer } = new Rig(slow);
  const id = new Uint8Array(CONTENT_ID_BYTES);
  let added = 0;
  for (; !writer.isBusy; added += 1) writer.add(blockOf(1), id, 0);
  equal(added, 8 * GROUP_SLOTS);
  const drained = writer.drained();
  waiting.shift()!();
  await drained;
  equal(writer.isBusy, false);
});

test("a full target fails what is called next, and all that follows", async () => {
  const rig = new Rig();
  rig.bucket.capacityBytes = 1000;
  await rig.add(10);
  await rejects(rig.writer.flush(), { code: "TARGET_FULL" });
  await rejects(rig.add(1), { code: "TARGET_FULL" });
  equal(rig.finished.length, 0);
});

test("a flipped bit costs its group, and no other one", async () => {
  const rig = new Rig();
  const places = await rig.add(4 * GROUP_SLOTS);
  await rig.writer.flush();
  const { bytes } = rig.onlyPack();
  const name = rig.finished[0]!.name;
  const head = await rig.reader().head(name);
  bytes[head.offset(2) + 100]! ^= 1;
  const reader = rig.reader();
  // All at once, so that they are read together.
  const groups = await Promise.allSettled(reader.groups(0, 0, 4));
  deepEqual(
    groups.map(({ status }) => status),
    ["fulfilled", "fulfilled", "rejected", "fulfilled"],
  );
  await rejects(blockAt(reader, places[2 * GROUP_SLOTS]!), { code: "TARGET_CORRUPT" });
  equal((await blockAt(reader, places[0]!)).length, BLOCK_BYTES);
});

test("a damaged id, head, footer or name is noticed", async () => {
  const rig = new Rig();
  await rig.add(70);
  await rig.writer.flush();
  const { path, bytes } = rig.onlyPack();
  const name = rig.finished[0]!.name;
  const head = await rig.reader().head(name);
  const spoil = async (at: number, act: (reader: PackReader) => Promise<unknown>) => {
    bytes[at]! ^= 0x10;
    await rejects(act(rig.reader()), { code: "TARGET_CORRUPT" });
    bytes[at]! ^= 0x10;
  };
  await spoil(head.idsOffset, (reader) => reader.ids(name));
  for (let at = head.bodyBytes; at < bytes.length; at += 1)
    await spoil(at, (reader) => reader.head(name));
  rig.bucket.objects.delete(path);
  await rejects(rig.reader().head(name), {
    code: "TARGET_CORRUPT",
    data: { object: path, isMissing: true },
  });
});

test("a pack of a later version is refused as such, when its name proves that it is one", async () => {
  const rig = new Rig();
  await rig.add(1);
  await rig.writer.flush();
  const { bytes } = rig.onlyPack();
  bytes[bytes.length - 24] = 2;
  const { name } = rig.finished[0]!;
  await rejects(rig.reader().head(name), { code: "TARGET_CORRUPT" });
  const headBytes = new DataView(bytes.buffer).getUint32(bytes.length - 20, true);
  const later = hash("sha256", bytes.subarray(bytes.length - 32 - headBytes), "hex");
  rig.bucket.objects.set(objectPath("pack", later), bytes);
  await rejects(rig.reader().head(later), { code: "FORMAT_UNSUPPORTED" });
});

test("a pack that is cut anywhere, or says whatever it likes, is refused with an error of ours", async () => {
  const rig = new Rig();
  await rig.add(70);
  await rig.writer.flush();
  const { path, bytes } = rig.onlyPack();
  const name = rig.finished[0]!.name;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(bytes.length - 1),
      fc.uint8Array({ maxLength: 60 }),
      async (at, noise) => {
        rig.bucket.objects.set(path, Buffer.concat([bytes.subarray(0, at), noise]));
        const reader = rig.reader();
        await rejects(reader.head(name), StorageError);
        await rejects(reader.ids(name), StorageError);
        for (const group of reader.groups(0, 0, 2)) await rejects(group, StorageError);
      },
    ),
  );
});

test("what is asked for twice is read once, and what failed is tried anew", async () => {
  const rig = new Rig();
  await rig.add(2 * GROUP_SLOTS);
  await rig.writer.flush();
  let reads = 0;
  let isDown = true;
  const store = new MemoryObjectStore(rig.bucket, {
    begin: async (operation) => {
      reads += operation.kind === "get" ? 1 : 0;
      return isDown ? "failed" : undefined;
    },
  });
  const { packs } = rig;
  const reader = new PackReader({
    store,
    sealer: PLAIN_SEALER,
    zstd: SIM_ZSTD,
    packs,
    cacheBytes: 0,
  });
  await rejects(reader.groups(0, 0, 1)[0]!, { code: "TARGET_UNAVAILABLE" });
  isDown = false;
  reads = 0;
  await Promise.all([...reader.groups(0, 0, 2), ...reader.groups(0, 0, 2)]);
  await Promise.all(reader.groups(0, 1, 2));
  equal(reads, 2);
});
