// SPDX-License-Identifier: Apache-2.0
//
// From a reference to the block: out of the cache, out of the batches still in memory, or off the disk, where
// neighbours in the log are read together and every frame is checked before anyone sees a byte of it.
//
// A reference names a frame by where it was born. Garbage collection may have moved it since (frame-places.ts), alone or
// into a frame that it shares with others; whoever reads a shared frame has all of its blocks, and keeps them.
//
// What was found on the way to a read may have moved when the read begins: then it fails, and is tried at the new place.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { SlotCache } from "../index/slot-cache.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { formatReference, offset8Of, REFERENCE_STATE, slotOf, stateOf } from "../log/reference.ts";
import type { SharedFrames } from "../log/shared-frame.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_OPEN_RESULT,
  MATCH_WINDOW_BYTES,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import { type BlockMatcher, MATCH } from "../reduce/block-reducer.ts";
import { type FramePlaces, LOCATED, PLACE_STATE } from "./frame-places.ts";
import { QuickReads } from "./quick-reads.ts";

/** Frames further apart than this are read apart. */
const GAP_BYTES_MAX = 16 << 10;
const READ_BYTES_MAX = 1_280 << 10;
/** Larger reads pass by the cache: a scan is not worth what it would push out. */
const CACHE_BLOCKS_MAX = 32;
/** A read that fails is tried so often at new places. */
const MOVES_MAX = 8;

/** Behind what hashes and headers use of the scratch: a frame that is read without waiting, then its block. */
const FRAME_IN_SCRATCH = 32768;

/** Blocks wanted from the disk: parallel lists, in the order of the request. */
export class Wanted {
  readonly segments: number[] = [];
  readonly lows: number[] = [];
  /** Where each block goes. */
  readonly targets: number[] = [];

  get isCached(): boolean {
    return this.lows.length <= CACHE_BLOCKS_MAX;
  }

  add(segment: number, low: number, target: number): void {
    this.segments.push(segment);
    this.lows.push(low);
    this.targets.push(target);
  }
}

interface Place {
  readonly segment: number;
  readonly low: number;
}

/** Where the wanted blocks are now, and which of them are read together. */
interface Group {
  readonly wanted: Wanted;
  readonly first: number;
  readonly end: number;
  readonly segment: number;
  /** Of the place; of all in a shared frame the same but for the slot. */
  readonly lows: readonly number[];
  /** Bytes of the frame behind its header, where it is shared. */
  readonly storedBytes: number;
}

export class BlockStore implements BlockMatcher {
  readonly #memory: BlockMemory;
  readonly #slots: SlotCache;
  readonly #log: LogWriter;
  readonly #segments: FileStore;
  readonly #places: FramePlaces;
  readonly #shared: SharedFrames;
  readonly #clock: Clock;
  /** Where a frame lands that is read without waiting, and a block to compare with. */
  readonly #frameAddress: number;
  readonly #frame: Uint8Array;
  readonly #window: MatchWindow;
  readonly #quickReads: QuickReads = new QuickReads();
  hitCount = 0;
  missCount = 0;

  constructor(parts: {
    memory: BlockMemory;
    slots: SlotCache;
    log: LogWriter;
    segments: FileStore;
    places: FramePlaces;
    shared: SharedFrames;
    clock: Clock;
  }) {
    this.#memory = parts.memory;
    this.#clock = parts.clock;
    this.#frameAddress = parts.memory.scratchAddress + FRAME_IN_SCRATCH;
    this.#frame = parts.memory.bytes.subarray(
      this.#frameAddress,
      this.#frameAddress + RAW_FRAME_BYTES,
    );
    this.#window = new MatchWindow(parts.memory);
    this.#slots = parts.slots;
    this.#log = parts.log;
    this.#segments = parts.segments;
    this.#places = parts.places;
    this.#shared = parts.shared;
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
    const source = this.#slots.findBlock(segment, low);
    if (source !== 0) bytes.copyWithin(target, source, source + BLOCK_BYTES);
    else if (!this.#openRecent(segment, low, { segment, low }, target)) return false;
    this.hitCount += 1;
    return true;
  }

