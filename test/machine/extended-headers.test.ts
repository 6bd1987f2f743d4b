// SPDX-License-Identifier: Apache-2.0
//
// QEMU's client with extended headers on a volume of 16 TiB: what it agreed on and sent is read from its
// own trace, how many requests arrived from the server's counters. Before 8.2 it has headers of 32 bits,
// where nothing here would be one request.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import { type Outcome, run } from "../interop/command.ts";
import { startBetween } from "../interop/front.ts";
import { COMMAND, NbdConnection } from "../interop/nbd-connection.ts";
import { requires } from "../interop/requires.ts";
import { Scratch } from "../interop/scratch.ts";
import { Server } from "../interop/server.ts";
import { newerQemu, qemuPath } from "./newer-qemu.ts";

const KIB = 1024;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const TIB = 2 ** 40;
const SIZE = 16 * TIB;
const BLOCK = 4096;

/** More than 32 bits count, neither beginning nor ending where anything else does. */
const WIDE = { start: BLOCK, length: 6 * GIB };
const WIDE_END = WIDE.start + WIDE.length;
/** Data around that range, at its edges and beyond 4 GiB in it. */
const FILL_AROUND_WIDE = [
  `write -P 1 0 ${2 * BLOCK}`,
  `write -P 2 ${5 * GIB} 64k`,
  `write -P 3 ${WIDE_END - BLOCK} ${2 * BLOCK}`,
];
const WIDE_IS_ZERO = [
  `read -P 1 0 ${BLOCK}`,
  `read -P 0 ${BLOCK} 64k`,
  `read -P 0 ${5 * GIB} 64k`,
  `read -P 0 ${WIDE_END - BLOCK} ${BLOCK}`,
  `read -P 3 ${WIDE_END} ${BLOCK}`,
];

const options = { skip: requires(newerQemu()), timeout: 180_000 };

test(
  "QEMU learns the map of 16 TiB by asking a few times for all that follows",
  options,
  async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
    await qemuIo(server.qemuName, [`write -P 7 ${8 * TIB} 64k`]);
    const map = ["--trace", "nbd_*", "map", "--output=json", "-f", "raw", server.qemuName];
    const { stdout, stderr } = await run(qemuPath("qemu-img"), map);
    match(stderr, /Received option reply 11 \(extended headers\), type 1 \(ack\)/);

    const dataEnd = 8 * TIB + 64 * KIB;
    const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
    deepEqual(
      extents.map(({ start, length, data }) => ({ start, length, data })),
      [
        { start: 0, length: 8 * TIB, data: false },
        { start: 8 * TIB, length: 64 * KIB, data: true },
        { start: dataEnd, length: SIZE - dataEnd, data: false },
      ],
    );
    const asked = stderr.matchAll(/\.from = (\d+), \.len = (\d+),.*\(block status\)/g);
    const requests = [...asked].map(([, from, length]) => [Number(from), Number(length)] as const);
    ok(requests.length <= 20, `one answer tells of up to 1 TiB: ${requests.length} requests`);
    for (const [from, length] of requests) equal(length, SIZE - from);
    const answered = stderr.matchAll(/Got reply chunk header: .*type = (\d+) \(block status/g);
    const types = [...answered].map(([, type]) => type);
    equal(types.length, requests.length);
    deepEqual([...new Set(types)], ["6"], "every answer has extents of 64 bits");
  },
);

