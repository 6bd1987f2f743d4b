// SPDX-License-Identifier: Apache-2.0
//
// A page of a history: what happened to a volume, in the order of the log, with times. Numbers are told by their distance
// from the ones before, so a write of one block costs about ten bytes.
//
//   page     varint time of the first entry · entry · entry …        the first entry's LSN is that of the page
//   entry    varint LSN less the former one · varint time less the former one · varint count × 4 + what
//   what     0 changed: count extents follow, ascending
//            1 changed, and the next entry has more of the same change
//            2 flushed: count is 0
//            3 named: a name of count bytes follows
//   extent   as in extent-codec.ts, with a signed gap: entries lie anywhere
//
// A page stands alone: it is read without any other.

import { assert } from "../base/assert.ts";
import { isName } from "../base/names.ts";
import {
  EXTENT_BYTES_MAX,
  EXTENT_BYTES_MIN,
  ExtentDecoder,
  ExtentEncoder,
} from "./extent-codec.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { putVarint, VARINT_BYTES_MAX, VarintReader } from "./varint.ts";

export const HISTORY_PAGE_BYTES: number = 16 << 10;
/** LSN, time and count of the smallest entry. */
export const ENTRY_BYTES_MIN = 3;

const WHAT = { changed: 0, changing: 1, flushed: 2, named: 3 } as const;
const ENTRY_HEADER_BYTES_MAX: number = 3 * VARINT_BYTES_MAX;
/** An entry with one extent, or with the longest name. */
const ROOM_BYTES: number = ENTRY_HEADER_BYTES_MAX + Math.max(EXTENT_BYTES_MAX, 64);

export class HistoryPageEncoder {
  readonly #bytes: Uint8Array = new Uint8Array(HISTORY_PAGE_BYTES);
  /** The extents of the entry that is being made: how many fit is known afterwards. */
  readonly #scratch: Uint8Array = new Uint8Array(HISTORY_PAGE_BYTES);
  readonly #extents: ExtentEncoder = new ExtentEncoder("any");
  #length = 0;
  #timeMicros = 0;
  firstLsn = 0;
  lastLsn = 0;
  entryCount = 0;

  /** No more entries. */
  get isFull(): boolean {
    return this.#length + ROOM_BYTES > HISTORY_PAGE_BYTES;
  }

  /**
   * Adds a change, or as much of it as fits: extents from `from` on. Returns the first one that is left. `ownPlace` gives
   * places in the ordinals of the part.
   */
  addChange(
    entry: { lsn: number; timeMicros: number; hasMore: boolean },
    extents: ExtentBatch,
    from: number,
    ownPlace: (place: number, blockCount: number) => number,
  ): number {
    this.#begin(entry);
    const room = HISTORY_PAGE_BYTES - this.#length - ENTRY_HEADER_BYTES_MAX;
    let [next, length] = [from, 0];
    while (next < extents.length && length + EXTENT_BYTES_MAX <= room) {
      const [lba, blockCount] = [extents.lbas[next]!, extents.blockCounts[next]!];
      const kind = extents.kinds[next]!;
      const place = kind === EXTENT_KIND.frames ? ownPlace(extents.places[next]!, blockCount) : 0;
      length = this.#extents.put(this.#scratch, length, { lba, blockCount, kind, place });
      next += 1;
    }
    const isWhole = next === extents.length && !entry.hasMore;
    this.#addHeader(entry, next - from, isWhole ? WHAT.changed : WHAT.changing);
    this.#bytes.set(this.#scratch.subarray(0, length), this.#length);
    this.#length += length;
    return next;
  }

  addFlush(entry: { lsn: number; timeMicros: number }): void {
    this.#begin(entry);
    this.#addHeader(entry, 0, WHAT.flushed);
  }

  addName(entry: { lsn: number; timeMicros: number }, name: string): void {
    assert(isName(name), "a moment has a name that is one");
    this.#begin(entry);
    this.#addHeader(entry, name.length, WHAT.named);
    for (let index = 0; index < name.length; index += 1)
      this.#bytes[this.#length + index] = name.charCodeAt(index);
    this.#length += name.length;
  }

  /** The page's bytes; then it is empty again. */
  take(): Uint8Array {
    const bytes = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    this.entryCount = 0;
    return bytes;
  }

