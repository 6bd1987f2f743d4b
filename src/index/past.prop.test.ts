// SPDX-License-Identifier: Apache-2.0
//
// The past against a model that keeps every version: views of random moments of a branch and of branches that began at
// moments of others, however deep, while writes, trims, checkpoints, their failures and the loss of bases go on; and again
// from what is on disk.

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
import { readCheckpoints, readDirectories, runsOf } from "./checkpoint-loader.ts";
import { Checkpointer } from "./checkpointer.ts";
import {
  baseBefore,
  type CheckpointState,
  type ChosenHistory,
  type KnownHistory,
  listsThrough,
  NO_CHECKPOINT,
} from "./kept-checkpoints.ts";
import { CHUNK_BLOCKS, type Origin, PAGE_BLOCKS, type PageDirectory } from "./page-directory.ts";
import { Past } from "./past.ts";
import { runName } from "./run-file.ts";

const POOL_ID = new Uint8Array(16).fill(7);
const BLOCKS = 2 * CHUNK_BLOCKS + 700;
const SHAPE = { ...shapeOf(24 << 20), slotCount: 24, deltaCount: 1 << 14 };

interface Change {
  readonly branch: number;
  readonly lba: number;
  readonly blockCount: number;
  /** A constant if undefined. */
  readonly segment: number | undefined;
  readonly low: number;
}

type Logged = Change | { readonly branch: number; readonly origin: Origin };

/** What each block holds, as one number. */
function contentOf(segment: number, low: number): number {
  return segment * 2 ** 32 + low;
}

class Rig {
  readonly memory: BlockMemory = new BlockMemory(SHAPE);
  readonly host: MemoryHost = new MemoryHost(setImmediate);
  readonly files: FileStore = new FileStore(this.host.log, runName, 4);
  readonly index: BlockIndex = new BlockIndex(this.memory, this.files);
  readonly state: CheckpointState = { ...NO_CHECKPOINT };
  readonly checkpointer: Checkpointer;
  /** Every record: its LSN is its place and one. */
  readonly log: Logged[] = [];
  readonly begun: Map<number, { readonly fromLsn: number; readonly origin: Origin | undefined }> =
    new Map();
  /** Moments that must stay, besides those that branches begin at. */
  readonly pins: Set<number> = new Set();
  /** The LSN from which on all bases and lists are kept. */
  keptFrom = 1;

  constructor() {
    const { host, memory, index, files } = this;
    this.checkpointer = new Checkpointer(
      {
        memory,
        index,
        log: {
          cut: () => ({
            segmentNumber: 1,
            offset: this.nextLsn * 512,
            nextLsn: this.nextLsn,
            chain: 1n,
            incarnation: 1,
            recordedMicros: this.nextLsn,
          }),
          durableBatches: () => turns(1),
          wholeSegments: () => turns(1),
        },
        directory: host.log,
        runs: files,
        clock: host.clock,
        poolId: POOL_ID,
        history: {
          needsList: () => true,
          choose: (known) => this.#choose(known),
          chosenIsDurable: () => undefined,
        },
        snapshotCatalog: () => ({}),
        forgetRun: (run) => files.forget(run),
      },
      this.state,
      1,
    );
    index.past = new Past({ memory, index, runs: files, state: () => this.checkpointer.state });
  }

  get nextLsn(): number {
    return this.log.length + 1;
  }

  append(record: Logged): void {
    const lsn = this.nextLsn;
    this.log.push(record);
    if ("origin" in record) this.begun.set(record.branch, { fromLsn: lsn, origin: record.origin });
    applyTo(this.index, record, lsn);
  }

  begin(branch: number, origin?: Origin): void {
    if (origin !== undefined) {
      this.append({ branch, origin });
      return;
    }
    this.begun.set(branch, { fromLsn: 0, origin });
    this.index.addBranch(branch);
  }

