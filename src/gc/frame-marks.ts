// SPDX-License-Identifier: Apache-2.0
//
// Which frames of some segments something refers to. Frames are marked by the names that references have for them, so
// a frame that was moved into one of the segments is marked by its home: a bit per frame for those born there, an entry
// in a map for the others.

import { PAGE_BLOCKS } from "../index/page-directory.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import type { ReferenceTaker } from "./history.ts";
import type { SegmentFrames } from "./segment-frames.ts";

/** Frames are at least 32 bytes long: no two begin in the same 32. */
const OFFSET8_SHIFT = 2;
const OFFSET8_MAX: number = 1 << 24;

export class FrameMarks implements ReferenceTaker {
  /** For frames born in the segment. */
  readonly #born: Map<number, Uint8Array> = new Map();
  /** Segments that something refers to beyond their known end. */
  readonly #beyond: Set<number> = new Set();
  /** For frames moved into a segment: home segment → home offset / 8 → marked. */
  readonly #moved: Map<number, Map<number, boolean>> = new Map();
  #lastSegment = 0;
  #lastBorn: Uint8Array | undefined;
  #lastMoved: Map<number, boolean> | undefined;

  constructor(segments: readonly SegmentFrames[]) {
    for (const { number, end, moved } of segments) {
      this.#born.set(number, new Uint8Array(Math.ceil(end / 8 / (8 << OFFSET8_SHIFT)) + 1));
      for (const { homes } of moved)
        for (let at = 0; at < homes.length; at += 2)
          this.#homesOf(homes[at] as number).set(homes[at + 1] as number, false);
    }
  }

  page(_branch: number, words: Uint32Array, first: number): void {
    for (let word = first; word < first + PAGE_BLOCKS * 2; word += 2)
      this.#mark(words[word] as number, words[word + 1] as number);
  }

  zeros(): void {
    // Zeros have no frame.
  }

  /** Something refers to this. */
  note(_branch: number, segment: number, low: number): void {
    this.#mark(segment, low);
  }

  #mark(segment: number, low: number): void {
    if (segment === 0 || stateOf(low) !== REFERENCE_STATE.FRAME) return;
    if (segment !== this.#lastSegment) {
      this.#lastSegment = segment;
      this.#lastBorn = this.#born.get(segment);
      this.#lastMoved = this.#moved.get(segment);
    }
    const offset8 = offset8Of(low);
    if (this.#lastMoved?.has(offset8) === true) this.#lastMoved.set(offset8, true);
    const born = this.#lastBorn;
    if (born === undefined) return;
    const bit = offset8 >>> OFFSET8_SHIFT;
    if (bit >>> 3 < born.length) born[bit >>> 3] = (born[bit >>> 3] as number) | (1 << (bit & 7));
    else this.#beyond.add(segment);
  }

  /**
   * Whether everything that refers to frames born in the segment refers to one of those that it is known to hold. If not,
   * its records weren't read as they are, and nothing in it may be given up.
   */
  isAccounted({ number, born }: SegmentFrames): boolean {
    const marks = this.#born.get(number)?.slice();
    if (marks === undefined || this.#beyond.has(number)) return false;
    for (const offset8 of born) {
      const bit = offset8 >>> OFFSET8_SHIFT;
      marks[bit >>> 3] = (marks[bit >>> 3] as number) & ~(1 << (bit & 7));
    }
    return marks.every((byte) => byte === 0);
  }

  /** Whether something refers to the frame that was born at this place of one of the segments. */
  isBornLive(segment: number, offset8: number): boolean {
    const bit = offset8 >>> OFFSET8_SHIFT;
    const byte = this.#born.get(segment)?.[bit >>> 3] ?? 0;
    return offset8 < OFFSET8_MAX && (byte & (1 << (bit & 7))) !== 0;
  }

  /** The same for a frame that was moved into one of them. */
  isMovedLive(homeSegment: number, homeOffset8: number): boolean {
    return this.#moved.get(homeSegment)?.get(homeOffset8) === true;
  }

  #homesOf(segment: number): Map<number, boolean> {
    const homes = this.#moved.get(segment) ?? new Map<number, boolean>();
    this.#moved.set(segment, homes);
    return homes;
  }
}