  #begin({ lsn, timeMicros }: { lsn: number; timeMicros: number }): void {
    assert(!this.isFull, "a page has room for the entry");
    if (this.entryCount === 0) {
      this.#length = putVarint(this.#bytes, 0, timeMicros);
      this.#extents.begin(0);
      this.#timeMicros = timeMicros;
      this.firstLsn = lsn;
      this.lastLsn = lsn;
    }
    assert(lsn >= this.lastLsn && timeMicros >= this.#timeMicros, "history goes forward");
  }

  #addHeader(entry: { lsn: number; timeMicros: number }, count: number, what: number): void {
    let at = putVarint(this.#bytes, this.#length, entry.lsn - this.lastLsn);
    at = putVarint(this.#bytes, at, entry.timeMicros - this.#timeMicros);
    this.#length = putVarint(this.#bytes, at, count * 4 + what);
    this.lastLsn = entry.lsn;
    this.#timeMicros = entry.timeMicros;
    this.entryCount += 1;
  }
}

/** Takes what a history tells. What it returns is waited for. */
export interface HistoryVisitor {
  /** The extents are the reader's and change with the next entry. `hasMore`: the next entry has more of this change. */
  changed(
    lsn: number,
    timeMicros: number,
    extents: ExtentBatch,
    hasMore: boolean,
  ): Promise<void> | undefined;
  flushed(lsn: number, timeMicros: number): Promise<void> | undefined;
  named(lsn: number, timeMicros: number, name: string): Promise<void> | undefined;
}

/** What a part's head says of a page. */
export interface HistoryPageClaim {
  readonly firstLsn: number;
  readonly endLsn: number;
  readonly entryCount: number;
  /** The program's ordinals of the part's packs, by the part's own. */
  readonly ordinals: Float64Array;
}

/** The largest entry fits. */
export function historyBatch(): ExtentBatch {
  return new ExtentBatch(HISTORY_PAGE_BYTES / EXTENT_BYTES_MIN);
}

/** Tells the page's entries to the visitor, with the help of `batch`. Returns why it makes no sense, if it doesn't. */
export async function decodeHistoryPage(
  bytes: Uint8Array,
  claim: HistoryPageClaim,
  visitor: HistoryVisitor,
  batch: ExtentBatch,
): Promise<string | undefined> {
  const { firstLsn, endLsn, entryCount, ordinals } = claim;
  const reader = new VarintReader(bytes);
  const decoder = new ExtentDecoder(reader, { order: "any", ordinals, firstLba: 0 });
  let [lsn, timeMicros] = [firstLsn, reader.next()];
  for (let entry = 0; entry < entryCount; entry += 1) {
    lsn += reader.next();
    timeMicros += reader.next();
    const word = reader.next();
    const what = word % 4;
    const count = (word - what) / 4;
    const isPlaced = (entry > 0 || lsn === firstLsn) && lsn < endLsn;
    if (reader.isBroken || !isPlaced || !Number.isSafeInteger(timeMicros))
      return `entry ${entry} has no place`;
    let waiting: Promise<void> | undefined;
    if (what === WHAT.flushed) {
      if (count > 0) return `entry ${entry} makes no sense`;
      waiting = visitor.flushed(lsn, timeMicros);
    } else if (what === WHAT.named) {
      const name = Buffer.from(reader.take(Math.min(count, HISTORY_PAGE_BYTES))).toString("latin1");
      if (!isName(name)) return `entry ${entry} has no name`;
      waiting = visitor.named(lsn, timeMicros, name);
    } else {
      if (!decodeExtents(decoder, count, batch))
        return `the extents of entry ${entry} make no sense`;
      waiting = visitor.changed(lsn, timeMicros, batch, what === WHAT.changing);
    }
    if (waiting !== undefined) await waiting;
  }
  if (!reader.isAtEnd) return "bytes follow its last entry";
  return lsn === endLsn - 1 ? undefined : "it doesn't cover what the head says";
}

function decodeExtents(decoder: ExtentDecoder, count: number, batch: ExtentBatch): boolean {
  batch.clear();
  let lba = 0;
  for (let index = 0; index < count; index += 1) {
    if (batch.isFull || !decoder.next() || decoder.lba < lba) return false;
    batch.push(decoder.lba, decoder.blockCount, decoder.kind, decoder.place);
    lba = decoder.lba + decoder.blockCount;
  }
  return true;
}
