// SPDX-License-Identifier: Apache-2.0
//
// What a retention would let go of is what it lets go of once it is set; asking changes nothing, and doesn't get in
// anybody's way.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import type { Moment } from "../base/moment.ts";
import { wholeRetention } from "./catalog-policy.ts";
import type { Retention, RetentionPreview } from "./types.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;
const FRAME = BLOCK + 24;
const DAY: Retention = wholeRetention({ everyWriteMicros: 24 * HOUR, hourlyMicros: 72 * HOUR });

/** An hour in which the first blocks of a volume are written, each with noise of its own. */
async function hour(rig: PoolRig, name: string, seed: number, blocks = 32): Promise<void> {
  await rig.write(name, 0, noise(seed, blocks * BLOCK));
  rig.host.clock.wallOffsetMicros += HOUR;
  await rig.pool.checkpoint();
}

async function lived(hours: number, retention: Retention = DAY): Promise<PoolRig> {
  const rig = await PoolRig.create({ segmentBytes: MIB / 4 });
  await rig.pool.setPolicy({ retention });
  await rig.pool.createVolume("db", MIB);
  for (let at = 0; at < hours; at++) await hour(rig, "db", at);
  return rig;
}

async function collected(rig: PoolRig): Promise<number> {
  await rig.pool.checkpoint();
  await rig.pool.collect({ isDryRun: false });
  return rig.pool.stats().storedBytes;
}

function ago(rig: PoolRig, hours: number): Moment {
  return { kind: "time", micros: rig.host.clock.wallMicros() - hours * HOUR };
}

/** Bytes of so many blocks of noise, with what a segment has besides. */
function near(bytes: number, blocks: number, why: string): void {
  const count = bytes / FRAME;
  ok(count >= blocks && count < 1.1 * blocks + 2, `${why}: ${count} blocks, not ${blocks}`);
}

test("what a shorter retention would free is what it frees once it is set", async () => {
  const rig = await lived(12);
  const wish = wholeRetention({ everyWriteMicros: 4 * HOUR });
  await collected(rig);
  const preview = await rig.pool.previewRetention(undefined, wish);
  near(preview.historyBytes, 11 * 32, "all but the newest hour are history");
  near(preview.freedBytes, 8 * 32, "the window begins with what the hour before it wrote");
  equal(preview.isEstimated, false);
  const before = await collected(rig);
  await rig.pool.setPolicy({ retention: wish });
  const freed = before - (await collected(rig));
  ok(Math.abs(freed - preview.freedBytes) < 0.1 * preview.freedBytes, `${freed} bytes were freed`);
  const then = await rig.pool.previewRetention(undefined, wish);
  near(then.historyBytes, 3 * 32, "what is left");
  equal(then.freedBytes, 0);
  await rig.close();
});

test("asking changes nothing, and tells what the volume would have left", async () => {
  const rig = await lived(6);
  const moment = ago(rig, 4.5);
  const old = await rig.pool.resolve("db", moment);
  const wish = wholeRetention({ everyWriteMicros: HOUR, hourlyMicros: 3 * HOUR });
  const { volumes, goneMomentCount, goneMoments } = await rig.pool.previewRetention("db", wish);
  const [db] = volumes;
  ok(db !== undefined && volumes.length === 1);
  equal(db.volume, "db");
  await rig.pool.checkpoint();
  deepEqual(await rig.pool.resolve("db", moment), old);
  equal(rig.pool.volume("db").retention, undefined);
  const now = rig.host.clock.wallMicros();
  ok(db.everyWriteFrom !== undefined && db.everyWriteFromThen !== undefined);
  equal(db.everyWriteFrom.lsn < old.lsn, true, "since it was made");
  const reach = now - db.everyWriteFromThen.timeMicros;
  ok(reach >= HOUR && reach < 2.1 * HOUR, `${reach / HOUR} h of every write`);
  deepEqual([db.keptCount, db.keptCountThen, db.goneCount], [0, 1, 0], "an hour before the window");
  deepEqual([goneMomentCount, goneMoments.length], [0, 0]);
  await rig.pool.setVolumeRetention("db", wish);
  await rig.pool.checkpoint();
  await rejects(rig.pool.resolve("db", moment), { code: "MOMENT_GONE" });
  await rig.close();
});

