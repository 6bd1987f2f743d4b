// SPDX-License-Identifier: Apache-2.0
//
// Which moments a store may not refuse, told from outside: by what was asked of it and what its clock showed since.
// Retention only ever lets go: once a moment was older than the window, by any time that the clock showed and any
// window that was set, or might have been where an answer is missing, nothing is promised of it any more. So what
// is said here is a little less than what the store promises, and never more.
//
// Where nothing was kept for a while, a window begins anew; the store says nothing about the moment at which it
// does so, but two checkpoints later it has.

import type { RetentionSpans, StoreHead } from "./history-under-test.ts";

/** What may hold at the moment: more than one where an answer is missing. */
export type PossibleSpans = readonly RetentionSpans[];

interface KnownHead extends StoreHead {
  /** What is behind it isn't earlier than this. After a crash time may go on from before what the clock had shown. */
  floorMicros: number;
}

/** So much before what the store shows when it is opened its time may have begun. */
const OPENING_MICROS = 1_000_000;

interface Guard {
  /** What has this recorded time or an earlier one may be gone. */
  floorMicros: number;
  /** What is before this record may be gone. */
  fromLsn: number;
  /** Checkpoints that were taken since everything is kept. */
  checkpointCount: number;
  openedStep: number;
}

const POOL = 0;
const CHECKPOINTS_TO_OPEN = 2;

export class PromisedMoments {
  readonly #guards = new Map<number, Guard>([[POOL, guard()]]);
  /** Records and times that went together, ascending. */
  #heads: KnownHead[] = [];
  #step = 0;

  /** A new volume is under the pool's promise. */
  add(volume: number): void {
    this.#guards.set(volume, { ...this.#guardOf(POOL) });
  }

  noteHead(head: StoreHead): void {
    const last = this.#heads[this.#heads.length - 1];
    const { lsn, timeMicros } = head;
    if (last?.lsn === lsn) this.#heads.pop();
    this.#heads.push({ lsn, timeMicros, floorMicros: timeMicros });
  }

  /** The clock shows this, and one of these holds for each volume, and for the pool. */
  note(wallMicros: number, spansOf: (volume: number) => PossibleSpans): void {
    this.#step += 1;
    for (const [volume, one] of this.#guards) {
      for (const { everyWriteMicros } of spansOf(volume)) {
        if (everyWriteMicros === null) continue;
        one.floorMicros = Math.max(one.floorMicros, wallMicros - everyWriteMicros);
        if (everyWriteMicros > 0) continue;
        one.fromLsn = Number.POSITIVE_INFINITY;
        one.floorMicros = Number.NEGATIVE_INFINITY;
        one.checkpointCount = 0;
        one.openedStep = this.#step;
      }
    }
  }

  /** It goes by what the pool keeps from now on. */
  inherit(volume: number): void {
    const [own, pool] = [this.#guardOf(volume), this.#guardOf(POOL)];
    own.floorMicros = Math.max(own.floorMicros, pool.floorMicros);
    own.fromLsn = Math.max(own.fromLsn, pool.fromLsn);
    own.checkpointCount = 0;
    own.openedStep = this.#step;
  }

  /** Give it to `endCheckpoint` when the checkpoint has ended well. */
  beginCheckpoint(): number {
    return this.#step;
  }

  endCheckpoint(beganAt: number, head: StoreHead): void {
    for (const one of this.#guards.values()) {
      if (one.fromLsn !== Number.POSITIVE_INFINITY || one.openedStep > beganAt) continue;
      one.checkpointCount += 1;
      if (one.checkpointCount === CHECKPOINTS_TO_OPEN) one.fromLsn = head.lsn + 1;
    }
  }

  isPromised(volume: number, lsn: number): boolean {
    const { floorMicros, fromLsn } = this.#guardOf(volume);
    return lsn >= fromLsn && this.earliest(lsn) > floorMicros;
  }

  describe(volume: number, lsn: number): string {
    const { floorMicros, fromLsn } = this.#guardOf(volume);
    return `kept from #${fromLsn} and ${floorMicros} µs on, #${lsn} is from ${this.earliest(lsn)} µs or later`;
  }

  /** The record isn't earlier than this. */
  earliest(lsn: number): number {
    return this.#heads.findLast((head) => head.lsn < lsn)?.floorMicros ?? Number.NEGATIVE_INFINITY;
  }

  /** Between which records the last one at or before a time is. */
  recordsAt(timeMicros: number): { readonly low: number; readonly high: number } {
    const low = this.#heads.findLast((head) => head.timeMicros <= timeMicros)?.lsn ?? 0;
    const high = this.#heads.find((head) => head.floorMicros > timeMicros)?.lsn;
    return { low, high: high ?? Number.POSITIVE_INFINITY };
  }

  /** The log ends with record `last` after a crash. */
  recovered(last: number, head: StoreHead): void {
    this.#heads = this.#heads.filter(({ lsn }) => lsn <= last);
    for (const one of this.#heads)
      one.floorMicros = Math.min(one.floorMicros, head.timeMicros - OPENING_MICROS);
    for (const one of this.#guards.values()) one.checkpointCount = 0;
  }

  #guardOf(volume: number): Guard {
    let found = this.#guards.get(volume);
    if (found === undefined) {
      found = guard();
      this.#guards.set(volume, found);
    }
    return found;
  }
}

function guard(): Guard {
  return {
    floorMicros: Number.NEGATIVE_INFINITY,
    fromLsn: 0,
    checkpointCount: 0,
    openedStep: 0,
  };
}
