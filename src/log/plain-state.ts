// SPDX-License-Identifier: Apache-2.0
//
// What a row of records comes to: volumes, what they hold, and where frames are. A plain, second reading of the log,
// without the index's code.

import { StorageError } from "../base/errors.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BranchPoint } from "./branch-points.ts";
import { PLAIN_PAGE_BLOCKS, PlainMap } from "./plain-map.ts";
import { PlainMoves } from "./plain-moves.ts";
import { applyToVolumes, forgotten, type PlainVolume } from "./plain-volumes.ts";
import { RECORD_KIND, type RecordCursor } from "./record.ts";
import { LOW_HOLE, LOW_ZERO } from "./reference.ts";

export class PlainState {
  readonly volumes: Map<number, PlainVolume> = new Map();
  readonly branches: Map<number, PlainMap> = new Map();
  /** Where frames are that garbage collection moved. */
  readonly moves: PlainMoves = new PlainMoves();
  /** Segments of which nothing is needed any more, by what was read: their frames are elsewhere, or nobody's. */
  readonly dropped: Set<number> = new Set();
  /** Where branches begin that records will tell of, by LSN; and what they begin with, of those that were passed. */
  #points: readonly BranchPoint[] = [];
  #passedCount = 0;
  readonly #begun: Map<number, PlainMap> = new Map();
  /** Only these pages' references are wanted, and where frames are is not; undefined: everything is. */
  readonly #isWanted: ((branch: number, page: number) => boolean) | undefined;

  /** Blocks written in pages that aren't wanted are left out, and moves of frames. */
  constructor(isWanted?: (branch: number, page: number) => boolean) {
    this.#isWanted = isWanted;
  }

  /** Branches that records from `nextLsn` on will tell of. What began before can't be known by reading on: `expectBranch`. */
  expectBranches(points: readonly BranchPoint[], nextLsn: number): void {
    this.#points = points.filter(({ parentLsn }) => parentLsn >= nextLsn - 1);
  }

  /** A record will tell of the branch, which begins with that. */
  expectBranch(branch: number, map: PlainMap): void {
    this.#begun.set(branch, map);
  }

  apply(memory: BlockMemory, cursor: RecordCursor): void {
    if (this.#passedCount < this.#points.length) this.#passPoints(cursor.lsn);
    const map = this.branches.get(cursor.branch);
    switch (cursor.kind) {
      case RECORD_KIND.WROTE:
        for (let block = 0; block < cursor.blockCount; block++) {
          const page = Math.floor((cursor.lba + block) / PLAIN_PAGE_BLOCKS);
          if (this.#isWanted?.(cursor.branch, page) === false) continue;
          const at = cursor.referencesOffset + block * 8;
          map?.set(
            cursor.lba + block,
            memory.view.getUint32(at, true),
            memory.view.getUint32(at + 4, true),
          );
        }
        return;
      case RECORD_KIND.ZEROED:
        map?.fill(cursor.lba, cursor.blockCount, LOW_ZERO);
        return;
      case RECORD_KIND.TRIMMED:
        map?.fill(cursor.lba, cursor.blockCount, LOW_HOLE);
        return;
      case RECORD_KIND.RELOCATED:
        if (this.#isWanted === undefined) this.moves.apply(memory, cursor);
        return;
      default:
        if (cursor.json !== undefined) this.#applyJson(cursor.kind, cursor.json);
    }
  }

  /** What a branch begins with whose record wasn't told, if its beginning was passed, or told of. */
  begunWith(branch: number): PlainMap | undefined {
    return this.#begun.get(branch);
  }

  /** Copies the parents of branches that begin before the record. */
  #passPoints(lsn: number): void {
    for (; this.#passedCount < this.#points.length; this.#passedCount++) {
      const { branch, parent, parentLsn } = this.#points[this.#passedCount] as BranchPoint;
      if (parentLsn >= lsn) return;
      // A branch of a branch whose record comes only now isn't there yet, nor is it known where that began.
      const map = this.branches.get(parent);
      if (map !== undefined) this.#begun.set(branch, map.copy());
    }
  }

  /** The volume of that name that isn't removed. Throws VOLUME_NOT_FOUND. */
  volumeNamed(name: string): PlainVolume {
    const volume = [...this.volumes.values()].find(
      (candidate) => candidate.name === name && !candidate.isRemoved,
    );
    if (volume === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found in the log`);
    return volume;
  }

  /** Throws LOG_CORRUPT where it began in a past that can't be read any more. */
  mapOf({ name, branch }: PlainVolume): PlainMap {
    const map = this.branches.get(branch);
    if (map !== undefined) return map;
    throw new StorageError(
      "LOG_CORRUPT",
      `volume "${name}": not given back: it began with a moment that the log doesn't reach any more`,
      { data: { volume: name } },
    );
  }

  #applyJson(kind: number, body: Readonly<Record<string, unknown>>): void {
    if (kind === RECORD_KIND.SEGMENT_DROPPED) this.dropped.add(body.segment as number);
    const cutOff = applyToVolumes(this.volumes, kind, body);
    if (cutOff !== undefined)
      this.branches.get(cutOff.branch)?.fill(cutOff.lba, cutOff.blockCount, LOW_HOLE);
    if (kind === RECORD_KIND.BRANCHES_FORGOTTEN)
      for (const branch of forgotten(body.branches)) this.branches.delete(branch);
    const branch = body.branch as number;
    if (kind === RECORD_KIND.VOLUME_MADE) this.branches.set(branch, new PlainMap());
    if (kind !== RECORD_KIND.BRANCHED) return;
    const begun = this.#begun.get(branch);
    if (begun !== undefined) this.branches.set(branch, begun);
    this.#begun.delete(branch);
  }
}
