// SPDX-License-Identifier: Apache-2.0
//
// The index of moved frames against a map: moves, second moves and dropped segments, lookups under pressure on the
// slots, checkpoints that are under way meanwhile and fail now and then; then everything again from the newest
// checkpoint and the records behind it.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { turns } from "../../test/crash/memory-rig.ts";
import { FileStore } from "../log/file-store.ts";
import { newRecordCursor, parseRecord, putRelocated } from "../log/record.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { MemoryHost } from "../sim/memory-host.ts";
import { Prng } from "../sim/prng.ts";
import { BlockIndex } from "./block-index.ts";
import { neededRuns, readCheckpoints, readRelocationTables } from "./checkpoint-loader.ts";
import { Checkpointer } from "./checkpointer.ts";
import { type CheckpointState, NO_CHECKPOINT } from "./kept-checkpoints.ts";
import { RELOCATION, type RelocationIndex } from "./relocation-index.ts";
import { HOME_ENTRIES_MAX, type StoredTable } from "./relocation-node.ts";
import { runName } from "./run-file.ts";
import { scanRun } from "./run-scan.ts";

const POOL_ID = new Uint8Array(16).fill(6);
const SHAPE = { ...shapeOf(24 << 20), slotCount: 16 };
const CURSOR = newRecordCursor();

interface Home {
  readonly segment: number;
  readonly offset8: number;
}

interface Move {
  readonly kind: "moved";
  readonly placeSegment: number;
  readonly placeOffset8: number;
  readonly storedBytes: number;
  readonly isShared: boolean;
  readonly homes: readonly Home[];
}

type Change = Move | { readonly kind: "dropped"; readonly segment: number };
type Place = readonly [segment: number, low: number, storedBytes: number];

function keyOf({ segment, offset8 }: Home): string {
  return `${segment}:${offset8}`;
}

function homeOf(key: string): Home {
  const [segment, offset8] = key.split(":").map(Number) as [number, number];
  return { segment, offset8 };
}

function applyTo(index: BlockIndex, change: Change): void {
  const { relocations, memory } = index;
  if (change.kind === "dropped") {
    relocations.segmentDropped(change.segment);
    return;
  }
  const slotsOffset = memory.scratchAddress + 30_000;
  for (const [slot, { segment, offset8 }] of change.homes.entries()) {
    memory.view.setUint32(slotsOffset + slot * 16 + 8, segment, true);
    memory.view.setUint32(slotsOffset + slot * 16 + 12, offset8, true);
  }
  const record = memory.scratchAddress + 32_000;
  const slotCount = change.homes.length;
  const frame = { ...change, timeOffsetMicros: 0, slotCount, slotsOffset };
  const lengthBytes = putRelocated(memory.view, record, frame);
  equal(parseRecord(memory.view, record, record + lengthBytes, CURSOR), lengthBytes);
  ok(relocations.apply(CURSOR));
}

async function resolve(relocations: RelocationIndex, home: Home): Promise<Place | undefined> {
  for (;;) {
    const result = relocations.resolve(home.segment, home.offset8);
    if (result === RELOCATION.AT_HOME) return undefined;
    const { foundSegment, foundLow, foundStoredBytes } = relocations;
    if (result === RELOCATION.FOUND) return [foundSegment, foundLow, foundStoredBytes];
    await relocations.load(home.segment, home.offset8);
  }
}

class Rig {
  readonly memory: BlockMemory = new BlockMemory(SHAPE);
  readonly host: MemoryHost = new MemoryHost(setImmediate);
  readonly files: FileStore;
  readonly index: BlockIndex;
  readonly checkpointer: Checkpointer;
  /** By home: where what is still needed is now. */
  readonly places: Map<string, Place> = new Map();
  /** Homes whose frames nobody needs, in segments that are gone: until a checkpoint forgets them. */
  readonly dead: Set<string> = new Set();
  readonly dropped: Set<number> = new Set();
  readonly changes: Change[] = [];
  /** Where garbage collection writes. */
  headSegment = 1000;
  headOffset8 = 528;

  constructor() {
    this.files = new FileStore(this.host.log, runName, 4);
    this.index = new BlockIndex(this.memory, this.files);
    this.index.addBranch(1);
    this.checkpointer = this.newCheckpointer();
  }

