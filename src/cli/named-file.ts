// SPDX-License-Identifier: Apache-2.0
//
// Files that the user names: images, configuration. What the system says about a wrong name is true of a
// sick disk as well, and below here it is taken for that; but a directory in the place of a file is a wrong
// argument, and the user's next step is another one than dmesg and smartctl.

import { basename, dirname } from "node:path";
import { type ErrorCode, StorageError } from "../base/errors.ts";
import { openDirectory } from "../host/node/directory.ts";
import { PROCESS_ID } from "../host/node/process-usage.ts";
import { fileKind } from "../host/node/text-file.ts";
import type { DiskFile } from "../host/ports.ts";

interface Answer {
  readonly code: ErrorCode;
  readonly why: string;
  readonly hint: string;
}

const NOT_YOURS: Answer = {
  code: "ACCESS_DENIED",
  why: "you may not",
  hint: "see its rights and those of the directories above it: namei -l FILE",
};

const ANSWERS: Readonly<Record<string, Answer>> = {
  ENOENT: {
    code: "IMAGE_NOT_FOUND",
    why: "there is no such file or directory",
    hint: "name a file that exists, or '-' for stdin",
  },
  ENOTDIR: {
    code: "IMAGE_NOT_FOUND",
    why: "what stands in place of its directory is none",
    hint: "see what the path names: namei FILE",
  },
  EISDIR: { code: "IMAGE_UNSUPPORTED", why: "it is a directory", hint: "name a file" },
  EACCES: NOT_YOURS,
  EPERM: NOT_YOURS,
};

/** Runs what opens `path`; an error that is the name's fault says so. `what` is "image "x": not read". */
export async function opening<T>(what: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw error instanceof StorageError ? nameError(what, error) : error;
  }
}

function nameError(what: string, error: StorageError): StorageError {
  const answer = ANSWERS[String(error.data.errno)];
  if (answer === undefined || error.code !== "DISK_IO") return error;
  const { code, why, hint } = answer;
  return new StorageError(code, `${what}: ${why}`, { hint, cause: error });
}

/** Opens it for reading. */
export function openNamed(path: string): Promise<DiskFile> {
  return opening(`image "${path}": not read`, async () => {
    const directory = await openDirectory(dirname(path));
    return directory.open(basename(path), "read");
  });
}

/** Throws unless `image` can be read at any position. */
export async function checkReadable(image: string): Promise<void> {
  const what = `image "${image}": not read`;
  const kind = await opening(what, () => fileKind(image));
  if (kind === "missing") {
    throw new StorageError("IMAGE_NOT_FOUND", `${what}: there is no such file`);
  }
  if (kind === "file" || kind === "block-device") return;
  const why =
    kind === "directory" ? "it is a directory" : "it is neither a file nor a block device";
  throw new StorageError("IMAGE_UNSUPPORTED", `${what}: ${why}`, {
    hint: "name a file or a block device, or '-' for stdin",
  });
}

/** Throws unless the directory that `image` is to be made in is there. */
export async function checkPlaceFor(image: string): Promise<void> {
  const place = dirname(image);
  const what = `image "${image}": not written`;
  if ((await opening(what, () => fileKind(place))) === "directory") return;
  throw new StorageError("IMAGE_NOT_FOUND", `${what}: there is no directory "${place}"`, {
    hint: `make it first: mkdir -p ${place}`,
  });
}

/** Writes a file that has its name only when it is complete and durable. Throws IMAGE_EXISTS unless it may be replaced. */
export async function writeNamed(
  named: { readonly what: string; readonly path: string; readonly isForced: boolean },
  write: (file: DiskFile) => Promise<void>,
): Promise<void> {
  const { path, isForced } = named;
  const what = `${named.what} "${path}": not written`;
  if ((await opening(what, () => fileKind(path))) !== "missing" && !isForced)
    throw new StorageError("IMAGE_EXISTS", `${what}: it exists`);
  await checkPlaceFor(path);
  const directory = await opening(what, () => openDirectory(dirname(path)));
  const draft = `.${basename(path)}.${PROCESS_ID}.partial`;
  const file = await opening(what, () => directory.open(draft, "create"));
  try {
    try {
      await write(file);
      await file.datasync();
    } finally {
      await file.close();
    }
    await directory.rename(draft, basename(path));
    await directory.sync();
  } catch (error) {
    await directory.remove(draft);
    throw error;
  }
}