test("hourly moments that would go are told, and are gone once it is set", async () => {
  const rig = await lived(30, wholeRetention({ everyWriteMicros: HOUR, hourlyMicros: 72 * HOUR }));
  const wish = wholeRetention({ everyWriteMicros: HOUR, hourlyMicros: 10 * HOUR });
  const { goneMoments, volumes, freedBytes } = await rig.pool.previewRetention(undefined, wish);
  const [db] = volumes;
  ok(db !== undefined);
  ok(db.keptCount > 24 && db.keptCountThen < 11, `${db.keptCount} then ${db.keptCountThen}`);
  ok(db.goneCount >= db.keptCount - db.keptCountThen, "others begin to count as hourly ones");
  equal(goneMoments.length, db.goneCount);
  for (const { lsn } of goneMoments) await rig.pool.resolve("db", { kind: "lsn", lsn });
  near(freedBytes, goneMoments.length * 32, "each had an hour's writes to itself");
  const [named, ...others] = goneMoments;
  ok(named !== undefined);
  await rig.pool.snapshot([{ volume: "db", name: "v1" }], { at: { kind: "lsn", lsn: named.lsn } });
  const then = await rig.pool.previewRetention(undefined, wish);
  deepEqual(then.goneMoments, others, "one that got a name stays");
  equal(then.snapshotCount, 1);
  await rig.pool.setPolicy({ retention: wish });
  await rig.pool.checkpoint();
  for (const { lsn } of others)
    await rejects(rig.pool.resolve("db", { kind: "lsn", lsn }), { code: "MOMENT_GONE" });
  await rig.close();
});

test("names, clones and open views keep what they show, whatever the retention", async () => {
  const rig = await lived(8);
  const none = wholeRetention({ everyWriteMicros: 0 });
  const all = await rig.pool.previewRetention(undefined, none);
  near(all.freedBytes, 7 * 32, "nothing keeps any of it");
  equal(all.freedBytes, all.historyBytes);
  await rig.pool.snapshot([{ volume: "db", name: "v1" }], { at: ago(rig, 2.5) });
  const view = await rig.pool.openView(await rig.pool.resolve("db", ago(rig, 4.5)));
  await rig.pool.clone("db", ago(rig, 6.5), "copy");
  const { freedBytes, snapshotCount, viewCount, cloneCount } = await rig.pool.previewRetention(
    "db",
    none,
  );
  near(freedBytes, 4 * 32, "a snapshot's, a view's and a clone's stay");
  deepEqual([snapshotCount, viewCount, cloneCount], [1, 1, 1]);
  view.close();
  await rig.close();
});

test("a longer retention frees nothing, and says that nothing comes back", async () => {
  const rig = await lived(8, wholeRetention({ everyWriteMicros: 2 * HOUR }));
  const wish = wholeRetention({ everyWriteMicros: 24 * HOUR });
  const present = await rig.pool.previewRetention(undefined, rig.pool.policy.retention);
  const longer = await rig.pool.previewRetention(undefined, wish);
  const [now] = present.volumes;
  const [then] = longer.volumes;
  equal(longer.freedBytes, 0);
  deepEqual(then?.everyWriteFromThen, now?.everyWriteFrom, "it reaches no further back");
  deepEqual([present.isBeyondPast, longer.isBeyondPast], [false, true]);
  const fresh = await lived(2, wholeRetention({ everyWriteMicros: 24 * HOUR }));
  const more = await fresh.pool.previewRetention("db", wholeRetention({ everyWriteMicros: null }));
  equal(more.isBeyondPast, false, "nothing was let go yet");
  await fresh.close();
  await rig.close();
});

test("where everything is kept, all that no volume holds is history", async () => {
  const rig = await lived(4, wholeRetention({ everyWriteMicros: null }));
  const preview = await rig.pool.previewRetention(
    undefined,
    wholeRetention({ everyWriteMicros: 0 }),
  );
  equal(preview.freedBytes, preview.historyBytes);
  ok(preview.historyBytes > 3 * 32 * FRAME, "with the records of the log");
  ok(preview.historyBytes < 3.6 * 32 * FRAME, `${preview.historyBytes / FRAME} blocks`);
  await rig.close();
});