  newCheckpointer(state: CheckpointState = NO_CHECKPOINT): Checkpointer {
    const cut = {
      segmentNumber: 1,
      offset: 4096,
      chain: 1n,
      incarnation: 1,
      recordedMicros: 1,
    };
    return new Checkpointer(
      {
        memory: this.memory,
        index: this.index,
        log: {
          cut: () => ({ ...cut, nextLsn: this.changes.length + 1 }),
          durableBatches: () => turns(1),
          wholeSegments: () => turns(1),
        },
        directory: this.host.log,
        runs: this.files,
        clock: this.host.clock,
        poolId: POOL_ID,
        snapshotCatalog: () => ({}),
        forgetRun: (run) => this.files.forget(run),
      },
      { ...state },
      1,
    );
  }

  get relocations(): RelocationIndex {
    return this.index.relocations;
  }

  move(homes: readonly Home[], isShared: boolean): void {
    const storedBytes = 100 + (this.changes.length % 4000);
    const { headSegment: placeSegment, headOffset8: placeOffset8 } = this;
    this.headOffset8 += 600;
    this.#apply({ kind: "moved", placeSegment, placeOffset8, storedBytes, isShared, homes });
    for (const [slot, home] of homes.entries()) {
      const low = (((isShared ? 2 : 1) << 30) | (placeOffset8 << 6) | slot) >>> 0;
      this.places.set(keyOf(home), [placeSegment, low, storedBytes]);
      this.dead.delete(keyOf(home));
    }
  }

  roll(): void {
    this.headSegment += 1;
    this.headOffset8 = 528;
  }

  drop(segment: number): void {
    this.#apply({ kind: "dropped", segment });
    this.dropped.add(segment);
    for (const [key, [place]] of this.places) {
      if (place !== segment) continue;
      this.places.delete(key);
      this.dead.add(key);
    }
  }

  #apply(change: Change): void {
    this.changes.push(change);
    applyTo(this.index, change);
  }

  async expect(index: BlockIndex, keys: Iterable<string>): Promise<void> {
    for (const key of keys) {
      const found = await resolve(index.relocations, homeOf(key));
      const wanted = this.places.get(key);
      // What nobody needs may be known as long as its segment is known to be gone.
      if (this.dead.has(key) && found !== undefined) ok(this.dropped.has(found[0]));
      else if (found === undefined || found.some((word, at) => word !== wanted?.[at]))
        deepEqual(found, wanted, `home ${JSON.stringify(homeOf(key))}`);
    }
  }

  async expectAll(index: BlockIndex): Promise<void> {
    const keys = [...this.places.keys(), ...this.dead];
    const some = keys.filter((_, at) => at % 8 === 0).map(homeOf);
    const neighbours = some.map((home) => ({ ...home, offset8: home.offset8 + 1 }));
    await this.expect(index, new Set([...keys, ...neighbours.map(keyOf)]));
    index.checkInvariants();
  }

  /** What the newest checkpoint says. */
  async tables(): Promise<{
    tables: Map<number, StoredTable>;
    nextLsn: number;
    runs: readonly number[];
  }> {
    const directory = this.host.log.fork();
    const files = new FileStore(directory, runName, 4);
    const source = { memory: new BlockMemory(SHAPE), directory, runs: files, poolId: POOL_ID };
    const { checkpoints, problems } = await readCheckpoints(source);
    deepEqual(problems, []);
    equal(checkpoints.length, Math.min(2, this.checkpointer.checkpointCount));
    const names = await directory.list();
    for (const { number } of neededRuns(checkpoints))
      ok(names.includes(runName(number)), `run ${number} is there`);
    const [newest] = checkpoints;
    if (newest === undefined) return { tables: new Map(), nextLsn: 1, runs: [] };
    const { body } = newest;
    const tables = await readRelocationTables(source, body);
    const runs = body.runs.filter(({ until }) => until === undefined).map(({ number }) => number);
    return { tables, nextLsn: body.cut.nextLsn, runs };
  }

  /** Another program's index, from the newest checkpoint and the records behind it, or those before `end`. */
  async recovered(end = this.changes.length + 1): Promise<BlockIndex> {
    const memory = new BlockMemory(SHAPE);
    const index = new BlockIndex(memory, new FileStore(this.host.log.fork(), runName, 4));
    const { tables, nextLsn } = await this.tables();
    index.relocations.begin(tables);
    for (const change of this.changes.slice(nextLsn - 1, end - 1)) applyTo(index, change);
    return index;
  }

  /** What is wrong with any of the runs. */
  async problems(): Promise<string[]> {
    const { memory, files: runs } = this;
    const source = { memory, directory: this.host.log, runs, poolId: POOL_ID };
    const found: string[] = [];
    for (const [name, bytes] of this.host.log.files()) {
      if (!name.endsWith(".run")) continue;
      const number = Number.parseInt(name, 16);
      await runs.forget(number);
      await scanRun(source, { number, sizeBytes: bytes.length }, (problem) => found.push(problem));
    }
    return found;
  }

  async writeRun(bytes: Uint8Array, offset: number): Promise<void> {
    const file = await this.host.log.open(runName(1), "write");
    await file.write(bytes, offset);
    await file.close();
  }

  /** Changes a node of the first run, so that its checksum is right. */
  async putNode(offset: number, change: (view: DataView) => void): Promise<void> {
    const run = this.host.log.files().get(runName(1)) as Uint8Array;
    const node = run.slice(offset, offset + 32 + 252 * 16);
    change(new DataView(node.buffer));
    const address = this.memory.scratchAddress + 4096;
    this.memory.bytes.set(node, address);
    new DataView(node.buffer).setBigUint64(0, this.memory.hash(address + 8, node.length - 8), true);
    await this.writeRun(node, offset);
  }

  async end(): Promise<void> {
    equal(this.memory.staging.freeBytes, SHAPE.stagingBytes, "no staging is kept");
    await this.files.closeAll();
    this.host.stop();
  }
}

