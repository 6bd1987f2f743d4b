// SPDX-License-Identifier: Apache-2.0
//
// Turns of the real event loop for the simulator: each step runs in an immediate of its own, and Node runs
// all settled promises between two immediates. They are queued many at a time, which makes a turn cost a
// fraction of a microsecond instead of a trip around the loop.

import type { Pump } from "../../src/sim/scheduler.ts";

const IMMEDIATES_MAX = 64;

let lastRejection: { readonly reason: unknown } | undefined;
process.on("unhandledRejection", (reason) => {
  lastRejection = { reason };
});

/** The simulator's way to run: see Pump. A rejection that nobody handles ends the run. */
export const pump: Pump = (step) =>
  new Promise<void>((resolve, reject) => {
    let isOver = false;
    let immediateCount = 2;
    const turn = (): void => {
      if (isOver) return;
      try {
        const rejection = lastRejection;
        lastRejection = undefined;
        if (rejection !== undefined) throw rejection.reason;
        if (step()) return;
        isOver = true;
        resolve();
      } catch (error) {
        isOver = true;
        reject(error);
      }
    };
    const refill = (): void => {
      if (isOver) return;
      for (let count = 0; count < immediateCount; count++) setImmediate(turn);
      immediateCount = Math.min(IMMEDIATES_MAX, immediateCount * 2);
      setImmediate(refill);
    };
    refill();
  });