for (const [name, flags, isHole] of [
  ["keeps it allocated", "", false],
  ["gives it back", "-u", true],
] as const) {
  test(`QEMU zeroes 6 GiB in one request and ${name}`, options, async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
    await qemuIo(server.qemuName, FILL_AROUND_WIDE);
    equal((await activity(server)).zeroCount, 0);
    const zero = `write -z -n ${flags} ${WIDE.start} ${WIDE.length}`;
    await qemuIo(server.qemuName, [zero, ...WIDE_IS_ZERO]);
    equal((await activity(server)).zeroCount, 1);
    await server.kill9();
    await server.restart();
    await qemuIo(server.qemuName, WIDE_IS_ZERO);

    const map = ["map", "--output=json", "-f", "raw", server.qemuName];
    const { stdout } = await run(qemuPath("qemu-img"), map);
    const found = (JSON.parse(stdout) as { start: number; length: number; data: boolean }[]).find(
      ({ start }) => start === WIDE.start,
    );
    equal(found?.length, WIDE.length);
    equal(found?.data, !isHole);
  });
}

test("a trim of 6 GiB goes through qemu-nbd and arrives as one request", options, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
  await qemuIo(server.qemuName, FILL_AROUND_WIDE);
  // qemu-io takes no trim of 2 GiB or more; so a client sends it to a server of QEMU's, which sends it on.
  const socket = scratch.path("front.sock");
  const serve = ["--persistent", "--shared=0", "--discard=unmap", "--export-name=front"];
  const command = [qemuPath("qemu-nbd"), ...serve, "--format=raw", `--socket=${socket}`];
  await startBetween(scratch, { command: [...command, server.qemuName], socket });
  const client = await NbdConnection.open(socket, "front", { isExtended: true });
  await client.submit({ command: COMMAND.TRIM, offset: WIDE.start, length: WIDE.length });
  await client.flush();
  await client.close();
  equal((await activity(server)).trimCount, 1);
  await qemuIo(server.qemuName, WIDE_IS_ZERO);
});

test(
  "an image of 16 TiB is copied in, on to another volume, and both are the same",
  options,
  async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
    await server.varve(["create", "copy", `${SIZE}`]);
    const copy = `nbd:unix:${server.socket}:exportname=copy`;
    const source = scratch.path("in.qcow2");
    // Large clusters: QEMU asks for the state of a qcow2 image in steps of so many of them.
    await qemuImg(["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", source, `${SIZE}`]);
    const filling = [
      "write -P 1 0 1M",
      `write -P 2 ${4 * GIB - BLOCK} ${2 * BLOCK}`,
      `write -P 3 ${TIB + 512} ${3 * MIB}`,
      `write -P 4 ${8 * TIB - BLOCK} 1M`,
      `write -P 5 ${SIZE - BLOCK} ${BLOCK}`,
    ];
    await qemuIo(source, filling, "qcow2");
    await qemuImg(["convert", "-n", "-f", "qcow2", "-O", "raw", source, server.qemuName]);
    await qemuImg(["compare", "-f", "qcow2", "-F", "raw", source, server.qemuName]);
    await qemuImg(["convert", "-n", "-f", "raw", "-O", "raw", server.qemuName, copy]);
    await qemuImg(["compare", "-f", "raw", "-F", "raw", server.qemuName, copy]);
    const readBack = filling.map((command) => command.replace("write", "read"));
    await qemuIo(copy, [...readBack, `read -P 0 ${4 * GIB + BLOCK} 1M`]);
  },
);

function qemuImg(args: readonly string[]): Promise<Outcome> {
  return run(qemuPath("qemu-img"), args);
}

async function qemuIo(disk: string, commands: readonly string[], format = "raw"): Promise<void> {
  const args = commands.flatMap((command) => ["-c", command]);
  const { stdout, stderr } = await run(qemuPath("qemu-io"), ["-f", format, ...args, disk]);
  const output = `${stdout}${stderr}`;
  equal(/verification failed|error|failed|cannot/i.exec(output)?.[0], undefined, output);
}

interface Activity {
  readonly zeroCount: number;
  readonly trimCount: number;
}

async function activity(server: Server): Promise<Activity> {
  const { stdout } = await server.varve(["info", server.exportName, "--json"]);
  const found = (JSON.parse(stdout) as { activity?: Activity }).activity;
  ok(found, stdout);
  return found;
}
