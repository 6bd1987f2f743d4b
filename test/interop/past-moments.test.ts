// SPDX-License-Identifier: Apache-2.0
//
// Past moments through real clients and a real daemon: whichever tool asks, by position, time, time ago or
// name, it reads the disk as it was, while the volume is written and changed; and thousands of comings and
// goings, in good order or not, leave nothing open.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { connect } from "node:net";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { BASE_ALLOCATION, OPTION } from "../../src/nbd/constants.ts";
import { encodeOption } from "../../src/nbd/option-codec.ts";
import { delay, run, until } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";

const MIB = 1 << 20;
const SIZE = 16 * MIB;
/** What is compared; the rest is for those who write meanwhile. */
const KEPT = 8 * MIB;

const skip =
  KIND_UNDER_TEST !== "varve" ||
  requires("nbdinfo --version", "nbdcopy --version", "nbdsh --version", "qemu-img --version");

async function start(scratch: Scratch): Promise<Server> {
  return Server.inScratch(scratch, { sizeBytes: SIZE });
}

async function open(server: Server, exportName: string): Promise<NbdClient> {
  const stream = await connectStream({ kind: "unix", path: server.socket });
  return NbdClient.open(stream, { exportName, contexts: [BASE_ALLOCATION] });
}

/** Fills what is compared, and returns the name of the moment at which it is so. */
async function fill(server: Server, byte: number): Promise<string> {
  const client = await open(server, "db");
  for (let at = 0; at < KEPT; at += MIB) await client.write(at, new Uint8Array(MIB).fill(byte));
  await client.flush();
  await client.close();
  const now = await open(server, "db@now");
  const { stableName } = now.agreement;
  await now.close();
  return stableName;
}

async function firstByte(server: Server, exportName: string): Promise<number> {
  const client = await open(server, exportName);
  const bytes = await client.read(0, 4096);
  await client.close();
  return bytes[4095] as number;
}

/** Writes to the other half until it is told to stop. */
function writeOn(server: Server): { stop(): Promise<number> } {
  let isStopped = false;
  let count = 0;
  const done = (async () => {
    const client = await open(server, "db");
    while (!isStopped) {
      const lba = (count * 7919) % ((SIZE - KEPT) / 4096);
      await client.write(KEPT + lba * 4096, new Uint8Array(4096).fill(count));
      count += 1;
      if (count % 64 === 0) await client.flush();
    }
    await client.close();
  })();
  return {
    stop: async () => {
      isStopped = true;
      await done;
      return count;
    },
  };
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function viewCount(server: Server): Promise<number> {
  const { stdout } = await server.varve(["stats", "--json"]);
  return (JSON.parse(stdout) as { pool: { viewCount: number } }).pool.viewCount;
}

test("each tool reads the disk as it was, while it is written", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const names = [await fill(server, 1), await fill(server, 2), await fill(server, 3)];
  const writer = writeOn(server);
  try {
    for (const [index, name] of names.entries()) {
      await readWithEachTool(server, { name, byte: index + 1, file: scratch.path("copy") });
    }
  } finally {
    ok((await writer.stop()) > 0);
  }
  await until("views are let go", async () => (await viewCount(server)) === 0);
});

async function readWithEachTool(
  server: Server,
  { name, byte, file }: { name: string; byte: number; file: string },
): Promise<void> {
  const wanted = hashOf(new Uint8Array(KEPT).fill(byte));
  const lsn = name.slice("db@#".length);
  const uri = `nbd+unix:///db@lsn:${lsn}?socket=${server.socket}`;

  await run("nbdcopy", [uri, file]);
  equal(hashOf((await readFile(file)).subarray(0, KEPT)), wanted, "nbdcopy");

  await run("qemu-img", ["convert", "-O", "raw", `${server.qemuName}@#${lsn}`, file]);
  equal(hashOf((await readFile(file)).subarray(0, KEPT)), wanted, "qemu-img convert");

  const escaped = `nbd+unix:///db@%23${lsn}?socket=${server.socket}`;
  const read = await run("qemu-io", [
    "-r",
    "-f",
    "raw",
    escaped,
    "-c",
    `read -P ${byte} 0 ${KEPT}`,
  ]);
  ok(!/fail|verification/i.test(read.stdout), read.stdout);

  const { stdout: told } = await run("nbdsh", [
    ...["-c", "h.set_full_info(True)", "-u", uri],
    "-c",
    "print(h.get_canonical_export_name(), h.is_read_only(), h.can_multi_conn(), h.pread(2, 0))",
  ]);
  equal(told.trim(), `${name} True True bytearray(b'\\x0${byte}\\x0${byte}')`);

  const { stdout: info } = await run("nbdinfo", ["--json", uri]);
  const [found] = (JSON.parse(info) as { exports: Record<string, unknown>[] }).exports;
  equal(found?.is_read_only, true);
  match(String(found?.description), /^as of \d{4}-/);
}

test("many moments are open at once, while the volume is written", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const names: string[] = [];
  for (let byte = 1; byte <= 20; byte++) names.push(await fill(server, byte));
  const writer = writeOn(server);
  try {
    const clients = await Promise.all(names.map((name) => open(server, name)));
    equal(await viewCount(server), names.length);
    for (let round = 0; round < 10; round++) {
      const at = (round * 811 * 4096) % KEPT;
      const read = await Promise.all(clients.map((client) => client.read(at, 4096)));
      deepEqual(
        read.map((bytes) => bytes[0]),
        names.map((_, index) => index + 1),
      );
    }
    for (const client of clients) await client.close();
  } finally {
    ok((await writer.stop()) > 0);
  }
  await until("views are let go", async () => (await viewCount(server)) === 0);
});

