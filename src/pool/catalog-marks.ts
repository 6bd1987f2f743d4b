// SPDX-License-Identifier: Apache-2.0
//
// Extents that somebody declared changed: what the catalog knows of them. A mark belongs to the branch that the volume was on
// and to the record that made it, so it counts in each difference whose way leads over that record, whatever was written.
//
// A branch has some hundred at most. Then the two that lie nearest to each other become one, of all that lies between and of
// all records between: a difference may show more than was marked then, never less.

import { StorageError } from "../base/errors.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import { type Fields, fieldsOf, isCount, isId, isListOf } from "./catalog-fields.ts";

/** Blocks [lba, end) of a branch, marked by records from `fromLsn` to `lsn`. */
export interface MarkedExtent {
  readonly branch: number;
  readonly fromLsn: number;
  readonly lsn: number;
  readonly lba: number;
  readonly end: number;
}

/** As a record has it. */
export interface ExtentToMark {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** In one record, which is JSON of 16 KiB at most. */
const MARKED_AT_ONCE_MAX = 256;
const PER_BRANCH_MAX = 512;
/** 64 TiB. */
const BLOCKS_MAX: number = 2 ** 34;

export class MarkedExtents {
  readonly #byBranch: Map<number, MarkedExtent[]> = new Map();

  /** Of a branch, by position. */
  of(branch: number): readonly MarkedExtent[] {
    return this.#byBranch.get(branch) ?? [];
  }

  /** VOLUME_MARKED, of the branch that the volume is on. False when it makes no sense; then nothing has changed. */
  marked({ extents, keptLsn = 0 }: Fields, branch: number, lsn: number): boolean {
    if (!isListOf(extents, isExtent) || extents.length === 0 || !isCount(keptLsn)) return false;
    this.#keep(branch, (mark) => mark.lsn > keptLsn);
    for (const { offsetBytes, lengthBytes } of extents) {
      const lba = Math.floor(offsetBytes / BLOCK_BYTES);
      const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
      this.#add({ branch, fromLsn: lsn, lsn, lba, end });
    }
    return true;
  }

  forgetBranch(branch: number): void {
    this.#byBranch.delete(branch);
  }

  toJson(): readonly MarkedExtent[] {
    return [...this.#byBranch.values()].flat();
  }

  /** Takes what `toJson` gave. False when it makes no sense. */
  take(json: unknown, isBranch: (branch: number) => boolean): boolean {
    if (!isListOf(json, isMark)) return false;
    for (const mark of json) {
      if (!isBranch(mark.branch)) return false;
      this.#add(mark);
    }
    return true;
  }

  #keep(branch: number, isKept: (mark: MarkedExtent) => boolean): void {
    const kept = this.of(branch).filter(isKept);
    if (kept.length > 0) this.#byBranch.set(branch, kept);
    else this.#byBranch.delete(branch);
  }

  #add(mark: MarkedExtent): void {
    const marks = [...this.of(mark.branch), mark].sort((a, b) => a.lba - b.lba || a.end - b.end);
    if (marks.length > PER_BRANCH_MAX) joinNearest(marks);
    this.#byBranch.set(mark.branch, marks);
  }
}

/** Throws RANGE_INVALID unless the extents may be marked. */
export function checkMarks(
  { name, sizeBytes }: { readonly name: string; readonly sizeBytes: number },
  extents: readonly ExtentToMark[],
): void {
  const refused = (why: string): StorageError =>
    new StorageError("RANGE_INVALID", `volume "${name}": not marked: ${why}`);
  if (extents.length === 0 || extents.length > MARKED_AT_ONCE_MAX)
    throw refused(`${extents.length} extents; 1 to ${MARKED_AT_ONCE_MAX} are marked at once`);
  for (const extent of extents) {
    const { offsetBytes, lengthBytes } = extent;
    if (!isExtent(extent) || offsetBytes + lengthBytes > sizeBytes)
      throw refused(`${lengthBytes} bytes at ${offsetBytes} of ${sizeBytes}`);
  }
}

function joinNearest(marks: MarkedExtent[]): void {
  let nearest = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let at = 0; at + 1 < marks.length; at++) {
    const gap = (marks[at + 1] as MarkedExtent).lba - (marks[at] as MarkedExtent).end;
    if (gap < least) [nearest, least] = [at, gap];
  }
  const [one, other] = marks.slice(nearest, nearest + 2) as [MarkedExtent, MarkedExtent];
  marks.splice(nearest, 2, {
    branch: one.branch,
    fromLsn: Math.min(one.fromLsn, other.fromLsn),
    lsn: Math.max(one.lsn, other.lsn),
    lba: one.lba,
    end: Math.max(one.end, other.end),
  });
}

function isExtent(value: unknown): value is ExtentToMark {
  const { offsetBytes, lengthBytes } = fieldsOf(value);
  if (!isCount(offsetBytes) || !isCount(lengthBytes) || lengthBytes === 0) return false;
  return offsetBytes + lengthBytes <= BLOCKS_MAX * BLOCK_BYTES;
}

function isMark(value: unknown): value is MarkedExtent {
  const { branch, fromLsn, lsn, lba, end } = fieldsOf(value);
  if (!isId(branch) || !isCount(fromLsn) || !isCount(lsn) || !isCount(lba) || !isCount(end))
    return false;
  return fromLsn <= lsn && lba < end && end <= BLOCKS_MAX;
}
