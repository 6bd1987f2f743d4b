// SPDX-License-Identifier: Apache-2.0
//
// The door as a whole: access lists and hooks decide, shutting down loses no answer, and the log says who
// came and went.

import { deepEqual, equal, match, ok, rejects, throws } from "node:assert/strict";
import { describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { hasCode, NBD_ERROR, StorageError } from "../base/errors.ts";
import { NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient } from "./client.ts";
import { COMMAND } from "./constants.ts";
import type { HookRunner } from "./hooks.ts";
import { NbdServer } from "./server.ts";

const soon = queueMicrotask;

async function open(door: NbdDoorInMemory, exportName = "db"): Promise<NbdClient> {
  return await NbdClient.open(door.connectStream(), { exportName });
}

async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index++) await turn();
}

describe("access", () => {
  test("who isn't in the list is refused with the reason, and the log has a line", async () => {
    const door = new NbdDoorInMemory({
      soon,
      settings: { access: [{ exportName: "db", allow: [{ address: "10.0.0.0/8" }] }] },
    });
    await rejects(
      NbdClient.open(door.connectStream({ peer: "11.0.0.1:5", peerAddress: "11.0.0.1" }), {
        exportName: "db",
      }),
      (error) => hasCode(error, "PEER_REFUSED") && /ERR_POLICY.*access list/.test(error.message),
    );
    match(door.reasons("nbd.client-refused")[0] ?? "", /"db".*access list/);
    equal(door.catalog.openCount, 0);
    const stream = door.connectStream({ peer: "10.0.0.1:5", peerAddress: "10.0.0.1" });
    const allowed = await NbdClient.open(stream, { exportName: "db" });
    await allowed.close();
  });

  test("a list shows only what the client may open", async () => {
    const door = new NbdDoorInMemory({
      soon,
      settings: { access: [{ exportName: "db", allow: [] }] },
    });
    door.catalog.devices.set("public", door.device);
    const entries = await NbdClient.list(door.connectStream());
    deepEqual(entries, [{ name: "public", description: "disk public" }]);
  });

  test("a Unix client is known by its uid where a rule names one", async () => {
    const access = [{ exportName: "db", allow: [{ unixUid: 1000 }] }];
    const door = new NbdDoorInMemory({ soon, settings: { access } });
    const stream = door.connectStream({ uid: 1000 });
    const nbd = await NbdClient.open(stream, { exportName: "db" });
    equal(door.catalog.opened[0]?.client.address, "unix:1000");
    await nbd.close();
    for (const uid of [{ uid: 1001 }, {}]) {
      await rejects(NbdClient.open(door.connectStream(uid), { exportName: "db" }), /ERR_POLICY/);
    }
  });

  test("the catalog's own refusals are told in the protocol's words", async () => {
    const door = new NbdDoorInMemory({ soon });
    door.catalog.refusals.set("busy", new StorageError("BUSY", "view: not opened: too many"));
    door.catalog.refusals.set("stopped", new StorageError("POOL_STOPPED", "pool: stopped"));
    door.catalog.refusals.set("db@x y", new StorageError("MOMENT_INVALID", "moment: refused"));
    door.catalog.refusals.set("bad", new StorageError("POOL_CORRUPT", "pool: damaged: badly"));
    await rejects(open(door, "nothing"), /ERR_UNKNOWN: export "nothing"/);
    await rejects(
      open(door, "busy"),
      /ERR_POLICY: view: not opened: too many; hint: the daemon is/,
    );
    await rejects(open(door, "stopped"), /ERR_SHUTDOWN: pool: stopped/);
    await rejects(open(door, "db@x y"), /ERR_UNKNOWN: moment: refused; hint: a moment is #1234567/);
    await rejects(open(door, "bad"), /ERR_PLATFORM: pool: damaged/);
  });
});

test("a guess at what was meant isn't told where access lists may hide it", async () => {
  const misspelt = new StorageError("EXPORT_NOT_FOUND", 'export "bd": not found', {
    hint: 'did you mean "db"?',
  });
  for (const access of [[], [{ exportName: "db", allow: [] }]]) {
    const door = new NbdDoorInMemory({ soon, settings: { access } });
    door.catalog.refusals.set("bd", misspelt);
    const isTold = access.length === 0;
    await rejects(
      open(door, "bd"),
      (error: Error) => /did you mean/.test(error.message) === isTold,
    );
  }
});

describe("hooks", () => {
  const runs: { event: string; environment: Readonly<Record<string, string>> }[] = [];

  function withHooks(runner: HookRunner): NbdDoorInMemory {
    runs.length = 0;
    const commands = {
      "before-attach": ["/bin/before", "x"],
      "after-attach": ["/bin/attached"],
      "after-detach": ["/bin/detached"],
    };
    return new NbdDoorInMemory({
      soon,
      settings: { hooks: { commands, timeoutMs: 1000 } },
      hookRunner: async (run) => {
        runs.push({ event: run.command.join(" "), environment: run.environment });
        return await runner(run);
      },
    });
  }

  test("run before and after a client attaches, and after it is gone, and know who it is", async () => {
    const door = withHooks(async () => ({ status: 0, output: "" }));
    const nbd = await NbdClient.open(door.connectStream({ uid: 7 }), { exportName: "db" });
    await nbd.close();
    await turns(3);
    deepEqual(
      runs.map((run) => run.event),
      ["/bin/before x", "/bin/attached", "/bin/detached"],
    );
    deepEqual(runs[0]?.environment, {
      VARVE_EVENT: "before-attach",
      VARVE_EXPORT: "db",
      VARVE_CLIENT: "unix:7",
      VARVE_CLIENT_UID: "7",
    });
    equal(runs[2]?.environment.VARVE_EVENT, "after-detach");
  });

  test("before may refuse by its status, and the client is told what it said", async () => {
    const door = withHooks(async () => ({ status: 3, output: "not\ntoday" }));
    await rejects(open(door), /ERR_POLICY.*before-attach ended with status 3: not today/);
    equal(door.catalog.openCount, 0);
    equal(runs.length, 1);
  });

  test("before that doesn't end in time refuses", async () => {
    const door = withHooks(async () => ({ status: undefined, output: "not done in 1000 ms" }));
    await rejects(open(door), /did not run to its end: not done in 1000 ms/);
  });

  test("after that fails is one line in the log and changes nothing", async () => {
    const door = withHooks(async ({ command }) => ({
      status: command[0] === "/bin/before" ? 0 : 1,
      output: "",
    }));
    const nbd = await open(door);
    equal((await nbd.read(0, 512)).length, 512);
    await nbd.close();
    await turns(3);
    equal(door.reasons("nbd.hook-failed").length, 2);
  });
});

describe("shutting down", () => {
  test("what is in flight is answered, then the client reads an end of file", async () => {
    const door = new NbdDoorInMemory({ soon });
    const nbd = await open(door);
    door.device.faults.isHolding = true;
    const write = nbd.write(0, new Uint8Array(512).fill(5));
    await turn();
    const closed = door.server.close({ graceMs: 1000 });
    const late = nbd.read(0, 512);
    late.catch(() => {}); // judged below
    await turns(3);
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    await write;
    await rejects(late, (error) => hasCode(error, "PEER_FAILED") && error.data.errno === undefined);
    door.clock.advance(5000);
    await closed;
    equal(door.catalog.closeCount, 1);
    deepEqual(door.reasons("nbd.client-ended"), []);
    equal(door.slab.freeBytes, door.slab.bytes.length);
  });

  test("with isRefusing, requests that come meanwhile get ESHUTDOWN", async () => {
    const door = new NbdDoorInMemory({ soon });
    const nbd = await open(door);
    door.device.faults.isHolding = true;
    const write = nbd.write(0, new Uint8Array(512));
    await turn();
    const closed = door.server.close({ graceMs: 1000, isRefusing: true });
    for (const refused of [nbd.read(0, 512), nbd.write(0, new Uint8Array(9)), nbd.flush()]) {
      await rejects(refused, (error: StorageError) => error.data.errno === NBD_ERROR.ESHUTDOWN);
    }
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    await write;
    await turns(3);
    door.clock.advance(5000);
    await closed;
    deepEqual(door.reasons("nbd.client-ended"), [], "it went in good order");
  });

  test("idle clients and handshakes are ended at once, new clients are refused", async () => {
    const door = new NbdDoorInMemory({ soon });
    const nbd = await open(door);
    const shaking = door.connect();
    const closed = door.server.close({ graceMs: 60_000 });
    equal(shaking.isEnded, true);
    const late = door.connect();
    equal(late.isDestroyed, true);
    match(door.reasons("nbd.client-refused")[0] ?? "", /shutting down/);
    await turns(3);
    door.clock.advance(2000);
    await closed;
    await rejects(nbd.read(0, 1), (error) => hasCode(error, "PEER_FAILED"));
  });

  test("a device that never answers is waited for no longer than the grace", async () => {
    const door = new NbdDoorInMemory({ soon });
    const nbd = await open(door);
    door.device.faults.isHolding = true;
    const write = nbd.write(0, new Uint8Array(512));
    write.catch(() => {}); // it isn't answered
    await turn();
    const closed = door.server.close({ graceMs: 1000 });
    door.clock.advance(1000);
    await turns(3);
    equal(door.reasons("nbd.client-ended").length, 1);
    // The device has the memory still: only now is it gone.
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    await turns(2);
    await closed;
    await rejects(write, (error) => hasCode(error, "PEER_FAILED"));
  });

  test("a client can be ended alone, whatever others call what they have open", async () => {
    const door = new NbdDoorInMemory({ soon });
    const [first, second] = await Promise.all([open(door), open(door)]);
    deepEqual(
      door.server.clients.map((client) => client.exportName),
      ["db", "db"],
    );
    door.catalog.opened[0]?.hangUp("the volume is shrunk");
    await turns(3);
    deepEqual(door.reasons("nbd.client-ended"), ["the volume is shrunk"]);
    await rejects(first.read(0, 1), (error) => hasCode(error, "PEER_FAILED"));
    equal((await second.read(0, 1)).length, 1);
    await second.close();
  });

  test("a client that is ended while its export is being opened lets go of it", async () => {
    const door = new NbdDoorInMemory({ soon });
    door.catalog.whenOpened = ({ hangUp }) => hangUp("the volume is shrunk");
    await rejects(open(door), (error) => hasCode(error, "PEER_FAILED"));
    await turns(3);
    deepEqual([door.catalog.openCount, door.catalog.closeCount], [1, 1]);
    equal(door.server.counts.open, 0);
  });
});

test("TLS without a certificate and without keys isn't started", () => {
  const { catalog, slab, clock } = new NbdDoorInMemory({ soon });
  const sockets = { listen: () => Promise.reject(new Error("none")), soon };
  throws(
    () =>
      new NbdServer(
        catalog,
        { tlsMode: "required" },
        { sockets, clock, slab, logger: { log: () => {} } },
      ),
    (error) => hasCode(error, "CONFIG_INVALID"),
  );
});

test("requests that come while the handshake's last reply is on its way are answered behind it", async () => {
  const door = new NbdDoorInMemory({ soon });
  const socket = door.connect();
  socket.feed(Buffer.from([0, 0, 0, 3]));
  socket.isHoldingSends = true;
  socket.takeSent();
  const go = Buffer.from("IHAVEOPT\0\0\0\u0007\0\0\0\b\0\0\0\u0002db\0\0");
  const flush = Buffer.from(`25609513${"0000"}${"0003"}${"00".repeat(20)}`, "hex");
  socket.feed(Buffer.concat([go, flush, flush]));
  await turns(2);
  equal(socket.takeSent().length, 0);
  socket.release();
  equal(socket.takeSent().length, 32 + 20);
  socket.release();
  equal(socket.takeSent().length, 2 * 16);
  equal(socket.isHolding, false);
  socket.cut();
});

test("attaching and detaching are one line each", async () => {
  const door = new NbdDoorInMemory({ soon });
  const nbd = await open(door);
  await nbd.submit({ command: COMMAND.FLUSH, offsetBytes: 0, lengthBytes: 0 });
  await nbd.close();
  await turn();
  deepEqual(
    door.lines.map((line) => line.event),
    ["nbd.client-attached", "nbd.client-detached"],
  );
  ok(door.lines.every((line) => line.level === "info"));
});
