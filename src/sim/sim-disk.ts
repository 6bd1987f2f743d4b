// SPDX-License-Identifier: Apache-2.0
//
// A simulated file system: some directories on one disk of bounded size. It holds what would survive and
// what would not; SimDirectory (sim-directory.ts) is how programs see it. A crash doesn't change a disk,
// it makes a new one for the next life: the program that died may still be in the middle of a synchronous
// stretch, and goes on playing with the disk that it had, to no effect.
//
// Names are like content: creating, removing and renaming are volatile until the directory is synced,
// and a power loss keeps any of them without regard to the others. A rename is one change.

import { assert } from "../base/assert.ts";
import { diskError } from "../host/disk-error.ts";
import type { DiskOperationKind, Fault, FaultPlan } from "./faults.ts";
import type { Prng } from "./prng.ts";
import type { SimProcess, SimScheduler } from "./scheduler.ts";
import type { PowerLoss, StoredFile } from "./stored-file.ts";

/** Sets names: to a file, or to nothing. */
export interface NameChange {
  readonly sets: readonly (readonly [name: string, file: StoredFile | undefined])[];
}

/** The names of one directory, in both states. */
export class NameTable {
  readonly entries: Map<string, StoredFile>;
  readonly durableEntries: Map<string, StoredFile>;
  pending: NameChange[] = [];
  /** Changes made so far, durable or not. */
  changeCount = 0;
  /** Begun and not ended. */
  readonly flying: Set<NameChange> = new Set();

  constructor(entries: Map<string, StoredFile>, durableEntries: Map<string, StoredFile>) {
    this.entries = entries;
    this.durableEntries = durableEntries;
  }

  change(change: NameChange): void {
    this.changeCount += 1;
    this.pending.push(change);
    applyNames(this.entries, change);
  }

  /** Ends a sync that began when `changeCount` was `mark`. */
  finishSync(mark: number): void {
    const newerCount = this.changeCount - mark;
    const count = Math.max(0, this.pending.length - newerCount);
    for (const change of this.pending.splice(0, count)) applyNames(this.durableEntries, change);
  }
}

function applyNames(entries: Map<string, StoredFile>, { sets }: NameChange): void {
  for (const [name, file] of sets) {
    if (file === undefined) entries.delete(name);
    else entries.set(name, file);
  }
}

/** How long operations take, in µs: the speed of one simulated disk. */
export interface DiskSpeed {
  readonly readMicrosMax: number;
  readonly writeMicrosMax: number;
  readonly syncMicrosMax: number;
}

export const DISK_SPEEDS: readonly DiskSpeed[] = [
  { readMicrosMax: 1, writeMicrosMax: 1, syncMicrosMax: 1 },
  { readMicrosMax: 100, writeMicrosMax: 50, syncMicrosMax: 1000 },
  { readMicrosMax: 20_000, writeMicrosMax: 20_000, syncMicrosMax: 20_000 },
  { readMicrosMax: 100, writeMicrosMax: 200, syncMicrosMax: 200_000 },
];

export interface SimDiskOptions {
  readonly scheduler: SimScheduler;
  readonly prng: Prng;
  readonly capacityBytes: number;
  readonly speed: DiskSpeed;
  /** Asked at each operation; faults may come and go with it. */
  readonly faultPlan: FaultPlan | undefined;
  /** Called at each operation, after it was handed in: the place to crash. */
  readonly onOperation: ((number: number) => void) | undefined;
}

const GRAVEYARD_COUNT_MAX = 8;
const UNBOUNDED_FREE_BYTES = 2 ** 40;

export class SimDisk {
  readonly scheduler: SimScheduler;
  readonly prng: Prng;
  readonly directories: Map<string, NameTable> = new Map();
  capacityBytes: number;
  speed: DiskSpeed;
  faultPlan: FaultPlan | undefined;
  onOperation: ((number: number) => void) | undefined;
  /** Operations begun in this disk's life. */
  operationCount = 0;
  /** A datasync failed, and what it should have made durable may be gone from the page cache as well. */
  hasLostWrites = false;
  /** What removed files held: a power loss may show it where a file grew. */
  #graveyard: Uint8Array[] = [];

  constructor(options: SimDiskOptions) {
    this.scheduler = options.scheduler;
    this.prng = options.prng;
    this.capacityBytes = options.capacityBytes;
    this.speed = options.speed;
    this.faultPlan = options.faultPlan;
    this.onOperation = options.onOperation;
  }

  table(directory: string): NameTable {
    let table = this.directories.get(directory);
    if (table === undefined) {
      table = new NameTable(new Map(), new Map());
      this.directories.set(directory, table);
    }
    return table;
  }

  /** A file by its path ("log/0001.seg"), for tests that damage it. */
  file(path: string): StoredFile {
    const [directory, name] = path.split("/");
    const file = this.table(directory as string).entries.get(name as string);
    assert(file !== undefined, "a test damages files that exist");
    return file;
  }

  /** All paths, sorted. */
  paths(): string[] {
    return [...this.directories]
      .flatMap(([directory, { entries }]) =>
        [...entries.keys()].map((name) => `${directory}/${name}`),
      )
      .sort();
  }

  freeBytes(): number {
    if (this.capacityBytes === Number.POSITIVE_INFINITY) return UNBOUNDED_FREE_BYTES;
    return Math.max(0, this.capacityBytes - this.usedBytes());
  }

