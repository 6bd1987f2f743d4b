// SPDX-License-Identifier: Apache-2.0
//
// The frames of one sealed segment, by where they lie: their rows out of its footer, in memory, to be found by offset. Read
// for who wants the hashes of many frames at once: a quarter of a mebibyte instead of as many frames.
//
// The footer's own checksum isn't looked at, which would take all of it: what a row says is to be checked, or may be wrong.

import {
  type BlockMemory,
  FRAME_ROW_BYTES,
  RECORD_BLOCKS_MAX,
  SEGMENT_FRAMES_MAX,
} from "../reduce/block-memory.ts";
import type { FileStore } from "./file-store.ts";
import { SEGMENT_BYTES_MAX } from "./reference.ts";
import { parseSegmentTrailer, SEGMENT_TRAILER_BYTES, type SegmentTrailer } from "./segment.ts";

const ROW_WORDS: number = FRAME_ROW_BYTES / 4;
/** Frames are looked for among those of the same 4 KiB of the segment. */
const SPAN_SHIFT = 9;
const SPANS: number = SEGMENT_BYTES_MAX / 8 / 2 ** SPAN_SHIFT;
/** No frame is smaller than 32 bytes. */
const SPAN_FRAMES_MAX: number = 2 ** SPAN_SHIFT / 4;
/** The record that crosses the limit ends the segment. */
const FRAMES_MAX: number = SEGMENT_FRAMES_MAX + 2 * RECORD_BLOCKS_MAX;
const PAGE_BYTES = 4096;
/** Behind what hashes use of the scratch. */
const PARSED_IN_SCRATCH = 8192;

export class SegmentRows {
  readonly #memory: BlockMemory;
  readonly #segments: FileStore;
  #words: Uint32Array = new Uint32Array(0);
  #first = 0;
  #count = 0;
  /** Where the rows of each span begin. */
  readonly #spans: Uint32Array = new Uint32Array(SPANS + 1);
  readonly #trailer: Uint8Array = new Uint8Array(SEGMENT_TRAILER_BYTES);
  /** Grows with the largest. */
  #buffer: Uint32Array = new Uint32Array(0);

  constructor(memory: BlockMemory, segments: FileStore) {
    this.#memory = memory;
    this.#segments = segments;
  }

  /** Reads the rows of a segment; false: it has no footer. Throws DISK_IO. */
  async read(segment: number): Promise<boolean> {
    this.#count = 0;
    const sizeBytes = await this.#segments.sizeBytes(segment);
    const end = sizeBytes - SEGMENT_TRAILER_BYTES;
    if (end < 0) return false;
    const readBytes = await this.#segments.read(segment, this.#trailer, end);
    const trailer = readBytes < SEGMENT_TRAILER_BYTES ? undefined : this.#parse(segment);
    if (trailer === undefined) return false;
    const words = trailer.frameCount * ROW_WORDS;
    if (this.#buffer.length < words) this.#buffer = new Uint32Array(words);
    const target = new Uint8Array(this.#buffer.buffer, 0, trailer.rowBytes);
    const rowsAt = Math.ceil(trailer.end / PAGE_BYTES) * PAGE_BYTES;
    if ((await this.#segments.read(segment, target, rowsAt)) < target.length) return false;
    this.use(this.#buffer, 0, trailer.frameCount);
    return true;
  }

  /** Takes rows that are in memory already, from a word on; valid as long as those stay. */
  use(words: Uint32Array, first: number, count: number): void {
    this.#words = words;
    this.#first = first;
    this.#count = count;
    const spans = this.#spans;
    let next = 0;
    for (let row = 0; row < count; row++) {
      const span = (words[first + row * ROW_WORDS] as number) >>> SPAN_SHIFT;
      while (next <= span && next <= SPANS) spans[next++] = row;
    }
    spans.fill(count, Math.min(next, SPANS));
  }

  /** Copies the hash of the frame at `offset8` to two words of `target`; false: there is no such row. */
  find(offset8: number, target: Uint32Array, at: number): boolean {
    const words = this.#words;
    const span = offset8 >>> SPAN_SHIFT;
    const first = this.#spans[span] as number;
    const end = Math.min(this.#count, first + SPAN_FRAMES_MAX);
    for (let row = first; row < end; row++) {
      const word = this.#first + row * ROW_WORDS;
      const found = words[word] as number;
      if (found < offset8) continue;
      if (found > offset8) return false;
      target[at] = words[word + 2] as number;
      target[at + 1] = words[word + 3] as number;
      return true;
    }
    return false;
  }

  #parse(segment: number): SegmentTrailer | undefined {
    const at = this.#memory.scratchAddress + PARSED_IN_SCRATCH;
    this.#memory.bytes.set(this.#trailer, at);
    const trailer = parseSegmentTrailer(this.#memory, at);
    const isSane =
      typeof trailer !== "string" &&
      trailer.number === segment &&
      trailer.frameCount <= FRAMES_MAX &&
      trailer.rowBytes === trailer.frameCount * FRAME_ROW_BYTES;
    return isSane ? trailer : undefined;
  }
}
