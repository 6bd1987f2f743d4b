// SPDX-License-Identifier: Apache-2.0
//
// Real clients and real sockets against the door over a disk in memory: bulk copies, verified random
// load, a thousand connections, clients that stop in the middle.

import { deepEqual, equal, ok } from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { delay, run, until } from "./command.ts";
import { openDoor } from "./nbd-door.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

const MIB = 1 << 20;

for (const isLate of [false, true]) {
  const how = isLate ? "a device that answers late" : "a device that answers at once";

  test(`nbdcopy carries 64 MiB both ways over ${how}`, {
    skip: requires("nbdcopy --version"),
  }, async () => {
    await using scratch = await Scratch.create();
    const door = await openDoor(scratch, { isLate });
    const wanted = randomFillSync(Buffer.alloc(64 * MIB));
    wanted.fill(0, 10 * MIB, 30 * MIB);
    await writeFile(scratch.path("in.raw"), wanted);
    await run("nbdcopy", [scratch.path("in.raw"), door.uri]);
    equal(Buffer.compare(door.device.contents(0, 64 * MIB), wanted), 0);
    await run("nbdcopy", ["--request-size=33554432", door.uri, scratch.path("out.raw")]);
    equal(Buffer.compare(await readFile(scratch.path("out.raw")), wanted), 0);
    deepEqual(door.warnings, []);
  });

  test(`fio verifies random load over ${how}`, { skip: requires("fio --version") }, async () => {
    await using scratch = await Scratch.create();
    const door = await openDoor(scratch, { isLate });
    for (const job of [
      ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=1"],
      ["--rw=randwrite", "--bsrange=512-300k", "--bs_unaligned=1", "--iodepth=8"],
      ["--rw=write", "--bs=2M", "--iodepth=4"],
      ["--rw=randtrim", "--bs=64k", "--iodepth=4", "--verify=null"],
    ]) {
      const size = ["--size=64M", "--io_size=32M", "--verify_state_save=0"];
      const common = ["--name=verify", "--ioengine=nbd", `--uri=${door.uri}`, "--verify=crc32c"];
      await run("fio", [...common, "--do_verify=1", "--fsync=64", ...size, ...job], {
        cwd: scratch.directory,
      });
    }
    deepEqual(door.warnings, []);
  });

  test(`qemu-io writes, reads, zeroes and discards over ${how}`, {
    skip: requires("qemu-io --version"),
  }, async () => {
    await using scratch = await Scratch.create();
    const door = await openDoor(scratch, { isLate });
    const { stdout } = await run("qemu-io", [
      "-f",
      "raw",
      `nbd:unix:${door.socket}:exportname=db`,
      ...[
        "write -P 17 511 70001",
        "write -f -P 18 8M 3M",
        "write -z 9M 64k",
        "discard 10M 1M",
      ].flatMap(command),
      ...[
        "read -P 17 511 70001",
        "read -P 18 8M 1M",
        "read -P 0 9M 64k",
        "read -P 0 10M 1M",
        "flush",
      ].flatMap(command),
    ]);
    ok(!/fail|error|verification/i.test(stdout), stdout);
    deepEqual(door.warnings, []);
  });
}

function command(text: string): string[] {
  return ["-c", text];
}

test("qemu-img converts, compares and maps", { skip: requires("qemu-img --version") }, async () => {
  await using scratch = await Scratch.create();
  const door = await openDoor(scratch);
  const name = `nbd:unix:${door.socket}:exportname=db`;
  const bytes = randomFillSync(Buffer.alloc(5 * MIB));
  await run("qemu-img", ["create", "-q", "-f", "qcow2", scratch.path("a.qcow2"), "64M"]);
  await writeFile(scratch.path("data"), bytes);
  const write = [
    "-f",
    "qcow2",
    scratch.path("a.qcow2"),
    "-c",
    `write -s ${scratch.path("data")} 20M 5M`,
  ];
  await run("qemu-io", write);
  await run("qemu-img", [
    "convert",
    "-n",
    "-f",
    "qcow2",
    "-O",
    "raw",
    scratch.path("a.qcow2"),
    name,
  ]);
  await run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", scratch.path("a.qcow2"), name]);
  const { stdout } = await run("qemu-img", ["map", "--output=json", name]);
  const data = (JSON.parse(stdout) as { start: number; length: number; data: boolean }[]).filter(
    (extent) => extent.data,
  );
  deepEqual(
    data.map(({ start, length }) => [start, length]),
    [[20 * MIB, 5 * MIB]],
  );
});

