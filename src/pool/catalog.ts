// SPDX-License-Identifier: Apache-2.0
//
// The catalog: volumes, branches, named moments and the policy of the pool, as the log's records made them. It is
// small, lives in memory, goes into every checkpoint as JSON and is brought up to date from the records behind it.
// Records are applied here and nowhere else, both when they are appended and when they are replayed, so that the two
// can't differ.
//
// Nothing is forgotten of what a volume was: names, sizes and branches are kept with the records that gave them.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { RECORD_KIND } from "../log/record.ts";
import {
  type Fields,
  isCount,
  isId,
  isNameField,
  isSize,
  type RecordPlace,
} from "./catalog-fields.ts";
import { MarkedExtents } from "./catalog-marks.ts";
import { NamedMoments } from "./catalog-moments.ts";
import {
  KEEPS_ALL,
  LIMITS_DEFAULT,
  limitsFrom,
  type PoolLimits,
  retentionFrom,
} from "./catalog-policy.ts";
import { CatalogSchedules } from "./catalog-schedules.ts";
import {
  type Branch,
  branchFrom,
  forgetStates,
  isStateOf,
  lastUndoable,
  newestState,
  newVolume,
  noteState,
  stateAt,
  summaryOf,
  type Undoable,
  type Volume,
  type VolumeState,
  volumeFrom,
} from "./catalog-volume.ts";
import type { Retention, VolumeSummary } from "./types.ts";
import { forgottenFrom } from "./unneeded-branches.ts";

export class Catalog {
  readonly volumes: Map<number, Volume> = new Map();
  readonly branches: Map<number, Branch> = new Map();
  readonly moments: NamedMoments = new NamedMoments();
  readonly marks: MarkedExtents = new MarkedExtents();
  readonly schedules: CatalogSchedules = new CatalogSchedules();
  readonly #live: Map<string, Volume> = new Map();
  nextVolume = 1;
  nextBranch = 1;
  retention: Retention = KEEPS_ALL;
  limits: PoolLimits = LIMITS_DEFAULT;

