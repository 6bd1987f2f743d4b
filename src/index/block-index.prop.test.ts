// SPDX-License-Identifier: Apache-2.0
//
// The index with its checkpointer against a flat array of references: writes, ranges of all sizes, lookups under
// pressure on the slots, checkpoints that are under way meanwhile and fail now and then; then everything again
// from the newest checkpoint and what came behind it.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { turns } from "../../test/crash/memory-rig.ts";
import { FileStore } from "../log/file-store.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { type MemoryDirectory, MemoryHost } from "../sim/memory-host.ts";
import { Prng } from "../sim/prng.ts";
import { BlockIndex, NOT_LOADED } from "./block-index.ts";
import { neededRuns, readCheckpoints, readDirectories } from "./checkpoint-loader.ts";
import { Checkpointer } from "./checkpointer.ts";
import { NO_CHECKPOINT } from "./kept-checkpoints.ts";
import { CHUNK_BLOCKS, PAGE_BLOCKS } from "./page-directory.ts";
import { runName } from "./run-file.ts";

const POOL_ID = new Uint8Array(16).fill(5);
const BLOCKS = 3 * CHUNK_BLOCKS + 700;
const SHAPE = { ...shapeOf(24 << 20), slotCount: 24, deltaCount: 1 << 14 };

type Change =
  | {
      readonly kind: "wrote";
      readonly lba: number;
      readonly blockCount: number;
      readonly segment: number;
    }
  | {
      readonly kind: "constant";
      readonly lba: number;
      readonly blockCount: number;
      readonly low: number;
    };

/** An index of two branches over a directory of runs, and a log that only counts. */
class Rig {
  readonly memory: BlockMemory;
  readonly host: MemoryHost = new MemoryHost(setImmediate);
  readonly files: FileStore;
  readonly index: BlockIndex;
  readonly checkpointer: Checkpointer;
  readonly models: Float64Array[] = [new Float64Array(BLOCKS), new Float64Array(BLOCKS)];
  /** Changes since the newest checkpoint's cut, by branch: what a recovery would replay. */
  changes: [branch: number, change: Change][] = [];
  nextLsn = 1;

  constructor(shape: typeof SHAPE = SHAPE) {
    this.memory = new BlockMemory(shape);
    const directory = this.host.log;
    this.files = new FileStore(directory, runName, 4);
    this.index = new BlockIndex(this.memory, this.files);
    this.index.addBranch(1);
    this.index.addBranch(2);
    this.checkpointer = new Checkpointer(
      {
        memory: this.memory,
        index: this.index,
        log: {
          cut: () => ({
            segmentNumber: 1,
            offset: this.nextLsn * 512,
            nextLsn: this.nextLsn,
            chain: 1n,
            incarnation: 1,
            recordedMicros: 1,
          }),
          durableBatches: () => turns(1),
          wholeSegments: () => turns(1),
        },
        directory,
        runs: this.files,
        clock: this.host.clock,
        poolId: POOL_ID,
        snapshotCatalog: () => ({}),
        forgetRun: (run) => this.files.forget(run),
      },
      { ...NO_CHECKPOINT },
      1,
    );
  }

  apply(branch: number, change: Change): void {
    const model = this.models[branch - 1] as Float64Array;
    const { lba, blockCount } = change;
    this.changes.push([branch, change]);
    applyTo(this.index, branch, change, this.nextLsn);
    this.nextLsn += 1;
    if (change.kind === "constant") model.fill(change.low, lba, lba + blockCount);
    else for (let at = 0; at < blockCount; at++) model[lba + at] = contentOf(change.segment, at);
  }

  async expect(index: BlockIndex, lba: number, blockCount: number): Promise<void> {
    for (const branch of [1, 2]) {
      const directory = index.branches.get(branch);
      ok(directory !== undefined);
      for (let at = lba; at < Math.min(BLOCKS, lba + blockCount); at++) {
        let low = index.lookup(directory, at);
        while (low === NOT_LOADED) {
          await index.load(directory, at);
          low = index.lookup(directory, at);
        }
        const wanted = (this.models[branch - 1] as Float64Array)[at];
        const found =
          low === LOW_HOLE || low === LOW_ZERO
            ? low
            : contentOf(index.foundSegment, (low >>> 6) & 0xffffff);
        if (found !== wanted) equal(found, wanted, `branch ${branch}, block ${at}`);
      }
    }
  }

