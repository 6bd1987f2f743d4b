// SPDX-License-Identifier: Apache-2.0
//
// Where a frame is: at home, where it was born, or where garbage collection moved it. And which segments are there at
// all, and which are being judged: while it is being decided which of a segment's frames are still needed, nothing may
// begin to need one of them.

import { offset8Of } from "../log/reference.ts";
import type { SegmentSet } from "../log/segment-set.ts";

export const LOCATED = {
  HERE: 0,
  /** The relocation index must be read first: `load`. */
  NOT_LOADED: 1,
  /** Nothing needs the frame any more, or it is lost. */
  GONE: 2,
} as const;

/** Bits 31 and 30 of a place, where a reference has its state. */
export const PLACE_STATE = { ALONE: 1, SHARED: 2 } as const;

/** What the relocation index answers. */
export interface Relocations {
  readonly foundSegment: number;
  readonly foundLow: number;
  readonly foundStoredBytes: number;
  /** RESOLVED; where the frame is in `found…`. */
  resolve(homeSegment: number, homeOffset8: number): number;
  load(homeSegment: number, homeOffset8: number): Promise<void>;
}

const RESOLVED = { NOT_LOADED: -1, AT_HOME: 0, FOUND: 1 } as const;

export class FramePlaces {
  readonly #relocations: Relocations;
  readonly #segments: SegmentSet;
  /** Of the last frame that was located: segment, low (as a reference's, with a place's state), bytes behind the header. */
  segment = 0;
  low = 0;
  storedBytes = 0;

  constructor(relocations: Relocations, segments: SegmentSet) {
    this.#relocations = relocations;
    this.#segments = segments;
  }

  /** Finds the frame that a reference names. `segment` and `low` are right until the next call. */
  locate(segment: number, low: number): number {
    const relocations = this.#relocations;
    const resolved = relocations.resolve(segment, offset8Of(low));
    if (resolved === RESOLVED.NOT_LOADED) return LOCATED.NOT_LOADED;
    if (resolved === RESOLVED.FOUND) {
      this.segment = relocations.foundSegment;
      this.low = relocations.foundLow;
      this.storedBytes = relocations.foundStoredBytes;
    } else {
      this.segment = segment;
      this.low = low;
    }
    return this.#segments.has(this.segment) ? LOCATED.HERE : LOCATED.GONE;
  }

  load(segment: number, low: number): Promise<void> {
    return this.#relocations.load(segment, offset8Of(low));
  }

  /** Whether nothing new may refer to frames that are in the segment, wherever they were born. */
  isJudged(segment: number): boolean {
    return this.#segments.isJudged(segment);
  }
}
