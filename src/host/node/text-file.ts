// SPDX-License-Identifier: Apache-2.0
//
// Small files of text beside the pool's own: configuration, keys, certificates, what `varve attach` must
// remember. Reading is bounded, so that a device or a wrong path doesn't fill memory; writing replaces
// the whole file at once, so that a reader never sees half of it.

import { constants } from "node:fs";
import { mkdir, open, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { diskError } from "../disk-error.ts";
import { fromSystem } from "./disk-file.ts";

const TEXT_BYTES_MAX = 1 << 20;
const PRIVATE_FILE_MODE = 0o600;

/** The file's text, or undefined where there is no such file. */
export async function readText(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const buffer = Buffer.alloc(TEXT_BYTES_MAX + 1);
      let length = 0;
      while (length < buffer.length) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length);
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      if (length > TEXT_BYTES_MAX) {
        const reason = `it has more than ${TEXT_BYTES_MAX} bytes`;
        throw diskError({ operation: "read", path }, "EFBIG", { reason });
      }
      return buffer.toString("utf8", 0, length);
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw fromSystem({ operation: "read", path }, error);
  }
}

/** Whether two paths are on one file system. Throws DISK_IO where one of them isn't there. */
export async function isOnSameFileSystem(path: string, other: string): Promise<boolean> {
  const [first, second] = await Promise.all(
    [path, other].map((one) =>
      stat(one).catch((error: unknown) => {
        throw fromSystem({ operation: "open", path: one }, error);
      }),
    ),
  );
  return first?.dev === second?.dev;
}

/** Replaces the file's text at once, durably. */
export async function writeText(path: string, text: string): Promise<void> {
  const draft = join(dirname(path), `.${process.pid}.draft`);
  try {
    const file = await open(draft, "w", PRIVATE_FILE_MODE);
    try {
      await file.writeFile(text);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw fromSystem({ operation: "write", path }, error);
  }
}

/** Makes a file that wasn't there; false when it was. */
export async function createText(path: string, text: string): Promise<boolean> {
  try {
    const file = await open(path, "wx", PRIVATE_FILE_MODE);
    try {
      await file.writeFile(text);
      await file.datasync();
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw fromSystem({ operation: "create", path }, error);
  }
}

/** Removes a file; one that isn't there is fine. */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw fromSystem({ operation: "remove", path }, error);
  }
}

/** Makes a private directory with its parents; one that is there is fine. */
export async function makePrivateDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw fromSystem({ operation: "create directory", path }, error);
  }
}

/** Removes a directory if it is empty; never anything in it. */
export async function removeEmptyDirectory(path: string): Promise<void> {
  try {
    await rmdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw fromSystem({ operation: "remove directory", path }, error);
  }
}

/** All names in a directory, of whatever kind; undefined where there is no such directory. */
export async function listNames(path: string): Promise<string[] | undefined> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw fromSystem({ operation: "list", path }, error);
  }
}

/** What a path is, following links. */
export async function fileKind(
  path: string,
): Promise<"missing" | "file" | "directory" | "block-device" | "other"> {
  try {
    const stats = await stat(path);
    if (stats.isFile()) return "file";
    if (stats.isDirectory()) return "directory";
    return stats.isBlockDevice() ? "block-device" : "other";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return "missing";
    throw fromSystem({ operation: "stat", path }, error);
  }
}
