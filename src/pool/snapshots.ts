// SPDX-License-Identifier: Apache-2.0
//
// Snapshots: moments with names. Taking one is a record and nothing else, whatever the size and the number of the
// volumes: in the turn in which it is appended everything before it has its place in the log, so one record names one
// moment of them all. What expires is let go by a timer, late rather than early: a name is a promise.

import { StorageError } from "../base/errors.ts";
import { formatMoment, type Moment } from "../base/moment.ts";
import { checkName } from "../base/names.ts";
import type { Clock } from "../host/ports.ts";
import { RECORD_KIND } from "../log/record.ts";
import type { Tell } from "./bounded-events.ts";
import type { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { MomentName, NamedMoment } from "./catalog-moments.ts";
import type { MomentRecord } from "./catalog-records.ts";
import { stateAt, type Volume, type VolumeState } from "./catalog-volume.ts";
import { letGo, noSuchVolume, type ReachableHistory } from "./missing-moment.ts";
import { momentNamed } from "./moments.ts";
import type {
  ResolvedMoment,
  SnapshotChange,
  SnapshotOptions,
  SnapshotSummary,
  SnapshotTarget,
} from "./types.ts";

export interface SnapshotsOptions {
  readonly catalog: () => Catalog;
  readonly clock: Clock;
  readonly history: ReachableHistory;
  /** The last record of the log. */
  readonly newest: () => RecordPlace;
  /** Recorded time. */
  readonly nowMicros: () => number;
  readonly resolve: (volume: string, moment: Moment) => Promise<ResolvedMoment>;
  /** Makes a record in the turn in which it is appended, and makes it durable. */
  readonly record: (make: () => MomentRecord) => Promise<unknown>;
  readonly tell: Tell;
}

/** They all have to fit into one record. */
export const SNAPSHOT_TARGETS_MAX = 100;
const DESCRIPTION_LENGTH_MAX = 1000;
/** Expiry goes by the wall clock, which may be set: it is looked at once an hour at least. */
const SWEEP_MS_MAX = 3_600_000;
const RETRY_MS = 60_000;

export class Snapshots {
  readonly #options: SnapshotsOptions;
  #cancelSweep: () => void = () => {};
  #sweeping: Promise<void> | undefined;
  #isClosed = false;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
    this.#sweepLater(0);
  }

  /** Of one volume, live or removed, or of all; oldest first. Throws VOLUME_NOT_FOUND. */
  list(name?: string): SnapshotSummary[] {
    const catalog = this.#options.catalog();
    const volume = name === undefined ? undefined : catalog.lastNamed(name);
    if (name !== undefined && volume === undefined) throw noSuchVolume(name, catalog);
    const moments =
      volume === undefined ? [...catalog.moments.all()] : catalog.moments.of(volume.id);
    return moments
      .map((moment) => summaryOf(catalog, moment))
      .sort((a, b) => a.lsn - b.lsn || (a.volume < b.volume ? -1 : 1));
  }

  /**
   * Names one moment of all the volumes, or none. Throws VOLUME_NOT_FOUND, SNAPSHOT_EXISTS, NAME_INVALID; with `at`
   * MOMENT_NOT_FOUND, MOMENT_GONE, MOMENT_INVALID.
   */
  async take(
    targets: readonly SnapshotTarget[],
    options: SnapshotOptions = {},
  ): Promise<SnapshotSummary[]> {
    const { at, keepMicros, isProtected, description } = options;
    checkTargets(targets);
    checkDescription(description);
    const past = at === undefined ? [] : await this.#onePast(targets, at);
    let moments: readonly MomentName[] = [];
    await this.#record(() => {
      const { newest, nowMicros } = this.#options;
      moments = targets.map((target, index) => this.#nameable(target, past[index]));
      const place = past[0] ?? { lsn: newest().lsn, timeMicros: nowMicros() };
      return {
        kind: RECORD_KIND.MOMENT_NAMED,
        body: {
          lsn: place.lsn,
          timeMicros: place.timeMicros,
          moments,
          ...(keepMicros === undefined ? {} : { expiresMicros: this.#expiry(keepMicros) }),
          ...(isProtected === undefined ? {} : { isProtected }),
          ...(description === undefined ? {} : { description }),
        },
      };
    });
    const { catalog, tell } = this.#options;
    const named = moments.map((moment) => catalog().moments.find(moment));
    // One that expires at once may be gone again by now.
    const taken = named.filter((moment) => moment !== undefined);
    const summaries = taken.map((moment) => summaryOf(catalog(), moment));
    for (const { volume, name, lsn } of summaries)
      tell("info", "snapshot.taken", { volume, name, lsn });
    return summaries;
  }

  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, SNAPSHOT_EXISTS, NAME_INVALID. */
  async rename(target: SnapshotTarget, newName: string): Promise<SnapshotSummary> {
    checkName("moment", newName);
    const summary = await this.#change(target, (moment) => {
      this.#checkFree(moment.volume, target.volume, newName);
      return { newName };
    });
    const { volume, name } = target;
    this.#options.tell("info", "snapshot.renamed", { volume, name, to: newName });
    return summary;
  }

  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND. */
  async set(target: SnapshotTarget, change: SnapshotChange): Promise<SnapshotSummary> {
    const { keepMicros, isProtected, description } = change;
    checkDescription(description);
    const summary = await this.#change(target, () => ({
      ...(keepMicros === undefined
        ? {}
        : { expiresMicros: keepMicros === null ? null : this.#expiry(keepMicros) }),
      ...(isProtected === undefined ? {} : { isProtected }),
      ...(description === undefined ? {} : { description }),
    }));
    this.#options.tell("info", "snapshot.set", { ...target, ...change });
    return summary;
  }

  /** The moment itself stays as long as retention promises it. Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, SNAPSHOT_PROTECTED. */
  async remove(target: SnapshotTarget): Promise<SnapshotSummary> {
    let summary: SnapshotSummary | undefined;
    await this.#record(() => {
      const moment = this.#find(target);
      summary = summaryOf(this.#options.catalog(), moment);
      if (moment.isProtected) throw isProtectedError(target);
      const { volume, name } = moment;
      return { kind: RECORD_KIND.MOMENT_FORGOTTEN, body: { moments: [{ volume, name }] } };
    });
    this.#options.tell("info", "snapshot.removed", { ...target });
    return summary as SnapshotSummary;
  }

  /** Nothing is let go any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelSweep();
    await this.#sweeping;
  }

  async #record(make: () => MomentRecord): Promise<void> {
    await this.#options.record(make);
    this.#sweepLater(0);
  }

  async #change(
    target: SnapshotTarget,
    make: (moment: NamedMoment) => Omit<SnapshotSet, keyof MomentName>,
  ): Promise<SnapshotSummary> {
    let found: NamedMoment | undefined;
    let change: Omit<SnapshotSet, keyof MomentName> = {};
    await this.#record(() => {
      found = this.#find(target);
      change = make(found);
      const { volume, name } = found;
      return { kind: RECORD_KIND.MOMENT_SET, body: { volume, name, ...change } };
    });
    const { newName: name = target.name, ...rest } = change;
    return summaryOf(this.#options.catalog(), { ...(found as NamedMoment), ...rest, name });
  }

  #find({ volume, name }: SnapshotTarget): NamedMoment {
    return momentNamed(this.#options.catalog(), volume, name);
  }

  /** The same moment of all of them, found. */
  async #onePast(targets: readonly SnapshotTarget[], at: Moment): Promise<ResolvedMoment[]> {
    const { resolve } = this.#options;
    const past: ResolvedMoment[] = [];
    for (const { volume } of targets) {
      const lsn = past[0]?.lsn;
      // The second would be another -10m, if only by the time that the first has taken.
      const isShared = at.kind !== "flush" && at.kind !== "name";
      const moment: Moment = lsn === undefined || !isShared ? at : { kind: "lsn", lsn };
      const found = await resolve(volume, moment);
      if (lsn !== undefined && found.lsn !== lsn) throw notOne(at, targets);
      past.push({ ...found, timeMicros: past[0]?.timeMicros ?? found.timeMicros });
    }
    return past;
  }

  /** Throws unless the volume has that moment, and the name is free. */
  #nameable({ volume, name }: SnapshotTarget, past: ResolvedMoment | undefined): MomentName {
    const { catalog, history } = this.#options;
    const id = past?.volumeId ?? catalog().volumeNamed(volume).id;
    this.#checkFree(id, volume, name);
    // Looked at again, in this turn: retention goes on while moments are looked up.
    if (past !== undefined && !history.isReachable(past.branch, past.lsn))
      throw letGo({ volume, moment: { kind: "lsn", lsn: past.lsn } }, past, history);
    return { volume: id, name };
  }

  #checkFree(volume: number, volumeName: string, name: string): void {
    if (this.#options.catalog().moments.find({ volume, name }) === undefined) return;
    throw new StorageError(
      "SNAPSHOT_EXISTS",
      `moment "${volumeName}@${name}": not named: there is a snapshot of that name`,
      {
        hint: `choose another name, or see "varve snapshots ${volumeName}"`,
        data: { volume: volumeName, name },
      },
    );
  }

  #expiry(keepMicros: number): number {
    return Math.floor(this.#options.clock.wallMicros()) + keepMicros;
  }

  // ---- letting go

  /** Not before so long. */
  #sweepLater(leastMs: number): void {
    this.#cancelSweep();
    if (this.#isClosed) return;
    const { clock } = this.#options;
    const first = this.#nextExpiry();
    if (first === undefined) return;
    const dueMs = Math.ceil((first - clock.wallMicros()) / 1000);
    const delayMs = Math.min(Math.max(dueMs, leastMs, 0), SWEEP_MS_MAX);
    this.#cancelSweep = clock.after(delayMs, () => {
      this.#sweeping ??= this.#sweep().finally(() => {
        this.#sweeping = undefined;
      });
    });
  }

  #nextExpiry(): number | undefined {
    let first: number | undefined;
    for (const { expiresMicros } of this.#options.catalog().moments.all())
      if (expiresMicros !== null && expiresMicros < (first ?? Number.POSITIVE_INFINITY))
        first = expiresMicros;
    return first;
  }

  async #sweep(): Promise<void> {
    let expired: readonly NamedMoment[] = this.#expired();
    if (expired.length === 0) return this.#sweepLater(0);
    const { catalog, tell, record } = this.#options;
    try {
      await record(() => {
        expired = this.#expired();
        // Somebody was quicker, or gave them more time.
        if (expired.length === 0)
          throw new StorageError("MOMENT_NOT_FOUND", "snapshots: none has expired");
        const moments = expired.map(({ volume, name }) => ({ volume, name }));
        return { kind: RECORD_KIND.MOMENT_FORGOTTEN, body: { moments } };
      });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      return this.#sweepLater(RETRY_MS);
    }
    for (const { volume, name, lsn } of expired)
      tell("info", "snapshot.expired", { volume: catalog().volumes.get(volume)?.name, name, lsn });
    this.#sweepLater(0);
  }

  #expired(): NamedMoment[] {
    const now = this.#options.clock.wallMicros();
    return [...this.#options.catalog().moments.all()]
      .filter(({ expiresMicros }) => expiresMicros !== null && expiresMicros <= now)
      .slice(0, SNAPSHOT_TARGETS_MAX);
  }
}

