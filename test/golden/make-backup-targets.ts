// SPDX-License-Identifier: Apache-2.0
//
// Made test/golden/backup-v1 and backup-v1-encrypted: targets of format version 1 as the first release wrote them, with
// every kind of object. They are not made again: the tests read these very bytes with all later code. A new format version
// gets folders of its own, made by the code that first writes it: node test/golden/make-backup-targets.ts

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { EXTENT_KIND, ExtentBatch } from "../../src/backup/extents.ts";
import { HistoryWriter } from "../../src/backup/history-writer.ts";
import type { ManifestVolume } from "../../src/backup/manifest.ts";
import { PackIndexWriter } from "../../src/backup/pack-index.ts";
import { placeAt } from "../../src/backup/place.ts";
import type { Run } from "../../src/backup/run-writer.ts";
import { beginSession, commitPoint } from "../../src/backup/sessions.ts";
import { openOrMakeTarget } from "../../src/backup/target.ts";
import { MemoryBucket, MemoryObjectStore } from "../../src/sim/memory-object-store.ts";
import { ManualClock } from "../../src/sim/nbd-door.ts";
import { Prng } from "../../src/sim/prng.ts";
import { SimRandom } from "../../src/sim/scheduler.ts";
import { putSmallPoint, SmallTarget, smallVolume } from "../../src/sim/small-target.ts";
import { GOLDEN_BLOCKS, GOLDEN_CHANGES, GOLDEN_MICROS, GOLDEN_TARGETS } from "./golden-backup.ts";

for (const [number, { folder, key }] of GOLDEN_TARGETS.entries()) {
  const bucket = new MemoryBucket();
  const store = new MemoryObjectStore(bucket);
  const random = new SimRandom(new Prng(number));
  const host = { clock: new ManualClock(setImmediate), random };
  const { catalog, sealer } = await openOrMakeTarget({ store, key, ...host });
  const target = new SmallTarget(sealer, bucket);
  let runs: Run[] = [];
  let history: ManifestVolume["history"];
  for (const [index, changes] of GOLDEN_CHANGES.entries()) {
    const poolId = "0".repeat(32);
    const wish = {
      purpose: "backup",
      poolId,
      volumes: [{ name: "db", volumeId: 1 }],
      host: "here",
    } as const;
    const { session } = await beginSession(catalog, { ...host, wish });
    const before = runs;
    // Not merged: the second point has two runs.
    runs = [...(await target.backup(changes, [])), ...runs];
    await putIndex(target);
    const moment = { lsn: 100 * (index + 1), branch: 1, timeMicros: GOLDEN_MICROS + index };
    if (index === 1) history = await putHistory(target, before);
    const volume = { ...smallVolume(GOLDEN_BLOCKS, runs), moment, ...(history && { history }) };
    const id = String(index + 1);
    const manifest = await putSmallPoint(target, id, volume);
    await commitPoint(catalog, {
      session,
      point: {
        id: id.repeat(32),
        name: `v${id}`,
        manifest,
        createdMicros: GOLDEN_MICROS + index,
        poolId,
        volumes: [{ name: "db", volumeId: 1, sizeBytes: volume.sizeBytes, ...moment }],
        newBytes: 1000,
        isProtected: false,
      },
      reach: () => Promise.reject(new Error("nothing is condemned")),
    });
  }
  for (const [name, bytes] of bucket.objects) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), bytes);
  }
}

/** Of the pack that was finished last. */
async function putIndex(target: SmallTarget): Promise<void> {
  const { store, sealer, random } = target;
  const name = target.packNames.at(-1)!;
  const reader = target.reader();
  const ids = await reader.packs.ids(name);
  const writer = new PackIndexWriter({ store, sealer, random });
  writer.add({ name, slotCount: ids.length / 24, ids });
  await writer.put();
}

/** Between the points: a write, a flush, a name, and what else the second one has. */
async function putHistory(target: SmallTarget, runs: Run[]): Promise<ManifestVolume["history"]> {
  const { store, sealer, random } = target;
  const reader = target.reader();
  const ordinal = reader.packTable.ordinalOf(target.packNames.at(-1)!);
  const writer = new HistoryWriter({ store, sealer, random, packs: reader.packTable });
  const change = (
    lsn: number,
    rows: readonly (readonly [lba: number, kind: number, slot: number])[],
  ) => {
    const extents = new ExtentBatch(rows.length);
    for (const [lba, kind, slot] of rows)
      extents.push(lba, 1, kind, kind === EXTENT_KIND.frames ? placeAt(ordinal, slot) : 0);
    writer.changed({ lsn, timeMicros: GOLDEN_MICROS + lsn }, extents, false);
  };
  change(101, [
    [0, EXTENT_KIND.frames, 0],
    [7, EXTENT_KIND.frames, 1],
  ]);
  writer.flushed({ lsn: 102, timeMicros: GOLDEN_MICROS + 102 });
  writer.named({ lsn: 103, timeMicros: GOLDEN_MICROS + 103 }, "between");
  change(150, [
    [3, EXTENT_KIND.hole, 0],
    [6, EXTENT_KIND.zero, 0],
    [499, EXTENT_KIND.frames, 2],
  ]);
  const part = (await writer.finishPart())!;
  const from = { lsn: 100, branch: 1, timeMicros: GOLDEN_MICROS };
  return { from, sizeBytes: GOLDEN_BLOCKS * 4096, runs, parts: [part] };
}
