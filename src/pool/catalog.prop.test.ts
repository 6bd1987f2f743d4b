// SPDX-License-Identifier: Apache-2.0
//
// The catalog against a plain model, through JSON and back at any time; and catalogs from disk that make no sense. The
// model keeps a whole copy of itself for each record: what the catalog says of the past is what that copy says.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { RECORD_KIND } from "../log/record.ts";
import { Catalog } from "./catalog.ts";
import type { Retention } from "./types.ts";

const K = RECORD_KIND;
const NAMES = ["a", "b", "c", "d"] as const;
const name = fc.constantFrom(...NAMES);
const id = fc.integer({ min: 1, max: 6 });
const branch = fc.integer({ min: 1, max: 9 });
const lsn = fc.integer({ min: 0, max: 60 });
const size = fc.constantFrom(512, 1024, 1 << 20, 2 ** 46);
const span = fc.constantFrom(null, 0, 1, 86_400_000_000);
const moments = fc.array(fc.record({ volume: id, name }), { maxLength: 3 });
const spans = {
  everyWriteMicros: fc.constantFrom(null, 0, 1, 86_400_000_000, -1, 0.5),
  hourlyMicros: span,
  dailyMicros: span,
  weeklyMicros: span,
  monthlyMicros: fc.constantFrom(null, 0, 1, -1),
};
const momentFields = {
  expiresMicros: fc.constantFrom(1, 500),
  isProtected: fc.boolean(),
  description: fc.string(),
};

const STEPS = { minLength: 10, maxLength: 60, size: "max" } as const;
const one = (kind: number, body: fc.Arbitrary<object>) =>
  fc.record({ kind: fc.constant(kind), body });
const step = fc.oneof(
  one(K.VOLUME_MADE, fc.record({ id, name, sizeBytes: size, branch })),
  one(K.VOLUME_RESIZED, fc.record({ id, sizeBytes: size })),
  one(K.VOLUME_REMOVED, fc.record({ id })),
  one(K.VOLUME_RESTORED, fc.record({ id, name })),
  one(
    K.VOLUME_SET,
    fc.record(
      {
        id,
        name,
        isReadOnly: fc.boolean(),
        description: fc.string(),
        isDeduplicated: fc.boolean(),
        isCompressed: fc.boolean(),
      },
      { requiredKeys: ["id"] },
    ),
  ),
  one(
    K.BRANCHED,
    fc.record(
      {
        id,
        branch,
        parent: branch,
        parentLsn: lsn,
        sizeBytes: size,
        reason: fc.constantFrom("clone", "clone", "rewind", "undo", "rewind", "whim"),
        name,
        isTemporary: fc.constantFrom<unknown>(true, false, "yes"),
      },
      { requiredKeys: ["id", "branch", "parent", "parentLsn", "sizeBytes", "reason"] },
    ),
  ),
  one(
    K.MOMENT_NAMED,
    fc.record(
      { lsn, timeMicros: fc.nat(1000), moments, ...momentFields },
      { requiredKeys: ["lsn", "timeMicros", "moments"] },
    ),
  ),
  one(K.MOMENT_FORGOTTEN, fc.record({ moments })),
  one(
    K.MOMENT_SET,
    fc.record(
      {
        volume: id,
        name,
        newName: name,
        ...momentFields,
        expiresMicros: fc.constantFrom(null, 1, 500),
      },
      { requiredKeys: ["volume", "name"] },
    ),
  ),
  one(K.RETENTION_SET, fc.record(spans, { requiredKeys: ["everyWriteMicros"] })),
  one(
    K.RETENTION_SET,
    fc.record({ ...spans, volume: id }, { requiredKeys: ["volume", "everyWriteMicros"] }),
  ),
  one(K.RETENTION_SET, fc.record({ volume: id, isInherited: fc.boolean() })),
  one(
    K.POOL_SET,
    fc.record(
      {
        poolSizeBytes: fc.constantFrom(0, 1 << 30, -1, Number.NaN),
        whenFull: fc.constantFrom("shorten-history", "stop-writes", "panic"),
        historyFloorMicros: fc.constantFrom(0, 60_000_000, -1),
      },
      { requiredKeys: [] },
    ),
  ),
  one(K.OPENED, fc.record({ incarnation: id })),
);

