// SPDX-License-Identifier: Apache-2.0
//
// A connection keeps to what a relative name meant when it was first asked for, whatever it asks in
// between; everything else is asked for anew. The catalog of these tests gives "db@-5s" another disk
// each time.

import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { hasCode } from "../base/errors.ts";
import { MemoryCatalog, MemoryDevice, MemorySlab } from "../sim/memory-device.ts";
import type { MemorySocket } from "../sim/memory-socket.ts";
import { NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient } from "./client.ts";
import { BASE_ALLOCATION, INFO, OPTION, OPTION_REPLY, WIRE } from "./constants.ts";
import { FoundExports, RELATIVE_NAMES_MAX } from "./found-exports.ts";
import { encodeOption } from "./option-codec.ts";
import type { NbdServerSettings } from "./server.ts";

const RELATIVE = "db@-5s";

function door(settings: Partial<NbdServerSettings> = {}): NbdDoorInMemory {
  const made = new NbdDoorInMemory({ soon: queueMicrotask, settings });
  made.catalog.devices.set(RELATIVE, made.device);
  return made;
}

/** INFO or GO that asks for the stable name. */
function ask(option: number, name: string): Uint8Array {
  const data = Buffer.alloc(4 + Buffer.byteLength(name) + 4);
  data.writeUInt32BE(Buffer.byteLength(name));
  data.write(name, 4);
  data.writeUInt16BE(1, data.length - 4);
  data.writeUInt16BE(INFO.NAME, data.length - 2);
  return encodeOption(option, data);
}

function start(of: NbdDoorInMemory): MemorySocket {
  const socket = of.connect();
  socket.feed(Buffer.from([0, 0, 0, 3]));
  socket.takeSent();
  return socket;
}

/** The stable name that was answered, or the error. */
async function answer(socket: MemorySocket): Promise<string> {
  await turn();
  const sent = Buffer.from(socket.takeSent());
  for (let at = 0; at < sent.length; ) {
    const type = sent.readUInt32BE(at + 12);
    const end = at + WIRE.OPTION_REPLY_HEADER + sent.readUInt32BE(at + 16);
    const data = sent.subarray(at + WIRE.OPTION_REPLY_HEADER, end);
    if (type >= OPTION_REPLY.ERR_UNSUP) return `error: ${data}`;
    if (type === OPTION_REPLY.INFO && data.readUInt16BE() === INFO.NAME)
      return `${data.subarray(2)}`;
    at = end;
  }
  return "nothing";
}

test("INFO, INFO and GO of a relative name on one connection are one disk", async () => {
  const asked = door();
  const socket = start(asked);
  for (const option of [OPTION.INFO, OPTION.INFO, OPTION.GO]) {
    socket.feed(ask(option, RELATIVE));
    equal(await answer(socket), "db@#1");
  }
  equal(asked.catalog.opened[0]?.stableName, "db@#1");
  equal(asked.catalog.findCount, 1);
  socket.cut();
});

test("contexts are selected on the disk that is then opened", async () => {
  const asked = door();
  const client = await NbdClient.open(asked.connectStream(), {
    exportName: RELATIVE,
    contexts: [BASE_ALLOCATION],
  });
  deepEqual(client.contexts, [BASE_ALLOCATION]);
  equal(asked.catalog.findCount, 1);
  await client.close();
});

test("another connection asks anew, and so does one that asks about a name that stays", async () => {
  const asked = door();
  const [first, second] = [start(asked), start(asked)];
  first.feed(ask(OPTION.INFO, RELATIVE));
  equal(await answer(first), "db@#1");
  second.feed(ask(OPTION.GO, RELATIVE));
  equal(await answer(second), "db@#2");
  for (const count of [3, 4]) {
    first.feed(ask(OPTION.INFO, "db"));
    equal(await answer(first), "db");
    equal(asked.catalog.findCount, count);
  }
  first.cut();
  second.cut();
});

test("a name that wasn't found is asked for again", async () => {
  const asked = door();
  asked.catalog.devices.delete(RELATIVE);
  const socket = start(asked);
  socket.feed(ask(OPTION.INFO, RELATIVE));
  match(await answer(socket), /error: export "db@-5s"/);
  asked.catalog.devices.set(RELATIVE, asked.device);
  socket.feed(ask(OPTION.INFO, RELATIVE));
  equal(await answer(socket), "db@#2");
  socket.cut();
});

