// SPDX-License-Identifier: Apache-2.0
//
// Garbage collections that somebody asked for. One runs at a time, longer than a request may take: whoever
// began it asks how far it is, and knows it by its number. A collection that the pool began by itself is
// shown too, but has none.

import type { ErrorJson, GcReportJson, GcStatusJson, ProgressJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import type { GcReport, Housekeeping, HousekeepingProgress } from "../pool/types.ts";
import { NumberedRuns } from "./numbered-runs.ts";

export class Collections {
  readonly #pool: Housekeeping;
  readonly #runs: NumberedRuns<{ readonly isDryRun: boolean }, GcReport> = new NumberedRuns();

  constructor(pool: Housekeeping) {
    this.#pool = pool;
  }

  /** Begins one; who asks for the same while it runs takes part in it. Throws BUSY. */
  start(isDryRun: boolean): void {
    const { asked } = this.#runs;
    if (asked !== undefined) {
      if (asked.isDryRun === isDryRun) return;
      const [what, other, command] = isDryRun
        ? ["dry run", "collection", "varve gc"]
        : ["collection", "dry run", "varve gc --dry-run"];
      throw new StorageError("BUSY", `pool: ${what} not begun: a ${other} is under way`, {
        hint: `wait for its end with "${command}", then try again`,
      });
    }
    this.#runs.begin({ isDryRun }, () => this.#pool.collect({ isDryRun }));
  }

  status(): GcStatusJson {
    const { gcProgress, lastGc } = this.#pool;
    const { number, asked, problem } = this.#runs;
    const isRunning = asked !== undefined;
    const report = isRunning || problem !== undefined ? undefined : (this.#runs.report ?? lastGc);
    return {
      run: number,
      isRunning,
      ...(gcProgress === undefined ? {} : { progress: toProgressJson(gcProgress) }),
      ...(report === undefined ? {} : { report: toReportJson(report) }),
      ...(problem === undefined ? {} : { problem: problem.toJSON() as unknown as ErrorJson }),
    };
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
