// SPDX-License-Identifier: Apache-2.0
//
// Backups of a disk with a past, that are interrupted at any step and go on as of the same moment or another one: each
// point that was committed holds exactly what the disk held, and a moment that is kept is never read as a whole again.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { SIM_ZSTD } from "../sim/sim-zstd.ts";
import { type BackupResult, runBackup } from "./backup-run.ts";
import type { BlockRange, BlockSource } from "./block-source.ts";
import { EXTENT_KIND, type ExtentBatch } from "./extents.ts";
import { readManifest } from "./manifest.ts";
import { BLOCK_BYTES } from "./place.ts";
import { PointImage } from "./point-image.ts";
import { openOrMakeTarget } from "./target.ts";
import { TargetReader } from "./target-reader.ts";

/** Time is of no importance here; waits are over at once. */
const CLOCK: Clock = {
  wallMicros: () => 5_000_000,
  monotoneMicros: () => 5_000_000,
  after: (_delayMs, callback) => {
    callback();
    return () => undefined;
  },
  afterInput: (callback) => callback(),
};

const POOL_ID = "0123456789abcdef0123456789abcdef";
const BLOCKS_MAX = 400;
const HOLE = 0;
const ZERO = 1;

/** A disk at a moment: what each block holds, as a number. */
interface Version {
  readonly sizeBytes: number;
  readonly blocks: readonly number[];
}

/** Blocks are numbers: 0 a hole, 1 written zeros, else content. */
class Past {
  readonly versions: Version[] = [{ sizeBytes: 100 * BLOCK_BYTES, blocks: Array(100).fill(HOLE) }];
  readonly forgotten: Set<number> = new Set();
  /** Blocks that were read of each moment's disk, by its LSN. */
  readonly reads: Map<number, Set<number>> = new Map();

  get lsn(): number {
    return this.versions.length;
  }

  change(make: (blocks: number[]) => void, sizeBytes?: number): void {
    const { blocks, sizeBytes: before } = this.versions.at(-1)!;
    const after = [...blocks];
    make(after);
    const size = sizeBytes ?? before;
    after.length = Math.min(after.length, Math.ceil(size / BLOCK_BYTES));
    while (after.length * BLOCK_BYTES < size) after.push(HOLE);
    this.versions.push({ sizeBytes: size, blocks: after });
  }

  source(lsn: number): BlockSource {
    const { blocks, sizeBytes } = this.versions[lsn - 1]!;
    const reads = new Set<number>();
    this.reads.set(lsn, reads);
    const tell = (range: BlockRange, batch: ExtentBatch, isWanted: (lba: number) => boolean) => {
      batch.clear();
      for (let lba = range.start; lba < range.end; lba += 1) {
        if (!isWanted(lba)) continue;
        // Now and then a batch is full early.
        if (batch.length > 40) return lba;
        batch.push(lba, 1, kindOf(blocks[lba]!), 0);
      }
      return range.end;
    };
    return {
      sizeBytes,
      allocated: async (start, end, batch) => tell({ start, end }, batch, () => true),
      changedSince: async (base, range, batch) => {
        const before = this.versions[Number(base) - 1]!;
        ok(!this.forgotten.has(Number(base)), "only what is kept can be compared with");
        ok(range.end * BLOCK_BYTES <= before.sizeBytes, "both disks have all blocks");
        return tell(range, batch, (lba) => before.blocks[lba] !== blocks[lba]);
      },
      read: async (target, offsetBytes) => {
        for (let at = 0; at < target.length; at += BLOCK_BYTES) {
          const lba = (offsetBytes + at) / BLOCK_BYTES;
          reads.add(lba);
          target.set(contentOf(blocks[lba]!).subarray(0, target.length - at), at);
        }
      },
    };
  }

  bytesOf(lsn: number): Buffer {
    const { blocks, sizeBytes } = this.versions[lsn - 1]!;
    return Buffer.concat(blocks.map(contentOf)).subarray(0, sizeBytes);
  }
}

function kindOf(block: number): number {
  if (block === HOLE) return EXTENT_KIND.hole;
  return block === ZERO ? EXTENT_KIND.zero : EXTENT_KIND.frames;
}

