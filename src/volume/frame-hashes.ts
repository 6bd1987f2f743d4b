// SPDX-License-Identifier: Apache-2.0
//
// The hashes of stored blocks, without their content: each frame's header has the one of its block. Only of blocks that
// have a frame alone; of those that were compressed together none is told. What isn't told, or can't be read, is for the
// caller to find out by the bytes.

import { StorageError } from "../base/errors.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { offset8Of, stateOf } from "../log/reference.ts";
import { type BlockMemory, FRAME_HEADER_BYTES } from "../reduce/block-memory.ts";
import { type FramePlaces, LOCATED, PLACE_STATE } from "./frame-places.ts";

export interface FrameHashesOptions {
  readonly memory: BlockMemory;
  readonly log: Pick<LogWriter, "recentAddress">;
  readonly segments: FileStore;
  readonly places: FramePlaces;
}

/** Frames asked for, by reference, and their hashes: two words each. */
export interface WantedHashes {
  readonly references: Uint32Array;
  readonly hashes: Uint32Array;
  /** 1: the hash is told. */
  readonly known: Uint8Array;
}

const READS_AT_ONCE = 32;

export class FrameHashes {
  readonly #options: FrameHashesOptions;
  readonly #header: Uint8Array = new Uint8Array(FRAME_HEADER_BYTES * READS_AT_ONCE);
  readonly #view: DataView = new DataView(this.#header.buffer);

  constructor(options: FrameHashesOptions) {
    this.#options = options;
  }

  /** Of the first `count`. */
  async read(wanted: WantedHashes, count: number): Promise<void> {
    for (let first = 0; first < count; first += READS_AT_ONCE) {
      const reads: Promise<void>[] = [];
      for (let at = first; at < Math.min(count, first + READS_AT_ONCE); at++)
        reads.push(this.#read(wanted, at, (at - first) * FRAME_HEADER_BYTES));
      await Promise.all(reads);
    }
  }

  async #read(
    { references, hashes, known }: WantedHashes,
    at: number,
    buffer: number,
  ): Promise<void> {
    const { memory, log, segments, places } = this.#options;
    const segment = references[at * 2] as number;
    const low = references[at * 2 + 1] as number;
    known[at] = 0;
    try {
      let located = places.locate(segment, low);
      while (located === LOCATED.NOT_LOADED) {
        await places.load(segment, low);
        located = places.locate(segment, low);
      }
      if (located !== LOCATED.HERE || stateOf(places.low) === PLACE_STATE.SHARED) return;
      const offset = offset8Of(places.low) * 8;
      const recent = log.recentAddress(places.segment, offset);
      if (recent !== 0) {
        hashes[at * 2] = memory.view.getUint32(recent, true);
        hashes[at * 2 + 1] = memory.view.getUint32(recent + 4, true);
        known[at] = 1;
        return;
      }
      const header = this.#header.subarray(buffer, buffer + FRAME_HEADER_BYTES);
      if ((await segments.read(places.segment, header, offset)) < FRAME_HEADER_BYTES) return;
      const isIt =
        this.#view.getUint32(buffer + 8, true) === segment &&
        this.#view.getUint32(buffer + 12, true) === offset8Of(low);
      if (!isIt) return;
      hashes[at * 2] = this.#view.getUint32(buffer, true);
      hashes[at * 2 + 1] = this.#view.getUint32(buffer + 4, true);
      known[at] = 1;
    } catch (error) {
      // Damaged, or moved meanwhile.
      if (!(error instanceof StorageError)) throw error;
    }
  }
}
