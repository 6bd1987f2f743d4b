// SPDX-License-Identifier: Apache-2.0
//
// The moments of one pool: finding them, naming them, and what "ago" means to it. The pool gives it the log and the
// catalog and asks it everything that has to do with the past, but for its content.

import type { Moment } from "../base/moment.ts";
import type { Clock } from "../host/ports.ts";
import type { LogWriter } from "../log/log-writer.ts";
import type { Tell } from "./bounded-events.ts";
import { Branching } from "./branching.ts";
import type { Catalog } from "./catalog.ts";
import type { MomentRecord, VolumeRecord } from "./catalog-records.ts";
import { ElapsedTime } from "./elapsed-time.ts";
import type { ReachableHistory } from "./missing-moment.ts";
import { MomentResolver, type MomentTimes } from "./moments.ts";
import { Snapshots } from "./snapshots.ts";
import type { ResolvedMoment } from "./types.ts";

export interface PoolMomentsOptions {
  readonly clock: Clock;
  readonly log: Pick<LogWriter, "nextLsn" | "newestMicros" | "timePoint">;
  readonly times: MomentTimes;
  readonly history: ReachableHistory;
  readonly catalog: () => Catalog;
  readonly record: (make: () => MomentRecord | VolumeRecord) => Promise<unknown>;
  readonly tell: Tell;
}

export class PoolMoments {
  readonly snapshots: Snapshots;
  readonly branching: Branching;
  readonly #log: PoolMomentsOptions["log"];
  readonly #elapsed: ElapsedTime;
  readonly #resolver: MomentResolver;

  constructor(options: PoolMomentsOptions) {
    const { clock, log, catalog, history, times, record, tell } = options;
    this.#log = log;
    this.#elapsed = new ElapsedTime(clock, log.timePoint);
    const newest = () => ({ lsn: log.nextLsn - 1, timeMicros: log.newestMicros });
    const ago = (micros: number): number => this.#elapsed.ago(micros);
    this.#resolver = new MomentResolver({ catalog, times, history, newest, ago });
    const resolve = (volume: string, moment: Moment): Promise<ResolvedMoment> =>
      this.resolve(volume, moment);
    this.branching = new Branching({ catalog, history, resolve, record, tell });
    this.snapshots = new Snapshots({
      catalog,
      clock,
      history,
      newest,
      nowMicros: () => Math.max(ago(0), newest().timeMicros),
      resolve,
      record,
      tell,
    });
  }

  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  resolve(volume: string, moment: Moment): Promise<ResolvedMoment> {
    return this.#resolver.resolve(volume, moment);
  }

  /** The recorded time that a moment of the volume means, whether or not it is there any more. Throws as `resolve` does. */
  async timeOf(volume: string, moment: Moment): Promise<number> {
    if (moment.kind === "time") return moment.micros;
    if (moment.kind === "ago") return this.#elapsed.ago(moment.micros);
    if (moment.kind === "now") return Math.max(this.#elapsed.ago(0), this.#log.newestMicros);
    return (await this.resolve(volume, moment)).timeMicros;
  }

  /** Records were written. */
  written(): void {
    this.#elapsed.note(this.#log.timePoint);
  }
}