type SnapshotSet = Extract<MomentRecord, { readonly kind: typeof RECORD_KIND.MOMENT_SET }>["body"];

function summaryOf(catalog: Catalog, moment: NamedMoment): SnapshotSummary {
  const { name, lsn, timeMicros, expiresMicros, isProtected, description } = moment;
  const volume = catalog.volumes.get(moment.volume) as Volume;
  return {
    volumeId: volume.id,
    volume: volume.name,
    name,
    lsn,
    timeMicros,
    sizeBytes: (stateAt(volume, lsn) as VolumeState).sizeBytes,
    ...(expiresMicros === null ? {} : { expiresMicros }),
    isProtected,
    description,
  };
}

function checkTargets(targets: readonly SnapshotTarget[]): void {
  const { length } = targets;
  if (length === 0 || length > SNAPSHOT_TARGETS_MAX)
    throw new StorageError(
      "USAGE",
      `snapshot: refused: ${length} names, 1 to ${SNAPSHOT_TARGETS_MAX} are allowed at a time`,
    );
  const seen = new Set<string>();
  for (const { volume, name } of targets) {
    checkName("moment", name);
    const text = `${volume}@${name}`;
    if (seen.has(text)) throw new StorageError("USAGE", `snapshot: refused: "${text}" twice`);
    seen.add(text);
  }
}

function checkDescription(description: string | undefined): void {
  const length = description?.length ?? 0;
  if (length > DESCRIPTION_LENGTH_MAX)
    throw new StorageError(
      "USAGE",
      `description: refused: ${length} characters, ${DESCRIPTION_LENGTH_MAX} are allowed`,
    );
}

function isProtectedError({ volume, name }: SnapshotTarget): StorageError {
  return new StorageError(
    "SNAPSHOT_PROTECTED",
    `moment "${volume}@${name}": not removed: it is protected`,
    {
      hint: `take the protection off first: varve set ${volume}@${name} protected=off`,
      data: { volume, name },
    },
  );
}

/** The last flushes of two volumes are two moments. */
function notOne(at: Moment, targets: readonly SnapshotTarget[]): StorageError {
  const [first] = targets;
  const text = formatMoment(at);
  return new StorageError(
    "MOMENT_INVALID",
    `moment "${text}": refused: it isn't the same one for all of ${targets.length} volumes`,
    { hint: `take that of one of them for all: varve resolve ${first?.volume}@${text}` },
  );
}
