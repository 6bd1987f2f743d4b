// SPDX-License-Identifier: Apache-2.0
//
// A catalog that somebody else wrote: whatever its JSON says, it is refused, or everything that goes by it holds.

import { deepEqual, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import { isObjectName } from "../host/object-store.ts";
import { type CatalogState, decodeState, encodeState, fits, isReadable } from "./catalog-state.ts";
import { isDue } from "./garbage.ts";
import { decide } from "./keep-rules.ts";
import { findPoint } from "./points.ts";

const ID = "ab".repeat(16);
const SOUND: CatalogState = {
  generation: 9,
  oldestGeneration: 2,
  points: [
    {
      id: ID,
      name: "v1",
      manifest: `points/${ID}`,
      createdMicros: 5,
      poolId: ID,
      volumes: [{ name: "db", volumeId: 1, sizeBytes: 4096, lsn: 7, branch: 1, timeMicros: 1e15 }],
      newBytes: 10,
      isProtected: false,
    },
  ],
  sessions: [
    {
      id: ID,
      owner: ID,
      generation: 8,
      beganMicros: 5,
      takenMicros: 6,
      purpose: "backup",
      poolId: ID,
      volumes: [{ name: "db", volumeId: 1 }],
      host: "here",
    },
  ],
  leases: [{ id: ID, generation: 7, expiresMicros: 9, purpose: "restore" }],
  condemned: [{ generation: 6, names: [`packs/ab/${ID}`, `index/ab/${ID}`] }],
};

function decode(value: unknown): CatalogState {
  return decodeState("catalog", Buffer.from(JSON.stringify(value)));
}

function refused(value: unknown): void {
  throws(
    () => decode(value),
    (error) => hasCode(error, "TARGET_CORRUPT"),
    JSON.stringify(value),
  );
}

test("a state is read back as it was written, with fields that nobody knows yet", () => {
  deepEqual(decodeState("catalog", encodeState(SOUND)), SOUND);
  const newer = { ...SOUND, points: [{ ...SOUND.points[0]!, colour: "red" }], tags: [1] };
  deepEqual(decode(newer), newer);
});

test("what makes no sense is refused, field by field", () => {
  const [point] = SOUND.points;
  const [volume] = point!.volumes;
  const [session] = SOUND.sessions;
  for (const wrong of [
    { generation: -1 },
    { generation: 5 },
    { oldestGeneration: 0 },
    { oldestGeneration: 10 },
    { points: {} },
    { points: [null] },
    { points: [point, point] },
    { points: [{ ...point, id: "../../etc/passwd" }] },
    { points: [{ ...point, manifest: "../../etc/passwd" }] },
    { points: [{ ...point, name: "v1\u001b[2J" }] },
    { points: [{ ...point, volumes: [] }] },
    { points: [{ ...point, volumes: [{ ...volume, timeMicros: 1e300 }] }] },
    { points: [{ ...point, volumes: [{ ...volume, sizeBytes: 7 }] }] },
    { points: [{ ...point, newBytes: "10" }] },
    { sessions: [{ ...session, generation: 10 }] },
    { sessions: [{ ...session, purpose: "mischief" }] },
    { sessions: [{ ...session, host: "x".repeat(1000) }] },
    { leases: [{ ...SOUND.leases[0], expiresMicros: null }] },
    { condemned: [{ generation: 6, names: ["catalog/0000000000000009"] }] },
    { condemned: [{ generation: 6, names: ["varve-backup.json"] }] },
    { condemned: [{ generation: 6, names: ["packs/../varve-backup.json"] }] },
    { condemned: [{ generation: 6, names: ["/etc/passwd"] }] },
    { condemned: [{ generation: 10, names: [] }] },
    { condemned: [{ generation: 6, names: Array.from({ length: 65_537 }, () => `packs/${ID}`) }] },
  ])
    refused({ ...SOUND, ...wrong });
  for (const wrong of [null, 1, "x", [], {}]) refused(wrong);
});

test("random bytes and random JSON are refused", () => {
  const isRefused = (bytes: Uint8Array): void =>
    throws(
      () => decodeState("catalog", bytes),
      (error) => hasCode(error, "TARGET_CORRUPT"),
    );
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), isRefused));
  fc.assert(fc.property(fc.json(), (text) => isRefused(Buffer.from(text))));
});

/** Every place in the state, as a path. */
function pathsOf(value: unknown, path: readonly (string | number)[] = []): (string | number)[][] {
  const own = [[...path]];
  if (typeof value !== "object" || value === null) return own;
  return [...own, ...Object.entries(value).flatMap(([key, item]) => pathsOf(item, [...path, key]))];
}

const PATHS = pathsOf(SOUND).filter((path) => path.length > 0);

test("any field may be anything: it is refused, or all that goes by the state holds", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...PATHS),
      fc.oneof(fc.jsonValue(), fc.integer(), fc.double(), fc.constant(undefined), fc.string()),
      (path, value) => {
        const changed = structuredClone(SOUND) as unknown as Record<string, unknown>;
        let at = changed;
        for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
        at[path.at(-1)!] = value;
        let state: CatalogState;
        try {
          state = decode(changed);
        } catch (error) {
          ok(hasCode(error, "TARGET_CORRUPT"), String(error));
          return;
        }
        ok(fits(state) && isReadable(state));
        decide(state.points, { last: 1, daily: 2, weekly: 1, yearly: 3, withinMicros: 5 });
        if (state.points.length > 0) findPoint(state.points, { name: "latest" });
        for (const entry of state.condemned) {
          isDue(entry, state, 5);
          for (const name of entry.names) ok(isObjectName(name) && !name.startsWith("catalog"));
        }
      },
    ),
    { numRuns: 3000 },
  );
});
