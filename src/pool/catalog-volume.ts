// SPDX-License-Identifier: Apache-2.0
//
// A volume in the catalog is a dated list of states: which name, size and branch it had from which record on, and
// whether it was removed then. That list answers every question about the past that isn't about content: whose name
// it was, how large the disk is that a moment opens, and which line of history that moment lies in. After a rewind at
// record R the moments before R are still the old branch's.
//
//   LSN    10 ──────── 25 ──────── 31 ──────── 40
//          db, 1G      db, 2G      db, 1G      removed
//          branch 1    branch 1    branch 7    branch 7
//          made        resized     rewound     removed

import {
  type Fields,
  fieldsOf,
  isCount,
  isFlag,
  isId,
  isNameField,
  isOptional,
  isSize,
  isText,
  type RecordPlace,
} from "./catalog-fields.ts";
import { retentionFrom } from "./catalog-policy.ts";
import type { Retention, VolumeSummary } from "./types.ts";

/** A line of history. */
export interface Branch {
  readonly id: number;
  readonly volume: number;
  /** 0: begins empty. */
  readonly parent: number;
  /** What the parent held then is what this one begins with. */
  readonly parentLsn: number;
  /** The record that began it. */
  readonly fromLsn: number;
}

/** What a volume was, from one record until the next that changed it. */
export interface VolumeState {
  readonly fromLsn: number;
  readonly fromMicros: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly branch: number;
  readonly isRemoved: boolean;
  /** The last moment of what was before, where that isn't the record before `fromLsn`: a shrink clears its end first. */
  readonly priorLsn?: number;
}

export interface Volume {
  readonly id: number;
  name: string;
  sizeBytes: number;
  readonly createdMicros: number;
  removedMicros: number | undefined;
  isReadOnly: boolean;
  description: string;
  isDeduplicated: boolean;
  isCompressed: boolean;
  /** A clone that is to be removed when its last client has left. */
  isTemporary: boolean;
  branch: number;
  /** Its own; undefined: the pool's. */
  retention: Retention | undefined;
  /** Oldest first, never empty; the last one is what the fields above say. */
  readonly states: VolumeState[];
}

/** What `undo` takes back, and how. */
export type Undoable = { readonly lsn: number; readonly timeMicros: number } & (
  | { readonly kind: "removal" }
  /** A new branch begins at that moment of that one: just before what is undone. */
  | {
      readonly kind: "rewind" | "shrink";
      readonly branch: number;
      readonly branchLsn: number;
      readonly sizeBytes: number;
    }
);

/** A volume as the record that makes it says. */
export function newVolume(
  { id, name, sizeBytes, branch }: Pick<Volume, "id" | "name" | "sizeBytes" | "branch">,
  { lsn: fromLsn, timeMicros: fromMicros }: RecordPlace,
): Volume {
  return {
    id,
    name,
    sizeBytes,
    createdMicros: fromMicros,
    removedMicros: undefined,
    isReadOnly: false,
    description: "",
    isDeduplicated: true,
    isCompressed: true,
    isTemporary: false,
    branch,
    retention: undefined,
    states: [{ fromLsn, fromMicros, name, sizeBytes, branch, isRemoved: false }],
  };
}

/** Notes what the volume is from a record on; its fields have been changed. */
export function noteState(volume: Volume, at: RecordPlace, priorLsn?: number): void {
  const state = stateNow(volume, at);
  volume.states.push(priorLsn === undefined ? state : { ...state, priorLsn });
}

export function newestState({ states }: Volume): VolumeState {
  return states[states.length - 1] as VolumeState;
}

/** What the volume was in these lines of history isn't known any more; what it is last stays. */
export function forgetStates({ states }: Volume, branches: ReadonlySet<number>): void {
  const last = states.length - 1;
  const left = states.filter((state, at) => at === last || !branches.has(state.branch));
  states.splice(0, states.length, ...left);
}

/** What the volume was at the moment #lsn; undefined: it wasn't made yet. */
export function stateAt({ states }: Volume, lsn: number): VolumeState | undefined {
  let low = 0;
  let end = states.length;
  while (low < end) {
    const middle = (low + end) >>> 1;
    if ((states[middle] as VolumeState).fromLsn <= lsn) low = middle + 1;
    else end = middle;
  }
  return states[low - 1];
}

/**
 * The last of rewind, undo, shrink and removal. A removal only while it holds: of a volume that was brought back, what
 * was before it.
 */
export function lastUndoable(volume: Volume): Undoable | undefined {
  const { states } = volume;
  for (let at = states.length - 1; at > 0; at--) {
    const { fromLsn: lsn, fromMicros: timeMicros, ...now } = states[at] as VolumeState;
    const before = states[at - 1] as VolumeState;
    const { branch, sizeBytes } = before;
    const place = { lsn, timeMicros };
    if (now.isRemoved && volume.removedMicros !== undefined) return { kind: "removal", ...place };
    const prior = { branch, branchLsn: now.priorLsn ?? lsn - 1, sizeBytes };
    if (now.branch !== branch) return { kind: "rewind", ...place, ...prior };
    if (now.sizeBytes < sizeBytes) return { kind: "shrink", ...place, ...prior };
  }
  return undefined;
}