/** A frame's worth of homes: a few that moved before, neighbours of those, or new ones, of few segments or many. */
function drawHomes(prng: Prng, rig: Rig, isShared: boolean): Home[] {
  const known = [...rig.places.keys()];
  const count = isShared ? prng.skewed(64) : 1;
  const firstSegment = prng.pick([1, 1, 1 + prng.below(30), 2 ** 32 - 3]);
  const homes = new Map<string, Home>();
  const first = 600 * prng.below(27_000);
  for (let index = 0; index < count; index++) {
    const isKnown = known.length > 0 && prng.chance(0.4);
    const segment = firstSegment + prng.below(3);
    const offset8 = prng.chance(0.7) ? first + index * 3 : prng.below(2 ** 24);
    const home = isKnown ? homeOf(prng.pick(known)) : { segment, offset8 };
    homes.set(keyOf(home), home);
  }
  return [...homes.values()];
}

function drawChange(prng: Prng, rig: Rig): void {
  if (prng.chance(0.1)) rig.roll();
  if (prng.chance(0.02) && rig.headSegment > 1000) {
    const segments = [...new Set([...rig.places.values()].map(([segment]) => segment))];
    const old = segments.filter((segment) => segment !== rig.headSegment);
    if (old.length > 0) rig.drop(prng.pick(old));
    return;
  }
  const isShared = prng.chance(0.6);
  rig.move(drawHomes(prng, rig, isShared), isShared);
}

test("the index is a map of homes, with checkpoints under way, and again from the newest of them", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), async (seed) => {
      const prng = new Prng(seed);
      const rig = new Rig();
      let running: Promise<void> | undefined;
      let failsAfter = Number.POSITIVE_INFINITY;
      rig.host.log.onOperation = async ({ kind }) => {
        await turns(prng.below(3));
        if (kind === "read" || kind === "open") return undefined;
        failsAfter -= 1;
        return failsAfter === 0 ? prng.pick(["EIO", "ENOSPC"]) : undefined;
      };
      for (let step = 0; step < 400; step++) {
        drawChange(prng, rig);
        const keys = [...rig.places.keys()];
        if (prng.chance(0.1))
          await rig.expect(
            rig.index,
            [1, 2, 3].flatMap(() => (keys.length > 0 ? prng.pick(keys) : "5:5")),
          );
        if (prng.chance(0.05) && running === undefined) {
          if (prng.chance(0.2)) failsAfter = 1 + prng.below(8);
          running = rig.checkpointer.take().then(
            () => undefined,
            () => undefined,
          );
          running = running.finally(() => {
            failsAfter = Number.POSITIVE_INFINITY;
            running = undefined;
          });
        }
        if (prng.chance(0.5)) await turns(1);
        if (step % 20 === 0) rig.index.checkInvariants();
      }
      await running;
      rig.host.log.onOperation = undefined;
      await rig.expectAll(rig.index);
      await rig.expectAll(await rig.recovered());
      await rig.checkpointer.take();
      equal(rig.relocations.pendingCount, 0, "everything is merged");
      equal(rig.relocations.entryCount, rig.places.size, "what nobody needs is forgotten");
      const { tables } = await rig.tables();
      for (const { places } of tables.values())
        for (const place of places ?? [])
          ok(!rig.dropped.has(place), "no table names what is gone");
      rig.dead.clear();
      await rig.expectAll(rig.index);
      await rig.expectAll(await rig.recovered());
      deepEqual(await rig.problems(), []);
      await rig.end();
    }),
    { numRuns: 15 },
  );
});

