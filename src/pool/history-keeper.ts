// SPDX-License-Identifier: Apache-2.0
//
// Knows which moments can be reached: what retention promises (history-promise.ts), and what is pinned besides: named
// moments, where branches begin, and whatever a reader has open.
//
// Frames of a moment are safe once it is promised or pinned, if it was reachable in that turn: garbage collection finds
// out what is needed anew for each round, and a round that began before the pin is told (`pinsSince`).

import { assert } from "../base/assert.ts";
import type { KeptMoment } from "../gc/history.ts";
import type { Clock } from "../host/ports.ts";
import type { ChosenHistory, HistoryPolicy, KnownHistory } from "../index/kept-checkpoints.ts";
import type { Catalog } from "./catalog.ts";
import type { Volume } from "./catalog-volume.ts";
import {
  choosePromise,
  type GroupPromise,
  hasMoments,
  isPromised,
  promiseFor,
  type RetentionGroup,
} from "./history-promise.ts";
import type { Retention } from "./types.ts";

/** A retention that may be set: the pool's, where `volume` is 0, or a volume's own; undefined: as the pool's. */
export interface RetentionWish {
  readonly volume: number;
  readonly retention: Retention | undefined;
}

/** What is kept of the past, or would be. */
export type PromisedHistory = Pick<HistoryKeeper, "promises" | "promiseOf" | "readers">;

export interface HistoryKeeperOptions {
  readonly clock: Pick<Clock, "wallMicros">;
  readonly catalog: () => Catalog;
  /** Bases stand no nearer to each other, in records. */
  readonly baseDistance: number;
}

export class HistoryKeeper implements HistoryPolicy {
  readonly #options: HistoryKeeperOptions;
  #promises: readonly GroupPromise[];
  /** What a checkpoint that is being written promises: until it is durable the one before may be what a crash leaves. */
  #chosen: readonly GroupPromise[] | undefined;
  /** Moments that somebody reads. */
  readonly #readers: Set<KeptMoment> = new Set();
  /** Counts the moments that were pinned. */
  pinsSoFar = 0;
  /** History goes no further back than this, whatever retention says; undefined: as it says. */
  shortenedMicros: number | undefined;

  constructor(options: HistoryKeeperOptions, promises: readonly GroupPromise[]) {
    this.#options = options;
    this.#promises = promises;
  }

  get promises(): readonly GroupPromise[] {
    return this.#promises;
  }

  /** Nothing was let go yet: nothing is garbage. */
  get isAll(): boolean {
    return this.#promises.every(({ fromLsn }) => fromLsn === 0);
  }

  /** Another text when the promise is another one. */
  get standing(): string {
    return this.#promises
      .map(({ volume, fromLsn, goneLsn, kept }) => `${volume}:${fromLsn}:${goneLsn}:${kept.length}`)
      .join(" ");
  }

