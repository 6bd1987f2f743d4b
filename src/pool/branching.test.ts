// SPDX-License-Identifier: Apache-2.0
//
// Disks that go on from the past: what they hold, that nothing is lost on the way there and back, also across a power cut,
// and what is refused.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, checkFiles, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { parseMoment } from "../base/moment.ts";
import { catVolume } from "../log/log-dump.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";

const MIB = 1 << 20;

function refuses(promise: Promise<unknown>, code: string, text: RegExp): Promise<void> {
  return rejects(promise, (error: Error & { code: string; hint: string }) => {
    equal(error.code, code, error.message);
    ok(text.test(`${error.message} | ${error.hint}`), `${error.message} | ${error.hint}`);
    return true;
  });
}

/** A volume "db" whose first block was noise(1) at v1, noise(2) at v2, and is noise(3). */
async function written(): Promise<PoolRig> {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("db", MIB);
  for (const version of [1, 2, 3]) {
    await rig.write("db", 0, noise(version, BLOCK));
    if (version < 3) await rig.pool.snapshot([{ volume: "db", name: `v${version}` }]);
  }
  return rig;
}

async function holds(rig: PoolRig, volume: string, version: number, at = 0): Promise<void> {
  deepEqual(await rig.read(volume, at, BLOCK), noise(version, BLOCK), `${volume} holds ${version}`);
}

const at = parseMoment;

test("a clone is what the disk was, and from then on a disk of its own", async () => {
  const rig = await written();
  const copy = await rig.pool.clone("db", at("v1"), "copy");
  deepEqual([copy.name, copy.sizeBytes], ["copy", MIB]);
  await holds(rig, "copy", 1);
  await rig.write("copy", 0, noise(4, BLOCK));
  await rig.write("db", BLOCK, noise(5, BLOCK));
  await rig.pool.clone("copy", at("now"), "copy2");
  await rig.pool.removeVolume("db");
  const again = await PoolRig.open(rig.cutPower());
  for (const name of ["copy", "copy2"]) await holds(again, name, 4);
  deepEqual(await again.read("copy", BLOCK, BLOCK), new Uint8Array(BLOCK), "written behind it");
  await again.pool.checkpoint();
  const loaded = await PoolRig.open(again.cutPower());
  await holds(loaded, "copy2", 4);
  await loaded.close();
});

test("a rewind is undone, and the undoing is undone, with all that was written in between", async () => {
  const rig = await written();
  await rig.pool.rewind("db", at("v1"));
  await holds(rig, "db", 1);
  await rig.write("db", 0, noise(4, BLOCK));
  await rig.pool.undo("db");
  await holds(rig, "db", 3);
  await rig.write("db", 0, noise(5, BLOCK));
  await rig.pool.undo("db");
  await holds(rig, "db", 4);
  const again = await PoolRig.open(rig.cutPower());
  await holds(again, "db", 4);
  await again.pool.undo("db");
  await holds(again, "db", 5);
  await again.pool.checkpoint();
  const loaded = await PoolRig.open(again.cutPower());
  await loaded.pool.rewind("db", at("v2"));
  await holds(loaded, "db", 2);
  await loaded.close();
});

test("who still has the disk of the branch that was left is refused, and writes nothing anywhere", async () => {
  const rig = await written();
  const old = rig.pool.device("db");
  await rig.pool.rewind("db", at("v1"));
  ok(rig.pool.device("db") !== old);
  equal(old.sizeBytes, 0);
  equal(rig.pool.device("db").counters.writeCount, 3, "of the volume, not of the branch");
  await rig.close();
});

test("a shrink is undone with every byte, also of the block in which it ended", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("db", 2 * MIB);
  await rig.write("db", MIB, noise(1, BLOCK));
  await rig.write("db", MIB + BLOCK, noise(2, BLOCK));
  await rig.pool.resizeVolume("db", MIB + 512);
  await rig.pool.resizeVolume("db", 2 * MIB);
  deepEqual(await rig.read("db", MIB + 512, BLOCK - 512), new Uint8Array(BLOCK - 512));
  equal((await rig.pool.undo("db")).sizeBytes, 2 * MIB);
  await holds(rig, "db", 1, MIB);
  await holds(rig, "db", 2, MIB + BLOCK);
  const again = await PoolRig.open(rig.cutPower());
  await holds(again, "db", 1, MIB);
  await again.close();
});

test("a removed volume comes back, under another name where its own is taken", async () => {
  const rig = await written();
  await rig.pool.removeVolume("db");
  equal((await rig.pool.undo("db")).removedMicros, undefined);
  await holds(rig, "db", 3);
  await rig.pool.removeVolume("db");
  await rig.pool.createVolume("db", MIB);
  await refuses(rig.pool.undo("db"), "NOTHING_TO_UNDO", /varve undo db --as NAME/);
  await refuses(rig.pool.undo("db", "db"), "VOLUME_EXISTS", /not brought back: "db" exists/);
  equal((await rig.pool.undo("db", "old")).name, "old");
  await holds(rig, "old", 3);
  const again = await PoolRig.open(rig.cutPower());
  await holds(again, "old", 3);
  equal(again.pool.snapshots("old").length, 2, "its snapshots are its own");
  await again.close();
});