  usedBytes(): number {
    let usedBytes = 0;
    for (const { entries } of this.directories.values()) {
      for (const file of entries.values()) usedBytes += file.sizeBytes;
    }
    return usedBytes;
  }

  /** Bytes of a write that ends at `end` which the disk has no room for. */
  missingBytes(file: StoredFile, end: number): number {
    if (this.capacityBytes === Number.POSITIVE_INFINITY || end <= file.sizeBytes) return 0;
    return Math.max(0, end - file.sizeBytes - this.freeBytes());
  }

  bury(file: StoredFile): void {
    this.#graveyard.push(file.durableBytes);
    if (this.#graveyard.length > GRAVEYARD_COUNT_MAX) this.#graveyard.shift();
  }

  /** Counts, traces and perhaps fails an operation that begins. */
  begin(
    operation: { readonly kind: DiskOperationKind; readonly path: string },
    numbers: { readonly first: number; readonly second: number },
  ): Fault | undefined {
    this.operationCount += 1;
    const { kind, path } = operation;
    this.scheduler.trace.record(this.scheduler.nowMicros, kind, { subject: path, ...numbers });
    this.onOperation?.(this.operationCount);
    const fault = this.faultPlan?.({ kind, path, number: this.operationCount });
    if (fault !== undefined) {
      const event = { subject: path, first: this.operationCount, second: 0 };
      this.scheduler.trace.record(this.scheduler.nowMicros, `fault ${fault}`, event);
    }
    return fault;
  }

  /** How long the operation that begins takes. */
  drawMicros(kind: DiskOperationKind): number {
    switch (kind) {
      case "read":
        return this.prng.skewed(this.speed.readMicrosMax);
      case "datasync":
      case "sync":
        return this.prng.skewed(this.speed.syncMicrosMax);
      default:
        return this.prng.skewed(this.speed.writeMicrosMax);
    }
  }

  /** The disk for the next life after a process died: everything that was done stays. */
  forkKilled(): SimDisk {
    const next = this.#successor();
    const forks = new Map<StoredFile, StoredFile>();
    const fork = (file: StoredFile): StoredFile =>
      memo(forks, file, () => file.forkKilled(this.prng));
    for (const [directory, table] of this.directories) {
      for (const change of table.flying) if (this.prng.chance(0.5)) table.change(change);
      const copy = new NameTable(
        mapFiles(table.entries, fork),
        mapFiles(table.durableEntries, fork),
      );
      copy.pending = table.pending.map(({ sets }) => ({
        sets: sets.map(
          ([name, file]) => [name, file === undefined ? undefined : fork(file)] as const,
        ),
      }));
      next.directories.set(directory, copy);
    }
    return next;
  }

  /** The disk as a power loss leaves it. */
  forkPowerLoss(loss: PowerLoss): SimDisk {
    const next = this.#successor();
    const forks = new Map<StoredFile, StoredFile>();
    const fork = (file: StoredFile): StoredFile =>
      memo(forks, file, () => {
        const stale = this.#graveyard.length === 0 ? undefined : this.prng.pick(this.#graveyard);
        return file.forkPowerLoss(loss, this.prng, stale);
      });
    for (const [directory, table] of this.directories) {
      const names = new Map(table.durableEntries);
      const changes = [...table.pending, ...table.flying];
      const survivorCount = this.prng.below(changes.length + 1);
      changes.forEach((change, index) => {
        if (isNameChangeKept(loss, { index, survivorCount, prng: this.prng })) {
          applyNames(names, change);
        }
      });
      const entries = mapFiles(names, fork);
      next.directories.set(directory, new NameTable(entries, new Map(entries)));
    }
    return next;
  }

  #successor(): SimDisk {
    const next = new SimDisk({
      scheduler: this.scheduler,
      prng: this.prng,
      capacityBytes: this.capacityBytes,
      speed: this.speed,
      faultPlan: this.faultPlan,
      onOperation: this.onOperation,
    });
    next.#graveyard = this.#graveyard.slice();
    return next;
  }
}

function isNameChangeKept(
  { shape }: PowerLoss,
  { index, survivorCount, prng }: { index: number; survivorCount: number; prng: Prng },
): boolean {
  switch (shape) {
    case "all":
      return true;
    case "none":
      return false;
    case "prefix":
      return index < survivorCount;
    case "last":
    case "mixed":
    case "sectors":
      return prng.chance(0.5);
    default:
      return shape satisfies never;
  }
}

function mapFiles(
  entries: Map<string, StoredFile>,
  fork: (file: StoredFile) => StoredFile,
): Map<string, StoredFile> {
  return new Map([...entries].map(([name, file]) => [name, fork(file)]));
}

function memo<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}

/** What a name or a file of a disk raises, spelled as the real one does. */
export function simError(
  operation: { readonly kind: string; readonly path: string; readonly first?: number },
  errno: string,
): Error {
  const { kind, path, first } = operation;
  const position = first === undefined || first < 0 ? {} : { positionBytes: first };
  return diskError({ operation: kind, path, ...position }, errno);
}

/** Who looks at a disk. */
export interface DiskUser {
  readonly disk: SimDisk;
  readonly process: SimProcess;
}
