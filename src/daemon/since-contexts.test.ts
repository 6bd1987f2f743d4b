// SPDX-License-Identifier: Apache-2.0
//
// The names of metadata contexts that tell changes: which moment they mean, on live disks and views, which are listed,
// which are refused, and that an open one holds its moment as a view does.

import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { FoundContext } from "../nbd/block-device.ts";
import type { SnapshotSummary } from "../pool/types.ts";
import { LISTED_CONTEXTS_MAX, SINCE } from "./since-contexts.ts";
import { VIEWS_MAX } from "./views.ts";

const MIB = 1 << 20;

async function withDb(): Promise<SmallDaemon> {
  const daemon = smallDaemon();
  await daemon.operations.createVolume({ name: "db", sizeBytes: 64 * MIB });
  return daemon;
}

function snapshot(name: string, lsn: number, volumeId = 1): SnapshotSummary {
  const place = { lsn, timeMicros: 1e15 + lsn, sizeBytes: 64 * MIB };
  return { volumeId, volume: "db", name, ...place, isProtected: false, description: "" };
}

async function find(
  { catalog }: SmallDaemon,
  exportName: string,
  moment: string,
): Promise<FoundContext> {
  return (await (await catalog.find(exportName)).findContext(`${SINCE}${moment}`)) as FoundContext;
}

/** Flags by length, of the first bytes. */
async function statusOf(context: FoundContext, lengthBytes: number): Promise<string[]> {
  const opened = await context.open();
  const extents: string[] = [];
  await new Promise<number>((complete) => {
    const range = { offsetBytes: 0, lengthBytes, address: 0, isForceUnitAccess: false };
    const add = (length: number, flags: number): boolean =>
      extents.push(`${length / 4096} ${flags}`) > 0;
    opened.blockStatus({ ...range, complete }, { add });
  });
  opened.close();
  return extents;
}

test("a context tells what differs between its moment and the disk: live, or a view", async () => {
  const daemon = await withDb();
  daemon.past.named.push(snapshot("v1", 998));
  // A block of this pool differs for each record between two moments, each second one.
  deepEqual(await statusOf(await find(daemon, "db@#1000", "v1"), 32768), [
    "1 1",
    "1 0",
    "1 1",
    "5 0",
  ]);
  deepEqual(await statusOf(await find(daemon, "db@#998", "v1"), 32768), ["8 0"]);
  deepEqual(await statusOf(await find(daemon, "db@#997", "v1"), 32768), ["1 1", "7 0"]);
  const live = await statusOf(await find(daemon, "db", "v1"), 32768);
  deepEqual(live, ["1 1", "1 0", "1 1", "1 0", "1 1", "3 0"], "now is #1001");
});

test("a moment ago is fixed when it is found", async () => {
  const daemon = await withDb();
  const context = await find(daemon, "db", "-10m");
  daemon.past.headLsn = 1003;
  equal((await statusOf(context, MIB)).filter((one) => one === "1 1").length, 3);
});

test("an open context holds its moment as a view does, and shares it with views", async () => {
  const daemon = await withDb();
  const { past, catalog, attach, events } = daemon;
  const context = await find(daemon, "db", "#7");
  equal(past.openedCount, 0, "finding holds nothing");
  const [one, other] = [await context.open(), await context.open()];
  const view = await attach("db@#7");
  deepEqual([past.openedCount, catalog.viewCount], [1, 1]);
  one.close();
  view.close();
  equal(past.openCount, 1);
  other.close();
  deepEqual([past.openCount, catalog.viewCount], [0, 0]);
  deepEqual(events.recent()[0]?.event, "view.opened");
});

test("moments of contexts count as those of views: beyond the limit they are refused", async () => {
  const daemon = await withDb();
  const opened = [];
  for (let lsn = 1; lsn <= VIEWS_MAX; lsn++)
    opened.push(await (await find(daemon, "db", `#${lsn}`)).open());
  const next = await find(daemon, "db", `#${VIEWS_MAX + 1}`);
  await rejects(next.open(), (error) => hasCode(error, "BUSY"));
  for (const context of opened) context.close();
  equal(daemon.past.openCount, 0);
});

