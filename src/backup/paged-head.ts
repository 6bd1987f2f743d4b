// SPDX-License-Identifier: Apache-2.0
//
// The layout that runs and histories share (docs/format/backup.md): pages of things in order (extents by LBA, changes by
// LSN), and a head that says which part of the order each page has, and which packs are referred to.
//
//   | page 0 | page 1 | … | head | footer |
//
//   head   u32 pages · u32 packs · u64 things · u64 blocks that lie in packs, counted as often as they are named
//          for each pack: 32 its name                                   its number here is the object's ordinal
//          for each page: u64 first · u64 end · u32 stored bytes · u32 things · 16 check
//
// 64-bit numbers stay below 2^53.

import { assert } from "../base/assert.ts";
import { CHECK_BYTES, NAME_BYTES, nameFromBytes, nameToBytes } from "./sealed-object.ts";

const FIXED_BYTES = 24;
const ROW_BYTES = 40;

export interface PageRow {
  /** An LBA, or an LSN; `end` is behind the last one. */
  readonly first: number;
  readonly end: number;
  readonly storedBytes: number;
  /** Of extents, or of entries. */
  readonly count: number;
  readonly check: Uint8Array;
}

/** What a page of a kind can be. */
export interface PageLimits {
  readonly bytesMax: number;
  /** Of the smallest thing. */
  readonly thingBytesMin: number;
  readonly endMax: number;
  /** How far a page may begin before the one before it ends. */
  readonly overlapMax: 0 | 1;
}

/** What a head says. Rows are read in place. */
export class PagedHead {
  readonly pageCount: number;
  readonly packCount: number;
  readonly count: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #offsets: Float64Array;

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.pageCount = this.#view.getUint32(0, true);
    this.packCount = this.#view.getUint32(4, true);
    this.count = Number(this.#view.getBigUint64(8, true));
    this.#offsets = new Float64Array(this.pageCount + 1);
    for (let page = 0; page < this.pageCount; page += 1)
      this.#offsets[page + 1] = this.#offsets[page]! + this.storedBytes(page);
  }

  /** The head; or why the bytes can't be one. `overheadBytes`: what sealing adds to a page. */
  static parse(bytes: Uint8Array, overheadBytes: number, limits: PageLimits): PagedHead | string {
    if (bytes.length < FIXED_BYTES) return "its head is cut";
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const [pageCount, packCount] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (pageCount === 0) return "it has no pages";
    if (bytes.length !== FIXED_BYTES + packCount * NAME_BYTES + pageCount * ROW_BYTES)
      return `its head of ${bytes.length} bytes is not that of ${pageCount} pages and ${packCount} packs`;
    const head = new PagedHead(bytes);
    let [end, count] = [0, 0];
    for (let page = 0; page < pageCount; page += 1) {
      const first = head.first(page);
      if (first < end - limits.overlapMax || head.end(page) <= first)
        return `page ${page} has no place`;
      end = head.end(page);
      if (end > limits.endMax) return `page ${page} ends beyond what there can be`;
      const stored = head.storedBytes(page) - overheadBytes;
      const things = head.countOf(page);
      if (stored > limits.bytesMax || things === 0 || things * limits.thingBytesMin > stored)
        return `page ${page} has ${stored} bytes for ${things} things`;
      count += things;
    }
    return count === head.count ? head : "its pages have other things than it says";
  }

  packName(ordinal: number): string {
    assert(ordinal < this.packCount, "the object names the pack");
    return nameFromBytes(this.#bytes, FIXED_BYTES + ordinal * NAME_BYTES);
  }

  /** Of the object without its head and footer. */
  get bodyBytes(): number {
    return this.#offsets[this.pageCount]!;
  }

  offset(page: number): number {
    return this.#offsets[page]!;
  }

  first(page: number): number {
    return Number(this.#view.getBigUint64(this.#row(page), true));
  }

  end(page: number): number {
    return Number(this.#view.getBigUint64(this.#row(page) + 8, true));
  }

  storedBytes(page: number): number {
    return this.#view.getUint32(this.#row(page) + 16, true);
  }

  countOf(page: number): number {
    return this.#view.getUint32(this.#row(page) + 20, true);
  }

  checkAt(page: number): number {
    return this.#row(page) + 24;
  }

  /** The first page that ends behind `position`; `pageCount` where none does. */
  pageBehind(position: number): number {
    let low = 0;
    let high = this.pageCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.end(middle) > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #row(page: number): number {
    return FIXED_BYTES + this.packCount * NAME_BYTES + page * ROW_BYTES;
  }
}

export function encodePagedHead(options: {
  readonly packs: readonly string[];
  readonly pages: readonly PageRow[];
  readonly blockCount: number;
}): Uint8Array {
  const { packs, pages } = options;
  const pagesAt = FIXED_BYTES + packs.length * NAME_BYTES;
  const bytes = new Uint8Array(pagesAt + pages.length * ROW_BYTES);
  const view = new DataView(bytes.buffer);
  const count = pages.reduce((sum, page) => sum + page.count, 0);
  view.setUint32(0, pages.length, true);
  view.setUint32(4, packs.length, true);
  view.setBigUint64(8, BigInt(count), true);
  view.setBigUint64(16, BigInt(options.blockCount), true);
  for (const [ordinal, name] of packs.entries())
    bytes.set(nameToBytes(name), FIXED_BYTES + ordinal * NAME_BYTES);
  for (const [index, page] of pages.entries()) {
    const at = pagesAt + index * ROW_BYTES;
    assert(page.check.length === CHECK_BYTES, "a check has its bytes");
    view.setBigUint64(at, BigInt(page.first), true);
    view.setBigUint64(at + 8, BigInt(page.end), true);
    view.setUint32(at + 16, page.storedBytes, true);
    view.setUint32(at + 20, page.count, true);
    bytes.set(page.check, at + 24);
  }
  return bytes;
}
