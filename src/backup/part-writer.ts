// SPDX-License-Identifier: Apache-2.0
//
// Writes the parts of a run or of a history: takes pages one after the other, keeps them until the part is finished, and
// gives the packs that they refer to short numbers of the part's own. A part is at most 32 MiB of pages, so that it is
// made in memory and put in one piece.

import { assert } from "../base/assert.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { encodePagedHead, type PageRow } from "./paged-head.ts";
import { ordinalOf, PACK_SLOTS_MAX, type PackTable, slotOf } from "./place.ts";
import { ObjectMaker, pieceCheck } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

const PART_BYTES_MAX: number = 32 << 20;

export interface PartWriterOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly random: Random;
  readonly packs: PackTable;
}

export interface FinishedPart {
  readonly name: string;
  readonly first: number;
  readonly end: number;
  readonly count: number;
  /** Of the object. */
  readonly sizeBytes: number;
}

export class PartWriter {
  readonly #kind: "run" | "history";
  readonly #options: PartWriterOptions;
  #maker: ObjectMaker | undefined;
  #pages: { row: PageRow; stored: Uint8Array }[] = [];
  #pagesBytes = 0;
  /** The program's ordinals of the packs that the part refers to, by the part's own; and the other way round. */
  #packs: number[] = [];
  #ownOrdinals: Map<number, number> = new Map();
  #blockCount = 0;

  constructor(kind: "run" | "history", options: PartWriterOptions) {
    this.#kind = kind;
    this.#options = options;
  }

  /** Whether there is room for so many more bytes of pages. */
  hasRoom(bytes: number): boolean {
    return this.#pagesBytes + bytes <= PART_BYTES_MAX;
  }

  /** The place in the part's own ordinals, of an extent of so many blocks. */
  ownPlace(place: number, blockCount: number): number {
    assert(slotOf(place) + blockCount <= PACK_SLOTS_MAX, "an extent keeps to its pack");
    const ordinal = ordinalOf(place);
    let own = this.#ownOrdinals.get(ordinal);
    if (own === undefined) {
      own = this.#packs.push(ordinal) - 1;
      this.#ownOrdinals.set(ordinal, own);
    }
    this.#blockCount += blockCount;
    return own * PACK_SLOTS_MAX + slotOf(place);
  }

  addPage(bytes: Uint8Array, page: Pick<PageRow, "first" | "end" | "count">): void {
    const { sealer, random } = this.#options;
    this.#maker ??= new ObjectMaker(this.#kind, sealer, random);
    const stored = this.#maker.seal(this.#pages.length, bytes);
    assert(this.hasRoom(stored.length), "a part was finished in time");
    const { first, end, count } = page;
    const row = { first, end, count, storedBytes: stored.length, check: pieceCheck(stored) };
    this.#pages.push({ row, stored });
    this.#pagesBytes += stored.length;
  }

  /** Puts the pages since the last part; undefined when there are none. Their packs have names. */
  async finish(): Promise<FinishedPart | undefined> {
    const [maker, pages] = [this.#maker, this.#pages];
    if (maker === undefined) return undefined;
    const rows = pages.map(({ row }) => row);
    const packs = this.#packs.map((ordinal) => this.#options.packs.nameOf(ordinal));
    const head = encodePagedHead({ packs, pages: rows, blockCount: this.#blockCount });
    this.#maker = undefined;
    this.#pages = [];
    this.#pagesBytes = 0;
    this.#packs = [];
    this.#ownOrdinals = new Map();
    this.#blockCount = 0;
    const pieces = pages.map(({ stored }) => stored);
    const { name, sizeBytes } = await maker.put(this.#options.store, pieces, head);
    const count = rows.reduce((sum, row) => sum + row.count, 0);
    return { name, first: rows[0]!.first, end: rows.at(-1)!.end, count, sizeBytes };
  }
}
