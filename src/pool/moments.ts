// SPDX-License-Identifier: Apache-2.0
//
// From the words for a moment to the record that it ends with, and to the volume that had the name then.
//
//   words → LSN           times and flushes are looked up in the log, names in the catalog
//   name, LSN → volume    whose name it was at that moment: it is live today, or removed since
//   branch, LSN           only what history still holds
//
// An answer is about the past, which doesn't change: it stays right while requests go on. What can't be answered says
// why, and which moments there are instead (missing-moment.ts).

import { isRelative, type Moment, type PlainMoment, stableName } from "../base/moment.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { NamedMoment } from "./catalog-moments.ts";
import { stateAt, type Volume, type VolumeState } from "./catalog-volume.ts";
import {
  type AskedMoment,
  beforeHistory,
  inFuture,
  letGo,
  noFlush,
  noSuchName,
  noSuchVolume,
  notThen,
  type ReachableHistory,
} from "./missing-moment.ts";
import type { ResolvedMoment } from "./types.ts";

/** Where the log's records stand in time, and its flushes. */
export interface MomentTimes {
  /** The last record with at most that recorded time; undefined: all that are known are later. */
  atOrBefore(timeMicros: number): Promise<NearestPlace | undefined>;
  /** Undefined: the log doesn't hold that record any more. */
  timeOf(lsn: number): Promise<number | undefined>;
  /** The branch's last flush from `fromLsn` to `lsn`. */
  lastFlush(options: {
    readonly branch: number;
    readonly fromLsn: number;
    readonly lsn: number;
  }): Promise<NearestPlace | undefined>;
}

export interface NearestPlace extends RecordPlace {
  /** Records between it and what was asked for are gone: the right answer may have been among them. */
  readonly isBeforeHole: boolean;
}

export interface MomentResolverOptions {
  readonly catalog: () => Catalog;
  readonly times: MomentTimes;
  readonly history: ReachableHistory;
  /** The last record of the log. */
  readonly newest: () => RecordPlace;
  /** The recorded time of so long ago; of 0: now. */
  readonly ago: (elapsedMicros: number) => number;
}

export class MomentResolver {
  readonly #options: MomentResolverOptions;

  constructor(options: MomentResolverOptions) {
    this.#options = options;
  }

  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  async resolve(name: string, moment: Moment): Promise<ResolvedMoment> {
    const { catalog: current, history } = this.#options;
    const asked = { volume: name, moment };
    const plain = moment.kind === "flush" ? moment.at : moment;
    let place = await this.#placeOf(asked, plain);
    const catalog = current();
    const volume =
      plain.kind === "name"
        ? catalog.volumes.get(momentNamed(catalog, name, plain.name).volume)
        : catalog.volumeAt(name, place.lsn)?.volume;
    if (volume === undefined) throw notThen(asked, place.lsn, catalog);
    if (moment.kind === "flush") place = await this.#lastFlush(asked, volume, place);
    const { lsn, timeMicros, isBeforeHole } = place;
    const state = stateAt(volume, lsn) as VolumeState;
    const { branch, sizeBytes } = state;
    if (isBeforeHole || !history.isReachable(branch, lsn))
      throw letGo(asked, { branch, lsn }, history);
    return {
      volumeId: volume.id,
      volume: state.name,
      branch,
      lsn,
      timeMicros,
      sizeBytes,
      stableName: stableName(state.name, lsn),
      isRelative: isRelative(moment),
    };
  }

  /** The last record that counts. */
  async #placeOf(asked: AskedMoment, plain: PlainMoment): Promise<NearestPlace> {
    const { catalog, newest, ago } = this.#options;
    switch (plain.kind) {
      case "now":
        return { ...newest(), isBeforeHole: false };
      case "name": {
        const { lsn, timeMicros } = momentNamed(catalog(), asked.volume, plain.name);
        return { lsn, timeMicros, isBeforeHole: false };
      }
      case "lsn":
        return this.#placeOfLsn(asked, plain.lsn);
      case "time":
        return this.#placeOfTime(asked, plain.micros);
      case "ago":
        return this.#placeOfTime(asked, ago(plain.micros));
    }
  }

  async #placeOfLsn(asked: AskedMoment, lsn: number): Promise<NearestPlace> {
    const { catalog, times, history, newest, ago } = this.#options;
    const last = newest();
    if (lsn > last.lsn) throw inFuture(asked, last, ago(0));
    if (lsn === 0) throw beforeHistory(asked, catalog());
    const known = lsn === last.lsn ? last : history.kept((place) => place.lsn === lsn);
    const timeMicros = known?.timeMicros ?? (await times.timeOf(lsn));
    return { lsn, timeMicros: timeMicros ?? 0, isBeforeHole: timeMicros === undefined };
  }

  async #placeOfTime(asked: AskedMoment, micros: number): Promise<NearestPlace> {
    const { catalog, times, history, newest, ago } = this.#options;
    const last = newest();
    if (micros > Math.max(ago(0), last.timeMicros)) throw inFuture(asked, last, ago(0));
    if (micros >= last.timeMicros) return { ...last, isBeforeHole: false };
    const place = await times.atOrBefore(micros);
    // The record of exactly that time is the right answer, whatever is missing behind it.
    if (place !== undefined && (!place.isBeforeHole || place.timeMicros === micros))
      return { ...place, isBeforeHole: false };
    const kept = history.kept(({ timeMicros }) => timeMicros === micros);
    if (kept !== undefined) return { ...kept, isBeforeHole: false };
    if (place === undefined) throw beforeHistory(asked, catalog());
    return place;
  }

  /** Of the branch that the volume had then, or of what that one began with. */
  async #lastFlush(asked: AskedMoment, volume: Volume, place: RecordPlace): Promise<NearestPlace> {
    const { catalog, times } = this.#options;
    let { lsn } = place;
    let branch = catalog().branches.get((stateAt(volume, lsn) as VolumeState).branch);
    // A clone has no moments from before it was made: there the search ends.
    while (branch?.volume === volume.id) {
      const { id, fromLsn, parent, parentLsn } = branch;
      const flush = await times.lastFlush({ branch: id, fromLsn, lsn });
      if (flush !== undefined) return flush;
      lsn = Math.min(lsn, parentLsn);
      branch = catalog().branches.get(parent);
    }
    throw noFlush(asked, place);
  }
}

/**
 * The snapshot of the volume that has the name, or had it last; else of the newest that had it at the snapshot's moment.
 * Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND.
 */
export function momentNamed(catalog: Catalog, volume: string, name: string): NamedMoment {
  const holder = catalog.lastNamed(volume);
  const own = holder && catalog.moments.find({ volume: holder.id, name });
  if (own !== undefined) return own;
  const others = [...catalog.moments.all()].filter(
    (moment) =>
      moment.name === name && catalog.volumeAt(volume, moment.lsn)?.volume.id === moment.volume,
  );
  const newest = others.sort((a, b) => b.lsn - a.lsn)[0];
  if (newest !== undefined) return newest;
  throw holder === undefined ? noSuchVolume(volume, catalog) : noSuchName(holder, name, catalog);
}
