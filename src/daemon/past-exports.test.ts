// SPDX-License-Identifier: Apache-2.0
//
// What export names with an "@" mean to clients: which disk, which flags, who is in whose way, what a list
// says; and that nothing which stands in the place of a name breaks the door.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { SnapshotSummary } from "../pool/types.ts";
import { LISTED_SNAPSHOTS_MAX } from "./past-exports.ts";

const MIB = 1 << 20;
const VISITOR = { identity: { address: "unix" }, hangUp: (): void => {} };

async function withDb(): Promise<SmallDaemon> {
  const daemon = smallDaemon();
  await daemon.operations.createVolume({ name: "db", sizeBytes: 64 * MIB });
  return daemon;
}

function snapshot(name: string, lsn: number, volume = "db"): SnapshotSummary {
  const place = { lsn, timeMicros: 1e15 + lsn, sizeBytes: 64 * MIB };
  return { volumeId: 1, volume, name, ...place, isProtected: false, description: "" };
}

test("a moment is a read-only disk with the size of then, and answers with the name that stays", async () => {
  const { catalog, attach, past, operations } = await withDb();
  past.named.push(snapshot("v1", 30));
  await operations.resizeVolume({ volume: "db", sizeBytes: 128 * MIB });
  for (const [name, stable, canMultiConnect] of [
    ["db@#7", "db@#7", true],
    ["db@lsn:7", "db@#7", true],
    ["db@v1", "db@#30", true],
    ["db@flush:#9", "db@#9", true],
    ["db@-10m", "db@#1001", false],
    ["db@now", "db@#1002", false],
    ["db@flush:-1h", "db@#1003", false],
  ] as const) {
    const found = await catalog.find(name);
    const told = found.describe();
    equal(found.stableName, stable);
    equal(told.canonicalName, name === "db@v1" ? "db@v1" : stable, "as a list shows it");
    equal(told.isReadOnly, true);
    equal(told.canMultiConnect, canMultiConnect, name);
    equal(found.isRelative, !canMultiConnect);
    match(told.description, /^as of 2001-09-09T01:46:40\.\d+Z \(128 MiB, read-only\)$/);
    const opened = await found.open(VISITOR);
    const { sizeBytes, isReadOnly, canMultiConnect: isMulti } = opened.device;
    deepEqual(
      { sizeBytes, isReadOnly, isMulti },
      { sizeBytes: told.sizeBytes, isReadOnly: true, isMulti: canMultiConnect },
    );
    deepEqual(
      [opened.stableName, opened.canonicalName, opened.description],
      [stable, told.canonicalName, told.description],
    );
    opened.close();
  }
  equal(past.openCount, 0);
  equal((await attach("db")).device.isReadOnly, false, "the live disk beside it");
});

test("looking a moment up opens nothing; what was found is opened, however late", async () => {
  const { catalog, past } = await withDb();
  const found = await catalog.find("db@-10m");
  equal(past.openedCount, 0);
  past.headLsn = 5000;
  const opened = await found.open(VISITOR);
  equal(opened.stableName, "db@#1001");
  equal(past.resolveCount, 1);
  opened.close();
});

test("clients of one moment share a view, and the last one lets it go", async () => {
  const { attach, past, operations } = await withDb();
  past.named.push(snapshot("v1", 7));
  const opened = [await attach("db@#7"), await attach("db@v1"), await attach("db@lsn:7")];
  equal(past.openedCount, 1);
  equal((await operations.getStatistics({})).pool.viewCount, 1);
  for (const one of opened) one.close();
  equal(past.openCount, 0);
  equal((await operations.getStatistics({})).pool.viewCount, 0);
});

test("who reads the past is listed, and is in nobody's way", async () => {
  const { attach, operations, hungUp, past, pool } = await withDb();
  const view = await attach("db@-10m", { address: "unix:7", unixUid: 7 });
  const { clients, clientCount } = await operations.getVolume({ volume: "db" });
  equal(clientCount, 0, "of the live disk");
  deepEqual(
    clients.map((client) => [client.address, client.export, client.volume, client.view]),
    [["unix:7", "db@-10m", "db", { name: "db@#1001", at: "2001-09-09T01:46:40.001001Z" }]],
  );
  await operations.setVolume({ volume: "db", isReadOnly: true });
  await operations.resizeVolume({ volume: "db", sizeBytes: 32 * MIB });
  let during: { close(): void } | undefined;
  pool.beforeChange = async () => {
    during ??= await attach("db@#9");
  };
  await operations.removeVolume({ volume: "db" });
  deepEqual(hungUp, []);
  equal(past.openCount, 2, "both go on");
  equal((await operations.listClients({})).clients.length, 2);
  view.close();
  during?.close();
  equal(past.openCount, 0);
});

