// SPDX-License-Identifier: Apache-2.0
//
// Writes a run, part by part, from extents in ascending order. Extents that continue the one before become one, and one
// that would go beyond its pack is refused by the assertion: packs have no neighbours.
//
// A part can be finished once its packs have names, that is after PackWriter.flush(). So who makes a backup decides when:
// `isPartFull` says that it has to be now.

import { assert } from "../base/assert.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { EXTENT_KIND } from "./extents.ts";
import { ordinalOf, PACK_SLOTS_MAX, type PackTable, slotOf } from "./place.ts";
import { encodeRunHead, RUN_PART_BYTES_MAX, type RunPageRow } from "./run-head.ts";
import { RUN_PAGE_BYTES, RunPageEncoder } from "./run-page.ts";
import { ObjectMaker, pieceCheck } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** One object of a run, as manifests name it. */
export interface RunPart {
  readonly name: string;
  readonly firstLba: number;
  readonly endLba: number;
  readonly extentCount: number;
  /** Of the object. */
  readonly sizeBytes: number;
}

/** Parts in ascending order, without overlap. */
export interface Run {
  readonly parts: readonly RunPart[];
}

export interface RunWriterOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly random: Random;
  readonly packs: PackTable;
}

export class RunWriter {
  readonly #options: RunWriterOptions;
  readonly #encoder: RunPageEncoder = new RunPageEncoder();
  #maker: ObjectMaker | undefined;
  #pages: { row: RunPageRow; stored: Uint8Array }[] = [];
  #pagesBytes = 0;
  /** The program's ordinals of the packs that the part refers to, by the part's own; and the other way round. */
  #packs: number[] = [];
  #ownOrdinals: Map<number, number> = new Map();
  #frameBlocks = 0;
  /** The last extent, which may still grow; no blocks: there is none. */
  #lba = 0;
  #blockCount = 0;
  #kind = 0;
  #place = 0;

  constructor(options: RunWriterOptions) {
    this.#options = options;
  }

  /** The part must be finished before the next extent. */
  get isPartFull(): boolean {
    return this.#pagesBytes + 2 * RUN_PAGE_BYTES > RUN_PART_BYTES_MAX;
  }

  /** `place` is meaningless unless these are frames. */
  add(lba: number, blockCount: number, kind: number, place: number): void {
    assert(blockCount > 0 && lba >= this.#lba + this.#blockCount, "extents ascend");
    if (kind === EXTENT_KIND.frames)
      assert(slotOf(place) + blockCount <= PACK_SLOTS_MAX, "an extent keeps to its pack");
    if (this.#continues(lba, kind, place)) {
      this.#blockCount += blockCount;
      return;
    }
    this.#settle();
    this.#lba = lba;
    this.#blockCount = blockCount;
    this.#kind = kind;
    this.#place = place;
  }

  /** Puts what was added since the last part; undefined when that was nothing. Its packs are finished. */
  async finishPart(): Promise<RunPart | undefined> {
    this.#settle();
    this.#closePage();
    const [maker, pages] = [this.#maker, this.#pages];
    if (maker === undefined) return undefined;
    const rows = pages.map(({ row }) => row);
    const packs = this.#packs.map((ordinal) => this.#options.packs.nameOf(ordinal));
    const head = encodeRunHead({ packs, pages: rows, frameBlocks: this.#frameBlocks });
    this.#maker = undefined;
    this.#pages = [];
    this.#pagesBytes = 0;
    this.#packs = [];
    this.#ownOrdinals = new Map();
    this.#frameBlocks = 0;
    const pieces = pages.map(({ stored }) => stored);
    const { name, sizeBytes } = await maker.put(this.#options.store, pieces, head);
    const firstLba = rows[0]!.firstLba;
    const endLba = rows.at(-1)!.endLba;
    const extentCount = rows.reduce((sum, row) => sum + row.extentCount, 0);
    return { name, firstLba, endLba, extentCount, sizeBytes };
  }

  #continues(lba: number, kind: number, place: number): boolean {
    if (this.#blockCount === 0 || lba !== this.#lba + this.#blockCount || kind !== this.#kind)
      return false;
    if (kind !== EXTENT_KIND.frames) return true;
    return place === this.#place + this.#blockCount && slotOf(place) !== 0;
  }

  /** The last extent is as long as it will be. */
  #settle(): void {
    if (this.#blockCount === 0) return;
    assert(this.#pagesBytes + RUN_PAGE_BYTES <= RUN_PART_BYTES_MAX, "a part was finished in time");
    if (this.#encoder.isFull) this.#closePage();
    const isFrames = this.#kind === EXTENT_KIND.frames;
    if (isFrames) this.#frameBlocks += this.#blockCount;
    const place = isFrames ? this.#ownPlace(this.#place) : 0;
    this.#encoder.add(this.#lba, this.#blockCount, this.#kind, place);
    this.#lba += this.#blockCount;
    this.#blockCount = 0;
  }

  #ownPlace(place: number): number {
    const ordinal = ordinalOf(place);
    let own = this.#ownOrdinals.get(ordinal);
    if (own === undefined) {
      own = this.#packs.push(ordinal) - 1;
      this.#ownOrdinals.set(ordinal, own);
    }
    return own * PACK_SLOTS_MAX + slotOf(place);
  }

  #closePage(): void {
    const { firstLba, endLba, extentCount } = this.#encoder;
    if (extentCount === 0) return;
    const { sealer, random } = this.#options;
    this.#maker ??= new ObjectMaker("run", sealer, random);
    const stored = this.#maker.seal(this.#pages.length, this.#encoder.take());
    const check = pieceCheck(stored);
    const row = { firstLba, endLba, extentCount, storedBytes: stored.length, check };
    this.#pages.push({ row, stored });
    this.#pagesBytes += stored.length;
  }
}
