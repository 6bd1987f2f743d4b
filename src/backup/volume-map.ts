// SPDX-License-Identifier: Apache-2.0
//
// What a volume held at a point: its runs, of which a later one hides an earlier one. The map gives the extents in
// ascending order from any block on. Each run has a cursor that knows the extent at or behind the present block; so a
// sequential scan touches each page of each run once, and one at random does a search per run. There are at most 24
// (run-merge.ts), so looking at all of them for each extent is cheaper than keeping them sorted.
//
// A damaged page of a run, or a part that is missing, ends a strict scan. A lenient one goes on: what the page might have
// said is an extent of its own kind, lost, which hides older runs like any other, and is hidden by newer ones. So damage
// costs what it must, and nothing old is taken for what was there.

import { hasCode, type StorageError } from "../base/errors.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import type { RunReader } from "./run-reader.ts";
import type { Run, RunPart } from "./run-writer.ts";

/** No run says anything: never written, as far as these runs reach. Holes in runs hide what older ones say. */
export const UNMAPPED = 3;
/** Nobody can say any more: only in lenient scans. */
export const LOST = 4;

export class VolumeMap {
  readonly #cursors: readonly RunCursor[];

  /** `runs`: the newest one first. */
  constructor(reader: RunReader, runs: readonly Run[], mode: "strict" | "lenient" = "strict") {
    this.#cursors = runs.map((run) => new RunCursor(reader, run, mode));
  }

  /**
   * Fills `batch` (emptied at first) with the extents of [start, end), without gaps, until all is there or the batch is
   * full. Returns where it stopped. One scan at a time. Throws TARGET_CORRUPT, unless it is lenient.
   */
  async scan(start: number, end: number, batch: ExtentBatch): Promise<number> {
    batch.clear();
    let lba = start;
    while (lba < end && !batch.isFull) {
      for (const cursor of this.#cursors) if (!cursor.seekNow(lba)) await cursor.seek(lba);
      lba = this.#push(lba, end, batch);
    }
    return lba;
  }

  /** Why `lba` is lost, which the scan before gave as such. */
  damageAt(lba: number): StorageError | undefined {
    for (const { damage } of this.#cursors)
      if (damage !== undefined && lba >= damage.firstLba && lba < damage.endLba)
        return damage.error;
    return undefined;
  }

  /** What is at `lba`, from there on for as long as it goes on. */
  #push(lba: number, end: number, batch: ExtentBatch): number {
    let limit = end;
    for (const cursor of this.#cursors) {
      if (cursor.firstLba > lba) {
        limit = Math.min(limit, cursor.firstLba);
        continue;
      }
      limit = Math.min(limit, cursor.endLba);
      const isFrames = cursor.kind === EXTENT_KIND.frames;
      const place = isFrames ? cursor.place + (lba - cursor.firstLba) : 0;
      batch.push(lba, limit - lba, cursor.kind, place);
      return limit;
    }
    batch.push(lba, limit - lba, UNMAPPED, 0);
    return limit;
  }
}

/** The first extent of a run that ends behind a block. Beyond the last one it lies behind all blocks. */
class RunCursor {
  readonly #reader: RunReader;
  readonly #parts: Run["parts"];
  readonly #isLenient: boolean;
  #page: ExtentBatch = new ExtentBatch(0);
  #index = 0;
  /** The block of the last seek: before it, this page or extent may not be the first one. */
  #soughtLba = Number.POSITIVE_INFINITY;
  firstLba = 0;
  endLba = 0;
  kind = 0;
  place = 0;
  /** The last one that was met. */
  damage: { firstLba: number; endLba: number; error: StorageError } | undefined;

  constructor(reader: RunReader, run: Run, mode: "strict" | "lenient") {
    this.#reader = reader;
    this.#parts = run.parts;
    this.#isLenient = mode === "lenient";
  }

  /** Goes to `lba` if that needs no other page. */
  seekNow(lba: number): boolean {
    if (lba < this.#soughtLba) return false;
    this.#soughtLba = lba;
    if (lba < this.endLba) return true;
    // The next one, nearly always.
    this.#index += 1;
    if (this.#index < this.#page.length && !this.#endsBehind(this.#index, lba))
      this.#index = this.#page.indexBehind(lba);
    if (this.#index < this.#page.length) {
      this.#take();
      return true;
    }
    this.#soughtLba = Number.POSITIVE_INFINITY;
    return false;
  }

  async seek(lba: number): Promise<void> {
    const part = this.#parts.find(({ endLba }) => endLba > lba);
    if (part === undefined) this.#takeNothing();
    else await this.#seekIn(part, lba);
    this.#soughtLba = lba;
  }

  async #seekIn(part: RunPart, lba: number): Promise<void> {
    let { firstLba, endLba } = part;
    try {
      const open = await this.#reader.open(part);
      const page = open.head.pageBehind(lba);
      firstLba = open.head.first(page);
      endLba = open.head.end(page);
      this.#page = await this.#reader.page(open, page);
    } catch (error) {
      if (!this.#isLenient || !hasCode(error, "TARGET_CORRUPT")) throw error;
      this.damage = { firstLba, endLba, error };
      this.#page = new ExtentBatch(1);
      this.#page.push(firstLba, endLba - firstLba, LOST, 0);
    }
    this.#index = this.#page.indexBehind(lba);
    this.#take();
  }

  #takeNothing(): void {
    this.#page = new ExtentBatch(0);
    this.firstLba = Number.POSITIVE_INFINITY;
    this.endLba = Number.POSITIVE_INFINITY;
  }

  #endsBehind(index: number, lba: number): boolean {
    return this.#page.lbas[index]! + this.#page.blockCounts[index]! > lba;
  }

  #take(): void {
    const [page, index] = [this.#page, this.#index];
    this.firstLba = page.lbas[index]!;
    this.endLba = this.firstLba + page.blockCounts[index]!;
    this.kind = page.kinds[index]!;
    this.place = page.places[index]!;
  }
}
