// SPDX-License-Identifier: Apache-2.0
//
// The Debian packages that tests, tour and benchmark use, each with a program that shows whether it is
// there. `npm test` installs what is missing when it may (apt-get, root), and otherwise prints the
// command; a test that needs a program which isn't there skips itself and says so.

import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

const PACKAGES: readonly (readonly [debian: string, program: string])[] = [
  ["nbdkit", "nbdkit"],
  ["libnbd-bin", "nbdfuse"],
  ["python3-libnbd", "nbdsh"],
  ["nbd-client", "nbd-client"],
  ["nbd-server", "nbd-trplay"],
  ["fio", "fio"],
  ["qemu-utils", "qemu-img"],
  ["qemu-system-common", "qemu-storage-daemon"],
  ["fuse3", "fusermount3"],
  ["e2fsprogs", "mkfs.ext4"],
  ["xfsprogs", "mkfs.xfs"],
  ["btrfs-progs", "mkfs.btrfs"],
  ["sqlite3", "sqlite3"],
  ["openssl", "openssl"],
  ["gnutls-bin", "psktool"],
  ["util-linux", "prlimit"],
  ["mount", "losetup"],
  ["groff-base", "groff"],
];

/** Says what the tests use and installs what is missing, if this process may. */
export function providePackages(): void {
  console.log(`Debian packages that the tests use: ${PACKAGES.map(([name]) => name).join(" ")}`);
  const missing = missingPackages();
  if (missing.length === 0) return;
  const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  if (process.getuid?.() !== 0 || findProgram("apt-get") === undefined) {
    console.log(`missing: ${missing.join(" ")}; tests that need them will be skipped.`);
    console.log(`to run them all, as root: apt-get update && ${command}`);
    return;
  }
  console.log(`installing: ${missing.join(" ")}`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const options = { env, input: "", encoding: "utf8" as const };
  // Stale lists are the usual reason for a failed installation; a failed update alone is no reason.
  spawnSync("apt-get", ["update", "-qq"], options);
  const [program, ...args] = command.split(" ");
  const run = spawnSync(program!, args, options);
  const still = missingPackages();
  if (still.length > 0) {
    console.log(`${run.stdout}${run.stderr}`);
    console.log(
      `could not be installed: ${still.join(" ")}; tests that need them will be skipped.`,
    );
  }
}

/** The full path of a program, looked for where daemons and administrators have theirs too. */
export function findProgram(name: string, path: string = searchPath()): string | undefined {
  return path
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function missingPackages(): string[] {
  return PACKAGES.filter(([, program]) => findProgram(program) === undefined).map(([name]) => name);
}

function searchPath(): string {
  return `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;
}