  promiseOf(volume: Volume): GroupPromise {
    return promiseFor(this.#promises, volume.id);
  }

  /** Whether retention, a name or a reader keeps the volume's moment #lsn. */
  isKept(volume: Volume, lsn: number): boolean {
    const isNamed = (): boolean =>
      this.#options
        .catalog()
        .moments.of(volume.id)
        .some((moment) => moment.lsn === lsn);
    return isPromised(this.promiseOf(volume), lsn) || isNamed();
  }

  /** The oldest of the volume's moments that is kept, or from which another branch begins; undefined: none is. */
  oldestOf(volume: Volume): number | undefined {
    const { branches, moments } = this.#options.catalog();
    const isOwn = (branch: number): boolean => branches.get(branch)?.volume === volume.id;
    const { fromLsn, kept } = this.promiseOf(volume);
    const lsns = moments.of(volume.id).map(({ lsn }) => lsn);
    for (const nextLsn of fromLsn === undefined ? kept : [fromLsn, ...kept]) lsns.push(nextLsn - 1);
    for (const { branch, lsn } of this.#readers) if (isOwn(branch)) lsns.push(lsn);
    for (const { parent, parentLsn } of branches.values()) if (isOwn(parent)) lsns.push(parentLsn);
    return lsns.length === 0 ? undefined : Math.min(...lsns);
  }

  isRead(branch: number, lsn: number): boolean {
    for (const reader of this.#readers)
      if (reader.branch === branch && reader.lsn === lsn) return true;
    return false;
  }

  readers(): readonly KeptMoment[] {
    return [...this.#readers];
  }

  /** Until the returned function is called the moment stays: somebody reads it. It is readable now. */
  pin(moment: KeptMoment): () => void {
    const pinned = { ...moment };
    this.#readers.add(pinned);
    this.notePin();
    return () => {
      assert(this.#readers.delete(pinned), "a pin is let go once");
    };
  }

  /** A moment is kept from now on that no retention may have promised. */
  notePin(): void {
    this.pinsSoFar += 1;
  }

  /** With a wish: whether it would be needed. */
  needsList(fromLsn: number, endLsn: number, wish?: RetentionWish): boolean {
    const isWindow = this.groups(wish).some(({ retention }) => retention.everyWriteMicros !== 0);
    return isWindow || this.pins().some((lsn) => lsn >= fromLsn && lsn < endLsn);
  }

  /** Single moments are promised: each hour in which something is written must have a base. */
  get hasMoments(): boolean {
    return this.groups().some(({ retention }) => hasMoments(retention));
  }

  /** A record has set what is retained: what nothing promises any more, garbage collection may take at once. */
  retentionSet(lsn: number): void {
    this.#promises = this.#withoutNothing(this.#promises, lsn);
    this.#chosen = this.#chosen && this.#withoutNothing(this.#chosen, lsn);
  }

  #withoutNothing(promises: readonly GroupPromise[], lsn: number): readonly GroupPromise[] {
    const changed = new Map(promises.map((promise) => [promise.volume, promise]));
    for (const { volume, retention } of this.groups())
      if (Object.values(retention).every((span) => span === 0))
        changed.set(volume, { volume, fromLsn: undefined, goneLsn: lsn, kept: [] });
    return [...changed.values()];
  }

  choose(known: KnownHistory): ChosenHistory {
    const { chosen, promises } = this.#choose(known);
    this.#chosen = promises;
    return chosen;
  }

  /** What a checkpoint would promise now if this were the retention. */
  promisesUnder(wish: RetentionWish, known: KnownHistory): readonly GroupPromise[] {
    return this.#choose(known, wish).promises;
  }

  #choose(known: KnownHistory, wish?: RetentionWish): ReturnType<typeof choosePromise> {
    const { clock, baseDistance } = this.#options;
    return choosePromise({
      known,
      groups: this.groups(wish),
      before: this.#promises,
      pins: this.pins(),
      nowMicros: clock.wallMicros(),
      baseDistance,
    });
  }

  chosenIsDurable(): void {
    this.#promises = this.#chosen ?? this.#promises;
    this.#chosen = undefined;
  }

  /**
   * The pool's retention, and the volumes' that have their own, or had: one that goes back to the pool's isn't promised what
   * was let go meanwhile. With a wish, as they would be.
   */
  groups(wish?: RetentionWish): RetentionGroup[] {
    const catalog = this.#options.catalog();
    const ofPool = (wish?.volume === 0 ? wish.retention : undefined) ?? catalog.retention;
    const groups = [{ volume: 0, retention: this.#shortened(ofPool) }];
    const apart = new Set(this.#promises.map(({ volume }) => volume));
    for (const { id, retention } of catalog.volumes.values()) {
      const own = wish?.volume === id ? wish.retention : retention;
      if (own !== undefined || apart.has(id))
        groups.push({ volume: id, retention: this.#shortened(own ?? ofPool) });
    }
    return groups;
  }

  /** LSNs of all moments that are kept one by one. */
  pins(): number[] {
    const { branches, moments } = this.#options.catalog();
    const lsns = new Set([...this.#readers].map(({ lsn }) => lsn));
    for (const { parent, parentLsn } of branches.values()) if (parent !== 0) lsns.add(parentLsn);
    for (const { lsn } of moments.all()) lsns.add(lsn);
    return [...lsns];
  }

  #shortened(retention: Retention): Retention {
    const limit = this.shortenedMicros;
    if (limit === undefined) return retention;
    const within = (span: number | null): number => Math.min(limit, span ?? limit);
    return {
      everyWriteMicros: within(retention.everyWriteMicros),
      hourlyMicros: within(retention.hourlyMicros),
      dailyMicros: within(retention.dailyMicros),
      weeklyMicros: within(retention.weeklyMicros),
      monthlyMicros: within(retention.monthlyMicros),
    };
  }
}
