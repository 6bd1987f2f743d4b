// SPDX-License-Identifier: Apache-2.0
//
// "Ten minutes ago" by a clock that was set five minutes ago: people mean time that has passed, records carry recorded
// time. This keeps, for one run of the daemon, how the two went together, as points between which they went side by
// side. A new point is needed only when they have drifted apart: at a step of the wall clock, or after days of slewing.

import { assert } from "../base/assert.ts";
import type { Clock } from "../host/ports.ts";

/** Both clocks at one instant. */
export interface TimePoint {
  readonly monotoneMicros: number;
  readonly recordedMicros: number;
}

/** "-10m" is as exact as that. */
const DRIFT_MICROS = 100_000;
/** A clock that is behind is caught up at half speed: some minutes of it, in points. The oldest are left out first. */
const POINTS_MAX = 4096;

export class ElapsedTime {
  readonly #clock: Clock;
  readonly #points: TimePoint[] = [];

  constructor(clock: Clock, begin: TimePoint) {
    this.#clock = clock;
    this.#points.push(begin);
  }

  /** Called whenever records were written. */
  note(point: TimePoint): void {
    const drift = point.recordedMicros - this.#straight(this.#newest, point.monotoneMicros);
    if (Math.abs(drift) < DRIFT_MICROS) return;
    this.#points.push(point);
    if (this.#points.length > POINTS_MAX) this.#points.shift();
  }

  /** The recorded time of so long ago. From before this run only recorded time itself can tell. */
  ago(elapsedMicros: number): number {
    const then = this.#clock.monotoneMicros() - elapsedMicros;
    const at = this.#points.findLastIndex(({ monotoneMicros }) => monotoneMicros <= then);
    const point = this.#points[Math.max(0, at)] as TimePoint;
    const next = this.#points[Math.max(0, at) + 1];
    // What a step skipped was at no time; and what was recorded at the next point was written after that.
    const endMicros = next === undefined ? Number.POSITIVE_INFINITY : next.recordedMicros - 1;
    return Math.floor(Math.min(this.#straight(point, then), endMicros));
  }

  get #newest(): TimePoint {
    const point = this.#points[this.#points.length - 1];
    assert(point !== undefined, "there is a point from the beginning on");
    return point;
  }

  #straight({ monotoneMicros, recordedMicros }: TimePoint, then: number): number {
    return recordedMicros + (then - monotoneMicros);
  }
}
