// SPDX-License-Identifier: Apache-2.0
//
// The catalog against a plain model, through JSON and back at any time; and catalogs from disk that make no sense.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { RECORD_KIND } from "../log/record.ts";
import { Catalog } from "./catalog.ts";

const K = RECORD_KIND;
const name = fc.constantFrom("a", "b", "c", "d");
const id = fc.integer({ min: 1, max: 6 });
const size = fc.constantFrom(512, 1024, 1 << 20, 2 ** 46);
const step = fc.oneof(
  fc.record({
    kind: fc.constant(K.VOLUME_MADE),
    body: fc.record({ id, name, sizeBytes: size, branch: id }),
  }),
  fc.record({ kind: fc.constant(K.VOLUME_RESIZED), body: fc.record({ id, sizeBytes: size }) }),
  fc.record({ kind: fc.constant(K.VOLUME_REMOVED), body: fc.record({ id }) }),
  fc.record({
    kind: fc.constant(K.VOLUME_SET),
    body: fc.record(
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
  }),
  fc.record({
    kind: fc.constant(K.RETENTION_SET),
    body: fc.record({ everyWriteMicros: fc.constantFrom(null, 0, 1, 86_400_000_000, -1, 0.5) }),
  }),
  fc.record({
    kind: fc.constant(K.POOL_SET),
    body: fc.record({ poolSizeBytes: fc.constantFrom(0, 1 << 30, -1, Number.NaN) }),
  }),
  fc.record({ kind: fc.constant(K.OPENED), body: fc.record({ incarnation: id }) }),
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
}

interface Model {
  readonly volumes: Map<number, ModelVolume>;
  everyWriteMicros: number | null;
  poolSizeBytes: number | undefined;
}

/** What the documentation says of each record; false: it contradicts what is there. */
function applyToModel(model: Model, one: { kind: number; body: object }, time: number): boolean {
  const { volumes } = model;
  const body = one.body as Partial<ModelVolume> & { id: number };
  const { everyWriteMicros, poolSizeBytes } = one.body as Partial<Model>;
  const isNameTaken = (wanted: string): boolean =>
    [...volumes.values()].some(
      (volume) => volume.name === wanted && volume.removedMicros === undefined,
    );
  const volume = volumes.get(body.id);
  switch (one.kind) {
    case K.VOLUME_MADE: {
      const branch = body.branch as number;
      if (volume !== undefined || isNameTaken(body.name as string)) return false;
      if ([...volumes.values()].some((other) => other.branch === branch)) return false;
      volumes.set(body.id, {
        id: body.id,
        name: body.name as string,
        sizeBytes: body.sizeBytes as number,
        branch,
        createdMicros: time,
        removedMicros: undefined,
        isReadOnly: false,
        description: "",
        isDeduplicated: true,
        isCompressed: true,
      });
      return true;
    }
    case K.VOLUME_RESIZED:
      if (volume === undefined) return false;
      volume.sizeBytes = body.sizeBytes as number;
      return true;
    case K.VOLUME_REMOVED:
      if (volume === undefined || volume.removedMicros !== undefined) return false;
      volume.removedMicros = time;
      return true;
    case K.VOLUME_SET:
      if (volume === undefined) return false;
      if (body.name !== undefined && body.name !== volume.name) {
        if (volume.removedMicros !== undefined || isNameTaken(body.name)) return false;
        volume.name = body.name;
      }
      volume.isReadOnly = body.isReadOnly ?? volume.isReadOnly;
      volume.description = body.description ?? volume.description;
      volume.isDeduplicated = body.isDeduplicated ?? volume.isDeduplicated;
      volume.isCompressed = body.isCompressed ?? volume.isCompressed;
      return true;
    case K.RETENTION_SET:
      if (![null, 0, 1, 86_400_000_000].includes(everyWriteMicros as number | null)) return false;
      model.everyWriteMicros = everyWriteMicros as number | null;
      return true;
    case K.POOL_SET:
      if (poolSizeBytes !== 0 && poolSizeBytes !== 1 << 30) return false;
      model.poolSizeBytes = poolSizeBytes;
      return true;
    default:
      return true;
  }
}

test("records change the catalog as they say, or not at all; JSON keeps all of it", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(step, fc.boolean()), { maxLength: 60 }), (steps) => {
      let catalog = new Catalog();
      const pool: Model = { volumes: new Map(), everyWriteMicros: null, poolSizeBytes: undefined };
      const model = pool.volumes;
      let time = 100;
      for (const [one, isReloaded] of steps) {
        time += 1;
        equal(
          catalog.apply(one.kind, { ...one.body }, time),
          applyToModel(pool, one, time),
          JSON.stringify(one),
        );
        if (isReloaded) catalog = Catalog.fromJson(JSON.parse(JSON.stringify(catalog.toJson())));
        catalog.checkInvariants();
        deepEqual([...catalog.volumes.values()], [...model.values()]);
        deepEqual(catalog.retention, { everyWriteMicros: pool.everyWriteMicros });
        equal(catalog.poolSizeBytes, pool.poolSizeBytes);
        const live = [...model.values()].filter((volume) => volume.removedMicros === undefined);
        equal(catalog.list(false).length, live.length);
        equal(catalog.list(true).length, model.size);
        for (const volume of live) equal(catalog.volumeNamed(volume.name).id, volume.id);
        for (const { id: used, branch } of model.values())
          ok(catalog.nextVolume > used && catalog.nextBranch > branch, "numbers aren't used twice");
      }
    }),
    { numRuns: 200 },
  );
});

