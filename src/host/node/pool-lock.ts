// SPDX-License-Identifier: Apache-2.0
//
// One writer per pool. The lock is the kernel's flock on a file `lock` in the pool's directory: it ends
// with the process that holds it, however that dies, so there is no stale lock to clean up and no pid to
// guess from. The runtime has no flock of its own; the program of util-linux takes it on a descriptor
// that it inherits, and because the lock belongs to the open file and not to a process, it stays when
// that program ends. The pid in the file is only for messages. The file itself is never removed: a
// second daemon could then lock a file that has lost its name.

import { spawnSync } from "node:child_process";
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { diskError } from "../disk-error.ts";
import { fromSystem } from "./disk-file.ts";

export interface PoolLock {
  release(): void;
}

/** The descriptor as the child sees it: the first one after stdin, stdout and stderr. */
const INHERITED = 3;
/** flock's exit code when another open file holds the lock. */
const EXIT_CONFLICT = 1;
const PID_WIDTH = 10;

/** Locks the pool in the directory `path` for this process, or throws POOL_LOCKED. */
export function lockPool(path: string): PoolLock {
  const file = join(resolve(path), "lock");
  return lockFile(file, (holder, data) => {
    return new StorageError("POOL_LOCKED", `"${file}": lock refused: ${holder} holds it`, { data });
  });
}

/** Says who holds a lock: "process 123", and the pid where it is known. */
type Refusal = (holder: string, data: { readonly pid?: number }) => StorageError;

/** Locks a file for this process, or throws what `refusal` makes. The file is made if need be, and stays. */
export function lockFile(file: string, refusal: Refusal): PoolLock {
  const descriptor = openLockFile(file);
  try {
    takeLock(file, descriptor, refusal);
    writeHolder(descriptor);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  let isHeld = true;
  return {
    release: () => {
      if (isHeld) closeSync(descriptor);
      isHeld = false;
    },
  };
}

function openLockFile(file: string): number {
  try {
    return openSync(file, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EROFS") {
      throw fromSystem({ operation: "open", path: file }, error);
    }
  }
  // Looking at a pool on a read-only file system is how one looks after a disk went bad.
  try {
    return openSync(file, constants.O_RDONLY);
  } catch (error) {
    throw fromSystem({ operation: "open", path: file }, error);
  }
}

function takeLock(file: string, descriptor: number, refusal: Refusal): void {
  const run = spawnSync("flock", ["-x", "-n", String(INHERITED)], {
    stdio: ["ignore", "ignore", "pipe", descriptor],
    encoding: "utf8",
  });
  if (run.status === 0) return;
  if (run.status === EXIT_CONFLICT) throw refused(descriptor, refusal);
  const isMissing = (run.error as NodeJS.ErrnoException | undefined)?.code === "ENOENT";
  if (isMissing) {
    throw new StorageError("PROGRAM_MISSING", `"${file}": lock failed: there is no program flock`, {
      hint: "install it: apt-get install util-linux",
      cause: run.error,
    });
  }
  const reason = run.stderr?.trim() || run.error?.message || `flock ended with ${run.status}`;
  throw diskError({ operation: "lock", path: file }, "ENOLCK", { reason, cause: run.error });
}

function refused(descriptor: number, refusal: Refusal): StorageError {
  const bytes = Buffer.alloc(16);
  const text = bytes.toString("latin1", 0, readSync(descriptor, bytes, 0, bytes.length, 0));
  const pid = /^\d+/.exec(text)?.[0];
  const holder = pid === undefined ? "another process" : `process ${pid}`;
  return refusal(holder, pid === undefined ? {} : { pid: Number(pid) });
}

/** In place and in one width, so that it needs no new block where the disk is full. */
function writeHolder(descriptor: number): void {
  try {
    writeSync(descriptor, `${String(process.pid).padEnd(PID_WIDTH)}\n`, 0);
  } catch {
    // The disk is full or read-only. The lock is held all the same; only messages will lack the pid.
  }
}
