// SPDX-License-Identifier: Apache-2.0
//
// QEMU's block layer as a client: images converted in and out and compared, the allocation map, its
// benchmark, byte patterns at every alignment, and a storage daemon that uses the export as its disk and
// serves it on.

import { equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import { run } from "./command.ts";
import { makeExt4Image, makeSparseFile, REAL_TREE } from "./content.ts";
import { startBetween } from "./front.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const MIB = 1024 * 1024;
const skip = requires("qemu-img --version", "qemu-io --version");

test("qemu-img converts a real image in and out, and finds both the same", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 128 * MIB });
  const source = scratch.path("in.raw");
  const target = scratch.path("out.qcow2");
  await makeExt4Image(source, 128 * MIB, REAL_TREE);
  const disk = server.qemuName;
  await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", "-W", source, disk]);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, disk]);
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-m", "16", disk, target]);
  await run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", target, disk]);
});

test("qemu-img map covers the whole disk and calls unwritten space a hole", { skip }, async () => {
  await using scratch = await Scratch.create();
  const sizeBytes = 40 * MIB;
  const server = await Server.inScratch(scratch, { sizeBytes });
  const source = scratch.path("in.raw");
  await makeSparseFile(source, sizeBytes);
  await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", source, server.qemuName]);
  const map = ["map", "--output=json", "-f", "raw", server.qemuName];
  const { stdout } = await run("qemu-img", map);
  const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
  equal(
    extents.reduce((end, { start, length }) => (start === end ? end + length : Number.NaN), 0),
    sizeBytes,
  );
  const dataBytes = extents.filter(({ data }) => data).reduce((sum, { length }) => sum + length, 0);
  ok(dataBytes > 0 && dataBytes < sizeBytes / 2, `${dataBytes} bytes of data in ${sizeBytes}`);
});

test("qemu-img bench reads and writes at depth, aligned and not, with flushes", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 64 * MIB });
  for (const args of [
    ["-w", "-c", "2000", "--flush-interval=100", "-s", "4096", "-S", "4096", "-d", "32"],
    [
      "-w",
      "-c",
      "2000",
      "--flush-interval=64",
      "--no-drain",
      "-s",
      "65536",
      "-S",
      "8192",
      "-o",
      "512",
    ],
    ["-w", "-c", "2000", "-s", "512", "-S", "1536", "-d", "64", "--pattern=165"],
    ["-c", "5000", "-s", "4096", "-d", "64"],
    ["-c", "60", "-s", "1048576", "-S", "1049088", "-d", "8"],
  ]) {
    const { stdout } = await run("qemu-img", ["bench", "-f", "raw", ...args, server.qemuName]);
    match(stdout, /Run completed/);
  }
});

test("qemu-io reads back every pattern, whatever its alignment", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 * MIB + 512 });
  await qemuIo(server, [
    "write -P 0x11 0 1M",
    "write -P 0x22 512 512",
    "write -P 0x33 4095 2",
    "write -f -P 0x44 65024 1024",
    "write -P 0x55 16M 512",
    "write -z 131072 65536",
    "write -z -u 262144 65536",
    "discard 393216 65536",
    "aio_write -P 0x66 524288 4096",
    "aio_write -P 0x77 528384 8192",
    "aio_flush",
    "flush",
    "read -P 0x11 0 512",
    "read -P 0x22 512 512",
    "read -P 0x11 1024 3071",
    "read -P 0x33 4095 2",
    "read -P 0x11 4097 60927",
    "read -P 0x44 65024 1024",
    "read -P 0x11 66048 65024",
    "read -P 0 131072 65536",
    "read -P 0x11 196608 65536",
    "read -P 0 262144 65536",
    "read -P 0 393216 65536",
    "read -P 0x66 524288 4096",
    "read -P 0x77 528384 8192",
    "read -P 0 1M 15M",
    "read -P 0x55 16M 512",
  ]);
  await server.stop();
  await server.restart();
  await qemuIo(server, ["read -P 0x22 512 512", "read -P 0x55 16M 512", "read -P 0 131072 65536"]);
});

async function qemuIo(server: Server, commands: readonly string[]): Promise<void> {
  const args = commands.flatMap((command) => ["-c", command]);
  const { stdout } = await run("qemu-io", ["-f", "raw", ...args, server.qemuName]);
  equal(/Pattern verification failed|error|failed/i.exec(stdout)?.[0], undefined, stdout);
}

const needsDaemon = requires("qemu-storage-daemon --version", "nbdcopy --version");

test("a qemu-storage-daemon uses the export as its disk and serves it on", {
  skip: needsDaemon,
}, async () => {
  await using scratch = await Scratch.create();
  const sizeBytes = 40 * MIB;
  const server = await Server.inScratch(scratch, { sizeBytes });
  const front = scratch.path("front.sock");
  const command = [
    "qemu-storage-daemon",
    `--blockdev=driver=nbd,node-name=disk,server.type=unix,server.path=${server.socket},export=db`,
    `--nbd-server=addr.type=unix,addr.path=${front}`,
    "--export=type=nbd,id=e,node-name=disk,name=front,writable=on",
  ];
  await startBetween(scratch, { command, socket: front });
  const [source, target] = [scratch.path("in.raw"), scratch.path("out.raw")];
  await makeSparseFile(source, sizeBytes);
  const uri = `nbd+unix:///front?socket=${front}`;
  await run("nbdcopy", ["--flush", source, uri]);
  await run("nbdcopy", [uri, target]);
  await run("cmp", [source, target]);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, server.qemuName]);
});

test("qemu-img puts a qcow2 image on the export and finds it whole", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 64 * MIB });
  const source = scratch.path("in.raw");
  await makeSparseFile(source, 40 * MIB);
  // The export is the host disk of an image format: its metadata is written in the format's order.
  await run("qemu-img", ["create", "-q", "-f", "qcow2", server.qemuName, "40M"]);
  await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "qcow2", source, server.qemuName]);
  await run("qemu-img", ["check", "-q", "-f", "qcow2", server.qemuName]);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", source, server.qemuName]);
});
