// SPDX-License-Identifier: Apache-2.0
//
// The catalog: volumes, branches and the policy of the pool, as the log's records made them. It is small, lives in memory, goes into
// every checkpoint as JSON and is brought up to date from the records behind it. Records are applied here
// and nowhere else, both when they are appended and when they are replayed, so that the two can't differ.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { RECORD_KIND } from "../log/record.ts";
import type { Retention, VolumeSettings, VolumeSummary } from "./types.ts";

export interface Branch {
  readonly id: number;
  readonly volume: number;
  /** 0: begins empty. */
  readonly parent: number;
  readonly parentLsn: number;
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
  branch: number;
}

/** Records of a volume carry its id. */
export type VolumeRecord =
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_MADE;
      readonly body: {
        readonly id: number;
        readonly name: string;
        readonly sizeBytes: number;
        readonly branch: number;
      };
    }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_RESIZED;
      readonly body: { readonly id: number; readonly sizeBytes: number };
    }
  | { readonly kind: typeof RECORD_KIND.VOLUME_REMOVED; readonly body: { readonly id: number } }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_SET;
      readonly body: { readonly id: number; readonly name?: string } & VolumeSettings;
    };

export type CatalogRecord =
  | VolumeRecord
  | { readonly kind: typeof RECORD_KIND.RETENTION_SET; readonly body: Retention }
  | {
      readonly kind: typeof RECORD_KIND.POOL_SET;
      readonly body: { readonly poolSizeBytes: number };
    };

const KEEPS_ALL: Retention = { everyWriteMicros: null };

export class Catalog {
  readonly volumes: Map<number, Volume> = new Map();
  readonly branches: Map<number, Branch> = new Map();
  readonly #live: Map<string, Volume> = new Map();
  nextVolume = 1;
  nextBranch = 1;
  retention: Retention = KEEPS_ALL;
  /** Undefined: never set. */
  poolSizeBytes: number | undefined;

