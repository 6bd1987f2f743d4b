// SPDX-License-Identifier: Apache-2.0
//
// What records do to the index, in the form of change lists: what a list must say, by the records that it tells of. For
// those who look whether it does, and for rebuilding one that can't be read.

import { applyToVolumes, type PlainVolume } from "../log/plain-volumes.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { PAGE_BLOCKS } from "./page-directory.ts";

export interface ChangeTaker {
  /** Blocks of a page, `first | (blocks - 1) << 16`, have that reference now. */
  change(branch: number, page: number, change: RecordedChange): void;
  /** All blocks of whole pages are holes or zeros now. */
  range(branch: number, range: RecordedRange): void;
}

/** The same object each time. */
export interface RecordedChange {
  lsn: number;
  blocks: number;
  segment: number;
  low: number;
}

export interface RecordedRange {
  readonly lsn: number;
  readonly low: number;
  readonly firstPage: number;
  readonly endPage: number;
}

export class RecordedChanges {
  readonly #memory: BlockMemory;
  readonly #volumes: Map<number, PlainVolume>;
  readonly #taker: ChangeTaker;
  readonly #change: RecordedChange = { lsn: 0, blocks: 0, segment: 0, low: 0 };

  /** `volumes`: as they are before the first record; changed from there on. */
  constructor(memory: BlockMemory, volumes: Map<number, PlainVolume>, taker: ChangeTaker) {
    this.#memory = memory;
    this.#volumes = volumes;
    this.#taker = taker;
  }

  apply(cursor: RecordCursor): void {
    const { kind, lsn, json } = cursor;
    if (kind === RECORD_KIND.WROTE) this.#wrote(cursor);
    else if (kind === RECORD_KIND.ZEROED) this.#constant(cursor, LOW_ZERO, lsn);
    else if (kind === RECORD_KIND.TRIMMED) this.#constant(cursor, LOW_HOLE, lsn);
    else if (json !== undefined) {
      const cutOff = applyToVolumes(this.#volumes, kind, json);
      if (cutOff !== undefined) this.#constant(cutOff, LOW_HOLE, lsn);
    }
  }

  #wrote({ branch, lba, blockCount, referencesOffset, lsn }: RecordCursor): void {
    const { view } = this.#memory;
    const change = this.#change;
    change.lsn = lsn;
    for (let block = 0; block < blockCount; block++) {
      change.blocks = (lba + block) % PAGE_BLOCKS;
      change.segment = view.getUint32(referencesOffset + block * 8, true);
      change.low = view.getUint32(referencesOffset + block * 8 + 4, true);
      this.#taker.change(branch, Math.floor((lba + block) / PAGE_BLOCKS), change);
    }
  }

  #constant(
    range: { readonly branch: number; readonly lba: number; readonly blockCount: number },
    low: number,
    lsn: number,
  ): void {
    const { branch, lba, blockCount } = range;
    const end = lba + blockCount;
    const firstPage = Math.ceil(lba / PAGE_BLOCKS);
    const endPage = Math.floor(end / PAGE_BLOCKS);
    if (firstPage > endPage) {
      this.#part(branch, { lba, end }, low, lsn);
      return;
    }
    this.#part(branch, { lba, end: firstPage * PAGE_BLOCKS }, low, lsn);
    if (firstPage < endPage) this.#taker.range(branch, { lsn, low, firstPage, endPage });
    this.#part(branch, { lba: endPage * PAGE_BLOCKS, end }, low, lsn);
  }

  /** Within one page. */
  #part(
    branch: number,
    { lba, end }: { readonly lba: number; readonly end: number },
    low: number,
    lsn: number,
  ): void {
    if (lba >= end) return;
    const change = this.#change;
    change.lsn = lsn;
    change.blocks = (lba % PAGE_BLOCKS) | ((end - lba - 1) << 16);
    change.segment = 0;
    change.low = low;
    this.#taker.change(branch, Math.floor(lba / PAGE_BLOCKS), change);
  }
}
