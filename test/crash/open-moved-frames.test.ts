// SPDX-License-Identifier: Apache-2.0
//
// A batch that holds moved frames counts as a whole or not at all, as any other: homes are given up for the places
// that its records name. One that is torn anywhere ends the log; one that had been durable and went bad costs
// what was in the bad place.

import { deepEqual, equal, ok } from "node:assert/strict";
import { before, suite, test } from "node:test";
import { type LogFixture, readLog, recover, type Structure } from "./log-fixture.ts";
import { BLOCK, filesOf, noise, PoolRig, sameBytes, turns } from "./memory-rig.ts";
import { type Home, homeOfBlock, moveAlone, moveShared } from "./moved-frames.ts";

const SECTOR = 512;
const ALONE = [0, 2];
const SHARED = [1, 3, 4, 5];

/** Two blocks moved alone and four into one frame, in one batch; behind it perhaps one that says that it was durable. */
async function makeMoved(isVouched: boolean): Promise<{ log: LogFixture; homes: Home[] }> {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 1 << 20);
  for (let block = 0; block < 6; block++) await rig.write("a", block * BLOCK, content(block));
  await rig.flush("a");
  const homes = Array.from({ length: 6 }, (_, lba) => homeOfBlock(rig, lba));
  await Promise.all([moveAlone(rig, ALONE), moveShared(rig, SHARED)]);
  await turns(2);
  if (isVouched) {
    await rig.flush("a");
    await rig.write("a", 6 * BLOCK, content(6));
    await rig.flush("a");
  }
  return { log: await readLog(rig.kill()), homes };
}

/** Half of it shrinks: a frame of several is smaller than they were, and not tiny. */
function content(block: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  bytes.set(noise(block, BLOCK / 2));
  return bytes;
}

/** The batch of the moved frames. */
function movedBatch(log: LogFixture): Structure & { header: NonNullable<Structure["header"]> } {
  const found = log.structures.find(
    ({ header }) => header !== undefined && header.recordCount === 3 && header.frameBytes > 6000,
  );
  ok(found?.header !== undefined, "one batch holds the three moves");
  return { ...found, header: found.header };
}

function torn(
  log: LogFixture,
  file: string,
  from: number,
  junk: Uint8Array,
): Map<string, Uint8Array> {
  const files = new Map([...log.files].map(([name, bytes]) => [name, bytes.slice()]));
  (files.get(file) as Uint8Array).set(junk, from);
  return files;
}

suite("a batch of moved frames", () => {
  let fresh: { log: LogFixture; homes: Home[] };
  let vouched: { log: LogFixture; homes: Home[] };

  before(async () => {
    fresh = await makeMoved(false);
    vouched = await makeMoved(true);
  });

  test("torn in any sector it ends the log, and all before it is there", async () => {
    const { log } = fresh;
    const { file, start, end, header } = movedBatch(log);
    equal(end, (log.files.get(file) as Uint8Array).length, "it is the last");
    const usedEnd = start + 128 + header.frameBytes + header.recordBytes;
    ok(usedEnd - start > 8 * SECTOR);
    for (let at = start; at < usedEnd; at += SECTOR)
      for (const junk of [new Uint8Array(SECTOR), noise(at, SECTOR)]) {
        const result = await recover(torn(log, file, at, junk), log.poolId);
        equal(result.error, undefined);
        deepEqual(result.damaged, [], `sector ${(at - start) / SECTOR}`);
        equal(result.nextLsn, header.firstLsn, `sector ${(at - start) / SECTOR}`);
      }
    const { nextLsn } = await recover(log.files, log.poolId);
    equal(nextLsn, header.firstLsn + header.recordCount);
  });

  test("bad in a frame, though it had been durable, it costs what was in that frame, by their homes", async () => {
    const { log, homes } = vouched;
    const { file, start, header } = movedBatch(log);
    const framesEnd = start + 128 + header.frameBytes;
    const lost = new Set<string>();
    for (let at = start + 128; at < framesEnd; at += SECTOR) {
      const result = await recover(torn(log, file, at, noise(at, 8)), log.poolId);
      equal(result.error, undefined);
      equal(result.records.length, log.records.length, "no record is lost");
      equal(result.damaged.length, 1, `byte ${at - start}`);
      const [damaged] = result.damaged;
      ok(damaged?.homes !== undefined && damaged.offset <= at && damaged.offset >= start + 128);
      ok(damaged.lsn >= header.firstLsn && damaged.lsn < header.firstLsn + 3);
      lost.add(
        damaged.homes
          .map((home) => homes.findIndex(({ offset8 }) => offset8 === home.offset8))
          .join(),
      );
    }
    deepEqual([...lost].sort(), ["0", "1,3,4,5", "2"]);
  });

  test("a frame that isn't the one that its record names is none", async () => {
    const { log } = vouched;
    const { file, start } = movedBatch(log);
    const place = start + 128;
    // Its home, its length and its shape are under no checksum of a frame that was moved alone.
    for (const [at, problem] of [
      [8, "another frame's identity"],
      [12, "another frame's identity"],
      [17, "unknown codec or shape"],
      [20, "unknown codec or shape"],
      [0, "wrong checksum"],
    ] as const) {
      const junk = new Uint8Array([0xff]);
      const { damaged } = await recover(torn(log, file, place + at, junk), log.poolId);
      deepEqual(
        damaged.map((frame) => [frame.offset, frame.problem]),
        [[place, problem]],
      );
    }
  });
});