test("the newest named moments of this volume are listed", async () => {
  const { past, catalog } = await withDb();
  past.named.push(snapshot("of-another", 5, 2));
  for (let at = 0; at < LISTED_CONTEXTS_MAX + 3; at++) past.named.push(snapshot(`v${at}`, 10 + at));
  for (const name of ["db", "db@#7"]) {
    const entries = (await catalog.find(name)).contexts();
    equal(entries.length, LISTED_CONTEXTS_MAX);
    equal(entries[0]?.name, `${SINCE}v${LISTED_CONTEXTS_MAX + 2}`);
    deepEqual(entries[0]?.exportNames, [`db@v${LISTED_CONTEXTS_MAX + 2}`, "db"]);
  }
});

test("who asks must be allowed to open the moment, by every name of its volume", async () => {
  const daemon = await withDb();
  deepEqual((await find(daemon, "db", "#7")).exportNames, ["db@#7", "db"]);
  const volume = await daemon.operations.renameVolume({ volume: "db", to: "orders" });
  daemon.past.formerNames.set("db", volume.id);
  deepEqual((await find(daemon, "db@#9", "#7")).exportNames, ["db@#7", "db", "orders"]);
});

test("what isn't a moment of this volume is refused, other kinds of contexts aren't known", async () => {
  const daemon = await withDb();
  const { catalog, past } = daemon;
  for (const [moment, code, text] of [
    ["", "MOMENT_INVALID", /it is empty/],
    ["v1", "MOMENT_NOT_FOUND", /no snapshot has that name/],
    ["#2000", "MOMENT_NOT_FOUND", /the newest is #1000/],
    ["other@v1", "MOMENT_INVALID", /neither a position/],
  ] as const)
    await rejects(
      find(daemon, "db", moment),
      (error) => hasCode(error, code) && text.test(error.message),
    );
  const db = await catalog.find("db");
  for (const name of ["qemu:dirty-bitmap:v1", "qemu:allocation-depth", "x:y", ""])
    equal(await db.findContext(name), undefined, name);
  const other = await daemon.operations.createVolume({ name: "other", sizeBytes: MIB });
  past.formerNames.set("db", other.id);
  await rejects(db.findContext(`${SINCE}#7`), (error) => {
    match((error as Error).message, /"db@#7" was another volume of that name/);
    return hasCode(error, "MOMENT_INVALID");
  });
});

test("contexts of a volume that is gone end with an error", async () => {
  const daemon = await withDb();
  const context = await find(daemon, "db", "#7");
  const opened = await context.open();
  await daemon.operations.removeVolume({ volume: "db" });
  const errno = await new Promise<number>((complete) => {
    const range = { offsetBytes: 0, lengthBytes: 4096, address: 0, isForceUnitAccess: false };
    opened.blockStatus({ ...range, complete }, { add: () => true });
  });
  equal(errno === 0, false);
  equal(daemon.events.recent().at(-1)?.event, "view.changes-failed");
  opened.close();
});

test("whatever is asked for, there is a context, none, or a reason", async () => {
  const daemon = await withDb();
  const words = fc.constantFrom(
    "#",
    "lsn:",
    "flush:",
    "-",
    "10m",
    "7",
    "v1",
    "now",
    "@",
    " ",
    "é",
    "2026-",
  );
  const name = fc.oneof(
    fc.array(words, { maxLength: 5 }).map((parts) => SINCE + parts.join("")),
    fc.string({ maxLength: 60 }),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom("db", "db@#9", "db@-10m"), name, async (exportName, text) => {
      const found = await daemon.catalog.find(exportName);
      try {
        const context = await found.findContext(text);
        (await context?.open())?.close();
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
      }
      equal(daemon.past.openCount, 0);
    }),
    { numRuns: 500 },
  );
});
