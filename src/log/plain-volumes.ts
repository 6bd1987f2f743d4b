// SPDX-License-Identifier: Apache-2.0
//
// Volumes as the records made them, for readers that need their names, sizes and branches, and nothing else of the
// catalog. What contradicts itself is the catalog's to find (pool/catalog.ts).

import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import { RECORD_KIND } from "./record.ts";

export interface PlainVolume {
  readonly id: number;
  name: string;
  sizeBytes: number;
  branch: number;
  isRemoved: boolean;
}

/** What a shrink takes from a branch. */
export interface CutOff {
  readonly branch: number;
  readonly lba: number;
  readonly blockCount: number;
}

/** Applies a record with JSON. Gives what it cut off: those blocks are holes from then on. */
export function applyToVolumes(
  volumes: Map<number, PlainVolume>,
  kind: number,
  body: Readonly<Record<string, unknown>>,
): CutOff | undefined {
  if (kind === RECORD_KIND.BRANCHES_FORGOTTEN) {
    for (const volume of forgotten(body.volumes)) volumes.delete(volume);
    return undefined;
  }
  const id = body.id as number;
  const { name, branch } = body;
  const volume = volumes.get(id);
  const isClone = kind === RECORD_KIND.BRANCHED && typeof name === "string";
  if (kind === RECORD_KIND.VOLUME_MADE || isClone) {
    const sizeBytes = body.sizeBytes as number;
    volumes.set(id, {
      ...{ id, name: name as string, sizeBytes },
      ...{ branch: branch as number, isRemoved: false },
    });
    return undefined;
  }
  if (volume === undefined) return undefined;
  switch (kind) {
    case RECORD_KIND.BRANCHED:
      volume.branch = branch as number;
      volume.sizeBytes = body.sizeBytes as number;
      return undefined;
    case RECORD_KIND.VOLUME_REMOVED:
      volume.isRemoved = true;
      return undefined;
    case RECORD_KIND.VOLUME_RESTORED:
      volume.isRemoved = false;
      volume.name = name as string;
      return undefined;
    case RECORD_KIND.VOLUME_SET:
      if (typeof name === "string") volume.name = name;
      return undefined;
    case RECORD_KIND.VOLUME_RESIZED:
      return resized(volume, body.sizeBytes as number);
    default:
      return undefined;
  }
}

/** Ids in a list of a branches-forgotten record. */
export function forgotten(list: unknown): readonly number[] {
  return Array.isArray(list) ? (list as number[]) : [];
}

function resized(volume: PlainVolume, sizeBytes: number): CutOff | undefined {
  const lba = Math.ceil(sizeBytes / BLOCK_BYTES);
  const blockCount = Math.ceil(volume.sizeBytes / BLOCK_BYTES) - lba;
  volume.sizeBytes = sizeBytes;
  return blockCount > 0 ? { branch: volume.branch, lba, blockCount } : undefined;
}