test("by time and by time ago it is the disk of then", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  await fill(server, 1);
  await delay(1000);
  const between = Date.now();
  await delay(1000);
  await fill(server, 2);
  equal(await firstByte(server, `db@${new Date(between).toISOString()}`), 1);
  equal(await firstByte(server, `db@-${Date.now() - between}ms`), 1);
  equal(await firstByte(server, "db@now"), 2);
  const relative = await open(server, `db@-${Date.now() - between}ms`);
  equal(relative.canMultiConnect, false);
  equal((await relative.read(0, 1))[0], 1);
  await fill(server, 3);
  equal((await relative.read(4096, 1))[0], 1, "resolved once, not per request");
  await relative.close();
});

test("a snapshot is listed and opened by its name", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  await fill(server, 1);
  await server.varve(["snapshot", "db@v1"]);
  await fill(server, 2);
  equal(await firstByte(server, "db@v1"), 1);
  const all = `nbd+unix:///?socket=${server.socket}`;
  const { stdout } = await run("nbdinfo", ["--list", "--json", all]);
  const { exports } = JSON.parse(stdout) as { exports: Record<string, string>[] };
  deepEqual(
    exports.map((one) => one["export-name"]),
    ["db", "db@v1"],
  );
  const [live, snapshot] = exports.map(({ description }) => description ?? "");
  match(live ?? "", /any moment: db@-10m/);
  match(snapshot ?? "", /^16.0 MiB, as of \d{4}-/);
});

test("block status is that of then", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const name = await fill(server, 1);
  const live = await open(server, "db");
  await live.trim(0, KEPT);
  const view = await open(server, name);
  const [then] = (await view.blockStatus(0, SIZE)).get(BASE_ALLOCATION) ?? [];
  const [now] = (await live.blockStatus(0, SIZE)).get(BASE_ALLOCATION) ?? [];
  deepEqual([then?.lengthBytes, then?.flags], [KEPT, 0]);
  equal(now?.flags, 3);
  await view.close();
  await live.close();
});

test("a volume is shrunk, renamed and removed beside those who read its past", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const name = await fill(server, 1);
  const view = await open(server, name);
  const { stdout } = await server.varve(["info", "db"]);
  ok(stdout.includes(name), stdout);
  await server.varve(["resize", "db", "4M"]);
  await server.varve(["rename", "db", "orders"]);
  await server.varve(["remove", "orders", "--yes"]);
  equal(view.sizeBytes, SIZE);
  equal((await view.read(KEPT - 1, 1))[0], 1);
  await view.close();
});

test("two thousand opens and closes leave nothing behind", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const names: (readonly [string, number])[] = [];
  for (let byte = 1; byte <= 8; byte++) names.push([await fill(server, byte), byte]);
  const process = `/proc/${server.pid}`;
  const descriptors = async (): Promise<number> => (await readdir(`${process}/fd`)).length;
  const residentMib = async (): Promise<number> =>
    Number(/VmRSS:\s+(\d+)/.exec(await readFile(`${process}/status`, "utf8"))?.[1]) / 1024;
  const round = async (count: number): Promise<void> => {
    for (let index = 0; index < count; index += 10) {
      const batch = Array.from({ length: 10 }, (_, step) => names[(index + step) % 8]!);
      const read = await Promise.all(batch.map(([name]) => firstByte(server, name)));
      deepEqual(
        read,
        batch.map(([, byte]) => byte),
      );
    }
  };
  await round(500);
  const before = { descriptors: await descriptors(), residentMib: await residentMib() };
  await round(2000);
  await until("views are let go", async () => (await viewCount(server)) === 0);
  await until("sockets are closed", async () => (await descriptors()) <= before.descriptors);
  const grownMib = (await residentMib()) - before.residentMib;
  ok(grownMib < 64, `the daemon has grown by ${grownMib.toFixed(1)} MiB`);
});

test("clients that hang up while their moment is being opened leave nothing open", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  const names = [await fill(server, 1), await fill(server, 2)];
  for (let index = 0; index < 200; index++) {
    const name = Buffer.from(names[index % 2] as string);
    const payload = Buffer.concat([Buffer.alloc(4), name, Buffer.alloc(2)]);
    payload.writeUInt32BE(name.length);
    const socket = connect(server.socket);
    socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), encodeOption(OPTION.GO, payload)]));
    await delay(index % 4);
    socket.destroy();
  }
  await until("views are let go", async () => (await viewCount(server)) === 0);
  equal(await firstByte(server, names[0] as string), 1);
});

test("what can't be served is said in words", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await start(scratch);
  await fill(server, 1);
  for (const [moment, said] of [
    ["lsn:99999999", /99999999/],
    ["10m", /that long ago is written -10m/],
    ["no-such-snapshot", /no-such-snapshot/],
    ["", /db@lsn:123/],
  ] as const) {
    const name = `${server.qemuName}@${moment}`;
    const { stderr } = await run("qemu-img", ["info", name], { accept: [1] });
    match(stderr, said, name);
  }
});
