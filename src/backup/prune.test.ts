// SPDX-License-Identifier: Apache-2.0
//
// A prune alone with a target: what goes, what waits, what is said; and what it doesn't do when something can't be read.
// What others may do meanwhile is test/sim/backup-target.test.ts's.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { type ErrorCode, hasCode } from "../base/errors.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { damagedDocument } from "./document.ts";
import type { ReachedObjects } from "./garbage.ts";
import { LEASE_MICROS, Lease } from "./leases.ts";
import { type PruneReport, type PruneWish, prune } from "./prune.ts";
import { beginSession, commitPoint, newId } from "./sessions.ts";
import { openOrMakeTarget, type Target } from "./target.ts";

const random = new SimRandom(new Prng(21));
const DAY_MICROS = 86_400_000_000;
const START_MICROS = 20_000 * DAY_MICROS;
const has = (code: ErrorCode) => (error: unknown) => hasCode(error, code);

const POOL_ID = "ab".repeat(16);

/** A target whose points are lists of packs. */
class Rig {
  readonly bucket = new MemoryBucket();
  nowMicros = START_MICROS;
  #target: Target | undefined;

  get target(): Target {
    ok(this.#target !== undefined);
    return this.#target;
  }

  static async make(): Promise<Rig> {
    const rig = new Rig();
    const clock = {
      wallMicros: () => rig.nowMicros,
      monotoneMicros: () => rig.nowMicros,
      after: () => () => {},
      afterInput: (callback: () => void) => callback(),
    };
    const store = new MemoryObjectStore(rig.bucket);
    rig.#target = await openOrMakeTarget({ store, clock, random });
    return rig;
  }

  /** A point of `packs`, which are put where they aren't there yet. */
  async backUp(
    name: string,
    packs: readonly string[],
    volumeId = 1,
    poolId: string = POOL_ID,
  ): Promise<void> {
    const { target } = this;
    const volumes = [{ name: `v${volumeId}`, volumeId }];
    const wish = { purpose: "backup", poolId, volumes, host: "" } as const;
    const { session } = await beginSession(target.catalog, { ...target, wish });
    for (const pack of packs) await this.put(`packs/${pack}`);
    const id = newId(random);
    const manifest = `points/${id}`;
    await target.store.put(manifest, [Buffer.from(packs.map((pack) => `packs/${pack}`).join())]);
    const timeMicros = this.nowMicros;
    const point = {
      id,
      name,
      manifest,
      createdMicros: timeMicros,
      poolId: wish.poolId,
      volumes: [{ ...volumes[0]!, sizeBytes: 512, lsn: 1, branch: 1, timeMicros }],
      newBytes: 1,
      isProtected: false,
    };
    await commitPoint(target.catalog, { session, point, reach: async () => new Set() });
    this.nowMicros += DAY_MICROS;
  }

  async put(name: string): Promise<void> {
    await this.target.store.putIfAbsent(name, [new Uint8Array(100)]);
  }

  prune(wish: Partial<PruneWish>, isDryRun = false): Promise<PruneReport> {
    const reached = this.#reached();
    const progress = { progress: () => {} };
    const whole = { remove: [], protect: [], unprotect: [], ...wish };
    return prune(this.target, { wish: whole, reached, progress, isDryRun });
  }

  /** What is there, but for the catalog. */
  names(prefix = "packs/"): string[] {
    return [...this.bucket.objects.keys()].filter((name) => name.startsWith(prefix)).sort();
  }

  async points(): Promise<string[]> {
    return (await this.target.catalog.read()).points.map(({ name }) => name);
  }

  #reached(): ReachedObjects {
    const reached = new Set<string>();
    return {
      has: (name) => reached.has(name),
      look: async () => {},
      add: async (manifest) => {
        const bytes = await this.target.store.get(manifest);
        if (bytes === undefined) throw damagedDocument(manifest, "it is missing");
        for (const name of Buffer.from(bytes).toString().split(",")) reached.add(name);
      },
    };
  }
}

test("a prune lets go of points and of what only they needed, and a dry run says so before", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a", "b"]);
  await rig.backUp("two", ["b", "c"]);
  await rig.backUp("three", ["c", "d"]);
  const before = new Map(rig.bucket.objects);
  const foretold = await rig.prune({ rules: { last: 1 } }, true);
  deepEqual(rig.bucket.objects, before);
  deepEqual(
    foretold.decisions.map(({ point, isKept }) => [point.name, isKept]),
    [
      ["three", true],
      ["two", false],
      ["one", false],
    ],
  );
  equal(foretold.garbage.garbageCount, 4);
  const report = await rig.prune({ rules: { last: 1 } });
  deepEqual(report.decisions, foretold.decisions);
  equal(report.garbage.deletedCount, 4);
  equal(report.garbage.deletedBytes, foretold.garbage.garbageBytes);
  deepEqual(rig.names(), ["packs/c", "packs/d"]);
  equal(rig.names("points/").length, 1);
  deepEqual((await rig.prune({ rules: { last: 1 } })).garbage.garbageCount, 0);
});

test("without rules only garbage goes", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a"]);
  await rig.put("packs/orphan");
  await rig.put("runs/orphan");
  await rig.put("sessions/00112233445566778899aabbccddeeff/0");
  const dying = new MemoryObjectStore(rig.bucket, { begin: () => new Promise(() => {}) });
  void dying.putIfAbsent("packs/half", [new Uint8Array(10)]);
  await rig.put("other/thing");
  const { garbage, removedCount } = await rig.prune({});
  deepEqual([removedCount, garbage.deletedCount, garbage.leftoverCount], [0, 2, 2]);
  deepEqual([rig.names(), rig.names("runs/"), rig.names("sessions/")], [["packs/a"], [], []]);
  deepEqual(rig.names("other/"), ["other/thing"]);
  equal(rig.bucket.drafts.size, 0);
});

