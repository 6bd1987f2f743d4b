// SPDX-License-Identifier: Apache-2.0
//
// What the references of a wrote record tell, without asking anybody who packed it: frames of a batch lie one behind the
// other, so a reference beyond the newest frame so far is a new one, and its size is how far the next one is. What the
// blocks were before tells what is replaced, and likewise how much it took where neighbours were stored as neighbours.
// One pass, a few nanoseconds a block, nothing allocated.

import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { REPLACED } from "./activity-replaced.ts";

/** A frame that was stored as it is: 24 bytes of header and 4096, in units of 8. */
export const RAW_FRAME_8 = 515;

// Constants of the loop: properties of an object would be loaded for each block.
const { FRAME, ZERO } = REFERENCE_STATE;
const { PERHAPS } = REPLACED;

export class FrameTrail {
  readonly #words: Uint32Array;
  /** The newest frame; everything beyond is new. Offsets are in units of 8 bytes. */
  segment = 0;
  offset8 = -1;
  /** Of the record that was followed last: its new frames, and where the first of them begins. */
  frameCount = 0;
  firstOffset8 = 0;
  /** Of its new frames but the last one, of which nobody has said where it ends. */
  frameBytes8 = 0;
  rawFrameCount = 0;
  hardenedCount = 0;
  /** The block of the last one held content that shrank. */
  hasLastReplacedShrunk = false;
  zeroCount = 0;
  rewrittenCount = 0;
  freshCount = 0;
  /** Blocks that may have held data. */
  perhapsCount = 0;
  /** Of rewritten ones: those whose frame's size is known. */
  sizedCount = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** References of `blockCount` blocks are in memory from word `at` on; `replaced` as ReplacedBlocks has it. */
  follow(at: number, replaced: Uint32Array, blockCount: number): void {
    const words = this.#words;
    let { segment, offset8 } = this;
    let firstOffset8 = -1;
    let frameCount = 0;
    let rawFrameCount = 0;
    let hardenedCount = 0;
    let zeroCount = 0;
    let rewrittenCount = 0;
    let freshCount = 0;
    let perhapsCount = 0;
    let sizedCount = 0;
    let hasLastReplacedShrunk = false;
    for (let word = 0; word < blockCount * 2; word += 2) {
      const oldSegment = replaced[word] as number;
      const oldLow = replaced[word + 1] as number;
      let hasReplacedShrunk = false;
      if (oldSegment >= PERHAPS) {
        if (oldSegment === PERHAPS) perhapsCount += 1;
      } else if (stateOf(oldLow) === FRAME) {
        rewrittenCount += 1;
        const next8 = offset8Of(replaced[word + 3] as number) - offset8Of(oldLow);
        if (oldSegment === replaced[word + 2] && next8 > 0 && next8 <= RAW_FRAME_8) {
          sizedCount += 1;
          hasReplacedShrunk = next8 < RAW_FRAME_8;
        }
      } else freshCount += 1;
      const low = words[at + word + 1] as number;
      const state = stateOf(low);
      if (state === ZERO) zeroCount += 1;
      if (state !== FRAME) continue;
      const newSegment = words[at + word] as number;
      const new8 = offset8Of(low);
      if (newSegment === segment ? new8 <= offset8 : newSegment < segment) continue;
      if (firstOffset8 < 0) firstOffset8 = new8;
      else if (new8 - offset8 === RAW_FRAME_8) {
        rawFrameCount += 1;
        if (hasLastReplacedShrunk) hardenedCount += 1;
      }
      segment = newSegment;
      offset8 = new8;
      frameCount += 1;
      hasLastReplacedShrunk = hasReplacedShrunk;
    }
    this.segment = segment;
    this.offset8 = offset8;
    this.frameCount = frameCount;
    this.firstOffset8 = firstOffset8;
    this.frameBytes8 = frameCount === 0 ? 0 : offset8 - firstOffset8;
    this.rawFrameCount = rawFrameCount;
    this.hardenedCount = hardenedCount;
    this.hasLastReplacedShrunk = hasLastReplacedShrunk;
    this.zeroCount = zeroCount;
    this.rewrittenCount = rewrittenCount;
    this.freshCount = freshCount;
    this.perhapsCount = perhapsCount;
    this.sizedCount = sizedCount;
  }
}
