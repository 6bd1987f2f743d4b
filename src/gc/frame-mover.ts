// SPDX-License-Identifier: Apache-2.0
//
// Moves the live frames of segments that are to go to the head of the log: as they are, or, where they are cold, up to
// 64 of them compressed together. Each copy goes with the record that says whose it is, in one batch, and takes effect
// when it is appended: from then on readers find the copy, and the old place is only garbage.
//
// Nothing is given up here. A frame that can't be read as it was written ends the move, and its segment stays.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { RELOCATION, type RelocationIndex } from "../index/relocation-index.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { newRecordCursor, parseRecord } from "../log/record.ts";
import { offset8Of, slotOf } from "../log/reference.ts";
import { SHARED_SLOTS_MAX, SHARED_STORED_BYTES_MAX, SharedFrames } from "../log/shared-frame.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_OPEN_RESULT,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import type { FrameMarks } from "./frame-marks.ts";
import type { MovedHere, SegmentFrames } from "./segment-frames.ts";
import { stagingPiece } from "./staging-piece.ts";

export interface FrameMoverOptions {
  readonly memory: BlockMemory;
  readonly clock: Clock;
  readonly log: LogWriter;
  readonly relocations: RelocationIndex;
  readonly segments: FileStore;
  readonly shared: SharedFrames;
  /** Called after each few hundred KiB; waits so that clients come first. Throws to end the move. */
  readonly pace: () => Promise<void>;
}

/** A frame of one block: where it is, and the name that it has. */
export interface Alone {
  readonly offset8: number;
  readonly homeSegment: number;
  readonly homeOffset8: number;
}

const WINDOW_BYTES: number = 1 << 20;
const PACE_BYTES = 256 << 10;
const SLOT_BYTES = 16;
/** Blocks are compressed together only if that saves an eighth of what they take one by one. */
export const SHARED_WORTH = 0.875;
const ROOM_RETRY_MS = 1;

/** Behind one another in one piece of staging. */
const GROUP_AT = 0;
const SLOTS_AT: number = SHARED_SLOTS_MAX * BLOCK_BYTES;
const FRAME_AT: number = SLOTS_AT + SHARED_SLOTS_MAX * SLOT_BYTES;
const SCRATCH_AT: number = FRAME_AT + 2 * BLOCK_BYTES;
const ALONE_AT: number = SCRATCH_AT + 128;
const WORK_BYTES: number = SCRATCH_AT + 256;

export class FrameMover {
  readonly #options: FrameMoverOptions;
  readonly #window: number;
  readonly #work: number;
  readonly #cursor = newRecordCursor();
  /** Blocks that wait to be compressed together, and what they take one by one. */
  #groupCount = 0;
  #groupAloneBytes = 0;
  #windowSegment = 0;
  #windowStart = 0;
  #windowBytes = 0;
  #unpacedBytes = 0;
  movedBytes = 0;

  private constructor(options: FrameMoverOptions, window: number, work: number) {
    this.#options = options;
    this.#window = window;
    this.#work = work;
  }

  static async create(options: FrameMoverOptions): Promise<FrameMover> {
    const window = await stagingPiece(options, WINDOW_BYTES);
    return new FrameMover(options, window, await stagingPiece(options, WORK_BYTES));
  }

  close(): void {
    this.#options.memory.staging.release(this.#window);
    this.#options.memory.staging.release(this.#work);
  }

