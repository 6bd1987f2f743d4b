// SPDX-License-Identifier: Apache-2.0
//
// Which point a user means: "v1" is the newest point of that name, "latest" the newest of all, and eight or more digits of
// a point's id are that point whatever its name; each among those with a certain volume, where one is asked for.

import { StorageError } from "../base/errors.ts";
import { nearest } from "../base/names.ts";
import type { PointEntry } from "./catalog-state.ts";
import { newestFirst } from "./keep-rules.ts";

const LATEST = "latest";
/** Shorter ones could be somebody's name for a moment. */
const ID_DIGITS_MIN = 8;

/** Throws POINT_NOT_FOUND. */
export function findPoint(
  points: readonly PointEntry[],
  wish: { readonly name: string; readonly volume?: string | undefined },
): PointEntry {
  const { name, volume } = wish;
  const candidates = newestFirst(points).filter((point) => hasVolume(point, volume));
  const isId = name.length >= ID_DIGITS_MIN && /^[0-9a-f]+$/.test(name);
  const found =
    name === LATEST
      ? candidates[0]
      : (candidates.find((point) => point.name === name) ??
        (isId ? candidates.find(({ id }) => id.startsWith(name)) : undefined));
  if (found !== undefined) return found;
  const of = volume === undefined ? "" : ` of volume "${volume}"`;
  const why = candidates.length === 0 ? `there is no point${of}` : `no point${of} has that name`;
  const guess = nearest(
    name,
    candidates.map((point) => point.name),
  );
  const hint =
    guess === undefined ? {} : { hint: `did you mean "${guess}"? see "varve backups TARGET"` };
  throw new StorageError("POINT_NOT_FOUND", `point "${name}": not found: ${why}`, hint);
}

function hasVolume({ volumes }: PointEntry, volume: string | undefined): boolean {
  return volume === undefined || volumes.some(({ name }) => name === volume);
}