test("what can't be gone back to is refused, and nothing changes", async () => {
  const rig = await written();
  await refuses(rig.pool.undo("db"), "NOTHING_TO_UNDO", /never rewound or shrunk/);
  await refuses(rig.pool.undo("bd"), "VOLUME_NOT_FOUND", /did you mean "db"/);
  await refuses(rig.pool.clone("db", at("v1"), "db"), "VOLUME_EXISTS", /not cloned/);
  await refuses(rig.pool.clone("db", at("v9"), "x"), "MOMENT_NOT_FOUND", /did you mean/);
  await refuses(rig.pool.clone("db", at("v1"), "now"), "NAME_INVALID", /word of its own/);
  await rig.pool.removeVolume("db");
  await rig.pool.createVolume("db", MIB);
  await refuses(
    rig.pool.rewind("db", at("lsn:3")),
    "MOMENT_INVALID",
    /another volume.*varve clone/,
  );
  await rig.pool.removeVolume("db");
  await refuses(rig.pool.rewind("db", at("lsn:3")), "VOLUME_NOT_FOUND", /not found/);
  equal(rig.pool.volumes().length, 0);
  await rig.close();
});

test("readers without an index know branches, too: the check finds nothing, and the log gives each disk back", async () => {
  const rig = await written();
  await rig.pool.clone("db", at("v1"), "copy");
  await rig.write("copy", BLOCK, noise(4, BLOCK));
  await rig.pool.snapshot([{ volume: "copy", name: "v1" }]);
  await rig.write("copy", 0, noise(5, BLOCK));
  await rig.pool.checkpoint();
  await rig.pool.rewind("db", at("v2"));
  await rig.write("db", 2 * BLOCK, noise(6, BLOCK));
  await rig.pool.clone("copy", at("v1"), "copy2");
  await rig.pool.undo("db");
  await rig.pool.undo("db");
  const expected = new Map<string, readonly [block: number, version: number][]>([
    [
      "db",
      [
        [0, 2],
        [2, 6],
      ],
    ],
    [
      "copy",
      [
        [0, 5],
        [1, 4],
      ],
    ],
    [
      "copy2",
      [
        [0, 1],
        [1, 4],
      ],
    ],
  ]);
  for (const isClosed of [false, true]) {
    const files = isClosed
      ? await rig.close()
      : { root: rig.host.root.files(), log: rig.host.log.files() };
    const { findings } = await checkFiles(files);
    deepEqual(findings, []);
    const poolId = Uint8Array.from(Buffer.from(rig.pool.poolId, "hex"));
    const log = new MemoryDirectory("log", files.log);
    for (const [volume, blocks] of expected) {
      const disk = new Uint8Array(MIB);
      const onContent = async (bytes: Uint8Array, offset: number): Promise<void> =>
        disk.set(bytes, offset);
      equal(await catVolume({ log, poolId, zstd: rig.host.zstd, volume, onContent }), MIB);
      const wanted = new Uint8Array(MIB);
      for (const [block, version] of blocks) wanted.set(noise(version, BLOCK), block * BLOCK);
      deepEqual(disk, wanted, `${volume}, closed: ${isClosed}`);
    }
  }
});

test("a removed volume comes back whole or not at all, however long ago it was and whatever was collected", async () => {
  const minute = 60_000_000;
  for (const waitedMinutes of [30, 59, 61, 63, 70, 200]) {
    const rig = await PoolRig.create();
    await rig.pool.setPolicy({ retention: { everyWriteMicros: 60 * minute } });
    await rig.pool.createVolume("other", MIB);
    await rig.pool.createVolume("db", MIB);
    await rig.write("db", 0, noise(1, BLOCK));
    await rig.pool.checkpoint();
    await rig.pool.removeVolume("db");
    for (let waited = 0; waited < waitedMinutes; waited++) {
      rig.host.clock.wallOffsetMicros += minute;
      await rig.write("other", 0, noise(waited, BLOCK));
      if (waited % 5 === 0) await rig.pool.checkpoint();
    }
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
    const outcome = await rig.pool.undo("db").then(
      () => "back",
      ({ code }) => code,
    );
    if (outcome === "back") await holds(rig, "db", 1);
    if (waitedMinutes < 60) equal(outcome, "back", "retention promised it");
    if (waitedMinutes > 100) equal(outcome, "VOLUME_NOT_FOUND", "it is forgotten");
    await rig.close();
  }
});

test("a temporary clone says so, across a power cut and out of a checkpoint, until it is brought back to stay", async () => {
  const rig = await written();
  const copy = await rig.pool.clone("db", at("v1"), "copy", { isTemporary: true });
  equal(copy.isTemporary, true);
  const isTemporary = (of: PoolRig): unknown[] =>
    ["db", "copy"].map((name) => of.pool.volume(name).isTemporary);
  deepEqual(isTemporary(rig), [undefined, true]);
  const again = await PoolRig.open(rig.cutPower());
  deepEqual(isTemporary(again), [undefined, true]);
  await again.pool.checkpoint();
  const loaded = await PoolRig.open(again.cutPower());
  deepEqual(isTemporary(loaded), [undefined, true]);
  await holds(loaded, "copy", 1);
  equal((await loaded.pool.clone("copy", at("now"), "second")).isTemporary, undefined);
  await loaded.pool.removeVolume("copy");
  await loaded.pool.undo("copy");
  deepEqual(isTemporary(loaded), [undefined, undefined]);
  deepEqual((await checkFiles(await loaded.close())).findings, []);
});
