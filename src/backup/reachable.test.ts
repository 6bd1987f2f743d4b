// SPDX-License-Identifier: Apache-2.0
//
// What points need, and that nothing is guessed where it cannot be told.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { putSmallPoint, SmallTarget, smallVolume } from "../sim/small-target.ts";
import { BLOCK_BYTES } from "./place.ts";
import { Reachable } from "./reachable.ts";
import type { Run } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";

function putPoint(target: SmallTarget, id: string, runs: readonly Run[]): Promise<string> {
  return putSmallPoint(target, id, smallVolume(100, runs));
}

const block = (fill: number) => new Uint8Array(BLOCK_BYTES).fill(fill);

test("a point reaches its manifest, its runs and their packs, and nothing else", async () => {
  const target = new SmallTarget();
  const runs = await target.backup(new Map([[1, block(1)]]), []);
  const others = await target.backup(new Map([[2, block(2)]]), []);
  const point = await putPoint(target, "a", runs);
  const reachable = new Reachable(target.store, target.sealer);
  await reachable.add(point);
  const [pack, otherPack] = target.packNames;
  const run = runs[0]!.parts[0]!.name;
  const expected = [point, objectPath("pack", pack!), objectPath("run", run)];
  deepEqual(
    [...target.bucket.objects.keys()].filter((name) => reachable.has(name)).sort(),
    expected.sort(),
  );
  equal(reachable.hasPack(otherPack!), false);
  equal(reachable.has(`runs/${pack!.slice(0, 2)}/${pack}`), false, "a pack's hash names no run");
  await reachable.addParts(others[0]!.parts);
  deepEqual([...reachable.packNames()], [pack, otherPack]);
});

test("a manifest or a run that can't be read is thrown, never passed over", async () => {
  const target = new SmallTarget();
  const runs = await target.backup(new Map([[1, block(1)]]), []);
  const point = await putPoint(target, "a", runs);
  const run = objectPath("run", runs[0]!.parts[0]!.name);
  const bytes = target.bucket.objects.get(run)!;
  target.bucket.objects.delete(run);
  const reachable = () => new Reachable(target.store, target.sealer);
  await rejects(reachable().add(point), {
    code: "TARGET_CORRUPT",
    data: { object: run, isMissing: true },
  });
  target.bucket.objects.set(run, bytes.subarray(1));
  await reachable().add(point);
  target.bucket.objects.set(run, bytes.subarray(0, bytes.length - 1));
  await rejects(reachable().add(point), { code: "TARGET_CORRUPT" });
  target.bucket.objects.delete(point);
  await rejects(reachable().add(point), {
    code: "TARGET_CORRUPT",
    data: { object: point, isMissing: true },
  });
});
