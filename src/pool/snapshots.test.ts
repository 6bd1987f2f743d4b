// SPDX-License-Identifier: Apache-2.0
//
// Names of moments: one record for all volumes or none, kept by a crash, let go when they expire and not before.

import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, newHost, noise, PoolRig, turn, turns } from "../../test/crash/memory-rig.ts";
import { parseMoment } from "../base/moment.ts";
import { SNAPSHOT_TARGETS_MAX } from "./snapshots.ts";

const MIB = 1 << 20;
const SECOND = 1_000_000;
const HOUR = 3600 * SECOND;

async function withVolumes(...names: string[]): Promise<PoolRig> {
  const rig = await PoolRig.create();
  for (const name of names) await rig.pool.createVolume(name, MIB);
  return rig;
}

function refuses(promise: Promise<unknown>, code: string, text: RegExp): Promise<void> {
  return rejects(promise, (error: Error & { code: string; hint: string }) => {
    equal(error.code, code);
    ok(text.test(`${error.message} | ${error.hint}`), `${error.message} | ${error.hint}`);
    return true;
  });
}

/** "db@v1 web@v1" of what the pool lists. */
function namesOf({ pool }: PoolRig, volume?: string): string {
  return pool
    .snapshots(volume)
    .map((one) => `${one.volume}@${one.name}`)
    .join(" ");
}

const of = (text: string) => {
  const [volume = "", name = ""] = text.split("@");
  return { volume, name };
};

test("one command names one moment of several volumes, and a power cut keeps all of them", async () => {
  const rig = await withVolumes("db", "web");
  await rig.write("db", 0, noise(1, BLOCK));
  const options = { keepMicros: HOUR, isProtected: true, description: "before the upgrade" };
  const [db, web] = await rig.pool.snapshot([of("db@v1"), of("web@v1")], options);
  ok(db !== undefined && web !== undefined);
  deepEqual([db.lsn, db.timeMicros], [web.lsn, web.timeMicros]);
  ok(Math.abs((db.expiresMicros ?? 0) - rig.host.clock.wallMicros() - HOUR) < SECOND);
  await rig.write("db", 0, noise(2, BLOCK));
  equal((await rig.pool.resolve("db", parseMoment("v1"))).lsn, db.lsn);
  const again = await PoolRig.open(rig.cutPower());
  deepEqual(again.pool.snapshots(), [db, web]);
  await again.pool.checkpoint();
  const loaded = await PoolRig.open(again.cutPower());
  deepEqual(loaded.pool.snapshots("web"), [web]);
  deepEqual([web.sizeBytes, web.isProtected, web.description], [MIB, true, "before the upgrade"]);
  await loaded.close();
});

test("all of them are named or none", async () => {
  const rig = await withVolumes("db", "web");
  await rig.pool.snapshot([of("web@v1")]);
  await refuses(
    rig.pool.snapshot([of("db@v1"), of("web@v1")]),
    "SNAPSHOT_EXISTS",
    /"web@v1".*varve snapshots/,
  );
  await refuses(rig.pool.snapshot([of("db@v1"), of("no@v1")]), "VOLUME_NOT_FOUND", /"no"/);
  await refuses(rig.pool.snapshot([of("db@now")]), "NAME_INVALID", /word of its own/);
  await refuses(rig.pool.snapshot([of("db@v1"), of("db@v1")]), "USAGE", /"db@v1" twice/);
  await refuses(rig.pool.snapshot([]), "USAGE", /0 names/);
  await refuses(
    rig.pool.snapshot([of("db@v1")], { description: "x".repeat(1001) }),
    "USAGE",
    /1001/,
  );
  equal(namesOf(rig), "web@v1");
  await rig.close();
});

test("as many volumes as are allowed fit into one record, with the longest names and words", async () => {
  const rig = await PoolRig.create();
  const long = (first: string, at: number) => `${first}${at}`.padEnd(63, "x");
  const targets = Array.from({ length: SNAPSHOT_TARGETS_MAX }, (_, at) => ({
    volume: long("v", at),
    name: long("n", at),
  }));
  for (const { volume } of targets) await rig.pool.createVolume(volume, MIB);
  const description = "\u0001".repeat(1000);
  equal((await rig.pool.snapshot(targets, { description })).length, SNAPSHOT_TARGETS_MAX);
  const [first] = targets;
  ok(first !== undefined);
  const tooMany = [...targets, { ...first, name: "one-more" }];
  await refuses(rig.pool.snapshot(tooMany), "USAGE", /101 names/);
  await rig.close();
});

