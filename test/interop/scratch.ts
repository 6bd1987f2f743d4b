// SPDX-License-Identifier: Apache-2.0
//
// A directory for one test, and the promise that everything put up in it comes down again, in reverse
// order, whatever happens: servers, loop devices, mounts. It is only removed when nothing is mounted
// below it any more, for a removal that runs into a mounted disk would empty that disk.
//
//   await using scratch = await Scratch.create();
//   scratch.defer("server", () => server.stop());

import { mkdtemp, readFile, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

interface Cleanup {
  readonly what: string;
  readonly run: () => Promise<unknown>;
}

export class Scratch implements AsyncDisposable {
  readonly directory: string;
  readonly #cleanups: Cleanup[] = [];

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(parent: string = tmpdir()): Promise<Scratch> {
    return new Scratch(await mkdtemp(join(await realpath(parent), "varve-")));
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Has `run` called at the end, before everything that was deferred earlier. */
  defer(what: string, run: () => Promise<unknown>): void {
    this.#cleanups.push({ what, run });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const failures: Error[] = [];
    for (let cleanup = this.#cleanups.pop(); cleanup; cleanup = this.#cleanups.pop()) {
      try {
        await cleanup.run();
      } catch (cause) {
        failures.push(new Error(`clean-up of ${cleanup.what} failed`, { cause }));
      }
    }
    const mounts = await mountsBelow(this.directory);
    if (mounts.length > 0) {
      failures.push(new Error(`still mounted, so left in place: ${mounts.join(", ")}`));
    } else {
      await rm(this.directory, { recursive: true, force: true });
    }
    if (failures.length > 0) throw new AggregateError(failures, `clean-up of ${this.directory}`);
  }
}

/** Mount points at or below `directory`. */
export async function mountsBelow(directory: string): Promise<string[]> {
  const table = await readFile("/proc/self/mounts", "utf8");
  return table
    .split("\n")
    .map((line) => (line.split(" ")[1] ?? "").replaceAll("\\040", " "))
    .filter((mount) => mount === directory || mount.startsWith(`${directory}/`));
}
