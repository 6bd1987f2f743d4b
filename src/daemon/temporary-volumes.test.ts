// SPDX-License-Identifier: Apache-2.0
//
// Clones for one use stay for as long as anybody uses them, and no longer.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { TemporaryVolumes } from "./temporary-volumes.ts";

async function withClones(): Promise<SmallDaemon> {
  const daemon = smallDaemon();
  await daemon.operations.createVolume({ name: "db", sizeBytes: 1 << 20 });
  for (const to of ["one", "two"])
    await daemon.operations.cloneVolume({ volume: "db", to, isTemporary: true });
  await daemon.operations.cloneVolume({ volume: "db", to: "kept" });
  return daemon;
}

function names({ pool }: SmallDaemon): string[] {
  return pool.volumes().map(({ name }) => name);
}

test("it goes with its last client, and not before one came", async () => {
  const daemon = await withClones();
  const { operations, attach } = daemon;
  equal((await operations.getVolume({ volume: "one" })).isTemporary, true);
  equal((await operations.getVolume({ volume: "kept" })).isTemporary, undefined);
  for (const name of ["db", "kept"]) (await attach(name)).close();
  (await attach("one@#7")).close();
  await turn();
  deepEqual(names(daemon), ["db", "one", "two", "kept"], "its past was read, not the disk");
  const [first, second] = [await attach("one"), await attach("one")];
  first.close();
  await turn();
  equal(names(daemon).includes("one"), true);
  second.close();
  await turn();
  deepEqual(names(daemon), ["db", "two", "kept"]);
});

test("nobody comes in while it goes; renamed it is the same one", async () => {
  const daemon = await withClones();
  const { operations, attach, pool } = daemon;
  const client = await attach("one");
  await operations.renameVolume({ volume: "one", to: "uno" });
  let refused: unknown;
  pool.beforeChange = async () => {
    refused ??= await attach("uno").catch((error: unknown) => error);
  };
  client.close();
  await turn();
  equal(hasCode(refused, "VOLUME_BUSY"), true);
  deepEqual(names(daemon), ["db", "two", "kept"]);
});

test("all of them go when the daemon starts and stops, each once, whoever else removes it", async () => {
  const daemon = await withClones();
  const { pool, clients, events, attach } = daemon;
  const temporary = new TemporaryVolumes({ pool, clients, events });
  const before = events.recent().length;
  await Promise.all([temporary.removeAll(), temporary.removeAll(), temporary.left(2)]);
  deepEqual(names(daemon), ["db", "kept"]);
  equal(events.recent().length, before, "nothing went wrong");
  await rejects(attach("one"), (error) => hasCode(error, "EXPORT_NOT_FOUND"));
});

test("one that can't go stays, is told of, and goes at the next opportunity", async () => {
  const daemon = await withClones();
  const { pool, clients, events } = daemon;
  const temporary = new TemporaryVolumes({ pool, clients, events });
  pool.beforeChange = () => Promise.reject(new StorageError("DISK_FULL", "no space"));
  await temporary.removeAll();
  deepEqual(names(daemon), ["db", "one", "two", "kept"]);
  deepEqual(
    events.recent().map(({ event, fields }) => `${event} ${fields.volume} ${fields.reason}`),
    ["volume.temporary-kept one no space", "volume.temporary-kept two no space"],
  );
  pool.beforeChange = async () => {};
  await temporary.removeAll();
  deepEqual(names(daemon), ["db", "kept"]);
});
