// SPDX-License-Identifier: Apache-2.0
//
// fio with its verify modes: every block that was written is read back and compared by checksum, header
// and position, across depths, sizes, connections, trims, and a restart of the server in between.

import { test } from "node:test";
import { run } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const MIB = 1024 * 1024;
const skip = requires("fio --version");

function verify(server: Server, args: readonly string[]): Promise<unknown> {
  const common = ["--name=verify", "--ioengine=nbd", `--uri=${server.uri}`, "--verify_fatal=1"];
  // fio would leave its verify state in the current directory.
  common.push("--verify_state_save=0");
  return run("fio", [...common, "--group_reporting", "--minimal", ...args]);
}

const JOBS: Readonly<Record<string, readonly string[]>> = {
  "random 4 KiB writes at depth 32 by crc32c": [
    "--rw=randwrite --bs=4k --iodepth=32 --size=64m --verify=crc32c --do_verify=1",
  ],
  "writes of 512 bytes to 256 KiB on any sector, by sha256": [
    "--rw=randwrite --bsrange=512-256k --blockalign=512 --iodepth=16",
    "--size=64m --verify=sha256 --verify_interval=512 --do_verify=1",
  ],
  "a repeated pattern with the offset in it": [
    "--rw=randwrite --bs=8k --iodepth=16 --size=32m --do_verify=1",
    "--verify=pattern --verify_pattern=0xdeadbeef%o",
  ],
  "writes verified in the background while others are under way": [
    "--rw=randwrite --bs=4k --iodepth=32 --size=64m --verify=crc32c --verify_backlog=256",
  ],
  "four connections, each with its part of the disk": [
    "--rw=randwrite --bs=16k --iodepth=16 --numjobs=4 --size=16m --offset_increment=16m",
    "--verify=crc32c --do_verify=1",
  ],
  "writes into places that were trimmed just before": [
    // One at a time: fio sends a trim and the write into its place without waiting in between.
    "--rw=randtrimwrite --bs=16k --iodepth=1 --size=64m --verify=crc32c --do_verify=1",
  ],
  "sequential writes of 1 MiB by xxhash": [
    "--rw=write --bs=1m --iodepth=8 --size=128m --verify=xxhash --do_verify=1",
  ],
  "a write mix with a flush after every eighth": [
    "--rw=randrw --bs=4k --iodepth=16 --size=32m --fsync=8 --verify=crc32c --do_verify=1",
  ],
};

for (const [name, args] of Object.entries(JOBS)) {
  test(`fio verifies ${name}`, { skip }, async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: 128 * MIB });
    await verify(
      server,
      args.flatMap((part) => part.split(" ")),
    );
  });
}

test("what fio wrote before a kill -9 verifies after the restart", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 128 * MIB });
  const job = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=64m", "--verify=crc32c"];
  await verify(server, [...job, "--do_verify=0", "--end_fsync=1"]);
  await server.kill9();
  await server.restart();
  await verify(server, [...job, "--verify_only=1"]);
});
