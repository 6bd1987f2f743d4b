// SPDX-License-Identifier: Apache-2.0
//
// What stands on the line of time besides intervals: steps of the wall clock, and what was suspicious. The newest of
// each are kept, for they are few unless something is very wrong.

import { type ActivityReader, type ActivityWriter, signed, unsigned } from "./activity-bucket.ts";
import type { Suspicion } from "./activity-watch.ts";

const CLOCK_STEPS_MAX = 256;
const SUSPICIONS_MAX = 64;

/** The wall clock jumped; recorded time never goes back. */
export interface ClockStep {
  readonly lsn: number;
  readonly timeMicros: number;
  /** Negative: back. */
  readonly stepMicros: number;
}

export class ActivityMarks {
  readonly clockSteps: ClockStep[] = [];
  readonly suspicions: Suspicion[] = [];

  clockStepped(step: ClockStep): void {
    this.clockSteps.push(step);
    if (this.clockSteps.length > CLOCK_STEPS_MAX) this.clockSteps.shift();
  }

  suspected(suspicion: Suspicion): void {
    this.suspicions.push(suspicion);
    if (this.suspicions.length > SUSPICIONS_MAX) this.suspicions.shift();
  }

  encode(writer: ActivityWriter): void {
    writer.number(this.clockSteps.length);
    for (const { lsn, timeMicros, stepMicros } of this.clockSteps) {
      writer.number(lsn);
      writer.number(timeMicros);
      writer.number(unsigned(stepMicros));
    }
    writer.number(this.suspicions.length);
    for (const suspicion of this.suspicions) {
      writer.number(suspicion.branch);
      writer.number(suspicion.lastLsnBefore);
      writer.number(suspicion.lastMicrosBefore);
      writer.number(suspicion.sinceMicros);
      writer.number(suspicion.noticedLsn);
      writer.number(suspicion.noticedMicros);
    }
  }

  restore(reader: ActivityReader): void {
    const stepCount = reader.number(CLOCK_STEPS_MAX);
    for (let step = 0; step < stepCount && reader.isRight; step++) {
      const lsn = reader.number();
      const timeMicros = reader.number();
      this.clockSteps.push({ lsn, timeMicros, stepMicros: signed(reader.number()) });
    }
    const suspicionCount = reader.number(SUSPICIONS_MAX);
    for (let index = 0; index < suspicionCount && reader.isRight; index++) {
      const branch = reader.number(0xffffffff);
      const lastLsnBefore = reader.number();
      const lastMicrosBefore = reader.number();
      const sinceMicros = reader.number();
      const before = { branch, lastLsnBefore, lastMicrosBefore, sinceMicros };
      const noticedLsn = reader.number();
      this.suspicions.push({ ...before, noticedLsn, noticedMicros: reader.number() });
    }
  }
}
