// SPDX-License-Identifier: Apache-2.0
//
// What the daemon allows while clients have a volume open, and which export a name means.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { type ErrorCode, hasCode, StorageError } from "../base/errors.ts";
import { wholeRetention } from "../pool/catalog-policy.ts";

const MIB = 1024 ** 2;

async function withVolumes(...names: string[]): Promise<SmallDaemon> {
  const daemon = smallDaemon();
  for (const name of names) await daemon.operations.createVolume({ name, sizeBytes: 64 * MIB });
  return daemon;
}

function refuses(promise: Promise<unknown>, code: ErrorCode, text: RegExp): Promise<void> {
  return rejects(
    promise,
    (error) => hasCode(error, code) && text.test(`${error.message} | ${error.hint}`),
  );
}

test("a volume with a client is neither removed nor shrunk nor made read-only", async () => {
  const { operations, attach } = await withVolumes("db");
  const open = await attach("db");
  await refuses(
    operations.removeVolume({ volume: "db" }),
    "VOLUME_BUSY",
    /not removed: 1 client is/,
  );
  await refuses(
    operations.resizeVolume({ volume: "db", sizeBytes: MIB }),
    "VOLUME_BUSY",
    /--force/,
  );
  await refuses(
    operations.setVolume({ volume: "db", isReadOnly: true }),
    "VOLUME_BUSY",
    /read-only/,
  );
  equal(
    (await operations.resizeVolume({ volume: "db", sizeBytes: 128 * MIB })).sizeBytes,
    128 * MIB,
  );
  open.close();
  open.close();
  equal((await operations.removeVolume({ volume: "db" })).clientCount, 0);
});

test("a forced shrink hangs its clients up and waits until they are gone", async () => {
  const { operations, hungUp, attach } = await withVolumes("db", "web");
  const open = await attach("db");
  const other = await attach("web");
  const shrunk = operations.resizeVolume({ volume: "db", sizeBytes: MIB, force: true });
  await Promise.resolve();
  deepEqual(hungUp, ["db"]);
  equal((await operations.getVolume({ volume: "db" })).sizeBytes, 64 * MIB);
  open.close();
  equal((await shrunk).sizeBytes, MIB);
  other.close();
});

test("a forced shrink leaves clients of another volume alone that has the old name now", async () => {
  const { operations, hungUp, attach } = await withVolumes("db");
  const open = await attach("db");
  await operations.renameVolume({ volume: "db", to: "orders" });
  await operations.createVolume({ name: "db", sizeBytes: 64 * MIB });
  const other = await attach("db");
  const shrunk = operations.resizeVolume({ volume: "orders", sizeBytes: MIB, force: true });
  await Promise.resolve();
  equal(hungUp.length, 1);
  open.close();
  equal((await shrunk).sizeBytes, MIB);
  other.close();
});

test("a client that comes while a volume is being removed is kept out", async () => {
  const { operations, pool, attach } = await withVolumes("db");
  let attempt: Promise<unknown> | undefined;
  pool.beforeChange = async () => {
    attempt = attach("db");
    await refuses(attempt as Promise<unknown>, "VOLUME_BUSY", /being changed/);
  };
  await operations.removeVolume({ volume: "db" });
  equal(attempt !== undefined, true);
  await refuses(attach("db"), "EXPORT_NOT_FOUND", /no volume of that name/);
});

test("two changes of one volume at a time: the second is refused, not mixed", async () => {
  const { operations, pool } = await withVolumes("db");
  let isFirst = true;
  pool.beforeChange = async () => {
    if (!isFirst) return;
    isFirst = false;
    await refuses(operations.removeVolume({ volume: "db" }), "VOLUME_BUSY", /another change/);
  };
  await operations.removeVolume({ volume: "db" });
});

test("a client of a renamed volume still counts", async () => {
  const { operations, attach } = await withVolumes("db");
  const open = await attach("db");
  await operations.renameVolume({ volume: "db", to: "orders" });
  await refuses(operations.removeVolume({ volume: "orders" }), "VOLUME_BUSY", /1 client/);
  const { clients } = await operations.listClients({});
  deepEqual(
    clients.map(({ export: name, volume }) => [name, volume]),
    [["db", "orders"]],
  );
  open.close();
});

test("the empty name means the only volume, and says so when there are more or none", async () => {
  const { catalog, operations } = await withVolumes();
  await refuses(catalog.find(""), "EXPORT_NOT_FOUND", /no volume.*varve create/);
  await operations.createVolume({ name: "db", sizeBytes: MIB });
  const found = await catalog.find("");
  equal(found.stableName, "db");
  deepEqual(found.otherNames, ["db"], "whose access list decides");
  await operations.createVolume({ name: "web", sizeBytes: MIB });
  await refuses(catalog.find(""), "EXPORT_NOT_FOUND", /2 volumes.*name one of them: db, web/);
});

test("a name that is nearly a volume's is refused with that volume", async () => {
  const { attach } = await withVolumes("db");
  await refuses(attach("dbb"), "EXPORT_NOT_FOUND", /did you mean "db"/);
});

test("what a client was told of the size stays true for it", async () => {
  const { catalog, operations, attach } = await withVolumes("db");
  const open = await attach("db");
  await operations.resizeVolume({ volume: "db", sizeBytes: 128 * MIB });
  equal(open.device.sizeBytes, 64 * MIB);
  equal((await catalog.find("db")).describe().sizeBytes, 128 * MIB);
  open.close();
});

test("a volume's URIs carry its name in both spellings", async () => {
  const { operations } = await withVolumes("db");
  deepEqual((await operations.getVolume({ volume: "db" })).uris, [
    "nbd+unix:///db?socket=/srv/pool/nbd.sock",
    "nbd://127.0.0.1:10809/db",
  ]);
});

