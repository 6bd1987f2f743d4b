// SPDX-License-Identifier: Apache-2.0
//
// How fast a scrub goes. It works in slices of a few milliseconds, disk reads included. Between two of them it only lets
// others have their turn, while nobody asks for anything; while clients are served it rests for so long that it takes no
// more than its share of the time. The share is of the whole: of the processor and of the disk, whichever it waits for.

import { assert } from "../base/assert.ts";
import type { Clock } from "../host/ports.ts";

export interface PaceOptions {
  readonly clock: Clock;
  /** Any number that changes when clients are served. */
  readonly activity: () => number;
  /** Percent of the time that are taken while clients are served. */
  readonly busySharePercent: number;
}

const SLICE_MICROS = 1000;
/** Calls are rare where each means much work; where they are many, each is little. */
const SLICE_CALLS = 256;
const REST_MS_MAX = 1000;

export class ScrubPace {
  readonly #options: PaceOptions;
  #sliceMicros: number;
  #calls = 0;
  #activity: number;
  #isStopped = false;
  #wake: (() => void) | undefined;
  readonly #stopped: PromiseWithResolvers<void> = Promise.withResolvers<void>();

  constructor(options: PaceOptions) {
    const { busySharePercent } = options;
    assert(busySharePercent >= 1 && busySharePercent <= 100, "a share is 1 to 100 percent");
    this.#options = options;
    this.#sliceMicros = options.clock.monotoneMicros();
    this.#activity = options.activity();
  }

  /** Waits for the work, or until the scrub is stopped. Rejects with ScrubStopped then. */
  async orStopped(work: Promise<void>): Promise<void> {
    await Promise.race([work, this.#stopped.promise]);
    if (this.#isStopped) throw new ScrubStopped();
  }

  /** To be called after each piece of work; what it returns is awaited. Rejects with ScrubStopped. */
  readonly pause = (): Promise<void> | undefined => {
    this.#calls += 1;
    const elapsedMicros = this.#options.clock.monotoneMicros() - this.#sliceMicros;
    const isOver = elapsedMicros >= SLICE_MICROS || this.#calls >= SLICE_CALLS;
    return isOver || this.#isStopped ? this.#rest(elapsedMicros) : undefined;
  };

  /** Ends the scrub at its next pause, and the one that it is in. */
  stop(): void {
    this.#isStopped = true;
    this.#stopped.resolve();
    this.#wake?.();
  }

  async #rest(elapsedMicros: number): Promise<void> {
    const { clock, activity, busySharePercent } = this.#options;
    const now = activity();
    const isBusy = now !== this.#activity;
    this.#activity = now;
    const restMs = isBusy ? (elapsedMicros / 1000) * (100 / busySharePercent - 1) : 0;
    if (!this.#isStopped) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      if (restMs > 0) clock.after(Math.min(REST_MS_MAX, restMs), resolve);
      else clock.afterInput(resolve);
      await promise;
      this.#wake = undefined;
    }
    if (this.#isStopped) throw new ScrubStopped();
    this.#sliceMicros = clock.monotoneMicros();
    this.#calls = 0;
  }
}

/** Ends a scrub from within; nobody else sees it. */
export class ScrubStopped extends Error {
  constructor() {
    super("the scrub was stopped");
  }
}