interface ModelVolume {
  id: number;
  name: string;
  sizeBytes: number;
  branch: number;
  createdMicros: number;
  removedMicros: number | undefined;
  isReadOnly: boolean;
  description: string;
  isDeduplicated: boolean;
  isCompressed: boolean;
  isTemporary: boolean;
  retention: Retention | undefined;
}

interface ModelBranch {
  id: number;
  volume: number;
  parent: number;
  parentLsn: number;
  fromLsn: number;
}

interface ModelMoment {
  volume: number;
  name: string;
  lsn: number;
  timeMicros: number;
  expiresMicros: number | null;
  isProtected: boolean;
  description: string;
}

/** The fields of all kinds; a record has those of its own. */
interface Body extends Retention, ModelBranch {
  readonly name: string;
  readonly newName?: string;
  readonly sizeBytes: number;
  readonly branch: number;
  readonly reason: string;
  readonly lsn: number;
  readonly timeMicros: number;
  readonly moments: readonly Named[];
  readonly isInherited?: boolean;
  readonly poolSizeBytes?: number;
  readonly whenFull?: string;
  readonly historyFloorMicros?: number;
}

type Named = Pick<ModelMoment, "volume" | "name">;

class Model {
  volumes: ModelVolume[] = [];
  branches: ModelBranch[] = [];
  moments: ModelMoment[] = [];
  retention = whole({ everyWriteMicros: null });
  poolSizeBytes: number | undefined;
  whenFull = "shorten-history";
  historyFloorMicros = 3_600_000_000;
  /** The volumes after each record. */
  readonly past: ModelVolume[][] = [[]];

  /** What the documentation says of each record; false: it contradicts what is there. */
  apply(kind: number, body: Body): boolean {
    const before = structuredClone(this.volumes);
    const isApplied = this.#apply(kind, body);
    if (!isApplied) this.volumes = before;
    this.past.push(structuredClone(this.volumes));
    return isApplied;
  }

  live(): ModelVolume[] {
    return this.volumes.filter(isLive);
  }

  /** The LSN of the last rewind, undo, shrink or, while it holds, removal. */
  lastUndoable(volume: ModelVolume): number | undefined {
    for (let at = this.past.length - 1; at > 0; at--) {
      const [now, then] = [at, at - 1].map((one) => find(this.past[one] ?? [], volume.id));
      if (now === undefined || then === undefined) return undefined;
      const isRemoval = isLive(then) && !isLive(now) && !isLive(volume);
      if (isRemoval || now.branch !== then.branch || now.sizeBytes < then.sizeBytes) return at;
    }
    return undefined;
  }

