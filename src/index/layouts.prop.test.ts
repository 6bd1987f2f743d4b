// SPDX-License-Identifier: Apache-2.0
//
// The index's layouts: leaves, directories, the same of moved frames, checkpoint bodies, slots. What is written is read back; whatever was
// changed is refused with a StorageError or with "it makes no sense", and never with anything else.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import {
  type CheckpointBody,
  decodeBody,
  encodeBody,
  readSlots,
  writeSlot,
} from "./checkpoint-body.ts";
import { CHUNK_PAGES, CHUNK_WORDS, CONSTANT, WORD_OFFSET, WORD_RUN } from "./page-directory.ts";
import {
  decodeRelocationDirectory,
  encodeRelocationDirectory,
  encodeRelocations,
  isRelocations,
  mayName,
  NODE_ENTRIES_MAX,
  nodeFor,
  placesOf,
  RELOCATIONS_BYTES_MAX,
} from "./relocation-node.ts";
import {
  DIRECTORY_BYTES_MAX,
  decodeDirectory,
  decodeLeaf,
  encodeDirectory,
  encodeLeaf,
  LEAF_BYTES_MAX,
  NODE_KIND,
  readNode,
  sealNode,
} from "./run-file.ts";

const memory = new BlockMemory(shapeOf(24 << 20));
const source = memory.slotsAddress;
const node = source + 4096;
const target = node + 16384;
const POOL_ID = new Uint8Array(16).fill(3);
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });

/** A page's references: block → [segment, low]; a low word of 0 is a hole. */
const page = fc
  .tuple(fc.constantFrom(0, 1, 5, 399, 400, 401, 512), fc.nat(), u32)
  .map(([count, shift, seed]) => {
    const words = new Uint32Array(1024);
    for (let at = 0; at < count; at++) {
      const block = (at * 5 + shift) % 512;
      words[block * 2] = (seed + at) >>> 0;
      words[block * 2 + 1] = (0x40000000 | (at << 6)) >>> 0;
    }
    return words;
  });

function sealed(
  kind: number,
  encoded: { lengthBytes: number; count: number; encoding: number },
): Uint8Array {
  sealNode(memory, node, { kind, branch: 7, position: 9, run: 3, offset: 4096, ...encoded });
  return memory.bytes.slice(node, node + encoded.lengthBytes);
}

async function readBack(bytes: Uint8Array, kind: number): Promise<void> {
  const runs = {
    read: (_run: number, into: Uint8Array): Promise<number> => {
      const part = bytes.subarray(0, into.length);
      into.set(part);
      return Promise.resolve(part.length);
    },
  };
  await readNode(memory, runs, {
    kind,
    branch: 7,
    position: 9,
    run: 3,
    offset: 4096,
    target,
    maxBytes: DIRECTORY_BYTES_MAX,
  });
}

test("a leaf of any fill is read back, and refused when cut or when any byte is changed", async () => {
  await fc.assert(
    fc.asyncProperty(
      page,
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      async (words, place, flip) => {
        memory.words.set(words, source >>> 2);
        const bytes = sealed(NODE_KIND.LEAF, encodeLeaf(memory, source, node));
        ok(bytes.length <= LEAF_BYTES_MAX);
        await readBack(bytes, NODE_KIND.LEAF);
        const decoded = target + 16384;
        memory.bytes.fill(0xee, decoded, decoded + 4096);
        ok(decodeLeaf(memory, target, decoded));
        deepEqual(memory.words.slice(decoded >>> 2, (decoded >>> 2) + 1024), words);
        await rejects(
          readBack(bytes.subarray(0, place % bytes.length), NODE_KIND.LEAF),
          StorageError,
        );
        await rejects(readBack(bytes, NODE_KIND.DIRECTORY), StorageError);
        bytes[place % bytes.length] = (bytes[place % bytes.length] as number) ^ flip;
        await rejects(readBack(bytes, NODE_KIND.LEAF), StorageError);
      },
    ),
    { numRuns: 100 },
  );
});

test("a directory is read back", async () => {
  const entries = fc.array(
    fc.tuple(
      fc.nat(CHUNK_PAGES - 1),
      fc.oneof(fc.constant(CONSTANT), fc.integer({ min: 1, max: 2 ** 32 - 2 })),
      u32,
    ),
    { maxLength: 300 },
  );
  await fc.assert(
    fc.asyncProperty(entries, fc.boolean(), async (list, isFull) => {
      const chunk = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
      for (const [at, run, offset8] of list) {
        chunk[at * CHUNK_WORDS + WORD_RUN] = run;
        chunk[at * CHUNK_WORDS + WORD_OFFSET] = offset8;
      }
      if (isFull)
        for (let at = 0; at < CHUNK_PAGES; at++) chunk[at * CHUNK_WORDS + WORD_RUN] = at + 1;
      const bytes = sealed(NODE_KIND.DIRECTORY, encodeDirectory(memory, chunk, node));
      ok(bytes.length <= DIRECTORY_BYTES_MAX);
      await readBack(bytes, NODE_KIND.DIRECTORY);
      const back = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
      ok(decodeDirectory(memory, target, back));
      deepEqual(back, chunk);
    }),
    { numRuns: 50 },
  );
});