  /** Another program's index, from the newest checkpoint and the changes behind it. */
  async recovered(): Promise<BlockIndex> {
    const memory = new BlockMemory(this.memory.shape);
    const directory: MemoryDirectory = this.host.log.fork();
    const runs = new FileStore(directory, runName, 4);
    const index = new BlockIndex(memory, runs);
    index.addBranch(1);
    index.addBranch(2);
    const { checkpoints, problems } = await readCheckpoints({
      memory,
      directory,
      runs,
      poolId: POOL_ID,
    });
    equal(problems.length, 0, problems[0]);
    equal(
      checkpoints.length,
      Math.min(2, this.checkpointer.checkpointCount),
      "both slots can be used",
    );
    const names = await directory.list();
    for (const { number } of neededRuns(checkpoints))
      ok(names.includes(runName(number)), `run ${number} is there`);
    const [newest] = checkpoints;
    let nextLsn = 1;
    if (newest !== undefined) {
      for (const { root, chunk } of await readDirectories(
        { memory, directory, runs, poolId: POOL_ID },
        newest.body,
      ))
        index.branches.get(root.branch)?.put(root.chunk, chunk);
      nextLsn = newest.body.cut.nextLsn;
    }
    const behind = this.changes.slice(this.changes.length - (this.nextLsn - nextLsn));
    for (const [at, [branch, change]] of behind.entries())
      applyTo(index, branch, change, nextLsn + at);
    return index;
  }
}

function contentOf(segment: number, at: number): number {
  return segment * 2 ** 24 + at + 2 ** 33;
}

function applyTo(index: BlockIndex, branch: number, change: Change, lsn: number): void {
  const directory = index.branches.get(branch);
  ok(directory !== undefined);
  if (change.kind === "constant") {
    index.applyConstant(directory, change, change.low, lsn);
    return;
  }
  const { memory } = index;
  const references = memory.scratchAddress + 30_000;
  for (let at = 0; at < change.blockCount; at++) {
    memory.view.setUint32(references + at * 8, change.segment, true);
    memory.view.setUint32(references + at * 8 + 4, (0x40000000 | (at << 6)) >>> 0, true);
  }
  index.applyWrote(directory, change, references, lsn);
}

/** Near the places where pages and chunks meet, mostly in a few pages. */
function drawPlace(prng: Prng): number {
  const base = prng.pick([
    0,
    PAGE_BLOCKS * prng.below(8),
    CHUNK_BLOCKS,
    2 * CHUNK_BLOCKS,
    CHUNK_BLOCKS * prng.below(3),
    3 * CHUNK_BLOCKS,
  ]);
  return Math.min(BLOCKS - 1, Math.max(0, base + prng.below(1100) - 300));
}

function drawChange(prng: Prng, segment: number): Change {
  const lba = drawPlace(prng);
  if (prng.chance(0.75))
    return { kind: "wrote", lba, blockCount: Math.min(prng.skewed(257), BLOCKS - lba), segment };
  const length = prng.pick([
    prng.skewed(600),
    prng.skewed(5000),
    PAGE_BLOCKS * prng.below(20),
    CHUNK_BLOCKS,
    prng.below(BLOCKS),
  ]);
  const start = prng.chance(0.5) ? lba : Math.floor(lba / PAGE_BLOCKS) * PAGE_BLOCKS;
  return {
    kind: "constant",
    lba: start,
    blockCount: Math.max(1, Math.min(length, BLOCKS - start)),
    low: prng.pick([LOW_HOLE, LOW_ZERO]),
  };
}

test("the index is a flat array, with checkpoints under way, and again from the newest of them", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), async (seed) => {
      const prng = new Prng(seed);
      const rig = new Rig();
      let running: Promise<void> | undefined;
      let failsAfter = Number.POSITIVE_INFINITY;
      // Operations take some turns, so that changes come between any two of a checkpoint's steps.
      rig.host.log.onOperation = async ({ kind }) => {
        await turns(prng.below(3));
        if (kind === "read" || kind === "open") return undefined;
        failsAfter -= 1;
        return failsAfter === 0 ? prng.pick(["EIO", "ENOSPC"]) : undefined;
      };
      for (let step = 0; step < 400; step++) {
        const change = drawChange(prng, step + 1);
        const needed = (change.kind === "wrote" ? change.blockCount : 2) + 2;
        if (!rig.index.hasRoom(needed)) {
          running ??= rig.checkpointer.take();
          await running.catch(() => undefined);
          running = undefined;
          failsAfter = Number.POSITIVE_INFINITY;
          continue;
        }
        rig.apply(prng.pick([1, 2]), change);
        if (prng.chance(0.1)) await rig.expect(rig.index, drawPlace(prng), 50);
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
      const recovered = await rig.recovered();
      for (const index of [rig.index, recovered]) {
        for (const start of [
          0,
          CHUNK_BLOCKS - 1500,
          2 * CHUNK_BLOCKS - 1500,
          3 * CHUNK_BLOCKS - 1500,
        ])
          await rig.expect(index, start, 6000);
        index.checkInvariants();
      }
      await rig.checkpointer.take();
      equal(rig.index.ring.count, 0, "everything is merged");
      await rig.expect(await rig.recovered(), 0, 6000);
      equal(rig.memory.staging.freeBytes, SHAPE.stagingBytes, "no staging is kept");
      rig.host.stop();
    }),
    { numRuns: 15 },
  );
});

