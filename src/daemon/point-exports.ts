// SPDX-License-Identifier: Apache-2.0
//
// The points of a backup target as exports of an NBD door: "db@v1" is volume db at point v1, "db" at the newest point that
// has it, and "db@1a2b3c4d" at the point whose id begins like that. Nothing is prepared: what a client reads is fetched
// when it is read. The catalog is looked at for each name and each list, so points that are made meanwhile are there too.
//
// With overlays each disk is opened once and stays open until the server ends: who comes back finds what was written.

import type { PointEntry } from "../backup/catalog-state.ts";
import { type PointManifest, readManifest } from "../backup/manifest.ts";
import { PointImage } from "../backup/point-image.ts";
import { findPoint } from "../backup/points.ts";
import type { Target } from "../backup/target.ts";
import type { TargetReader } from "../backup/target-reader.ts";
import { must } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { formatSize, formatTime } from "../base/units.ts";
import type { DiskFile, Logger } from "../host/ports.ts";
import type { ExportCatalog, ExportEntry, FoundExport, Slab } from "../nbd/block-device.ts";
import { PointDevice } from "./point-device.ts";

const LATEST = "latest";
/** In a list, the newest of all: clients ask about each. */
const LISTED_MAX = 1000;

export interface PointExportsOptions {
  readonly target: Target;
  readonly reader: TargetReader;
  readonly slab: Slab;
  readonly logger: Logger;
  /** Makes the file that takes what is written to a disk; undefined: all are read-only. */
  readonly openOverlay: (() => Promise<DiskFile>) | undefined;
}

export class PointExports implements ExportCatalog {
  readonly #options: PointExportsOptions;
  readonly #manifests: Map<string, Promise<PointManifest>> = new Map();
  /** Disks with overlays, by their ids. */
  readonly #written: Map<string, Promise<PointDevice>> = new Map();

  constructor(options: PointExportsOptions) {
    this.#options = options;
  }

  async list(): Promise<readonly ExportEntry[]> {
    const { points } = await this.#options.target.catalog.read();
    const entries = new Map<string, ExportEntry>();
    for (const point of points.toReversed())
      for (const { name: volume, sizeBytes, timeMicros } of point.volumes) {
        const facts = `${formatSize(sizeBytes)}, as of ${formatTime(timeMicros)}`;
        // The newest of a name is the one that it means.
        for (const name of [volume, `${volume}@${point.name}`])
          if (!entries.has(name)) entries.set(name, { name, description: facts });
        if (entries.size >= LISTED_MAX) return [...entries.values()];
      }
    return [...entries.values()];
  }

  async find(name: string): Promise<FoundExport> {
    const { points } = await this.#options.target.catalog.read();
    const { volume, point: pointName } = parse(name, points);
    const point = findPoint(points, { name: pointName ?? LATEST, volume });
    const there = must(
      point.volumes.find((one) => one.name === volume),
      "a point that was found for a volume has it",
    );
    const { openOverlay } = this.#options;
    const stableName = `${volume}@${point.id}`;
    const description = `point "${point.name}", as of ${formatTime(there.timeMicros)}`;
    const isRelative = pointName === undefined;
    const told = { canonicalName: name === "" ? stableName : name, description };
    return {
      stableName,
      diskId: stableName,
      isRelative,
      otherNames: [],
      describe: () => ({
        sizeBytes: there.sizeBytes,
        isReadOnly: openOverlay === undefined,
        canMultiConnect: true,
        ...told,
      }),
      contexts: () => [],
      findContext: () => Promise.resolve(undefined),
      open: async () => {
        const device = await this.#device(point, volume);
        return { device, stableName, ...told, close: () => undefined };
      },
    };
  }

  #device(point: PointEntry, volume: string): Promise<PointDevice> {
    const { openOverlay } = this.#options;
    if (openOverlay === undefined) return this.#open(point, volume, undefined);
    const key = `${volume}@${point.id}`;
    const known = this.#written.get(key);
    if (known !== undefined) return known;
    const opened = openOverlay().then((overlay) => this.#open(point, volume, overlay));
    this.#written.set(key, opened);
    opened.catch(() => this.#written.delete(key));
    return opened;
  }

  async #open(
    point: PointEntry,
    volume: string,
    overlay: DiskFile | undefined,
  ): Promise<PointDevice> {
    const { reader, slab, logger } = this.#options;
    const { volumes } = await this.#manifest(point);
    const there = volumes.find(({ name }) => name === volume);
    if (there === undefined)
      throw new StorageError("TARGET_CORRUPT", `${point.manifest}: it has no volume "${volume}"`);
    return new PointDevice({
      image: new PointImage(reader, there),
      slab,
      ...(overlay === undefined ? {} : { overlay }),
      report: (error) => logger.log("error", "backup.request-failed", { error }),
    });
  }

  #manifest(point: PointEntry): Promise<PointManifest> {
    const known = this.#manifests.get(point.manifest);
    if (known !== undefined) return known;
    const { store, sealer } = this.#options.target;
    const read = readManifest(store, sealer, point.manifest);
    this.#manifests.set(point.manifest, read);
    read.catch(() => this.#manifests.delete(point.manifest));
    return read;
  }
}

/** Without a name, the only volume there is. Throws EXPORT_NOT_FOUND. */
function parse(
  name: string,
  points: readonly PointEntry[],
): { readonly volume: string; readonly point: string | undefined } {
  const at = name.indexOf("@");
  if (at > 0) return { volume: name.slice(0, at), point: name.slice(at + 1) };
  const names = [...new Set(points.flatMap(({ volumes }) => volumes.map((one) => one.name)))];
  const volume = name === "" && names.length === 1 ? names[0] : name;
  if (volume !== undefined && names.includes(volume)) return { volume, point: undefined };
  throw new StorageError(
    "EXPORT_NOT_FOUND",
    `export ${JSON.stringify(name.slice(0, 80))}: not found: no point has a volume of that name`,
    { hint: `there are ${names.slice(0, 10).join(", ") || "none"}` },
  );
}
