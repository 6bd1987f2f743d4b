// SPDX-License-Identifier: Apache-2.0
//
// Open files for readers: as many as allowed, never one less than a read needs, and none that is forgotten.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { Gate, noise, turns } from "../../test/crash/memory-rig.ts";
import { hasCode } from "../base/errors.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import { FileStore } from "./file-store.ts";

function directoryOf(count: number): MemoryDirectory {
  const names = Array.from({ length: count }, (_, at) => String(at));
  return new MemoryDirectory("log", new Map(names.map((name, at) => [name, noise(at, 10)])));
}

test("more files may be read at once than may be open, and none is closed under its read", async () => {
  const directory = directoryOf(5);
  const store = new FileStore(directory, String, 2);
  const gate = new Gate();
  directory.onOperation = ({ kind }) => (kind === "read" ? gate.wait : undefined);
  const reads = [0, 1, 2, 3, 4].map((number) => store.read(number, new Uint8Array(10), 0));
  await turns(2);
  gate.open(undefined);
  deepEqual(await Promise.all(reads), [10, 10, 10, 10, 10]);
  await store.closeAll();
  equal(directory.openCount, 0);
});

test("at rest no more files are open than allowed, and the one used last stays", async () => {
  const directory = directoryOf(6);
  const store = new FileStore(directory, String, 3);
  let openedCount = 0;
  directory.onOperation = ({ kind }) => {
    if (kind === "open") openedCount += 1;
    return undefined;
  };
  for (const number of [0, 1, 2, 0, 3, 0, 4, 0, 5, 0]) {
    equal(await store.read(number, new Uint8Array(10), 0), 10);
    await turns(1);
    ok(directory.openCount <= 3);
  }
  equal(openedCount, 6, "file 0 was opened once");
  await store.closeAll();
  equal(directory.openCount, 0);
});

test("a file that is forgotten during a read is closed after it, and opened anew by the next", async () => {
  const directory = directoryOf(1);
  const store = new FileStore(directory, String, 3);
  const gate = new Gate();
  directory.onOperation = ({ kind }) => (kind === "read" ? gate.wait : undefined);
  const read = store.read(0, new Uint8Array(10), 0);
  await turns(1);
  await store.forget(0);
  equal(directory.openCount, 1);
  gate.open(undefined);
  equal(await read, 10);
  equal(directory.openCount, 0);
  equal(await store.read(0, new Uint8Array(10), 0), 10);
  await store.forget(0);
  await store.forget(0);
  equal(directory.openCount, 0);
});

test("a failed opening is told to all who wait for it and not kept", async () => {
  const directory = directoryOf(1);
  const store = new FileStore(directory, String, 3);
  directory.onOperation = ({ kind }) => (kind === "open" ? "EMFILE" : undefined);
  const reads = [0, 0].map((number) => store.read(number, new Uint8Array(10), 0));
  for (const result of await Promise.allSettled(reads))
    ok(result.status === "rejected" && hasCode(result.reason, "DISK_IO"));
  directory.onOperation = undefined;
  equal(await store.read(0, new Uint8Array(10), 0), 10);
  await store.closeAll();
  equal(directory.openCount, 0);
});
