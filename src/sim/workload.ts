// SPDX-License-Identifier: Apache-2.0
//
// Clients by chance: some connections, each with requests in flight, over a changing set of volumes. They
// write where others write, read back and check, trim and zero, flush, make volumes and remove them, go
// idle so that background work happens, and see the clock step. What they do comes from the seed; what is
// right, from the model. One burst ends when its budget of requests is used up, or with the machine.

import { AssertionError, assert, must } from "../base/assert.ts";
import { type ContentPattern, fillContent, SECTOR_BYTES } from "./content.ts";
import type { SimMachine } from "./machine.ts";
import type { DiskModel } from "./model.ts";
import type { CatalogChange } from "./model-operation.ts";
import type { VolumeModel } from "./model-volume.ts";
import type { PoolUnderTest, StoreRequest } from "./pool-under-test.ts";
import type { Prng } from "./prng.ts";
import { bug, callCatalog, violationOf } from "./rig.ts";
import type { Violation } from "./violation.ts";

const BLOCK_BYTES = 4096;

/** How the clients of one life behave. */
export interface WorkloadProfile {
  readonly connectionCount: number;
  readonly depthMax: number;
  /** Longest pause of a connection between requests, µs. */
  readonly thinkMicrosMax: number;
  readonly volumeCountMax: number;
  /** Volumes are up to so large; what is touched of them lies in a few islands. */
  readonly volumeBytesMax: number;
  readonly islandBytes: number;
  readonly islandCount: number;
  /** How often a client does what, in any unit. */
  readonly weights: Readonly<Record<Activity, number>>;
  readonly forceUnitAccessRatio: number;
  /** Lengths of writes: mostly up to this. */
  readonly usualBytesMax: number;
  /** How often a request is as large as a request gets (beyond 1 MiB). */
  readonly hugeRatio: number;
  /** How often a request begins or ends inside a sector. */
  readonly oddRatio: number;
  /** Requests may meet others that are under way; careful clients wait for these first. */
  readonly areOverlapsSent: boolean;
  /** Trims are of whole blocks: a store that is full may leave parts of blocks as they are, and no model knows which. */
  readonly areTrimsWhole: boolean;
}

type Activity = "write" | "read" | "trim" | "zero" | "flush" | "catalog" | "checkpoint" | "pause";

/** Draws the clients of one life. */
export function drawProfile(prng: Prng): WorkloadProfile {
  const islandCount = prng.between(1, 4);
  return {
    connectionCount: prng.between(1, 4),
    depthMax: prng.pick([1, 2, 8, 24]),
    thinkMicrosMax: prng.pick([0, 100, 3000]),
    volumeCountMax: prng.between(1, 5),
    volumeBytesMax: prng.pick([2 ** 20, 4 * 2 ** 20, 2 ** 30, 2 ** 44]),
    islandBytes: prng.pick([16384, 32768, 65536]),
    islandCount,
    weights: {
      write: prng.pick([10, 20, 40]),
      read: prng.pick([2, 8]),
      trim: prng.pick([0, 2, 6]),
      zero: prng.pick([0, 2]),
      flush: prng.pick([0, 1, 4, 12]),
      catalog: prng.pick([0, 0.5, 2]),
      checkpoint: prng.pick([0, 0.3, 1]),
      pause: prng.pick([0.1, 0.5]),
    },
    forceUnitAccessRatio: prng.pick([0, 0, 0.1, 0.5]),
    usualBytesMax: prng.pick([512, 4096, 16384, 65536]),
    hugeRatio: prng.pick([0, 0, 0, 0.002]),
    oddRatio: prng.pick([0, 0.1, 0.5]),
    areOverlapsSent: prng.chance(0.5),
    areTrimsWhole: false,
  };
}

const NAMES = ["a", "b", "c", "d", "e", "f"];
const HUGE_BYTES_MAX: number = (1 << 20) + (1 << 19);
const VOLUME_UNIT_BYTES = SECTOR_BYTES;
const READ_BYTES_MAX = 65536;
const FILLER_BYTE = 0xa5;
const SCRIBBLE_BYTE = 0xdb;
const PAUSE_MICROS_MAX = 2_000_000;

