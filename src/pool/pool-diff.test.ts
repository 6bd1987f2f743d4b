// SPDX-License-Identifier: Apache-2.0
//
// Marked extents in differences: over the record that marked them, and over no other. What else differences say is judged
// by a model (pool-diff.prop.test.ts).

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { encodeJsonRecord, RECORD_KIND } from "../log/record.ts";
import type { DiffMoment } from "./types.ts";

async function told({ pool }: PoolRig, from: DiffMoment, to: DiffMoment): Promise<string[]> {
  const extents: string[] = [];
  const extent = (offsetBytes: number, lengthBytes: number, kind: string): boolean => {
    extents.push(`${offsetBytes / BLOCK}+${lengthBytes / BLOCK} ${kind}`);
    return true;
  };
  await pool.diff(from, to, { offsetBytes: 0, lengthBytes: to.sizeBytes }, { extent });
  return extents;
}

test("a mark is in each difference over its record, right from the moment before it, and in no other", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", 1 << 20);
  await rig.write("db", 4 * BLOCK, noise(1, BLOCK));
  const before = await pool.resolve("db", { kind: "now" });
  await pool.mark("db", [{ offsetBytes: 4 * BLOCK + 1, lengthBytes: BLOCK }]);
  const after = await pool.resolve("db", { kind: "now" });
  equal(after.lsn, before.lsn + 1);
  const marked = ["4+1 data", "5+1 hole"];
  deepEqual(await told(rig, before, after), marked);
  deepEqual(await told(rig, after, before), marked);
  deepEqual(await told(rig, before, before), []);
  deepEqual(await told(rig, after, after), []);
  await rig.write("db", 9 * BLOCK, noise(2, BLOCK));
  deepEqual(await told(rig, after, await pool.resolve("db", { kind: "now" })), ["9+1 data"]);
  // Back to before it: from there on nothing was marked, but on the way back from what came later.
  await pool.rewind("db", { kind: "lsn", lsn: before.lsn });
  const rewound = await pool.resolve("db", { kind: "now" });
  deepEqual(await told(rig, before, rewound), []);
  deepEqual(await told(rig, after, rewound), marked);
  const again = await PoolRig.open(await rig.close());
  deepEqual(await told(again, before, after), marked);
  await again.close();
});

test("a reader that doesn't know marks may pass over them", () => {
  equal(encodeJsonRecord(RECORD_KIND.VOLUME_MARKED, {})[1], 0);
  equal(encodeJsonRecord(RECORD_KIND.VOLUME_SET, {})[1], 1);
});