test("a moment of the past is named as well, the same one for all", async () => {
  const rig = await withVolumes("db", "web");
  await rig.write("db", 0, noise(1, BLOCK));
  await rig.pool.flush();
  const { lsn } = await rig.pool.resolve("db", parseMoment("now"));
  const micros = rig.host.clock.wallMicros();
  rig.host.clock.nowMicros += 2 * SECOND;
  await rig.write("db", 0, noise(2, BLOCK));
  const at = (text: string) => ({ at: parseMoment(text) });
  const [db, web] = await rig.pool.snapshot([of("db@past"), of("web@past")], at("-1s"));
  deepEqual([db?.lsn, web?.lsn], [lsn, lsn]);
  ok((db?.timeMicros ?? 0) <= micros);
  await refuses(rig.pool.snapshot([of("db@x")], at("#100000")), "MOMENT_NOT_FOUND", /future/);
  await rig.write("db", 0, noise(2, BLOCK));
  await rig.flush("db");
  await rig.write("web", 0, noise(3, BLOCK));
  await rig.flush("web");
  await refuses(
    rig.pool.snapshot([of("db@x"), of("web@x")], at("flush:now")),
    "MOMENT_INVALID",
    /isn't the same one.*varve resolve db@flush:now/,
  );
  await rig.pool.removeVolume("db");
  const [saved] = await rig.pool.snapshot([of("db@saved")], at("past"));
  equal(saved?.lsn, lsn, "of a volume that is removed, too");
  equal(namesOf(rig, "db"), "db@past db@saved");
  await rig.close();
});

test("a snapshot is renamed, changed and removed by its volume's name; a protected one stays", async () => {
  const rig = await withVolumes("db");
  await rig.pool.snapshot([of("db@v1")]);
  await rig.pool.snapshot([of("db@v2")]);
  await refuses(rig.pool.renameSnapshot(of("db@v1"), "v2"), "SNAPSHOT_EXISTS", /"db@v2"/);
  await refuses(rig.pool.renameSnapshot(of("db@v3"), "v4"), "MOMENT_NOT_FOUND", /did you mean/);
  equal((await rig.pool.renameSnapshot(of("db@v1"), "first")).name, "first");
  const set = await rig.pool.setSnapshot(of("db@first"), { isProtected: true, keepMicros: HOUR });
  deepEqual([set.isProtected, set.expiresMicros !== undefined], [true, true]);
  await refuses(
    rig.pool.removeSnapshot(of("db@first")),
    "SNAPSHOT_PROTECTED",
    /varve set db@first protected=off/,
  );
  const open = await rig.pool.setSnapshot(of("db@first"), { isProtected: false, keepMicros: null });
  deepEqual([open.isProtected, open.expiresMicros], [false, undefined]);
  await rig.pool.renameVolume("db", "db2");
  equal((await rig.pool.removeSnapshot(of("db2@first"))).name, "first");
  equal(namesOf(rig), "db2@v2");
  throws(() => rig.pool.snapshots("dc2"), { code: "VOLUME_NOT_FOUND", hint: /did you mean "db2"/ });
  deepEqual(
    rig.host.eventNames().filter((name) => name.startsWith("snapshot.")),
    ["taken", "taken", "renamed", "set", "set", "removed"].map((name) => `snapshot.${name}`),
  );
  await rig.close();
});

test("a snapshot is let go when it expires, and not before, also after a restart", async () => {
  const rig = await withVolumes("db");
  await rig.pool.snapshot([of("db@short")], { keepMicros: SECOND, isProtected: true });
  await rig.pool.snapshot([of("db@long")], { keepMicros: HOUR });
  await rig.pool.snapshot([of("db@forever")]);
  const { clock } = rig.host;
  const due = rig.pool.snapshots()[0]?.expiresMicros ?? 0;
  await until(() => !namesOf(rig).includes("short"));
  ok(clock.wallMicros() >= due, "not before");
  equal(namesOf(rig), "db@long db@forever");
  const files = await rig.close();
  const host = newHost(files);
  host.clock.wallOffsetMicros += 2 * HOUR;
  const again = await PoolRig.open(files, {}, host);
  await until(() => !namesOf(again).includes("long"));
  equal(namesOf(again), "db@forever");
  await until(() => again.host.eventNames().includes("snapshot.expired"));
  await again.close();
});

test("more that expire at once than a record holds go one record after the other", async () => {
  const rig = await withVolumes("db");
  for (let at = 0; at < SNAPSHOT_TARGETS_MAX + 20; at++)
    await rig.pool.snapshot([of(`db@v${at}`)], { keepMicros: HOUR });
  rig.host.clock.wallOffsetMicros += 2 * HOUR;
  await rig.pool.snapshot([of("db@last")]);
  await until(() => namesOf(rig) === "db@last");
  await rig.close();
});

test("what was given more time stays", async () => {
  const rig = await withVolumes("db");
  await rig.pool.snapshot([of("db@v1")], { keepMicros: HOUR });
  await rig.pool.setSnapshot(of("db@v1"), { keepMicros: null });
  rig.host.clock.wallOffsetMicros += 2 * HOUR;
  await rig.pool.snapshot([of("db@v2")]);
  await turns(200);
  equal(namesOf(rig), "db@v1 db@v2");
  await rig.close();
});

async function until(isSo: () => boolean): Promise<void> {
  for (let turnCount = 0; !isSo(); turnCount++) {
    ok(turnCount < 20_000, "it comes about");
    await turn();
  }
}