/** Moves `count` frames of a segment to the head. */
function moveMany(rig: Rig, segment: number, count: number): void {
  for (let index = 0; index < count; index++)
    rig.move([{ segment, offset8: 528 + index * 515 }], false);
}

test("only tables that changed are written anew, and runs that are mostly dead go", async () => {
  const rig = new Rig();
  for (let segment = 1; segment <= 20; segment++) moveMany(rig, segment, 300);
  await rig.checkpointer.take();
  const first = new Map(rig.relocations.storedTables());
  equal(first.get(3)?.nodes.length, 2 * 3, "300 entries fill a node and a part");
  rig.roll();
  rig.move([{ segment: 3, offset8: 528 + 515 }], false);
  await rig.checkpointer.take();
  for (const [segment, table] of rig.relocations.storedTables())
    equal(table.location?.run, segment === 3 ? 2 : 1, `table of segment ${segment}`);
  // Table by table moves on; what is left of the first run is taken along before the last one does.
  for (let segment = 4; segment <= 19; segment++) {
    rig.roll();
    moveMany(rig, segment, 300);
    await rig.checkpointer.take();
    const runs = (await rig.host.log.list()).filter((name) => name.endsWith(".run"));
    ok(runs.length <= 18, `${runs.length} runs`);
  }
  ok(!(await rig.host.log.list()).includes(runName(1)), "the first run is gone");
  await rig.expectAll(rig.index);
  await rig.expectAll(await rig.recovered());
  deepEqual(await rig.problems(), []);
  await rig.end();
});

test("a table whose frames are all dead is gone with the next checkpoint", async () => {
  const rig = new Rig();
  moveMany(rig, 5, 400);
  moveMany(rig, 2 ** 32 - 1, 10);
  await rig.checkpointer.take();
  equal(rig.relocations.entryCount, 410);
  ok(rig.relocations.memoryBytes > 0);
  rig.drop(1000);
  const home = { segment: 5, offset8: 528 };
  equal(
    (await resolve(rig.relocations, home))?.[0],
    1000,
    "until then the reader misses a segment",
  );
  await rig.checkpointer.take();
  equal(rig.relocations.entryCount, 0);
  equal(rig.relocations.memoryBytes, 0);
  equal(await resolve(rig.relocations, home), undefined);
  const newest = await rig.tables();
  equal(newest.tables.size, 0);
  deepEqual(newest.runs, [], "no older run is needed");
  await rig.end();
});

test("a segment that is dropped while a checkpoint is under way is still known in that one", async () => {
  const rig = new Rig();
  moveMany(rig, 5, 30);
  rig.host.log.onOperation = () => turns(2).then(() => undefined);
  const running = rig.checkpointer.take();
  await turns(1);
  const endLsn = rig.changes.length + 1;
  rig.drop(1000);
  await running;
  rig.host.log.onOperation = undefined;
  // The tombstone may be lost in a crash: then the segment is there, and its frames may be needed again.
  const before = await rig.recovered(endLsn);
  equal((await resolve(before.relocations, { segment: 5, offset8: 528 }))?.[0], 1000);
  const after = await rig.recovered();
  for (const index of [rig.index, after]) equal(index.relocations.entryCount, 30);
  await rig.checkpointer.take();
  equal(rig.relocations.entryCount, 0, "the next one forgets it");
  await rig.end();
});