/** Entries of moved frames, ascending by home. */
const entries = fc
  .tuple(fc.integer({ min: 1, max: NODE_ENTRIES_MAX }), fc.nat(60_000), fc.array(u32))
  .map(([count, first, seeds]) => {
    const words = new Uint32Array(count * 4);
    for (let index = 0; index < count; index++) {
      const seed = seeds[index % Math.max(1, seeds.length)] ?? 0;
      const isShared = seed % 2 === 1;
      const slot = isShared ? seed % 64 : 0;
      const offset8 = (seed >>> 9) % (2 ** 24 - 40_000);
      const low = ((isShared ? 2 : 1) << 30) | (offset8 << 6) | slot;
      words.set([first + index * 257, seed, low, 1 + (seed % 266_240)], index * 4);
    }
    return words;
  });

test("a list of moved frames is read back and fits a slot, and is refused when any byte is changed", async () => {
  await fc.assert(
    fc.asyncProperty(
      entries,
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      async (words, place, flip) => {
        const bytes = sealed(NODE_KIND.RELOCATIONS, encodeRelocations(memory, words, node));
        ok(bytes.length <= RELOCATIONS_BYTES_MAX && RELOCATIONS_BYTES_MAX <= 4096);
        await readBack(bytes, NODE_KIND.RELOCATIONS);
        ok(isRelocations(memory, target));
        const first = (target + 32) >>> 2;
        deepEqual(memory.words.slice(first, first + words.length), words);
        await rejects(readBack(bytes, NODE_KIND.LEAF), /leaf of page 9 of branch 7: another node/);
        bytes[place % bytes.length] = (bytes[place % bytes.length] as number) ^ flip;
        await rejects(readBack(bytes, NODE_KIND.RELOCATIONS), /relocations of segment 9: /);
      },
    ),
    { numRuns: 100 },
  );
});

test("a list with a right checksum and an impossible entry is refused", () => {
  const good = [5, 2, 0x40000000 | (600 << 6), 4096, 6, 2, 0x80000000 | (9000 << 6) | 63, 266_240];
  const wrong: readonly [what: string, word: number, value: number][] = [
    ["not ascending", 4, 5],
    ["a home beyond a segment", 4, 2 ** 24],
    ["no state", 2, 600 << 6],
    ["a state that isn't one", 6, 0xc0000000 | (9000 << 6)],
    ["a slot of a frame moved alone", 2, 0x40000000 | (600 << 6) | 1],
    ["nothing stored", 3, 0],
    ["too much stored", 7, 266_241],
    ["an end beyond the segment", 2, 0x40000000 | ((2 ** 24 - 1) << 6)],
  ];
  sealed(NODE_KIND.RELOCATIONS, encodeRelocations(memory, Uint32Array.from(good), node));
  ok(isRelocations(memory, node));
  for (const [what, word, value] of wrong) {
    const words = Uint32Array.from(good);
    words[word] = value;
    sealed(NODE_KIND.RELOCATIONS, encodeRelocations(memory, words, node));
    equal(isRelocations(memory, node), false, what);
  }
});

const table = fc
  .tuple(
    fc.integer({ min: 1, max: 521 }),
    fc.oneof(
      fc.uniqueArray(u32, { maxLength: 20 }),
      fc.constant(Array.from({ length: 1500 }, (_, at) => at)),
      fc.constant(undefined),
    ),
    fc.nat(250),
  )
  .map(([count, places, more]) => ({
    nodes: Uint32Array.from({ length: count * 3 }, (_, at) =>
      at % 3 === 0 ? at * 99 : at % 3 === 1 ? at : 512 + at,
    ),
    places: places === undefined ? undefined : Uint32Array.from(places).sort(),
    entryCount: count + more,
  }));

