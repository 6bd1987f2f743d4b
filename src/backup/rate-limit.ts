// SPDX-License-Identifier: Apache-2.0
//
// Holds a stream to a rate. Who has taken more than is due waits until it is; what wasn't used while nobody asked counts
// for a quarter of a second at most, so a pause is not made up for by a burst.

import type { Clock } from "../host/ports.ts";

const BURST_MICROS = 250_000;

export class RateLimit {
  readonly #clock: Clock;
  readonly #microsPerByte: number;
  /** When what was taken so far is due. */
  #dueMicros: number;

  constructor(clock: Clock, bytesPerSecond: number) {
    this.#clock = clock;
    this.#microsPerByte = 1_000_000 / bytesPerSecond;
    this.#dueMicros = clock.monotoneMicros();
  }

  /** Resolves when so many bytes may go. */
  async take(bytes: number): Promise<void> {
    const now = this.#clock.monotoneMicros();
    this.#dueMicros = Math.max(this.#dueMicros, now - BURST_MICROS) + bytes * this.#microsPerByte;
    const waitMs = (this.#dueMicros - now) / 1000;
    if (waitMs < 1) return;
    await new Promise<void>((resolve) => void this.#clock.after(waitMs, resolve));
  }
}
