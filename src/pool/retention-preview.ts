// SPDX-License-Identifier: Apache-2.0
//
// What another retention would let go of, and what that frees, without changing anything: the promise that a checkpoint
// would make now (history-promise.ts is asked as it is then, with the wished retention in its place), and the bytes that
// are needed for the present promise and not for that one.
//
// A promise only shrinks. So a longer retention than there was brings back nothing; it only lets history grow from here.

import type { Need } from "../gc/needs.ts";
import type { ChangeListFile } from "../index/change-list.ts";
import type { CheckpointState, KnownHistory } from "../index/kept-checkpoints.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { Volume } from "./catalog-volume.ts";
import type { HistoryKeeper, PromisedHistory, RetentionWish } from "./history-keeper.ts";
import { needOfPast, needOfVolumes } from "./history-needs.ts";
import { type GroupPromise, isPromised, promiseFor } from "./history-promise.ts";
import type { SpaceCensus } from "./space-census.ts";
import type { PreviewedVolume, Retention, RetentionPreview } from "./types.ts";
import { unneededBranches } from "./unneeded-branches.ts";

export interface RetentionPreviewOptions {
  readonly catalog: Catalog;
  readonly keeper: HistoryKeeper;
  readonly census: SpaceCensus;
  readonly state: () => Readonly<CheckpointState>;
  /** The last record of the log. */
  readonly newest: () => RecordPlace;
}

/** So many moments are named one by one. */
const GONE_MOMENTS_MAX = 1000;

/** Throws BUSY when clients wait for space, POOL_STOPPED, POOL_CORRUPT, LOG_CORRUPT, DISK_IO. */
export async function previewRetention(
  options: RetentionPreviewOptions,
  wish: RetentionWish,
): Promise<RetentionPreview> {
  const { catalog, keeper, census, state } = options;
  let look: Look | undefined;
  const { bytes, isSampled } = await census.count((): readonly Need[] => {
    look = new Look(options, wish);
    const sources = { catalog, state: state() };
    return [
      needOfVolumes(catalog),
      needOfPast({ ...sources, keeper: look.wished }),
      needOfPast({ ...sources, keeper }),
    ];
  });
  const [, keptBytes = 0, freedBytes = 0] = bytes;
  const historyBytes = Math.round(keptBytes + freedBytes);
  census.noteHistory({ bytes: historyBytes, isEstimated: isSampled });
  return {
    historyBytes,
    freedBytes: Math.round(freedBytes),
    isEstimated: isSampled,
    ...(look as Look).preview(),
  };
}

/** How things stand in one turn, and how they would. */
class Look {
  readonly #catalog: Catalog;
  readonly #keeper: HistoryKeeper;
  readonly #wish: RetentionWish;
  readonly #newest: RecordPlace;
  /** By the first LSN behind them. */
  readonly #bases: ReadonlyMap<number, RecordPlace>;
  readonly #promises: readonly GroupPromise[];

  constructor({ catalog, keeper, state, newest }: RetentionPreviewOptions, wish: RetentionWish) {
    this.#catalog = catalog;
    this.#keeper = keeper;
    this.#wish = wish;
    this.#newest = newest();
    const isListed = (from: number, end: number): boolean => keeper.needsList(from, end, wish);
    const known = knownAt(state(), this.#newest, isListed);
    this.#promises = keeper.promisesUnder(wish, known);
    this.#bases = new Map(
      known.bases.map(({ cut: { nextLsn, recordedMicros } }) => [
        nextLsn,
        { lsn: nextLsn - 1, timeMicros: recordedMicros },
      ]),
    );
  }

  get wished(): PromisedHistory {
    const endLsn = endOf(this.#newest);
    // A window that would begin now needs nothing yet.
    const promises = this.#promises.map((promise) =>
      promise.fromLsn === endLsn ? { ...promise, fromLsn: undefined } : promise,
    );
    return {
      promises,
      promiseOf: ({ id }) => promiseFor(promises, id),
      readers: () => this.#keeper.readers(),
    };
  }

