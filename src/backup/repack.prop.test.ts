// SPDX-License-Identifier: Apache-2.0
//
// Packs that are rewritten under points, against plain copies of the disk: whatever is removed, wherever the prune dies,
// and whoever commits meanwhile, each point that is left reads as the disk was then.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MemoryBucket, MemoryObjectStore, type StoreGates } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { SIM_ZSTD } from "../sim/sim-zstd.ts";
import { type SmallChange, SmallTarget, smallVolume } from "../sim/small-target.ts";
import type { PointEntry, SessionEntry } from "./catalog-state.ts";
import { sealDocument } from "./document.ts";
import { encodeManifest, readManifest } from "./manifest.ts";
import { choosePacks, type UsedPack } from "./pack-usage.ts";
import { BLOCK_BYTES } from "./place.ts";
import { PointImage } from "./point-image.ts";
import { type PruneReport, prune } from "./prune.ts";
import { Reachable } from "./reachable.ts";
import { TargetObjects } from "./reached-objects.ts";
import { surveyPacks } from "./repack.ts";
import type { Run } from "./run-writer.ts";
import { beginSession, commitPoint, newId } from "./sessions.ts";
import { openOrMakeTarget, type Target } from "./target.ts";
import { parseKeyFile } from "./target-key.ts";

const BLOCKS = 400;
const POOL = "ab".repeat(16);
const KEY = parseKeyFile(new Uint8Array(32).fill(5));

/** A target with points of one volume, and what the disk was at each. */
class Rig {
  readonly small: SmallTarget;
  readonly isEncrypted: boolean;
  readonly disks: Map<string, Uint8Array> = new Map();
  readonly runs: Map<string, readonly Run[]> = new Map();
  readonly #disk = new Uint8Array(BLOCKS * BLOCK_BYTES);
  #latest: Run[] = [];
  #timeMicros = 1_000_000;

  private constructor(small: SmallTarget, isEncrypted: boolean) {
    this.small = small;
    this.isEncrypted = isEncrypted;
  }

  static async make(isEncrypted: boolean): Promise<Rig> {
    const bucket = new MemoryBucket();
    const { sealer } = await open(new MemoryObjectStore(bucket), isEncrypted);
    const small = new SmallTarget(sealer);
    for (const [name, bytes] of bucket.objects) small.bucket.objects.set(name, bytes);
    return new Rig(small, isEncrypted);
  }

  /** One more program's door. */
  open(gates: StoreGates = {}): Promise<Target> {
    return open(new MemoryObjectStore(this.small.bucket, gates), this.isEncrypted);
  }