  /**
   * Reads the block to `target` before it returns, where that is likely to be quick. False: nothing was read, or not what
   * was asked for; `read` will tell.
   */
  readNow(segment: number, low: number, target: number): boolean {
    const places = this.#places;
    if (places.locate(segment, low) !== LOCATED.HERE) return false;
    if (stateOf(places.low) === PLACE_STATE.SHARED) {
      const source = this.#slots.findBlock(places.segment, places.low);
      if (source === 0) return false;
      this.#memory.bytes.copyWithin(target, source, source + BLOCK_BYTES);
      this.hitCount += 1;
      return true;
    }
    if (this.#openRecent(segment, low, places, target)) {
      this.hitCount += 1;
      return true;
    }
    if (!this.#readFrameNow(segment, low, target)) return false;
    this.missCount += 1;
    this.#keep(segment, low, target);
    return true;
  }

  /** Whether the frame holds the block at `address`, as far as that can be told without waiting. */
  match(segment: number, low: number, address: number, hashAddress: number): number {
    const places = this.#places;
    const located = places.locate(segment, low);
    if (located === LOCATED.GONE) return MATCH.GONE;
    // The cache may still have the block of a frame that is gone.
    if (located === LOCATED.NOT_LOADED) return MATCH.UNKNOWN;
    if (places.isJudged(places.segment)) return MATCH.BARRED;
    const { kernel } = this.#memory;
    let block = this.#slots.findBlock(segment, low);
    if (block === 0) {
      if (stateOf(places.low) !== PLACE_STATE.SHARED)
        return this.#matchFrame(segment, low, address, hashAddress);
      block = this.#slots.findBlock(places.segment, places.low);
      if (block === 0) return MATCH.UNKNOWN;
    }
    return kernel.compareBlocks(block, address) === 1 ? MATCH.SAME : MATCH.DIFFERENT;
  }

  matchAgain(segment: number, low: number): number {
    const places = this.#places;
    const located = places.locate(segment, low);
    if (located === LOCATED.GONE) return MATCH.GONE;
    if (located === LOCATED.NOT_LOADED) return MATCH.UNKNOWN;
    return places.isJudged(places.segment) ? MATCH.BARRED : MATCH.SAME;
  }

  /** Whether the frame holds the block, for one that `places` just located, alone at its place, and not in the cache. */
  #matchFrame(segment: number, low: number, address: number, hashAddress: number): number {
    const { segment: placeSegment, low: placeLow } = this.#places;
    const offset = offset8Of(placeLow) * 8;
    let frame = this.#log.recentAddress(placeSegment, offset);
    let available = RAW_FRAME_BYTES;
    if (frame === 0) {
      const window = this.#window;
      if (!window.holds(placeSegment, offset) && !this.#readWindow(placeSegment, offset))
        return MATCH.UNKNOWN;
      frame = window.address + (offset - window.start);
      available = window.end - offset;
    }
    const { kernel } = this.#memory;
    const offset8 = offset8Of(low);
    const result = kernel.matchFrame(frame, available, segment, offset8, address, hashAddress);
    if (result === 0) {
      // Damaged: whoever reads it will say so. Or it was read before it was written.
      this.#window.forget();
      return MATCH.UNKNOWN;
    }
    return result === 1 ? MATCH.SAME : MATCH.DIFFERENT;
  }

  /** Duplicates come in runs: behind the frame that was read last, many are read at once. */
  #readWindow(segment: number, offset: number): boolean {
    if (!this.#quickReads.mayTry()) return false;
    const window = this.#window;
    const target = window.targetFor(segment, offset);
    const begin = this.#clock.monotoneMicros();
    try {
      const readBytes = this.#segments.readNow(segment, target, offset);
      if (readBytes < 0) return false;
      window.filled(segment, offset, readBytes);
    } catch (error) {
      if (error instanceof StorageError) return false;
      throw error;
    }
    this.#quickReads.took(this.#clock.monotoneMicros() - begin);
    return true;
  }

  /** Reads all wanted blocks. Throws FRAME_CORRUPT, DISK_IO; then some targets may be filled. */
  async read(wanted: Wanted): Promise<void> {
    this.missCount += wanted.lows.length;
    await this.#read(wanted, 0, wanted.lows.length, MOVES_MAX);
  }

  /** Reads blocks one behind the other to `target`. False: some of them can't be read. */
  async readAll(references: readonly number[], target: number): Promise<boolean> {
    const wanted = new Wanted();
    try {
      for (let at = 0; at < references.length; at += 2) {
        const segment = references[at] as number;
        const low = references[at + 1] as number;
        const address = target + (at / 2) * BLOCK_BYTES;
        if (this.#places.locate(segment, low) === LOCATED.NOT_LOADED)
          await this.#places.load(segment, low);
        if (!this.copyNow(segment, low, address)) wanted.add(segment, low, address);
      }
      if (wanted.lows.length > 0) await this.read(wanted);
    } catch (error) {
      if (error instanceof StorageError) return false;
      throw error;
    }
    return true;
  }

  async #read(wanted: Wanted, first: number, end: number, movesLeft: number): Promise<void> {
    const reads: Promise<void>[] = [];
    for (let at = first; at < end; ) {
      const group = this.#groupAt(wanted, at, end);
      if (group === undefined) {
        await this.#places.load(wanted.segments[at] as number, wanted.lows[at] as number);
        continue;
      }
      const reading = this.#readGroup(group, movesLeft);
      reading.catch(() => undefined); // told when all have ended
      reads.push(reading);
      at = group.end;
    }
    if (reads.length === 1) await reads[0];
    else await allSettled(reads);
  }

  /**
   * Locates the wanted blocks from `first` on, as many as are read together; undefined when it must be loaded where the
   * first one is. Throws FRAME_CORRUPT where that is nowhere.
   */
  #groupAt(wanted: Wanted, first: number, wantedEnd: number): Group | undefined {
    const places = this.#places;
    const located = this.#locate(wanted, first);
    if (located === LOCATED.NOT_LOADED) return undefined;
    if (located === LOCATED.GONE)
      throw frameCorrupt(
        wanted.segments[first] as number,
        wanted.lows[first] as number,
        "its segment is gone",
      );
    const { segment, low, storedBytes } = places;
    const isShared = stateOf(low) === PLACE_STATE.SHARED;
    const lows = [low];
    const start = offset8Of(low) * 8;
    // What garbage collection has just moved may not be on the disk yet: it isn't read together with what is.
    const isRecent = this.#log.recentAddress(segment, start) !== 0;
    let previous = start;
    let end = first + 1;
    for (; end < wantedEnd; end++) {
      if (this.#locate(wanted, end) !== LOCATED.HERE || places.segment !== segment) break;
      const offset = offset8Of(places.low) * 8;
      if (stateOf(places.low) !== stateOf(low) || (isShared && offset !== start)) break;
      if (offset < previous || offset - previous > RAW_FRAME_BYTES + GAP_BYTES_MAX) break;
      if (offset + RAW_FRAME_BYTES - start > READ_BYTES_MAX) break;
      if ((this.#log.recentAddress(segment, offset) !== 0) !== isRecent) break;
      previous = offset;
      lows.push(places.low);
    }
    return { wanted, first, end, segment, lows, storedBytes };
  }

  #locate(wanted: Wanted, index: number): number {
    return this.#places.locate(wanted.segments[index] as number, wanted.lows[index] as number);
  }

  async #readGroup(group: Group, movesLeft: number): Promise<void> {
    const { wanted, first, end, segment, lows } = group;
    try {
      if (stateOf(lows[0] as number) === PLACE_STATE.SHARED) await this.#readShared(group);
      else await this.#readAlone(group);
    } catch (error) {
      if (!(error instanceof StorageError) || movesLeft === 0) throw error;
      const located = this.#locate(wanted, first);
      const isSame = this.#places.segment === segment && this.#places.low === lows[0];
      if (located === LOCATED.GONE || (located === LOCATED.HERE && isSame)) throw error;
      await this.#read(wanted, first, end, movesLeft - 1);
    }
  }

  async #readAlone(group: Group): Promise<void> {
    if (this.#openAll(group)) return;
    const { wanted, lows } = group;
    const start = offset8Of(lows[0] as number) * 8;
    const lengthBytes = offset8Of(lows[lows.length - 1] as number) * 8 + RAW_FRAME_BYTES - start;
    const staging = await this.#memory.reads.acquire(lengthBytes);
    try {
      const target = this.#memory.bytes.subarray(staging, staging + lengthBytes);
      const readBytes = await this.#segments.read(group.segment, target, start);
      for (let index = group.first; index < group.end; index++) {
        const inStaging = offset8Of(lows[index - group.first] as number) * 8 - start;
        const segment = wanted.segments[index] as number;
        const low = wanted.lows[index] as number;
        const block = wanted.targets[index] as number;
        const result = this.#memory.kernel.openFrame(
          staging + inStaging,
          Math.max(0, readBytes - inStaging), // the kernel's numbers know no sign
          segment,
          offset8Of(low),
          block,
        );
        if (result !== 0) throw frameCorrupt(segment, low, FRAME_OPEN_RESULT[result] as string);
        if (wanted.isCached) this.#keep(segment, low, block);
      }
    } finally {
      this.#memory.reads.release(staging);
    }
  }

