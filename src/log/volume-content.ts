// SPDX-License-Identifier: Apache-2.0
//
// Gives back a volume's content by the references of its blocks, frame by frame, wherever garbage collection moved
// them. A block whose frame is damaged or gone ends it, or is told to whoever asked to go on without.

import { StorageError } from "../base/errors.ts";
import type { Directory, Zstd } from "../host/ports.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_OPEN_RESULT,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import { FileStore } from "./file-store.ts";
import type { PlainVolume } from "./log-dump.ts";
import { isDamage } from "./log-reach.ts";
import { PLAIN_PAGE_BLOCKS, type PlainMap } from "./plain-map.ts";
import { newPlainPlace, type PlainMoves, type PlainPlace } from "./plain-moves.ts";
import { formatReference, offset8Of, REFERENCE_STATE, stateOf } from "./reference.ts";
import { segmentName } from "./segment.ts";
import { SHARED_STORED_BYTES_MAX, SharedFrames } from "./shared-frame.ts";

const OPEN_FILES_MAX = 16;
/** Frames that blocks share, kept open: neighbours in a volume mostly lie in one, but not in order. */
const SHARED_FRAMES_MAX = 16;

/**
 * Stands for the reference of a block whose reference can't be read. On disk the state is reserved: such a
 * block couldn't be given back either.
 */
export const LOW_LOST: number = (REFERENCE_STATE.EXTERNAL << 30) >>> 0;

/** Bytes of a volume that can't be given back: neighbours with the same reason. */
export interface LostRange {
  readonly start: number;
  readonly end: number;
  readonly reason: string;
}

export interface ContentOptions {
  readonly memory: BlockMemory;
  readonly log: Directory;
  readonly zstd: Zstd;
  readonly volume: PlainVolume;
  readonly map: PlainMap;
  readonly moves: PlainMoves;
  /** Content in ascending order; what is never told is zeros. The bytes are valid during the call. */
  readonly onContent: (bytes: Uint8Array, offset: number) => Promise<void>;
  /** Told of what can't be given back, ascending; without it, that ends with FRAME_CORRUPT. */
  readonly onLost?: (range: LostRange) => void;
}

/** Throws FRAME_CORRUPT, and without `onLost` DISK_IO. */
export async function giveContent(options: ContentOptions): Promise<void> {
  const { memory, log } = options;
  const files = new FileStore(log, segmentName, OPEN_FILES_MAX);
  const frame = memory.staging.allocate(FRAME_HEADER_BYTES + SHARED_STORED_BYTES_MAX);
  const block = memory.staging.allocate(BLOCK_BYTES);
  try {
    const segments = new Set(await log.list());
    await new ContentReader(options, { files, segments, frame, block }).run();
  } finally {
    memory.staging.release(frame);
    memory.staging.release(block);
    await files.closeAll();
  }
}

interface Reading {
  readonly files: FileStore;
  /** Names of the files that are there. */
  readonly segments: ReadonlySet<string>;
  /** Addresses of a frame and of a block. */
  readonly frame: number;
  readonly block: number;
}

class ContentReader {
  readonly #options: ContentOptions;
  readonly #reading: Reading;
  readonly #shared: SharedFrames;
  /** By where they are; what is wrong with one, or its blocks. The one opened longest ago goes first. */
  readonly #opened: Map<string, Uint8Array | string> = new Map();
  readonly #place: PlainPlace = newPlainPlace();
  #lost: LostRange | undefined;

  constructor(options: ContentOptions, reading: Reading) {
    this.#options = options;
    this.#reading = reading;
    this.#shared = new SharedFrames(options.memory, options.zstd);
  }

  async run(): Promise<void> {
    const { map } = this.#options;
    for (const number of map.pageNumbers()) {
      const page = map.page(number) as Uint32Array;
      for (let inPage = 0; inPage < PLAIN_PAGE_BLOCKS; inPage++) {
        const segment = page[inPage * 2] as number;
        const low = page[inPage * 2 + 1] as number;
        await this.#give(number * PLAIN_PAGE_BLOCKS + inPage, segment, low);
      }
    }
    this.#tellLost();
  }

  async #give(lba: number, segment: number, low: number): Promise<void> {
    const { memory, volume, onContent } = this.#options;
    const { block } = this.#reading;
    const state = stateOf(low);
    if (state === REFERENCE_STATE.HOLE || state === REFERENCE_STATE.ZERO) return;
    const start = lba * BLOCK_BYTES;
    // A page of the index that is lost as a whole may reach beyond the volume.
    if (start >= volume.sizeBytes) return;
    const end = Math.min(start + BLOCK_BYTES, volume.sizeBytes);
    const problem = await this.#load(segment, low);
    if (problem !== undefined) return this.#lose({ start, end, reason: problem }, segment, low);
    await onContent(memory.bytes.subarray(block, block + end - start), start);
  }

  /** The block's content to its place in memory; else why not. */
  async #load(segment: number, low: number): Promise<string | undefined> {
    const { moves, onLost } = this.#options;
    if (stateOf(low) !== REFERENCE_STATE.FRAME) return "its page of the index is damaged";
    const place = this.#place;
    const offset8 = offset8Of(low);
    const isMoved = moves.find(segment, offset8, place);
    if (!isMoved) Object.assign(place, { segment, offset8, slot: 0, isShared: false });
    const name = segmentName(place.segment);
    if (!this.#reading.segments.has(name)) return `segment ${name} is missing`;
    try {
      return await (place.isShared ? this.#openShared() : this.#openAlone(segment, offset8));
    } catch (error) {
      if (onLost === undefined || !isDamage(error)) throw error;
      return `segment ${name} can't be read`;
    }
  }

  async #openAlone(homeSegment: number, homeOffset8: number): Promise<string | undefined> {
    const { memory } = this.#options;
    const { files, frame, block } = this.#reading;
    const { segment, offset8 } = this.#place;
    const target = memory.bytes.subarray(frame, frame + RAW_FRAME_BYTES);
    const readBytes = await files.read(segment, target, offset8 * 8);
    const result = memory.kernel.openFrame(frame, readBytes, homeSegment, homeOffset8, block);
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
    const { memory } = this.#options;
    memory.bytes.set(content.subarray(at, at + BLOCK_BYTES), this.#reading.block);
    return undefined;
  }

  async #readShared(): Promise<Uint8Array | string> {
    const { memory } = this.#options;
    const { files, frame } = this.#reading;
    const { segment, offset8, storedBytes } = this.#place;
    const lengthBytes = FRAME_HEADER_BYTES + Math.min(storedBytes, SHARED_STORED_BYTES_MAX);
    const target = memory.bytes.subarray(frame, frame + lengthBytes);
    const readBytes = await files.read(segment, target, offset8 * 8);
    return await this.#shared.open(frame, readBytes, { segment, offset8 });
  }

  #lose(range: LostRange, segment: number, low: number): void {
    const { volume, onLost } = this.#options;
    if (onLost === undefined) {
      const { start, reason } = range;
      throw new StorageError(
        "FRAME_CORRUPT",
        `volume "${volume.name}", byte ${start}: not given back: frame ${formatReference(segment, low)}: ${reason}`,
        { data: { volume: volume.name, offset: start } },
      );
    }
    const last = this.#lost;
    if (last?.end === range.start && last.reason === range.reason) {
      this.#lost = { ...last, end: range.end };
      return;
    }
    this.#tellLost();
    this.#lost = range;
  }

  #tellLost(): void {
    if (this.#lost !== undefined) this.#options.onLost?.(this.#lost);
    this.#lost = undefined;
  }
}
