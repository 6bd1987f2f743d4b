// SPDX-License-Identifier: Apache-2.0
//
// Metadata contexts of one connection: which are listed, selected and refused, that they answer through every kind of
// header, and that whatever becomes of the client nothing stays open.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import { NBD_ERROR, StorageError } from "../base/errors.ts";
import type { MemorySocket } from "../sim/memory-socket.ts";
import { NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient } from "./client.ts";
import { HEADERS } from "./codec.ts";
import { OPTION, OPTION_REPLY, WIRE } from "./constants.ts";
import { encodeOption } from "./option-codec.ts";
import type { NbdServerSettings } from "./server.ts";

const V1 = "qemu:dirty-bitmap:since:v1";
const V2 = "qemu:dirty-bitmap:since:v2";
const BASE = "base:allocation";
const { LIST_META_CONTEXT: LIST, SET_META_CONTEXT: SET, GO, STRUCTURED_REPLY } = OPTION;

function door(settings: Partial<NbdServerSettings> = {}): NbdDoorInMemory {
  const device = { extraContexts: [V1, V2, "x:y"] };
  return new NbdDoorInMemory({ soon: queueMicrotask, settings, device });
}

function sized(text: string): Buffer {
  const bytes = Buffer.alloc(4 + Buffer.byteLength(text));
  bytes.writeUInt32BE(bytes.length - 4);
  bytes.write(text, 4);
  return bytes;
}

function ask(option: number, queries: readonly string[], name = "db"): Uint8Array {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return encodeOption(option, Buffer.concat([sized(name), count, ...queries.map(sized)]));
}

function go(name = "db"): Uint8Array {
  return encodeOption(GO, Buffer.concat([sized(name), Buffer.alloc(2)]));
}

function start(of: NbdDoorInMemory): MemorySocket {
  const socket = of.connect();
  socket.feed(Buffer.from([0, 0, 0, 3]));
  socket.feed(encodeOption(STRUCTURED_REPLY));
  socket.takeSent();
  return socket;
}

/** Names of contexts that were answered, or the type of the error. */
async function answer(socket: MemorySocket): Promise<string[] | number> {
  for (let count = 0; count < 100; count++) await turn();
  const sent = Buffer.from(socket.takeSent());
  const names: string[] = [];
  for (let at = 0; at < sent.length; ) {
    const type = sent.readUInt32BE(at + 12);
    const end = at + WIRE.OPTION_REPLY_HEADER + sent.readUInt32BE(at + 16);
    if (type >= OPTION_REPLY.ERR_UNSUP) return type;
    const data = sent.subarray(at + WIRE.OPTION_REPLY_HEADER, end);
    if (type === OPTION_REPLY.META_CONTEXT) names.push(data.toString("utf8", 4));
    at = end;
  }
  return names;
}

test("a list has what the queries name: all, by wildcard, or exactly", async () => {
  const asked = door();
  for (const [queries, expected] of [
    [[], [BASE, V1, V2, "x:y"]],
    [["qemu:"], [V1, V2]],
    [["qemu:dirty-bitmap:"], [V1, V2]],
    [["qemu:dirty-bitmap:since:"], [V1, V2]],
    [
      ["x:y", "base:"],
      [BASE, "x:y"],
    ],
    [
      ["x:", V2, V2, "no:such", "no:"],
      [V2, "x:y"],
    ],
    [["qemu:allocation-depth"], []],
  ] as const) {
    const socket = start(asked);
    socket.feed(ask(LIST, queries));
    deepEqual(await answer(socket), expected, queries.join());
    socket.cut();
  }
  equal(asked.catalog.openedContexts.length, 0, "looking opens nothing");
});

test("an exact query lists what exists without being shown, and no error", async () => {
  const asked = door();
  const hidden = "qemu:dirty-bitmap:since:#7";
  asked.catalog.hiddenContexts.add(hidden);
  asked.catalog.contextRefusals.set("qemu:dirty-bitmap:since:#1", gone());
  const socket = start(asked);
  socket.feed(ask(LIST, [hidden, "qemu:dirty-bitmap:since:#1"]));
  deepEqual(await answer(socket), [hidden]);
  socket.feed(ask(LIST, []));
  deepEqual(await answer(socket), [BASE, V1, V2, "x:y"]);
  socket.cut();
});

