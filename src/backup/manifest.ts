// SPDX-License-Identifier: Apache-2.0
//
// A point's manifest: which volumes it has, as of which moments, and the runs that say what was in them. It names a few
// runs and never a block, so it stays at some kilobytes whatever the volume's size. It is JSON in a document
// (document.ts), so that a person can read what a lost program left.
//
// Its bytes come from a place that others can write: each field is checked and bounded before anything is done with it.
// Fields that this program doesn't know are skipped; what must be known to read the point is named in `requires`.

import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import { isCount, isId, isListOf, isNameField, isSize, isText } from "../pool/catalog-fields.ts";
import { damagedDocument, readDocument } from "./document.ts";
import type { HistoryPart } from "./history-writer.ts";
import { BLOCK_BYTES, LBA_END_MAX } from "./place.ts";
import { RUNS_MAX } from "./run-merge.ts";
import type { Run, RunPart } from "./run-writer.ts";
import { isHashName } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** Nearly all of a large one is the parts of runs, a hundred bytes each. */
const MANIFEST_BYTES_MAX: number = 16 << 20;
const VOLUMES_MAX = 1024;
const PARTS_MAX = 65_536;
const HEX_ID = /^[0-9a-f]{32}$/;
/** A moment's name, or a time. */
const POINT_NAME = /^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,62}$/;
/** What a reader of this version knows beyond the first one: nothing yet. */
const KNOWN: readonly string[] = [];

export interface PointManifest {
  readonly id: string;
  readonly name: string;
  readonly createdMicros: number;
  readonly poolId: string;
  readonly volumes: readonly ManifestVolume[];
}

export interface ManifestMoment {
  readonly lsn: number;
  readonly branch: number;
  readonly timeMicros: number;
}

export interface ManifestVolume {
  readonly name: string;
  readonly volumeId: number;
  readonly sizeBytes: number;
  readonly moment: ManifestMoment;
  /** The newest one first; none: it was never written. */
  readonly runs: readonly Run[];
  /** How it came to be what it is. */
  readonly history?: ManifestHistory;
}

/** A volume's moments before the point's: what it was at the first one, and what was changed since. */
export interface ManifestHistory {
  readonly from: ManifestMoment;
  /** What it was long then. */
  readonly sizeBytes: number;
  /** At `from`; the newest one first. */
  readonly runs: readonly Run[];
  /** In the order of their LSNs, from behind `from` to the point's; a change may go on in the next part. */
  readonly parts: readonly HistoryPart[];
}

export function encodeManifest(manifest: PointManifest): Uint8Array {
  return Buffer.from(JSON.stringify({ requires: KNOWN, ...manifest }));
}

/** `name` is that of the object. Throws TARGET_CORRUPT, FORMAT_UNSUPPORTED. */
export function decodeManifest(name: string, body: Uint8Array): PointManifest {
  const text = Buffer.from(body).toString();
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damagedDocument(name, "it isn't JSON", error);
  }
  if (typeof value !== "object" || value === null) throw damagedDocument(name, "it is no object");
  const { requires } = value as { requires?: unknown };
  if (!isListOf(requires, isText)) throw damagedDocument(name, "requires is no list");
  const unknown = requires.filter((feature) => !KNOWN.includes(feature));
  if (unknown.length > 0) {
    const what = `${name}: not read: it needs ${unknown.join(", ")}, which this varve doesn't know`;
    throw new StorageError("FORMAT_UNSUPPORTED", what);
  }
  const problem = problemOf(value as Partial<PointManifest>);
  if (problem !== undefined) throw damagedDocument(name, problem);
  return value as PointManifest;
}

/** Reads a point's manifest, the object `name`. Throws TARGET_CORRUPT, FORMAT_UNSUPPORTED, TARGET_UNAVAILABLE. */
export async function readManifest(
  store: ObjectStore,
  sealer: Sealer,
  name: string,
): Promise<PointManifest> {
  const bodyBytesMax = MANIFEST_BYTES_MAX;
  const read = await readDocument({ kind: "point", name, store, sealer, bodyBytesMax });
  if (read !== undefined) return decodeManifest(name, read.body);
  throw new StorageError("TARGET_CORRUPT", `${name}: it is missing`, {
    data: { object: name, isMissing: true },
  });
}

