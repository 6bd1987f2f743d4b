// SPDX-License-Identifier: Apache-2.0
//
// The kernel's own NBD client against a real daemon: in a guest it makes ext4 on a volume, copies a tree,
// compares, trims, unmounts, checks the file system, connects again and reads all of it back. This
// client sends what no client of this machine does: FUA, write-zeroes and trim over several connections.
// SERVER_UNDER_TEST=nbdkit proves the test itself.

import { match } from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { programEnv, run } from "../interop/command.ts";
import { requires } from "../interop/requires.ts";
import { Scratch } from "../interop/scratch.ts";
import { KIND_UNDER_TEST, Server } from "../interop/server.ts";
import { freePort } from "./free-port.ts";

const SIZE = 512 * 2 ** 20;
const TIMEOUT_SECONDS = 180;

for (const connections of [1, 4]) {
  test(`ext4 over the kernel's client with ${connections} connections keeps a tree whole`, {
    skip: requires("kernel-nbd-check --help", "nbd-client --version"),
    timeout: (TIMEOUT_SECONDS + 60) * 1000,
  }, async () => {
    await using scratch = await Scratch.create();
    const port = await freePort();
    await serve(scratch, port);
    const limits = ["-C", `${connections}`, "-T", `${TIMEOUT_SECONDS}`];
    const { stdout } = await run("kernel-nbd-check", [...limits, `${port}`, "db"], {
      timeoutMs: (TIMEOUT_SECONDS + 30) * 1000,
    });
    match(stdout, /pass/);
  });
}

/** Serves a volume `db` on the loopback address, where a guest can reach it. */
async function serve(scratch: Scratch, port: number): Promise<void> {
  if (KIND_UNDER_TEST !== "nbdkit") {
    const options = { sizeBytes: SIZE, listen: `127.0.0.1:${port}` };
    const server = await Server.start("varve", { ...options, directory: scratch.directory });
    scratch.defer("server", () => server.kill9());
    return;
  }
  const disk = join(scratch.directory, "disk.raw");
  await run("truncate", ["-s", `${SIZE}`, disk]);
  const args = ["--foreground", "--ipaddr", "127.0.0.1", "--port", `${port}`, "file", disk];
  const child: ChildProcess = spawn("nbdkit", args, { env: programEnv(), stdio: "ignore" });
  scratch.defer("server", async () => child.kill("SIGKILL"));
}