test("constants of any size, up to all of 64 TiB, cost no more than their chunks", () => {
  const rig = new Rig();
  const directory = rig.index.branches.get(1);
  ok(directory !== undefined);
  const all = 2 ** 34;
  rig.index.applyConstant(directory, { lba: 0, blockCount: all }, LOW_ZERO, 1);
  equal(rig.index.lookup(directory, all - 1), LOW_ZERO);
  equal(rig.index.directoryBytes, 0);
  rig.index.applyConstant(directory, { lba: 1, blockCount: all - 2 }, LOW_HOLE, 2);
  equal(rig.index.lookup(directory, 0), LOW_ZERO);
  equal(rig.index.lookup(directory, 1), LOW_HOLE);
  equal(rig.index.lookup(directory, all / 2), LOW_HOLE);
  equal(rig.index.lookup(directory, all - 2), LOW_HOLE);
  equal(rig.index.lookup(directory, all - 1), LOW_ZERO);
  equal(rig.index.directoryBytes, 2 * 16384);
  rig.index.applyConstant(directory, { lba: 0, blockCount: all }, LOW_HOLE, 3);
  equal(rig.index.directoryBytes, 0);
  rig.index.checkInvariants();
  rig.host.stop();
});

test("a checkpoint larger than its buffer holds each page as of its cut, whatever comes and goes meanwhile", async () => {
  const prng = new Prng(4);
  const rig = new Rig({ ...SHAPE, deltaCount: 1 << 18, slotCount: 200 });
  const pageCount = 400;
  for (let page = 0; page < pageCount; page++)
    for (const lba of [page * PAGE_BLOCKS, page * PAGE_BLOCKS + 256])
      rig.apply(1, { kind: "wrote", lba, blockCount: 256, segment: page + 1 });
  await rig.expect(rig.index, 0, 150 * PAGE_BLOCKS);
  rig.host.log.onOperation = () => turns(1).then(() => undefined);
  let isRunning = true;
  const running = rig.checkpointer.take().finally(() => {
    isRunning = false;
  });
  for (let step = 1000; isRunning; step++) {
    const lba = prng.below(pageCount) * PAGE_BLOCKS + prng.below(500);
    rig.apply(1, { kind: "wrote", lba, blockCount: 3, segment: step });
    if (prng.chance(0.2)) await rig.expect(rig.index, prng.below(pageCount) * PAGE_BLOCKS, 4);
    if (prng.chance(0.1))
      rig.apply(1, {
        kind: "constant",
        lba: prng.below(pageCount) * PAGE_BLOCKS,
        blockCount: PAGE_BLOCKS,
        low: LOW_ZERO,
      });
    await turns(1);
  }
  await running;
  rig.host.log.onOperation = undefined;
  ok(rig.checkpointer.indexBytes > 1 << 20, "it was written in pieces");
  await rig.expect(rig.index, 0, pageCount * PAGE_BLOCKS);
  await rig.expect(await rig.recovered(), 0, pageCount * PAGE_BLOCKS);
  rig.host.stop();
});

test("a page that loses its slot while the buffer before it is written is taken from its changes", async () => {
  const rig = new Rig({ ...SHAPE, deltaCount: 1 << 18, slotCount: 200 });
  const directory = rig.index.branches.get(1);
  ok(directory !== undefined);
  for (let page = 0; page < 400; page++)
    for (const lba of [page * PAGE_BLOCKS, page * PAGE_BLOCKS + 256])
      rig.apply(1, { kind: "wrote", lba, blockCount: 256, segment: page + 1 });
  // The buffer is full at about page 253: that one is in a slot, until the buffer is written.
  for (let page = 150; page < 350; page++) rig.index.lookup(directory, page * PAGE_BLOCKS);
  rig.host.log.onOperation = ({ kind }) => {
    if (kind !== "write") return undefined;
    for (let page = 0; page < 400; page++)
      if (page < 150 || page >= 350) rig.index.lookup(directory, page * PAGE_BLOCKS);
    return undefined;
  };
  await rig.checkpointer.take();
  rig.host.log.onOperation = undefined;
  await rig.expect(await rig.recovered(), 0, 400 * PAGE_BLOCKS);
  rig.host.stop();
});

test("runs that no checkpoint needs are removed, and mostly dead ones are moved together", async () => {
  const rig = new Rig();
  for (let round = 0; round < 12; round++) {
    // One page stays as it is from the first round; the others are written anew each time.
    if (round === 0) rig.apply(1, { kind: "wrote", lba: 0, blockCount: 1, segment: 1 });
    for (let page = 1; page < 10; page++)
      rig.apply(1, { kind: "wrote", lba: page * PAGE_BLOCKS, blockCount: 1, segment: round + 2 });
    await rig.checkpointer.take();
    const runs = (await rig.host.log.list()).filter((name) => name.endsWith(".run"));
    ok(runs.length <= 4, `${runs.length} runs after ${round + 1} checkpoints`);
    await rig.expect(await rig.recovered(), 0, 10 * PAGE_BLOCKS);
  }
  rig.host.stop();
});