suite("a log of which only the records are left in places", () => {
  let older: LogFixture;
  let log: LogFixture;
  let kept: string[];

  before(async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 4 << 20);
    for (let block = 0; block < 100; block++) {
      await rig.write("a", block * BLOCK, content(block));
      if (block % 10 === 0) await rig.flush("a");
    }
    await rig.flush("a");
    older = await readLog(filesOf(rig.host));
    await rig.pool.collect({ isDryRun: false });
    log = await readLog(rig.kill());
    kept = [...log.files.keys()].filter((name) => name.endsWith(".rec")).sort();
  });

  function without(names: readonly string[]): Map<string, Uint8Array> {
    return new Map([...log.files].filter(([name]) => !names.includes(name)));
  }

  test("is replayed from its beginning like any other", () => {
    ok(kept.length > 2, `${kept.length} segments are gone`);
    ok(!log.files.has(kept[0]?.replace("rec", "seg") as string));
    deepEqual(log.records.slice(0, older.records.length), older.records);
  });

  test("is damaged where one of these files is, or is missing", async () => {
    for (const name of kept) {
      const bytes = log.files.get(name) as Uint8Array;
      const places = [20, 4096 + 60, bytes.length - 30];
      const broken = places.map((at) => torn(log, name, at, new Uint8Array([0x5a])));
      for (const files of [...broken, without([name])]) {
        const { error, files: left } = await recover(files, log.poolId);
        equal(error?.code, "LOG_CORRUPT", name);
        deepEqual([...left.keys()], [...files.keys()], "nothing is changed");
      }
    }
  });

  test("never ends with them", async () => {
    for (let count = 1; count <= kept.length; count++) {
      const files = new Map([...log.files].filter(([name]) => kept.slice(0, count).includes(name)));
      equal(files.size, count);
      const { error } = await recover(files, log.poolId);
      equal(error?.code, "LOG_CORRUPT");
    }
  });

  test("is read from the segment where that is there as well", async () => {
    const [name] = kept as [string];
    const segment = name.replace("rec", "seg");
    const files = without([]).set(segment, older.files.get(segment) as Uint8Array);
    files.set(name, new Uint8Array(5000));
    const { error, records } = await recover(files, log.poolId);
    equal(error, undefined);
    deepEqual(records, log.records);
  });

  test("goes on where the next segment says, whatever a footer repeats of what a crash tore", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 1 << 20);
    await rig.flush("a");
    for (let block = 0; rig.pool.stats().segmentCount < 2; block++)
      await rig.write("a", block * BLOCK, noise(block, BLOCK));
    await turns(3);
    const files = rig.kill();
    const first = "0000000000000001.seg";
    const bytes = (files.log.get(first) as Uint8Array).slice();
    // Nobody was told that these batches are durable; the footer behind them reached the disk.
    const at = Buffer.from(bytes).indexOf(noise(6, BLOCK));
    bytes.fill(0, at + BLOCK, at + BLOCK + 16);
    const again = await PoolRig.open({ ...files, log: new Map([[first, bytes]]) });
    ok(again.pool.recovery?.tornReason !== undefined);
    for (let block = 20; block < 60; block++)
      await again.write("a", block * BLOCK, noise(block, BLOCK));
    await again.flush("a");
    await again.pool.collect({ isDryRun: false });
    const gone = again.kill();
    ok(gone.log.has("0000000000000001.rec") && !gone.log.has(first));
    const found = await readLog(gone);
    const given = await PoolRig.open({
      ...gone,
      log: new Map([...gone.log].filter(([name]) => !/^checkpoint|run$/.test(name))),
    });
    equal(given.pool.recovery?.replayedRecords, found.records.length);
    sameBytes(await given.read("a", 5 * BLOCK, BLOCK), noise(5, BLOCK));
    sameBytes(await given.read("a", 6 * BLOCK, BLOCK), new Uint8Array(BLOCK));
    sameBytes(await given.read("a", 59 * BLOCK, BLOCK), noise(59, BLOCK));
    await given.close();
  });
});
