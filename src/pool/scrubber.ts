// SPDX-License-Identifier: Apache-2.0
//
// Scrubs on request, one at a time, and keeps the report of the last one. What a scrub finds counts as damage that the
// pool has met, like what a request meets; events tell when it begins, what it finds, and how it ended.

import { hasCode, StorageError } from "../base/errors.ts";
import { Scrub, type ScrubOptions } from "../gc/scrub.ts";
import type { Tell } from "./bounded-events.ts";
import type { Damage } from "./damage.ts";
import { findingOfFrame } from "./frame-finding.ts";
import type { ScrubProblem, ScrubReport, ScrubStatistics, ScrubStatus } from "./types.ts";

export interface ScrubberOptions
  extends Omit<ScrubOptions, "onFrame" | "onProblem" | "busySharePercent"> {
  readonly busySharePercent: number | undefined;
  readonly damage: Damage;
  /** The volume of a branch. */
  readonly nameOf: (branch: number) => string | undefined;
  readonly tell: Tell;
}

/** Of the time, while clients are served: who scrubs at noon shouldn't be felt, and a terabyte takes a night. */
const BUSY_SHARE_PERCENT = 25;
/** Of a disk that is lost there would be millions. */
const PROBLEMS_MAX = 100;

export class Scrubber {
  readonly #options: ScrubberOptions;
  #scrub: Scrub | undefined;
  #problems: ScrubProblem[] = [];
  #problemCount = 0;
  #running: Promise<void> = Promise.resolve();
  #report: ScrubReport | undefined;
  #statistics: ScrubStatistics = { completedCount: 0, checkedBytes: 0, problemCount: 0 };

  constructor(options: ScrubberOptions) {
    this.#options = options;
  }

  /** Nothing when one runs. */
  start(): void {
    if (this.#scrub !== undefined) return;
    this.#problems = [];
    this.#problemCount = 0;
    const scrub = new Scrub({
      ...this.#options,
      busySharePercent: this.#options.busySharePercent ?? BUSY_SHARE_PERCENT,
      onFrame: (frame) => {
        this.#options.damage.frameDamaged(frame);
        this.#add(findingOfFrame(frame, this.#options.nameOf));
      },
      onProblem: (problem) => {
        this.#options.damage.scrubFound(problem);
        this.#add(problem);
      },
    });
    this.#scrub = scrub;
    this.#running = this.#run(scrub);
  }

  stop(): void {
    this.#scrub?.stop();
  }

  /** Resolves when none runs any more. */
  async close(): Promise<void> {
    this.stop();
    await this.#running;
  }

  get status(): ScrubStatus {
    const report = this.#report;
    if (this.#scrub === undefined) return { progress: undefined, report };
    const { phase, doneBytes, totalBytes } = this.#scrub;
    const problemCount = this.#problemCount;
    return { progress: { phase, doneBytes, totalBytes, problemCount }, report };
  }

  get statistics(): ScrubStatistics {
    return this.#statistics;
  }

  async #run(scrub: Scrub): Promise<void> {
    const { clock, tell } = this.#options;
    const startedMicros = Math.floor(clock.wallMicros());
    const begin = clock.monotoneMicros();
    tell("info", "scrub.began", {});
    const isComplete = await scrub.run().catch((error: unknown) => this.#failed(error));
    const { segmentsChecked, framesChecked, bytesChecked } = scrub;
    const { completedCount, checkedBytes } = this.#statistics;
    const problemCount = this.#problemCount;
    this.#scrub = undefined;
    this.#report = {
      startedMicros,
      durationMicros: Math.floor(clock.monotoneMicros() - begin),
      isComplete,
      segmentsChecked,
      framesChecked,
      bytesChecked,
      problemCount,
      problems: this.#problems,
    };
    this.#statistics = {
      completedCount: completedCount + (isComplete ? 1 : 0),
      checkedBytes: checkedBytes + bytesChecked,
      problemCount: this.#statistics.problemCount + problemCount,
    };
    const { problems: _problems, ...fields } = this.#report;
    tell(problemCount > 0 ? "error" : "info", "scrub.ended", fields);
  }

  /** It ended because the pool did, or because the directory can't be read. */
  #failed(error: unknown): false {
    if (!(error instanceof StorageError)) throw error;
    if (!hasCode(error, "POOL_STOPPED")) {
      const { code, message, data } = error;
      this.#add({ code, message, data });
    }
    return false;
  }

  #add(problem: ScrubProblem): void {
    this.#problemCount += 1;
    if (this.#problems.length < PROBLEMS_MAX) this.#problems.push(problem);
  }
}
