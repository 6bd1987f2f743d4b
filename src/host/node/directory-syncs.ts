// SPDX-License-Identifier: Apache-2.0
//
// fsync of directories, shared: one that begins after a name was made covers it, so all who wait while one is under way
// are served by the next. After a failure the directory is given up: the kernel tells of lost names once and then forgets,
// and a later sync would call durable what isn't.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";

export class DirectorySyncs {
  /** Under way, by path. One that failed stays. */
  readonly #running = new Map<string, Promise<void>>();
  /** Those that begin when the one under way ends. */
  readonly #next = new Map<string, Promise<void>>();

  /** Resolves when all that was done in the directory before the call is durable. */
  sync(path: string): Promise<void> {
    const next = this.#next.get(path);
    if (next !== undefined) return next;
    const running = this.#running.get(path);
    if (running === undefined) return this.#begin(path);
    const following = running.then(() => {
      this.#next.delete(path);
      return this.#begin(path);
    });
    this.#next.set(path, following);
    return following;
  }

  #begin(path: string): Promise<void> {
    const running = this.#run(path).then(() => {
      if (this.#running.get(path) === running) this.#running.delete(path);
    });
    this.#running.set(path, running);
    return running;
  }

  /** What was in a directory that is gone has gone with it: that is its parent's to make durable. */
  async #run(path: string): Promise<void> {
    const parent = dirname(path);
    if (!(await syncDirectory(path)) && parent !== path) await this.sync(parent);
  }
}

/** False: there is no such directory. */
async function syncDirectory(path: string): Promise<boolean> {
  const handle = await openIfThere(path);
  try {
    await handle?.sync();
  } finally {
    await handle?.close();
  }
  return handle !== undefined;
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
