// SPDX-License-Identifier: Apache-2.0
//
// Follows references to their frames, wherever those were moved. A frame that no batch tells of may be in a damaged one, and
// whole itself: such suspects are looked at in the end, each once.

import type { FileStore } from "../log/file-store.ts";
import { PLAIN_PAGE_BLOCKS, type PlainMap } from "../log/plain-map.ts";
import { newPlainPlace, type PlainMoves } from "../log/plain-moves.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { CheckFindings } from "./check-findings.ts";
import { isFrameAt } from "./frame-look.ts";
import type { StoredFrames } from "./stored-frames.ts";

export interface ReferenceCheckOptions {
  readonly memory: BlockMemory;
  readonly segments: FileStore;
  readonly frames: StoredFrames;
  readonly moves: PlainMoves;
  /** Whether the segment's frames are there. */
  readonly isPresent: (segment: number) => boolean;
  readonly findings: CheckFindings;
}

interface Suspect {
  readonly segment: number;
  readonly offset8: number;
  /** Of the first that refers to it. */
  readonly name: string;
  readonly problem: string;
  referenceCount: number;
}

/** So many frames that no batch tells of are looked for; all others count as gone. */
const SUSPECTS_MAX = 10_000;

export class ReferenceCheck {
  readonly #options: ReferenceCheckOptions;
  /** Frames that something refers to and of which no batch tells, by name; and references to more of them. */
  readonly #suspects: Map<string, Suspect> = new Map();
  #untoldCount = 0;
  /** References of volumes; and those of them whose frame is damaged. */
  followedCount = 0;
  damagedCount = 0;

  constructor(options: ReferenceCheckOptions) {
    this.#options = options;
  }

  /** All references of a volume; they are counted. */
  followVolume(map: PlainMap, nameOf: (lba: number) => string): void {
    for (const number of map.pageNumbers()) {
      const page = map.page(number) as Uint32Array;
      for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
        const low = page[block * 2 + 1] as number;
        if (stateOf(low) !== REFERENCE_STATE.FRAME) continue;
        const lba = number * PLAIN_PAGE_BLOCKS + block;
        this.#follow(page[block * 2] as number, low, () => nameOf(lba));
        this.followedCount += 1;
        if (this.#options.frames.isDamaged) this.damagedCount += 1;
      }
    }
  }

  /** One of history's; what is known to be missing isn't counted again. */
  followPast(segment: number, low: number, nameOf: () => string): void {
    if (stateOf(low) !== REFERENCE_STATE.FRAME) return;
    const isKnown =
      this.#suspects.size > 0 && this.#suspects.has(`${segment}:${offset8Of(low) * 8}`);
    if (!isKnown) this.#follow(segment, low, nameOf);
  }

  /** Goes to the reference's frame; where no batch tells of one, it is looked for later. */
  #follow(segment: number, low: number, nameOf: () => string): void {
    const { frames, moves } = this.#options;
    const offset8 = offset8Of(low);
    const problem = frames.reach(segment, offset8, moves);
    if (problem === undefined) return;
    const frame = `${segment}:${offset8 * 8}`;
    const known = this.#suspects.get(frame);
    if (known !== undefined) known.referenceCount += 1;
    else if (this.#suspects.size >= SUSPECTS_MAX) this.#untoldCount += 1;
    else
      this.#suspects.set(frame, { segment, offset8, name: nameOf(), problem, referenceCount: 1 });
  }

  /** Those that are in a damaged batch may be whole themselves. Counts the references to the others. */
  async findDangling(): Promise<number> {
    const { moves, isPresent, findings } = this.#options;
    const place = newPlainPlace();
    // What a missing segment takes along is one finding.
    const gone = new Map<string, Suspect & { readonly frame: string }>();
    for (const [frame, suspect] of this.#suspects) {
      const { segment, offset8, problem } = suspect;
      if (!moves.find(segment, offset8, place))
        Object.assign(place, { segment, offset8, isShared: false });
      const isThere = isPresent(place.segment);
      if (isThere && (await isFrameAt(this.#options, { segment, offset8 }, place))) continue;
      const key = isThere ? frame : problem;
      const first = gone.get(key);
      if (first === undefined) gone.set(key, { ...suspect, frame });
      else first.referenceCount += suspect.referenceCount;
    }
    let dangling = this.#untoldCount;
    for (const { frame, name, problem, referenceCount: references } of gone.values()) {
      dangling += references;
      const others = references > 1 ? ` (one of ${references} such references)` : "";
      const message = `${name}: its frame ${frame} is gone: ${problem}${others}`;
      findings.add("POOL_CORRUPT", message, { frame, references });
    }
    return dangling;
  }
}