export function summaryOf(volume: Volume): VolumeSummary {
  const { id, name, sizeBytes, createdMicros, removedMicros } = volume;
  const { isReadOnly, description, isDeduplicated, isCompressed, isTemporary, retention } = volume;
  return {
    id,
    name,
    sizeBytes,
    createdMicros,
    isReadOnly,
    description,
    isDeduplicated,
    isCompressed,
    ...(isTemporary ? { isTemporary } : {}),
    ...(retention === undefined ? {} : { retention }),
    ...(removedMicros === undefined ? {} : { removedMicros }),
  };
}

/** A volume out of a checkpoint; undefined when it makes no sense. */
export function volumeFrom(value: unknown): Volume | undefined {
  const { id, name, sizeBytes, branch, createdMicros, removedMicros, ...rest } = fieldsOf(value);
  const { isReadOnly, description, isDeduplicated = true, isCompressed = true } = rest;
  const { isTemporary = false } = rest;
  if (!isId(id) || !isNameField(name) || !isSize(sizeBytes) || !isId(branch)) return undefined;
  if (!isCount(createdMicros) || !isOptional(removedMicros, isCount)) return undefined;
  if (!isFlag(isReadOnly) || !isText(description)) return undefined;
  if (!isFlag(isDeduplicated) || !isFlag(isCompressed) || !isFlag(isTemporary)) return undefined;
  const retention = rest.retention === undefined ? undefined : retentionFrom(rest.retention);
  if (rest.retention !== undefined && retention === undefined) return undefined;
  const volume: Volume = {
    id,
    name,
    sizeBytes,
    createdMicros,
    removedMicros,
    isReadOnly,
    description,
    isDeduplicated,
    isCompressed,
    isTemporary,
    branch,
    retention,
    states: [],
  };
  return takeStates(volume, rest.states) ? volume : undefined;
}

/** A former version kept none: what the volume is it has been from the beginning, as far as anyone can tell. */
function takeStates(volume: Volume, states: unknown): boolean {
  if (states === undefined) {
    const { createdMicros, removedMicros } = volume;
    volume.states.push({
      ...stateNow(volume, { lsn: 0, timeMicros: createdMicros }),
      isRemoved: false,
    });
    if (removedMicros !== undefined) noteState(volume, { lsn: 1, timeMicros: removedMicros });
    return true;
  }
  if (!Array.isArray(states)) return false;
  for (const value of states) {
    const state = stateFrom(fieldsOf(value));
    const before = volume.states[volume.states.length - 1];
    if (state === undefined || state.fromLsn <= (before?.fromLsn ?? -1)) return false;
    volume.states.push(state);
  }
  const newest = volume.states[volume.states.length - 1];
  return newest !== undefined && isStateOf(volume, newest);
}

/** Whether a volume's fields are what the state says. */
export function isStateOf(
  volume: Volume,
  { name, sizeBytes, branch, isRemoved }: VolumeState,
): boolean {
  return (
    name === volume.name &&
    sizeBytes === volume.sizeBytes &&
    branch === volume.branch &&
    isRemoved === (volume.removedMicros !== undefined)
  );
}

function stateNow(volume: Volume, { lsn, timeMicros }: RecordPlace): VolumeState {
  const { name, sizeBytes, branch, removedMicros } = volume;
  const isRemoved = removedMicros !== undefined;
  return { fromLsn: lsn, fromMicros: timeMicros, name, sizeBytes, branch, isRemoved };
}

function stateFrom(value: Fields): VolumeState | undefined {
  const { fromLsn, fromMicros, name, sizeBytes, branch, isRemoved, priorLsn } = value;
  if (!isCount(fromLsn) || !isCount(fromMicros) || !isNameField(name)) return undefined;
  if (!isSize(sizeBytes) || !isId(branch) || !isFlag(isRemoved)) return undefined;
  const state = { fromLsn, fromMicros, name, sizeBytes, branch, isRemoved };
  if (priorLsn === undefined) return state;
  return isCount(priorLsn) && priorLsn < fromLsn ? { ...state, priorLsn } : undefined;
}

/** A branch out of a checkpoint; undefined when it makes no sense. */
export function branchFrom(value: unknown): Branch | undefined {
  const { id, volume, parent = 0, parentLsn = 0, fromLsn = 0 } = fieldsOf(value);
  if (!isId(id) || !isId(volume) || !isCount(parentLsn) || !isCount(fromLsn)) return undefined;
  // Ids ascend: so no branch is its own ancestor.
  if (!isCount(parent) || parent >= id) return undefined;
  return { id, volume, parent, parentLsn, fromLsn };
}