  /** Where the group lies in batches that are still in memory, and may not be on the disk yet. */
  #openAll({ wanted, first, end, segment, lows }: Group): boolean {
    for (let index = first; index < end; index++) {
      const home = { segment: wanted.segments[index] as number, low: wanted.lows[index] as number };
      const place = { segment, low: lows[index - first] as number };
      const target = wanted.targets[index] as number;
      if (!this.#openRecent(home.segment, home.low, place, target)) return false;
    }
    return true;
  }

  /** Reads a frame that several blocks share, and keeps all of them under the names of their places. */
  async #readShared(group: Group): Promise<void> {
    const { wanted, segment, storedBytes } = group;
    const low = group.lows[0] as number;
    const { bytes } = this.#memory;
    const lengthBytes = FRAME_HEADER_BYTES + storedBytes;
    const place = { segment, offset8: offset8Of(low) };
    const recent = this.#log.recentAddress(segment, place.offset8 * 8);
    let content: Uint8Array | string;
    if (recent !== 0) content = await this.#shared.open(recent, lengthBytes, place);
    else {
      const staging = await this.#memory.reads.acquire(lengthBytes);
      try {
        const target = bytes.subarray(staging, staging + lengthBytes);
        const readBytes = await this.#segments.read(segment, target, place.offset8 * 8);
        content = await this.#shared.open(staging, readBytes, place);
      } finally {
        this.#memory.reads.release(staging);
      }
    }
    const name = {
      segment: wanted.segments[group.first] as number,
      low: wanted.lows[group.first] as number,
    };
    if (typeof content === "string") throw frameCorrupt(name.segment, name.low, content);
    const slotCount = content.length / BLOCK_BYTES;
    for (const [index, slot] of group.lows.map(slotOf).entries()) {
      const at = slot * BLOCK_BYTES;
      if (slot >= slotCount) throw frameCorrupt(name.segment, name.low, "it has no such slot");
      bytes.set(content.subarray(at, at + BLOCK_BYTES), wanted.targets[group.first + index]);
    }
    if (!wanted.isCached) return;
    for (let slot = 0; slot < slotCount; slot++) {
      const named = ((low & ~63) | slot) >>> 0;
      if (this.#slots.findBlock(segment, named) !== 0) continue;
      const block = content.subarray(slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES);
      bytes.set(block, this.#slots.addBlock(segment, named));
    }
  }

  /** Opens the frame where it still lies in a batch in memory. */
  #openRecent(segment: number, low: number, place: Place, target: number): boolean {
    const frame = this.#log.recentAddress(place.segment, offset8Of(place.low) * 8);
    if (frame === 0) return false;
    const { kernel } = this.#memory;
    // What was packed a moment ago and doesn't open is our own fault.
    const result = kernel.openFrame(frame, RAW_FRAME_BYTES, segment, offset8Of(low), target);
    assert(result === 0, "a frame in a batch in memory is whole");
    return true;
  }

