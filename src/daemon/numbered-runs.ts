// SPDX-License-Identifier: Apache-2.0
//
// Work that takes longer than a request may: one at a time. Whoever began it asks what came of it, and knows it by its
// number. What came of the newest stays until the next one begins.

import { StorageError } from "../base/errors.ts";

export class NumberedRuns<Asked, Report> {
  /** Of the newest run; 0: there was none. */
  number = 0;
  /** What the one is that is under way. */
  asked: Asked | undefined;
  /** What came of the newest; neither while it runs. */
  report: Report | undefined;
  problem: StorageError | undefined;

  /** Nothing is under way. */
  begin(asked: Asked, work: () => Promise<Report>): void {
    this.number += 1;
    this.asked = asked;
    this.report = undefined;
    this.problem = undefined;
    // Anything but a StorageError is a bug, and ends the process as any rejection that nobody waits for.
    void this.#run(work);
  }

  async #run(work: () => Promise<Report>): Promise<void> {
    try {
      this.report = await work();
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.problem = error;
    } finally {
      this.asked = undefined;
    }
  }
}
