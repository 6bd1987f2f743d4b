// SPDX-License-Identifier: Apache-2.0
//
// Reads the headers of frames in one segment: those that lie near each other together, with what is between them. A header
// names the home of its frame, which must be the one that was asked for: else it is another's, or damaged, and not told.

import { StorageError } from "../base/errors.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { offset8Of } from "../log/reference.ts";
import { type BlockMemory, FRAME_HEADER_BYTES } from "../reduce/block-memory.ts";
import type { WantedHashes } from "./frame-hashes.ts";

export interface FrameHeadersOptions {
  readonly memory: BlockMemory;
  readonly log: Pick<LogWriter, "recentAddress">;
  readonly segments: FileStore;
}

const WINDOW_BYTES: number = 512 << 10;
/** Headers further apart than this are read apart. */
const GAP_BYTES_MAX: number = 12 << 10;
/** A reference's number beside its offset, in one number to be sorted. */
const REFERENCES_MAX: number = 2 ** 26;

export class FrameHeaders {
  readonly #options: FrameHeadersOptions;
  #window: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(this.#window.buffer);

  constructor(options: FrameHeadersOptions) {
    this.#options = options;
  }

  /** Tells of those references that aren't told yet; `lows` says where in the segment each frame is. One segment at a time. */
  async read(
    segment: number,
    which: readonly number[],
    lows: Uint32Array,
    wanted: WantedHashes,
  ): Promise<void> {
    const keys = Float64Array.from(
      which,
      (at) => offset8Of(lows[at] as number) * REFERENCES_MAX + at,
    ).sort();
    for (let first = 0; first < keys.length; ) {
      const start = offsetOf(keys[first] as number);
      let end = first + 1;
      let endBytes = start + FRAME_HEADER_BYTES;
      for (; end < keys.length; end++) {
        const offset = offsetOf(keys[end] as number);
        if (offset - endBytes > GAP_BYTES_MAX || offset - start > WINDOW_BYTES - FRAME_HEADER_BYTES)
          break;
        endBytes = offset + FRAME_HEADER_BYTES;
      }
      const readBytes = await this.#readWindow(segment, start, endBytes - start);
      for (; first < end; first++) {
        const key = keys[first] as number;
        this.#take(
          segment,
          { offset: offsetOf(key), start, readBytes },
          key % REFERENCES_MAX,
          wanted,
        );
      }
    }
  }

  async #readWindow(segment: number, start: number, lengthBytes: number): Promise<number> {
    if (this.#window.length < lengthBytes) {
      this.#window = new Uint8Array(Math.min(WINDOW_BYTES, 2 * lengthBytes));
      this.#view = new DataView(this.#window.buffer);
    }
    try {
      const target = this.#window.subarray(0, lengthBytes);
      return await this.#options.segments.read(segment, target, start);
    } catch (error) {
      if (error instanceof StorageError) return 0; // damaged, or collected meanwhile
      throw error;
    }
  }

  #take(
    segment: number,
    place: { readonly offset: number; readonly start: number; readonly readBytes: number },
    at: number,
    { references, hashes, known }: WantedHashes,
  ): void {
    const { memory, log } = this.#options;
    // What was written a moment ago may not be in the file yet.
    const recent = log.recentAddress(segment, place.offset);
    const inWindow = place.offset - place.start;
    if (recent === 0 && inWindow + FRAME_HEADER_BYTES > place.readBytes) return;
    const view = recent === 0 ? this.#view : memory.view;
    const header = recent === 0 ? inWindow : recent;
    const isIt =
      view.getUint32(header + 8, true) === references[at * 2] &&
      view.getUint32(header + 12, true) === offset8Of(references[at * 2 + 1] as number);
    if (!isIt) return;
    hashes[at * 2] = view.getUint32(header, true);
    hashes[at * 2 + 1] = view.getUint32(header + 4, true);
    known[at] = 1;
  }
}

function offsetOf(key: number): number {
  return Math.floor(key / REFERENCES_MAX) * 8;
}
