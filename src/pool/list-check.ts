// SPDX-License-Identifier: Apache-2.0
//
// Compares a change list with the records that it tells of: for each page the same changes in the same order, and for each
// branch the same ranges. Holes that are made where nothing was need not be in a list.

import {
  CHANGE_WORDS,
  type ChangeListFile,
  LIST_ENTRY_WORDS,
  PAGE_WORDS,
  RANGE_WORDS,
} from "../index/change-list.ts";
import type { ChangeListReader } from "../index/change-list-reader.ts";
import { CHUNK_PAGES } from "../index/page-directory.ts";
import type { ChangeTaker, RecordedChange, RecordedRange } from "../index/recorded-changes.ts";
import { formatReference, LOW_HOLE } from "../log/reference.ts";

/** What the records of a list's LSNs did to a branch: rows of four numbers, as the list has them. */
interface BranchRows {
  readonly pages: Map<number, number[]>;
  readonly ranges: number[];
}

export class ListCheck implements ChangeTaker {
  readonly #list: ChangeListFile;
  readonly #reader: ChangeListReader;
  readonly #branches: Map<number, BranchRows> = new Map();

  constructor(list: ChangeListFile, reader: ChangeListReader) {
    this.#list = list;
    this.#reader = reader;
  }

  change(branch: number, page: number, { lsn, blocks, segment, low }: RecordedChange): void {
    if (lsn < this.#list.fromLsn) return;
    const { pages } = this.#rowsOf(branch);
    let rows = pages.get(page);
    if (rows === undefined) {
      rows = [];
      pages.set(page, rows);
    }
    rows.push(lsn - this.#list.fromLsn, blocks, segment, low);
  }

  range(branch: number, { lsn, low, firstPage, endPage }: RecordedRange): void {
    const { fromLsn } = this.#list;
    if (lsn >= fromLsn) this.#rowsOf(branch).ranges.push(lsn - fromLsn, low, firstPage, endPage);
  }

  /** When all records were told: what differs, a sentence each. Throws POOL_CORRUPT, DISK_IO. */
  async compare(onProblem: (problem: string) => void): Promise<void> {
    const places = await this.#reader.places(this.#list);
    const chunks = new Map(places.chunks.map((place) => [`${place.branch}:${place.chunk}`, place]));
    for (const [branch, { pages }] of this.#branches)
      for (const page of pages.keys()) {
        const chunk = Math.floor(page / CHUNK_PAGES);
        chunks.set(`${branch}:${chunk}`, { branch, chunk });
      }
    for (const place of chunks.values()) await this.#compareChunk(place, onProblem);
    for (const branch of new Set([...places.branches, ...this.#branches.keys()])) {
      const ranges = await this.#reader.ranges(this.#list, branch);
      const recorded = this.#branches.get(branch)?.ranges ?? [];
      const at = firstDifference(ranges, recorded, () => false);
      if (at === undefined) continue;
      const [found, wanted] = [rangeAt(ranges, at.found), rangeAt(recorded, at.recorded)];
      onProblem(`ranges of branch ${branch}: it has ${found}, the log ${wanted}`);
    }
  }

  async #compareChunk(
    { branch, chunk }: { readonly branch: number; readonly chunk: number },
    onProblem: (problem: string) => void,
  ): Promise<void> {
    const entries = await this.#reader.changedPages(this.#list, { branch, chunk });
    const recorded = this.#branches.get(branch)?.pages ?? new Map<number, number[]>();
    const pages = new Set<number>();
    for (let at = 0; at < entries.length; at += LIST_ENTRY_WORDS)
      pages.add(chunk * CHUNK_PAGES + (entries[at + PAGE_WORDS.page] as number));
    for (const page of recorded.keys())
      if (Math.floor(page / CHUNK_PAGES) === chunk) pages.add(page);
    for (const page of pages) {
      const rows: number[] = [];
      const wanted = { branch, page, until: Number.POSITIVE_INFINITY };
      await this.#reader.changes(this.#list, wanted, (changes) => {
        for (const word of changes) rows.push(word);
      });
      const changes = recorded.get(page) ?? [];
      const at = firstDifference(rows, changes, isHole);
      if (at === undefined) continue;
      const [found, logged] = [changeAt(rows, at.found), changeAt(changes, at.recorded)];
      onProblem(`page ${page} of branch ${branch}: it has ${found}, the log ${logged}`);
    }
  }

  #rowsOf(branch: number): BranchRows {
    let rows = this.#branches.get(branch);
    if (rows === undefined) {
      rows = { pages: new Map(), ranges: [] };
      this.#branches.set(branch, rows);
    }
    return rows;
  }
}

type Rows = ArrayLike<number>;

/** Where the two differ first; recorded rows that may be missing are passed over. */
function firstDifference(
  found: Rows,
  recorded: Rows,
  mayBeMissing: (rows: Rows, at: number) => boolean,
): { readonly found: number; readonly recorded: number } | undefined {
  let at = 0;
  let other = 0;
  while (at < found.length || other < recorded.length) {
    const isSame =
      found[at] === recorded[other] &&
      found[at + 1] === recorded[other + 1] &&
      found[at + 2] === recorded[other + 2] &&
      found[at + 3] === recorded[other + 3];
    if (isSame) at += LIST_ENTRY_WORDS;
    else if (other >= recorded.length || !mayBeMissing(recorded, other))
      return { found: at, recorded: other };
    other += LIST_ENTRY_WORDS;
  }
  return undefined;
}

function isHole(rows: Rows, at: number): boolean {
  return rows[at + CHANGE_WORDS.low] === LOW_HOLE;
}

function changeAt(rows: Rows, at: number): string {
  if (at >= rows.length) return "nothing more";
  const blocks = rows[at + CHANGE_WORDS.blocks] as number;
  const reference = formatReference(
    rows[at + CHANGE_WORDS.segment] as number,
    rows[at + CHANGE_WORDS.low] as number,
  );
  return `${(blocks >>> 16) + 1} blocks from ${blocks & 0xffff} at +${rows[at]}: ${reference}`;
}

function rangeAt(rows: Rows, at: number): string {
  if (at >= rows.length) return "nothing more";
  const pages = `${rows[at + RANGE_WORDS.firstPage]} to ${rows[at + RANGE_WORDS.endPage]}`;
  return `pages ${pages} at +${rows[at]}: ${formatReference(0, rows[at + RANGE_WORDS.low] as number)}`;
}