/** All runs that a volume needs, with those of its history. */
export function runsOf(volume: ManifestVolume): readonly Run[] {
  return [...volume.runs, ...(volume.history?.runs ?? [])];
}

function problemOf(manifest: Partial<PointManifest>): string | undefined {
  const { id, name, createdMicros, poolId, volumes } = manifest;
  if (!isHexId(id) || !isHexId(poolId)) return "it has no identity";
  if (!isText(name) || !POINT_NAME.test(name)) return "it has no name";
  if (!isCount(createdMicros)) return "it has no time";
  if (!Array.isArray(volumes) || volumes.length === 0 || volumes.length > VOLUMES_MAX)
    return "it has no volumes, or too many";
  for (const [index, volume] of volumes.entries()) {
    const problem = isRecord(volume) ? problemOfVolume(volume) : "it is no object";
    if (problem !== undefined) return `volume ${index}: ${problem}`;
  }
  const names = new Set(volumes.map((volume) => volume.name));
  return names.size === volumes.length ? undefined : "it has a volume twice";
}

function problemOfVolume(volume: Partial<ManifestVolume>): string | undefined {
  const { name, volumeId, sizeBytes, moment, runs, history } = volume;
  if (!isNameField(name) || !isId(volumeId)) return "it has no identity";
  if (!isVolumeSize(sizeBytes)) return "its size makes no sense";
  if (!isMoment(moment)) return "its moment makes no sense";
  if (!areRuns(runs, sizeBytes)) return "its runs make no sense";
  if (history === undefined) return undefined;
  if (!isRecord(history)) return "its history makes no sense";
  if (!isMoment(history.from) || history.from.lsn > moment.lsn) return "its history begins nowhere";
  if (!isVolumeSize(history.sizeBytes) || !areRuns(history.runs, history.sizeBytes))
    return "the runs of its history make no sense";
  return areHistoryParts(history.parts, history.from.lsn, moment.lsn)
    ? undefined
    : "the parts of its history make no sense";
}

function areRuns(value: unknown, sizeBytes: number): value is Run[] {
  if (!Array.isArray(value) || value.length > RUNS_MAX) return false;
  // A run may reach beyond a volume that was made smaller.
  const isRun = (run: unknown) => isRecord(run) && areParts((run as Partial<Run>).parts);
  return value.every(isRun) && sizeBytes > 0;
}

function areParts(value: unknown): value is RunPart[] {
  if (!Array.isArray(value) || value.length > PARTS_MAX) return false;
  let lba = 0;
  return value.every((item: unknown) => {
    const part = item as RunPart | null;
    if (!isRecord(part) || !isHashName(part.name)) return false;
    const { firstLba, endLba, extentCount, sizeBytes } = part;
    const isPlaced = isCount(firstLba) && isCount(endLba) && firstLba >= lba && endLba > firstLba;
    lba = endLba;
    return isPlaced && endLba <= LBA_END_MAX && isCount(extentCount) && isCount(sizeBytes);
  });
}

function areHistoryParts(value: unknown, from: number, to: number): value is HistoryPart[] {
  if (!Array.isArray(value) || value.length > PARTS_MAX) return false;
  let lsn = from + 1;
  return value.every((item: unknown) => {
    const part = item as HistoryPart | null;
    if (!isRecord(part) || !isHashName(part.name)) return false;
    const { firstLsn, endLsn, entryCount, sizeBytes } = part;
    const isPlaced = isCount(firstLsn) && isCount(endLsn) && firstLsn >= lsn && endLsn > firstLsn;
    lsn = endLsn - 1;
    return isPlaced && endLsn <= to + 1 && isCount(entryCount) && isCount(sizeBytes);
  });
}

function isMoment(value: unknown): value is ManifestMoment {
  const moment = value as ManifestMoment | null;
  return (
    isRecord(moment) && isCount(moment.lsn) && isCount(moment.branch) && isCount(moment.timeMicros)
  );
}

function isVolumeSize(value: unknown): value is number {
  return isSize(value) && value <= LBA_END_MAX * BLOCK_BYTES;
}

function isHexId(value: unknown): value is string {
  return isText(value) && HEX_ID.test(value);
}

function isRecord<T>(value: T): value is NonNullable<T> {
  return typeof value === "object" && value !== null;
}
