// SPDX-License-Identifier: Apache-2.0
//
// Known content: all of it is found while it fits, rows of it beyond, never a wrong block, and never one of a pack that
// nobody vouches for.

import { deepEqual, equal, ok } from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { ContentIndex, INDEX_MEMORY_MIN } from "./content-index.ts";
import { IdTable } from "./id-table.ts";
import { openPackIndex, PACK_INDEX_PREFIX, PackIndexWriter } from "./pack-index.ts";
import { PACK_SLOTS_MAX, PackTable, placeAt } from "./place.ts";
import { CONTENT_ID_BYTES, PLAIN_SEALER } from "./sealing.ts";

const PIECE = 256;

/** Packs of random ids, and a target that knows them. */
class Rig {
  readonly bucket: MemoryBucket = new MemoryBucket();
  readonly store: MemoryObjectStore = new MemoryObjectStore(this.bucket);
  readonly sealer = PLAIN_SEALER;
  readonly random: SimRandom = new SimRandom(new Prng(3));
  readonly packTable: PackTable = new PackTable();
  readonly ids: Map<string, Uint8Array> = new Map();
  fetched: string[] = [];
  readonly packs = {
    ids: (name: string): Promise<Uint8Array> => {
      this.fetched.push(name);
      const ids = this.ids.get(name);
      if (ids === undefined)
        return Promise.reject(new StorageError("TARGET_CORRUPT", `${name}: it is missing`));
      return Promise.resolve(ids);
    },
  };

  newIds(slotCount: number): Uint8Array {
    const ids = new Uint8Array(slotCount * CONTENT_ID_BYTES);
    this.random.fill(ids);
    return ids;
  }

  async addPacks(count: number, slotCount = PACK_SLOTS_MAX): Promise<string[]> {
    const writer = new PackIndexWriter(this);
    const names: string[] = [];
    for (let index = 0; index < count; index += 1) {
      const name = Buffer.from(this.newIds(2).subarray(0, 32)).toString("hex");
      const ids = this.newIds(slotCount);
      this.ids.set(name, ids);
      writer.add({ name, slotCount, ids });
      names.push(name);
    }
    await writer.put();
    return names;
  }

  open(packNames: Iterable<string> = this.ids.keys()): Promise<ContentIndex> {
    return ContentIndex.open({ reader: this, packNames, memoryBytes: INDEX_MEMORY_MIN });
  }

  /** How many of the pack's blocks are found, when they come piece by piece. */
  async foundOf(index: ContentIndex, name: string): Promise<number> {
    const ids = this.ids.get(name)!;
    const slotCount = ids.length / CONTENT_ID_BYTES;
    let found = 0;
    for (let first = 0; first < slotCount; first += PIECE) {
      const end = Math.min(slotCount, first + PIECE);
      await index.prepare(
        ids.subarray(first * CONTENT_ID_BYTES, end * CONTENT_ID_BYTES),
        end - first,
      );
      for (let slot = first; slot < end; slot += 1) {
        const place = index.find(ids, slot * CONTENT_ID_BYTES);
        if (place < 0) continue;
        equal(place, placeAt(this.packTable.ordinalOf(name), slot));
        found += 1;
      }
    }
    return found;
  }
}