  #choose({ bases, lists, cutLsn }: KnownHistory): ChosenHistory {
    const pins = [...this.pins];
    for (const { origin } of this.begun.values()) if (origin !== undefined) pins.push(origin.lsn);
    const neededBases = new Set(bases.filter(({ cut }) => cut.nextLsn >= this.keptFrom));
    const neededLists = new Set(lists.filter(({ endLsn }) => endLsn > this.keptFrom));
    for (const lsn of pins) {
      const base = baseBefore(bases, lsn);
      if (base !== undefined) neededBases.add(base);
      const way = listsThrough(lists, base?.cut.nextLsn ?? 1, Math.min(lsn, cutLsn - 1));
      ok(way !== undefined, "what is pinned was there");
      for (const list of way) neededLists.add(list);
    }
    return {
      bases: bases.filter((base) => neededBases.has(base)),
      lists: lists.filter((list) => neededLists.has(list)),
      promise: {},
    };
  }

  /** What a block of a branch held after a record, by reading the records backwards. */
  contentAt(branch: number, lsn: number, lba: number): number {
    const { fromLsn, origin } = this.begun.get(branch) ?? { fromLsn: 0, origin: undefined };
    for (let at = Math.min(lsn, this.log.length); at > fromLsn; at--) {
      const record = this.log[at - 1] as Logged;
      if (record.branch !== branch || "origin" in record) continue;
      if (lba < record.lba || lba >= record.lba + record.blockCount) continue;
      if (record.segment === undefined) return contentOf(0, record.low);
      return contentOf(record.segment, (0x40000000 | ((lba - record.lba) << 6)) >>> 0);
    }
    return origin === undefined ? 0 : this.contentAt(origin.branch, origin.lsn, lba);
  }

  /** Another program's index, from the newest checkpoint and the records behind it. */
  async recovered(): Promise<BlockIndex> {
    const memory = new BlockMemory(SHAPE);
    const directory: MemoryDirectory = this.host.log.fork();
    const runs = new FileStore(directory, runName, 4);
    const index = new BlockIndex(memory, runs);
    const source = { memory, directory, runs, poolId: POOL_ID };
    const { checkpoints, problems } = await readCheckpoints(source);
    equal(problems.length, 0, problems[0]);
    const [newest] = checkpoints;
    const cutLsn = newest?.body.cut.nextLsn ?? 1;
    const state = {
      ...NO_CHECKPOINT,
      ...(newest === undefined
        ? {}
        : {
            newest: { slot: newest.slot, cut: newest.body.cut },
            bases: newest.body.bases ?? [],
            lists: newest.body.lists ?? [],
            runs: runsOf(newest),
          }),
    };
    index.past = new Past({ memory, index, runs, state: () => state });
    for (const [branch, { fromLsn, origin }] of this.begun)
      if (fromLsn < cutLsn) index.addBranch(branch, origin);
    if (newest !== undefined)
      for (const { root, chunk } of await readDirectories(source, newest.body))
        index.branches.get(root.branch)?.put(root.chunk, chunk);
    for (let lsn = cutLsn; lsn < this.nextLsn; lsn++)
      applyTo(index, this.log[lsn - 1] as Logged, lsn);
    return index;
  }

  /** Compares some blocks of a branch, or of a view of it, with the records. */
  async expect(
    index: BlockIndex,
    { branch, lsn }: Origin,
    { lba, blockCount, directory }: { lba: number; blockCount: number; directory: PageDirectory },
  ): Promise<void> {
    for (let at = lba; at < Math.min(BLOCKS, lba + blockCount); at++) {
      let low = index.lookup(directory, at);
      while (low === NOT_LOADED) {
        await index.load(directory, at);
        low = index.lookup(directory, at);
      }
      const found = contentOf(index.foundSegment, low);
      const wanted = this.contentAt(branch, lsn, at);
      if (found !== wanted)
        equal(found.toString(16), wanted.toString(16), `branch ${branch} at ${lsn}, block ${at}`);
    }
  }
}

function applyTo(index: BlockIndex, record: Logged, lsn: number): void {
  if ("origin" in record) {
    index.addBranch(record.branch, record.origin);
    return;
  }
  const directory = index.branches.get(record.branch);
  ok(directory !== undefined);
  const { segment, low } = record;
  if (segment === undefined) {
    index.applyConstant(directory, record, low, lsn);
    return;
  }
  const { memory } = index;
  const references = memory.scratchAddress + 30_000;
  for (let at = 0; at < record.blockCount; at++) {
    memory.view.setUint32(references + at * 8, segment, true);
    memory.view.setUint32(references + at * 8 + 4, (0x40000000 | (at << 6)) >>> 0, true);
  }
  index.applyWrote(directory, record, references, lsn);
}

function drawPlace(prng: Prng): number {
  const base = prng.pick([0, PAGE_BLOCKS * prng.below(6), CHUNK_BLOCKS, 2 * CHUNK_BLOCKS]);
  return Math.min(BLOCKS - 1, Math.max(0, base + prng.below(900) - 300));
}