test("names and sizes are checked again by the daemon", async () => {
  const { operations } = await withVolumes("db");
  await refuses(operations.createVolume({ name: "now", sizeBytes: MIB }), "NAME_INVALID", /now/);
  await refuses(
    operations.createVolume({ name: "x", sizeBytes: 100 }),
    "SIZE_INVALID",
    /less than/,
  );
  await refuses(operations.createVolume({ name: "x", sizeBytes: MIB + 1 }), "SIZE_INVALID", /512/);
  await refuses(operations.getVolume({ volume: "bd" }), "VOLUME_NOT_FOUND", /did you mean "db"/);
});

test("a volume is rewound and undone while nobody has it open, or with force", async () => {
  const { operations, pool, attach } = await withVolumes("db");
  const asked: string[] = [];
  pool.rewind = async (volume, moment) => {
    asked.push(`rewind ${volume} ${moment.kind}`);
    return pool.volumes()[0]!;
  };
  pool.undo = async (volume, newName) => {
    asked.push(`undo ${volume} ${newName}`);
    return pool.volumes()[0]!;
  };
  const open = await attach("db");
  const rewind = (moment: string, force = false) =>
    operations.rewindVolume({ volume: "db", moment, force });
  await refuses(rewind("-10m"), "VOLUME_BUSY", /not rewound to -10m.*--force/);
  await refuses(operations.undoVolume({ volume: "db" }), "VOLUME_BUSY", /not undone.*--force/);
  await refuses(rewind("12:00", true), "MOMENT_INVALID", /12:00/);
  await refuses(rewind("-10m").finally(open.close), "VOLUME_BUSY", /1 client/);
  await rewind("-10m");
  await rewind("2026-03-01");
  await operations.undoVolume({ volume: "db" });
  const other = await attach("db");
  await operations.undoVolume({ volume: "db", as: "old" });
  other.close();
  await operations.undoVolume({ volume: "gone" });
  deepEqual(asked, [
    "rewind db lsn",
    "rewind db time",
    "undo db undefined",
    "undo db old",
    "undo gone undefined",
  ]);
});

test("a pool that fills is warned of, with the commands that give it space", async () => {
  const { pool, operations } = smallDaemon();
  const none = { everyWriteMicros: 0 };
  const all = { everyWriteMicros: null };
  const counted = pool.stats();
  for (const [state, storedMib, retention, poolSizeBytes, warning] of [
    ["open", 79, all, 0, undefined],
    [
      "open",
      80,
      all,
      0,
      'the pool is 80 % full (80.0 MiB of 100 MiB): keep less history with "varve retention" and free it with "varve gc", or make room on the file system',
    ],
    [
      "full",
      99,
      none,
      100 * MIB,
      'the pool is full (99.0 MiB of 100 MiB): new data is refused: free what nothing needs with "varve gc", or raise the limit with "varve set pool-size=SIZE"',
    ],
    [
      "full",
      120,
      none,
      0,
      'the pool holds more than it may (120 MiB of 100 MiB): new data is refused: free what nothing needs with "varve gc", or make room on the file system',
    ],
  ] as const) {
    pool.policy = { ...pool.policy, retention: wholeRetention(retention), poolSizeBytes };
    pool.stats = () => ({
      ...counted,
      state,
      storedBytes: storedMib * MIB,
      capacityBytes: 100 * MIB,
    });
    const { warnings } = await operations.getPool({});
    deepEqual(warnings, warning === undefined ? [] : [warning]);
    equal((await operations.getHealth({})).status, warning === undefined ? "ok" : "degraded");
  }
});

test("what is set on the pool or a volume is what is asked for, and nothing else", async () => {
  const { pool, operations } = await withVolumes("db");
  const before = await operations.getPool({});
  const dayMs = 86_400_000;
  const others = { hourlyMs: 7 * dayMs, dailyMs: 30 * dayMs, weeklyMs: 0, monthlyMs: 0 };
  const asMade = { everyWriteMs: dayMs, ...others };
  deepEqual([before.retention, before.poolSizeBytes], [asMade, 0]);
  const day = { ...asMade, hourlyMs: 0, dailyMs: 0 };
  const { retention } = await operations.setPool({ retention: { hourlyMs: 0, dailyMs: 0 } });
  deepEqual(retention, day);
  const grown = await operations.setPool({ poolSizeBytes: 2 ** 31 });
  deepEqual([grown.retention, grown.poolSizeBytes], [day, 2 ** 31]);
  deepEqual(pool.policy.retention, wholeRetention({ everyWriteMicros: 86_400_000_000 }));
  await refuses(operations.setPool({ poolSizeBytes: MIB }), "SIZE_INVALID", /less than 256 MiB/);
  const volume = await operations.setVolume({ volume: "db", isCompressed: false });
  deepEqual([volume.isDeduplicated, volume.isCompressed], [true, false]);
});

test("statistics count anew only when that is asked for, and come although that fails", async () => {
  const { pool, operations } = await withVolumes("db");
  await operations.getStatistics({});
  equal(pool.censusCount, 0);
  await operations.getStatistics({ fresh: "true" });
  equal(pool.censusCount, 1);
  pool.beforeChange = () => Promise.reject(new StorageError("DISK_IO", "log: read failed: EIO"));
  const { census, volumes } = await operations.getStatistics({ fresh: "true" });
  equal(census?.at, "2001-09-09T01:46:40.000Z");
  equal(volumes[0]?.mappedBytes, 16384);
});
