// SPDX-License-Identifier: Apache-2.0
//
// A real file system on a disk of the server under test, through its life and through a crash of the
// server. The life: made, filled with a real tree, compared, trimmed, unmounted, checked, served by a new
// process, checked and compared again. The crash: the server is killed with -9 while files are being
// written; then the journal is replayed, what was synced is there, and the check finds nothing.

import { match } from "node:assert/strict";
import { test } from "node:test";
import { delay, run } from "./command.ts";
import { REAL_TREE } from "./content.ts";
import { LOOP_DISK_NEEDS, LoopDisk } from "./loop-disk.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const SIZE_BYTES = 640 * 1024 * 1024;

export interface FileSystemKind {
  readonly name: string;
  readonly make: readonly string[];
  /** Reads only, and fails if anything is wrong; the device is appended. */
  readonly check: readonly string[];
  readonly needs: readonly string[];
}

export function fileSystemSuite(kind: FileSystemKind): void {
  const skip = requires(...LOOP_DISK_NEEDS, ...kind.needs);
  const checked = (disk: LoopDisk): Promise<unknown> => apply(kind.check, disk);

  test(`${kind.name} is made, filled, trimmed, checked and found again`, { skip }, async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE_BYTES });
    const first = await LoopDisk.attach(scratch, server.uri);
    await apply(kind.make, first);
    await first.mount("noatime");
    await copy(`${first.mountPoint}/tree`);
    await compare(`${first.mountPoint}/tree`);
    await copy(`${first.mountPoint}/half`);
    await run("sync", ["-f", first.mountPoint]);
    await run("rm", ["-r", `${first.mountPoint}/half`]);
    await run("sync", ["-f", first.mountPoint]);
    await run("mountpoint", ["-q", first.mountPoint]);
    match((await run("fstrim", ["-v", first.mountPoint])).stdout, /[1-9].* trimmed/);
    await compare(`${first.mountPoint}/tree`);
    await first.unmount();
    await checked(first);
    await first.detach();

    await server.stop();
    await server.restart();
    const second = await LoopDisk.attach(scratch, server.uri);
    await checked(second);
    await second.mount("ro");
    await compare(`${second.mountPoint}/tree`);
    await second.detach();
  });

  test(`${kind.name} survives a kill -9 of the server in mid-write`, { skip }, async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE_BYTES });
    const first = await LoopDisk.attach(scratch, server.uri);
    await apply(kind.make, first);
    await first.mount("noatime");
    await copy(`${first.mountPoint}/synced`);
    await run("sync", ["-f", first.mountPoint]);
    const writing = writeUntilFailure(first.mountPoint);
    await delay(700);
    await server.kill9();
    await writing;
    await first.detach();

    await server.restart();
    const second = await LoopDisk.attach(scratch, server.uri);
    await second.mount("noatime"); // replays the journal
    await compare(`${second.mountPoint}/synced`);
    await copy(`${second.mountPoint}/after`);
    await second.unmount();
    await checked(second);
    await second.mount("ro");
    await compare(`${second.mountPoint}/synced`);
    await compare(`${second.mountPoint}/after`);
    await second.detach();
  });
}

function apply(command: readonly string[], disk: LoopDisk): Promise<unknown> {
  const [program, ...args] = command;
  return run(program!, [...args, disk.device]);
}

function copy(target: string): Promise<unknown> {
  return run("cp", ["-a", REAL_TREE, target]);
}

function compare(target: string): Promise<unknown> {
  return run("diff", ["-r", "--no-dereference", REAL_TREE, target]);
}

/** Copies and syncs without pause, until the disk is gone. */
async function writeUntilFailure(directory: string): Promise<void> {
  for (let copyNumber = 0; copyNumber < 8; copyNumber++) {
    const script = 'mountpoint -q "$1" && cp -a "$2" "$1/$3" && sync -f "$1" && rm -r "$1/$3"';
    const args = ["-c", script, "sh", directory, REAL_TREE, `unsynced-${copyNumber}`];
    const { status } = await run("sh", args, { accept: [0, 1, 2] });
    if (status !== 0) return;
  }
  throw new Error("the disk took everything: the server was killed too late");
}
