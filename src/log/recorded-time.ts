// SPDX-License-Identifier: Apache-2.0
//
// Recorded time: the time that history goes by. It follows the wall clock but never goes back: when the
// wall clock is behind what was already recorded, recorded time goes on at half speed until the wall has
// caught up, so that two moments are never in the wrong order and no second holds an hour of writes.
// A step is a difference of more than a second between what the two clocks say has passed.

import type { Clock } from "../host/ports.ts";

const STEP_MICROS = 1_000_000;

export class RecordedTime {
  readonly #clock: Clock;
  #wallMicros: number;
  #monotoneMicros: number;
  #recordedMicros: number;
  #stepMicros = 0;
  /** The newest time handed out: recorded time never falls below it. */
  #newestMicros = 0;

  /** `floorMicros`: the newest time that the log already holds. */
  constructor(clock: Clock, floorMicros: number) {
    this.#clock = clock;
    this.#wallMicros = Math.floor(clock.wallMicros());
    this.#monotoneMicros = Math.floor(clock.monotoneMicros());
    this.#recordedMicros = Math.max(this.#wallMicros, floorMicros);
  }

  get wallMicros(): number {
    return this.#wallMicros;
  }
  get monotoneMicros(): number {
    return this.#monotoneMicros;
  }
  get recordedMicros(): number {
    return this.#recordedMicros;
  }

  /** Of the last record. */
  get newestMicros(): number {
    return Math.max(this.#newestMicros, this.#recordedMicros);
  }

  /** Reads both clocks. Afterwards the getters tell this instant. */
  advance(): void {
    const wall = Math.floor(this.#clock.wallMicros());
    const monotone = Math.floor(this.#clock.monotoneMicros());
    const elapsed = Math.max(0, monotone - this.#monotoneMicros);
    const step = wall - this.#wallMicros - elapsed;
    if (Math.abs(step) > STEP_MICROS) this.#stepMicros += step;
    this.#wallMicros = wall;
    this.#monotoneMicros = monotone;
    this.#recordedMicros = Math.max(
      wall,
      this.#recordedMicros + Math.floor(elapsed / 2),
      this.#newestMicros,
    );
  }

  /** µs since `advance()`, for a record's offset: up to 71 minutes; 0 while the wall clock is behind. */
  offsetMicros(): number {
    if (this.#recordedMicros > this.#wallMicros) return 0;
    const offset = Math.min(
      0xffffffff,
      Math.max(0, Math.floor(this.#clock.monotoneMicros() - this.#monotoneMicros)),
    );
    this.#newestMicros = Math.max(this.#newestMicros, this.#recordedMicros + offset);
    return offset;
  }

  /** The wall clock's jumps since the last call, in µs (negative: back); 0 for none. */
  takeStepMicros(): number {
    const step = this.#stepMicros;
    this.#stepMicros = 0;
    return step;
  }
}