describe("content index", () => {
  test("every block is found while all ids fit, and no other one", async () => {
    const rig = new Rig();
    const names = await rig.addPacks(8, 5000);
    const index = await rig.open();
    rig.fetched = [];
    for (const name of names) equal(await rig.foundOf(index, name), 5000);
    deepEqual(rig.fetched, []);
    const unknown = rig.newIds(1000);
    equal(index.prepare(unknown, 1000), undefined);
    for (let at = 0; at < unknown.length; at += CONTENT_ID_BYTES)
      equal(index.find(unknown, at), -1);
  });

  test("beyond memory rows of known blocks are found, by their hooks", async () => {
    const rig = new Rig();
    const names = await rig.addPacks(60);
    const index = await rig.open();
    ok(index.memoryBytes <= INDEX_MEMORY_MIN);
    let found = 0;
    for (const name of [...names, ...names]) {
      found += await rig.foundOf(index, name);
      ok(index.memoryBytes <= INDEX_MEMORY_MIN);
    }
    ok(found > 0.99 * 2 * 60 * PACK_SLOTS_MAX, `${found}`);
    // Each pack once, each time.
    ok(rig.fetched.length <= 3 * 60, `${rig.fetched.length}`);
  });

  test("packs that nobody vouches for are not offered, whatever an index says", async () => {
    const rig = new Rig();
    const [kept, gone] = await rig.addPacks(2, 1000);
    const index = await rig.open([kept!]);
    equal(await rig.foundOf(index, kept!), 1000);
    equal(await rig.foundOf(index, gone!), 0);
    equal(rig.fetched.includes(gone!), false);
  });

  test("an index that lies, is damaged or gone costs finding and nothing else", async () => {
    const rig = new Rig();
    const [pack, other] = await rig.addPacks(2, 2000);
    rig.bucket.objects.clear();
    const liar = new PackIndexWriter(rig);
    liar.add({ name: pack!, slotCount: 2000, ids: rig.ids.get(other!)! });
    await liar.put();
    rig.bucket.objects.set(`${PACK_INDEX_PREFIX}ab/${"ab".repeat(32)}`, rig.newIds(9));
    rig.bucket.objects.set(`${PACK_INDEX_PREFIX}ab/readme`, rig.newIds(9));
    const index = await rig.open();
    equal(await rig.foundOf(index, pack!), 2000);
    equal(await rig.foundOf(index, other!), 2000);
  });

  test("a pack whose ids can't be had is not offered, nor asked for again", async () => {
    const rig = new Rig();
    const [good, bad] = await rig.addPacks(2, 1000);
    const ids = rig.ids.get(bad!)!;
    rig.ids.delete(bad!);
    const index = await rig.open([good!, bad!]);
    rig.ids.set(bad!, ids);
    rig.fetched = [];
    equal(await rig.foundOf(index, good!), 1000);
    equal(await rig.foundOf(index, bad!), 0);
    deepEqual(rig.fetched, []);
  });

  test("a block that the session packed is found at once, and still when its pack was let go", async () => {
    const rig = new Rig();
    await rig.addPacks(40);
    const index = await rig.open();
    const ordinal = rig.packTable.reserve();
    const ids = rig.newIds(PACK_SLOTS_MAX);
    for (let slot = 0; slot < PACK_SLOTS_MAX; slot += 1) {
      index.add(ids, slot * CONTENT_ID_BYTES, placeAt(ordinal, slot));
      equal(index.find(ids, slot * CONTENT_ID_BYTES), placeAt(ordinal, slot));
    }
    const name = "5".repeat(64);
    rig.packTable.name(ordinal, name);
    index.finish(ordinal);
    for (const other of rig.ids.keys()) await rig.foundOf(index, other);
    rig.ids.set(name, ids);
    equal(index.find(ids, 7 * CONTENT_ID_BYTES), -1, "it was let go");
    ok((await rig.foundOf(index, name)) > 0.9 * PACK_SLOTS_MAX);
  });

  test("a pack index says which packs it is about, and is refused when a bit was flipped", async () => {
    const rig = new Rig();
    const names = await rig.addPacks(3, 500);
    const [path] = rig.bucket.objects.keys();
    const hash = path!.slice(-64);
    const index = await openPackIndex(rig.store, PLAIN_SEALER, hash);
    deepEqual(index.packNames, names);
    for (const { name, slotCount, hooks } of await index.packs()) {
      equal(slotCount, 500);
      const view = new DataView(rig.ids.get(name)!.buffer);
      for (let at = 0; at < hooks.length; at += 3) {
        equal(hooks[at]! & 63, 0);
        equal(view.getUint32(hooks[at + 2]! * CONTENT_ID_BYTES, true), hooks[at]);
        equal(view.getUint32(hooks[at + 2]! * CONTENT_ID_BYTES + 4, true), hooks[at + 1]);
      }
    }
    const bytes = rig.bucket.objects.get(path!)!;
    for (let at = 0; at < bytes.length; at += 1) {
      bytes[at]! ^= 2;
      const read = openPackIndex(rig.store, PLAIN_SEALER, hash).then((open) => open.packs());
      const error: unknown = await read.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      ok(error instanceof StorageError, `byte ${at}`);
      bytes[at]! ^= 2;
    }
  });
});

test("the id table finds what was added and not taken away, like a list would", () => {
  const operation = fc.record({
    first: fc.constantFrom(0, 64, 128, 7),
    second: fc.nat(9),
    place: fc.nat(5),
    what: fc.constantFrom("add", "add", "add", "remove", "filter"),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
      const table = new IdTable(1 << 17);
      let list: { first: number; second: number; place: number }[] = [];
      for (const { first, second, place, what } of operations) {
        const isSame = (entry: (typeof list)[number]) =>
          entry.first === first && entry.second === second && entry.place === place;
        if (what === "add") {
          table.add(first, second, place);
          list.push({ first, second, place });
        } else if (what === "remove") {
          table.remove(first, second, place);
          const at = list.findIndex(isSame);
          if (at >= 0) list.splice(at, 1);
        } else {
          table.filter((word, at) => word !== first || at < 3);
          list = list.filter((entry) => entry.first !== first || entry.place < 3);
        }
      }
      equal(table.size, list.length);
      for (let first = 0; first <= 128; first += 64)
        for (let second = 0; second < 10; second += 1) {
          const found: number[] = [];
          table.search(first, second);
          for (let at = table.nextPlace(); at >= 0; at = table.nextPlace()) found.push(at);
          const expected = list.filter((entry) => entry.first === first && entry.second === second);
          deepEqual(found.sort(), expected.map(({ place }) => place).sort());
        }
    }),
  );
});

test("an id table that is spoiled with ids of one slot stays quick and keeps to its size", () => {
  const table = new IdTable(1 << 17);
  for (let place = 0; place < 5000; place += 1) table.add(0, 5, place);
  ok(table.size <= 200);
  equal(table.bytes <= 1 << 17, true);
  table.remove(0, 5, 0);
  equal(table.has(0, 5, 0), false);
});