  /** Changes blocks `lbas` of the disk and makes a point of it. */
  async backUp(name: string, lbas: readonly number[]): Promise<void> {
    const changes = new Map<number, SmallChange>();
    for (const lba of lbas) {
      const block = new Uint8Array(BLOCK_BYTES).fill(name.charCodeAt(0));
      new DataView(block.buffer).setUint32(0, lba);
      this.#disk.set(block, lba * BLOCK_BYTES);
      changes.set(lba, block);
    }
    const target = await this.open();
    const session = await begin(target);
    this.#latest = await this.small.backup(changes, this.#latest);
    this.disks.set(name, this.#disk.slice());
    this.runs.set(name, this.#latest);
    await this.commit(target, session, name);
  }

  async commit(target: Target, session: SessionEntry, name: string): Promise<void> {
    const { store, sealer, random, catalog } = target;
    this.#timeMicros += 1_000_000;
    const id = newId(random);
    const manifest = `points/${id}`;
    const moment = { lsn: 1, branch: 1, timeMicros: this.#timeMicros };
    const volume = { ...smallVolume(BLOCKS, this.runs.get(name)!), moment };
    const whole = { id, name, createdMicros: this.#timeMicros, poolId: POOL };
    const body = encodeManifest({ ...whole, volumes: [volume] });
    await store.put(
      manifest,
      sealDocument({ kind: "point", name: manifest, sealer, random }, body),
    );
    const { volumeId, sizeBytes } = volume;
    const volumes = [{ name: "db", volumeId, sizeBytes, ...moment }];
    const point: PointEntry = { ...whole, manifest, volumes, newBytes: 0, isProtected: false };
    const reach = async (): Promise<Reachable> => {
      const reached = new Reachable(store, sealer);
      await reached.add(manifest);
      return reached;
    };
    await commitPoint(catalog, { session, point, reach });
  }

  /** Each point of the catalog reads as the disk was, byte by byte. */
  async check(): Promise<string[]> {
    const { catalog, store, sealer } = await this.open();
    const { points } = await catalog.read();
    const reader = this.small.reader();
    for (const { name, manifest } of points) {
      const { volumes } = await readManifest(store, sealer, manifest);
      const image = new PointImage(reader, volumes[0]!);
      const bytes = new Uint8Array(BLOCKS * BLOCK_BYTES);
      await image.read(bytes, 0);
      ok(Buffer.compare(bytes, this.disks.get(name)!) === 0, `point ${name} differs`);
    }
    return points.map(({ name }) => name);
  }
}

function open(store: MemoryObjectStore, isEncrypted: boolean): Promise<Target> {
  const clock = {
    wallMicros: () => 7,
    monotoneMicros: () => 7,
    after: (_: number, callback: () => void) => {
      setImmediate(callback);
      return () => {};
    },
    afterInput: (callback: () => void) => callback(),
  };
  seed += 1;
  const random = new SimRandom(new Prng(seed));
  return openOrMakeTarget({ store, clock, random, key: isEncrypted ? KEY : undefined });
}
let seed = 1000;

async function begin(target: Target, volumeId = 1): Promise<SessionEntry> {
  const volumes = [{ name: "db", volumeId }];
  const wish = { purpose: "backup", poolId: POOL, volumes, host: "" } as const;
  return (await beginSession(target.catalog, { ...target, wish })).session;
}

const HOW = { zstd: SIM_ZSTD, unusedShareMax: 0, host: "here", progress: () => {} };

function run(target: Target, remove: readonly string[]): Promise<PruneReport> {
  const wish = { remove, protect: [], unprotect: [] };
  const reached = new TargetObjects(target.store, target.sealer);
  const progress = { progress: () => {} };
  return prune(target, { wish, reached, progress, repack: HOW, isDryRun: false });
}

const ranges = fc.array(
  fc.record({ lba: fc.nat(BLOCKS - 1), count: fc.integer({ min: 1, max: 150 }) }),
  { minLength: 1, maxLength: 4 },
);

function lbasOf(list: readonly { lba: number; count: number }[]): number[] {
  const lbas = new Set<number>();
  for (const { lba, count } of list)
    for (let at = lba; at < Math.min(BLOCKS, lba + count); at += 1) lbas.add(at);
  return [...lbas];
}

for (const isEncrypted of [false, true])
  test(`whatever is removed, the rest reads as before and nothing unused is left (${isEncrypted ? "encrypted" : "plain"})`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(ranges, fc.boolean()), { minLength: 2, maxLength: 6 }),
        async (rounds) => {
          const rig = await Rig.make(isEncrypted);
          const removed: string[] = [];
          for (const [index, [list, isRemoved]] of rounds.entries()) {
            const name = String.fromCharCode(97 + index);
            await rig.backUp(name, lbasOf(list));
            if (isRemoved) removed.push(name);
          }
          const target = await rig.open();
          const foretold = await surveyPacks(target, {
            ...HOW,
            points: await left(target, removed),
          });
          const { repack: done, repackProblem } = await run(target, removed);
          equal(repackProblem, undefined);
          equal(done?.packCount, foretold.packCount);
          equal((await rig.check()).length, rounds.length - removed.length);
          const { points, sessions, condemned } = await target.catalog.read();
          deepEqual([sessions, condemned], [[], []]);
          equal((await surveyPacks(target, { ...HOW, points })).unusedCount, 0);
        },
      ),
      { numRuns: 25 },
    );
  });

async function left({ catalog }: Target, removed: readonly string[]): Promise<PointEntry[]> {
  return (await catalog.read()).points.filter(({ name }) => !removed.includes(name));
}

/** Three points, of which the first has most of what the others don't need. */
async function madeRig(): Promise<Rig> {
  const rig = await Rig.make(false);
  const lbas = Array.from({ length: 100 }, (_, lba) => lba);
  await rig.backUp("a", lbas);
  await rig.backUp(
    "b",
    lbas.filter((lba) => lba % 2 === 0),
  );
  await rig.backUp("c", [0, 1, 2, 3]);
  return rig;
}

