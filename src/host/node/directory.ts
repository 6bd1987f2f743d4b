// SPDX-License-Identifier: Apache-2.0
//
// A directory of files over the operating system. Creating, removing and renaming become durable with
// sync(), which is fsync of the directory itself: a file's own datasync doesn't cover its name. Each
// failure says path, operation and reason. Names are plain; only plain files are listed.

import { constants, open as openCallback } from "node:fs";
import { mkdir, open, readdir, rename, stat, statfs, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { assert } from "../../base/assert.ts";
import type { Directory, DiskFile } from "../ports.ts";
import { fromSystem, NodeDiskFile } from "./disk-file.ts";

const openDescriptor = promisify(openCallback);

const OPEN_FLAGS = {
  read: constants.O_RDONLY,
  write: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
} as const;

/** A pool's files hold its users' data: nobody else reads them. */
const FILE_MODE = 0o600;
/** Others must be able to walk to the sockets in it; what they may do there the sockets decide. */
const DIRECTORY_MODE = 0o755;

/** Opens a directory that exists. */
export async function openDirectory(path: string): Promise<Directory> {
  const absolute = resolve(path);
  await attempt("open", absolute, async () => {
    const handle = await open(absolute, constants.O_RDONLY | constants.O_DIRECTORY);
    await handle.close();
  });
  return new NodeDirectory(absolute);
}

/** Makes a directory, with its parents where they are missing, durably. One that exists is fine. */
export async function makeDirectory(path: string): Promise<Directory> {
  const absolute = resolve(path);
  const first = await attempt("create directory", absolute, () =>
    mkdir(absolute, { recursive: true, mode: DIRECTORY_MODE }),
  );
  // `first` is the topmost directory that was missing: each one made is an entry of its parent.
  if (first !== undefined) {
    for (let made = absolute; made.length >= first.length; made = dirname(made)) {
      await new NodeDirectory(dirname(made)).sync();
    }
  }
  return openDirectory(absolute);
}

/** What stands at `path`, for messages like "not a pool". */
export async function pathKind(path: string): Promise<"missing" | "directory" | "other"> {
  return attempt("stat", resolve(path), async () => {
    try {
      return (await stat(path)).isDirectory() ? "directory" : "other";
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return "missing";
      throw error;
    }
  });
}

class NodeDirectory implements Directory {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async list(): Promise<string[]> {
    const entries = await attempt("list", this.#path, () =>
      readdir(this.#path, { withFileTypes: true }),
    );
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => entry.name)
      .sort();
  }

  async open(name: string, mode: "read" | "write" | "create"): Promise<DiskFile> {
    const path = this.#pathOf(name);
    const operation = mode === "create" ? "create" : "open";
    const descriptor = await attempt(operation, path, () =>
      openDescriptor(path, OPEN_FLAGS[mode], FILE_MODE),
    );
    return new NodeDiskFile(descriptor, path);
  }

  async remove(name: string): Promise<void> {
    const path = this.#pathOf(name);
    await attempt("remove", path, () => unlink(path));
  }

  async rename(from: string, to: string): Promise<void> {
    const path = this.#pathOf(from);
    const target = this.#pathOf(to);
    await attempt(`rename to "${to}"`, path, () => rename(path, target));
  }

  async sync(): Promise<void> {
    await attempt("sync directory", this.#path, async () => {
      const handle = await open(this.#path, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        await handle.sync();
      } finally {
        await handle.close();
      }
    });
  }

  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await attempt("statfs", this.#path, () => statfs(this.#path));
    return bavail * bsize;
  }

  #pathOf(name: string): string {
    assert(/^(?!\.{1,2}$)[^/\0]+$/.test(name), "a file of a directory has a plain name");
    return join(this.#path, name);
  }
}

async function attempt<T>(operation: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw fromSystem({ operation, path }, error);
  }
}
