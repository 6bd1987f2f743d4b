// SPDX-License-Identifier: Apache-2.0
//
// An extent as few bytes, told by its distance from the one before. What is likely costs nothing: its blocks follow those
// of the former extent in the same pack, for a backup packs what it reads in the order of LBAs.
//
//   extent   varint gap · varint (blocks - 1) × 4 + code · code 1: varint which place
//   gap      blocks between the end of the former extent and this one; signed where extents need not ascend
//   code     0 frames in the place that is expected first · 1 frames elsewhere · 2 zeros · 3 hole
//   which    0 to 6: the one that is expected second to eighth · from 7 on: 7 + the place less the first, signed
//
// Expected are the places behind the frames of former extents, the last ones first, each row of blocks once: a run that
// was merged of several goes to and fro between the packs of each, and every one of them goes on where it was.
//
// Places are in the ordinals of the object; the decoder translates them into those of the program.

import { EXTENT_KIND } from "./extents.ts";
import { LBA_END_MAX, ordinalOf, PACK_SLOTS_MAX, placeAt, slotOf } from "./place.ts";
import { foldSign, putVarint, unfoldSign, VARINT_BYTES_MAX, type VarintReader } from "./varint.ts";

export const EXTENT_BYTES_MAX: number = 3 * VARINT_BYTES_MAX;
export const EXTENT_BYTES_MIN = 2;

/** Rows of blocks that are remembered. */
const ROWS = 8;

const CODE = { following: 0, elsewhere: 1, zero: 2, hole: 3 } as const;

/** The places that are expected, the likeliest one first. */
class ExpectedPlaces {
  readonly #places: Float64Array = new Float64Array(ROWS);

  clear(): void {
    this.#places.fill(0);
  }

  at(index: number): number {
    return this.#places[index]!;
  }

  indexOf(place: number): number {
    return this.#places.indexOf(place);
  }

  /** The row at `index` went on to `place`; -1: it is a new one, and the oldest is forgotten. */
  advance(index: number, place: number): void {
    const from = index < 0 ? ROWS - 1 : index;
    if (from > 0) this.#places.copyWithin(1, 0, from);
    this.#places[0] = place;
  }
}

export class ExtentEncoder {
  readonly #isSigned: boolean;
  readonly #expected: ExpectedPlaces = new ExpectedPlaces();
  endLba = 0;

  constructor(order: "ascending" | "any") {
    this.#isSigned = order === "any";
  }

  /** As for the first extent of a page. */
  begin(lba: number): void {
    this.endLba = lba;
    this.#expected.clear();
  }

  /** Writes it at `at`; returns where it ends. The place is one of the object's. */
  put(
    target: Uint8Array,
    at: number,
    extent: { lba: number; blockCount: number; kind: number; place: number },
  ): number {
    const { lba, blockCount, kind, place } = extent;
    const gap = lba - this.endLba;
    let end = putVarint(target, at, this.#isSigned ? foldSign(gap) : gap);
    this.endLba = lba + blockCount;
    if (kind !== EXTENT_KIND.frames) {
      const code = kind === EXTENT_KIND.zero ? CODE.zero : CODE.hole;
      return putVarint(target, end, (blockCount - 1) * 4 + code);
    }
    const row = this.#expected.indexOf(place);
    const code = row === 0 ? CODE.following : CODE.elsewhere;
    end = putVarint(target, end, (blockCount - 1) * 4 + code);
    if (row > 0) end = putVarint(target, end, row - 1);
    if (row < 0) end = putVarint(target, end, ROWS - 1 + foldSign(place - this.#expected.at(0)));
    this.#expected.advance(row, place + blockCount);
    return end;
  }
}

/** The extent that was read last is in its fields, with the program's place. */
export class ExtentDecoder {
  readonly #reader: VarintReader;
  readonly #isSigned: boolean;
  /** The program's ordinals, by the object's. */
  readonly #ordinals: Float64Array;
  readonly #expected: ExpectedPlaces = new ExpectedPlaces();
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
    const quarter = Math.floor(word / 4);
    const code = word - quarter * 4;
    this.lba = this.#endLba + (this.#isSigned ? unfoldSign(gap) : gap);
    this.blockCount = quarter + 1;
    this.#endLba = this.lba + this.blockCount;
    this.kind = code === CODE.zero ? EXTENT_KIND.zero : EXTENT_KIND.hole;
    this.place = 0;
    const isPlaced = code > CODE.elsewhere || this.#takePlace(code);
    return isPlaced && !this.#reader.isBroken && this.lba >= 0 && this.#endLba <= LBA_END_MAX;
  }

  #takePlace(code: number): boolean {
    let row = 0;
    let own = this.#expected.at(0);
    if (code === CODE.elsewhere) {
      const which = this.#reader.next();
      const isKnown = which < ROWS - 1;
      row = isKnown ? which + 1 : -1;
      own = isKnown ? this.#expected.at(row) : own + unfoldSign(which - (ROWS - 1));
    }
    if (own < 0 || slotOf(own) + this.blockCount > PACK_SLOTS_MAX) return false;
    const ordinal = this.#ordinals[ordinalOf(own)];
    if (ordinal === undefined) return false;
    this.kind = EXTENT_KIND.frames;
    this.place = placeAt(ordinal, slotOf(own));
    this.#expected.advance(row, own + this.blockCount);
    return true;
  }
}
