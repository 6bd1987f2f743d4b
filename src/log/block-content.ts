// SPDX-License-Identifier: Apache-2.0
//
// The content of a block by its reference, from the segments alone: opens the frame wherever garbage
// collection moved it. One block at a time, into one place in memory; for readers without an index.

import type { Directory, Zstd } from "../host/ports.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_OPEN_RESULT,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import { FileStore } from "./file-store.ts";
import { isDamage } from "./log-reach.ts";
import { newPlainPlace, type PlainMoves, type PlainPlace } from "./plain-moves.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "./reference.ts";
import { segmentName } from "./segment.ts";
import { SHARED_STORED_BYTES_MAX, SharedFrames } from "./shared-frame.ts";

const OPEN_FILES_MAX = 16;
/** Frames that blocks share, kept open: neighbours in a volume mostly lie in one, but not in order. */
const SHARED_FRAMES_MAX = 16;

export interface BlockContentOptions {
  readonly memory: BlockMemory;
  readonly log: Directory;
  readonly zstd: Zstd;
  readonly moves: PlainMoves;
  /** A segment that can't be read is a reason like any other; else it is thrown. */
  readonly isDamageTold: boolean;
}

export class BlockContent {
  readonly #options: BlockContentOptions;
  readonly #files: FileStore;
  /** Names of the files that are there. */
  readonly #segments: ReadonlySet<string>;
  /** Addresses of a frame and of a block. */
  readonly #frame: number;
  readonly #block: number;
  readonly #shared: SharedFrames;
  /** By where they are; what is wrong with one, or its blocks. The one opened longest ago goes first. */
  readonly #opened: Map<string, Uint8Array | string> = new Map();
  readonly #place: PlainPlace = newPlainPlace();

  private constructor(options: BlockContentOptions, segments: ReadonlySet<string>) {
    const { memory, log, zstd } = options;
    this.#options = options;
    this.#segments = segments;
    this.#files = new FileStore(log, segmentName, OPEN_FILES_MAX);
    this.#frame = memory.staging.allocate(FRAME_HEADER_BYTES + SHARED_STORED_BYTES_MAX);
    this.#block = memory.staging.allocate(BLOCK_BYTES);
    this.#shared = new SharedFrames(memory, zstd);
  }

  static async open(options: BlockContentOptions): Promise<BlockContent> {
    return new BlockContent(options, new Set(await options.log.list()));
  }

  /** What was loaded last; valid until the next load. */
  get bytes(): Uint8Array {
    return this.#options.memory.bytes.subarray(this.#block, this.#block + BLOCK_BYTES);
  }

  /** Loads the block of a frame's reference; else says why not. */
  async load(segment: number, low: number): Promise<string | undefined> {
    const { moves, isDamageTold } = this.#options;
    if (stateOf(low) !== REFERENCE_STATE.FRAME) return "its page of the index is damaged";
    const place = this.#place;
    const offset8 = offset8Of(low);
    const isMoved = moves.find(segment, offset8, place);
    if (!isMoved) Object.assign(place, { segment, offset8, slot: 0, isShared: false });
    const name = segmentName(place.segment);
    if (!this.#segments.has(name)) return `segment ${name} is missing`;
    try {
      return await (place.isShared ? this.#openShared() : this.#openAlone(segment, offset8));
    } catch (error) {
      if (!isDamageTold || !isDamage(error)) throw error;
      return `segment ${name} can't be read`;
    }
  }

  async close(): Promise<void> {
    const { staging } = this.#options.memory;
    staging.release(this.#frame);
    staging.release(this.#block);
    await this.#files.closeAll();
  }

  async #openAlone(homeSegment: number, homeOffset8: number): Promise<string | undefined> {
    const { memory } = this.#options;
    const { segment, offset8 } = this.#place;
    const target = memory.bytes.subarray(this.#frame, this.#frame + RAW_FRAME_BYTES);
    const readBytes = await this.#files.read(segment, target, offset8 * 8);
    const home = [homeSegment, homeOffset8] as const;
    const result = memory.kernel.openFrame(this.#frame, readBytes, ...home, this.#block);
    return result === 0 ? undefined : FRAME_OPEN_RESULT[result];
  }

  async #openShared(): Promise<string | undefined> {
    const { segment, offset8, slot } = this.#place;
    const key = `${segment}:${offset8}`;
    let content = this.#opened.get(key);
    if (content === undefined) {
      content = await this.#readShared();
      const [oldest] = this.#opened.keys();
      if (oldest !== undefined && this.#opened.size >= SHARED_FRAMES_MAX)
        this.#opened.delete(oldest);
      this.#opened.set(key, content);
    }
    if (typeof content === "string") return content;
    const at = slot * BLOCK_BYTES;
    if (at >= content.length) return "it has no such slot";
    this.#options.memory.bytes.set(content.subarray(at, at + BLOCK_BYTES), this.#block);
    return undefined;
  }

  async #readShared(): Promise<Uint8Array | string> {
    const { memory } = this.#options;
    const { segment, offset8, storedBytes } = this.#place;
    const lengthBytes = FRAME_HEADER_BYTES + Math.min(storedBytes, SHARED_STORED_BYTES_MAX);
    const target = memory.bytes.subarray(this.#frame, this.#frame + lengthBytes);
    const readBytes = await this.#files.read(segment, target, offset8 * 8);
    return await this.#shared.open(this.#frame, readBytes, { segment, offset8 });
  }
}
