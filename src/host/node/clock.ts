// SPDX-License-Identifier: Apache-2.0
//
// The real clock. The runtime offers wall time in milliseconds and monotone time in nanoseconds; Varve
// wants microseconds of both. So wall time is the monotone clock plus an offset, and the offset is
// corrected whenever it disagrees with the millisecond clock: microseconds in between, and a step of the
// machine's clock is seen within a millisecond. Monotone time counts from the machine's boot (time in
// suspend excluded), so that it can be compared across restarts of the daemon.

import type { Clock } from "../ports.ts";

/** Longest delay that a timer of the runtime can hold; longer ones are cut into pieces of this. */
const DELAY_MS_MAX = 0x7fff_ffff;

export function createClock(): Clock {
  // performance.now() reads the same clock as hrtime() but begins with the process.
  const [seconds, nanoseconds] = process.hrtime();
  const originMicros = seconds * 1e6 + nanoseconds / 1e3 - performance.now() * 1e3;
  const monotoneMicros = (): number => Math.floor(originMicros + performance.now() * 1e3);
  const wall = new WallMicros();
  return {
    wallMicros: () => wall.at(Date.now(), monotoneMicros()),
    monotoneMicros,
    after,
    afterInput: (callback) => {
      setImmediate(callback);
    },
  };
}

/** Wall time in microseconds from a millisecond clock that may step and a monotone one that doesn't. */
export class WallMicros {
  /** Wall minus monotone. Moves only when the two clocks drift apart. */
  #offsetMicros = Number.NaN;

  at(wallMs: number, monotoneMicros: number): number {
    const least = wallMs * 1000;
    const guess = monotoneMicros + this.#offsetMicros;
    if (guess >= least && guess < least + 1000) return guess;
    // The true time is within this millisecond: move to its nearer edge.
    const micros = guess >= least + 1000 && guess < least + 2000 ? least + 999 : least;
    this.#offsetMicros = micros - monotoneMicros;
    return micros;
  }
}

function after(delayMs: number, callback: () => void): () => void {
  let remainingMs = Math.max(0, delayMs);
  let timer: NodeJS.Timeout;
  const arm = (): void => {
    const pieceMs = Math.min(remainingMs, DELAY_MS_MAX);
    remainingMs -= pieceMs;
    timer = setTimeout(remainingMs > 0 ? arm : callback, pieceMs);
  };
  arm();
  return () => clearTimeout(timer);
}
