// SPDX-License-Identifier: Apache-2.0
//
// The metadata contexts that tell what changed: `qemu:dirty-bitmap:since:MOMENT`, with bit 0 for what differs between that
// moment of the volume and the disk that is exported. QEMU names its bitmaps so, and stock clients know how to read them;
// nothing has to be started, kept or cleared here for it.
//
// The moment is found once, when the client selects the context, and held like a view until its connection ends. It may
// lie before or behind the moment of a view: what differs is the same. Who asks must be allowed to open it.

import { StorageError } from "../base/errors.ts";
import { parseMoment } from "../base/moment.ts";
import type { Clock } from "../host/ports.ts";
import type { ContextEntry, FoundContext, OpenContext } from "../nbd/block-device.ts";
import type { DiffMoment, ResolvedMoment } from "../pool/types.ts";
import { ChangedStatus } from "./changed-status.ts";
import type { EventLog } from "./event-log.ts";
import type { ServedPast, ServedPool } from "./served-pool.ts";
import { Turns } from "./turns.ts";
import type { SharedViews } from "./views.ts";
import { namesOf } from "./volume-names.ts";

export const SINCE = "qemu:dirty-bitmap:since:";
/** Moments in a list of contexts, the newest: clients show all of them. */
export const LISTED_CONTEXTS_MAX = 100;
/** Comparisons under way at once, over all clients: each takes memory and reads. */
const LOOKS_MAX = 4;

export interface SinceContextsOptions {
  readonly pool: Pick<ServedPool, "volumes">;
  readonly past: ServedPast;
  readonly views: SharedViews;
  readonly events: EventLog;
  readonly clock: Pick<Clock, "monotoneMicros">;
}

/** An exported disk. */
export interface ComparedDisk {
  readonly volumeId: number;
  /** The volume, as the client named it. */
  readonly volume: string;
  /** The moment that the disk shows. */
  readonly to: () => Promise<DiffMoment>;
}

export class SinceContexts {
  readonly #options: SinceContextsOptions;
  readonly #turns = new Turns(LOOKS_MAX);

  constructor(options: SinceContextsOptions) {
    this.#options = options;
  }

  /** Of the volume's named moments. */
  entries({ volumeId, volume }: ComparedDisk): ContextEntry[] {
    const named = this.#options.past.snapshots().filter((one) => one.volumeId === volumeId);
    return named
      .sort((a, b) => b.lsn - a.lsn)
      .slice(0, LISTED_CONTEXTS_MAX)
      .map(({ name, volume: nameNow }) => ({
        name: `${SINCE}${name}`,
        exportNames: [`${volume}@${name}`, nameNow],
      }));
  }

  /** undefined: the name isn't of this kind. Throws MOMENT_INVALID, and what the pool throws when there is no such moment. */
  async find(disk: ComparedDisk, name: string): Promise<FoundContext | undefined> {
    if (!name.startsWith(SINCE)) return undefined;
    const text = name.slice(SINCE.length);
    const from = await this.#options.past.resolve(disk.volume, parseMoment(text));
    if (from.volumeId !== disk.volumeId) throw isAnother(disk, from);
    return {
      exportNames: [`${disk.volume}@${text}`, ...namesOf(this.#options.pool, from)],
      open: () => this.#open(disk, from),
    };
  }

  async #open({ to }: ComparedDisk, from: ResolvedMoment): Promise<OpenContext> {
    const { past: pool, views, events, clock } = this.#options;
    const { close: released } = await views.open(from);
    const failed = ({ message: reason }: StorageError): void =>
      events.add("warn", "view.changes-failed", { moment: from.stableName, reason });
    return new ChangedStatus({ pool, clock, turns: this.#turns, from, to, failed, released });
  }
}

function isAnother({ volume }: ComparedDisk, { stableName }: ResolvedMoment): StorageError {
  return new StorageError(
    "MOMENT_INVALID",
    `volume "${volume}": changes not told: "${stableName}" was another volume of that name`,
    { hint: `see the volume's moments with "varve history ${volume}"` },
  );
}