export interface WorkloadOptions {
  readonly machine: SimMachine;
  readonly model: DiskModel;
  readonly pool: PoolUnderTest;
  readonly prng: Prng;
  readonly profile: WorkloadProfile;
  readonly volumeBytesMin: number;
  readonly requestCount: number;
  /** Requests may fail: the disk does. */
  readonly areFailuresExpected: boolean;
  /** A check failed. */
  readonly onViolation: (violation: Violation) => void;
}

/** One burst of requests against one process. */
export class Workload {
  readonly #options: WorkloadOptions;
  #budget: number;
  #inFlightCount = 0;
  #doneCount = 0;
  #isCatalogBusy = false;
  /** A change of the catalog failed: what follows would build on what nobody knows. */
  #isCatalogInDoubt = false;
  /** Requests under way on each volume; a volume that is being changed takes none. */
  readonly #busy = new Map<VolumeModel, number>();
  readonly #locked = new Set<VolumeModel>();
  readonly #ranges = new Set<Range>();

  constructor(options: WorkloadOptions) {
    this.#options = options;
    this.#budget = options.requestCount;
  }

  /** All requests were made and have ended. */
  get isDone(): boolean {
    return this.#budget === 0 && this.#inFlightCount === 0;
  }

  /** Requests that have ended. */
  get doneCount(): number {
    return this.#doneCount;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  start(): void {
    const { profile } = this.#options;
    for (let connection = 0; connection < profile.connectionCount; connection++) {
      this.#turn({ inFlightCount: 0, isScheduled: false });
    }
  }

  /** A connection's next moment: some requests at once, as they arrive in one piece of a stream. */
  #turn(connection: Connection): void {
    const { prng, profile, machine } = this.#options;
    // The machine may have gone down inside the request that was just made: nobody comes after it.
    if (connection.isScheduled || !machine.isUp) return;
    connection.isScheduled = true;
    const isPausing = prng.chance(profile.weights.pause / 100);
    const delay = isPausing ? prng.below(PAUSE_MICROS_MAX) : prng.below(profile.thinkMicrosMax + 1);
    const event = { what: "client", process: machine.process };
    machine.scheduler.schedule(delay, event, () => {
      connection.isScheduled = false;
      let count = prng.skewed(profile.depthMax);
      while (count > 0 && this.#budget > 0 && connection.inFlightCount < profile.depthMax) {
        if (!machine.isUp) return;
        count -= 1;
        this.#budget -= 1;
        this.#act(connection);
      }
      if (this.#budget > 0 && connection.inFlightCount < profile.depthMax) this.#turn(connection);
    });
  }

  #act(connection: Connection): void {
    const { prng, profile, machine, model, pool } = this.#options;
    const volumes = model.volumes().filter((volume) => !this.#locked.has(volume));
    const activity: Activity = volumes.length === 0 ? "catalog" : draw(prng, profile.weights);
    if (activity === "catalog") {
      this.#changeCatalog(connection);
    } else if (activity === "checkpoint") {
      const ended = this.#begin(connection, undefined);
      settle(pool.checkpoint(), (error) => ended(() => this.#judge("checkpoint", error)));
    } else if (activity === "pause") {
      if (prng.chance(0.3)) machine.stepClock(prng.between(-3600, 3600) * 500_000);
    } else {
      this.#request(connection, activity, prng.pick(volumes));
    }
  }

  #request(
    connection: Connection,
    activity: Exclude<Activity, "catalog" | "checkpoint" | "pause">,
    volume: VolumeModel,
  ): void {
    switch (activity) {
      case "flush":
        this.#flush(connection, volume);
        return;
      case "read":
        this.#read(connection, volume);
        return;
      case "write":
        this.#write(connection, volume);
        return;
      case "trim":
      case "zero":
        this.#clear(connection, volume, activity);
        return;
      default:
        activity satisfies never;
    }
  }

  #flush(connection: Connection, volume: VolumeModel): void {
    const { model, pool, prng } = this.#options;
    const flush = model.beginFlush();
    const ended = this.#begin(connection, volume);
    const end = (failure: unknown): void =>
      ended(() => {
        model.endFlush(flush, failure === 0 ? 0 : -1);
        this.#judge("flush", failure);
      });
    if (prng.chance(0.2)) settle(pool.flush(), (error) => end(error ?? 0));
    else this.#submit(volume, { kind: "flush" }, end);
  }