  /** The live volume of that name. Throws VOLUME_NOT_FOUND. */
  volumeNamed(name: string): Volume {
    const volume = this.#live.get(name);
    if (volume === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`);
    return volume;
  }

  /** The live volume of that name, else the one of that name that was removed last. */
  lastNamed(name: string): Volume | undefined {
    return this.#live.get(name) ?? this.lastRemoved(name);
  }

  /** Of those with that name the one that was removed last. */
  lastRemoved(name: string): Volume | undefined {
    let newest: Volume | undefined;
    for (const volume of this.volumes.values()) {
      if (volume.name !== name || volume.removedMicros === undefined) continue;
      const isNewer =
        newest === undefined || newestState(volume).fromLsn > newestState(newest).fromLsn;
      if (isNewer) newest = volume;
    }
    return newest;
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

  /** The volume that had the name at the moment #lsn, and what it was then. One at most: names are taken once. */
  volumeAt(name: string, lsn: number): { volume: Volume; state: VolumeState } | undefined {
    for (const volume of this.volumes.values()) {
      const state = stateAt(volume, lsn);
      if (state !== undefined && !state.isRemoved && state.name === name) return { volume, state };
    }
    return undefined;
  }

  /** Whether the volume, live or removed, goes on with this branch; else it was left, and never changes again. */
  isCurrent(branch: number): boolean {
    const volume = this.volumes.get(this.branches.get(branch)?.volume ?? 0);
    return volume?.branch === branch;
  }

  /** Whether it is what a volume holds now that isn't removed. */
  isServed(branch: number): boolean {
    const volume = this.volumes.get(this.branches.get(branch)?.volume ?? 0);
    return volume?.branch === branch && volume.removedMicros === undefined;
  }

  /** What the volume was at the moment #lsn; undefined: it wasn't made yet. */
  stateAt(volume: Volume, lsn: number): VolumeState | undefined {
    return stateAt(volume, lsn);
  }

  retentionOf({ retention }: Volume): Retention {
    return retention ?? this.retention;
  }

  /** What undoing the volume would take back. */
  lastUndoable(volume: Volume): Undoable | undefined {
    return lastUndoable(volume);
  }

  /**
   * Applies one record. False when it contradicts the catalog, and then nothing has changed: the log is damaged, or we
   * are wrong.
   */
  apply(kind: number, body: Fields, at: RecordPlace): boolean {
    switch (kind) {
      case RECORD_KIND.VOLUME_MADE:
        return this.#made(body, at);
      case RECORD_KIND.VOLUME_RESIZED:
        return this.#resized(body, at);
      case RECORD_KIND.VOLUME_REMOVED:
        return this.#removed(body, at);
      case RECORD_KIND.VOLUME_RESTORED:
        return this.#restored(body, at);
      case RECORD_KIND.VOLUME_SET:
        return this.#set(body, at);
      case RECORD_KIND.BRANCHED:
        return this.#branched(body, at);
      case RECORD_KIND.BRANCHES_FORGOTTEN:
        return this.#branchesForgotten(body);
      case RECORD_KIND.MOMENT_NAMED:
        return isBelow(body.lsn, at.lsn) && this.moments.named(body, this.#isLiveAt);
      case RECORD_KIND.VOLUME_MARKED: {
        const volume = this.#liveVolumeOf(body.id, at);
        return volume !== undefined && this.marks.marked(body, volume.branch, at.lsn);
      }
      case RECORD_KIND.MOMENT_FORGOTTEN:
        return this.moments.forgotten(body);
      case RECORD_KIND.MOMENT_SET:
        return this.moments.set(body);
      case RECORD_KIND.RETENTION_SET:
        return this.#retentionSet(body);
      case RECORD_KIND.SCHEDULE_SET:
        return this.schedules.set(body);
      case RECORD_KIND.SCHEDULE_REMOVED:
        return this.schedules.removed(body);
      case RECORD_KIND.SCHEDULE_RAN:
        return this.schedules.ran(body);
      case RECORD_KIND.POOL_SET: {
        const limits = limitsFrom(body, this.limits);
        this.limits = limits ?? this.limits;
        return limits !== undefined;
      }
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
      ...this.limits,
      volumes: [...this.volumes.values()].map((volume) => ({
        ...volume,
        states: [...volume.states],
      })),
      branches: [...this.branches.values()],
      moments: this.moments.toJson(),
      marks: this.marks.toJson(),
      schedules: this.schedules.toJson(),
    };
  }

  /** Rebuilds what `toJson` gave; what a former version didn't know has its default. Throws POOL_CORRUPT. */
  static fromJson(json: Fields): Catalog {
    const catalog = new Catalog();
    if (!catalog.#takeJson(json))
      throw new StorageError("POOL_CORRUPT", "index: checkpoint: its catalog makes no sense");
    return catalog;
  }

  checkInvariants(): void {
    for (const [name, volume] of this.#live) {
      assert(
        volume.name === name && volume.removedMicros === undefined,
        "a live name names a live volume",
      );
    }
    for (const volume of this.volumes.values()) {
      assert(isStateOf(volume, newestState(volume)), "a volume's newest state is what it is");
      assert(this.#hasItsBranches(volume), "a volume's branches are its own");
    }
    for (const { volume, lsn } of this.moments.all())
      assert(this.#isLiveAt(volume, lsn), "a named moment is one that the volume had");
  }

  // ---- from a checkpoint

  #takeJson(json: Fields): boolean {
    const { nextVolume, nextBranch, volumes, branches, moments = [], marks = [] } = json;
    const { retention: wanted = KEEPS_ALL, schedules, ...rest } = json;
    const retention = retentionFrom(wanted);
    const limits = limitsFrom(rest, LIMITS_DEFAULT);
    if (!isId(nextVolume) || !isId(nextBranch)) return false;
    if (retention === undefined || limits === undefined) return false;
    this.nextVolume = nextVolume;
    this.nextBranch = nextBranch;
    this.retention = retention;
    this.limits = limits;
    if (!Array.isArray(branches) || !branches.every((branch) => this.#takeBranch(branch)))
      return false;
    if (!Array.isArray(volumes) || !volumes.every((volume) => this.#takeVolume(volume)))
      return false;
    if (!this.marks.take(marks, (branch) => this.branches.has(branch))) return false;
    if (schedules !== undefined && !this.schedules.take(schedules)) return false;
    return this.moments.take(moments, this.#isLiveAt);
  }

  #takeBranch(json: unknown): boolean {
    const branch = branchFrom(json);
    if (branch === undefined || this.branches.has(branch.id)) return false;
    if (branch.id >= this.nextBranch) return false;
    if (branch.parent !== 0 && !this.branches.has(branch.parent)) return false;
    this.branches.set(branch.id, branch);
    return true;
  }

  #takeVolume(json: unknown): boolean {
    const volume = volumeFrom(json);
    if (volume === undefined || this.volumes.has(volume.id)) return false;
    if (volume.id >= this.nextVolume || !this.#hasItsBranches(volume)) return false;
    const isLive = volume.removedMicros === undefined;
    if (isLive && this.#live.has(volume.name)) return false;
    this.volumes.set(volume.id, volume);
    if (isLive) this.#live.set(volume.name, volume);
    return true;
  }

  // ---- records

  #made(body: Fields, at: RecordPlace): boolean {
    const { id, name, sizeBytes, branch } = body;
    if (!isId(id) || !isNameField(name) || !isSize(sizeBytes) || !isId(branch)) return false;
    if (this.volumes.has(id) || this.#live.has(name) || this.branches.has(branch)) return false;
    this.#addBranch({ id: branch, volume: id, parent: 0, parentLsn: 0, fromLsn: at.lsn });
    this.#addVolume(newVolume({ id, name, sizeBytes, branch }, at));
    return true;
  }

  #resized(body: Fields, at: RecordPlace): boolean {
    const volume = this.#liveVolumeOf(body.id, at);
    const { sizeBytes, priorLsn } = body;
    if (volume === undefined || !isSize(sizeBytes)) return false;
    if (priorLsn !== undefined && !isBelow(priorLsn, at.lsn)) return false;
    if (priorLsn !== undefined && priorLsn < newestState(volume).fromLsn) return false;
    volume.sizeBytes = sizeBytes;
    noteState(volume, at, priorLsn);
    return true;
  }

  #removed(body: Fields, at: RecordPlace): boolean {
    const volume = this.#liveVolumeOf(body.id, at);
    if (volume === undefined) return false;
    volume.removedMicros = at.timeMicros;
    this.#live.delete(volume.name);
    noteState(volume, at);
    return true;
  }

  /** Its old name may be another one's by now: the record says which it gets. */
  #restored({ id, name }: Fields, at: RecordPlace): boolean {
    const volume = this.#volumeOf(id, at);
    if (volume?.removedMicros === undefined) return false;
    if (!isNameField(name) || this.#live.has(name)) return false;
    volume.removedMicros = undefined;
    // Who brings it back wants to keep it.
    volume.isTemporary = false;
    volume.name = name;
    this.#live.set(name, volume);
    noteState(volume, at);
    return true;
  }

  #set(body: Fields, at: RecordPlace): boolean {
    const { name, isReadOnly, description, isDeduplicated, isCompressed } = body;
    const volume = this.#volumeOf(body.id, at);
    if (volume === undefined) return false;
    if (name !== undefined && name !== volume.name) {
      if (!isNameField(name) || this.#live.has(name)) return false;
      if (volume.removedMicros !== undefined) return false;
      this.#live.delete(volume.name);
      volume.name = name;
      this.#live.set(name, volume);
      noteState(volume, at);
    }
    if (typeof isReadOnly === "boolean") volume.isReadOnly = isReadOnly;
    if (typeof description === "string") volume.description = description;
    if (typeof isDeduplicated === "boolean") volume.isDeduplicated = isDeduplicated;
    if (typeof isCompressed === "boolean") volume.isCompressed = isCompressed;
    return true;
  }

  /** A clone makes a volume; a rewind and an undo go on with the volume's own past. */
  #branched(body: Fields, at: RecordPlace): boolean {
    const { id, branch, parent, parentLsn, sizeBytes, reason, name } = body;
    if (!isId(id) || !isId(branch) || !isId(parent) || !isSize(sizeBytes)) return false;
    const origin = this.branches.get(parent);
    if (origin === undefined || branch <= parent || this.branches.has(branch)) return false;
    if (!isBelow(parentLsn, at.lsn) || parentLsn < origin.fromLsn) return false;
    const begun = { id: branch, volume: id, parent, parentLsn, fromLsn: at.lsn };
    if (reason === "clone") {
      if (!isNameField(name) || this.volumes.has(id) || this.#live.has(name)) return false;
      const { isDeduplicated, isCompressed } = this.volumes.get(origin.volume) as Volume;
      this.#addBranch(begun);
      this.#addVolume({
        ...newVolume({ id, name, sizeBytes, branch }, at),
        isDeduplicated,
        isCompressed,
        isTemporary: body.isTemporary === true,
      });
      return true;
    }
    const volume = this.#liveVolumeOf(id, at);
    if ((reason !== "rewind" && reason !== "undo") || name !== undefined) return false;
    if (volume === undefined || origin.volume !== id) return false;
    this.#addBranch(begun);
    volume.branch = branch;
    volume.sizeBytes = sizeBytes;
    noteState(volume, at);
    return true;
  }

  /** Nothing that stays may need them. */
  #branchesForgotten(body: Fields): boolean {
    const forgotten = forgottenFrom(body);
    if (forgotten === undefined) return false;
    const branches = new Set(forgotten.branches);
    const volumes = new Set(forgotten.volumes);
    for (const branch of branches) if (!this.branches.has(branch)) return false;
    for (const volume of volumes)
      if (this.volumes.get(volume)?.removedMicros === undefined) return false;
    for (const { id, parent } of this.branches.values())
      if (!branches.has(id) && branches.has(parent)) return false;
    for (const { id, branch } of this.volumes.values())
      if (!volumes.has(id) && branches.has(branch)) return false;
    for (const { volume, lsn } of this.moments.all()) {
      const then = stateAt(this.volumes.get(volume) as Volume, lsn);
      if (volumes.has(volume) || then === undefined || branches.has(then.branch)) return false;
    }
    for (const branch of branches) {
      this.branches.delete(branch);
      this.marks.forgetBranch(branch);
    }
    for (const volume of volumes) this.volumes.delete(volume);
    for (const volume of this.volumes.values()) forgetStates(volume, branches);
    return true;
  }

  /** Of a volume where the record names one. */
  #retentionSet(body: Fields): boolean {
    if (body.volume === undefined) {
      const retention = retentionFrom(body);
      this.retention = retention ?? this.retention;
      return retention !== undefined;
    }
    const volume = isId(body.volume) ? this.volumes.get(body.volume) : undefined;
    const retention = body.isInherited === true ? undefined : retentionFrom(body);
    if (volume === undefined || (retention === undefined && body.isInherited !== true))
      return false;
    volume.retention = retention;
    return true;
  }

  #addBranch(branch: Branch): void {
    this.branches.set(branch.id, branch);
    this.nextBranch = Math.max(this.nextBranch, branch.id + 1);
  }

  #addVolume(volume: Volume): void {
    this.volumes.set(volume.id, volume);
    this.#live.set(volume.name, volume);
    this.nextVolume = Math.max(this.nextVolume, volume.id + 1);
  }

  /** Records come in their order: one from before what is known of the volume contradicts it. */
  #volumeOf(id: unknown, { lsn }: RecordPlace): Volume | undefined {
    const volume = isId(id) ? this.volumes.get(id) : undefined;
    return volume !== undefined && newestState(volume).fromLsn < lsn ? volume : undefined;
  }

  #liveVolumeOf(id: unknown, at: RecordPlace): Volume | undefined {
    const volume = this.#volumeOf(id, at);
    return volume?.removedMicros === undefined ? volume : undefined;
  }

  #hasItsBranches({ id, states }: Volume): boolean {
    return states.every(({ branch }) => this.branches.get(branch)?.volume === id);
  }

  readonly #isLiveAt = (id: number, lsn: number): boolean => {
    const volume = this.volumes.get(id);
    return volume !== undefined && stateAt(volume, lsn)?.isRemoved === false;
  };
}

function isBelow(value: unknown, lsn: number): value is number {
  return isCount(value) && value < lsn;
}
