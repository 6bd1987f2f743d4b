// SPDX-License-Identifier: Apache-2.0
//
// Moments as real clients carry them: what is typed into a URI or an option arrives at the door as the
// moment that was meant, or not at all. "#" is the one to know: it ends a URI, so that "db@#7" becomes
// "db@", which must never be the live disk; lsn:7 and %237 are for URIs.

import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import { CountedDevice } from "../../src/daemon/counted-device.ts";
import type { OpenExport, Visitor } from "../../src/nbd/block-device.ts";
import { run } from "./command.ts";
import { type Door, openDoor } from "./nbd-door.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

/** As typed into a URI, and as it is meant. */
const IN_URIS = [
  ["db@lsn:7", "db@lsn:7"],
  ["db@%237", "db@#7"],
  ["db@-5s", "db@-5s"],
  ["db@flush:-1h30m", "db@flush:-1h30m"],
  ["db@before-upgrade_2.0", "db@before-upgrade_2.0"],
  ["db@2026-03-01T12:00:00.25+02:00", "db@2026-03-01T12:00:00.25+02:00"],
  ["db%402026-03-01T12%3A00%3A00Z", "db@2026-03-01T12:00:00Z"],
] as const;

/** A door that has every moment of db, and the names that clients asked for. */
async function openPast(scratch: Scratch): Promise<{ door: Door; asked: Set<string> }> {
  const door = await openDoor(scratch, { isReadOnly: true });
  const asked = new Set<string>();
  const find = door.catalog.find.bind(door.catalog);
  door.catalog.find = (name) => {
    asked.add(name);
    if (name !== "db@") door.catalog.devices.set(name, door.device);
    return find(name);
  };
  return { door, asked };
}

async function asks(asked: Set<string>, wanted: string, command: readonly string[]): Promise<void> {
  asked.clear();
  const [program, ...args] = command;
  await run(program as string, args);
  deepEqual([...asked], [wanted], command.join(" "));
}

test("libnbd's tools ask for the moment in a URI", {
  skip: requires("nbdinfo --version", "nbdcopy --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const { door, asked } = await openPast(scratch);
  for (const [typed, meant] of IN_URIS) {
    await asks(asked, meant, ["nbdinfo", `nbd://127.0.0.1:${door.port}/${typed}`]);
    const local = `nbd+unix:///${typed}?socket=${door.socket}`;
    await asks(asked, meant, ["nbdinfo", "--map", local]);
    await asks(asked, meant, ["nbdcopy", local, "null:"]);
  }
});

test("QEMU's tools ask for the moment in a URI, and for any text as exportname", {
  skip: requires("qemu-img --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const { door, asked } = await openPast(scratch);
  for (const [typed, meant] of IN_URIS) {
    await asks(asked, meant, ["qemu-img", "info", `nbd://127.0.0.1:${door.port}/${typed}`]);
    const local = `nbd+unix:///${typed}?socket=${door.socket}`;
    await asks(asked, meant, ["qemu-img", "map", local]);
  }
  for (const name of ["db@#7", "db@-5s", "db@flush:#7", "db@2026-03-01T12:00:00Z"]) {
    const option = `nbd:unix:${door.socket}:exportname=${name}`;
    await asks(asked, name, ["qemu-img", "info", option]);
  }
});

test("a # that ends a URI leaves a name that is refused, not the live disk", {
  skip: requires("nbdinfo --version", "qemu-img --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const { door, asked } = await openPast(scratch);
  const uri = `nbd://127.0.0.1:${door.port}/db@#7`;
  for (const command of [
    ["nbdinfo", uri],
    ["qemu-img", "info", uri],
  ]) {
    asked.clear();
    const { stderr } = await run(command[0] as string, command.slice(1), { accept: [1] });
    deepEqual([...asked], ["db@"]);
    match(stderr, /db@|export/);
  }
});

test("of a relative moment nbdcopy opens one connection, of one that stays several", {
  skip: requires("nbdcopy --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const { door } = await openPast(scratch);
  const find = door.catalog.find.bind(door.catalog);
  door.catalog.find = async (name) => {
    const { isRelative, ...found } = await find(name);
    const open = async (visitor: Visitor): Promise<OpenExport> => {
      const opened = await found.open(visitor);
      return { ...opened, device: new CountedDevice(opened.device, { isRelative }) };
    };
    return { ...found, isRelative, open };
  };
  for (const [name, isOne] of [
    ["db@-5s", true],
    ["db@lsn:7", false],
  ] as const) {
    const before = door.catalog.openCount;
    await run("nbdcopy", [`nbd+unix:///${name}?socket=${door.socket}`, "null:"]);
    equal(door.catalog.openCount - before === 1, isOne, name);
  }
});
