// SPDX-License-Identifier: Apache-2.0
//
// Export names over a pool: what NBD clients list, ask about and open. A name is a volume, or with an "@" a
// volume at a moment (past-exports.ts); the empty name is the only volume where there is exactly one,
// because most clients connect with it by default. Every open export is registered, so that a volume in use
// isn't pulled away.

import { StorageError } from "../base/errors.ts";
import { nearest } from "../base/names.ts";
import { formatSize } from "../base/units.ts";
import type { Clock } from "../host/ports.ts";
import type {
  ExportCatalog,
  ExportDescription,
  ExportEntry,
  FoundExport,
  OpenExport,
  Visitor,
} from "../nbd/block-device.ts";
import type { ResolvedMoment, VolumeSummary } from "../pool/types.ts";
import { attachExport } from "./attached-export.ts";
import type { ClientRegistry } from "./clients.ts";
import type { EventLog } from "./event-log.ts";
import { PastExports, tellMoments } from "./past-exports.ts";
import type { ServedPast, ServedPool } from "./served-pool.ts";
import { SinceContexts } from "./since-contexts.ts";
import type { TemporaryVolumes } from "./temporary-volumes.ts";
import { SharedViews } from "./views.ts";

/** Names in a message that lists what there is. */
const LISTED_MAX = 8;

export interface CatalogOptions {
  readonly pool: ServedPool;
  /** The pool's, too. */
  readonly past: ServedPast;
  readonly clients: ClientRegistry;
  readonly events: EventLog;
  readonly clock: Clock;
  readonly temporary: TemporaryVolumes;
}

export class VolumeCatalog implements ExportCatalog {
  readonly #options: CatalogOptions;
  readonly #views: SharedViews;
  readonly #past: PastExports;
  readonly #contexts: SinceContexts;

  constructor(options: CatalogOptions) {
    this.#options = options;
    const { pool, past, events, clock } = options;
    const views = new SharedViews(past, events);
    const contexts = new SinceContexts({ pool, past, views, events, clock });
    this.#views = views;
    this.#contexts = contexts;
    this.#past = new PastExports({ pool, past, views, contexts, book: options });
  }

  /** Moments that clients have open. */
  get viewCount(): number {
    return this.#views.count;
  }

  async list(): Promise<readonly ExportEntry[]> {
    const { entries, unlistedCounts } = this.#past.list();
    const volumes = this.#options.pool.volumes().map((volume) => {
      const moments = tellMoments(volume, unlistedCounts.get(volume.name) ?? 0);
      return { name: volume.name, description: `${describeVolume(volume)}; ${moments}` };
    });
    return [...volumes, ...entries];
  }

  async find(name: string): Promise<FoundExport> {
    if (name.includes("@")) return this.#past.find(name);
    const { id, name: stableName } = this.#volume(name);
    /** The volume as it is by then, and no other one that has its name. */
    const still = (): VolumeSummary => {
      const volume = this.#volume(stableName);
      if (volume.id !== id) throw notThere(stableName);
      return volume;
    };
    const disk = { volumeId: id, volume: stableName, to: () => this.#newest(id) };
    return {
      stableName,
      diskId: `volume ${id}`,
      isRelative: false,
      // The empty name has no access list: the volume's own decides.
      otherNames: name === stableName ? [] : [stableName],
      describe: () => this.#describe(still()),
      contexts: () => this.#contexts.entries(disk),
      findContext: (context) => this.#contexts.find(disk, context),
      open: async (visitor) => this.#open(still(), name, visitor),
    };
  }

  #describe(volume: VolumeSummary): ExportDescription {
    const device = this.#options.pool.device(volume.name);
    return {
      sizeBytes: device.sizeBytes,
      isReadOnly: device.isReadOnly,
      canMultiConnect: device.canMultiConnect,
      canonicalName: volume.name,
      description: describeVolume(volume),
    };
  }

  #open(volume: VolumeSummary, asked: string, visitor: Visitor): OpenExport {
    const device = this.#options.pool.device(volume.name);
    const told = { canonicalName: volume.name, description: describeVolume(volume) };
    const close = (): void => void this.#options.temporary.left(volume.id);
    return attachExport(this.#options, { visitor, asked, volume, device, close, ...told });
  }

  /** What the live disk holds now, whatever it is called by now. */
  #newest(volumeId: number): Promise<ResolvedMoment> {
    const { pool, past } = this.#options;
    const volume = pool.volumes().find(({ id }) => id === volumeId);
    if (volume !== undefined) return past.resolve(volume.name, { kind: "now" });
    return Promise.reject(new StorageError("VOLUME_NOT_FOUND", "volume: removed meanwhile"));
  }

  #volume(name: string): VolumeSummary {
    const volumes = this.#options.pool.volumes();
    if (name === "") return onlyVolume(volumes);
    const found = volumes.find((volume) => volume.name === name);
    if (found) return found;
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
