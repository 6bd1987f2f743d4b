// SPDX-License-Identifier: Apache-2.0
//
// Every frame that is in the segments, as the records of its batch name it, and which of them something refers to: what
// counting references anew needs. Ten bytes a frame: where it is, what it takes, and, if it was moved there, where what
// its blocks were born.

import { BATCH_HEADER_BYTES, type BatchHeader } from "../log/batch.ts";
import { homeOf } from "../log/moved-frame.ts";
import { newPlainPlace, type PlainMoves, type PlainPlace } from "../log/plain-moves.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { segmentName } from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";

export interface FrameCounts {
  readonly frames: number;
  readonly frameBytes: number;
  /** Frames that nothing refers to. */
  readonly unreferencedFrames: number;
  readonly unreferencedBytes: number;
}

const REFERENCED = 1;
const DAMAGED = 2;
const BORN = 0;
const FIRST_CAPACITY = 64;

export class StoredFrames {
  readonly #segments: Map<number, FrameList> = new Map();
  #list: FrameList = new FrameList();
  #batchStart = 0;
  #framesEnd = 0;
  readonly #place: PlainPlace = newPlainPlace();
  /** The frame that `reach` found last is damaged. */
  isDamaged = false;

  /** The frames that follow are in this segment. */
  beginSegment(number: number): void {
    this.#list = new FrameList();
    this.#segments.set(number, this.#list);
  }

  beginBatch(offset: number, { frameBytes }: BatchHeader): void {
    this.#list.endBatch(this.#framesEnd);
    this.#batchStart = offset;
    this.#framesEnd = offset + BATCH_HEADER_BYTES + frameBytes;
  }

  /** A record of the batch. */
  note(memory: BlockMemory, segment: number, cursor: RecordCursor): void {
    if (cursor.kind === RECORD_KIND.WROTE) this.#noteBorn(memory, segment, cursor);
    else if (cursor.kind === RECORD_KIND.RELOCATED && cursor.placeSegment === segment)
      this.#noteMoved(memory, cursor);
  }

  noteDamaged({ offset }: DamagedFrame): void {
    this.#list.damaged.add(offset / 8);
  }

  endSegment(): void {
    this.#list.endBatch(this.#framesEnd);
  }

  /** Follows a reference to its frame; a sentence says why there is none. */
  reach(homeSegment: number, homeOffset8: number, moves: PlainMoves): string | undefined {
    const place = this.#place;
    this.isDamaged = false;
    const isMoved = moves.find(homeSegment, homeOffset8, place);
    const segment = isMoved ? place.segment : homeSegment;
    const list = this.#segments.get(segment);
    if (list === undefined) return `segment ${segmentName(segment)} is missing`;
    const offset8 = isMoved ? place.offset8 : homeOffset8;
    const index = list.find(offset8);
    const where = isMoved ? `at ${segment}:${offset8 * 8}, where it was moved,` : "there";
    if (index < 0) return `no frame is ${where}`;
    const isIt = isMoved
      ? list.isHome(index, place.slot, homeSegment, homeOffset8)
      : list.isBorn(index);
    if (!isIt) return `another frame is ${where}`;
    this.isDamaged = list.refer(index);
    return undefined;
  }

  get counts(): FrameCounts {
    let [frames, frameBytes, unreferencedFrames, unreferencedBytes] = [0, 0, 0, 0];
    for (const list of this.#segments.values()) {
      frames += list.count;
      for (let index = 0; index < list.count; index++) {
        const bytes = list.bytesOf(index);
        frameBytes += bytes;
        if (list.isReferenced(index)) continue;
        unreferencedFrames += 1;
        unreferencedBytes += bytes;
      }
    }
    return { frames, frameBytes, unreferencedFrames, unreferencedBytes };
  }

  #noteBorn({ view }: BlockMemory, segment: number, cursor: RecordCursor): void {
    for (let block = 0; block < cursor.blockCount; block++) {
      const at = cursor.referencesOffset + block * 8;
      const low = view.getUint32(at + 4, true);
      if (stateOf(low) !== REFERENCE_STATE.FRAME || view.getUint32(at, true) !== segment) continue;
      if (this.#isInBatch(offset8Of(low))) this.#list.add(offset8Of(low), BORN);
    }
  }

  #noteMoved(memory: BlockMemory, cursor: RecordCursor): void {
    const { placeOffset8, slotCount } = cursor;
    if (!this.#isInBatch(placeOffset8)) return;
    const homes = new Uint32Array(slotCount * 2);
    for (let slot = 0; slot < slotCount; slot++) {
      const { segment, offset8 } = homeOf(memory, cursor, slot);
      homes[slot * 2] = segment;
      homes[slot * 2 + 1] = offset8;
    }
    this.#list.add(placeOffset8, this.#list.addHomes(homes));
  }