test("a window that would only begin is told as such", async () => {
  const rig = await lived(3, wholeRetention({ everyWriteMicros: 0 }));
  const wish = wholeRetention({ everyWriteMicros: HOUR });
  const { headLsn } = rig.pool.stats();
  const { volumes, freedBytes, historyBytes } = await rig.pool.previewRetention(undefined, wish);
  const [db] = volumes;
  equal(db?.everyWriteFrom, undefined);
  equal(db?.everyWriteFromThen?.lsn, headLsn - 1);
  deepEqual([historyBytes, freedBytes], [0, 0]);
  await rig.close();
});

test("a removed volume that only retention keeps is told to be gone for good", async () => {
  const rig = await lived(4);
  await rig.pool.createVolume("web", MIB);
  await rig.pool.removeVolume("db");
  await hour(rig, "web", 9);
  const none = wholeRetention({ everyWriteMicros: 0 });
  const { volumes, freedBytes } = await rig.pool.previewRetention(undefined, none);
  deepEqual(
    volumes.map(({ volume, isRemoved, isForgotten }) => [volume, isRemoved, isForgotten]),
    [
      ["db", true, true],
      ["web", false, false],
    ],
  );
  near(freedBytes, 4 * 32, "all that it held is history");
  const kept = await rig.pool.previewRetention(undefined, DAY);
  deepEqual([kept.volumes[0]?.isForgotten, kept.freedBytes], [false, 0]);
  await rejects(rig.pool.previewRetention("db", none), { code: "VOLUME_NOT_FOUND" });
  await rig.close();
});

test("asking and collecting wait for each other, and both end well", async () => {
  const rig = await lived(10);
  const wish = wholeRetention({ everyWriteMicros: 2 * HOUR });
  await rig.pool.setPolicy({ retention: wish });
  await rig.pool.checkpoint();
  const asked: Promise<RetentionPreview>[] = [];
  const reports = [rig.pool.collect({ isDryRun: false })];
  asked.push(rig.pool.previewRetention(undefined, wish));
  reports.push(rig.pool.collect({ isDryRun: true }));
  asked.push(rig.pool.previewRetention("db", undefined));
  const [collection] = await Promise.all(reports);
  ok((collection?.segmentsFreed ?? 0) > 0);
  const [first, second] = await Promise.all(asked);
  deepEqual(first?.historyBytes, second?.historyBytes);
  near(first?.historyBytes ?? 0, 32, "the hour of the window");
  await rig.close();
});

test("a pool that is closed meanwhile doesn't wait for the answer", async () => {
  const rig = await lived(6);
  const { log } = rig.host;
  let isHeld = false;
  let closed: Promise<unknown> | undefined;
  log.onOperation = ({ kind, name }) => {
    if (kind !== "read" || !name.endsWith(".seg") || isHeld) return undefined;
    isHeld = true;
    closed = rig.close();
    return undefined;
  };
  await rejects(rig.pool.previewRetention(undefined, DAY), { code: "POOL_STOPPED" });
  log.onOperation = undefined;
  await closed;
  await rejects(rig.pool.previewRetention(undefined, DAY), { code: "POOL_STOPPED" });
});

test("clients that wait for space go first", async () => {
  const rig = await lived(10, wholeRetention({ everyWriteMicros: 2 * HOUR }));
  await collected(rig);
  let reclaimed: Promise<boolean> | undefined;
  rig.host.log.onOperation = ({ kind, name }) => {
    if (kind === "read" && name.endsWith(".seg")) reclaimed ??= rig.pool.reclaim();
    return undefined;
  };
  await rejects(rig.pool.previewRetention(undefined, DAY), { code: "BUSY" });
  await reclaimed;
  rig.host.log.onOperation = undefined;
  equal((await rig.pool.previewRetention(undefined, DAY)).volumes.length, 1, "another time");
  await rig.close();
});