function gone(): StorageError {
  return new StorageError("MOMENT_GONE", 'moment "db@#1": let go');
}

test("what can't be had isn't selected, the rest is, and one line says why", async () => {
  const asked = door();
  asked.catalog.contextRefusals.set(V1, gone());
  const client = await NbdClient.open(asked.connectStream(), {
    exportName: "db",
    contexts: [V1, BASE, V2, "no:such", "qemu:"],
  });
  deepEqual(client.contexts, [BASE, V2]);
  const lines = asked.lines.filter(({ event }) => event === "nbd.context-refused");
  deepEqual(
    lines.map(({ fields }) => [fields.context, fields.reason]),
    [[V1, 'moment "db@#1": let go']],
  );
  deepEqual(asked.catalog.openedContexts, [V2]);
  await client.close();
  equal(asked.catalog.closedContextCount, 1);
  const [attached] = asked.lines.filter(({ event }) => event === "nbd.client-attached");
  deepEqual(attached?.fields.contexts, [BASE, V2]);
});

test("a client that asks for what it can't have, on and on, fills no log", async () => {
  const asked = door();
  const socket = start(asked);
  asked.catalog.contextRefusals.set(V1, gone());
  for (let count = 0; count < 100; count++) socket.feed(ask(SET, [V1]));
  await answer(socket);
  equal(asked.lines.filter(({ event }) => event === "nbd.context-refused").length, 16);
  socket.cut();
});

test("more than sixteen contexts are TOO_BIG, had or not; names of other kinds don't count", async () => {
  const asked = door();
  const names = Array.from({ length: 17 }, (_, index) => `qemu:dirty-bitmap:since:#${index}`);
  const others = Array.from({ length: 100 }, (_, index) => `other:${index}`);
  for (const refused of [false, true]) {
    for (const name of names) {
      if (refused) asked.catalog.contextRefusals.set(name, gone());
      else asked.catalog.hiddenContexts.add(name);
    }
    const socket = start(asked);
    socket.feed(ask(SET, names));
    equal(await answer(socket), OPTION_REPLY.ERR_TOO_BIG);
    socket.feed(ask(SET, [...others, ...names.slice(0, 15), BASE]));
    deepEqual(await answer(socket), refused ? [BASE] : [...names.slice(0, 15), BASE]);
    socket.cut();
  }
  await turn();
  equal(asked.catalog.closedContextCount, asked.catalog.openedContexts.length);
});

test("selecting anew, another export, a failed selection and a cut connection let go of contexts", async () => {
  const asked = door();
  asked.catalog.devices.set("other", asked.device);
  const { catalog } = asked;
  const left = (): number => catalog.openedContexts.length - catalog.closedContextCount;
  const socket = start(asked);
  socket.feed(ask(SET, [V1, V2]));
  await answer(socket);
  equal(left(), 2);
  socket.feed(ask(SET, [V2]));
  await answer(socket);
  equal(left(), 1);
  socket.feed(go("other"));
  await answer(socket);
  equal(left(), 0, "they were of another export");
  socket.cut();

  const second = start(asked);
  second.feed(ask(SET, [V1]));
  await answer(second);
  second.cut();
  await turn();
  equal(left(), 0);

  const third = start(asked);
  third.feed(ask(SET, [V1]));
  third.cut();
  await answer(third);
  equal(left(), 0, "cut while it was being opened");
  equal(asked.server.counts.open, 0);
});

test("a client that goes cancels what it asked, and its contexts close when that has ended", async () => {
  const asked = door();
  const socket = start(asked);
  socket.feed(ask(SET, [V1]));
  socket.feed(go());
  await answer(socket);
  asked.device.faults.isHolding = true;
  const status = Buffer.alloc(28);
  status.writeUInt32BE(0x25609513);
  status.writeUInt16BE(7, 6);
  status.writeUInt32BE(4096, 24);
  socket.feed(status);
  equal(asked.device.heldCount, 1);
  socket.cut();
  await turn();
  deepEqual([asked.catalog.cancelledContextCount, asked.catalog.closedContextCount], [1, 0]);
  asked.device.releaseHeld();
  deepEqual([asked.catalog.closedContextCount, asked.catalog.closeCount], [1, 1]);
});