  /** The frame that `places` just located, alone at its place. */
  #readFrameNow(segment: number, low: number, target: number): boolean {
    if (!this.#quickReads.mayTry()) return false;
    const { segment: placeSegment, low: placeLow } = this.#places;
    const begin = this.#clock.monotoneMicros();
    try {
      const offset = offset8Of(placeLow) * 8;
      const readBytes = this.#segments.readNow(placeSegment, this.#frame, offset);
      if (readBytes < 0) return false;
      const { kernel } = this.#memory;
      if (kernel.openFrame(this.#frameAddress, readBytes, segment, offset8Of(low), target) !== 0)
        return false;
    } catch (error) {
      if (error instanceof StorageError) return false;
      throw error;
    }
    this.#quickReads.took(this.#clock.monotoneMicros() - begin);
    return true;
  }

  #keep(segment: number, low: number, source: number): void {
    if (this.#slots.findBlock(segment, low) !== 0) return;
    const slot = this.#slots.addBlock(segment, low);
    this.#memory.bytes.copyWithin(slot, source, source + BLOCK_BYTES);
  }
}

/** The last bytes of a segment that were read to be compared. What is written in a segment never changes. */
class MatchWindow {
  readonly address: number;
  readonly #bytes: Uint8Array;
  readonly #frame: Uint8Array;
  #segment = 0;
  /** In the segment. */
  start = 0;
  end = 0;

  constructor({ bytes, matchAddress }: BlockMemory) {
    this.address = matchAddress;
    this.#bytes = bytes.subarray(matchAddress, matchAddress + MATCH_WINDOW_BYTES);
    this.#frame = bytes.subarray(matchAddress, matchAddress + RAW_FRAME_BYTES);
  }

  /** Whether a frame there is in the window, whole even if it didn't shrink. */
  holds(segment: number, offset: number): boolean {
    return (
      segment === this.#segment && offset >= this.start && offset + RAW_FRAME_BYTES <= this.end
    );
  }

  /** What is to be read from there on: a frame; all that there is room for, if it is near the end of the window. */
  targetFor(segment: number, offset: number): Uint8Array {
    const isNext =
      segment === this.#segment && offset > this.start && offset - this.end <= RAW_FRAME_BYTES;
    this.forget(); // whatever becomes of the reading
    return isNext ? this.#bytes : this.#frame;
  }

  forget(): void {
    this.#segment = 0;
  }

  filled(segment: number, offset: number, lengthBytes: number): void {
    this.#segment = segment;
    this.start = offset;
    this.end = offset + lengthBytes;
  }
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
