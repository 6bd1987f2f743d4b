// SPDX-License-Identifier: Apache-2.0
//
// Writes a run, part by part, from extents in ascending order. Extents that continue the one before become one, and one
// that would go beyond its pack is refused by the assertion: packs have no neighbours.
//
// A part can be finished once its packs have names, that is after PackWriter.flush(). So who makes a backup decides when:
// `isPartFull` says that it has to be now.

import { assert } from "../base/assert.ts";
import { EXTENT_KIND } from "./extents.ts";
import { PartWriter, type PartWriterOptions } from "./part-writer.ts";
import { slotOf } from "./place.ts";
import { RUN_PAGE_BYTES, RunPageEncoder } from "./run-page.ts";

/** One object of a run, as manifests name it. */
export interface RunPart {
  readonly name: string;
  readonly firstLba: number;
  readonly endLba: number;
  readonly extentCount: number;
  /** Of the object. */
  readonly sizeBytes: number;
}

/** Parts in ascending order, without overlap. */
export interface Run {
  readonly parts: readonly RunPart[];
}

export class RunWriter {
  readonly #encoder: RunPageEncoder = new RunPageEncoder();
  readonly #parts: PartWriter;
  /** The last extent, which may still grow; no blocks: there is none. */
  #lba = 0;
  #blockCount = 0;
  #kind = 0;
  #place = 0;

  constructor(options: PartWriterOptions) {
    this.#parts = new PartWriter("run", options);
  }

  /** The part must be finished before the next extent. */
  get isPartFull(): boolean {
    // The page that fills, and one more for what sealing adds and the last extent.
    return !this.#parts.hasRoom(3 * RUN_PAGE_BYTES);
  }

  /** `place` is meaningless unless these are frames. */
  add(lba: number, blockCount: number, kind: number, place: number): void {
    assert(blockCount > 0 && lba >= this.#lba + this.#blockCount, "extents ascend");
    if (this.#continues(lba, kind, place)) {
      this.#blockCount += blockCount;
      return;
    }
    this.#settle();
    this.#lba = lba;
    this.#blockCount = blockCount;
    this.#kind = kind;
    this.#place = place;
  }

  /** Puts what was added since the last part; undefined when that was nothing. Its packs are finished. */
  async finishPart(): Promise<RunPart | undefined> {
    this.#settle();
    this.#closePage();
    const part = await this.#parts.finish();
    if (part === undefined) return undefined;
    const { name, first, end, count, sizeBytes } = part;
    return { name, firstLba: first, endLba: end, extentCount: count, sizeBytes };
  }

  #continues(lba: number, kind: number, place: number): boolean {
    if (this.#blockCount === 0 || lba !== this.#lba + this.#blockCount || kind !== this.#kind)
      return false;
    if (kind !== EXTENT_KIND.frames) return true;
    return place === this.#place + this.#blockCount && slotOf(place) !== 0;
  }

  /** The last extent is as long as it will be. */
  #settle(): void {
    if (this.#blockCount === 0) return;
    if (this.#encoder.isFull) this.#closePage();
    const isFrames = this.#kind === EXTENT_KIND.frames;
    const place = isFrames ? this.#parts.ownPlace(this.#place, this.#blockCount) : 0;
    this.#encoder.add(this.#lba, this.#blockCount, this.#kind, place);
    this.#lba += this.#blockCount;
    this.#blockCount = 0;
  }

  #closePage(): void {
    const { firstLba: first, endLba: end, extentCount: count } = this.#encoder;
    if (count > 0) this.#parts.addPage(this.#encoder.take(), { first, end, count });
  }
}
