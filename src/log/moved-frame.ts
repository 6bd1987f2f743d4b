// SPDX-License-Identifier: Apache-2.0
//
// Whether a frame that garbage collection wrote is what the relocated record beside it says. A frame that was moved
// alone kept its home for an identity, and the kernel judges it as any other. One that several blocks share is judged
// by its checksum, which is of what is stored: nobody has to decompress it to see that it is whole.

import { type BlockMemory, FRAME_HEADER_BYTES, FRAME_OPEN_RESULT } from "../reduce/block-memory.ts";
import { RELOCATED_HOME_AT, RELOCATED_SLOT_BYTES, type RecordCursor } from "./record.ts";
import { hasRightChecksum } from "./shared-frame.ts";

/** A frame's identity: where it was born. */
export interface FrameHome {
  readonly segment: number;
  readonly offset8: number;
}

/** Where the block in that slot of a relocated record was born. */
export function homeOf({ view }: BlockMemory, cursor: RecordCursor, slot: number): FrameHome {
  const at = cursor.referencesOffset + slot * RELOCATED_SLOT_BYTES + RELOCATED_HOME_AT;
  return { segment: view.getUint32(at, true), offset8: view.getUint32(at + 4, true) };
}

/**
 * Why the frame at `address`, of which `availableBytes` are there, isn't the one of the relocated record; undefined: it is.
 */
export function movedFrameProblem(
  memory: BlockMemory,
  cursor: RecordCursor,
  address: number,
  availableBytes: number,
): string | undefined {
  const { view, kernel } = memory;
  const { isShared, placeSegment, placeOffset8, storedBytes } = cursor;
  if (availableBytes < FRAME_HEADER_BYTES + storedBytes) return "cut off";
  if (!isShared) {
    const { segment, offset8 } = homeOf(memory, cursor, 0);
    const result = kernel.openFrame(address, availableBytes, segment, offset8, 0);
    return result === 0 ? undefined : FRAME_OPEN_RESULT[result];
  }
  const isHere =
    view.getUint32(address + 8, true) === placeSegment &&
    view.getUint32(address + 12, true) === placeOffset8;
  if (!isHere) return "another frame's identity";
  const isShaped =
    view.getUint32(address + 16, true) === storedBytes &&
    view.getUint8(address + 21) === cursor.slotCount;
  if (!isShaped) return "unknown codec or shape";
  return hasRightChecksum(memory, address, storedBytes) ? undefined : "wrong checksum";
}
