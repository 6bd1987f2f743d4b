// SPDX-License-Identifier: Apache-2.0
//
// The schedules of backups that a pool keeps: making, pausing and removing them, and noting how a run ended. Each is a record
// and nothing else. Running them is the daemon's: the pool knows no backup.

import { StorageError } from "../base/errors.ts";
import { checkName, nearest } from "../base/names.ts";
import { formatDuration } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";
import { RECORD_KIND } from "../log/record.ts";
import type { Tell } from "./bounded-events.ts";
import type { ScheduleRecord } from "./catalog-records.ts";
import {
  type CatalogSchedules,
  EVERY_MICROS_MAX,
  EVERY_MICROS_MIN,
  isPathText,
  SCHEDULE_VOLUMES_MAX,
  SCHEDULES_MAX,
  type Schedule,
  type ScheduleRun,
  type ScheduleSettings,
} from "./catalog-schedules.ts";

/** What a schedule is made from: its volumes by name. */
export type ScheduleWish = Omit<ScheduleSettings, "volumes"> & {
  readonly volumes: readonly string[];
};

/** A volume of a schedule as it is now. */
export interface ScheduledVolume {
  readonly id: number;
  /** undefined: nothing is known of it any more. */
  readonly name: string | undefined;
  readonly isRemoved: boolean;
}

/** What it needs of the catalog. */
export interface ScheduleCatalog {
  readonly schedules: CatalogSchedules;
  /** The live one. Throws VOLUME_NOT_FOUND. */
  volumeNamed(name: string): { readonly id: number };
  readonly volumes: {
    get(
      id: number,
    ): { readonly name: string; readonly removedMicros?: number | undefined } | undefined;
  };
}

export interface BackupSchedulesOptions {
  readonly catalog: () => ScheduleCatalog;
  readonly clock: Clock;
  /** Makes a record in the turn in which it is appended, and makes it durable. */
  readonly record: (make: () => ScheduleRecord) => Promise<unknown>;
  readonly tell: Tell;
}

export class BackupSchedules {
  readonly #options: BackupSchedulesOptions;

  constructor(options: BackupSchedulesOptions) {
    this.#options = options;
  }

  /** In the order in which they were made. */
  list(): readonly Schedule[] {
    return this.#options.catalog().schedules.all();
  }

  /** Throws SCHEDULE_NOT_FOUND. */
  named(name: string): Schedule {
    const { schedules } = this.#options.catalog();
    const found = schedules.named(name);
    if (found !== undefined) return found;
    const guess = nearest(
      name,
      schedules.all().map((one) => one.name),
    );
    throw new StorageError("SCHEDULE_NOT_FOUND", `schedule ${JSON.stringify(name)}: not found`, {
      ...(guess === undefined ? {} : { hint: `did you mean "${guess}"? see "varve schedule"` }),
      data: { schedule: name },
    });
  }

  volumesOf({ volumes }: Schedule): ScheduledVolume[] {
    const catalog = this.#options.catalog();
    return volumes.map((id) => {
      const volume = catalog.volumes.get(id);
      return { id, name: volume?.name, isRemoved: volume?.removedMicros !== undefined };
    });
  }

  /** Due for the first time now. Throws VOLUME_NOT_FOUND, NAME_INVALID, SCHEDULE_EXISTS, USAGE. */
  async make(wish: ScheduleWish): Promise<Schedule> {
    checkWish(wish);
    const { catalog, clock } = this.#options;
    await this.#options.record(() => {
      const { schedules } = catalog();
      if (schedules.named(wish.name) !== undefined) {
        throw new StorageError(
          "SCHEDULE_EXISTS",
          `schedule "${wish.name}": not made: there is one of that name`,
        );
      }
      if (schedules.all().length >= SCHEDULES_MAX)
        throw refusal(wish.name, `the pool has ${SCHEDULES_MAX} schedules already`);
      const now = Math.floor(clock.wallMicros());
      const volumes = wish.volumes.map((name) => catalog().volumeNamed(name).id);
      return {
        kind: RECORD_KIND.SCHEDULE_SET,
        body: {
          ...wish,
          volumes,
          schedule: schedules.nextId,
          beginMicros: now,
          activeMicros: now,
          isPaused: false,
        },
      };
    });
    const { name, target, everyMicros } = wish;
    this.#options.tell("info", "schedule.made", {
      schedule: name,
      volumes: wish.volumes,
      target,
      everyMs: everyMicros / 1000,
    });
    return this.named(name);
  }

  /** Throws SCHEDULE_NOT_FOUND. */
  async setPaused(name: string, isPaused: boolean): Promise<Schedule> {
    if (this.named(name).isPaused === isPaused) return this.named(name);
    const { record, clock, tell } = this.#options;
    await record(() => {
      const { id, lastRun: _run, lastDone: _done, ...fields } = this.named(name);
      const activeMicros = isPaused ? fields.activeMicros : Math.floor(clock.wallMicros());
      return {
        kind: RECORD_KIND.SCHEDULE_SET,
        body: { ...fields, schedule: id, activeMicros, isPaused },
      };
    });
    tell("info", isPaused ? "schedule.paused" : "schedule.resumed", { schedule: name });
    return this.named(name);
  }

  /** The points that it made stay. Throws SCHEDULE_NOT_FOUND. */
  async remove(name: string): Promise<Schedule> {
    const found = this.named(name);
    await this.#options.record(() => ({
      kind: RECORD_KIND.SCHEDULE_REMOVED,
      body: { schedule: this.named(name).id },
    }));
    this.#options.tell("info", "schedule.removed", { schedule: name });
    return found;
  }

  /** Notes how a run ended; of a schedule that is gone by now nothing. */
  async ran(id: number, run: ScheduleRun): Promise<void> {
    if (this.#options.catalog().schedules.find(id) === undefined) return;
    await this.#options.record(() => ({
      kind: RECORD_KIND.SCHEDULE_RAN,
      body: { schedule: id, ...run },
    }));
  }
}

/** Throws NAME_INVALID, USAGE. */
function checkWish({ name, volumes, target, everyMicros, ...rest }: ScheduleWish): void {
  const { keyFile, passphraseFile } = rest;
  checkName("schedule", name);
  if (volumes.length === 0 || volumes.length > SCHEDULE_VOLUMES_MAX)
    throw refusal(name, `it has 1 to ${SCHEDULE_VOLUMES_MAX} volumes, not ${volumes.length}`);
  if (new Set(volumes).size < volumes.length) throw refusal(name, "it names a volume twice");
  if (everyMicros < EVERY_MICROS_MIN || everyMicros > EVERY_MICROS_MAX)
    throw refusal(
      name,
      `its interval is 1 minute to 1 year, not ${formatDuration(everyMicros / 1000)}`,
    );
  for (const path of [target, keyFile, passphraseFile])
    if (path !== undefined && !isPathText(path))
      throw refusal(name, `${JSON.stringify(path.slice(0, 80))} is no absolute path`);
  if (keyFile !== undefined && passphraseFile !== undefined)
    throw refusal(name, "its target has a key or a passphrase, not both");
}

function refusal(name: string, why: string): StorageError {
  return new StorageError("USAGE", `schedule "${name}": not made: ${why}`, {
    hint: 'see "varve schedule --help"',
  });
}
