// SPDX-License-Identifier: Apache-2.0
//
// An extent as few bytes, told by its distance from the one before. What is likely costs nothing: its blocks follow those
// of the former extent in the same pack, for a backup packs what it reads in the order of LBAs.
//
//   extent   varint gap · varint (blocks - 1) × 4 + code · code 1: varint place less the expected one, signed
//   gap      blocks between the end of the former extent and this one; signed where extents need not ascend
//   code     0 frames in the expected place · 1 frames elsewhere · 2 zeros · 3 hole
//   expected place: behind the former frames; 0 at first
//
// Places are in the ordinals of the object; the decoder translates them into those of the program.

import { EXTENT_KIND } from "./extents.ts";
import { LBA_END_MAX, ordinalOf, PACK_SLOTS_MAX, slotOf } from "./place.ts";
import { foldSign, putVarint, unfoldSign, VARINT_BYTES_MAX, type VarintReader } from "./varint.ts";

export const EXTENT_BYTES_MAX: number = 3 * VARINT_BYTES_MAX;
export const EXTENT_BYTES_MIN = 2;

const CODE = { following: 0, elsewhere: 1, zero: 2, hole: 3 } as const;

export class ExtentEncoder {
  readonly #isSigned: boolean;
  #expected = 0;
  endLba = 0;

  constructor(order: "ascending" | "any") {
    this.#isSigned = order === "any";
  }

  /** As for the first extent of a page. */
  begin(lba: number): void {
    this.endLba = lba;
    this.#expected = 0;
  }

  /** Writes it at `at`; returns where it ends. The place is one of the object's. */
  put(
    target: Uint8Array,
    at: number,
    extent: { lba: number; blockCount: number; kind: number; place: number },
  ): number {
    const { lba, blockCount, kind, place } = extent;
    const gap = lba - this.endLba;
    const code = this.#code(kind, place);
    let end = putVarint(target, at, this.#isSigned ? foldSign(gap) : gap);
    end = putVarint(target, end, (blockCount - 1) * 4 + code);
    if (code === CODE.elsewhere) end = putVarint(target, end, foldSign(place - this.#expected));
    if (kind === EXTENT_KIND.frames) this.#expected = place + blockCount;
    this.endLba = lba + blockCount;
    return end;
  }

  #code(kind: number, place: number): number {
    if (kind === EXTENT_KIND.zero) return CODE.zero;
    if (kind === EXTENT_KIND.hole) return CODE.hole;
    return place === this.#expected ? CODE.following : CODE.elsewhere;
  }
}

/** The extent that was read last is in its fields, with the program's place. */
export class ExtentDecoder {
  readonly #reader: VarintReader;
  readonly #isSigned: boolean;
  /** The program's ordinals, by the object's. */
  readonly #ordinals: Float64Array;
  #expected = 0;
  #endLba: number;
  lba = 0;
  blockCount = 0;
  kind = 0;
  place = 0;

  constructor(
    reader: VarintReader,
    options: { order: "ascending" | "any"; ordinals: Float64Array; firstLba: number },
  ) {
    this.#reader = reader;
    this.#isSigned = options.order === "any";
    this.#ordinals = options.ordinals;
    this.#endLba = options.firstLba;
  }

  /** Reads the next one; false: it makes no sense. */
  next(): boolean {
    const gap = this.#reader.next();
    const word = this.#reader.next();
    const code = word % 4;
    this.lba = this.#endLba + (this.#isSigned ? unfoldSign(gap) : gap);
    this.blockCount = (word - code) / 4 + 1;
    this.#endLba = this.lba + this.blockCount;
    this.kind = code === CODE.zero ? EXTENT_KIND.zero : EXTENT_KIND.hole;
    this.place = 0;
    const isPlaced = code > CODE.elsewhere || this.#takePlace(code);
    return isPlaced && !this.#reader.isBroken && this.lba >= 0 && this.#endLba <= LBA_END_MAX;
  }

  #takePlace(code: number): boolean {
    const distance = code === CODE.elsewhere ? unfoldSign(this.#reader.next()) : 0;
    const own = this.#expected + distance;
    if (own < 0 || slotOf(own) + this.blockCount > PACK_SLOTS_MAX) return false;
    const ordinal = this.#ordinals[ordinalOf(own)];
    if (ordinal === undefined) return false;
    this.kind = EXTENT_KIND.frames;
    this.place = ordinal * PACK_SLOTS_MAX + slotOf(own);
    this.#expected = own + this.blockCount;
    return true;
  }
}
