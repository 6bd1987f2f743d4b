// SPDX-License-Identifier: Apache-2.0
//
// A point that a command reads from: "DIR@v1", opened with a lease, so that no prune takes it away meanwhile. A target on
// a read-only file system takes no lease, and can't be pruned there either: it is read without one.

import type { CatalogState, PointEntry } from "../backup/catalog-state.ts";
import { Lease } from "../backup/leases.ts";
import { type ManifestVolume, type PointManifest, readManifest } from "../backup/manifest.ts";
import { findPoint } from "../backup/points.ts";
import type { Target } from "../backup/target.ts";
import { TargetReader } from "../backup/target-reader.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { fileKind } from "../host/node/text-file.ts";
import { createParallelZstd } from "../host/node/zstd.ts";
import { openTargetOf } from "./backup-target.ts";
import type { CommandContext } from "./command.ts";

const LATEST = "latest";

/** "DIR@v1" in two; a directory may have an "@" in its name. */
export async function parseTargetPoint(
  text: string,
): Promise<{ readonly path: string; readonly point: string | undefined }> {
  const at = text.lastIndexOf("@");
  const isWhole = at <= 0 || text.indexOf("/", at) >= 0 || (await fileKind(text)) === "directory";
  return isWhole
    ? { path: text, point: undefined }
    : { path: text.slice(0, at), point: text.slice(at + 1) };
}

/** A target that is read, and what is in it. */
export class ReadTarget implements AsyncDisposable {
  readonly target: Target;
  readonly state: CatalogState;
  readonly reader: TargetReader;
  readonly #lease: Lease | undefined;

  private constructor(target: Target, state: CatalogState, lease: Lease | undefined) {
    const { store, sealer } = target;
    this.target = target;
    this.state = state;
    this.#lease = lease;
    this.reader = new TargetReader({ store, sealer, zstd: createParallelZstd() });
  }

  /** `purpose` is for people who look at the target. */
  static async open(context: CommandContext, path: string, purpose: string): Promise<ReadTarget> {
    const target = await openTargetOf(context, path);
    const { catalog, clock, random } = target;
    try {
      const lease = await Lease.begin(catalog, { clock, random, purpose });
      return new ReadTarget(target, lease.state, lease);
    } catch (error) {
      const isReadOnly = hasCode(error, "TARGET_UNAVAILABLE") || hasCode(error, "TARGET_FULL");
      if (!isReadOnly) throw error;
      const state = await catalog.read();
      context.output.note(
        `target "${path}": read without a lease, for nothing can be written there: don't prune it meanwhile`,
      );
      return new ReadTarget(target, state, undefined);
    }
  }

  /** Throws POINT_NOT_FOUND. */
  find(name: string | undefined, volume: string | undefined): PointEntry {
    return findPoint(this.state.points, { name: name ?? LATEST, volume });
  }

  /** Throws TARGET_CORRUPT. */
  manifest({ manifest }: PointEntry): Promise<PointManifest> {
    const { store, sealer } = this.target;
    return readManifest(store, sealer, manifest);
  }

  /** Throws TARGET_UNAVAILABLE when what is read may be gone. */
  check(): void {
    this.#lease?.check();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lease?.[Symbol.asyncDispose]();
  }
}

/** The volume of that name; without one, the only one there is. Throws POINT_NOT_FOUND. */
export function volumeOf(
  manifest: PointManifest,
  { asked, likely }: { readonly asked: string | undefined; readonly likely: string | undefined },
): ManifestVolume {
  const { volumes, name: point } = manifest;
  const named = volumes.find(({ name }) => name === (asked ?? likely));
  if (named !== undefined) return named;
  const [only, second] = volumes;
  if (asked === undefined && only !== undefined && second === undefined) return only;
  const names = volumes.map(({ name }) => name).join(", ");
  const why = asked === undefined ? "it has several volumes" : `it has no volume "${asked}"`;
  throw new StorageError("POINT_NOT_FOUND", `point "${point}": not read: ${why}`, {
    hint: `name one of its volumes with --volume: ${names}`,
  });
}
