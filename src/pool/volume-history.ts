// SPDX-License-Identifier: Apache-2.0
//
// What happened to a volume from one time to another: the activity of the branches that it was in their turn, and what
// stands on the line of time beside it. The volume's dated states say which branch it was when, and what became of it;
// the keeper of history says which of those moments are still disks.

import type { ActivityBucket } from "../volume/activity-bucket.ts";
import type { ClockStep } from "../volume/activity-marks.ts";
import type { ActivityTimeline, BranchPart } from "../volume/activity-timeline.ts";
import type { Suspicion } from "../volume/activity-watch.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { Branch, Volume, VolumeState } from "./catalog-volume.ts";
import type { ReachedHistory } from "./reached-history.ts";

/** A record, and what it did to the volume. */
export type HistoryMark = RecordPlace &
  (
    | { readonly kind: "created" | "removed" | "restored" }
    /** The volume goes on from another moment, or began as one. */
    | { readonly kind: "clone" | "rewind" | "undo"; readonly parentLsn: number }
    | { readonly kind: "resized"; readonly fromBytes: number; readonly toBytes: number }
    | { readonly kind: "renamed"; readonly from: string; readonly to: string }
    /** Another volume began as this one was at a moment. */
    | { readonly kind: "cloned"; readonly to: string; readonly parentLsn: number }
  );

export interface VolumeHistory {
  readonly volume: string;
  readonly fromMicros: number;
  readonly toMicros: number;
  readonly stepMicros: number;
  /** Intervals in which something happened; where only coarser ones are left, those. */
  readonly lines: readonly ActivityBucket[];
  readonly names: readonly (RecordPlace & { readonly name: string })[];
  readonly marks: readonly HistoryMark[];
  /** From this moment on each can be opened; undefined: none but single ones. */
  readonly everyWriteFrom: RecordPlace | undefined;
  /** Single moments before it. */
  readonly kept: readonly RecordPlace[];
  /** What lies between these two was let go, but for single moments. */
  readonly hole: { readonly from: RecordPlace; readonly to: RecordPlace } | undefined;
  readonly clockSteps: readonly ClockStep[];
  readonly suspicions: readonly Suspicion[];
}

export interface HistoryRange {
  readonly fromMicros: number;
  readonly toMicros: number;
  /** Undefined: as many lines as can be looked over. */
  readonly stepMicros: number | undefined;
}

export interface HistorySources {
  readonly catalog: Catalog;
  readonly timeline: ActivityTimeline;
  readonly reached: ReachedHistory;
}

const MINUTE_MICROS = 60_000_000;
/** In minutes. */
const STEPS = [1, 5, 15, 60, 6 * 60, 24 * 60, 7 * 24 * 60];
const LINES_MAX = 60;

export function historyOfVolume(
  { catalog, timeline, reached }: HistorySources,
  volume: Volume,
  range: HistoryRange,
): VolumeHistory {
  const [first] = volume.states as [VolumeState];
  const toMicros = range.toMicros;
  const fromMicros = Math.min(toMicros, Math.max(range.fromMicros, first.fromMicros));
  const stepMicros = range.stepMicros ?? stepFor(toMicros - fromMicros);
  const isIn = ({ timeMicros }: { readonly timeMicros: number }): boolean =>
    timeMicros >= fromMicros && timeMicros <= toMicros;
  const branches = new Set(volume.states.map(({ branch }) => branch));
  const { clockSteps, suspicions } = timeline.marks;
  const { everyWriteFrom, kept } = reached.leftOf(volume);
  const begin = { lsn: first.fromLsn, timeMicros: first.fromMicros };
  const end = everyWriteFrom ?? reached.newest;
  const isHole =
    end.lsn > begin.lsn && begin.timeMicros <= toMicros && end.timeMicros >= fromMicros;
  const names = catalog.moments
    .of(volume.id)
    .map(({ name, lsn, timeMicros }) => ({ name, lsn, timeMicros }));
  const named = new Set(names.map(({ lsn }) => lsn));
  return {
    volume: volume.name,
    fromMicros,
    toMicros,
    stepMicros,
    lines: timeline.range(partsOf(volume, fromMicros, toMicros), stepMicros),
    names: names.filter(isIn),
    marks: marksOf(volume, catalog).filter(isIn),
    everyWriteFrom,
    kept: kept.filter((place) => place.lsn < end.lsn && !named.has(place.lsn) && isIn(place)),
    hole: isHole ? { from: begin, to: end } : undefined,
    clockSteps: clockSteps.filter(isIn),
    suspicions: suspicions.filter(
      ({ branch, sinceMicros, noticedMicros }) =>
        branches.has(branch) && sinceMicros <= toMicros && noticedMicros >= fromMicros,
    ),
  };
}

