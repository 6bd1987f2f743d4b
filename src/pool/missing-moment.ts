// SPDX-License-Identifier: Apache-2.0
//
// Why a moment isn't there, and which ones are: whoever asks for a disk of the past is in no mood for riddles. Each
// answer names the moments next to what was asked for, in words that can be typed back.

import { type ErrorCode, StorageError } from "../base/errors.ts";
import { formatMoment, type Moment, stableName } from "../base/moment.ts";
import { nearest } from "../base/names.ts";
import { formatTime } from "../base/units.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { Volume, VolumeState } from "./catalog-volume.ts";

/** What retention has left of the past. */
export interface ReachableHistory {
  /** Of moments that are kept one by one: by the record that they end with, or its time. The log may have forgotten those. */
  kept(is: (place: RecordPlace) => boolean): RecordPlace | undefined;
  isReachable(branch: number, lsn: number): boolean;
  /** The moments of the branch that are left next to that one. */
  nearest(
    branch: number,
    lsn: number,
  ): {
    readonly before?: RecordPlace | undefined;
    readonly after?: RecordPlace | undefined;
  };
}

/** What was asked for. */
export interface AskedMoment {
  readonly volume: string;
  readonly moment: Moment;
}

/** A name, and the volume that had it from one record to another. */
interface Holding {
  readonly from: VolumeState;
  /** What ended it; undefined: it has the name still. */
  readonly end: VolumeState | undefined;
}

const LISTED_MAX = 4;

export function noSuchVolume(name: string, catalog: Catalog): StorageError {
  const names = [...catalog.volumes.values()].flatMap(({ states }) =>
    states.map((one) => one.name),
  );
  const guess = nearest(name, names);
  const hint = guess === undefined ? {} : { hint: `did you mean "${guess}"? see "varve list"` };
  const data = { volume: name };
  return new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`, { data, ...hint });
}

/** The name belonged to no volume at that moment. */
/** A range of moments that ends before it begins. */
export function rangeBackwards(
  volume: string,
  { from, to }: { readonly from: Moment; readonly to: Moment },
): StorageError {
  const what = `"${formatMoment(from)}" comes behind "${formatMoment(to)}"`;
  return new StorageError("MOMENT_INVALID", `volume "${volume}": not looked up: ${what}`, {
    hint: "give the earlier moment first: --since, then --until",
    data: { volume },
  });
}

export function notThen(asked: AskedMoment, lsn: number, catalog: Catalog): StorageError {
  const { volume } = asked;
  const holdings = holdingsOf(catalog, volume);
  if (holdings.length === 0) return noSuchVolume(volume, catalog);
  const ended = holdings.findLast(({ end }) => end !== undefined && end.fromLsn <= lsn)?.end;
  const begun = holdings.find(({ from }) => from.fromLsn > lsn)?.from;
  const nearby: string[] = [];
  if (ended !== undefined) {
    const how = ended.isRemoved ? "was removed" : "got another name";
    const last = stableName(volume, ended.fromLsn - 1);
    nearby.push(`it ${how} at ${formatTime(ended.fromMicros)}, its last moment is "${last}"`);
  }
  if (begun !== undefined) {
    const first = stableName(volume, begun.fromLsn);
    nearby.push(`its first moment is "${first}" (${formatTime(begun.fromMicros)})`);
  }
  const why = `no volume was named "${volume}" then`;
  return missing("MOMENT_NOT_FOUND", asked, why, nearby);
}

export function inFuture(asked: AskedMoment, newest: RecordPlace, nowMicros: number): StorageError {
  const { volume, moment } = asked;
  const why =
    moment.kind === "lsn"
      ? `it is in the future: the newest record is #${newest.lsn}`
      : `it is in the future: it is ${formatTime(nowMicros)} now`;
  return missing("MOMENT_NOT_FOUND", asked, why, [`"${volume}@now" is the newest`]);
}

export function beforeHistory(asked: AskedMoment, catalog: Catalog): StorageError {
  const { volume } = asked;
  const [first] = holdingsOf(catalog, volume);
  if (first === undefined) return noSuchVolume(volume, catalog);
  const { fromLsn, fromMicros } = first.from;
  return missing("MOMENT_NOT_FOUND", asked, "it is from before the pool's history begins", [
    `its first moment is "${stableName(volume, fromLsn)}" (${formatTime(fromMicros)})`,
  ]);
}

/** Retention let it go, or a hole in the log did. */
export function letGo(
  asked: AskedMoment,
  { branch, lsn }: { readonly branch: number; readonly lsn: number },
  history: ReachableHistory,
): StorageError {
  const { before, after } = history.nearest(branch, lsn);
  const left = [before, after]
    .filter((place) => place !== undefined)
    .map((place) => `"${stableName(asked.volume, place.lsn)}" (${formatTime(place.timeMicros)})`);
  const nearby = left.length === 0 ? [] : [`nearest to it is ${left.join(" and ")}`];
  return missing("MOMENT_GONE", asked, "retention let it go", nearby);
}

/** The same for a moment that was resolved before. */
export function viewGone(
  {
    volume,
    branch,
    lsn,
  }: { readonly volume: string; readonly branch: number; readonly lsn: number },
  history: ReachableHistory,
): StorageError {
  return letGo({ volume, moment: { kind: "lsn", lsn } }, { branch, lsn }, history);
}

export function noFlush(asked: AskedMoment, at: RecordPlace): StorageError {
  const plain = stableName(asked.volume, at.lsn);
  const why = `no client flushed it by ${formatTime(at.timeMicros)}`;
  return missing("MOMENT_NOT_FOUND", asked, why, [`"${plain}" is the disk as it was`]);
}

export function noSuchName(volume: Volume, name: string, catalog: Catalog): StorageError {
  const asked: AskedMoment = { volume: volume.name, moment: { kind: "name", name } };
  const names = catalog.moments.of(volume.id).map((moment) => moment.name);
  const guess = nearest(name, names);
  const listed = names.slice(-LISTED_MAX).reverse().join(", ");
  const nearby = guess === undefined ? listed && `it has ${listed}; ` : `did you mean "${guess}"? `;
  return new StorageError(
    "MOMENT_NOT_FOUND",
    `moment "${volume.name}@${name}": not found: the volume has no snapshot of that name`,
    {
      hint: `${nearby}see "varve snapshots ${volume.name}"`,
      data: { volume: volume.name, moment: formatMoment(asked.moment) },
    },
  );
}

function missing(
  code: ErrorCode,
  { volume, moment }: AskedMoment,
  why: string,
  nearby: readonly string[],
): StorageError {
  const text = formatMoment(moment);
  return new StorageError(code, `moment "${volume}@${text}": not found: ${why}`, {
    hint: [...nearby, `see "varve history ${volume}"`].join("; "),
    data: { volume, moment: text },
  });
}

/** Who had the name, and when; in that order. */
function holdingsOf(catalog: Catalog, name: string): Holding[] {
  return [...catalog.volumes.values()]
    .flatMap(({ states }) =>
      states
        .map((from, index) => ({ from, end: states[index + 1] }))
        .filter(({ from }) => {
          return from.name === name && !from.isRemoved;
        }),
    )
    .sort((a, b) => a.from.fromLsn - b.from.fromLsn);
}
