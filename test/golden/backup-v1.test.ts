// SPDX-License-Identifier: Apache-2.0
//
// Backup targets of format version 1, kept as bytes (golden-backup.ts says what they hold): today's code opens them from
// their directories, verifies them, gives back each point and tells the history.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { ContentIndex, INDEX_MEMORY_MIN } from "../../src/backup/content-index.ts";
import { readManifest } from "../../src/backup/manifest.ts";
import { PointImage } from "../../src/backup/point-image.ts";
import { Reachable } from "../../src/backup/reachable.ts";
import { CONTENT_ID_BYTES } from "../../src/backup/sealing.ts";
import { openTarget } from "../../src/backup/target.ts";
import { TargetReader } from "../../src/backup/target-reader.ts";
import { verifyTarget } from "../../src/backup/verify.ts";
import { openDirectoryStore } from "../../src/host/node/directory-object-store.ts";
import { createZstd } from "../../src/host/node/zstd.ts";
import { ManualClock } from "../../src/sim/nbd-door.ts";
import { Prng } from "../../src/sim/prng.ts";
import { SimRandom } from "../../src/sim/scheduler.ts";
import { GOLDEN_CHANGES, GOLDEN_MICROS, GOLDEN_TARGETS, goldenDisk } from "./golden-backup.ts";

const host = { clock: new ManualClock(setImmediate), random: new SimRandom(new Prng(1)) };

for (const { folder, key } of GOLDEN_TARGETS) {
  const kind = key === undefined ? "a plain" : "an encrypted";
  const open = async () => {
    const store = await openDirectoryStore(folder);
    const { catalog, sealer } = await openTarget({ store, key, ...host });
    const { points } = await catalog.read();
    return {
      store,
      sealer,
      points,
      reader: new TargetReader({ store, sealer, zstd: createZstd() }),
    };
  };

  test(`${kind} target of version 1 is sound, and each of its points is what the disk was`, async () => {
    const { store, sealer, points, reader } = await open();
    deepEqual(
      points.map(({ name }) => name),
      ["v1", "v2"],
    );
    const report = await verifyTarget({ reader, points, level: "data" });
    deepEqual([report.isSound, report.damages, report.packCount], [true, [], 2]);
    for (const [index, point] of points.entries()) {
      const { volumes } = await readManifest(store, sealer, point.manifest);
      const image = new PointImage(reader, volumes[0]!);
      const disk = new Uint8Array(image.sizeBytes);
      await image.read(disk, 0);
      equal(Buffer.compare(disk, goldenDisk(index)), 0);
    }
  });

  test(`the history of ${kind} target of version 1 leads from its first point to its second`, async () => {
    const { store, sealer, points, reader } = await open();
    const { volumes } = await readManifest(store, sealer, points[1]!.manifest);
    const { history } = volumes[0]!;
    const told: unknown[] = [];
    for (const part of history!.parts)
      await reader.histories.read(part, {
        changed: (lsn, timeMicros, { lbas, length }) => {
          told.push([lsn, timeMicros - GOLDEN_MICROS, [...lbas.subarray(0, length)]]);
          return undefined;
        },
        flushed: (lsn, timeMicros) => {
          told.push([lsn, timeMicros - GOLDEN_MICROS]);
          return undefined;
        },
        named: (lsn, timeMicros, name) => {
          told.push([lsn, timeMicros - GOLDEN_MICROS, name]);
          return undefined;
        },
      });
    deepEqual(told, [
      [101, 101, [0, 7]],
      [102, 102],
      [103, 103, "between"],
      [150, 150, [3, 6, 499]],
    ]);
    const first = new PointImage(reader, { ...volumes[0]!, runs: history!.runs });
    const disk = new Uint8Array(first.sizeBytes);
    await first.read(disk, 0);
    equal(Buffer.compare(disk, goldenDisk(0)), 0);
  });

  test(`a later backup knows what ${kind} target of version 1 holds`, async () => {
    const { store, sealer, points, reader } = await open();
    const reachable = new Reachable(store, sealer);
    for (const { manifest } of points) await reachable.add(manifest);
    const packNames = [...reachable.packNames()];
    const index = await ContentIndex.open({ reader, packNames, memoryBytes: INDEX_MEMORY_MIN });
    const id = new Uint8Array(CONTENT_ID_BYTES);
    for (const block of GOLDEN_CHANGES.flatMap((changes) => [...changes.values()])) {
      if (typeof block === "string") continue;
      sealer.contentId(block, id, 0);
      equal(index.find(id, 0) >= 0, true);
    }
  });

  test(`${kind} target of version 1 doesn't open with another key`, async () => {
    const store = await openDirectoryStore(folder);
    const other = { from: "key-file", bytes: new Uint8Array(32) } as const;
    await rejects(openTarget({ store, key: other, ...host }), { code: "TARGET_KEY_WRONG" });
  });
}