  preview(): Omit<RetentionPreview, "historyBytes" | "freedBytes" | "isEstimated"> {
    const volumes = this.#volumes();
    const forgotten = new Set(unneededBranches(this.#catalog, this.wished).volumes);
    const gone = new Map<number, RecordPlace>();
    const previewed = volumes.map((volume): PreviewedVolume => {
      const before = this.#keeper.promiseOf(volume);
      const after = promiseFor(this.#promises, volume.id);
      const kept = this.#keptOf(volume, before);
      const left = new Set(this.#keptOf(volume, after).map(({ lsn }) => lsn));
      const named = new Set(this.#catalog.moments.of(volume.id).map(({ lsn }) => lsn));
      const isLost = ({ lsn }: RecordPlace): boolean => !isPromised(after, lsn) && !named.has(lsn);
      const lost = kept.filter(isLost);
      for (const place of lost) gone.set(place.lsn, place);
      return {
        volume: volume.name,
        volumeId: volume.id,
        isRemoved: volume.removedMicros !== undefined,
        isForgotten: forgotten.has(volume.id),
        everyWriteFrom: this.#windowOf(volume, before),
        everyWriteFromThen: this.#windowOf(volume, after),
        keptCount: kept.length,
        keptCountThen: left.size,
        goneCount: lost.length,
      };
    });
    const goneMoments = [...gone.values()].sort((a, b) => a.lsn - b.lsn);
    return {
      timeMicros: this.#newest.timeMicros,
      volumes: previewed,
      goneMoments: goneMoments.slice(-GONE_MOMENTS_MAX),
      goneMomentCount: goneMoments.length,
      isBeyondPast: volumes.some((volume) => this.#asksBack(volume)),
      ...this.#keptBesides(volumes),
    };
  }

  /** Those that the wish is for. */
  #volumes(): Volume[] {
    const { volume: wished } = this.#wish;
    const isMeant = ({ id, retention }: Volume): boolean =>
      wished === 0 ? retention === undefined : id === wished;
    return [...this.#catalog.volumes.values()].filter(isMeant);
  }

  /** Single moments that retention keeps of the volume. */
  #keptOf({ states }: Volume, { kept }: GroupPromise): RecordPlace[] {
    const madeLsn = states[0]?.fromLsn ?? 0;
    // Idle checkpoints are of one moment.
    return [...new Set(kept)].flatMap((nextLsn) => {
      const place = this.#bases.get(nextLsn);
      return place === undefined || place.lsn < madeLsn ? [] : [place];
    });
  }

  /** From where on every moment of the volume is there. */
  #windowOf({ states }: Volume, { fromLsn }: GroupPromise): RecordPlace | undefined {
    const [first] = states;
    if (fromLsn === undefined || first === undefined) return undefined;
    if (first.fromLsn + 1 >= fromLsn) return { lsn: first.fromLsn, timeMicros: first.fromMicros };
    return this.#bases.get(fromLsn) ?? this.#newest;
  }

  /** Whether the wish is for more than there is: of what retention has let go, nothing comes back. */
  #asksBack(volume: Volume): boolean {
    const { catalog, wish } = { catalog: this.#catalog, wish: this.#wish };
    const isLonger = longer(wish.retention ?? catalog.retention, catalog.retentionOf(volume));
    return isLonger && this.#keeper.promiseOf(volume).goneLsn > (volume.states[0]?.fromLsn ?? 0);
  }

  /** What keeps moments that the wish doesn't. */
  #keptBesides(
    volumes: readonly Volume[],
  ): Pick<RetentionPreview, "snapshotCount" | "cloneCount" | "viewCount"> {
    const ids = new Set(volumes.map(({ id }) => id));
    const isLost = (volume: number, lsn: number): boolean =>
      ids.has(volume) && !isPromised(promiseFor(this.#promises, volume), lsn);
    const { moments, branches, volumes: all } = this.#catalog;
    const named = volumes.flatMap(({ id }) => moments.of(id).filter(({ lsn }) => isLost(id, lsn)));
    const volumeOf = (branch: number): number => branches.get(branch)?.volume ?? 0;
    const views = this.#keeper.readers().filter(({ branch, lsn }) => isLost(volumeOf(branch), lsn));
    const clones = new Set<number>();
    for (const { parent, volume } of branches.values()) {
      const isClone = ids.has(volumeOf(parent)) && volume !== volumeOf(parent);
      if (isClone && all.get(volume)?.removedMicros === undefined) clones.add(volume);
    }
    return { snapshotCount: named.length, cloneCount: clones.size, viewCount: views.length };
  }
}

/** Where the log would end: setting a retention is a record, too. */
function endOf({ lsn }: Pick<RecordPlace, "lsn">): number {
  return lsn + 2;
}

/** What a checkpoint that is taken now would know. */
function knownAt(
  { newest, bases, lists }: Readonly<CheckpointState>,
  { lsn, timeMicros }: RecordPlace,
  isListed: (fromLsn: number, endLsn: number) => boolean,
): KnownHistory {
  const fromLsn = newest?.cut.nextLsn ?? 1;
  const endLsn = endOf({ lsn });
  // The list that it would write; nobody reads it.
  const tail: ChangeListFile = {
    ...{ run: 0, bodyOffset: 0, bodyBytes: 0, sizeBytes: 0 },
    ...{ fromLsn, endLsn },
  };
  return {
    bases: newest === undefined ? bases : [...bases, newest],
    lists: fromLsn < endLsn && isListed(fromLsn, endLsn) ? [...lists, tail] : lists,
    cutMicros: timeMicros,
    cutLsn: endLsn,
  };
}

function longer(wished: Retention, present: Retention): boolean {
  const spans = Object.keys(present) as (keyof Retention)[];
  const lengthOf = (span: number | null): number => span ?? Number.POSITIVE_INFINITY;
  return spans.some((key) => lengthOf(wished[key]) > lengthOf(present[key]));
}