test("a directory of moved frames is read back, finds nodes by homes, and knows which segments are named", async () => {
  await fc.assert(
    fc.asyncProperty(table, fc.nat(2 ** 24 - 1), u32, async (wanted, home, segment) => {
      const encoded = encodeRelocationDirectory(memory, wanted, node);
      const bytes = sealed(NODE_KIND.RELOCATION_DIRECTORY, encoded);
      ok(bytes.length <= DIRECTORY_BYTES_MAX);
      await readBack(bytes, NODE_KIND.RELOCATION_DIRECTORY);
      const found = decodeRelocationDirectory(memory, target);
      deepEqual(found, wanted);
      const stored = { ...wanted, location: undefined };
      const firsts = wanted.nodes.filter((_, at) => at % 3 === 0);
      equal(nodeFor(wanted.nodes, home), firsts.findLastIndex((first) => first <= home) * 3);
      const isListed = wanted.places?.includes(segment) ?? true;
      equal(mayName(stored, segment), isListed);
      for (const place of wanted.places ?? []) ok(mayName(stored, place));
    }),
    { numRuns: 100 },
  );
  equal(nodeFor(new Uint32Array(0), 5), -3, "no node");
});

test("places are listed once each, and not at all when there are too many", () => {
  const words = new Uint32Array(1501 * 4);
  for (let index = 0; index < 1501; index++) words[index * 4 + 1] = 1501 - (index >> 1);
  deepEqual(
    placesOf(words),
    Uint32Array.from({ length: 751 }, (_, at) => at + 751),
  );
  for (let index = 0; index < 1501; index++) words[index * 4 + 1] = 1501 - index;
  equal(placesOf(words), undefined);
});

test("a directory of moved frames with a right checksum and impossible content is refused", () => {
  const good = { nodes: [5, 3, 600, 900, 3, 1200], places: [4, 9], entryCount: 300 };
  const wrong: readonly [string, { nodes?: number[]; places?: number[]; entryCount?: number }][] = [
    ["homes that don't ascend", { nodes: [5, 3, 600, 5, 3, 1200] }],
    ["a home beyond a segment", { nodes: [5, 3, 600, 2 ** 24, 3, 1200] }],
    ["no run", { nodes: [5, 0, 600, 900, 3, 1200] }],
    ["a constant", { nodes: [5, CONSTANT, 600, 900, 3, 1200] }],
    ["the run's header", { nodes: [5, 3, 511, 900, 3, 1200] }],
    ["too far in the run", { nodes: [5, 3, 600, 900, 3, 2 ** 30] }],
    ["places that don't ascend", { places: [9, 9] }],
    ["fewer entries than nodes", { entryCount: 1 }],
    ["more entries than fit", { entryCount: 505 }],
  ];
  const encode = (change: { nodes?: number[]; places?: number[]; entryCount?: number }): void => {
    const { nodes, places, entryCount } = { ...good, ...change };
    const lists = { nodes: Uint32Array.from(nodes), places: Uint32Array.from(places) };
    const encoded = encodeRelocationDirectory(memory, { ...lists, entryCount }, node);
    sealed(NODE_KIND.RELOCATION_DIRECTORY, encoded);
  };
  encode({});
  ok(decodeRelocationDirectory(memory, node) !== undefined);
  for (const [what, change] of wrong) {
    encode(change);
    equal(decodeRelocationDirectory(memory, node), undefined, what);
  }
  encode({});
  memory.view.setUint32(node + 36, 1501, true);
  equal(decodeRelocationDirectory(memory, node), undefined, "more places than there may be");
});

test("nodes with right checksums and impossible content are refused, not followed", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 600 }),
      fc.nat(65535),
      fc.nat(255),
      fc.nat(5000),
      (bytes, count, encoding, payloadBytes) => {
        memory.bytes.fill(0xff, node, node + 16384);
        memory.bytes.set(bytes, node + 32);
        memory.view.setUint16(node + 18, count, true);
        memory.view.setUint8(node + 17, encoding);
        memory.view.setUint32(node + 28, payloadBytes & ~7, true);
        memory.bytes.fill(0xee, target + 4096, target + 8192);
        decodeLeaf(memory, node, target);
        decodeDirectory(memory, node, new Uint32Array(CHUNK_PAGES * CHUNK_WORDS));
        decodeRelocationDirectory(memory, node);
        isRelocations(memory, node);
        ok(
          memory.bytes.subarray(target + 4096, target + 8192).every((byte) => byte === 0xee),
          "nothing behind the page is touched",
        );
      },
    ),
    { numRuns: 500 },
  );
});

const body: fc.Arbitrary<CheckpointBody> = fc.record(
  {
    sequence: fc.nat(),
    cut: fc.record(
      {
        segmentNumber: fc.nat(),
        offset: fc.nat(),
        nextLsn: fc.maxSafeNat(),
        chain: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        incarnation: fc.nat(),
        recordedMicros: fc.maxSafeNat(),
      },
      { noNullPrototype: true },
    ),
    catalog: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer()), {
      maxKeys: 4,
      noNullPrototype: true,
    }),
    nodeCount: fc.nat(),
    runs: fc.array(
      fc.record(
        { number: fc.nat(), nodeCount: fc.nat(), sizeBytes: fc.nat(), since: fc.nat() },
        { noNullPrototype: true },
      ),
      { maxLength: 5 },
    ),
    roots: fc.array(
      fc.record({ branch: u32, chunk: u32, run: u32, offset8: u32 }, { noNullPrototype: true }),
      { maxLength: 20 },
    ),
    relocations: fc.array(
      fc.record({ segment: u32, run: u32, offset8: u32 }, { noNullPrototype: true }),
      { maxLength: 20 },
    ),
  },
  { noNullPrototype: true },
);

