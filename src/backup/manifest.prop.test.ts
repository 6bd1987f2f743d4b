// SPDX-License-Identifier: Apache-2.0
//
// Manifests: what is written is read, and each field that makes no sense is refused.

import { deepEqual, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { decodeManifest, encodeManifest, type PointManifest } from "./manifest.ts";
import { RUNS_MAX } from "./run-merge.ts";

const PART = { name: "ab".repeat(32), firstLba: 0, endLba: 7, extentCount: 3, sizeBytes: 99 };
const LATER = { ...PART, firstLba: 7, endLba: 9 };
const STORY = { name: "cd".repeat(32), firstLsn: 6, endLsn: 8, entryCount: 2, sizeBytes: 50 };
const MOMENT = { lsn: 7, branch: 1, timeMicros: 5_000_000 };
const MANIFEST: PointManifest = {
  id: "01".repeat(16),
  name: "v1",
  createdMicros: 1_700_000_000_000_000,
  poolId: "ef".repeat(16),
  volumes: [
    {
      name: "db",
      volumeId: 3,
      sizeBytes: 1 << 20,
      moment: MOMENT,
      runs: [{ parts: [PART, LATER] }, { parts: [] }],
      history: {
        from: { ...MOMENT, lsn: 5 },
        sizeBytes: 1 << 20,
        runs: [{ parts: [PART] }],
        parts: [STORY],
      },
    },
    { name: "web", volumeId: 4, sizeBytes: 512, moment: MOMENT, runs: [] },
  ],
};

function withValue(path: readonly (string | number)[], value: unknown): Uint8Array {
  const copy: unknown = JSON.parse(Buffer.from(encodeManifest(MANIFEST)).toString());
  let at = copy as Record<string | number, unknown>;
  for (const key of path.slice(0, -1)) at = at[key] as Record<string | number, unknown>;
  at[path.at(-1)!] = value;
  return Buffer.from(JSON.stringify(copy));
}

test("a manifest is read as it was written", () => {
  const { requires, ...read } = decodeManifest("p", encodeManifest(MANIFEST)) as PointManifest & {
    requires: unknown;
  };
  deepEqual(read, MANIFEST);
  deepEqual(requires, []);
});

test("fields that nobody knows are skipped, features that nobody knows are refused", () => {
  decodeManifest("p", withValue(["colour"], "blue"));
  throws(() => decodeManifest("p", withValue(["requires"], ["holograms"])), {
    code: "FORMAT_UNSUPPORTED",
    message: /holograms/,
  });
});

test("each field that makes no sense is damage", () => {
  const volume = ["volumes", 0] as const;
  const run = [...volume, "runs", 0, "parts"] as const;
  const history = [...volume, "history"] as const;
  const many = Array.from({ length: RUNS_MAX + 1 }, () => ({ parts: [] }));
  const spoiled: readonly (readonly [readonly (string | number)[], readonly unknown[]])[] = [
    [["id"], ["", 7, "../../etc", "AB".repeat(16)]],
    [["poolId"], [undefined, "0"]],
    [["name"], ["", "a/b", "\u001b[2J", "x".repeat(64)]],
    [["createdMicros"], [-1, 1.5, "now"]],
    [["volumes"], [[], {}, null, [null], [MANIFEST.volumes[0], MANIFEST.volumes[0]]]],
    [["requires"], [undefined, "x", [3]]],
    [
      [...volume, "name"],
      ["now", "a b"],
    ],
    [
      [...volume, "volumeId"],
      [0, 2 ** 32, "3"],
    ],
    [
      [...volume, "sizeBytes"],
      [0, 100, -512, 2 ** 47, 1e300],
    ],
    [
      [...volume, "moment"],
      [null, {}, { ...MOMENT, lsn: -1 }, { ...MOMENT, timeMicros: "0" }],
    ],
    [
      [...volume, "runs"],
      [undefined, {}, [null], [{}], many],
    ],
    [
      [...run, 0, "name"],
      ["../../x", "AB".repeat(32), "ab"],
    ],
    [
      [...run, 0, "firstLba"],
      [-1, 7, 0.5],
    ],
    [
      [...run, 0, "endLba"],
      [0, 8, 2 ** 35],
    ],
    [[...run, 1, "endLba"], [2 ** 34 + 1]],
    [
      [...run, 1, "extentCount"],
      [-1, null],
    ],
    [
      [...run, 1, "sizeBytes"],
      [-1, "9"],
    ],
    [[...history], [null, 7]],
    [
      [...history, "from"],
      [{ ...MOMENT, lsn: 8 }, null],
    ],
    [[...history, "sizeBytes"], [5]],
    [
      [...history, "runs"],
      [null, [7]],
    ],
    [
      [...history, "parts"],
      [null, [null]],
    ],
    [
      [...history, "parts", 0, "firstLsn"],
      [5, 8, -1],
    ],
    [
      [...history, "parts", 0, "endLsn"],
      [6, 9],
    ],
    [[...history, "parts", 0, "name"], ["x"]],
  ];
  for (const [path, values] of spoiled)
    for (const value of values) {
      const what = `${path.join(".")} = ${JSON.stringify(value)}`;
      throws(() => decodeManifest("p", withValue(path, value)), { code: "TARGET_CORRUPT" }, what);
    }
});

test("whatever the bytes are, they are read or refused, and nothing else", () => {
  const bytes = encodeManifest(MANIFEST);
  const changed = fc
    .array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 4 })
    .map((changes) => {
      const copy = Uint8Array.from(bytes);
      for (const [at, byte] of changes) copy[at] = byte;
      return copy;
    });
  const cut = fc.nat(bytes.length - 1).map((end) => bytes.subarray(0, end));
  fc.assert(
    fc.property(fc.oneof(changed, cut, fc.uint8Array()), (body) => {
      try {
        ok(decodeManifest("p", body).volumes.length > 0);
      } catch (error) {
        ok(error instanceof StorageError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});