function drawChange(prng: Prng, branch: number, segment: number): Change {
  const lba = drawPlace(prng);
  if (prng.chance(0.7)) {
    const blockCount = Math.min(prng.skewed(257), BLOCKS - lba);
    return { branch, lba, blockCount, segment, low: 0 };
  }
  const length = prng.pick([
    prng.skewed(600),
    prng.skewed(5000),
    PAGE_BLOCKS * (1 + prng.below(20)),
    CHUNK_BLOCKS,
    1 + prng.below(BLOCKS),
  ]);
  const start = prng.chance(0.5) ? lba : Math.floor(lba / PAGE_BLOCKS) * PAGE_BLOCKS;
  const blockCount = Math.max(1, Math.min(length, BLOCKS - start));
  return {
    branch,
    lba: start,
    blockCount,
    segment: undefined,
    low: prng.pick([LOW_HOLE, LOW_ZERO]),
  };
}

/** A moment that is kept: of a branch that had begun by then. */
function drawMoment(prng: Prng, rig: Rig): Origin {
  const branch = prng.pick([...rig.begun.keys()]);
  const { fromLsn } = rig.begun.get(branch) as { fromLsn: number };
  const earliest = Math.max(fromLsn, rig.keptFrom - 1);
  return { branch, lsn: earliest + prng.below(rig.nextLsn - earliest) };
}

async function look(prng: Prng, rig: Rig, index: BlockIndex, origin: Origin): Promise<void> {
  const directory = index.addView(origin);
  for (let each = 0; each < 3; each++)
    await rig.expect(index, origin, { lba: drawPlace(prng), blockCount: 40, directory });
  index.removeView(directory);
}

async function run(seed: number): Promise<void> {
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
  rig.begin(1);
  rig.begin(2);
  const views: { readonly origin: Origin; readonly directory: PageDirectory }[] = [];
  for (let step = 0; step < 400; step++) {
    if (!rig.index.hasRoom(262)) {
      running ??= rig.checkpointer.take();
      await running.catch(() => undefined);
      running = undefined;
      failsAfter = Number.POSITIVE_INFINITY;
      continue;
    }
    rig.append(drawChange(prng, prng.pick([...rig.begun.keys()]), step + 1));
    if (prng.chance(0.03)) rig.begin(rig.begun.size + 1, drawMoment(prng, rig));
    if (prng.chance(0.05)) {
      const origin = drawMoment(prng, rig);
      rig.pins.add(origin.lsn);
      views.push({ origin, directory: rig.index.addView(origin) });
    }
    if (prng.chance(0.1)) {
      const origin = drawMoment(prng, rig);
      rig.pins.add(origin.lsn);
      await look(prng, rig, rig.index, origin);
      rig.pins.delete(origin.lsn);
      for (const { origin } of views) rig.pins.add(origin.lsn);
    }
    if (prng.chance(0.2) && views.length > 0) {
      const { origin, directory } = prng.pick(views);
      await rig.expect(rig.index, origin, { lba: drawPlace(prng), blockCount: 30, directory });
    }
    if (prng.chance(0.1)) {
      const branch = prng.pick([...rig.begun.keys()]);
      const directory = rig.index.branches.get(branch) as PageDirectory;
      const now = { branch, lsn: rig.nextLsn };
      // Nothing else is written meanwhile.
      await rig.expect(rig.index, now, { lba: drawPlace(prng), blockCount: 30, directory });
    }
    if (prng.chance(0.05) && running === undefined) {
      if (prng.chance(0.2)) failsAfter = 1 + prng.below(12);
      running = rig.checkpointer
        .take()
        .catch(() => undefined)
        .finally(() => {
          failsAfter = Number.POSITIVE_INFINITY;
          running = undefined;
        });
    }
    if (prng.chance(0.02)) {
      const { bases } = rig.checkpointer.state;
      rig.keptFrom = Math.max(rig.keptFrom, bases[prng.below(bases.length + 1)]?.cut.nextLsn ?? 1);
    }
    if (prng.chance(0.5)) await turns(1);
    if (step % 20 === 0) rig.index.checkInvariants();
  }
  await running;
  rig.host.log.onOperation = undefined;
  const recovered = await rig.recovered();
  for (const index of [rig.index, recovered]) {
    for (let each = 0; each < 20; each++) await look(prng, rig, index, drawMoment(prng, rig));
    for (const { origin } of views) await look(prng, rig, index, origin);
    for (const branch of rig.begun.keys()) {
      const directory = index.branches.get(branch) as PageDirectory;
      const now = { branch, lsn: rig.nextLsn };
      for (let each = 0; each < 4; each++)
        await rig.expect(index, now, { lba: drawPlace(prng), blockCount: 100, directory });
    }
    index.checkInvariants();
  }
  rig.host.stop();
}

test("any kept moment of any branch is what the records say, live and from what is on disk", async () => {
  await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), run), { numRuns: 25 });
});
