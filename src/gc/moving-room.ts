// SPDX-License-Identifier: Apache-2.0
//
// How much is written before a segment's file can go: its live frames once more, with their records, which a footer will
// repeat, and its own records where history keeps them. On a full disk that decides which segments can be collected at
// all: a move that can't end takes the last room, and gives nothing back.

import { BATCH_HEADER_BYTES } from "../log/batch.ts";
import { SharedFrames } from "../log/shared-frame.ts";
import { RAW_FRAME_BYTES } from "../reduce/block-memory.ts";
import type { FrameMarks } from "./frame-marks.ts";
import { FrameSizes, type SegmentFrames } from "./segment-frames.ts";

/** A relocated record, its copy in the footer, and the frame's row there. */
const RECORD_BYTES = 144;
/** Tombstone, and what fills up pages. */
const REST_BYTES: number = 64 << 10;
/** What records take beside frames, and kept records. */
const WHOLE_SHARE = 1.1;

/** The most that moving the segment takes, whatever of it is live. */
export function mostRoomToMove({ sizeBytes }: SegmentFrames): number {
  return sizeBytes * WHOLE_SHARE + REST_BYTES;
}

/** What moving its live frames takes; without marks all are. */
export function roomToMove(
  frames: SegmentFrames,
  { marks, keepsRecords }: { marks: FrameMarks | undefined; keepsRecords: boolean },
): number {
  const { number, born, moved, batches } = frames;
  const sizes = new FrameSizes(frames);
  let bytes = REST_BYTES;
  for (const offset8 of born)
    if (marks?.isBornLive(number, offset8) !== false)
      bytes += sizes.bytesOf(offset8) + RECORD_BYTES;
  for (const { storedBytes, homes } of moved) {
    let liveCount = 0;
    for (let at = 0; at < homes.length; at += 2)
      if (marks?.isMovedLive(homes[at] as number, homes[at + 1] as number) !== false)
        liveCount += 1;
    // What is left of a group may shrink less than all of it did.
    const together = (SharedFrames.frameBytes(storedBytes) * (homes.length > 2 ? 3 : 2)) / 2;
    bytes += Math.min(liveCount * RAW_FRAME_BYTES, together) + liveCount * RECORD_BYTES;
  }
  if (keepsRecords)
    for (const { recordBytes } of batches) bytes += BATCH_HEADER_BYTES + recordBytes;
  return bytes;
}