  /** Moves what is live of a segment; without marks, everything. `finish` must follow. Throws FRAME_CORRUPT, DISK_IO. */
  async move(
    frames: SegmentFrames,
    marks: FrameMarks | undefined,
    options: { readonly isCold: boolean },
  ): Promise<void> {
    const { number, born, moved } = frames;
    let at = 0;
    // Both lists ascend: so does the reading.
    for (const offset8 of born) {
      for (; at < moved.length && (moved[at] as MovedHere).offset8 < offset8; at++)
        await this.#moveAgain(number, moved[at] as MovedHere, marks, options.isCold);
      if (marks?.isBornLive(number, offset8) === false) continue;
      const alone = { offset8, homeSegment: number, homeOffset8: offset8 };
      if (await this.#isHere(number, alone, 0))
        await this.#moveAlone(number, alone, options.isCold);
    }
    for (; at < moved.length; at++)
      await this.#moveAgain(number, moved[at] as MovedHere, marks, options.isCold);
  }

  /** Everything that was to be moved is in the log. */
  async finish(): Promise<void> {
    await this.#closeGroup();
  }

  async #moveAgain(
    segment: number,
    frame: MovedHere,
    marks: FrameMarks | undefined,
    isCold: boolean,
  ): Promise<void> {
    const { offset8, homes } = frame;
    const live: number[] = [];
    for (let slot = 0; slot * 2 < homes.length; slot++) {
      const homeSegment = homes[slot * 2] as number;
      const homeOffset8 = homes[slot * 2 + 1] as number;
      if (marks?.isMovedLive(homeSegment, homeOffset8) === false) continue;
      if (await this.#isHere(segment, { offset8, homeSegment, homeOffset8 }, slot)) live.push(slot);
    }
    if (live.length === 0) return;
    if (!frame.isShared) {
      const [homeSegment = 0, homeOffset8 = 0] = homes;
      return this.#moveAlone(segment, { offset8, homeSegment, homeOffset8 }, isCold);
    }
    const lengthBytes = FRAME_HEADER_BYTES + frame.storedBytes;
    const address = await this.#load(segment, offset8 * 8, lengthBytes);
    const available = this.#availableAt(offset8 * 8);
    const content = await this.#options.shared.open(address, available, { segment, offset8 });
    if (typeof content === "string") throw unreadable(segment, offset8, content);
    if (content.length * 2 !== homes.length * BLOCK_BYTES)
      throw unreadable(segment, offset8, "another number of slots");
    const { bytes } = this.#options.memory;
    const share = SharedFrames.frameBytes(frame.storedBytes) / (homes.length / 2);
    for (const slot of live) {
      const block = this.#work + GROUP_AT + this.#groupCount * BLOCK_BYTES;
      bytes.set(content.subarray(slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES), block);
      await this.#joinGroup(homes[slot * 2] as number, homes[slot * 2 + 1] as number, share * 1.5);
    }
  }

  /** Whether the frame's place is still this one: it may have been moved on since. */
  async #isHere(segment: number, frame: Alone, slot: number): Promise<boolean> {
    const { relocations } = this.#options;
    const { homeSegment, homeOffset8 } = frame;
    let resolved = relocations.resolve(homeSegment, homeOffset8);
    while (resolved === RELOCATION.NOT_LOADED) {
      await relocations.load(homeSegment, homeOffset8);
      resolved = relocations.resolve(homeSegment, homeOffset8);
    }
    if (resolved === RELOCATION.AT_HOME)
      return homeSegment === segment && homeOffset8 === frame.offset8;
    const { foundSegment, foundLow } = relocations;
    return (
      foundSegment === segment && offset8Of(foundLow) === frame.offset8 && slotOf(foundLow) === slot
    );
  }