/** The shortest interval of which not too many fit. */
function stepFor(spanMicros: number): number {
  const minutes = STEPS.find((step) => spanMicros / (step * MINUTE_MICROS) <= LINES_MAX);
  return (minutes ?? (STEPS[STEPS.length - 1] as number)) * MINUTE_MICROS;
}

/** Which branch the volume was, from when to when. */
function partsOf({ states }: Volume, fromMicros: number, toMicros: number): BranchPart[] {
  const parts: BranchPart[] = [];
  for (const [at, { branch, fromMicros: sinceMicros }] of states.entries()) {
    const next = states[at + 1];
    if (next !== undefined && next.branch === branch) continue;
    const begun = states.findIndex((state) => state.branch === branch);
    const from = Math.max(
      fromMicros,
      (states[begun] as VolumeState | undefined)?.fromMicros ?? sinceMicros,
    );
    const to = Math.min(toMicros + 1, next?.fromMicros ?? Number.POSITIVE_INFINITY);
    if (from < to) parts.push({ branch, fromMicros: from, toMicros: to });
  }
  return parts;
}

function marksOf(volume: Volume, catalog: Catalog): HistoryMark[] {
  const { states } = volume;
  const marks: HistoryMark[] = [];
  for (const [at, state] of states.entries()) {
    const before = states[at - 1];
    const place = { lsn: state.fromLsn, timeMicros: state.fromMicros };
    const branch = catalog.branches.get(state.branch);
    if (before === undefined) {
      if (branch === undefined || branch.parent === 0) marks.push({ ...place, kind: "created" });
      else marks.push({ ...place, kind: "clone", parentLsn: branch.parentLsn });
      continue;
    }
    if (state.isRemoved !== before.isRemoved)
      marks.push({ ...place, kind: state.isRemoved ? "removed" : "restored" });
    if (state.branch !== before.branch && branch !== undefined) {
      const kind = isUndo(states.slice(0, at), branch) ? "undo" : "rewind";
      marks.push({ ...place, kind, parentLsn: branch.parentLsn });
    }
    if (state.sizeBytes !== before.sizeBytes)
      marks.push({
        ...place,
        kind: "resized",
        fromBytes: before.sizeBytes,
        toBytes: state.sizeBytes,
      });
    if (state.name !== before.name)
      marks.push({ ...place, kind: "renamed", from: before.name, to: state.name });
  }
  marks.push(...clonesOf(volume, catalog));
  return marks.sort((a, b) => a.lsn - b.lsn);
}

/** It goes on from what was there just before a rewind, an undo or a shrink: that is taken back. */
function isUndo(states: readonly VolumeState[], { parent, parentLsn }: Branch): boolean {
  return states.some((state, at) => {
    const before = states[at - 1];
    if (before === undefined || before.branch !== parent) return false;
    const isUndoable = state.branch !== parent || state.sizeBytes < before.sizeBytes;
    return isUndoable && (state.priorLsn ?? state.fromLsn - 1) === parentLsn;
  });
}

function clonesOf(volume: Volume, { branches, volumes }: Catalog): HistoryMark[] {
  const clones: HistoryMark[] = [];
  for (const { id, volume: owner, parent, parentLsn } of branches.values()) {
    const clone = volumes.get(owner);
    const state = clone?.states[0];
    if (parent === 0 || owner === volume.id || clone === undefined || state?.branch !== id)
      continue;
    if (branches.get(parent)?.volume !== volume.id) continue;
    const place = { lsn: state.fromLsn, timeMicros: state.fromMicros };
    clones.push({ ...place, kind: "cloned", to: clone.name, parentLsn });
  }
  return clones;
}