  #read(connection: Connection, volume: VolumeModel): void {
    const { model, prng } = this.#options;
    const place = this.#place(volume, prng.skewed(READ_BYTES_MAX));
    const { offsetBytes, lengthBytes } = place;
    if (!this.#maySend(volume, place, false)) return;
    const read = model.beginRead(volume, offsetBytes, lengthBytes);
    const target = new Uint8Array(lengthBytes).fill(FILLER_BYTE);
    const ended = this.#begin(connection, volume, { ...place, isChange: false });
    this.#submit(volume, { kind: "read", offsetBytes, target }, (errno) =>
      ended(() => {
        this.#judge("read", errno);
        if (errno !== 0) {
          model.endFailedRead(read);
          return;
        }
        const violation = model.endRead(read, target);
        if (violation !== undefined) this.#options.onViolation(violation);
      }),
    );
  }

  #write(connection: Connection, volume: VolumeModel): void {
    const { model, prng, profile } = this.#options;
    const isHuge = prng.chance(profile.hugeRatio) && volume.sizeBytes >= HUGE_BYTES_MAX;
    const bytes = isHuge
      ? HUGE_BYTES_MAX
      : prng.pick([512, 4096, prng.skewed(profile.usualBytesMax)]);
    const place = this.#place(volume, bytes);
    const { offsetBytes, lengthBytes } = place;
    if (!this.#maySend(volume, place, true)) return;
    const draws = prng.below(10);
    const pattern: ContentPattern = draws === 0 ? "zeros" : draws === 1 ? "repeated" : "stamped";
    const isForceUnitAccess = prng.chance(profile.forceUnitAccessRatio);
    const change = { kind: "write", pattern } as const;
    const operation = model.begin(volume, { change, offsetBytes, lengthBytes, isForceUnitAccess });
    const source = new Uint8Array(lengthBytes);
    fillContent(
      source,
      { volumeId: volume.id, sequence: operation.sequence, pattern },
      offsetBytes,
    );
    const ended = this.#begin(connection, volume, { ...place, isChange: true });
    this.#submit(volume, { kind: "write", offsetBytes, source, isForceUnitAccess }, (errno) =>
      ended(() => {
        model.end(operation, errno);
        this.#judge("write", errno);
        // The buffer is the client's again: a store that still looks at it finds this.
        source.fill(SCRIBBLE_BYTE);
      }),
    );
  }

  #clear(connection: Connection, volume: VolumeModel, kind: "trim" | "zero"): void {
    const { model, prng, profile } = this.#options;
    const isWhole = prng.chance(0.05);
    const drawn = isWhole
      ? { offsetBytes: 0, lengthBytes: volume.sizeBytes }
      : this.#place(volume, prng.skewed(profile.islandBytes));
    const place = kind === "trim" && profile.areTrimsWhole ? wholeBlocksIn(drawn) : drawn;
    if (place.lengthBytes <= 0 || !this.#maySend(volume, place, true)) return;
    const isForceUnitAccess = prng.chance(profile.forceUnitAccessRatio);
    const change = { kind: "zero" } as const;
    const operation = model.begin(volume, { change, ...place, isForceUnitAccess });
    const ended = this.#begin(connection, volume, { ...place, isChange: true });
    this.#submit(volume, { kind, ...place, isForceUnitAccess }, (errno) =>
      ended(() => {
        model.end(operation, errno);
        this.#judge(kind, errno);
      }),
    );
  }

  #changeCatalog(connection: Connection): void {
    const { model, pool, prng } = this.#options;
    if (this.#isCatalogBusy || this.#isCatalogInDoubt) return;
    const free = model.volumes().filter((volume) => (this.#busy.get(volume) ?? 0) === 0);
    const change = this.#drawCatalogChange(free.length > 0);
    if (change === undefined) return;
    const volume = change.kind === "create" ? undefined : prng.pick(free);
    const name = volume?.name ?? "";
    const operation =
      change.kind === "create"
        ? model.createVolume(change.name, change.sizeBytes)
        : model.begin(must(volume, "a change has a volume"), { change });
    const target = operation.volume as VolumeModel;
    this.#isCatalogBusy = true;
    this.#locked.add(target);
    const ended = this.#begin(connection, target);
    settle(callCatalog(pool, name, change), (error) =>
      ended(() => {
        this.#isCatalogBusy = false;
        this.#locked.delete(target);
        model.end(operation, error === undefined ? 0 : -1);
        this.#judge(change.kind, error);
        if (error === undefined) return;
        this.#isCatalogInDoubt = true;
        const violation = model.settleCatalog(pool.volumes());
        if (violation !== undefined) this.#options.onViolation(violation);
      }),
    );
  }

  #drawCatalogChange(hasFree: boolean): CatalogChange | undefined {
    const { model, prng, profile } = this.#options;
    const volumes = model.volumes();
    const taken = new Set(volumes.map(({ name }) => name));
    const names = NAMES.filter((name) => !taken.has(name));
    const sizeBytes = this.#drawSize();
    const kind = prng.pick(["create", "create", "remove", "rename", "resize"] as const);
    if (volumes.length === 0 || (kind === "create" && volumes.length < profile.volumeCountMax)) {
      return { kind: "create", name: prng.pick(names), sizeBytes };
    }
    if (!hasFree) return undefined;
    if (kind === "remove" && volumes.length > 1) return { kind };
    if (kind === "rename") return { kind, name: prng.pick(names) };
    return kind === "resize" ? { kind, sizeBytes } : undefined;
  }

  #drawSize(): number {
    const { prng, profile, volumeBytesMin } = this.#options;
    const span = Math.max(1, profile.volumeBytesMax - volumeBytesMin);
    const extra = prng.chance(0.3) ? 0 : prng.skewed(span);
    return Math.floor((volumeBytesMin + extra) / VOLUME_UNIT_BYTES) * VOLUME_UNIT_BYTES;
  }

  /** A range in one of the islands that are used of a volume, inside it and certain enough. */
  #place(volume: VolumeModel, bytes: number): Place {
    const { model, prng, profile } = this.#options;
    const { sizeBytes } = volume;
    assert(sizeBytes >= SECTOR_BYTES, "a volume has room for a sector");
    const islandBytes = Math.min(sizeBytes, profile.islandBytes);
    const island = prng.below(profile.islandCount);
    // The first island is at the beginning, the last at the end, whatever the size.
    const gap =
      profile.islandCount === 1 ? 0 : (sizeBytes - islandBytes) / (profile.islandCount - 1);
    const start = Math.floor((island * gap) / SECTOR_BYTES) * SECTOR_BYTES;
    const end = Math.min(sizeBytes, start + islandBytes);
    let offsetBytes = start + prng.below(end - start);
    let lengthBytes = bytes;
    const unit = prng.chance(0.5) ? 4096 : SECTOR_BYTES;
    const aligned = Math.max(0, Math.floor(offsetBytes / unit) * unit);
    const alignedLength = Math.max(
      SECTOR_BYTES,
      Math.ceil(lengthBytes / SECTOR_BYTES) * SECTOR_BYTES,
    );
    const isOdd =
      prng.chance(profile.oddRatio) &&
      model.isCertain(volume, offsetBytes - SECTOR_BYTES, bytes + 2 * SECTOR_BYTES);
    if (!isOdd) {
      offsetBytes = aligned;
      lengthBytes = alignedLength;
    }
    if (lengthBytes > sizeBytes) return { offsetBytes: 0, lengthBytes: sizeBytes };
    return { offsetBytes: Math.min(offsetBytes, sizeBytes - lengthBytes), lengthBytes };
  }

  #submit(volume: VolumeModel, request: StoreRequest, done: (errno: number) => void): void {
    const { machine, pool } = this.#options;
    const offset = request.kind === "flush" ? -1 : request.offsetBytes;
    const event = { subject: volume.name, first: offset, second: lengthOf(request) };
    machine.trace.record(machine.scheduler.nowMicros, `> ${request.kind}`, event);
    const process = machine.process;
    let isEnded = false;
    pool.submit(volume.name, request, (errno) => {
      // What a dead process says reaches nobody.
      if (process?.isAlive !== true) return;
      assert(!isEnded, "a request ends once");
      isEnded = true;
      const { subject, first } = event;
      machine.trace.record(machine.scheduler.nowMicros, `< ${request.kind}`, {
        subject,
        first,
        second: errno,
      });
      done(errno);
    });
  }

  /** False if the request would meet another one under way and clients don't send such. */
  #maySend(volume: VolumeModel, place: Place, isChange: boolean): boolean {
    if (this.#options.profile.areOverlapsSent) return true;
    const start = Math.floor(place.offsetBytes / SECTOR_BYTES) * SECTOR_BYTES;
    const sectorCount = Math.ceil((place.offsetBytes + place.lengthBytes - start) / SECTOR_BYTES);
    const end = start + sectorCount * SECTOR_BYTES;
    for (const range of this.#ranges) {
      const isMet = range.offsetBytes < end && range.offsetBytes + range.lengthBytes > start;
      if (range.volume === volume && isMet && (isChange || range.isChange)) return false;
    }
    return true;
  }

  /** Books a request; the returned function ends it, unless the process has died. */
  #begin(
    connection: Connection,
    volume: VolumeModel | undefined,
    place?: Place & { readonly isChange: boolean },
  ): (judge: () => void) => void {
    const { machine } = this.#options;
    const process = machine.process;
    connection.inFlightCount += 1;
    this.#inFlightCount += 1;
    if (volume !== undefined) this.#busy.set(volume, (this.#busy.get(volume) ?? 0) + 1);
    const range = volume === undefined || place === undefined ? undefined : { volume, ...place };
    if (range !== undefined) this.#ranges.add(range);
    return (judge) => {
      if (process?.isAlive !== true) return;
      connection.inFlightCount -= 1;
      this.#inFlightCount -= 1;
      this.#doneCount += 1;
      if (volume !== undefined) this.#busy.set(volume, (this.#busy.get(volume) ?? 0) - 1);
      if (range !== undefined) this.#ranges.delete(range);
      judge();
      if (this.#budget > 0) this.#turn(connection);
    };
  }

  /** A failure that nothing explains. */
  #judge(what: string, failure: unknown): void {
    if (failure === 0 || failure === undefined) return;
    const { onViolation, areFailuresExpected } = this.#options;
    if (failure instanceof AssertionError) onViolation(bug(failure));
    else if (!areFailuresExpected) {
      const check = "no request fails while the disk works";
      onViolation(violationOf(check, `${what} succeeds`, failure));
    }
  }
}

