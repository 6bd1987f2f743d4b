// SPDX-License-Identifier: Apache-2.0
//
// The layout of a run part (docs/format/backup.md): pages, then a head that says which LBAs each has, and which packs they
// refer to. A run is a list of parts with ascending LBAs: a part stays small enough to be made and put in one piece, and
// a backup puts one at each of its milestones.
//
//   | page 0 | page 1 | … | head | footer |
//
//   head   u32 pages · u32 packs · u64 extents · u64 blocks of frames
//          for each pack: 32 its name                                   its number here is the run's ordinal
//          for each page: u64 first LBA · u64 end LBA · u32 stored bytes · u32 extents · 16 check
//
// 64-bit numbers stay below 2^53.

import { assert } from "../base/assert.ts";
import { LBA_END_MAX } from "./place.ts";
import { PAGE_EXTENTS_MAX, RUN_PAGE_BYTES } from "./run-page.ts";
import { CHECK_BYTES, NAME_BYTES, nameFromBytes, nameToBytes } from "./sealed-object.ts";

const FIXED_BYTES = 24;
const PAGE_ROW_BYTES = 40;
/** What a part's pages may add up to; a full one has 2048 pages. */
export const RUN_PART_BYTES_MAX: number = 32 << 20;

export interface RunPageRow {
  readonly firstLba: number;
  readonly endLba: number;
  readonly storedBytes: number;
  readonly extentCount: number;
  readonly check: Uint8Array;
}

/** What a part's head says. Rows are read in place. */
export class RunHead {
  readonly bytes: Uint8Array;
  readonly pageCount: number;
  readonly packCount: number;
  readonly extentCount: number;
  /** Blocks that lie in packs, counted as often as they are named. */
  readonly frameBlocks: number;
  readonly #view: DataView;
  readonly #offsets: Float64Array;

  private constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.pageCount = this.#view.getUint32(0, true);
    this.packCount = this.#view.getUint32(4, true);
    this.extentCount = Number(this.#view.getBigUint64(8, true));
    this.frameBlocks = Number(this.#view.getBigUint64(16, true));
    this.#offsets = new Float64Array(this.pageCount + 1);
    for (let page = 0; page < this.pageCount; page += 1)
      this.#offsets[page + 1] = this.#offsets[page]! + this.storedBytes(page);
  }

  /** Why the bytes can't be a part's head; otherwise the head. */
  static parse(bytes: Uint8Array, overheadBytes: number): RunHead | string {
    if (bytes.length < FIXED_BYTES) return "its head is cut";
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const [pageCount, packCount] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (pageCount === 0) return "it has no pages";
    if (bytes.length !== FIXED_BYTES + packCount * NAME_BYTES + pageCount * PAGE_ROW_BYTES)
      return `its head of ${bytes.length} bytes is not that of ${pageCount} pages and ${packCount} packs`;
    const head = new RunHead(bytes);
    let [lba, extents] = [0, 0];
    for (let page = 0; page < pageCount; page += 1) {
      const [first, end] = [head.firstLba(page), head.endLba(page)];
      if (first < lba || end <= first || end > LBA_END_MAX) return `page ${page} has no LBAs`;
      const [stored, count] = [head.storedBytes(page) - overheadBytes, head.extentsOf(page)];
      if (stored <= 0 || stored > RUN_PAGE_BYTES || count === 0 || count > PAGE_EXTENTS_MAX)
        return `page ${page} has ${stored} bytes for ${count} extents`;
      lba = end;
      extents += count;
    }
    return extents === head.extentCount ? head : "its pages have other extents than it says";
  }

  get isSafe(): boolean {
    return Number.isSafeInteger(this.frameBlocks);
  }

  packName(ordinal: number): string {
    assert(ordinal < this.packCount, "the run has the pack");
    return nameFromBytes(this.bytes, FIXED_BYTES + ordinal * NAME_BYTES);
  }

  /** Of the object without its head and footer. */
  get bodyBytes(): number {
    return this.#offsets[this.pageCount]!;
  }

  offset(page: number): number {
    return this.#offsets[page]!;
  }

  firstLba(page: number): number {
    return Number(this.#view.getBigUint64(this.#row(page), true));
  }

  endLba(page: number): number {
    return Number(this.#view.getBigUint64(this.#row(page) + 8, true));
  }

  storedBytes(page: number): number {
    return this.#view.getUint32(this.#row(page) + 16, true);
  }

  extentsOf(page: number): number {
    return this.#view.getUint32(this.#row(page) + 20, true);
  }

  checkAt(page: number): number {
    return this.#row(page) + 24;
  }

  /** The first page that ends behind `lba`; `pageCount` where none does. */
  pageBehind(lba: number): number {
    let low = 0;
    let high = this.pageCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.endLba(middle) > lba) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #row(page: number): number {
    return FIXED_BYTES + this.packCount * NAME_BYTES + page * PAGE_ROW_BYTES;
  }
}

export function encodeRunHead(options: {
  readonly packs: readonly string[];
  readonly pages: readonly RunPageRow[];
  readonly frameBlocks: number;
}): Uint8Array {
  const { packs, pages } = options;
  const pagesAt = FIXED_BYTES + packs.length * NAME_BYTES;
  const bytes = new Uint8Array(pagesAt + pages.length * PAGE_ROW_BYTES);
  const view = new DataView(bytes.buffer);
  const extentCount = pages.reduce((sum, page) => sum + page.extentCount, 0);
  view.setUint32(0, pages.length, true);
  view.setUint32(4, packs.length, true);
  view.setBigUint64(8, BigInt(extentCount), true);
  view.setBigUint64(16, BigInt(options.frameBlocks), true);
  for (const [ordinal, name] of packs.entries())
    bytes.set(nameToBytes(name), FIXED_BYTES + ordinal * NAME_BYTES);
  for (const [index, page] of pages.entries()) {
    const at = pagesAt + index * PAGE_ROW_BYTES;
    assert(page.check.length === CHECK_BYTES, "a check has its bytes");
    view.setBigUint64(at, BigInt(page.firstLba), true);
    view.setBigUint64(at + 8, BigInt(page.endLba), true);
    view.setUint32(at + 16, page.storedBytes, true);
    view.setUint32(at + 20, page.extentCount, true);
    bytes.set(page.check, at + 24);
  }
  return bytes;
}
