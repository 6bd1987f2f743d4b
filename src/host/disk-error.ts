// SPDX-License-Identifier: Apache-2.0
//
// One spelling for the failures of every disk, real or simulated. The operating system says ENOSPC;
// an operator needs the file, the operation, the position, and what to do. Callers match on the code
// (DISK_FULL: retrying later may work; DISK_IO: everything else) and, where it matters which way an
// operation failed, on `data.errno`.

import { StorageError } from "../base/errors.ts";

export interface DiskOperation {
  readonly operation: string;
  /** The file or directory as an operator knows it. */
  readonly path: string;
  /** For reads, writes and truncations. */
  readonly positionBytes?: number;
  readonly lengthBytes?: number;
}

/** What else to do about failures that aren't the disk's fault. */
const HINTS: Readonly<Record<string, string>> = {
  EACCES: "run varve as the user who owns the pool, or change the owner of its directory",
  EPERM: "run varve as the user who owns the pool, or change the owner of its directory",
  EROFS: "the file system is mounted read-only; look for errors (dmesg), then remount it",
  EMFILE: 'raise the limit on open files ("ulimit -n", or LimitNOFILE in the service)',
  ENFILE: "the machine has no more open files to give (sysctl fs.file-max)",
  ENOENT: "it was removed or never existed; nothing was changed",
  ENOTDIR: "name a directory; nothing was changed",
  EEXIST: "it exists already; nothing was changed",
};

const FULL = new Set(["ENOSPC", "EDQUOT"]);

/** `errno` is the system's name for the failure ("EIO"), `reason` its text. */
export function diskError(
  where: DiskOperation,
  errno: string,
  details: { readonly reason?: string; readonly cause?: unknown } = {},
): StorageError {
  const { operation, path, positionBytes, lengthBytes } = where;
  const length = lengthBytes === undefined ? "" : ` of ${lengthBytes} bytes`;
  const position = positionBytes === undefined ? "" : ` at ${positionBytes}`;
  const reason = details.reason === undefined ? errno : `${details.reason} (${errno})`;
  const hint = HINTS[errno];
  return new StorageError(
    FULL.has(errno) ? "DISK_FULL" : "DISK_IO",
    `"${path}": ${operation}${length}${position} failed: ${reason}`,
    {
      ...(hint === undefined ? {} : { hint }),
      data: { errno, ...where },
      cause: details.cause,
    },
  );
}
