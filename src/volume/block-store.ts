// SPDX-License-Identifier: Apache-2.0
//
// From a reference to the block: out of the cache, out of the batches still in memory, or off the disk, where
// neighbours in the log are read together and every frame is checked before anyone sees a byte of it.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { SlotCache } from "../index/slot-cache.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { formatReference, offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_OPEN_RESULT,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import { QuickReads } from "./quick-reads.ts";

/** Frames further apart than this are read apart. */
const GAP_BYTES_MAX = 16 << 10;
const READ_BYTES_MAX = 1_280 << 10;
/** Larger reads pass by the cache: a scan is not worth what it would push out. */
const CACHE_BLOCKS_MAX = 32;

/** Behind what hashes and headers use of the scratch. */
const FRAME_IN_SCRATCH = 32768;
/** Blocks wanted from the disk: parallel lists, in the order of the request. */
export class Wanted {
  readonly segments: number[] = [];
  readonly lows: number[] = [];
  /** Where each block goes. */
  readonly targets: number[] = [];

  add(segment: number, low: number, target: number): void {
    this.segments.push(segment);
    this.lows.push(low);
    this.targets.push(target);
  }
}

export class BlockStore {
  readonly #memory: BlockMemory;
  readonly #slots: SlotCache;
  readonly #log: LogWriter;
  readonly #segments: FileStore;
  readonly #clock: Clock;
  /** Where a frame lands that is read without waiting. */
  readonly #frameAddress: number;
  readonly #frame: Uint8Array;
  readonly #quickReads: QuickReads = new QuickReads();
  hitCount = 0;
  missCount = 0;

  constructor(parts: {
    memory: BlockMemory;
    slots: SlotCache;
    log: LogWriter;
    segments: FileStore;
    clock: Clock;
  }) {
    this.#memory = parts.memory;
    this.#clock = parts.clock;
    this.#frameAddress = parts.memory.scratchAddress + FRAME_IN_SCRATCH;
    this.#frame = parts.memory.bytes.subarray(
      this.#frameAddress,
      this.#frameAddress + RAW_FRAME_BYTES,
    );
    this.#slots = parts.slots;
    this.#log = parts.log;
    this.#segments = parts.segments;
  }

  /** Copies the block to `target` if that needs no disk. */
  copyNow(segment: number, low: number, target: number): boolean {
    const { bytes } = this.#memory;
    if (stateOf(low) !== REFERENCE_STATE.FRAME) {
      assert(stateOf(low) !== REFERENCE_STATE.EXTERNAL, "external references are not written yet");
      const { zerosAddress } = this.#memory;
      bytes.copyWithin(target, zerosAddress, zerosAddress + BLOCK_BYTES);
      return true;
    }
    let source = this.#slots.findBlock(segment, low);
    if (source === 0) {
      const frame = this.#log.recentAddress(segment, offset8Of(low) * 8);
      if (frame === 0) return false;
      source = frame + FRAME_HEADER_BYTES;
    }
    this.hitCount += 1;
    bytes.copyWithin(target, source, source + BLOCK_BYTES);
    return true;
  }

  /**
   * Reads the block to `target` before it returns, where that is likely to be quick. False: nothing was read, or not what
   * was asked for; `read` will tell.
   */
  readNow(segment: number, low: number, target: number): boolean {
    if (!this.#quickReads.mayTry()) return false;
    const begin = this.#clock.monotoneMicros();
    try {
      const readBytes = this.#segments.readNow(segment, this.#frame, offset8Of(low) * 8);
      if (readBytes < 0) return false;
      const { kernel } = this.#memory;
      if (kernel.openFrame(this.#frameAddress, readBytes, segment, offset8Of(low), target) !== 0)
        return false;
    } catch (error) {
      if (error instanceof StorageError) return false;
      throw error;
    }
    this.#quickReads.took(this.#clock.monotoneMicros() - begin);
    this.missCount += 1;
    this.#keep(segment, low, target);
    return true;
  }

  /** Reads all wanted blocks. Throws FRAME_CORRUPT, DISK_IO; then some targets may be filled. */
  async read(wanted: Wanted): Promise<void> {
    this.missCount += wanted.lows.length;
    const isCached = wanted.lows.length <= CACHE_BLOCKS_MAX;
    const reads: Promise<void>[] = [];
    let first = 0;
    while (first < wanted.lows.length) {
      const end = groupEnd(wanted, first);
      reads.push(this.#readGroup(wanted, { first, end, isCached }));
      first = end;
    }
    if (reads.length === 1) await reads[0];
    else await allSettled(reads);
  }

  async #readGroup(
    wanted: Wanted,
    group: { first: number; end: number; isCached: boolean },
  ): Promise<void> {
    const segment = wanted.segments[group.first] as number;
    const start = offset8Of(wanted.lows[group.first] as number) * 8;
    const lengthBytes =
      offset8Of(wanted.lows[group.end - 1] as number) * 8 + RAW_FRAME_BYTES - start;
    const staging = await this.#memory.reads.acquire(lengthBytes);
    try {
      const readBytes = await this.#segments.read(
        segment,
        this.#memory.bytes.subarray(staging, staging + lengthBytes),
        start,
      );
      for (let index = group.first; index < group.end; index++) {
        const low = wanted.lows[index] as number;
        const inStaging = offset8Of(low) * 8 - start;
        const target = wanted.targets[index] as number;
        const result = this.#memory.kernel.openFrame(
          staging + inStaging,
          Math.max(0, readBytes - inStaging), // the kernel's numbers know no sign
          segment,
          offset8Of(low),
          target,
        );
        if (result !== 0) throw frameCorrupt(segment, low, FRAME_OPEN_RESULT[result] as string);
        if (group.isCached) this.#keep(segment, low, target);
      }
    } finally {
      this.#memory.reads.release(staging);
    }
  }

  #keep(segment: number, low: number, source: number): void {
    if (this.#slots.findBlock(segment, low) !== 0) return;
    const slot = this.#slots.addBlock(segment, low);
    this.#memory.bytes.copyWithin(slot, source, source + BLOCK_BYTES);
  }
}

/** How far from `first` on the frames lie together in one segment, ascending. */
function groupEnd(wanted: Wanted, first: number): number {
  const segment = wanted.segments[first];
  const start = offset8Of(wanted.lows[first] as number) * 8;
  let previous = start;
  let end = first + 1;
  for (; end < wanted.lows.length; end++) {
    const offset = offset8Of(wanted.lows[end] as number) * 8;
    if (
      wanted.segments[end] !== segment ||
      offset < previous ||
      offset - previous > RAW_FRAME_BYTES + GAP_BYTES_MAX
    )
      break;
    if (offset + RAW_FRAME_BYTES - start > READ_BYTES_MAX) break;
    previous = offset;
  }
  return end;
}

/** Waits for all, so that nobody still writes into the targets, then throws the first failure. */
async function allSettled(reads: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(reads))
    if (result.status === "rejected") throw result.reason;
}

function frameCorrupt(segment: number, low: number, why: string): StorageError {
  return new StorageError(
    "FRAME_CORRUPT",
    `frame ${formatReference(segment, low)}: not returned: ${why}`,
    { data: { segment, offset: offset8Of(low) * 8 } },
  );
}
