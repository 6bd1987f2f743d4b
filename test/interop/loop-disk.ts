// SPDX-License-Identifier: Apache-2.0
//
// An export as a block device of this machine, without any NBD in the kernel: nbdfuse shows it as a file,
// a loop device makes a disk of that file, a file system is made and mounted on it. Each step is taken
// back in reverse order and checked, since a loop that still holds the file leaves a dead mount behind,
// and a command meant for a mount that isn't there hits the machine's own file system.

import { type ChildProcess, spawn } from "node:child_process";
import { accessSync } from "node:fs";
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { closed, programEnv, run, until } from "./command.ts";
import type { Need } from "./requires.ts";
import { mountsBelow, type Scratch } from "./scratch.ts";

export const LOOP_DISK_NEEDS: readonly (string | Need)[] = [
  { what: "root", isMet: process.getuid?.() === 0 },
  { what: "/dev/fuse", isMet: exists("/dev/fuse") },
  { what: "/dev/loop-control", isMet: exists("/dev/loop-control") },
  "nbdfuse --version",
  "losetup --version",
  "fusermount3 --version",
];

function exists(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
}

export class LoopDisk {
  readonly device: string;
  readonly mountPoint: string;
  readonly #fuseDirectory: string;
  readonly #fuse: ChildProcess;
  readonly #fuseEnded: Promise<number>;
  #isAttached = true;

  private constructor(
    directory: string,
    { device, fuse, ended }: { device: string; fuse: ChildProcess; ended: Promise<number> },
  ) {
    this.device = device;
    this.mountPoint = join(directory, "fs");
    this.#fuseDirectory = join(directory, "fuse");
    this.#fuse = fuse;
    this.#fuseEnded = ended;
  }

  /** Shows the export as a loop device below `name`; `scratch` takes it down again at the latest. */
  static async attach(scratch: Scratch, uri: string, name = "disk"): Promise<LoopDisk> {
    const directory = scratch.path(name);
    const file = join(directory, "fuse", "nbd");
    await mkdir(join(directory, "fuse"), { recursive: true });
    await mkdir(join(directory, "fs"), { recursive: true });
    const fuse = spawn("nbdfuse", [join(directory, "fuse"), uri], {
      env: programEnv(),
      stdio: "ignore",
    });
    const ended = closed(fuse);
    try {
      await until("nbdfuse shows the disk", async () => {
        if (fuse.exitCode !== null) throw new Error(`nbdfuse ended with status ${fuse.exitCode}`);
        return await stat(file).then(
          () => true,
          () => false,
        );
      });
      const { stdout } = await run("losetup", ["--direct-io=on", "--find", "--show", file]);
      const disk = new LoopDisk(directory, { device: stdout.trim(), fuse, ended });
      scratch.defer(`the loop device ${disk.device}`, () => disk.detach());
      return disk;
    } catch (error) {
      await run("fusermount3", ["-u", join(directory, "fuse")], { accept: [0, 1] });
      fuse.kill();
      await ended;
      throw error;
    }
  }

  async mount(options: string): Promise<void> {
    await run("mount", ["-o", options, this.device, this.mountPoint]);
    if (!(await this.isMounted())) throw new Error(`${this.mountPoint} isn't a mount point`);
  }

  async isMounted(): Promise<boolean> {
    return (await mountsBelow(this.mountPoint)).length > 0;
  }

  /** Unmounts; a file system whose disk is gone complains and is unmounted all the same. */
  async unmount(): Promise<void> {
    await until(
      `${this.mountPoint} is unmounted`,
      async () => {
        if (await this.isMounted()) await run("umount", [this.mountPoint], { accept: [0, 32] });
        return !(await this.isMounted());
      },
      { timeoutMs: 30_000, everyMs: 100 },
    );
  }

  /** Mount, loop device, FUSE: in this order, each only once the one before is surely gone. */
  async detach(): Promise<void> {
    if (!this.#isAttached) return;
    await this.unmount();
    await run("losetup", ["-d", this.device]);
    await until(`${this.device} is free`, async () => {
      const { stdout } = await run("losetup", ["--list", "--noheadings", "--output=NAME"]);
      return !stdout.split("\n").includes(this.device);
    });
    await until(`${this.#fuseDirectory} is unmounted`, async () => {
      if ((await mountsBelow(this.#fuseDirectory)).length === 0) return true;
      await run("fusermount3", ["-u", this.#fuseDirectory], { accept: [0, 1] });
      return false;
    });
    this.#isAttached = false;
    await this.#fuseEnded;
    this.#fuse.unref();
  }
}