  get #at(): number {
    return this.past.length;
  }

  #isTaken(wanted: string): boolean {
    return this.live().some((volume) => volume.name === wanted);
  }

  #apply(kind: number, body: Body): boolean {
    const volume = find(this.volumes, body.id);
    switch (kind) {
      case K.VOLUME_MADE:
        if (volume !== undefined || this.#isTaken(body.name)) return false;
        if (this.branches.some((other) => other.id === body.branch)) return false;
        this.#make(body);
        this.#branch({ ...body, parent: 0, parentLsn: 0 });
        return true;
      case K.VOLUME_RESIZED:
        if (volume === undefined || !isLive(volume)) return false;
        volume.sizeBytes = body.sizeBytes;
        return true;
      case K.VOLUME_REMOVED:
        if (volume === undefined || !isLive(volume)) return false;
        volume.removedMicros = timeOf(this.#at);
        return true;
      case K.VOLUME_RESTORED:
        if (volume === undefined || isLive(volume) || this.#isTaken(body.name)) return false;
        Object.assign(volume, {
          removedMicros: undefined,
          isTemporary: false,
          name: body.name,
        });
        return true;
      case K.VOLUME_SET: {
        if (volume === undefined) return false;
        const isRenamed = "name" in body && body.name !== volume.name;
        if (isRenamed && (!isLive(volume) || this.#isTaken(body.name))) return false;
        Object.assign(volume, body);
        return true;
      }
      case K.BRANCHED:
        return this.#branched(body, volume);
      case K.MOMENT_NAMED:
        return this.#named(body);
      case K.MOMENT_FORGOTTEN:
        if (!this.#isList(body.moments, (found) => found !== undefined)) return false;
        this.moments = this.moments.filter((moment) => !isOneOf(body.moments, moment));
        return true;
      case K.MOMENT_SET: {
        const moment = this.#moment(body);
        if (moment === undefined) return false;
        const { volume: _volume, name: _name, newName: to = moment.name, ...set } = body;
        if (to !== moment.name && this.#moment({ ...moment, name: to }) !== undefined) return false;
        Object.assign(moment, set, { name: to });
        return true;
      }
      case K.RETENTION_SET:
        return this.#retentionSet(body);
      case K.POOL_SET: {
        const { poolSizeBytes = 0, whenFull = "stop-writes", historyFloorMicros = 0 } = body;
        if (poolSizeBytes !== 0 && poolSizeBytes !== 1 << 30) return false;
        if (whenFull === "panic" || historyFloorMicros < 0) return false;
        Object.assign(this, body);
        return true;
      }
      default:
        return true;
    }
  }

  #make(body: Body): void {
    this.volumes.push({
      id: body.id,
      name: body.name,
      sizeBytes: body.sizeBytes,
      branch: body.branch,
      createdMicros: timeOf(this.#at),
      removedMicros: undefined,
      isReadOnly: false,
      description: "",
      isDeduplicated: true,
      isCompressed: true,
      isTemporary: false,
      retention: undefined,
    });
  }

  #branch(body: Body): void {
    const { branch: made, parent, parentLsn } = body;
    this.branches.push({ id: made, volume: body.id, parent, parentLsn, fromLsn: this.#at });
  }

  #branched(body: Body, volume: ModelVolume | undefined): boolean {
    const parent = this.branches.find((other) => other.id === body.parent);
    if (parent === undefined || body.branch <= parent.id) return false;
    if (this.branches.some((other) => other.id === body.branch)) return false;
    if (body.parentLsn >= this.#at || body.parentLsn < parent.fromLsn) return false;
    const { reason } = body;
    if (reason === "clone") {
      if (volume !== undefined || body.name === undefined || this.#isTaken(body.name)) return false;
      this.#make(body);
      const origin = find(this.volumes, parent.volume);
      const { isDeduplicated, isCompressed } = origin as ModelVolume;
      const isTemporary = (body as { readonly isTemporary?: unknown }).isTemporary === true;
      Object.assign(this.volumes.at(-1) as object, { isDeduplicated, isCompressed, isTemporary });
    } else {
      if (reason === "whim" || body.name !== undefined) return false;
      if (volume === undefined || !isLive(volume) || parent.volume !== volume.id) return false;
      Object.assign(volume, { branch: body.branch, sizeBytes: body.sizeBytes });
    }
    this.#branch(body);
    return true;
  }

  #named(body: Body): boolean {
    const { lsn: at, timeMicros, moments: named, ...rest } = body;
    if (at >= this.#at) return false;
    const isNew = (found: ModelMoment | undefined, volume: number): boolean => {
      const then = find(this.past[at] ?? [], volume);
      return found === undefined && then !== undefined && isLive(then);
    };
    if (!this.#isList(named, isNew)) return false;
    const plain = { lsn: at, timeMicros, expiresMicros: null, isProtected: false, description: "" };
    for (const moment of named) this.moments.push({ ...plain, ...rest, ...moment });
    return true;
  }

  #retentionSet({ volume: wanted, isInherited, ...rest }: Body): boolean {
    const volume = find(this.volumes, wanted);
    if (wanted !== undefined && volume === undefined) return false;
    if (isInherited) {
      (volume as ModelVolume).retention = undefined;
      return true;
    }
    const { everyWriteMicros, monthlyMicros = 0 } = rest;
    if (![null, 0, 1, 86_400_000_000].includes(everyWriteMicros)) return false;
    if (monthlyMicros === -1) return false;
    (volume ?? this).retention = whole(rest);
    return true;
  }

  #moment({ volume, name: named }: Named): ModelMoment | undefined {
    return this.moments.find((moment) => moment.volume === volume && moment.name === named);
  }

  #isList(
    named: readonly Named[],
    isRight: (found: ModelMoment | undefined, volume: number) => boolean,
  ): boolean {
    if (named.length === 0) return false;
    return named.every(
      (moment, index) =>
        !isOneOf(named.slice(0, index), moment) && isRight(this.#moment(moment), moment.volume),
    );
  }
}

function isOneOf(list: readonly Named[], { volume, name: named }: Named): boolean {
  return list.some((one) => one.volume === volume && one.name === named);
}

function find(volumes: ModelVolume[], wanted: number): ModelVolume | undefined {
  return volumes.find((volume) => volume.id === wanted);
}

function isLive(volume: ModelVolume): boolean {
  return volume.removedMicros === undefined;
}

function timeOf(at: number): number {
  return 100 + at;
}

function whole(given: Partial<Retention> & { everyWriteMicros: number | null }): Retention {
  return { hourlyMicros: 0, dailyMicros: 0, weeklyMicros: 0, monthlyMicros: 0, ...given };
}

function reloaded(catalog: Catalog): Catalog {
  return Catalog.fromJson(JSON.parse(JSON.stringify(catalog.toJson())));
}

/** All that the catalog says of now is what the model says. */
function compareNow(catalog: Catalog, model: Model): void {
  const volumes = [...catalog.volumes.values()].map(({ states, ...volume }) => volume);
  deepEqual(volumes, model.volumes);
  deepEqual([...catalog.branches.values()], model.branches);
  deepEqual(catalog.retention, model.retention);
  const { poolSizeBytes, whenFull, historyFloorMicros } = model;
  deepEqual(catalog.limits, { poolSizeBytes, whenFull, historyFloorMicros });
  equal(catalog.list(false).length, model.live().length);
  equal(catalog.list(true).length, model.volumes.length);
  for (const volume of model.live()) equal(catalog.volumeNamed(volume.name).id, volume.id);
  for (const used of model.branches)
    ok(catalog.nextVolume > used.volume && catalog.nextBranch > used.id, "no number is used twice");
  for (const volume of catalog.volumes.values()) {
    const wanted = find(model.volumes, volume.id) as ModelVolume;
    deepEqual(catalog.retentionOf(volume), wanted.retention ?? model.retention);
    equal(catalog.lastUndoable(volume)?.lsn, model.lastUndoable(wanted));
    const named = model.moments.filter((moment) => moment.volume === volume.id);
    const order = (a: ModelMoment, b: ModelMoment): number =>
      a.lsn - b.lsn || (a.name < b.name ? -1 : 1);
    deepEqual(catalog.moments.of(volume.id), named.sort(order));
  }
}

/** So is all it says of every moment before. */
function comparePast(catalog: Catalog, model: Model): void {
  for (const [at, volumes] of model.past.entries()) {
    for (const wanted of NAMES) {
      const then = volumes.find((volume) => isLive(volume) && volume.name === wanted);
      const found = catalog.volumeAt(wanted, at);
      equal(found?.volume.id, then?.id);
      deepEqual([found?.state.sizeBytes, found?.state.branch], [then?.sizeBytes, then?.branch]);
    }
    for (const volume of catalog.volumes.values()) {
      const state = catalog.stateAt(volume, at);
      const then = find(volumes, volume.id);
      equal(state?.name, then?.name);
      equal(state?.isRemoved, then === undefined ? undefined : !isLive(then));
    }
  }
}

/** The record, most often made to fit what is there: one that names things by chance seldom does. */
function aimed(model: Model, kind: number, body: Body, aim: number): Body {
  const { volumes, branches, moments: named, past } = model;
  const pick = <T>(list: readonly T[]): T | undefined => list[aim % Math.max(1, list.length)];
  const free = { id: volumes.length + 1, branch: branches.length + 1 };
  const volume = pick(volumes)?.id ?? 1;
  const parent = pick(branches);
  const isLeft = aim % 4 === 0 || volumes.length === 0;
  switch (kind) {
    case K.VOLUME_MADE:
      return { ...body, ...free };
    case K.BRANCHED: {
      if (isLeft || parent === undefined) return body;
      const parentLsn = parent.fromLsn + (aim % (past.length - parent.fromLsn));
      const { name: wanted, ...rest } = { ...body, ...free, parent: parent.id, parentLsn };
      return (
        body.reason === "clone" ? { ...rest, name: wanted ?? "d" } : { ...rest, id: parent.volume }
      ) as Body;
    }
    case K.MOMENT_NAMED: {
      if (isLeft) return body;
      const at = aim % past.length;
      const then = (past[at] ?? []).filter(isLive).map(({ id: one }) => one);
      return {
        ...body,
        lsn: at,
        moments: then.map((one) => ({ volume: one, name: NAMES[aim % 3]! })),
      };
    }
    case K.MOMENT_FORGOTTEN:
      return isLeft ? body : { ...body, moments: named.slice(aim % 3, 2) };
    case K.MOMENT_SET: {
      const { volume: of, name: known } = pick(named) ?? body;
      return isLeft ? body : { ...body, volume: of, name: known };
    }
    case K.RETENTION_SET:
      return isLeft || body.volume === undefined ? body : { ...body, volume };
    default:
      return isLeft || body.id === undefined ? body : { ...body, id: volume };
  }
}

test("records change the catalog as they say, or not at all; every moment before stays known, through JSON too", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(step, fc.boolean(), fc.nat()), STEPS), (steps) => {
      let catalog = new Catalog();
      const model = new Model();
      for (const [{ kind, body: plain }, isReloaded, aim] of steps) {
        const body = aimed(model, kind, plain as Body, aim);
        const at = { lsn: model.past.length, timeMicros: timeOf(model.past.length) };
        const isApplied = model.apply(kind, body);
        equal(catalog.apply(kind, { ...body }, at), isApplied, JSON.stringify({ kind, body }));
        if (isReloaded) catalog = reloaded(catalog);
        catalog.checkInvariants();
        compareNow(catalog, model);
      }
      comparePast(catalog, model);
    }),
    { numRuns: 200 },
  );
});

test("a copy as JSON doesn't change when the catalog does", () => {
  const catalog = new Catalog();
  apply(catalog, 5, K.VOLUME_MADE, { id: 1, name: "a", sizeBytes: 512, branch: 1 });
  apply(catalog, 6, K.MOMENT_NAMED, { lsn: 5, timeMicros: 1, moments: [{ volume: 1, name: "v" }] });
  const json = JSON.stringify(catalog.toJson());
  const copy = catalog.toJson();
  apply(catalog, 7, K.VOLUME_SET, { id: 1, name: "b", isReadOnly: true });
  apply(catalog, 8, K.MOMENT_SET, { volume: 1, name: "v", isProtected: true });
  apply(catalog, 9, K.VOLUME_REMOVED, { id: 1 });
  equal(JSON.stringify(copy), json);
});

test("undo is a way back and forth: a removal comes first, and what was undone can be undone", () => {
  const catalog = new Catalog();
  apply(catalog, 10, K.VOLUME_MADE, { id: 1, name: "a", sizeBytes: 4096, branch: 1 });
  const volume = catalog.volumeNamed("a");
  equal(catalog.lastUndoable(volume), undefined, "there is nothing before its making");
  const back = { id: 1, branch: 2, parent: 1, parentLsn: 15, sizeBytes: 2048, reason: "rewind" };
  apply(catalog, 20, K.BRANCHED, back);
  const rewind = {
    kind: "rewind",
    lsn: 20,
    timeMicros: 120,
    branch: 1,
    branchLsn: 19,
    sizeBytes: 4096,
  };
  deepEqual(catalog.lastUndoable(volume), rewind);
  apply(catalog, 30, K.BRANCHED, {
    ...back,
    branch: 3,
    parentLsn: 19,
    sizeBytes: 4096,
    reason: "undo",
  });
  const redo = {
    kind: "rewind",
    lsn: 30,
    timeMicros: 130,
    branch: 2,
    branchLsn: 29,
    sizeBytes: 2048,
  };
  deepEqual(catalog.lastUndoable(volume), redo);
  apply(catalog, 40, K.VOLUME_REMOVED, { id: 1 });
  deepEqual(catalog.lastUndoable(volume), { kind: "removal", lsn: 40, timeMicros: 140 });
  apply(catalog, 41, K.VOLUME_MADE, { id: 2, name: "a", sizeBytes: 512, branch: 4 });
  equal(catalog.apply(K.VOLUME_RESTORED, { id: 1, name: "a" }, place(50)), false, "taken");
  apply(catalog, 50, K.VOLUME_RESTORED, { id: 1, name: "old-a" });
  deepEqual(catalog.lastUndoable(volume), redo);
  for (const priorLsn of [49, 60, -1, "57"])
    equal(catalog.apply(K.VOLUME_RESIZED, { id: 1, sizeBytes: 1024, priorLsn }, place(60)), false);
  apply(catalog, 60, K.VOLUME_RESIZED, { id: 1, sizeBytes: 1024, priorLsn: 57 });
  apply(catalog, 61, K.VOLUME_RESIZED, { id: 1, sizeBytes: 8192 });
  const shrink = {
    kind: "shrink",
    lsn: 60,
    timeMicros: 160,
    branch: 3,
    branchLsn: 57,
    sizeBytes: 4096,
  };
  deepEqual(
    reloaded(catalog).lastUndoable(volume),
    shrink,
    "that it grew again brings nothing back",
  );
  deepEqual(
    [35, 40, 45, 50, 60].map((at) => catalog.volumeAt("a", at)?.volume.id),
    [1, undefined, 2, 2, 2],
  );
});

function place(lsn: number): { lsn: number; timeMicros: number } {
  return { lsn, timeMicros: timeOf(lsn) };
}

function apply(catalog: Catalog, at: number, kind: number, body: Record<string, unknown>): void {
  ok(catalog.apply(kind, body, place(at)), JSON.stringify(body));
}

test("records by chance never throw, and change nothing when they are refused", () => {
  const value = fc.oneof(fc.jsonValue({ maxDepth: 1 }), fc.constantFrom(1, 2, 3, 512, "v", "w"));
  const list = fc.array(fc.dictionary(fc.constantFrom("volume", "name"), value), { maxLength: 2 });
  const field = fc.constantFrom(
    ...["id", "name", "sizeBytes", "branch", "isReadOnly", "everyWriteMicros", "volume", "newName"],
    ...["parent", "parentLsn", "reason", "lsn", "timeMicros", "moments", "expiresMicros"],
  );
  fc.assert(
    fc.property(fc.nat(60), fc.dictionary(field, fc.oneof(value, list)), (kind, body) => {
      const catalog = new Catalog();
      apply(catalog, 1, K.VOLUME_MADE, { id: 1, name: "a", sizeBytes: 512, branch: 1 });
      const moments = [{ volume: 1, name: "v" }];
      apply(catalog, 2, K.MOMENT_NAMED, { lsn: 1, timeMicros: 1, moments });
      const before = JSON.stringify(catalog.toJson());
      const isApplied = catalog.apply(kind, body, place(3));
      catalog.checkInvariants();
      deepEqual(reloaded(catalog).toJson(), catalog.toJson());
      if (!isApplied) equal(JSON.stringify(catalog.toJson()), before);
    }),
    { numRuns: 3000 },
  );
});

const OLD = {
  nextVolume: 3,
  nextBranch: 3,
  volumes: [
    {
      id: 1,
      name: "a",
      sizeBytes: 512,
      createdMicros: 1,
      isReadOnly: false,
      description: "",
      branch: 1,
    },
    {
      id: 2,
      name: "b",
      sizeBytes: 512,
      createdMicros: 1,
      removedMicros: 9,
      isReadOnly: false,
      description: "",
      branch: 2,
    },
  ],
  branches: [
    { id: 1, volume: 1, parent: 0, parentLsn: 0 },
    { id: 2, volume: 2, parent: 0, parentLsn: 0 },
  ],
};

test("what an older checkpoint doesn't say has its default; a volume was what it is", () => {
  const catalog = Catalog.fromJson(OLD);
  catalog.checkInvariants();
  const volume = catalog.volumeNamed("a");
  deepEqual([volume.isDeduplicated, volume.isCompressed], [true, true], "unless switched off");
  deepEqual(volume.states, [
    { fromLsn: 0, fromMicros: 1, name: "a", sizeBytes: 512, branch: 1, isRemoved: false },
  ]);
  deepEqual(catalog.retention, whole({ everyWriteMicros: null }));
  equal(catalog.limits.poolSizeBytes, undefined);
  equal(catalog.branches.get(1)?.fromLsn, 0);
  const removed = catalog.volumes.get(2);
  ok(removed !== undefined);
  equal(catalog.lastUndoable(removed)?.kind, "removal");
});

test("a catalog that makes no sense is POOL_CORRUPT", () => {
  const [volume, other] = OLD.volumes;
  const [branch, otherBranch] = OLD.branches;
  const state = {
    fromLsn: 4,
    fromMicros: 1,
    name: "a",
    sizeBytes: 512,
    branch: 1,
    isRemoved: false,
  };
  const withStates = (...states: unknown[]) => ({ volumes: [{ ...volume, states }] });
  const moment = { volume: 1, name: "v", lsn: 4, timeMicros: 1, expiresMicros: null };
  const withMoment = (change: object) => ({ moments: [{ ...moment, ...change }] });
  Catalog.fromJson({ ...OLD, ...withStates(state), ...withMoment({}) });
  for (const wrong of [
    { volumes: undefined },
    { volumes: [null] },
    { volumes: [{ ...volume, id: "1" }] },
    { volumes: [{ ...volume, id: 3 }] },
    { volumes: [{ ...volume, sizeBytes: 511 }] },
    { volumes: [{ ...volume, name: 7 }] },
    { volumes: [{ ...volume, name: "now" }] },
    { volumes: [{ ...volume, branch: 9 }] },
    { volumes: [{ ...volume, branch: 2 }] },
    { volumes: [{ ...volume, retention: {} }] },
    { volumes: [volume, volume] },
    { volumes: [volume, { ...other, name: "a", removedMicros: undefined }] },
    withStates(),
    withStates(null),
    withStates(state, state),
    withStates({ ...state, fromLsn: -1 }),
    withStates({ ...state, priorLsn: 4 }),
    withStates({ ...state, branch: 2 }, { ...state, fromLsn: 5 }),
    withStates(state, { ...state, fromLsn: 5, name: "b" }),
    withStates(state, { ...state, fromLsn: 5, isRemoved: true }),
    withMoment({ lsn: -1 }),
    withMoment({ volume: 3 }),
    withMoment({ name: "flush" }),
    withMoment({ expiresMicros: "soon" }),
    { ...withStates(state), ...withMoment({ lsn: 3 }) },
    { moments: [moment, moment] },
    { moments: {} },
    { branches: [null] },
    { branches: [{ id: 0, volume: 1 }] },
    { branches: [branch, { ...otherBranch, parent: 2 }] },
    { branches: [branch, { ...otherBranch, fromLsn: 0.5 }] },
    { branches: [branch, otherBranch, branch] },
    { nextVolume: "2" },
    { nextVolume: 2 },
    { nextBranch: 2 },
    { retention: null },
    { retention: { everyWriteMicros: -1 } },
    { retention: { everyWriteMicros: 1, weeklyMicros: "7d" } },
    { retention: {} },
    { poolSizeBytes: "0" },
    { poolSizeBytes: null },
    { whenFull: "panic" },
    { historyFloorMicros: -1 },
  ])
    throws(
      () => Catalog.fromJson({ ...OLD, ...wrong }),
      { code: "POOL_CORRUPT" },
      JSON.stringify(wrong),
    );
});
