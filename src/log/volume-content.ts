// SPDX-License-Identifier: Apache-2.0
//
// Gives back a volume's content by the references of its blocks, one after the other. A block whose frame is damaged or
// gone ends it, or is told to whoever asked to go on without.

import { StorageError } from "../base/errors.ts";
import type { Directory, Zstd } from "../host/ports.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import { BlockContent } from "./block-content.ts";
import { PLAIN_PAGE_BLOCKS, type PlainMap } from "./plain-map.ts";
import type { PlainMoves } from "./plain-moves.ts";
import type { PlainVolume } from "./plain-volumes.ts";
import { formatReference, REFERENCE_STATE, stateOf } from "./reference.ts";

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
  const { memory, log, zstd, moves } = options;
  const isDamageTold = options.onLost !== undefined;
  const blocks = await BlockContent.open({ memory, log, zstd, moves, isDamageTold });
  try {
    await new ContentReader(options, blocks).run();
  } finally {
    await blocks.close();
  }
}

class ContentReader {
  readonly #options: ContentOptions;
  readonly #blocks: BlockContent;
  #lost: LostRange | undefined;

  constructor(options: ContentOptions, blocks: BlockContent) {
    this.#options = options;
    this.#blocks = blocks;
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
    const { volume, onContent } = this.#options;
    const state = stateOf(low);
    if (state === REFERENCE_STATE.HOLE || state === REFERENCE_STATE.ZERO) return;
    const start = lba * BLOCK_BYTES;
    // A page of the index that is lost as a whole may reach beyond the volume.
    if (start >= volume.sizeBytes) return;
    const end = Math.min(start + BLOCK_BYTES, volume.sizeBytes);
    const problem = await this.#blocks.load(segment, low);
    if (problem !== undefined) return this.#lose({ start, end, reason: problem }, segment, low);
    await onContent(this.#blocks.bytes.subarray(0, end - start), start);
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