test("a name that means another disk when it is opened than when contexts were selected isn't opened", async () => {
  const asked = door();
  asked.catalog.fleeting.add("db");
  const socket = start(asked);
  socket.feed(ask(SET, [V1]));
  await answer(socket);
  socket.feed(go());
  equal(await answer(socket), OPTION_REPLY.ERR_POLICY);
  equal(asked.catalog.openCount, 0);
  socket.feed(ask(SET, [BASE]));
  socket.feed(go());
  ok(Array.isArray(await answer(socket)), "base:allocation is the disk's own");
  socket.cut();
});

test("each export that tells as much has to let the client in, and for TLS too", async () => {
  const tls = { clientCertificate: "none", presharedKeys: new Map() } as const;
  for (const [rule, expected] of [
    [{ exportName: "db@v1", allow: [] }, [V2]],
    [{ exportName: "db@v1", allow: [{}] }, [V1, V2]],
    [{ exportName: "db@v1", needsTls: true, allow: [{}] }, [V2]],
    [{ exportName: "*", allow: [] }, undefined],
  ] as const) {
    const asked = door({ tlsMode: "optional", tls, access: [rule] });
    asked.catalog.contextExports.set(V1, ["db@v1"]);
    const socket = start(asked);
    for (const option of [LIST, SET]) {
      socket.feed(ask(option, [V1, V2]));
      const names = await answer(socket);
      if (expected === undefined) equal(names, OPTION_REPLY.ERR_POLICY);
      else deepEqual(names, expected);
    }
    const [line] = asked.lines.filter(({ event }) => event === "nbd.context-refused");
    if (expected?.length === 1) match(`${line?.fields.reason}`, /db@v1/);
    socket.cut();
  }
});

for (const headers of [HEADERS.STRUCTURED, HEADERS.EXTENDED] as const) {
  test(`contexts answer beside each other with ${headers === HEADERS.EXTENDED ? "extended headers" : "structured replies"}`, async () => {
    const asked = door();
    const contexts = [V2, BASE, "x:y"];
    const client = await NbdClient.open(asked.connectStream(), {
      exportName: "db",
      headers,
      contexts,
    });
    await client.write(8192, new Uint8Array(4096).fill(1));
    const status = await client.blockStatus(4096, 12_288);
    deepEqual([...status.keys()], contexts);
    const flags = (name: string): number[] => status.get(name)?.map((one) => one.flags) ?? [];
    deepEqual(
      [flags(V2), flags(BASE), flags("x:y")],
      [
        [0, 1, 0],
        [3, 0, 3],
        [0, 1, 0],
      ],
    );
    for (const extents of (await client.blockStatus(4096, 12_288, { isOne: true })).values())
      equal(extents.length, 1);
    asked.device.faults.errno = NBD_ERROR.EIO;
    asked.device.faults.end = 4096;
    await rejects(client.blockStatus(0, 4096), /EIO/);
    await client.close();
  });
}

test("whatever stands in the place of a context's name, the handshake goes on and nothing stays open", async () => {
  const piece = fc.constantFrom(
    "qemu:",
    "dirty-bitmap:",
    "since:",
    "v1",
    "#1",
    "x:y",
    ":",
    "é",
    "\0",
  );
  const query = fc.oneof(
    fc.array(piece, { maxLength: 6 }).map((parts) => parts.join("")),
    fc.string({ maxLength: 40 }),
    fc.integer({ min: 4090, max: 4100 }).map((length) => `${V1}${"1".repeat(length - V1.length)}`),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom(LIST, SET), fc.array(query, { maxLength: 20 })), {
        maxLength: 4,
      }),
      async (options) => {
        const asked = door();
        const socket = start(asked);
        for (const [option, queries] of options) {
          socket.feed(ask(option, queries));
          const told = await answer(socket);
          if (Array.isArray(told)) ok(told.length <= 16);
        }
        socket.feed(ask(SET, [BASE]));
        deepEqual(await answer(socket), [BASE]);
        socket.cut();
        await turn();
        equal(asked.catalog.closedContextCount, asked.catalog.openedContexts.length);
        equal(asked.server.counts.open, 0);
      },
    ),
    { numRuns: 60 },
  );
});