test("a copy as JSON doesn't change when the catalog does", () => {
  const catalog = new Catalog();
  catalog.apply(K.VOLUME_MADE, { id: 1, name: "a", sizeBytes: 512, branch: 1 }, 5);
  const json = JSON.stringify(catalog.toJson());
  const copy = catalog.toJson();
  catalog.apply(K.VOLUME_SET, { id: 1, name: "b", isReadOnly: true }, 6);
  catalog.apply(K.VOLUME_REMOVED, { id: 1 }, 7);
  equal(JSON.stringify(copy), json);
});

test("records by chance never throw, and a catalog that makes no sense is POOL_CORRUPT", () => {
  fc.assert(
    fc.property(
      fc.nat(60),
      fc.dictionary(
        fc.constantFrom("id", "name", "sizeBytes", "branch", "isReadOnly", "everyWriteMicros"),
        fc.jsonValue(),
      ),
      (kind, body) => {
        const catalog = new Catalog();
        catalog.apply(K.VOLUME_MADE, { id: 1, name: "a", sizeBytes: 512, branch: 1 }, 5);
        catalog.apply(kind, body, 6);
        catalog.checkInvariants();
      },
    ),
    { numRuns: 1000 },
  );
  const good = {
    nextVolume: 2,
    nextBranch: 2,
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
    ],
    branches: [{ id: 1, volume: 1, parent: 0, parentLsn: 0 }],
  };
  const catalog = Catalog.fromJson(good);
  catalog.checkInvariants();
  const [volume] = catalog.list(false);
  deepEqual(
    [volume?.isDeduplicated, volume?.isCompressed],
    [true, true],
    "unless it is switched off",
  );
  deepEqual([catalog.retention, catalog.poolSizeBytes], [{ everyWriteMicros: null }, undefined]);
  for (const wrong of [
    { volumes: undefined },
    { volumes: [null] },
    { volumes: [{ ...good.volumes[0], id: "1" }] },
    { volumes: [{ ...good.volumes[0], sizeBytes: 511 }] },
    { volumes: [{ ...good.volumes[0], name: 7 }] },
    { volumes: [{ ...good.volumes[0], branch: 9 }] },
    { branches: [null] },
    { branches: [{ id: 0, volume: 1 }] },
    { nextVolume: "2" },
    { retention: null },
    { retention: { everyWriteMicros: -1 } },
    { retention: {} },
    { poolSizeBytes: "0" },
    { poolSizeBytes: null },
  ])
    throws(
      () => Catalog.fromJson({ ...good, ...wrong }),
      { code: "POOL_CORRUPT" },
      JSON.stringify(wrong),
    );
});