test("events tell what is opened, by whom, and when it is let go", async () => {
  const { attach, events } = await withDb();
  (await attach("db@#7")).close();
  deepEqual(
    events.recent().map(({ event, fields }) => [event, fields.moment]),
    [
      ["view.opened", "db@#7"],
      ["client.attached", "db@#7"],
      ["client.left", "db@#7"],
      ["view.closed", "db@#7"],
    ],
  );
});

test("access goes by the name that was asked for, by that of then, and by that of now", async () => {
  const { catalog, operations, past } = await withDb();
  deepEqual((await catalog.find("db@#7")).otherNames, []);
  const volume = await operations.renameVolume({ volume: "db", to: "orders" });
  past.formerNames.set("db", volume.id);
  deepEqual((await catalog.find("db@#7")).otherNames, ["orders"]);
  await operations.removeVolume({ volume: "orders" });
  deepEqual((await catalog.find("db@#7")).otherNames, ["orders"], "what it was called last");
});

test("what is no moment is refused with what to write instead", async () => {
  const { catalog } = await withDb();
  for (const [name, code, text] of [
    ["db@", "MOMENT_INVALID", /empty.*db@lsn:123, or db@%23123/],
    ["db@v1@", "MOMENT_INVALID", /"v1@".*neither a position/],
    ["db@10m", "MOMENT_INVALID", /that long ago is written -10m/],
    ["db@v1@v2", "MOMENT_INVALID", /neither a position/],
    ["@-10m", "EXPORT_NOT_FOUND", /names no volume in front of the "@"/],
    ["db@#99999", "MOMENT_NOT_FOUND", /the newest is #1000/],
    ["dbb@-10m", "VOLUME_NOT_FOUND", /"dbb"/],
  ] as const) {
    await rejects(
      catalog.find(name),
      (error) =>
        hasCode(error, code) && text.test(`${error.message} ${(error as StorageError).hint}`),
      name,
    );
  }
});

test("a list shows volumes and how to name their moments, then snapshots", async () => {
  const { catalog, past } = await withDb();
  past.named.push(
    { ...snapshot("v1", 5), description: "of a volume that was removed" },
    { ...snapshot("v1", 10), description: "before the upgrade" },
    { ...snapshot("v2", 20), expiresMicros: 2e15 },
  );
  deepEqual(await catalog.list(), [
    {
      name: "db",
      description: "64.0 MiB; any moment: db@-10m, db@2026-03-01T12:00:00Z, db@lsn:NUMBER",
    },
    {
      name: "db@v2",
      description: "64.0 MiB, as of 2001-09-09T01:46:40.000020Z, expires 2033-05-18T03:33:20.000Z",
    },
    {
      name: "db@v1",
      description: "before the upgrade (64.0 MiB, as of 2001-09-09T01:46:40.000010Z)",
    },
  ]);
});

test("of thousands of snapshots the newest are listed, and the others counted", async () => {
  const { catalog, past, operations } = await withDb();
  await operations.createVolume({ name: "web", sizeBytes: MIB });
  const count = LISTED_SNAPSHOTS_MAX + 4;
  for (let index = 0; index < count; index++) {
    past.named.push(snapshot(`s${index}`, index, index === 0 ? "web" : "db"));
  }
  const listed = await catalog.list();
  equal(listed.length, 2 + LISTED_SNAPSHOTS_MAX);
  match(listed[0]?.description ?? "", /; 3 older snapshots aren't listed here$/);
  match(listed[1]?.description ?? "", /; 1 older snapshot isn't listed here$/);
  equal(listed[2]?.name, `db@s${count - 1}`);
});

test("no name breaks the catalog: it is found, or refused as a request", async () => {
  const daemon = await withDb();
  const part = fc.constantFrom(
    "db",
    "@",
    "@@",
    "#",
    "lsn:",
    "-",
    "10m",
    "flush:",
    "now",
    "9".repeat(30),
  );
  const name = fc.oneof(
    fc.array(part, { maxLength: 6 }).map((parts) => parts.join("")),
    fc.string({ maxLength: 100 }).map((text) => `db@${text}`),
    fc.string({ unit: "binary", maxLength: 100 }),
    fc.constantFrom(`db@${"9".repeat(4093)}`, `${"d".repeat(4095)}@`, "\0@\0"),
  );
  await fc.assert(
    fc.asyncProperty(name, async (text) => {
      try {
        const found = await daemon.catalog.find(text);
        const opened = await found.open(VISITOR);
        equal(opened.device.isReadOnly, text.includes("@"));
        opened.close();
      } catch (error) {
        ok(error instanceof StorageError, String(error));
        ok(error.kind === "invalid" || error.kind === "not_found", error.message);
        ok(error.message.length + error.hint.length < 700, "a refusal doesn't repeat a long name");
      }
    }),
    { numRuns: 1000 },
  );
  equal(daemon.past.openCount, 0);
});
