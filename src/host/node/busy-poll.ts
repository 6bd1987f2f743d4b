// SPDX-License-Identifier: Apache-2.0
//
// Keeps the event loop awake for a moment after bytes have come, where the next ones are likely to follow at once.
// A core that sleeps takes 30 to 50 µs to wake in a virtual machine, several times what a request takes; a client that
// has one request in flight pays that for each. (The kernel does the same for itself: "guest halt polling",
// Documentation/virt/guest-halt-polling.rst.)
//
// How long is learnt: bytes that come soon after a sleep began lengthen the wait, bytes that come late shorten it, down
// to none. So a busy client keeps the loop awake, and one that thinks between requests costs nothing.

import { availableParallelism } from "node:os";

/** Never longer awake than this after the last bytes. */
const WAIT_MICROS_MAX = 200;
const WAIT_MICROS_FIRST = 50;
const WAIT_MICROS_MIN = 25;

export class BusyPoll {
  /** Alone on one core it would only keep the client from running. */
  readonly #isUseful: boolean;
  #waitMicros = 0;
  #lastMicros = 0;
  #isAwake = false;
  readonly #turn = (): void => {
    if (nowMicros() - this.#lastMicros < this.#waitMicros) setImmediate(this.#turn);
    else this.#isAwake = false;
  };

  constructor(coreCount: number = availableParallelism()) {
    this.#isUseful = coreCount > 1;
  }

  get isAwake(): boolean {
    return this.#isAwake;
  }

  /** Bytes have come. */
  touch(): void {
    if (!this.#isUseful) return;
    const now = nowMicros();
    const gapMicros = now - this.#lastMicros;
    this.#lastMicros = now;
    if (!this.#isAwake) this.#waitMicros = nextWait(this.#waitMicros, gapMicros);
    if (this.#isAwake || this.#waitMicros === 0) return;
    this.#isAwake = true;
    setImmediate(this.#turn);
  }
}

/** How long to stay awake from now on, after bytes that came `gapMicros` after the last ones and found the loop asleep. */
export function nextWait(waitMicros: number, gapMicros: number): number {
  if (gapMicros <= WAIT_MICROS_MAX)
    return Math.min(WAIT_MICROS_MAX, Math.max(WAIT_MICROS_FIRST, waitMicros * 2));
  return waitMicros / 2 < WAIT_MICROS_MIN ? 0 : waitMicros / 2;
}

function nowMicros(): number {
  return performance.now() * 1000;
}
