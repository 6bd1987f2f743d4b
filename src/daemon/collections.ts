// SPDX-License-Identifier: Apache-2.0
//
// Garbage collections that somebody asked for. One runs at a time, longer than a request may take: whoever
// began it asks how far it is, and knows it by its number. A collection that the pool began by itself is
// shown too, but has none.

import type { ErrorJson, GcReportJson, GcStatusJson, ProgressJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import type { GcReport, Housekeeping, HousekeepingProgress } from "../pool/types.ts";

export class Collections {
  readonly #pool: Housekeeping;
  #run = 0;
  /** Of the newest run: what it is while it runs, what came of it afterwards. */
  #current: { readonly isDryRun: boolean } | undefined;
  #report: GcReport | undefined;
  #problem: StorageError | undefined;

  constructor(pool: Housekeeping) {
    this.#pool = pool;
  }

  /** Begins one; who asks for the same while it runs takes part in it. Throws BUSY. */
  start(isDryRun: boolean): void {
    if (this.#current !== undefined) {
      if (this.#current.isDryRun === isDryRun) return;
      const [what, other, command] = isDryRun
        ? ["dry run", "collection", "varve gc"]
        : ["collection", "dry run", "varve gc --dry-run"];
      throw new StorageError("BUSY", `pool: ${what} not begun: a ${other} is under way`, {
        hint: `wait for its end with "${command}", then try again`,
      });
    }
    this.#run += 1;
    this.#current = { isDryRun };
    this.#problem = undefined;
    // Anything but a StorageError is a bug, and ends the process as any rejection that nobody waits for.
    void this.#collect(isDryRun);
  }

  status(): GcStatusJson {
    const { gcProgress, lastGc } = this.#pool;
    const isRunning = this.#current !== undefined;
    const report = isRunning || this.#problem !== undefined ? undefined : (this.#report ?? lastGc);
    return {
      run: this.#run,
      isRunning,
      ...(gcProgress === undefined ? {} : { progress: toProgressJson(gcProgress) }),
      ...(report === undefined ? {} : { report: toReportJson(report) }),
      ...(this.#problem === undefined
        ? {}
        : { problem: this.#problem.toJSON() as unknown as ErrorJson }),
    };
  }

  async #collect(isDryRun: boolean): Promise<void> {
    try {
      this.#report = await this.#pool.collect({ isDryRun });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#problem = error;
    } finally {
      this.#current = undefined;
    }
  }
}

export function toProgressJson({
  phase,
  doneBytes,
  totalBytes,
}: HousekeepingProgress): ProgressJson {
  return { phase, doneBytes, totalBytes };
}

function toReportJson({ startedMicros, durationMicros, ...report }: GcReport): GcReportJson {
  return { startedAt: formatTime(startedMicros), durationMs: durationMicros / 1000, ...report };
}