test("wherever a prune dies, every point is whole, and the next prune finishes it", async () => {
  for (let deathAt = 1; ; deathAt += 2) {
    const rig = await madeRig();
    let left = Number.POSITIVE_INFINITY;
    let isDead = false;
    const dying = await rig.open({
      begin: () => {
        left -= 1;
        isDead ||= left < 0;
        return isDead ? new Promise(() => {}) : Promise.resolve(undefined);
      },
    });
    left = deathAt;
    let isDone = false;
    void run(dying, ["a"]).then(() => {
      isDone = true;
    });
    await settled(() => isDead || isDone);
    const names = await rig.check();
    ok(names.includes("b") && names.includes("c"));
    await run(await rig.open(), names.includes("a") ? ["a"] : []);
    deepEqual(await rig.check(), ["b", "c"]);
    const target = await rig.open();
    const { points, sessions, condemned } = await target.catalog.read();
    deepEqual([sessions, condemned], [[], []]);
    equal((await surveyPacks(target, { ...HOW, points })).unusedCount, 0);
    if (isDone) return ok(deathAt > 40, `${deathAt} operations`);
  }
});

/** Resolves some turns after `isOver` is true: nothing that could go on has stayed. */
async function settled(isOver: () => boolean): Promise<void> {
  for (let quiet = 0; quiet < 20; quiet += isOver() ? 1 : 0)
    await new Promise((resolve) => setImmediate(resolve));
}

test("a backup that began before, and refers to what was moved or seemed unused, is whole", async () => {
  const rig = await madeRig();
  const other = await rig.open();
  const session = await begin(other, 2);
  let isCommitted = false;
  // All of "a" is a point again when the first new pack is put.
  const target = await rig.open({
    begin: async ({ kind, name }) => {
      if (kind !== "put-if-absent" || !name.startsWith("packs/") || isCommitted) return undefined;
      isCommitted = true;
      await rig.commit(other, session, "a");
      return undefined;
    },
  });
  await run(target, ["a"]);
  ok(isCommitted);
  deepEqual((await rig.check()).sort(), ["a", "b", "c"]);
  await run(await rig.open(), []);
  deepEqual((await rig.check()).sort(), ["a", "b", "c"]);
  await run(await rig.open(), ["a"]);
  deepEqual((await rig.check()).sort(), ["b", "c"]);
});

test("of two prunes at once one gives way, and nothing is lost", async () => {
  const rig = await madeRig();
  const [one, other] = [await rig.open(), await rig.open()];
  const ended = await Promise.allSettled([run(one, ["a"]), run(other, [])]);
  ok(ended.some(({ status }) => status === "fulfilled"));
  deepEqual(await rig.check(), ["b", "c"]);
  await run(await rig.open(), []);
  deepEqual(await rig.check(), ["b", "c"]);
});

test("a damaged pack stays as it is, and what else can be read is kept whole", async () => {
  const rig = await madeRig();
  const [first] = rig.small.packNames;
  const pack = rig.small.bucket.objects.get(`packs/${first!.slice(0, 2)}/${first}`)!;
  pack[10] = pack[10]! ^ 1;
  const { repack: done } = await run(await rig.open(), ["a"]);
  equal(done?.damagedCount, 1);
  ok(rig.small.bucket.objects.has(`packs/${first!.slice(0, 2)}/${first}`));
  pack[10] = pack[10]! ^ 1;
  deepEqual(await rig.check(), ["b", "c"]);
});

test("packs are rewritten, the emptiest first, until little enough is unused", () => {
  const pack = (ordinal: number, slotCount: number, usedCount: number): UsedPack => ({
    ordinal,
    name: "",
    slotCount,
    usedCount,
  });
  const packs = [pack(0, 100, 100), pack(1, 100, 90), pack(2, 100, 10), pack(3, 100, 50)];
  const chosen = (unusedShareMax: number, countMax = 9): number[] =>
    choosePacks(packs, { unusedShareMax, countMax }).map(({ ordinal }) => ordinal);
  deepEqual(chosen(0.5), []);
  deepEqual(chosen(0.3), [2]);
  deepEqual(chosen(0.05), [2, 3]);
  deepEqual(chosen(0), [2, 3, 1]);
  deepEqual(chosen(0, 2), [2, 3]);
  deepEqual(choosePacks([], { unusedShareMax: 0, countMax: 9 }), []);
});
