// SPDX-License-Identifier: Apache-2.0
//
// Clients survive (promise 7): the daemon is killed with -9 under load, three times, and started again
// after a while. A client that can reconnect sees a pause and no error, and what it wrote verifies. These
// are the recipes of the guides, as tests: QEMU's reconnect-delay, nbdkit's retry filter in front of a
// client that can't reconnect, and the loop that a program of its own over libnbd needs.

import { equal, match } from "node:assert/strict";
import { test } from "node:test";
import { delay, programEnv, run } from "./command.ts";
import { startBetween } from "./front.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const MIB = 1024 * 1024;
const SIZE_BYTES = 64 * MIB;

/** Kills the server three times while `work` goes on, and lets it lie for a moment each time. */
async function killDuring(server: Server, work: Promise<unknown>): Promise<void> {
  let isOver = false;
  const over = work.finally(() => {
    isOver = true;
  });
  over.catch(() => {});
  let killCount = 0;
  for (; killCount < 3 && !isOver; killCount++) {
    await delay(400);
    await server.kill9();
    await delay(300);
    await server.restart();
  }
  await over;
  equal(killCount, 3, "the work went on during all kills");
}

/** Writes and verifies through `uri`, for about three seconds. */
function fioThrough(uri: string): Promise<unknown> {
  return run("fio", [
    "--name=survive",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--rw=randwrite",
    "--bs=4k",
    "--iodepth=16",
    "--size=40m",
    "--rate_iops=3400",
    "--fsync=64",
    "--verify=crc32c",
    "--do_verify=1",
    "--verify_fatal=1",
    "--verify_state_save=0",
    "--minimal",
  ]);
}

test("QEMU with reconnect-delay sees no error across kills -9", {
  skip: requires("qemu-storage-daemon --version", "fio --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE_BYTES });
  const socket = scratch.path("front.sock");
  const disk = `server.type=unix,server.path=${server.socket},export=db,reconnect-delay=30`;
  const command = [
    "qemu-storage-daemon",
    `--blockdev=driver=nbd,node-name=disk,${disk}`,
    `--nbd-server=addr.type=unix,addr.path=${socket}`,
    "--export=type=nbd,id=e,node-name=disk,name=front,writable=on",
  ];
  await startBetween(scratch, { command, socket });
  await killDuring(server, fioThrough(`nbd+unix:///front?socket=${socket}`));
});

test("nbdkit's retry filter carries a client without reconnection across kills -9", {
  skip: requires("nbdkit --version", "fio --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE_BYTES });
  const socket = scratch.path("front.sock");
  const command = ["nbdkit", "--foreground", "--unix", socket, "--filter=retry", "nbd"];
  const back = [`uri=${server.uri}`, "retry=30", "retries=30", "retry-delay=1"];
  await startBetween(scratch, {
    command: [...command, ...back, "retry-exponential=no"],
    socket,
  });
  await killDuring(server, fioThrough(`nbd+unix:///?socket=${socket}`));
});

test("a program over libnbd that opens again and repeats sees no loss across kills -9", {
  skip: requires("nbdsh --version"),
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE_BYTES });
  const env = programEnv({ PATH: `/usr/bin:${process.env.PATH ?? ""}`, NBD_URI: server.uri });
  const program = run("nbdsh", ["-c", RECONNECTING_PROGRAM], { env });
  await killDuring(server, program);
  const { stdout } = await program;
  match(stdout, /^reconnected [1-9]\d* times, [1-9]\d* blocks verified$/m);
});

const RECONNECTING_PROGRAM = `
import os, struct, time

class Disk:
    """A connection that is opened again, and the request repeated, when the server goes away."""
    def __init__(self, uri):
        self.uri, self.nbd, self.opened = uri, None, 0
    def call(self, name, *args):
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.nbd is None:
                    self.nbd = nbd.NBD()
                    self.nbd.connect_uri(self.uri)
                    self.opened += 1
                return getattr(self.nbd, name)(*args)
            except nbd.Error:
                if self.nbd is not None and self.nbd.aio_is_ready():
                    raise  # the server's own answer, not a lost connection
                self.nbd = None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

disk = Disk(os.environ["NBD_URI"])
latest = {}
end = time.monotonic() + 3
number = 0
while time.monotonic() < end:
    number += 1
    block = (number * 7919) % 16384
    disk.call("pwrite", struct.pack(">QQ", block, number) * 256, block * 4096)
    latest[block] = number
    if number % 100 == 0:
        disk.call("flush")
for block, number in latest.items():
    assert disk.call("pread", 4096, block * 4096) == struct.pack(">QQ", block, number) * 256, block
print("reconnected %d times, %d blocks verified" % (disk.opened - 1, len(latest)))
`;
