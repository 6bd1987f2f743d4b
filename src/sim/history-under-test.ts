// SPDX-License-Identifier: Apache-2.0
//
// What the simulator asks of a store that remembers, besides what it asks of any (pool-under-test.ts): the record it
// stands at, moments found and opened as disks, names, retention, and lines that begin in the past.

import type { Moment } from "../base/moment.ts";
import type { StoreHost } from "./machine.ts";
import type { PoolDriver, PoolUnderTest, StoreRequest } from "./pool-under-test.ts";

/** The last record, and a time that none up to it is later than and none behind it is earlier than, µs. */
export interface StoreHead {
  readonly lsn: number;
  readonly timeMicros: number;
}

/** A volume, live or removed. */
export interface VolumeFound {
  readonly id: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly isRemoved: boolean;
  /** Undefined: as the pool's. */
  readonly retention: RetentionSpans | undefined;
}

/** What is kept, by how far back it reaches, µs; 0: nothing, null: all. */
export interface RetentionSpans {
  readonly everyWriteMicros: number | null;
  readonly hourlyMicros: number | null;
  readonly dailyMicros: number | null;
  readonly weeklyMicros: number | null;
  readonly monthlyMicros: number | null;
}

export interface MomentFound {
  readonly volumeId: number;
  readonly volume: string;
  readonly branch: number;
  readonly lsn: number;
  readonly timeMicros: number;
  readonly sizeBytes: number;
}

export interface NameFound {
  readonly volumeId: number;
  readonly name: string;
  readonly lsn: number;
}

export interface ViewUnderTest {
  submit(request: StoreRequest, done: (errno: number) => void): void;
  close(): void;
}

/** A volume and a name for its moment. */
export interface NameTarget {
  readonly volume: string;
  readonly name: string;
}

export interface HistoryUnderTest extends PoolUnderTest {
  readonly head: StoreHead;
  /** The last record that was there when the store was opened. */
  readonly recoveredLsn: number;
  readonly wallMicros: number;
  readonly retention: RetentionSpans;
  allVolumes(): VolumeFound[];
  names(): NameFound[];
  resolve(volume: string, moment: Moment): Promise<MomentFound>;
  openView(moment: MomentFound): Promise<ViewUnderTest>;
  /** Tells the ranges in which two moments differ, in order. */
  diff(
    from: MomentFound,
    to: MomentFound,
    tell: (offsetBytes: number, lengthBytes: number) => void,
  ): Promise<void>;
  setRetention(volume: string | undefined, spans: RetentionSpans | undefined): Promise<void>;
  nameMoment(
    targets: readonly NameTarget[],
    options: { readonly at?: Moment | undefined; readonly keepMicros?: number | undefined },
  ): Promise<readonly NameFound[]>;
  renameMoment(target: NameTarget, name: string): Promise<void>;
  forgetMoment(target: NameTarget): Promise<void>;
  collect(): Promise<void>;
  readonly branching: Branching;
}

export interface Branching {
  clone(volume: string, moment: Moment, name: string): Promise<void>;
  rewind(volume: string, moment: Moment): Promise<void>;
  undo(volume: string): Promise<void>;
}

export interface HistoryDriver extends PoolDriver {
  start(host: StoreHost): Promise<HistoryUnderTest>;
}
