// SPDX-License-Identifier: Apache-2.0
//
// Our client against other people's servers: nbdkit and qemu-nbd, in every kind of headers they have.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient, type NbdClientOptions } from "../../src/nbd/client.ts";
import { HEADERS } from "../../src/nbd/codec.ts";
import { closed, programEnv, run, until } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

const MIB = 1 << 20;

/** Starts a server on a Unix socket and stops it with the scratch directory. */
async function serve(scratch: Scratch, command: string, ...args: string[]): Promise<string> {
  const path = scratch.path("peer.sock");
  const filled = args.map((arg) => arg.replace("SOCKET", path));
  const child = spawn(command, filled, { env: programEnv(), stdio: "ignore" });
  scratch.defer(command, async () => {
    child.kill("SIGKILL");
    await closed(child);
  });
  await until(`${command} listens`, async () => {
    const stream = await connectStream({ kind: "unix", path }).catch(() => undefined);
    stream?.close();
    return stream !== undefined;
  });
  return path;
}

async function open(path: string, options: Partial<NbdClientOptions> = {}): Promise<NbdClient> {
  const stream = await connectStream({ kind: "unix", path });
  return await NbdClient.open(stream, { exportName: "", ...options });
}

function pattern(lengthBytes: number): Uint8Array {
  return Uint8Array.from({ length: lengthBytes }, (_, index) => (index * 13) % 253);
}

async function exercise(nbd: NbdClient): Promise<void> {
  const bytes = pattern(3 * MIB);
  await nbd.write(4096, bytes);
  equal(Buffer.compare(await nbd.read(4096, bytes.length), bytes), 0);
  await Promise.all(
    Array.from({ length: 100 }, (_, index) =>
      nbd.write(index * 8192, bytes.subarray(index, index + 8192)),
    ),
  );
  const reads = await Promise.all(
    Array.from({ length: 100 }, (_, index) => nbd.read(index * 8192, 8192)),
  );
  for (const [index, read] of reads.entries()) deepEqual(read, bytes.subarray(index, index + 8192));
  await nbd.flush();
  await nbd.trim(0, 4096);
  await nbd.writeZeroes(8192, 8192);
  deepEqual(await nbd.read(8192, 8192), new Uint8Array(8192));
  await rejects(nbd.read(nbd.sizeBytes, 512), (error) => hasCode(error, "PEER_REFUSED"));
}

for (const [name, headers] of Object.entries(HEADERS)) {
  test(`nbdkit, asked for ${name} headers`, { skip: requires("nbdkit --version") }, async () => {
    await using scratch = await Scratch.create();
    const path = await serve(scratch, "nbdkit", "-f", "-U", "SOCKET", "memory", "16M");
    const nbd = await open(path, { headers, contexts: ["base:allocation"] });
    equal(nbd.sizeBytes, 16 * MIB);
    await exercise(nbd);
    if (headers !== HEADERS.SIMPLE) {
      const extents = (await nbd.blockStatus(0, 16 * MIB)).get("base:allocation") ?? [];
      ok(extents.length > 1);
    }
    await nbd.close();
  });

  test(`qemu-nbd, asked for ${name} headers`, {
    skip: requires("qemu-nbd --version"),
  }, async () => {
    await using scratch = await Scratch.create();
    const image = scratch.path("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", image, "16M"]);
    const options = ["-f", "qcow2", "-x", "db", "-D", "a disk", "-k", "SOCKET", "-t", "-e", "0"];
    const path = await serve(scratch, "qemu-nbd", ...options, "--discard=unmap", image);
    const stream = await connectStream({ kind: "unix", path });
    deepEqual(await NbdClient.list(stream), [{ name: "db", description: "a disk" }]);
    const contexts = ["base:allocation"];
    const nbd = await open(path, { exportName: "db", headers, contexts });
    await exercise(nbd);
    if (headers !== HEADERS.SIMPLE) {
      const status = await nbd.blockStatus(8 * MIB, MIB, { isOne: true });
      deepEqual(status.get("base:allocation"), [
        { offsetBytes: 8 * MIB, lengthBytes: MIB, flags: 3 },
      ]);
    }
    await nbd.close();
    await rejects(open(path, { exportName: "nothing" }), (error) => hasCode(error, "PEER_REFUSED"));
  });
}

test("errors of a server's disk are told as such", {
  skip: requires("nbdkit --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const filter = ["--filter=error", "memory", "16M", "error-pread=EIO", "error-pread-rate=100%"];
  const path = await serve(scratch, "nbdkit", "-f", "-U", "SOCKET", ...filter);
  const nbd = await open(path);
  await rejects(
    nbd.read(0, 512),
    (error) => hasCode(error, "PEER_FAILED") && error.data.errno === 5,
  );
  await nbd.write(0, pattern(512));
  await nbd.close();
});