test("what is garbage waits for a session that began before, and for nobody else", async () => {
  const rig = await Rig.make();
  const { target } = rig;
  await rig.backUp("one", ["a"]);
  await rig.backUp("two", ["b"]);
  const wish = { purpose: "backup", poolId: "cd".repeat(16), volumes: [], host: "" } as const;
  const { session } = await beginSession(target.catalog, { ...target, wish });
  await rig.put(`sessions/${session.id}/0`);
  const first = await rig.prune({ rules: { last: 1 } });
  deepEqual([first.garbage.deletedCount, first.garbage.waitingCount], [0, 2]);
  const later = { ...wish, poolId: "ef".repeat(16) };
  await beginSession(target.catalog, { ...target, wish: later });
  equal((await rig.prune({})).garbage.waitingCount, 2);
  deepEqual(rig.names(), ["packs/a", "packs/b"]);
  await target.catalog.update((state) => ({
    ...state,
    sessions: state.sessions.filter(({ id }) => id !== session.id),
  }));
  const last = await rig.prune({});
  deepEqual([last.garbage.deletedCount, last.garbage.waitingCount], [2, 0]);
  deepEqual([rig.names(), rig.names("sessions/")], [["packs/b"], []]);
});

test("what is garbage waits for a reader, until its lease has ended", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a"]);
  await rig.backUp("two", ["b"]);
  await Lease.begin(rig.target.catalog, { ...rig.target, purpose: "restore" });
  equal((await rig.prune({ rules: { last: 1 } })).garbage.waitingCount, 2);
  rig.nowMicros += LEASE_MICROS;
  equal((await rig.prune({})).garbage.waitingCount, 2, "clocks of two machines may differ");
  rig.nowMicros += LEASE_MICROS;
  equal((await rig.prune({})).garbage.deletedCount, 2);
});

test("a point that can't be read stops the prune, until it is removed", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a"]);
  await rig.backUp("two", ["b"]);
  await rig.put("packs/orphan");
  const [lost] = (await rig.target.catalog.read()).points;
  rig.bucket.objects.delete(lost!.manifest);
  await rejects(rig.prune({}), /nothing deleted: point "one" can't be read: points\/.*missing/);
  await rejects(rig.prune({}, true), has("TARGET_CORRUPT"));
  deepEqual(rig.names(), ["packs/a", "packs/b", "packs/orphan"]);
  await rig.prune({ remove: ["one"] });
  deepEqual([await rig.points(), rig.names()], [["two"], ["packs/b"]]);
});

test("a protected point is removed neither by rules nor by name", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a"]);
  await rig.backUp("two", ["b"]);
  await rig.prune({ protect: ["one"] });
  equal((await rig.prune({ rules: { last: 1 } })).removedCount, 0);
  await rejects(rig.prune({ remove: ["one"] }), has("POINT_PROTECTED"));
  await rejects(rig.prune({ remove: ["none"] }), has("POINT_NOT_FOUND"));
  deepEqual(await rig.points(), ["one", "two"]);
  await rig.prune({ unprotect: ["one"], remove: ["one"] });
  deepEqual(await rig.points(), ["two"]);
});

test("with a volume only its points are looked at", async () => {
  const rig = await Rig.make();
  for (const [name, volumeId] of [
    ["one", 1],
    ["two", 2],
    ["three", 1],
    ["four", 2],
  ] as const)
    await rig.backUp(name, [name], volumeId);
  const report = await rig.prune({ rules: { last: 1 }, volume: "v2" });
  deepEqual(
    report.decisions.map(({ point }) => point.name),
    ["four", "two"],
  );
  deepEqual(await rig.points(), ["one", "three", "four"]);
});

test("with a point that others are to be like, only those of its volumes in its pool are looked at", async () => {
  const rig = await Rig.make();
  const other = "cd".repeat(16);
  for (const name of ["a1", "a2"]) await rig.backUp(name, ["a"]);
  for (const name of ["b1", "b2"]) await rig.backUp(name, ["b"], 2);
  for (const name of ["c1", "c2"]) await rig.backUp(name, ["c"], 1, other);
  const { decisions } = await rig.prune({ rules: { last: 1 }, like: "a1" });
  deepEqual(
    decisions.map(({ point, isKept }) => [point.name, isKept]),
    [
      ["a2", true],
      ["a1", false],
    ],
  );
  await rejects(rig.prune({ rules: { last: 1 }, like: "a1" }), has("POINT_NOT_FOUND"));
});

test("old generations of the catalog go, and it is found without them", async () => {
  const rig = await Rig.make();
  for (let count = 0; count < 100; count += 1) await rig.backUp(`p${count}`, ["a"]);
  await rig.prune({ rules: { last: 3 } });
  const generations = rig.names("catalog/0").length;
  ok(generations <= 70, `${generations} generations`);
  const { store, clock } = rig.target;
  rig.bucket.objects.delete("catalog/hint");
  const again = await openOrMakeTarget({ store, clock, random });
  equal((await again.catalog.read()).points.length, 3);
});

test("more garbage than the catalog can condemn at once goes in rounds", async () => {
  const rig = await Rig.make();
  await rig.backUp("one", ["a"]);
  for (let count = 0; count < 70_000; count += 1)
    rig.bucket.objects.set(`packs/${count}`, new Uint8Array(1));
  const { garbage } = await rig.prune({});
  equal(garbage.deletedCount, 70_000);
  deepEqual(rig.names(), ["packs/a"]);
});