test("relative names beyond the bound are refused, those before it keep their meaning", async () => {
  const slab = new MemorySlab(1);
  const device = new MemoryDevice({ sizeBytes: 4096, slab });
  const names = Array.from({ length: RELATIVE_NAMES_MAX + 1 }, (_, index) => `db@-${index}s`);
  const catalog = new MemoryCatalog(Object.fromEntries(names.map((name) => [name, device])));
  const found = new FoundExports(catalog);
  for (const name of names.slice(0, -1)) await found.find(name);
  await rejects(
    found.find(names.at(-1) as string),
    (error) => hasCode(error, "BUSY") && /16 relative moments/.test(error.message),
  );
  equal((await found.find("db@-0s")).stableName, "db@#1");
});

test("TLS makes the connection ask anew", async () => {
  const device = new MemoryDevice({ sizeBytes: 4096, slab: new MemorySlab(1) });
  const found = new FoundExports(new MemoryCatalog({ [RELATIVE]: device }));
  equal((await found.find(RELATIVE)).stableName, "db@#1");
  found.forget();
  equal((await found.find(RELATIVE)).stableName, "db@#2");
});

test("each name that a disk is known by has to let the client in", async () => {
  for (const isAllowed of [true, false]) {
    const allow = isAllowed ? [{}] : [];
    const asked = door({ access: [{ exportName: "orders", allow }] });
    asked.catalog.otherNames.set(RELATIVE, ["orders"]);
    for (const option of [OPTION.INFO, OPTION.GO]) {
      const socket = start(asked);
      socket.feed(ask(option, RELATIVE));
      match(await answer(socket), isAllowed ? /^db@#/ : /^error: export "db@-5s": client refused/);
      socket.cut();
    }
    equal(asked.catalog.openCount, isAllowed ? 1 : 0);
  }
});

test("the empty name is judged by what it stands for, not by the rule for all others", async () => {
  for (const [rule, others, expected] of [
    ["db", "*", /the access list of another name of this disk doesn't name it/],
    ["*", "db", /^db$/],
  ] as const) {
    const access = [
      { exportName: rule, allow: [] },
      { exportName: others, allow: [{}] },
    ];
    const asked = door({ access });
    asked.catalog.devices.set("", asked.device);
    asked.catalog.otherNames.set("", ["db"]);
    const socket = start(asked);
    socket.feed(ask(OPTION.GO, ""));
    match(await answer(socket), expected);
    socket.cut();
  }
});

test("a name that needs TLS hides the disk under its other names too", async () => {
  const tls = { clientCertificate: "none", presharedKeys: new Map() } as const;
  const access = [{ exportName: "orders", needsTls: true, allow: [{}] }];
  const asked = door({ tlsMode: "optional", tls, access });
  asked.catalog.otherNames.set(RELATIVE, ["orders"]);
  const socket = start(asked);
  for (const option of [OPTION.INFO, OPTION.GO]) {
    socket.feed(ask(option, RELATIVE));
    equal(await answer(socket), 'error: export "db@-5s" requires TLS');
  }
  equal(asked.catalog.openCount, 0);
  socket.cut();
});

test("hooks are told the name that stays, before the export is opened and after", async () => {
  const told: string[] = [];
  const asked = new NbdDoorInMemory({
    soon: queueMicrotask,
    settings: {
      hooks: {
        commands: { "before-attach": ["before"], "after-detach": ["after"] },
        timeoutMs: 1000,
      },
    },
    hookRunner: async ({ environment }) => {
      told.push(environment.VARVE_EXPORT ?? "");
      return { status: 0, output: "" };
    },
  });
  asked.catalog.devices.set(RELATIVE, asked.device);
  const client = await NbdClient.open(asked.connectStream(), { exportName: RELATIVE });
  await client.close();
  await turn();
  deepEqual(told, ["db@#1", "db@#1"]);
});

test("a connection that breaks while its export is being opened lets go of it", async () => {
  const asked = door();
  const socket = start(asked);
  socket.feed(ask(OPTION.GO, RELATIVE));
  socket.cut();
  await turn();
  equal(asked.catalog.openCount, 1);
  equal(asked.catalog.closeCount, 1);
  equal(asked.server.counts.open, 0);
});
