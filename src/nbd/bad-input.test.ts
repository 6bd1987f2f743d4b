// SPDX-License-Identifier: Apache-2.0
//
// What a peer can do wrong, one by one: each ends in the error that the specification names or in the end
// of that one connection with one line in the log, and a client beside it notices nothing.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { MemorySocket } from "../sim/memory-socket.ts";
import { NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient } from "./client.ts";
import { HANDSHAKE_MS_MAX } from "./connection.ts";
import { BYTES_IN_FLIGHT_MAX } from "./in-flight.ts";
import { CONNECTIONS_MAX, STALL_MS_MAX } from "./server.ts";

const MIB = 1 << 20;

let door: NbdDoorInMemory;
/** Reads and writes beside each test. */
let neighbour: NbdClient;

async function open(options: { slabPieces?: number; connectionsMax?: number } = {}): Promise<void> {
  const { slabPieces, connectionsMax } = options;
  door = new NbdDoorInMemory({
    soon: queueMicrotask,
    ...(slabPieces === undefined ? {} : { slabPieces }),
    settings: connectionsMax === undefined ? {} : { connectionsMax },
  });
  neighbour = await NbdClient.open(door.connectStream({ peer: "neighbour" }), { exportName: "db" });
}

describe("bad input", () => {
  beforeEach(() => open());

  /** However the test went, the neighbour works on, and the door closes with nothing left in it. */
  afterEach(async () => {
    await neighbour.write(60 * MIB, new Uint8Array(4096).fill(7));
    equal((await neighbour.read(60 * MIB, 4096))[4095], 7);
    await neighbour.close();
    const closed = door.server.close({ graceMs: 10 });
    await turn();
    door.clock.advance(5000);
    await closed;
    equal(door.server.counts.open, 0);
    equal(door.catalog.openCount, door.catalog.closeCount);
    equal(door.slab.freeBytes, door.slab.bytes.length, "pieces of slab were lost");
  });

  function option(code: number, data = "", claimedBytes = data.length / 2): string {
    return Buffer.from("IHAVEOPT").toString("hex") + u32(code) + u32(claimedBytes) + data;
  }

  function u32(value: number): string {
    return value.toString(16).padStart(8, "0");
  }

  const GO_DB = option(7, `${u32(2)}${Buffer.from("db").toString("hex")}0000`);

  function send(socket: MemorySocket, hex: string): void {
    socket.feed(Buffer.from(hex, "hex"));
  }

  async function attached(): Promise<MemorySocket> {
    const socket = door.connect({ peer: "culprit" });
    send(socket, `00000003${GO_DB}`);
    await turn();
    socket.takeSent();
    return socket;
  }

  function request(type: number, offset: string, length: number, flags = 0): string {
    const flagsHex = flags.toString(16).padStart(4, "0");
    return `25609513${flagsHex}000${type}00000000c0de0001${offset.padStart(16, "0")}${u32(length)}`;
  }

  async function sent(socket: MemorySocket): Promise<string> {
    await turn();
    return Buffer.from(socket.takeSent()).toString("hex");
  }

  function simple(errno: number): string {
    return `67446698${u32(errno)}00000000c0de0001`;
  }

  /** That one connection ended, with one line that says why. */
  async function ended(
    socket: MemorySocket,
    why: RegExp,
    event = "nbd.client-ended",
  ): Promise<void> {
    await turn();
    equal(socket.isDestroyed, true);
    const reasons = door.reasons(event);
    equal(reasons.length, 1, reasons.join("\n"));
    match(reasons[0] ?? "", why);
  }

  test("unknown options", async () => {
    const socket = door.connect();
    send(socket, `00000003${option(12)}${option(0x7fffffff, "aabb")}${GO_DB}`);
    match(await sent(socket), /80000001.*80000001.*00000001/);
    socket.cut();
  });

  test("unknown flags", async () => {
    const socket = await attached();
    send(socket, request(0, "0", 512, 0x4000));
    equal(await sent(socket), simple(22));
    socket.cut();
  });

  test("unknown commands", async () => {
    const socket = await attached();
    send(socket, request(9, "0", 512));
    equal(await sent(socket), simple(22));
    socket.cut();
  });

  test("lying lengths in the handshake", async () => {
    const socket = door.connect();
    send(socket, `00000003${option(7, "ffffffff64620000")}`);
    match(await sent(socket), /80000003/);
    send(socket, option(7, "", 0xffffffff));
    await ended(socket, /option 7 of 4294967295 bytes/);
  });

  test("an option that promises data and sends none holds no memory and is ended in time", async () => {
    const socket = door.connect();
    send(socket, `00000003${option(7, "", 65_000)}`);
    await turn();
    door.clock.advance(HANDSHAKE_MS_MAX);
    await ended(socket, /handshake took too long/);
  });

  test("lying lengths in a request", async () => {
    const socket = await attached();
    send(socket, request(1, "0", 0xffffffff));
    await ended(socket, /a write of 4294967295 bytes/);
  });

  test("offsets beyond the end", async () => {
    const socket = await attached();
    send(socket, request(0, (64 * MIB).toString(16), 1));
    equal(await sent(socket), simple(22));
    send(socket, `${request(1, (64 * MIB - 1).toString(16), 2)}aaaa`);
    equal(await sent(socket), simple(28));
    socket.cut();
  });

  test("offsets of 2^53, 2^63 and 2^64 - 1", async () => {
    const socket = await attached();
    for (const offset of [
      "0020000000000000",
      "001fffffffffffff",
      "7fffffffffffffff",
      "8000000000000000",
      "ffffffffffffffff",
      "ffffffffffffff00",
    ]) {
      send(socket, request(0, offset, 512));
      equal(await sent(socket), simple(22));
      send(socket, request(4, offset, 0xffffffff));
      equal(await sent(socket), simple(22));
      send(socket, request(6, offset, 0xffffffff));
      equal(await sent(socket), simple(28));
      send(socket, `${request(1, offset, 4)}01020304`);
      equal(await sent(socket), simple(28));
    }
    deepEqual(door.device.calls, {});
    socket.cut();
  });

  test("oversize requests", async () => {
    const socket = await attached();
    send(socket, request(0, "0", 32 * MIB + 1));
    equal(await sent(socket), simple(22));
    send(socket, request(1, "0", 32 * MIB + 1));
    await ended(socket, /a write of 33554433 bytes/);
  });

  test("duplicate cookies", async () => {
    const socket = await attached();
    send(socket, request(3, "0", 0).repeat(3));
    equal(await sent(socket), simple(0).repeat(3));
    socket.cut();
  });

  test("a request without its magic", async () => {
    const socket = await attached();
    send(socket, `${request(3, "0", 0)}${"25609514"}${"00".repeat(24)}`);
    await ended(socket, /without its magic/);
  });

  test("disconnect in mid-payload", async () => {
    for (const missing of [1, 4096, 70_000, 3 * MIB]) {
      const socket = await attached();
      send(socket, request(1, "0", 4 * MIB));
      socket.feed(new Uint8Array(4 * MIB - missing).fill(1));
      await turn();
      if (missing % 2 === 0) socket.cut(new Error("reset by peer"));
      else socket.feedEnd();
      await turn();
      door.clock.advance(2000);
      await turn();
      equal(socket.isDestroyed, true);
    }
    equal(door.server.counts.open, 1);
  });

  test("disconnect in mid-head", async () => {
    const socket = await attached();
    send(socket, request(1, "0", 4096).slice(0, 31));
    socket.feedEnd();
    await turn();
    equal(socket.isEnded, true);
  });

  test("disconnect with requests at the device: the export is closed when the last one is done", async () => {
    const socket = await attached();
    door.device.faults.isHolding = true;
    send(socket, `${request(1, "0", 8)}0102030405060708${request(0, "0", 512)}`);
    send(socket, `${request(1, "0", 8)}01020304`);
    await turn();
    const before = door.catalog.closeCount;
    socket.cut(new Error("gone"));
    await turn();
    equal(door.catalog.closeCount, before);
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    await turn();
    equal(door.catalog.closeCount, before + 1);
    equal(door.lines.filter((line) => line.event === "nbd.client-lost").length, 1);
  });

  test("a slow handshake", async () => {
    const silent = door.connect();
    door.clock.advance(HANDSHAKE_MS_MAX - 1);
    await turn();
    equal(silent.isDestroyed, false);
    door.clock.advance(1);
    await ended(silent, /took too long/);
  });

  test("a handshake that drips byte by byte ends in the same time", async () => {
    const socket = door.connect();
    send(socket, "00000003");
    for (let ms = 0; ms < HANDSHAKE_MS_MAX; ms += 100) {
      send(socket, "49");
      door.clock.advance(100);
    }
    await turn();
    equal(socket.isDestroyed, true);
  });

  test("1,000 connections, then one too many", async () => {
    const sockets = Array.from({ length: 999 }, () => door.connect());
    for (const socket of sockets) send(socket, `00000003${GO_DB}`);
    await turn();
    equal(door.server.counts.open, 1000);
    for (const socket of sockets) socket.takeSent();
    const busy = door.slab.freeBytes;
    for (const socket of sockets) send(socket, request(0, "0", 512));
    await turn();
    for (const socket of sockets) equal(socket.takeSent().length, 16 + 512);
    equal(door.slab.freeBytes, busy, "an idle connection holds no memory");
    const more = Array.from({ length: CONNECTIONS_MAX - 1000 + 1 }, () => door.connect());
    await turn();
    equal(more.filter((socket) => socket.isDestroyed).length, 1);
    match(door.reasons("nbd.client-refused")[0] ?? "", /1024 connections are open/);
    for (const socket of [...sockets, ...more]) socket.cut();
  });

  test("a client that doesn't read its replies stops itself, and nobody else", async () => {
    const socket = await attached();
    socket.isHoldingSends = true;
    const read = Buffer.from(request(0, "0", 64 * 1024), "hex");
    const reads = Buffer.concat(Array.from({ length: 5000 }, () => read));
    socket.feed(reads);
    await turn();
    equal(socket.isPaused, true);
    const heldBytes = door.slab.bytes.length - door.slab.freeBytes;
    ok(heldBytes <= BYTES_IN_FLIGHT_MAX + 4 * MIB, `${heldBytes} bytes are held`);
    await neighbour.write(0, new Uint8Array(2 * MIB));
    // It reads after all: everything is answered.
    socket.isHoldingSends = false;
    for (let count = 0; count < 1000 && socket.isHolding; count++) {
      socket.release();
      await turn();
    }
    for (let count = 0; count < 200; count++) await turn();
    equal(socket.takeSent().length, 5000 * (16 + 64 * 1024));
    socket.cut();
  });

  test("clients that hold all memory and don't move are ended, so that others can go on", async () => {
    await neighbour.close();
    await open({ slabPieces: 8 });
    const hogs = await Promise.all(Array.from({ length: 8 }, () => attached()));
    for (const hog of hogs) {
      send(hog, request(1, "0", MIB));
      hog.feed(new Uint8Array(MIB - 1)); // and never the last byte
    }
    await turn();
    const write = neighbour.write(0, new Uint8Array(MIB).fill(9));
    await turn();
    door.clock.advance(STALL_MS_MAX);
    for (let count = 0; count < 10; count++) await turn();
    await write;
    ok(door.reasons("nbd.client-ended").length > 0);
    for (const reason of door.reasons("nbd.client-ended")) match(reason, /held memory/);
    for (const hog of hogs) hog.cut();
  });

  test("a large simple read that could never have memory enough is refused with ENOMEM", async () => {
    await neighbour.close();
    await open({ slabPieces: 8 });
    const socket = await attached();
    send(socket, request(0, "0", 32 * MIB));
    for (let count = 0; count < 5; count++) {
      await turn();
      door.clock.advance(100);
    }
    equal(await sent(socket), simple(12));
    socket.cut();
  });

  test("random bytes as requests", async () => {
    const socket = await attached();
    socket.feed(Uint8Array.from({ length: 4096 }, (_, index) => (index * 89) % 256));
    await ended(socket, /without its magic/);
  });
});