  #isInBatch(offset8: number): boolean {
    return offset8 * 8 >= this.#batchStart + BATCH_HEADER_BYTES && offset8 * 8 < this.#framesEnd;
  }
}

interface FrameColumns {
  /** Offset / 8. */
  readonly offsets: Uint32Array;
  /** In units of 8 bytes; a frame of 64 blocks takes 33283. */
  readonly sizes: Uint16Array;
  /** 0: born here; else 1 + where its homes begin. */
  readonly homesOf: Uint32Array;
  readonly marks: Uint8Array;
}

function columnsOf(capacity: number): FrameColumns {
  return {
    offsets: new Uint32Array(capacity),
    sizes: new Uint16Array(capacity),
    homesOf: new Uint32Array(capacity),
    marks: new Uint8Array(capacity),
  };
}

/** Frames of one segment, ascending. */
class FrameList {
  count = 0;
  /** Frames of the batch that is being told: offset / 8 and homes, in the order of its records. */
  readonly #batch: { offset8: number; homes: number }[] = [];
  readonly damaged: Set<number> = new Set();
  #columns: FrameColumns = columnsOf(FIRST_CAPACITY);
  /** For each moved frame: how many slots, and home segment and offset / 8 of each. */
  #homes: Uint32Array = new Uint32Array(FIRST_CAPACITY);
  #homesEnd = 0;

  add(offset8: number, homes: number): void {
    this.#batch.push({ offset8, homes });
  }

  addHomes(homes: Uint32Array): number {
    const at = this.#homesEnd;
    this.#homesEnd = at + 1 + homes.length;
    if (this.#homesEnd > this.#homes.length) {
      const larger = new Uint32Array(Math.max(this.#homesEnd, this.#homes.length * 2));
      larger.set(this.#homes.subarray(0, at));
      this.#homes = larger;
    }
    this.#homes[at] = homes.length / 2;
    this.#homes.set(homes, at + 1);
    return at + 1;
  }

  /** A frame reaches to the next one, the last to the end of the batch's frames. */
  endBatch(framesEnd: number): void {
    const ascending = this.#batch.sort((a, b) => a.offset8 - b.offset8);
    // Blocks of one write may share a frame.
    const frames = ascending.filter(
      ({ offset8 }, at) => at === 0 || ascending[at - 1]?.offset8 !== offset8,
    );
    for (const [at, { offset8, homes }] of frames.entries()) {
      const end8 = frames[at + 1]?.offset8 ?? framesEnd / 8;
      this.#push(offset8, end8 - offset8, homes);
    }
    this.#batch.length = 0;
  }

  find(offset8: number): number {
    const { offsets } = this.#columns;
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((offsets[middle] as number) < offset8) low = middle + 1;
      else high = middle;
    }
    return low < this.count && offsets[low] === offset8 ? low : -1;
  }

  isBorn(index: number): boolean {
    return this.#columns.homesOf[index] === BORN;
  }

  isHome(index: number, slot: number, segment: number, offset8: number): boolean {
    const at = (this.#columns.homesOf[index] as number) - 1;
    if (at < 0 || slot >= (this.#homes[at] as number)) return false;
    const home = at + 1 + slot * 2;
    return this.#homes[home] === segment && this.#homes[home + 1] === offset8;
  }

  /** Something refers to the frame. True: it is damaged. */
  refer(index: number): boolean {
    const { marks } = this.#columns;
    const mark = marks[index] as number;
    marks[index] = mark | REFERENCED;
    return (mark & DAMAGED) !== 0;
  }

  isReferenced(index: number): boolean {
    return ((this.#columns.marks[index] as number) & REFERENCED) !== 0;
  }

  bytesOf(index: number): number {
    return (this.#columns.sizes[index] as number) * 8;
  }

  #push(offset8: number, size8: number, homes: number): void {
    if (this.count === this.#columns.offsets.length) this.#grow();
    const index = this.count;
    this.count += 1;
    this.#columns.offsets[index] = offset8;
    this.#columns.sizes[index] = Math.min(size8, 0xffff);
    this.#columns.homesOf[index] = homes;
    this.#columns.marks[index] = this.damaged.delete(offset8) ? DAMAGED : 0;
  }

  #grow(): void {
    const capacity = this.count * 2;
    const { offsets, sizes, homesOf, marks } = this.#columns;
    this.#columns = columnsOf(capacity);
    this.#columns.offsets.set(offsets);
    this.#columns.sizes.set(sizes);
    this.#columns.homesOf.set(homesOf);
    this.#columns.marks.set(marks);
  }
}
