// SPDX-License-Identifier: Apache-2.0
//
// What a backup under way has sent, as one object that it writes anew from time to time: sessions/<session>/progress.
// For each volume it has layers: a run from block 0 up to some block, of the moment that the backup was of. A backup
// that is started again puts its own on top of those it finds:
//
//     moment 30   #####|                       under way
//     moment 20   ##########|                  ended by a power cut
//     moment 10   #####|                       ended by hand
//     parent      ##########################   a point
//
// Each block is compared with the uppermost layer that reaches it, and a layer of the same moment simply goes on. So
// nothing is sent twice, and nothing is read twice that didn't change meanwhile.
//
// Losing this object costs time, never data: what was sent is then sent again.

import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { isCount, isId, isListOf, isText } from "../pool/catalog-fields.ts";
import { damagedDocument, readDocument, sealDocument } from "./document.ts";
import type { ManifestMoment } from "./manifest.ts";
import { LBA_END_MAX } from "./place.ts";
import type { RunPart } from "./run-writer.ts";
import { isHashName } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** What a run of an interrupted backup says of blocks [0, endLba). */
export interface ProgressLayer {
  readonly moment: ManifestMoment;
  readonly sizeBytes: number;
  readonly endLba: number;
  readonly parts: readonly RunPart[];
}

export interface ProgressVolume {
  readonly volumeId: number;
  /** The point whose runs lie below all layers. */
  readonly parentId?: string;
  /** The uppermost first. */
  readonly layers: readonly ProgressLayer[];
}

export interface SessionProgress {
  readonly volumes: readonly ProgressVolume[];
  /** Parts whose packs are known content, and nothing else. */
  readonly sent: readonly RunPart[];
}

export const NO_PROGRESS: SessionProgress = { volumes: [], sent: [] };

const PROGRESS_BYTES_MAX: number = 16 << 20;

interface ProgressPlace {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly sessionId: string;
}

export async function writeProgress(
  place: ProgressPlace & { readonly random: Random },
  progress: SessionProgress,
): Promise<void> {
  const { store, sealer, random } = place;
  const name = objectName(place);
  const body = Buffer.from(JSON.stringify(progress));
  // More than a reader takes is of no use to anybody.
  if (body.length > PROGRESS_BYTES_MAX) return;
  await store.put(name, sealDocument({ kind: "session", name, sealer, random }, body));
}

/** What there is; nothing where it is missing or damaged, for it can be done without. Throws TARGET_UNAVAILABLE. */
export async function readProgress(place: ProgressPlace): Promise<SessionProgress> {
  const { store, sealer } = place;
  const name = objectName(place);
  try {
    const bodyBytesMax = PROGRESS_BYTES_MAX;
    const found = await readDocument({ kind: "session", name, store, sealer, bodyBytesMax });
    return found === undefined ? NO_PROGRESS : decode(name, found.body);
  } catch (error) {
    const isDamaged =
      error instanceof StorageError &&
      (error.code === "TARGET_CORRUPT" || error.code === "FORMAT_UNSUPPORTED");
    if (isDamaged) return NO_PROGRESS;
    throw error;
  }
}

export function removeProgress(place: ProgressPlace): Promise<void> {
  return place.store.delete(objectName(place));
}

function objectName({ sessionId }: ProgressPlace): string {
  return `sessions/${sessionId}/progress`;
}

function decode(name: string, body: Uint8Array): SessionProgress {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body).toString());
  } catch (error) {
    throw damagedDocument(name, "it isn't JSON", error);
  }
  const progress = value as SessionProgress | null;
  const isWhole =
    isRecord(progress) &&
    isListOf(progress.volumes, isVolume) &&
    Array.isArray(progress.sent) &&
    progress.sent.every(isPart);
  if (!isWhole) throw damagedDocument(name, "it makes no sense");
  return progress;
}

function isVolume(value: unknown): value is ProgressVolume {
  const volume = value as ProgressVolume | null;
  return (
    isRecord(volume) &&
    isId(volume.volumeId) &&
    (volume.parentId === undefined || isText(volume.parentId)) &&
    isListOf(volume.layers, isLayer)
  );
}

function isLayer(value: unknown): value is ProgressLayer {
  const layer = value as ProgressLayer | null;
  if (!isRecord(layer) || !isRecord(layer.moment) || !Array.isArray(layer.parts)) return false;
  const { moment, sizeBytes, endLba, parts } = layer;
  const isMoment = isCount(moment.lsn) && isCount(moment.branch) && isCount(moment.timeMicros);
  if (!isMoment || !isCount(sizeBytes) || !isCount(endLba) || endLba > LBA_END_MAX) return false;
  let lba = 0;
  return parts.every((part: unknown) => {
    if (!isPart(part) || part.firstLba < lba || part.endLba > endLba) return false;
    lba = part.endLba;
    return true;
  });
}

function isPart(value: unknown): value is RunPart {
  const part = value as RunPart | null;
  if (!isRecord(part) || !isHashName(part.name)) return false;
  const { firstLba, endLba, extentCount, sizeBytes } = part;
  const isPlaced = isCount(firstLba) && isCount(endLba) && firstLba < endLba;
  return isPlaced && endLba <= LBA_END_MAX && isCount(extentCount) && isCount(sizeBytes);
}

function isRecord<T>(value: T): value is NonNullable<T> {
  return typeof value === "object" && value !== null;
}
