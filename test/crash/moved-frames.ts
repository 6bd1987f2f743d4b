// SPDX-License-Identifier: Apache-2.0
//
// Moves frames of a pool as garbage collection does, where and when a test wants it: each alone, or many into one;
// and takes away the segments that they came from, with or without their records.

import { newRecordCursor, parseRecord, type RecordCursor } from "../../src/log/record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../../src/log/reference.ts";
import { segmentName } from "../../src/log/segment.ts";
import { SharedFrames } from "../../src/log/shared-frame.ts";
import { BLOCK_BYTES, FRAME_HEADER_BYTES, RAW_FRAME_BYTES } from "../../src/reduce/block-memory.ts";
import { SIM_ZSTD } from "../../src/sim/sim-zstd.ts";
import type { PoolRig } from "./memory-rig.ts";

const SLOT_BYTES = 16;

/** Where a block of branch 1 was born. */
export interface Home {
  readonly lba: number;
  readonly segment: number;
  readonly offset8: number;
}

/** The home of a block, whose page of the index is in memory. */
export function homeOfBlock({ pool }: PoolRig, lba: number): Home {
  const directory = pool.index.branches.get(1);
  if (directory === undefined) throw new Error("there is no branch 1");
  const low = pool.index.lookup(directory, lba);
  if (stateOf(low) !== REFERENCE_STATE.FRAME) throw new Error(`block ${lba} has no frame`);
  return { lba, segment: pool.index.foundSegment, offset8: offset8Of(low) };
}

/** What a faulty collector might do. */
export interface Fault {
  /** What the index is told of each move, if not what the log is; null: nothing. */
  readonly tell?: null | ((cursor: RecordCursor) => void);
  /** The blocks that are stored, if not those that are named. */
  readonly stored?: readonly number[];
}

/** Each of these blocks' frames gets a place of its own. Homes must still be there. */
export async function moveAlone(
  rig: PoolRig,
  lbas: readonly number[],
  fault: Fault = {},
): Promise<void> {
  const files = rig.host.log.files();
  for (const home of lbas.map((lba) => homeOfBlock(rig, lba)))
    await append(rig, [{ home, frame: frameAtHome(files, home) }], { isShared: false, fault });
}

/** All of these blocks share one new frame. Homes must still be there. */
export async function moveShared(
  rig: PoolRig,
  lbas: readonly number[],
  fault: Fault = {},
): Promise<void> {
  const files = rig.host.log.files();
  const moved = lbas.map((lba, slot) => {
    const home = homeOfBlock(rig, lba);
    const other = homeOfBlock(rig, fault.stored?.[slot] ?? lba);
    const content = blockOf(rig, other, frameAtHome(files, other));
    return { home, frame: frameAtHome(files, home), content };
  });
  await append(rig, moved, { isShared: true, fault });
}

interface Moved {
  readonly home: Home;
  readonly frame: Uint8Array;
  /** What is stored of it, where it shares a frame. */
  readonly content?: Uint8Array;
}

function frameAtHome(
  files: ReadonlyMap<string, Uint8Array>,
  { segment, offset8 }: Home,
): Uint8Array {
  const bytes = files.get(segmentName(segment));
  if (bytes === undefined) throw new Error(`segment ${segment} is gone`);
  return bytes.slice(offset8 * 8, offset8 * 8 + RAW_FRAME_BYTES);
}

async function append(
  rig: PoolRig,
  moved: readonly Moved[],
  { isShared, fault }: { readonly isShared: boolean; readonly fault: Fault },
): Promise<void> {
  const { log, memory, index } = rig.pool;
  const { bytes, view } = memory;
  const slotsAddress = memory.staging.allocate(64 * SLOT_BYTES);
  const content = new Uint8Array(moved.length * BLOCK_BYTES);
  for (const [slot, { home, frame, content: own }] of moved.entries()) {
    bytes.set(frame.subarray(0, 8), slotsAddress + slot * SLOT_BYTES);
    view.setUint32(slotsAddress + slot * SLOT_BYTES + 8, home.segment, true);
    view.setUint32(slotsAddress + slot * SLOT_BYTES + 12, home.offset8, true);
    content.set(own ?? new Uint8Array(0), slot * BLOCK_BYTES);
  }
  const shared = new SharedFrames(memory, SIM_ZSTD);
  const stored = await SIM_ZSTD.compress(content);
  const [first] = moved as readonly [Moved];
  const slotCount = moved.length;
  const storedBytes = isShared
    ? stored.length
    : new DataView(first.frame.buffer).getUint32(16, true);
  await log.withRoom(() => {
    if (!log.hasRoom(slotCount)) throw new Error("the test's batch has no room");
    const record = log.appendRelocated(
      { storedBytes, slotCount, isShared, slotsAddress },
      (address, place) => {
        if (isShared) shared.put(address, place, { slotCount, stored });
        else bytes.set(first.frame.subarray(0, FRAME_HEADER_BYTES + storedBytes), address);
      },
    );
    const cursor = newRecordCursor();
    parseRecord(view, record.address, record.address + record.lengthBytes, cursor);
    fault.tell?.(cursor);
    if (fault.tell !== null) index.relocations.apply(cursor);
  });
  memory.staging.release(slotsAddress);
}

function blockOf({ pool }: PoolRig, home: Home, frame: Uint8Array): Uint8Array {
  const { memory } = pool;
  const address = memory.staging.allocate(2 * RAW_FRAME_BYTES);
  const block = address + RAW_FRAME_BYTES;
  memory.bytes.set(frame, address);
  const result = memory.kernel.openFrame(address, frame.length, home.segment, home.offset8, block);
  if (result !== 0) throw new Error(`the frame of block ${home.lba} doesn't open`);
  const content = memory.bytes.slice(block, block + BLOCK_BYTES);
  memory.staging.release(address);
  return content;
}
