// SPDX-License-Identifier: Apache-2.0
//
// Sessions, leases and points as a program sees them, one step after the other; what may happen between the steps is
// test/sim/backup-target.test.ts's.

import { deepEqual, equal, notEqual, ok, rejects, throws } from "node:assert/strict";
import { describe, test } from "node:test";
import { type ErrorCode, hasCode } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { MemoryBucket, MemoryObjectStore } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import type { CatalogState, PointEntry, SessionEntry } from "./catalog-state.ts";
import { holds, LEASE_MICROS, Lease } from "./leases.ts";
import { findPoint } from "./points.ts";
import {
  beginSession,
  commitPoint,
  endSession,
  leaveSession,
  newId,
  type SessionWish,
} from "./sessions.ts";
import { openOrMakeTarget, type Target } from "./target.ts";

const random = new SimRandom(new Prng(11));
const POOL = "ab".repeat(16);
const has = (code: ErrorCode) => (error: unknown) => hasCode(error, code);

/** A clock that a test sets; timers fire when it is moved over them. */
class HandClock implements Clock {
  nowMicros = 1_767_225_600_000_000;
  readonly #timers = new Set<{ atMicros: number; callback: () => void }>();

  wallMicros(): number {
    return this.nowMicros;
  }
  monotoneMicros(): number {
    return this.nowMicros;
  }
  after(delayMs: number, callback: () => void): () => void {
    const timer = { atMicros: this.nowMicros + delayMs * 1000, callback };
    this.#timers.add(timer);
    // Waits between conflicts are over at once.
    if (delayMs < 1000) this.#fire(timer);
    return () => void this.#timers.delete(timer);
  }
  afterInput(callback: () => void): void {
    callback();
  }
  async advance(micros: number): Promise<void> {
    this.nowMicros += micros;
    for (const timer of [...this.#timers]) if (timer.atMicros <= this.nowMicros) this.#fire(timer);
    for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  }
  #fire(timer: { callback: () => void }): void {
    this.#timers.delete(timer as never);
    timer.callback();
  }
}

async function makeTarget(): Promise<{ target: Target; clock: HandClock; bucket: MemoryBucket }> {
  const bucket = new MemoryBucket();
  const clock = new HandClock();
  const store = new MemoryObjectStore(bucket);
  return { target: await openOrMakeTarget({ store, clock, random }), clock, bucket };
}

function wishOf(...volumeIds: number[]): SessionWish {
  const volumes = volumeIds.map((volumeId) => ({ name: `v${volumeId}`, volumeId }));
  return { purpose: "backup", poolId: POOL, volumes, host: "here" };
}

function pointOf(name: string, timeMicros = 5): PointEntry {
  const id = newId(random);
  const volume = { name: "db", volumeId: 1, sizeBytes: 512, lsn: 1, branch: 1, timeMicros };
  return {
    id,
    name,
    manifest: `points/${id}`,
    createdMicros: 7,
    poolId: POOL,
    volumes: [volume],
    newBytes: 10,
    isProtected: false,
  };
}

const nothing = async (): Promise<Set<string>> => new Set();

function begin(target: Target, wish: SessionWish) {
  return beginSession(target.catalog, { ...target, wish });
}

describe("sessions", () => {
  test("a point is there when its session has gone, in one commit", async () => {
    const { target } = await makeTarget();
    const { session, state, isTakenOver } = await begin(target, wishOf(1));
    equal(isTakenOver, false);
    equal(session.generation, state.generation);
    const point = pointOf("v1");
    const after = await commitPoint(target.catalog, { session, point, reach: nothing });
    deepEqual([after.points, after.sessions], [[point], []]);
    equal(after.generation, state.generation + 1);
    // The answer may be lost: committing again is fine.
    equal(await commitPoint(target.catalog, { session, point, reach: nothing }), after);
  });

  test("the next backup of the same volumes takes the session over; the one before can't commit", async () => {
    const { target } = await makeTarget();
    const first = await begin(target, wishOf(1, 2));
    const second = await begin(target, wishOf(2, 1));
    ok(second.isTakenOver);
    equal(second.session.id, first.session.id);
    equal(second.session.generation, first.session.generation);
    notEqual(second.session.owner, first.session.owner);
    const commit = ({ session }: { session: SessionEntry }): Promise<CatalogState> =>
      commitPoint(target.catalog, { session, point: pointOf("v1"), reach: nothing });
    await rejects(commit(first), has("SESSION_ENDED"));
    equal((await commit(second)).points.length, 1);
    await rejects(commit(first), has("SESSION_ENDED"));
  });

  test("backups of other volumes, other pools and prunes have sessions of their own", async () => {
    const { target } = await makeTarget();
    const wishes = [
      wishOf(1),
      wishOf(1, 2),
      { ...wishOf(1), poolId: "cd".repeat(16) },
      { ...wishOf(1), purpose: "prune" } as const,
      { ...wishOf(1), purpose: "prune" } as const,
    ];
    for (const wish of wishes) equal((await begin(target, wish)).isTakenOver, false);
    equal((await target.catalog.read()).sessions.length, wishes.length);
  });

  test("one that is ended by hand can't commit; one that leaves is gone, and may be gone", async () => {
    const { target } = await makeTarget();
    const { session } = await begin(target, wishOf(1));
    equal((await endSession(target.catalog, session.id.slice(0, 8))).id, session.id);
    const point = pointOf("v1");
    await rejects(
      commitPoint(target.catalog, { session, point, reach: nothing }),
      has("SESSION_ENDED"),
    );
    await rejects(endSession(target.catalog, session.id), has("SESSION_NOT_FOUND"));
    const next = await begin(target, wishOf(1));
    await leaveSession(target.catalog, next.session);
    await leaveSession(target.catalog, next.session);
    deepEqual((await target.catalog.read()).sessions, []);
  });

  test("the beginning of an id must mean one session", async () => {
    const { target } = await makeTarget();
    await begin(target, wishOf(1));
    await begin(target, wishOf(2));
    await rejects(endSession(target.catalog, ""), /2 begin like that/);
    equal((await target.catalog.read()).sessions.length, 2);
  });

  test("a commit takes what its point reaches off the lists of condemned objects", async () => {
    const { target } = await makeTarget();
    const { session } = await begin(target, wishOf(1));
    const names = ["packs/ab/one", "packs/ab/two"];
    await target.catalog.update((state) => ({
      ...state,
      condemned: [
        { generation: state.generation + 1, names },
        { generation: state.generation + 1, names: ["runs/ab/one"] },
      ],
    }));
    const reach = async (): Promise<Set<string>> => new Set(["packs/ab/two", "runs/ab/one"]);
    const after = await commitPoint(target.catalog, { session, point: pointOf("v1"), reach });
    deepEqual(
      after.condemned.map((entry) => entry.names),
      [["packs/ab/one"]],
    );
  });
});

describe("leases", () => {
  test("a lease holds while it is renewed, and goes when its reader ends", async () => {
    const { target, clock } = await makeTarget();
    {
      await using lease = await Lease.begin(target.catalog, { ...target, purpose: "restore" });
      equal(lease.state.leases[0]?.generation, lease.state.generation);
      for (let quarter = 0; quarter < 20; quarter += 1) await clock.advance(LEASE_MICROS / 4);
      lease.check();
      const [entry] = (await target.catalog.read()).leases;
      ok(entry !== undefined && holds(entry, clock.nowMicros));
      equal(entry.generation, lease.state.generation);
    }
    deepEqual((await target.catalog.read()).leases, []);
  });

  test("a reader that slept through its lease is told, and doesn't bring it back", async () => {
    const { target, clock } = await makeTarget();
    await using lease = await Lease.begin(target.catalog, { ...target, purpose: "serve" });
    await clock.advance(2 * LEASE_MICROS);
    throws(() => lease.check(), has("TARGET_UNAVAILABLE"));
    const [entry] = (await target.catalog.read()).leases;
    ok(entry !== undefined && !holds(entry, clock.nowMicros));
    // The next reader clears it away.
    await using next = await Lease.begin(target.catalog, { ...target, purpose: "serve" });
    equal(next.state.leases.length, 1);
  });

  test("a target that can't be reached for a while costs no lease", async () => {
    const { target, clock, bucket } = await makeTarget();
    await using lease = await Lease.begin(target.catalog, { ...target, purpose: "serve" });
    bucket.isGone = true;
    await clock.advance(LEASE_MICROS / 4);
    await clock.advance(LEASE_MICROS / 4);
    lease.check();
    bucket.isGone = false;
    await clock.advance(LEASE_MICROS / 4);
    await clock.advance(LEASE_MICROS / 2);
    lease.check();
  });
});

describe("points", () => {
  const old = pointOf("v1", 1);
  const newer = pointOf("v1", 2);
  const web = { ...pointOf("nightly", 3), volumes: [{ ...old.volumes[0]!, name: "web" }] };
  const points = [old, newer, web];

  test("a name means the newest point of that name, latest the newest of all", () => {
    equal(findPoint(points, { name: "v1" }), newer);
    equal(findPoint(points, { name: "latest" }), newer);
    equal(findPoint(points, { name: "latest", volume: "web" }), web);
    equal(findPoint(points, { name: old.id }), old);
    equal(findPoint(points, { name: old.id.slice(0, 8) }), old);
  });

  test("one that isn't there is refused with the nearest", () => {
    throws(() => findPoint(points, { name: "v2" }), has("POINT_NOT_FOUND"));
    throws(() => findPoint(points, { name: "nightl" }), { hint: /did you mean "nightly"/ });
    throws(() => findPoint(points, { name: "v1", volume: "web" }), /no point of volume "web"/);
    throws(() => findPoint([], { name: "latest" }), /there is no point/);
    throws(() => findPoint(points, { name: old.id.slice(0, 4) }), has("POINT_NOT_FOUND"));
  });
});