/** The number 2 is content that happens to be zeros. */
function contentOf(block: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK_BYTES);
  if (block > 2) new DataView(bytes.buffer).setUint32(8, block);
  return bytes;
}

class World {
  readonly past = new Past();
  readonly bucket = new MemoryBucket();
  readonly #random = new SimRandom(new Prng(5));
  /** LSNs of the points, in order. */
  readonly committed: number[] = [];
  #number = 0;

  /** Fails from the store's operation `failAt` on. */
  async backUp(lsn: number, { failAt = Number.POSITIVE_INFINITY, isFull = false } = {}) {
    let count = 0;
    const store = new MemoryObjectStore(this.bucket, {
      begin: async () => {
        count += 1;
        return count > failAt ? "failed" : undefined;
      },
    });
    const target = await openOrMakeTarget({ store, ...this.#host });
    const { sizeBytes } = this.past.versions[lsn - 1]!;
    this.#number += 1;
    const result = await runBackup({
      target,
      zstd: SIM_ZSTD,
      poolId: POOL_ID,
      host: "here",
      name: `p${this.#number}`,
      volumes: [
        {
          name: "db",
          volumeId: 1,
          sizeBytes,
          moment: { lsn, branch: 1, timeMicros: lsn },
          source: this.past.source(lsn),
          baseOf: async (moment) =>
            this.past.forgotten.has(moment.lsn) ? undefined : String(moment.lsn),
        },
      ],
      isFull,
      pace: undefined,
      saving: { micros: 0, bytes: 7 * BLOCK_BYTES },
      signal: new AbortController().signal,
      onMissing: () => undefined,
      onBegin: () => undefined,
      onProgress: () => undefined,
    });
    this.committed.push(lsn);
    return result;
  }

  async tryBackUp(lsn: number, failAt: number): Promise<BackupResult | undefined> {
    try {
      return await this.backUp(lsn, { failAt });
    } catch (error) {
      if (hasCode(error, "TARGET_UNAVAILABLE")) return undefined;
      throw error;
    }
  }

  /** Every point holds what the disk held. */
  async check(): Promise<void> {
    const store = new MemoryObjectStore(this.bucket);
    const target = await openOrMakeTarget({ store, ...this.#host });
    const { sealer } = target;
    const { points } = await target.catalog.read();
    const lsns = points.map(({ volumes }) => volumes[0]!.lsn);
    deepEqual(
      lsns.filter((lsn, at) => lsn !== lsns[at - 1]).sort(),
      uniqueInRow(this.committed, lsns),
    );
    const reader = new TargetReader({ store, sealer, zstd: SIM_ZSTD });
    for (const { manifest, volumes } of points) {
      const { volumes: there } = await readManifest(store, sealer, manifest);
      const image = new PointImage(reader, there[0]!);
      const bytes = Buffer.alloc(image.sizeBytes);
      await image.read(bytes, 0);
      ok(bytes.equals(this.past.bytesOf(volumes[0]!.lsn)), `#${volumes[0]!.lsn} is what it was`);
    }
  }

  get #host() {
    return { clock: CLOCK, random: this.#random };
  }
}

/** A commit whose answer was lost is a point all the same. */
function uniqueInRow(committed: readonly number[], found: readonly number[]): number[] {
  for (const lsn of committed) ok(found.includes(lsn), `the point of #${lsn} is there`);
  return found.filter((lsn, at) => lsn !== found[at - 1]).toSorted();
}

type Step =
  | { readonly kind: "write"; readonly at: number; readonly count: number; readonly seed: number }
  | { readonly kind: "resize"; readonly sectors: number }
  | { readonly kind: "forget"; readonly back: number }
  | { readonly kind: "backup"; readonly back: number; readonly failAt: number | undefined };

const STEPS = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("write" as const),
        at: fc.nat(BLOCKS_MAX),
        count: fc.integer({ min: 1, max: 60 }),
        seed: fc.nat(12),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("resize" as const),
        sectors: fc.integer({ min: 1, max: BLOCKS_MAX * 8 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("forget" as const), back: fc.nat(4) }) },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("backup" as const),
        back: fc.nat(2),
        failAt: fc.option(fc.integer({ min: 4, max: 60 }), { nil: undefined }),
      }),
    },
  ),
  { maxLength: 24 },
);