test("nbd-client lists exports", { skip: requires("nbd-client --version") }, async () => {
  await using scratch = await Scratch.create();
  const door = await openDoor(scratch);
  const { stdout } = await run("nbd-client", ["-l", "127.0.0.1", String(door.port)]);
  ok(stdout.includes("db: disk db"), stdout);
});

/** What libnbd's oversize and handshake misuse looks like is in src/nbd; here it is real sockets. */
async function attach(path: string): Promise<Socket> {
  const socket = connect(path);
  const option = Buffer.from("IHAVEOPT\0\0\0\u0007\0\0\0\b\0\0\0\u0002db\0\0");
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), option]));
  let count = 0;
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.on("data", (bytes: Buffer) => {
      count += bytes.length;
      // Greeting, INFO with the export, ACK.
      if (count === 18 + 32 + 20) resolve();
    });
  });
  socket.removeAllListeners("data");
  return socket;
}

function request(type: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

test("1,000 idle connections cost little, and a client beside them works as ever", async () => {
  await using scratch = await Scratch.create();
  const door = await openDoor(scratch);
  const before = process.memoryUsage();
  const sockets: Socket[] = [];
  for (let count = 0; count < 1000; count++) sockets.push(await attach(door.socket));
  equal(door.server.counts.open, 1000);
  const after = process.memoryUsage();
  // Both ends live in this process: a server's share is less than half.
  const perConnection = (after.rss - before.rss) / 1000;
  ok(perConnection < 64 * 1024, `${Math.round(perConnection / 1024)} KiB each`);
  equal(door.server.heldPieceCount, 0);
  const stream = await connectStream({ kind: "unix", path: door.socket });
  const nbd = await NbdClient.open(stream, { exportName: "db" });
  await nbd.write(0, new Uint8Array(3 * MIB).fill(3));
  equal((await nbd.read(0, 3 * MIB))[MIB], 3);
  await nbd.close();
  for (const socket of sockets) socket.destroy();
  await until("all connections are gone", () => door.server.counts.open === 0);
  equal(door.catalog.openCount, door.catalog.closeCount);
});

test("clients that don't read their replies hold nobody up", async () => {
  await using scratch = await Scratch.create();
  const door = await openDoor(scratch);
  const slow: Socket[] = [];
  for (let count = 0; count < 5; count++) {
    const socket = await attach(door.socket);
    socket.pause();
    for (let index = 0; index < 400; index++) socket.write(request(0, 0, 256 * 1024));
    slow.push(socket);
  }
  await delay(100);
  const heldBytes = door.slab.bytes.length - door.slab.freeBytes;
  ok(heldBytes < 55 * MIB, `${heldBytes / MIB} MiB are held`);
  const stream = await connectStream({ kind: "unix", path: door.socket });
  const nbd = await NbdClient.open(stream, { exportName: "db" });
  const start = performance.now();
  for (let count = 0; count < 100; count++) await nbd.write(count * 4096, new Uint8Array(4096));
  ok(performance.now() - start < 2000);
  await nbd.close();
  for (const socket of slow) socket.destroy();
});

test("a disconnect in mid-payload loses nothing but that request", async () => {
  await using scratch = await Scratch.create();
  const door = await openDoor(scratch);
  for (const sentBytes of [0, 1, 4095, 70_000, 2 * MIB + 1]) {
    const socket = await attach(door.socket);
    socket.write(request(1, 4096, 4096));
    socket.write(Buffer.alloc(4096, 9));
    socket.write(request(1, 8 * MIB, 4 * MIB));
    socket.write(Buffer.alloc(sentBytes, 9), () => socket.destroy());
    await until("it is gone", () => door.server.counts.open === 0);
  }
  equal(door.device.contents(4096, 1)[0], 9);
  equal(door.server.heldPieceCount, 0);
  equal(door.catalog.openCount, door.catalog.closeCount);
});
