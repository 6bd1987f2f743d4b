// SPDX-License-Identifier: Apache-2.0
//
// Going on from the past: clones, rewinds and their undoing are records that begin a branch at a moment, whatever the
// size of the disk. Nothing is lost by any of them: what a rewind left is the old branch's, and the way back is another
// rewind. So undo knows no stack: it goes back to just before the last thing that took content away, which was itself an
// undo if need be.

import { StorageError } from "../base/errors.ts";
import { formatMoment, type Moment } from "../base/moment.ts";
import { checkName } from "../base/names.ts";
import { RECORD_KIND } from "../log/record.ts";
import type { Tell } from "./bounded-events.ts";
import type { Catalog } from "./catalog.ts";
import type { VolumeRecord } from "./catalog-records.ts";
import type { Undoable, Volume } from "./catalog-volume.ts";
import { letGo, noSuchVolume, type ReachableHistory } from "./missing-moment.ts";
import type { ResolvedMoment } from "./types.ts";

export interface BranchingOptions {
  readonly catalog: () => Catalog;
  readonly history: ReachableHistory;
  readonly resolve: (volume: string, moment: Moment) => Promise<ResolvedMoment>;
  /** Makes a record in the turn in which it is appended, and makes it durable. */
  readonly record: (make: () => VolumeRecord) => Promise<unknown>;
  readonly tell: Tell;
}

/** Where a branch begins, and with which size. */
interface Origin {
  readonly branch: number;
  readonly lsn: number;
  readonly sizeBytes: number;
}

export class Branching {
  readonly #options: BranchingOptions;

  constructor(options: BranchingOptions) {
    this.#options = options;
  }

  /** A new volume begins as that one was. Throws VOLUME_EXISTS, NAME_INVALID, and as `resolve` does. */
  async clone(
    volume: string,
    moment: Moment,
    { newName, isTemporary = false }: { readonly newName: string; readonly isTemporary?: boolean },
  ): Promise<void> {
    checkName("volume", newName);
    const { catalog, resolve, record, tell } = this.#options;
    const origin = await resolve(volume, moment);
    await record(() => {
      this.#checkReachable(volume, origin);
      checkFree(catalog(), newName, `volume "${newName}": not cloned`);
      const { nextVolume: id, nextBranch: branch } = catalog();
      const made = { id, branch, ...parentOf(origin), reason: "clone" as const, name: newName };
      const body = isTemporary ? { ...made, isTemporary: true as const } : made;
      return { kind: RECORD_KIND.BRANCHED, body };
    });
    const kind = isTemporary ? { isTemporary } : {};
    tell("info", "volume.cloned", { volume: newName, from: origin.stableName, ...kind });
  }

  /** The volume goes on from what it was. Throws MOMENT_INVALID where that was another one, and as `resolve` does. */
  async rewind(volume: string, moment: Moment): Promise<ResolvedMoment> {
    const { catalog, resolve, record, tell } = this.#options;
    const origin = await resolve(volume, moment);
    await record(() => {
      this.#checkReachable(volume, origin);
      const { id } = catalog().volumeNamed(volume);
      if (origin.volumeId !== id) throw isAnother(volume, moment);
      const body = { id, branch: catalog().nextBranch, ...parentOf(origin) };
      return { kind: RECORD_KIND.BRANCHED, body: { ...body, reason: "rewind" } };
    });
    tell("info", "volume.rewound", { volume, to: origin.stableName });
    return origin;
  }

  /**
   * Takes back the last rewind, undo or shrink of the live volume; where there is none of that name, or another name is
   * given for it, brings back the volume that had it last. Throws NOTHING_TO_UNDO, VOLUME_NOT_FOUND, VOLUME_EXISTS,
   * MOMENT_GONE, NAME_INVALID.
   */
  async undo(volume: string, newName?: string): Promise<{ undone: Undoable; name: string }> {
    if (newName !== undefined) checkName("volume", newName);
    const { catalog, record, tell } = this.#options;
    let undone: Undoable | undefined;
    const name = newName ?? volume;
    await record(() => {
      const target = this.#targetOf(volume, newName !== undefined);
      undone = catalog().lastUndoable(target);
      if (undone === undefined) throw this.#nothing(volume);
      const { id } = target;
      if (undone.kind === "removal") {
        this.#checkReachable(volume, { branch: target.branch, lsn: undone.lsn - 1 });
        checkFree(catalog(), name, `volume "${volume}": not brought back`);
        return { kind: RECORD_KIND.VOLUME_RESTORED, body: { id, name } };
      }
      const { branchLsn: lsn, sizeBytes } = undone;
      const origin = { branch: undone.branch, lsn, sizeBytes };
      this.#checkReachable(volume, origin);
      const body = { id, branch: catalog().nextBranch, ...parentOf(origin) };
      return { kind: RECORD_KIND.BRANCHED, body: { ...body, reason: "undo" } };
    });
    const { kind, lsn } = undone as unknown as Undoable;
    tell("info", "volume.undone", { volume: name, what: kind, lsn });
    return { undone: undone as unknown as Undoable, name };
  }

  /** The live volume, or the one that was removed last. */
  #targetOf(name: string, isRemovedWanted: boolean): Volume {
    const catalog = this.#options.catalog();
    const target = isRemovedWanted ? catalog.lastRemoved(name) : catalog.lastNamed(name);
    if (target === undefined) throw noSuchVolume(name, catalog);
    return target;
  }

  /** Of a live volume; one that was removed may have had its name. */
  #nothing(volume: string): StorageError {
    const removed = this.#options.catalog().lastRemoved(volume);
    const why = "it was never rewound or shrunk";
    return new StorageError("NOTHING_TO_UNDO", `volume "${volume}": nothing undone: ${why}`, {
      data: { volume },
      ...(removed === undefined
        ? {}
        : {
            hint: `to bring back the one of that name that was removed: varve undo ${volume} --as NAME`,
          }),
    });
  }

  /** Looked at in the turn of the record: retention goes on while moments are looked up. */
  #checkReachable(volume: string, { branch, lsn }: Pick<Origin, "branch" | "lsn">): void {
    const { history } = this.#options;
    if (!history.isReachable(branch, lsn))
      throw letGo({ volume, moment: { kind: "lsn", lsn } }, { branch, lsn }, history);
  }
}

function parentOf({ branch, lsn, sizeBytes }: Origin): {
  parent: number;
  parentLsn: number;
  sizeBytes: number;
} {
  return { parent: branch, parentLsn: lsn, sizeBytes };
}

function checkFree(catalog: Catalog, name: string, what: string): void {
  if (!catalog.has(name)) return;
  throw new StorageError("VOLUME_EXISTS", `${what}: "${name}" exists`, { data: { volume: name } });
}

function isAnother(volume: string, moment: Moment): StorageError {
  const text = `${volume}@${formatMoment(moment)}`;
  return new StorageError(
    "MOMENT_INVALID",
    `volume "${volume}": not rewound: "${text}" was another volume of that name`,
    { hint: `make it a volume of its own: varve clone ${text} NEW-NAME`, data: { volume } },
  );
}
