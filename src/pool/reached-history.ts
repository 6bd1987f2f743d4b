// SPDX-License-Identifier: Apache-2.0
//
// Which moments can be read: those that are kept (history-keeper.ts), and of which the index is there (index/past.ts). The
// newest moment always is.

import type { CheckpointState } from "../index/kept-checkpoints.ts";
import type { Past } from "../index/past.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { Volume } from "./catalog-volume.ts";
import type { HistoryKeeper } from "./history-keeper.ts";
import type { ReachableHistory } from "./missing-moment.ts";

export interface ReachedHistoryOptions {
  readonly catalog: () => Catalog;
  readonly keeper: HistoryKeeper;
  readonly past: Past;
  readonly state: () => Readonly<CheckpointState>;
  /** The last record of the log. */
  readonly newest: () => RecordPlace;
}

export class ReachedHistory implements ReachableHistory {
  readonly #options: ReachedHistoryOptions;

  constructor(options: ReachedHistoryOptions) {
    this.#options = options;
  }

  isReachable(branch: number, lsn: number): boolean {
    const { keeper, past, newest } = this.#options;
    if (lsn >= newest().lsn) return true;
    const volume = this.#volumeOf(branch);
    return volume !== undefined && keeper.isKept(volume, lsn) && past.reaches(lsn);
  }

  /** The same, or somebody reads it: then it stays for as long as he does, and others may read it, too. */
  isReadable(branch: number, lsn: number): boolean {
    const { keeper, past } = this.#options;
    return this.isReachable(branch, lsn) || (keeper.isRead(branch, lsn) && past.reaches(lsn));
  }

  kept(is: (place: RecordPlace) => boolean): RecordPlace | undefined {
    const { catalog, state } = this.#options;
    for (const { lsn, timeMicros } of catalog().moments.all())
      if (is({ lsn, timeMicros })) return { lsn, timeMicros };
    const places = state().bases.map(({ cut }) => ({
      lsn: cut.nextLsn - 1,
      timeMicros: cut.recordedMicros,
    }));
    return places.find(is);
  }

  nearest(
    branch: number,
    lsn: number,
  ): { readonly before: RecordPlace | undefined; readonly after: RecordPlace | undefined } {
    const places = this.keptMoments(branch);
    return {
      before: places.findLast((place) => place.lsn < lsn),
      after: places.find((place) => place.lsn > lsn),
    };
  }

  get newest(): RecordPlace {
    return this.#options.newest();
  }

  /** Of a volume: where the moments begin that are all there, and the single ones. */
  leftOf(volume: Volume): {
    readonly everyWriteFrom: RecordPlace | undefined;
    readonly kept: readonly RecordPlace[];
  } {
    const { keeper } = this.#options;
    const kept = this.keptMoments(volume.branch);
    const { fromLsn } = keeper.promiseOf(volume);
    const [first] = volume.states;
    if (fromLsn === undefined || first === undefined) return { everyWriteFrom: undefined, kept };
    const begin = { lsn: first.fromLsn, timeMicros: first.fromMicros };
    const isAll = first.fromLsn + 1 >= fromLsn;
    const everyWriteFrom = isAll ? begin : kept.find(({ lsn }) => lsn + 1 >= fromLsn);
    return { everyWriteFrom, kept: kept.filter(({ lsn }) => lsn >= first.fromLsn) };
  }

  /** Single moments that are kept, named ones among them, and where the window of every write begins; in order. */
  keptMoments(branch: number): RecordPlace[] {
    const { catalog, keeper, past, state, newest } = this.#options;
    const volume = this.#volumeOf(branch);
    if (volume === undefined) return [newest()];
    const { fromLsn, kept } = keeper.promiseOf(volume);
    const named = catalog().moments.of(volume.id);
    const cuts = new Set(fromLsn === undefined ? kept : [...kept, fromLsn]);
    const bases = state().bases.filter(({ cut }) => cuts.has(cut.nextLsn));
    const places: RecordPlace[] = [
      ...bases.map(({ cut }) => ({ lsn: cut.nextLsn - 1, timeMicros: cut.recordedMicros })),
      ...named.map((moment) => ({ lsn: moment.lsn, timeMicros: moment.timeMicros })),
    ];
    const [first] = volume.states;
    if (fromLsn === 0 && first !== undefined)
      places.push({ lsn: first.fromLsn, timeMicros: first.fromMicros });
    return [...places.filter((place) => past.reaches(place.lsn)), newest()].sort(
      (a, b) => a.lsn - b.lsn,
    );
  }

  /** How far back retention reaches, for any volume: recorded time. Undefined: nowhere. */
  oldestMicros(): number | undefined {
    const { catalog, keeper, state } = this.#options;
    const cuts = new Set(keeper.promises.flatMap(({ fromLsn, kept }) => [...kept, fromLsn ?? 0]));
    const oldest = state().bases.find(({ cut }) => cuts.has(cut.nextLsn))?.cut.recordedMicros;
    const isWhole =
      keeper.promises.length === 0 || keeper.promises.some(({ fromLsn }) => fromLsn === 0);
    if (!isWhole) return oldest;
    const created = [...catalog().volumes.values()].map(({ createdMicros }) => createdMicros);
    return created.length === 0 ? oldest : Math.min(...created);
  }

  #volumeOf(branch: number): Volume | undefined {
    const { branches, volumes } = this.#options.catalog();
    return volumes.get(branches.get(branch)?.volume ?? 0);
  }
}
