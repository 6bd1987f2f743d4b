// SPDX-License-Identifier: Apache-2.0
//
// Export names over a pool: what NBD clients list, ask about and open. A name is a volume; the empty name
// is the only volume where there is exactly one, because most clients connect with it by default. Names
// with "@" belong to moments and are refused, so that nobody gets today's disk who asked for
// yesterday's. Every open export is registered, so that a volume in use isn't pulled away.

import { StorageError } from "../base/errors.ts";
import { nearest } from "../base/names.ts";
import { formatSize } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";
import type {
  ClientIdentity,
  ExportCatalog,
  ExportDescription,
  ExportEntry,
  FoundExport,
  OpenExport,
} from "../nbd/block-device.ts";
import type { VolumeSummary } from "../pool/types.ts";
import type { ClientRegistry } from "./clients.ts";
import { CountedDevice } from "./counted-device.ts";
import type { EventLog } from "./event-log.ts";
import type { ServedPool } from "./served-pool.ts";

/** Names in a message that lists what there is. */
const LISTED_MAX = 8;

export interface CatalogOptions {
  readonly pool: ServedPool;
  readonly clients: ClientRegistry;
  readonly events: EventLog;
  readonly clock: Clock;
}

export class VolumeCatalog implements ExportCatalog {
  readonly #options: CatalogOptions;

  constructor(options: CatalogOptions) {
    this.#options = options;
  }

  async list(): Promise<readonly ExportEntry[]> {
    return this.#options.pool
      .volumes()
      .map((volume) => ({ name: volume.name, description: describeVolume(volume) }));
  }

  async find(name: string): Promise<FoundExport> {
    const { id, name: stableName } = this.#volume(name);
    /** The volume as it is by then, and no other one that has its name. */
    const still = (): VolumeSummary => {
      const volume = this.#volume(stableName);
      if (volume.id !== id) throw notThere(stableName);
      return volume;
    };
    return {
      stableName,
      isRelative: false,
      // The empty name has no access list: the volume's own decides.
      otherNames: name === stableName ? [] : [stableName],
      describe: () => this.#describe(still()),
      open: async (client) => this.#open(still(), { asked: name, client }),
    };
  }

  #describe(volume: VolumeSummary): ExportDescription {
    const device = this.#options.pool.device(volume.name);
    return {
      sizeBytes: device.sizeBytes,
      isReadOnly: device.isReadOnly,
      canMultiConnect: device.canMultiConnect,
      stableName: volume.name,
      description: describeVolume(volume),
      extraContexts: device.extraContexts,
    };
  }

  #open(
    volume: VolumeSummary,
    { asked, client }: { asked: string; client: ClientIdentity },
  ): OpenExport {
    const { pool, clients, clock, events } = this.#options;
    const device = new CountedDevice(pool.device(volume.name));
    const leave = clients.add({
      identity: client,
      exportName: asked,
      volumeId: volume.id,
      connectedMicros: clock.wallMicros(),
      device,
    });
    // The door has its own lines in the log for this.
    const tell = (event: string, fields: Record<string, unknown> = {}): void =>
      events.tell({
        timeMicros: Math.floor(clock.wallMicros()),
        level: "info",
        event,
        fields: { volume: volume.name, client: client.address, ...fields },
      });
    tell("client.attached");
    return {
      device,
      stableName: volume.name,
      description: describeVolume(volume),
      close: () => {
        leave();
        const { requestCount, readBytes, writeBytes } = device;
        tell("client.left", { requestCount, readBytes, writeBytes });
      },
    };
  }

  #volume(name: string): VolumeSummary {
    const volumes = this.#options.pool.volumes();
    if (name === "") return onlyVolume(volumes);
    const found = volumes.find((volume) => volume.name === name);
    if (found) return found;
    const at = name.indexOf("@");
    if (at !== -1) {
      throw new StorageError(
        "EXPORT_NOT_FOUND",
        `export ${quoted(name)}: not found: this version serves no moments, only the live disk`,
        { hint: `open ${quoted(name.slice(0, at))} for the disk as it is now` },
      );
    }
    const names = volumes.map((volume) => volume.name);
    throw notThere(name, nearest(name, names));
  }
}

function notThere(name: string, guess?: string): StorageError {
  return new StorageError(
    "EXPORT_NOT_FOUND",
    `export ${quoted(name)}: not found: there is no volume of that name`,
    guess === undefined ? {} : { hint: `did you mean "${guess}"?` },
  );
}

function onlyVolume(volumes: readonly VolumeSummary[]): VolumeSummary {
  const [only] = volumes;
  if (only !== undefined && volumes.length === 1) return only;
  if (only === undefined) {
    throw new StorageError("EXPORT_NOT_FOUND", 'export "": not found: the pool has no volume', {
      hint: 'make one with "varve create NAME SIZE"',
    });
  }
  const names = volumes.slice(0, LISTED_MAX).map((volume) => volume.name);
  const more = volumes.length > LISTED_MAX ? " …" : "";
  throw new StorageError(
    "EXPORT_NOT_FOUND",
    `export "": not found: the pool has ${volumes.length} volumes, and the empty name means the only one`,
    { hint: `name one of them: ${names.join(", ")}${more}` },
  );
}

function describeVolume({ sizeBytes, isReadOnly, description }: VolumeSummary): string {
  const facts = `${formatSize(sizeBytes)}${isReadOnly ? ", read-only" : ""}`;
  return description === "" ? facts : `${description} (${facts})`;
}

function quoted(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
}