  async #moveAlone(segment: number, frame: Alone, isCold: boolean): Promise<void> {
    const { kernel, view, bytes } = this.#options.memory;
    const { offset8, homeSegment, homeOffset8 } = frame;
    const address = await this.#load(segment, offset8 * 8, RAW_FRAME_BYTES);
    const available = this.#availableAt(offset8 * 8);
    const block = isCold ? this.#work + GROUP_AT + this.#groupCount * BLOCK_BYTES : 0;
    const result = kernel.openFrame(address, available, homeSegment, homeOffset8, block);
    if (result !== 0) throw unreadable(segment, offset8, FRAME_OPEN_RESULT[result] as string);
    const storedBytes = view.getUint32(address + 16, true);
    const frameBytes = SharedFrames.frameBytes(storedBytes);
    if (isCold) return this.#joinGroup(homeSegment, homeOffset8, frameBytes);
    const slots = this.#work + ALONE_AT; // a group may be waiting in the others
    bytes.copyWithin(slots, address, address + 16); // hash and home, as a frame's header has them
    // The bytes are in the window until the next frame is loaded, whatever is waited for.
    await this.#append(
      { storedBytes, slotCount: 1, isShared: false, slotsAddress: slots },
      (target) => bytes.copyWithin(target, address, address + frameBytes),
    );
  }

  /** The block behind those of the group joins them. */
  async #joinGroup(homeSegment: number, homeOffset8: number, aloneBytes: number): Promise<void> {
    const { kernel, view } = this.#options.memory;
    const slot = this.#work + SLOTS_AT + this.#groupCount * SLOT_BYTES;
    kernel.hash(this.#work + GROUP_AT + this.#groupCount * BLOCK_BYTES, BLOCK_BYTES, slot);
    view.setUint32(slot + 8, homeSegment, true);
    view.setUint32(slot + 12, homeOffset8, true);
    this.#groupCount += 1;
    this.#groupAloneBytes += aloneBytes;
    if (this.#groupCount === SHARED_SLOTS_MAX) await this.#closeGroup();
  }

  async #closeGroup(): Promise<void> {
    const slotCount = this.#groupCount;
    if (slotCount === 0) return;
    const { memory, shared } = this.#options;
    const group = this.#work + GROUP_AT;
    const content = memory.bytes.slice(group, group + slotCount * BLOCK_BYTES);
    const limitBytes = this.#groupAloneBytes * SHARED_WORTH - FRAME_HEADER_BYTES;
    const stored = slotCount > 1 ? await shared.compress(content, limitBytes) : undefined;
    assert((stored?.length ?? 0) <= SHARED_STORED_BYTES_MAX, "a shared frame has a largest size");
    const slotsAddress = this.#work + SLOTS_AT;
    if (stored !== undefined)
      await this.#append(
        { storedBytes: stored.length, slotCount, isShared: true, slotsAddress },
        (target, place) => shared.put(target, place, { slotCount, stored }),
      );
    else for (let slot = 0; slot < slotCount; slot++) await this.#appendOneOfGroup(slot);
    this.#groupCount = 0;
    this.#groupAloneBytes = 0;
  }

  /** A frame of its own again, under the name that it had. */
  async #appendOneOfGroup(slot: number): Promise<void> {
    const { kernel, view, bytes } = this.#options.memory;
    const block = this.#work + GROUP_AT + slot * BLOCK_BYTES;
    const slotsAddress = this.#work + SLOTS_AT + slot * SLOT_BYTES;
    const frame = this.#work + FRAME_AT;
    const references = this.#work + SCRATCH_AT;
    const rows = references + 16;
    const result = references + 64;
    view.setBigUint64(references, 0n, true);
    const frameBytes = kernel.packBlocks(
      block,
      1,
      frame,
      view.getUint32(slotsAddress + 8, true),
      view.getUint32(slotsAddress + 12, true),
      slotsAddress,
      references,
      rows,
      0,
      1,
      0,
      0,
      result,
    );
    const storedBytes = view.getUint32(frame + 16, true);
    await this.#append({ storedBytes, slotCount: 1, isShared: false, slotsAddress }, (target) =>
      bytes.copyWithin(target, frame, frame + frameBytes),
    );
  }

  async #append(
    frame: { storedBytes: number; slotCount: number; isShared: boolean; slotsAddress: number },
    put: (address: number, place: { segment: number; offset8: number }) => void,
  ): Promise<void> {
    const { log, clock, memory, relocations } = this.#options;
    const frameBytes = SharedFrames.frameBytes(frame.storedBytes);
    while (!log.hasRoom(Math.ceil(frameBytes / RAW_FRAME_BYTES))) {
      if (log.stopCause !== undefined) throw log.stopCause;
      await new Promise<void>((resolve) => clock.after(ROOM_RETRY_MS, resolve));
    }
    const { address, lengthBytes } = log.appendRelocated(frame, put);
    const parsed = parseRecord(memory.view, address, address + lengthBytes, this.#cursor);
    assert(parsed === lengthBytes, "a record that we append parses");
    assert(relocations.apply(this.#cursor), "what we move is in the index");
    this.movedBytes += frameBytes;
    this.#unpacedBytes += frameBytes;
    if (this.#unpacedBytes < PACE_BYTES) return;
    this.#unpacedBytes = 0;
    await this.#options.pace();
  }

  /** The address of the bytes of a segment from `offset` on, as many of them as there are. */
  async #load(segment: number, offset: number, lengthBytes: number): Promise<number> {
    const end = this.#windowStart + this.#windowBytes;
    const isThere =
      segment === this.#windowSegment && offset >= this.#windowStart && offset + lengthBytes <= end;
    if (!isThere) {
      const { memory, segments } = this.#options;
      const target = memory.bytes.subarray(this.#window, this.#window + WINDOW_BYTES);
      this.#windowBytes = await segments.read(segment, target, offset);
      this.#windowSegment = segment;
      this.#windowStart = offset;
    }
    return this.#window + (offset - this.#windowStart);
  }

  #availableAt(offset: number): number {
    return Math.max(0, this.#windowStart + this.#windowBytes - offset);
  }
}

function unreadable(segment: number, offset8: number, why: string): StorageError {
  return new StorageError(
    "FRAME_CORRUPT",
    `gc: frame ${segment}:${offset8 * 8}: not moved: ${why}`,
    {
      data: { segment, offset: offset8 * 8 },
    },
  );
}
