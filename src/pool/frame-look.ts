// SPDX-License-Identifier: Apache-2.0
//
// Looks whether a frame is where it is said to be, by reading it there: for frames of batches that are damaged
// themselves, of which no record tells any more.

import type { FileStore } from "../log/file-store.ts";
import type { PlainPlace } from "../log/plain-moves.ts";
import { hasRightChecksum, SHARED_STORED_BYTES_MAX } from "../log/shared-frame.ts";
import { type BlockMemory, FRAME_HEADER_BYTES, RAW_FRAME_BYTES } from "../reduce/block-memory.ts";

/** Whether the frame born at home is whole at that place. Throws DISK_IO. */
export async function isFrameAt(
  { memory, segments }: { readonly memory: BlockMemory; readonly segments: FileStore },
  home: { readonly segment: number; readonly offset8: number },
  place: PlainPlace,
): Promise<boolean> {
  const { view, bytes, kernel } = memory;
  const storedBytes = Math.min(place.storedBytes, SHARED_STORED_BYTES_MAX);
  const lengthBytes = place.isShared ? FRAME_HEADER_BYTES + storedBytes : RAW_FRAME_BYTES;
  const frame = await memory.reads.acquire(lengthBytes);
  try {
    const target = bytes.subarray(frame, frame + lengthBytes);
    const readBytes = await segments.read(place.segment, target, place.offset8 * 8);
    if (!place.isShared)
      return kernel.openFrame(frame, readBytes, home.segment, home.offset8, 0) === 0;
    return (
      readBytes === lengthBytes &&
      view.getUint32(frame + 8, true) === place.segment &&
      view.getUint32(frame + 12, true) === place.offset8 &&
      view.getUint32(frame + 16, true) === storedBytes &&
      place.slot < view.getUint8(frame + 21) &&
      hasRightChecksum(memory, frame, storedBytes)
    );
  } finally {
    memory.reads.release(frame);
  }
}
