// SPDX-License-Identifier: Apache-2.0
//
// Which segments hold frames. All that a new log makes are there from their number on; garbage collection drops them, one
// by one, and while it decides about a segment's frames the segment is judged: nothing new may refer to them.

export class SegmentSet {
  /** Those that were there when the log was opened, without those dropped since. */
  readonly #present: Set<number>;
  readonly #newestAtOpening: number;
  /** Of the later ones. */
  readonly #dropped: Set<number> = new Set();
  readonly #judged: Set<number> = new Set();

  constructor(present: Iterable<number>) {
    this.#present = new Set(present);
    this.#newestAtOpening = Math.max(0, ...this.#present);
  }

  has(segment: number): boolean {
    return segment > this.#newestAtOpening
      ? this.#dropped.size === 0 || !this.#dropped.has(segment)
      : this.#present.has(segment);
  }

  isJudged(segment: number): boolean {
    return this.#judged.size > 0 && this.#judged.has(segment);
  }

  /** From now on nothing new refers to frames that are in the segment, until it is dropped or spared. */
  judge(segment: number): void {
    this.#judged.add(segment);
  }

  /** The segment stays. */
  spare(segment: number): void {
    this.#judged.delete(segment);
  }

  /** Its frames are gone, or elsewhere. */
  drop(segment: number): void {
    if (segment > this.#newestAtOpening) this.#dropped.add(segment);
    else this.#present.delete(segment);
    this.#judged.delete(segment);
  }
}