interface Place {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

interface Range extends Place {
  readonly volume: VolumeModel;
  readonly isChange: boolean;
}

interface Connection {
  inFlightCount: number;
  isScheduled: boolean;
}

function lengthOf(request: StoreRequest): number {
  switch (request.kind) {
    case "read":
      return request.target.length;
    case "write":
      return request.source.length;
    case "flush":
      return 0;
    default:
      return request.lengthBytes;
  }
}

function wholeBlocksIn(place: { readonly offsetBytes: number; readonly lengthBytes: number }): {
  offsetBytes: number;
  lengthBytes: number;
} {
  const offsetBytes = Math.ceil(place.offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
  const end = place.offsetBytes + place.lengthBytes;
  return { offsetBytes, lengthBytes: Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES - offsetBytes };
}

/** Calls back with undefined or the error. A promise of a dead process never settles. */
function settle(promise: Promise<unknown>, done: (error: unknown) => void): void {
  promise.then(
    () => done(undefined),
    (error: unknown) => done(error ?? new Error("a promise was rejected with nothing")),
  );
}

function draw(prng: Prng, weights: Readonly<Record<Activity, number>>): Activity {
  const entries = Object.entries(weights) as [Activity, number][];
  let rest = prng.fraction() * entries.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [activity, weight] of entries) {
    rest -= weight;
    if (rest < 0) return activity;
  }
  return "write";
}
