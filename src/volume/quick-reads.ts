// SPDX-License-Identifier: Apache-2.0
//
// Whether a small read may hold up the event loop. Out of the system's cache it takes 3 µs, where a trip through the
// thread pool takes 30; from a disk it takes as long as the disk does, and others wait. Nothing tells beforehand, so
// the last reads do: after a slow one the next ones go through the pool, the more of them the more slow ones there were.

/** A read that took longer came from the disk. */
const SLOW_MICROS = 50;
const PAUSE_FIRST = 64;
const PAUSE_MAX = 4096;

export class QuickReads {
  /** Reads to come that don't try. */
  #pause = 0;
  #nextPause = PAUSE_FIRST;
  /** Asked before each read that could be held up for. */
  mayTry(): boolean {
    if (this.#pause === 0) return true;
    this.#pause -= 1;
    return false;
  }

  /** One that tried took so long. */
  took(micros: number): void {
    if (micros <= SLOW_MICROS) {
      this.#nextPause = PAUSE_FIRST;
      return;
    }
    this.#pause = this.#nextPause;
    this.#nextPause = Math.min(PAUSE_MAX, this.#nextPause * 2);
  }
}
