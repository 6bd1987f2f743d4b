// SPDX-License-Identifier: Apache-2.0
//
// What a backup of a volume begins with: the runs that lie in the target already, of the point before and of backups that
// were interrupted, and for each part of the disk the moment that these runs are of. What can't be compared with such a
// moment, because history let it go or the disk was shorter then, is looked at as a whole.

import { assert } from "../base/assert.ts";
import type { BackupSegment } from "./block-source.ts";
import type { ManifestMoment } from "./manifest.ts";
import { BLOCK_BYTES } from "./place.ts";
import type { Run } from "./run-writer.ts";
import type { ProgressLayer } from "./session-progress.ts";

/** A moment that lies in the target. */
export interface StackBase {
  readonly moment: ManifestMoment;
  readonly sizeBytes: number;
  /** For BlockSource.changedSince; undefined: it isn't to be had any more. */
  readonly base: string | undefined;
}

export interface StackLayer extends StackBase {
  readonly layer: ProgressLayer;
}

export interface BackupStack {
  /** The layer that this backup goes on with; undefined: it begins a new one. */
  readonly own: ProgressLayer | undefined;
  /** The others, the uppermost first. */
  readonly layers: readonly ProgressLayer[];
  readonly segments: readonly BackupSegment[];
  /** Below `own`, the uppermost first. */
  readonly runsBelow: readonly Run[];
}

export function buildStack(options: {
  readonly moment: ManifestMoment;
  readonly sizeBytes: number;
  readonly layers: readonly StackLayer[];
  readonly parent: (StackBase & { readonly runs: readonly Run[] }) | undefined;
}): BackupStack {
  const { moment, sizeBytes, layers, parent } = options;
  const endLba = Math.ceil(sizeBytes / BLOCK_BYTES);
  const [first] = layers;
  const isSame = first !== undefined && isSameMoment(first.moment, moment);
  const own = isSame ? first.layer : undefined;
  const others = isSame ? layers.slice(1) : layers;
  const segments: BackupSegment[] = [];
  let start = Math.min(own?.endLba ?? 0, endLba);
  const cover = (end: number, base: StackBase | undefined): void => {
    // Of the last block, when only a part of it was there, nothing is told.
    const comparable = base?.base === undefined ? 0 : Math.floor(base.sizeBytes / BLOCK_BYTES);
    const compared = Math.min(end, comparable);
    if (compared > start) {
      segments.push({ start, end: compared, base: base?.base });
      start = compared;
    }
    if (end > start) segments.push({ start, end, base: undefined });
    start = Math.max(start, end);
  };
  for (const other of others) cover(Math.min(other.layer.endLba, endLba), other);
  cover(endLba, parent);
  assert(start >= endLba, "the segments are the whole disk");
  const below = [...others.map(({ layer }) => layer), ...(parent?.runs ?? [])];
  return {
    own,
    layers: others.map(({ layer }) => layer),
    segments,
    runsBelow: below.filter(({ parts }) => parts.length > 0).map(({ parts }) => ({ parts })),
  };
}

function isSameMoment(one: ManifestMoment, other: ManifestMoment): boolean {
  return (
    one.lsn === other.lsn && one.branch === other.branch && one.timeMicros === other.timeMicros
  );
}