test("a frame that lies in more segments than are listed is looked at whenever one is dropped", async () => {
  const rig = new Rig();
  for (let index = 0; index < 1600; index++) {
    rig.roll();
    rig.move([{ segment: 9, offset8: 600 + index }], false);
  }
  await rig.checkpointer.take();
  const [stored] = [...rig.relocations.storedTables()];
  equal(stored?.[1].places, undefined);
  rig.drop(1500);
  await rig.checkpointer.take();
  equal(rig.relocations.entryCount, 1599);
  rig.dead.clear();
  await rig.expectAll(await rig.recovered());
  await rig.end();
});

test("moved frames of a damaged node are an error, and a run's scan names the place", async () => {
  const rig = new Rig();
  moveMany(rig, 5, 600);
  await rig.checkpointer.take();
  const [stored] = [...rig.relocations.storedTables()];
  ok(stored !== undefined);
  const offset = (stored[1].nodes[3 + 2] as number) * 8;
  await rig.writeRun(Uint8Array.of(0xee), offset + 100);
  const first = 528 + 252 * 515;
  for (const offset8 of [first, first + 515 * 251])
    await rejects(resolve(rig.relocations, { segment: 5, offset8 }), {
      code: "POOL_CORRUPT",
      message: /offset \d+, relocations of segment 5: wrong checksum$/,
    });
  ok((await resolve(rig.relocations, { segment: 5, offset8: first - 515 })) !== undefined);
  ok((await resolve(rig.relocations, { segment: 5, offset8: first + 515 * 252 })) !== undefined);
  const problems = await rig.problems();
  equal(problems.length, 1);
  ok(problems[0]?.includes(`offset ${offset}: a node up to`), problems[0]);
  await rig.putNode(offset, (view) => view.setUint32(32 + 16, 0, true));
  const middle = { segment: 5, offset8: first + 515 };
  await rejects(resolve(rig.relocations, middle), { message: /segment 5: impossible content$/ });
  deepEqual(await rig.problems(), problems);
  rig.relocations.touch(5);
  await rejects(rig.checkpointer.take(), { code: "POOL_CORRUPT" });
  rig.index.checkInvariants();
  await rig.end();
});

test("a directory that says other things than its nodes ends a checkpoint, and nothing else", async () => {
  const rig = new Rig();
  moveMany(rig, 5, 600);
  await rig.checkpointer.take();
  const { tables } = await rig.tables();
  const table = tables.get(5) as StoredTable;
  const changed = (at: number, value: number): Uint32Array => {
    const nodes = table.nodes.slice();
    nodes[at] = value;
    return nodes;
  };
  const wrong: readonly StoredTable[] = [
    { ...table, entryCount: 599 },
    { ...table, nodes: changed(0, 1) },
    { ...table, nodes: changed(3, 528 + 251 * 515) },
    { ...table, nodes: changed(5, table.nodes[2] as number) },
  ];
  for (const stored of wrong) {
    const other = new Rig();
    for (const [name, bytes] of rig.host.log.files()) {
      const file = await other.host.log.open(name, "create");
      await file.write(bytes, 0);
      await file.close();
    }
    other.relocations.begin(new Map([[5, stored]]));
    other.relocations.touch(5);
    const checkpointer = other.newCheckpointer({ ...NO_CHECKPOINT, lastRun: 1 });
    await rejects(checkpointer.take(), { code: "POOL_CORRUPT" });
    other.index.checkInvariants();
    await other.end();
  }
  await rig.end();
});

test("more moves of a segment than it can have frames are refused", () => {
  const rig = new Rig();
  const { relocations, memory } = rig.index;
  for (let index = 0; index < HOME_ENTRIES_MAX; index++) {
    memory.view.setUint32(memory.scratchAddress + 8, 3, true);
    memory.view.setUint32(memory.scratchAddress + 12, index, true);
    ok(relocations.apply({ ...CURSOR, slotCount: 1, referencesOffset: memory.scratchAddress }));
  }
  memory.view.setUint32(memory.scratchAddress + 12, HOME_ENTRIES_MAX, true);
  const one = { ...CURSOR, slotCount: 1, referencesOffset: memory.scratchAddress };
  equal(relocations.apply(one), false);
  rig.host.stop();
});
