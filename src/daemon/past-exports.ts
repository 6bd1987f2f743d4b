// SPDX-License-Identifier: Apache-2.0
//
// Export names with an "@": a volume at a moment, read-only, with the size it had. The moment is resolved
// once, when the name is looked up; what is found names that one disk from then on, opened or not, and
// holds nothing until it is opened.
//
// Access lists go by names, and a disk may have had several. The door checks the name that was asked for;
// the name that the volume had at that moment and the one it has now (or had when it was removed) must let
// the client in too. So renaming a volume never opens its past to somebody whom one of its lists keeps out.

import { StorageError } from "../base/errors.ts";
import { type Moment, parseVolumeMoment } from "../base/moment.ts";
import { formatSize, formatTime } from "../base/units.ts";
import type { ExportDescription, ExportEntry, FoundExport } from "../nbd/block-device.ts";
import type { ResolvedMoment, SnapshotSummary, VolumeSummary } from "../pool/types.ts";
import { type AttendanceBook, attachExport } from "./attached-export.ts";
import type { ServedPast, ServedPool } from "./served-pool.ts";
import type { SinceContexts } from "./since-contexts.ts";
import type { SharedViews } from "./views.ts";
import { namesOf } from "./volume-names.ts";

/** Snapshots in a list of exports, the newest of all: clients ask about each. */
export const LISTED_SNAPSHOTS_MAX = 1000;
/** Characters of a name in a message. */
const SHOWN_MAX = 80;

export interface PastExportsOptions {
  readonly pool: Pick<ServedPool, "volumes">;
  readonly past: ServedPast;
  readonly views: SharedViews;
  readonly book: AttendanceBook;
  readonly contexts: SinceContexts;
}

/** What a list of exports says of the past. */
export interface PastListing {
  readonly entries: readonly ExportEntry[];
  /** Snapshots that were left out, by volume. */
  readonly unlistedCounts: ReadonlyMap<string, number>;
}

export class PastExports {
  readonly #options: PastExportsOptions;

  constructor(options: PastExportsOptions) {
    this.#options = options;
  }

  /** Throws MOMENT_INVALID, and what the pool throws when there is no such moment. */
  async find(name: string): Promise<FoundExport> {
    const { past, views, book, contexts } = this.#options;
    const { volume, moment } = parse(name);
    const resolved = await past.resolve(volume, moment);
    const names = namesOf(this.#options.pool, resolved);
    const disk = { volumeId: resolved.volumeId, volume, to: async () => resolved };
    const told = describe(resolved, moment.kind === "name" ? name : resolved.stableName);
    return {
      stableName: resolved.stableName,
      diskId: `branch ${resolved.branch} at ${resolved.lsn}`,
      isRelative: resolved.isRelative,
      otherNames: names.filter((other) => other !== volume),
      describe: () => told,
      contexts: () => contexts.entries(disk),
      findContext: (context) => contexts.find(disk, context),
      open: async (visitor) => {
        const { device, close } = await views.open(resolved);
        const live = { id: resolved.volumeId, name: resolved.volume };
        const opened = { asked: name, volume: live, moment: resolved, device, close };
        return attachExport(book, { visitor, ...opened, ...told });
      },
    };
  }

  list(): PastListing {
    const newestFirst = [...this.#options.past.snapshots()].sort((a, b) => b.lsn - a.lsn);
    const entries = new Map<string, ExportEntry>();
    const unlistedCounts = new Map<string, number>();
    for (const snapshot of newestFirst) {
      const { volume } = snapshot;
      const entry = toEntry(snapshot);
      // A volume that was removed may have had the names of the one that is called so now.
      if (entries.has(entry.name)) continue;
      if (entries.size < LISTED_SNAPSHOTS_MAX) entries.set(entry.name, entry);
      else unlistedCounts.set(volume, (unlistedCounts.get(volume) ?? 0) + 1);
    }
    return { entries: [...entries.values()], unlistedCounts };
  }
}

function parse(name: string): { volume: string; moment: Moment } {
  const shown = name.slice(0, SHOWN_MAX);
  if (name.indexOf("@") === name.length - 1) {
    throw new StorageError("MOMENT_INVALID", 'moment "": refused: it is empty', {
      hint: `in URIs "#" ends the name: write ${shown}lsn:123, or ${shown}%23123`,
    });
  }
  const { volume, moment } = parseVolumeMoment(name);
  if (moment !== undefined && volume !== "") return { volume, moment };
  throw new StorageError(
    "EXPORT_NOT_FOUND",
    `export ${JSON.stringify(shown)}: not found: it names no volume in front of the "@"`,
  );
}

function describe(moment: ResolvedMoment, canonicalName: string): ExportDescription {
  const { sizeBytes, isRelative, timeMicros } = moment;
  return {
    sizeBytes,
    isReadOnly: true,
    canMultiConnect: !isRelative,
    canonicalName,
    description: `as of ${formatTime(timeMicros)} (${formatSize(sizeBytes)}, read-only)`,
  };
}

function toEntry(snapshot: SnapshotSummary): ExportEntry {
  const { volume, name, sizeBytes, timeMicros, expiresMicros, description } = snapshot;
  const expiry = expiresMicros === undefined ? "" : `, expires ${formatTime(expiresMicros)}`;
  const facts = `${formatSize(sizeBytes)}, as of ${formatTime(timeMicros)}${expiry}`;
  return {
    name: `${volume}@${name}`,
    description: description === "" ? facts : `${description} (${facts})`,
  };
}

/** What the list says of a volume's past: how to name any moment of it, and what it leaves out. */
export function tellMoments({ name }: VolumeSummary, unlistedCount: number): string {
  const any = `any moment: ${name}@-10m, ${name}@2026-03-01T12:00:00Z, ${name}@lsn:NUMBER`;
  if (unlistedCount === 0) return any;
  const who =
    unlistedCount === 1 ? "1 older snapshot isn't" : `${unlistedCount} older snapshots aren't`;
  return `${any}; ${who} listed here`;
}