async function perform(world: World, step: Step): Promise<void> {
  const { past } = world;
  if (step.kind === "write") {
    past.change((blocks) => {
      const end = Math.min(blocks.length, step.at + step.count);
      // Some rows of one content, some that no other block has.
      for (let lba = step.at; lba < end; lba += 1)
        blocks[lba] = step.seed < 6 ? step.seed : 1000 + step.seed * 1000 + lba;
    });
  } else if (step.kind === "resize") past.change(() => undefined, step.sectors * 512);
  else if (step.kind === "forget") past.forgotten.add(Math.max(1, past.lsn - step.back));
  else {
    const lsn = Math.max(1, past.lsn - step.back);
    if (step.failAt === undefined) await world.backUp(lsn);
    else await world.tryBackUp(lsn, step.failAt);
    await world.check();
  }
}

test("every point holds what the disk held, however backups before it ended", async () => {
  await fc.assert(
    fc.asyncProperty(STEPS, async (steps) => {
      const world = new World();
      for (const step of steps) await perform(world, step);
      await world.backUp(world.past.lsn);
      await world.check();
    }),
    { numRuns: 60 },
  );
});

/** Each block gets content of its own. */
function fillAll(blocks: number[]): void {
  for (const lba of blocks.keys()) blocks[lba] = 5000 + lba;
}

test("an interrupted backup of a moment goes on where it ended", async () => {
  const world = new World();
  world.past.change(fillAll);
  equal(await world.tryBackUp(2, 45), undefined);
  const before = world.past.reads.get(2)!.size;
  ok(before > 20, `${before} blocks were read`);
  const result = await world.backUp(2);
  ok(result.volumes[0]!.isResumed);
  ok(result.readBytes < 100 * BLOCK_BYTES, `${result.readBytes} bytes were read again`);
  await world.check();
});

test("an interrupted backup helps one of a later moment: what didn't change is neither read nor sent", async () => {
  const world = new World();
  world.past.change(fillAll);
  equal(await world.tryBackUp(2, 45), undefined);
  world.past.change((blocks) => {
    blocks[3] = 9;
  });
  const result = await world.backUp(3);
  const reads = world.past.reads.get(3)!;
  ok(reads.has(3) && !reads.has(4), "only what changed of the part that was sent");
  ok(result.readBytes < 100 * BLOCK_BYTES);
  await world.check();
});

test("a moment that is gone costs reading, not sending", async () => {
  const world = new World();
  world.past.change(fillAll);
  await world.backUp(2);
  world.past.change((blocks) => {
    blocks[3] = 9;
  });
  world.past.forgotten.add(2);
  const result = await world.backUp(3);
  equal(result.volumes[0]!.lostParent, "p1");
  equal(result.readBytes, 100 * BLOCK_BYTES);
  equal(result.newBytes, BLOCK_BYTES);
  await world.check();
});

test("a full backup reads everything and sends nothing that is there", async () => {
  const world = new World();
  world.past.change(fillAll);
  await world.backUp(2);
  const { readBytes, newBytes, knownBytes } = await world.backUp(2, { isFull: true });
  deepEqual([readBytes, newBytes, knownBytes], [100 * BLOCK_BYTES, 0, 100 * BLOCK_BYTES]);
  await world.check();
});

test("packs that are gone are sent again, and nothing is built on points that need them", async () => {
  const world = new World();
  world.past.change(fillAll);
  await world.backUp(2);
  for (const name of [...world.bucket.objects.keys()])
    if (name.startsWith("packs/")) world.bucket.remove(name);
  const healed = await world.backUp(2);
  deepEqual([healed.volumes[0]!.parent, healed.newBytes], [undefined, 100 * BLOCK_BYTES]);
  const again = await world.backUp(2);
  deepEqual([again.volumes[0]!.parent, again.newBytes], ["p2", 0]);
});