  /** The live volume of that name. Throws VOLUME_NOT_FOUND. */
  volumeNamed(name: string): Volume {
    const volume = this.#live.get(name);
    if (volume === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`);
    return volume;
  }

  has(name: string): boolean {
    return this.#live.has(name);
  }

  list(includesRemoved: boolean): VolumeSummary[] {
    const volumes = [...this.volumes.values()].filter(
      (volume) => includesRemoved || volume.removedMicros === undefined,
    );
    return volumes
      .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.id - b.id))
      .map(summaryOf);
  }

  /** Applies one record. False when it contradicts the catalog: then the log is damaged, or we are wrong. */
  apply(kind: number, body: Readonly<Record<string, unknown>>, timeMicros: number): boolean {
    switch (kind) {
      case RECORD_KIND.VOLUME_MADE:
        return this.#made(body, timeMicros);
      case RECORD_KIND.VOLUME_RESIZED: {
        const volume = this.#volumeOf(body);
        if (volume === undefined || !isSize(body.sizeBytes)) return false;
        volume.sizeBytes = body.sizeBytes;
        return true;
      }
      case RECORD_KIND.VOLUME_REMOVED: {
        const volume = this.#volumeOf(body);
        if (volume === undefined || volume.removedMicros !== undefined) return false;
        volume.removedMicros = timeMicros;
        this.#live.delete(volume.name);
        return true;
      }
      case RECORD_KIND.VOLUME_SET:
        return this.#set(body);
      case RECORD_KIND.RETENTION_SET:
        if (!isRetention(body)) return false;
        this.retention = { everyWriteMicros: body.everyWriteMicros };
        return true;
      case RECORD_KIND.POOL_SET:
        if (!isBytes(body.poolSizeBytes)) return false;
        this.poolSizeBytes = body.poolSizeBytes;
        return true;
      default:
        return true;
    }
  }

  /** A copy: a checkpoint writes it later, when the catalog has gone on. */
  toJson(): Record<string, unknown> {
    return {
      nextVolume: this.nextVolume,
      nextBranch: this.nextBranch,
      retention: this.retention,
      ...(this.poolSizeBytes === undefined ? {} : { poolSizeBytes: this.poolSizeBytes }),
      volumes: [...this.volumes.values()].map((volume) => ({ ...volume })),
      branches: [...this.branches.values()],
    };
  }

  /** Rebuilds what `toJson` gave; what a former version didn't know has its default. Throws POOL_CORRUPT. */
  static fromJson(json: Readonly<Record<string, unknown>>): Catalog {
    const catalog = new Catalog();
    const { nextVolume, nextBranch, volumes, branches, poolSizeBytes } = json;
    const { retention = KEEPS_ALL } = json;
    if (
      !isId(nextVolume) ||
      !isId(nextBranch) ||
      !isListOf(branches, isBranch) ||
      !isListOf(volumes, isVolume) ||
      !isRetention(retention) ||
      !(poolSizeBytes === undefined || isBytes(poolSizeBytes))
    )
      throw new StorageError("POOL_CORRUPT", "index: checkpoint: its catalog makes no sense");
    catalog.nextVolume = nextVolume;
    catalog.nextBranch = nextBranch;
    catalog.retention = { everyWriteMicros: retention.everyWriteMicros };
    catalog.poolSizeBytes = poolSizeBytes;
    for (const branch of branches) catalog.branches.set(branch.id, branch);
    for (const volume of volumes) {
      if (catalog.branches.get(volume.branch)?.volume !== volume.id)
        throw new StorageError("POOL_CORRUPT", "index: checkpoint: its catalog makes no sense");
      const kept: Volume = {
        ...volume,
        removedMicros: volume.removedMicros,
        isDeduplicated: volume.isDeduplicated !== false,
        isCompressed: volume.isCompressed !== false,
      };
      catalog.volumes.set(kept.id, kept);
      if (kept.removedMicros === undefined) catalog.#live.set(kept.name, kept);
    }
    return catalog;
  }

  checkInvariants(): void {
    for (const [name, volume] of this.#live) {
      assert(
        volume.name === name && volume.removedMicros === undefined,
        "a live name names a live volume",
      );
      assert(
        this.branches.get(volume.branch)?.volume === volume.id,
        "a volume's branch is its own",
      );
    }
  }

  #made(body: Readonly<Record<string, unknown>>, timeMicros: number): boolean {
    const { id, name, sizeBytes, branch } = body;
    if (!isId(id) || typeof name !== "string" || !isSize(sizeBytes) || !isId(branch)) return false;
    if (this.volumes.has(id) || this.#live.has(name) || this.branches.has(branch)) return false;
    const volume: Volume = {
      id,
      name,
      sizeBytes,
      createdMicros: timeMicros,
      removedMicros: undefined,
      isReadOnly: false,
      description: "",
      isDeduplicated: true,
      isCompressed: true,
      branch,
    };
    this.volumes.set(id, volume);
    this.#live.set(name, volume);
    this.branches.set(branch, { id: branch, volume: id, parent: 0, parentLsn: 0 });
    this.nextVolume = Math.max(this.nextVolume, id + 1);
    this.nextBranch = Math.max(this.nextBranch, branch + 1);
    return true;
  }

  #set(body: Readonly<Record<string, unknown>>): boolean {
    const volume = this.#volumeOf(body);
    if (volume === undefined) return false;
    if (typeof body.name === "string" && body.name !== volume.name) {
      if (this.#live.has(body.name) || volume.removedMicros !== undefined) return false;
      this.#live.delete(volume.name);
      volume.name = body.name;
      this.#live.set(volume.name, volume);
    }
    if (typeof body.isReadOnly === "boolean") volume.isReadOnly = body.isReadOnly;
    if (typeof body.description === "string") volume.description = body.description;
    if (typeof body.isDeduplicated === "boolean") volume.isDeduplicated = body.isDeduplicated;
    if (typeof body.isCompressed === "boolean") volume.isCompressed = body.isCompressed;
    return true;
  }

  #volumeOf(body: Readonly<Record<string, unknown>>): Volume | undefined {
    return typeof body.id === "number" ? this.volumes.get(body.id) : undefined;
  }
}

export function summaryOf(volume: Volume): VolumeSummary {
  const { id, name, sizeBytes, createdMicros, removedMicros } = volume;
  const { isReadOnly, description, isDeduplicated, isCompressed } = volume;
  return {
    id,
    name,
    sizeBytes,
    createdMicros,
    isReadOnly,
    description,
    isDeduplicated,
    isCompressed,
    ...(removedMicros === undefined ? {} : { removedMicros }),
  };
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0 && (value as number) < 2 ** 32;
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0 && (value as number) % 512 === 0;
}

function isBytes(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isRetention(value: unknown): value is Retention {
  const { everyWriteMicros } = (value ?? {}) as Partial<Retention>;
  return everyWriteMicros === null || isBytes(everyWriteMicros);
}

function isListOf<T>(value: unknown, isItem: (item: unknown) => item is T): value is T[] {
  return Array.isArray(value) && value.every(isItem);
}

function isBranch(value: unknown): value is Branch {
  const { id, volume } = (value ?? {}) as Partial<Branch>;
  return isId(id) && isId(volume);
}

function isVolume(value: unknown): value is Volume {
  const { id, name, sizeBytes, branch } = (value ?? {}) as Partial<Volume>;
  return isId(id) && typeof name === "string" && isSize(sizeBytes) && isId(branch);
}
