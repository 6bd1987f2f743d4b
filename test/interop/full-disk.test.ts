// SPDX-License-Identifier: Apache-2.0
//
// A file system that is really full, with a pool on it that was opened before and one that is opened then: what must
// work works, the daemon ends when it is told to, and writes go on by themselves when there is space again.

import { equal, match, ok } from "node:assert/strict";
import { mkdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run, until } from "./command.ts";
import { noise } from "./content.ts";
import { LOOP_DISK_NEEDS } from "./loop-disk.ts";
import { NbdConnection } from "./nbd-connection.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";

const MIB = 1024 * 1024;
const ENOSPC = 28;
const skip =
  KIND_UNDER_TEST === "varve"
    ? requires(...LOOP_DISK_NEEDS, "mkfs.ext4 -V", "nbdsh --version")
    : "is about Varve's pool";

/** A file system of 300 MiB of its own, mounted below `scratch`. */
async function smallFileSystem(scratch: Scratch): Promise<string> {
  const image = scratch.path("disk.img");
  const mountPoint = scratch.path("fs");
  await writeFile(image, "");
  await truncate(image, 300 * MIB);
  await run("mkfs.ext4", ["-q", "-F", image]);
  await mkdir(mountPoint);
  await run("mount", ["-o", "loop", image, mountPoint]);
  scratch.defer(mountPoint, () => run("umount", [mountPoint]));
  return mountPoint;
}

/** Takes all the room that is left. */
async function fillUp(path: string): Promise<void> {
  await writeFile(path, new Uint8Array(400 * MIB)).catch((error: { code?: string }) => {
    equal(error.code, "ENOSPC");
  });
}

async function stateOf(server: Server): Promise<string> {
  const { stdout } = await server.varve(["info", "--json"]);
  return String((JSON.parse(stdout) as { state: unknown }).state);
}

/** One request of a real client; what it prints. */
async function ask(server: Server, expression: string): Promise<string> {
  const script = `
try:
    ${expression}
    print("done")
except nbd.Error as error:
    print(error.errno)
`;
  const { stdout } = await run("nbdsh", ["-u", server.uri, "-c", script], { timeoutMs: 20_000 });
  return stdout.trim();
}

test("on a full file system a pool does what must work, ends, opens again, and recovers by itself", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const directory = await smallFileSystem(scratch);
  const other = join(directory, "other");
  const server = await Server.inScratch(scratch, { directory, sizeBytes: 1024 * MIB });
  equal(await ask(server, 'h.pwrite(b"x" * 1048576, 0); h.flush()'), "done");
  equal(await server.stop(), 0);
  await server.restart();
  await fillUp(other);
  for (const life of ["restarted", "killed"]) {
    await until("the pool knows", async () => (await stateOf(server)) === "full");
    for (const request of ["h.flush()", "h.trim(65536, 0)", "h.zero(65536, 65536)"])
      equal(await ask(server, request), "done", `${life}: ${request}`);
    equal(await ask(server, 'assert h.pread(4096, 524288) == b"x" * 4096'), "done", life);
    equal(await ask(server, 'h.pwrite(b"y" * 4096, 262144, nbd.CMD_FLAG_FUA)'), "ENOSPC", life);
    await server.varve(["create", life, "1M"]);
    await server.varve(["remove", life, "--yes"]);
    if (life === "killed") break;
    await server.kill9();
    await server.restart();
  }
  equal(await server.stop(10_000), 0);
  await server.restart();
  await rm(other);
  await until("there is space again", async () => (await stateOf(server)) === "open");
  equal(await ask(server, 'h.pwrite(b"z" * 4096, 262144, nbd.CMD_FLAG_FUA)'), "done");
});

test("five sixths of a small file system hold data, and a pool that is full says so when it is opened", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const directory = await smallFileSystem(scratch);
  const { stdout } = await run("df", ["-B1", "--output=avail", directory]);
  const availableBytes = Number(stdout.split("\n")[1]);
  const server = await Server.inScratch(scratch, { directory, sizeBytes: 1024 * MIB });
  const connection = await NbdConnection.open(server.socket, "db");
  let storedBytes = 0;
  try {
    for (; storedBytes < availableBytes; storedBytes += MIB)
      await connection.write(storedBytes, noise(MIB, storedBytes));
  } catch (error) {
    equal((error as { errno?: number }).errno, ENOSPC);
  }
  await connection.close();
  const share = storedBytes / availableBytes;
  ok(share > 0.85 && share < 1, `${share} of the file system`);
  equal(await server.stop(), 0);
  await server.restart();
  equal(await stateOf(server), "full");
  match((await server.varve(["info"])).stdout, /^warning: +the pool is full/m);
});