test("a checkpoint's body is read back, and makes no sense when it is cut", () => {
  fc.assert(
    fc.property(body, fc.nat(), (wanted, place) => {
      const bytes = encodeBody(wanted);
      deepEqual(
        decodeBody(bytes),
        JSON.parse(JSON.stringify({ ...wanted, cut: undefined })) && wanted,
      );
      equal(decodeBody(bytes.subarray(0, place % bytes.length)), undefined);
    }),
    { numRuns: 200 },
  );
});

test("changed and invented bodies are a body or nothing, never an exception", () => {
  fc.assert(
    fc.property(
      body,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 5 }),
      (wanted, changes) => {
        const bytes = encodeBody(wanted);
        for (const [place, byte] of changes) bytes[place % bytes.length] = byte;
        decodeBody(bytes);
      },
    ),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.jsonValue(), fc.uint8Array({ maxLength: 64 }), (value, tail) => {
      const text = new TextEncoder().encode(JSON.stringify(value));
      const bytes = new Uint8Array(4 + text.length + tail.length);
      new DataView(bytes.buffer).setUint32(0, text.length, true);
      bytes.set(text, 4);
      bytes.set(tail, 4 + text.length);
      decodeBody(bytes);
    }),
  );
  const good = {
    sequence: 1,
    nodeCount: 1,
    cut: {
      segmentNumber: 1,
      offset: 1,
      nextLsn: 1,
      incarnation: 1,
      recordedMicros: 1,
      chain: "0x1",
    },
    catalog: {},
    runs: [],
  };
  for (const wrong of [
    { cut: { ...good.cut, chain: undefined } },
    { cut: { ...good.cut, chain: "zebra" } },
    { cut: { ...good.cut, chain: 1.5 } },
    { cut: { ...good.cut, chain: "-1" } },
    { cut: null },
    { catalog: null },
    { catalog: [] },
    { runs: [null] },
    { runs: [{ number: "1", nodeCount: 1, sizeBytes: 1 }] },
    { sequence: -1 },
    { activity: { offset8: -1, lengthBytes: 1 } },
    { activity: { offset8: 512 } },
    { activity: null },
  ]) {
    const text = new TextEncoder().encode(JSON.stringify({ ...good, ...wrong }));
    const bytes = new Uint8Array(((4 + text.length + 7) & ~7) + 8);
    new DataView(bytes.buffer).setUint32(0, text.length, true);
    bytes.set(text, 4);
    equal(decodeBody(bytes), undefined, JSON.stringify(wrong));
  }
  const huge = new Uint8Array(64);
  new DataView(huge.buffer).setUint32(0, 0xfffffff0, true);
  equal(decodeBody(huge), undefined);
});

test("slots are written in turn, read newest first, and any changed byte makes one vanish", async () => {
  const directory = new MemoryDirectory("log");
  const slot = (sequence: number) => ({
    sequence,
    run: sequence + 10,
    bodyOffset: 4096,
    bodyBytes: 200,
    nextLsn: 5,
  });
  equal((await readSlots(memory, directory, POOL_ID)).length, 0);
  for (let sequence = 1; sequence < 6; sequence++) {
    await writeSlot(memory, directory, POOL_ID, slot(sequence));
    const found = await readSlots(memory, directory, POOL_ID);
    deepEqual(found, sequence === 1 ? [slot(1)] : [slot(sequence), slot(sequence - 1)]);
  }
  deepEqual(directory.files(), directory.durableFiles(), "both slots and their names are durable");
  const files = directory.files();
  for (let place = 0; place < 88; place++) {
    const bytes = (files.get("checkpoint-b") as Uint8Array).slice();
    bytes[place] = (bytes[place] as number) ^ 1;
    const damaged = new MemoryDirectory("log", new Map(files).set("checkpoint-b", bytes));
    deepEqual(await readSlots(memory, damaged, POOL_ID), [slot(4)], `byte ${place}`);
  }
  const short = new MemoryDirectory("log", new Map(files).set("checkpoint-b", new Uint8Array(511)));
  deepEqual(await readSlots(memory, short, POOL_ID), [slot(4)]);
  await rejects(readSlots(memory, directory, new Uint8Array(16)), { code: "POOL_CORRUPT" });
});
