// SPDX-License-Identifier: Apache-2.0
//
// What a segment's frames would take less if they were compressed together: asked before all of it is moved for that
// alone. A few groups, evenly spread over the segment, are compressed as the mover would, and thrown away. Where it
// doesn't pay (encrypted data, images, what was tried before), a collection would else write all of it again, each time.

import type { Clock } from "../host/ports.ts";
import type { FileStore } from "../log/file-store.ts";
import { SHARED_SLOTS_MAX, SharedFrames } from "../log/shared-frame.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";
import { type Alone, SHARED_WORTH } from "./frame-mover.ts";
import type { SegmentFrames } from "./segment-frames.ts";
import { stagingPiece } from "./staging-piece.ts";

export interface ColdGainOptions {
  readonly memory: BlockMemory;
  readonly clock: Clock;
  readonly segments: FileStore;
  readonly shared: SharedFrames;
  /** Called after each group; waits so that clients come first. Throws to end it. */
  readonly pace: () => Promise<void>;
}

const GROUPS_MAX = 8;
/** Frames of a group that lie further apart are left out. */
const WINDOW_BYTES: number = 1 << 20;
const CONTENT_BYTES: number = SHARED_SLOTS_MAX * BLOCK_BYTES;

/** The part of what the frames take that would be saved: 0 to 1. Throws DISK_IO, and what `pace` throws. */
export async function coldGainOf(options: ColdGainOptions, frames: SegmentFrames): Promise<number> {
  const alone = aloneIn(frames);
  const sharedBytes = frames.moved
    .filter(({ isShared }) => isShared)
    .reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  const groupCount = Math.min(GROUPS_MAX, Math.ceil(alone.length / SHARED_SLOTS_MAX));
  const { memory } = options;
  const window = await stagingPiece(options, WINDOW_BYTES);
  const content = await stagingPiece(options, CONTENT_BYTES);
  let aloneBytes = 0;
  let savedBytes = 0;
  try {
    for (let group = 0; group < groupCount; group++) {
      const room = Math.max(0, alone.length - SHARED_SLOTS_MAX);
      const first = groupCount === 1 ? 0 : Math.floor((room * group) / (groupCount - 1));
      const members = alone.slice(first, first + SHARED_SLOTS_MAX);
      const tried = await tryGroup(options, frames.number, members, { window, content });
      aloneBytes += tried.aloneBytes;
      savedBytes += tried.savedBytes;
      await options.pace();
    }
  } finally {
    memory.staging.release(window);
    memory.staging.release(content);
  }
  if (aloneBytes === 0) return 0;
  // What is compressed together already stays as it is.
  const allAloneBytes = Math.max(1, frames.end - sharedBytes);
  return (savedBytes / aloneBytes) * (allAloneBytes / (allAloneBytes + sharedBytes));
}

function aloneIn({ number, born, moved }: SegmentFrames): Alone[] {
  const alone: Alone[] = [];
  for (const offset8 of born) alone.push({ offset8, homeSegment: number, homeOffset8: offset8 });
  for (const { offset8, isShared, homes } of moved)
    if (!isShared)
      alone.push({ offset8, homeSegment: homes[0] as number, homeOffset8: homes[1] as number });
  return alone.sort((a, b) => a.offset8 - b.offset8);
}

async function tryGroup(
  { memory, segments, shared }: ColdGainOptions,
  segment: number,
  members: readonly Alone[],
  { window, content }: { readonly window: number; readonly content: number },
): Promise<{ aloneBytes: number; savedBytes: number }> {
  const { kernel, view, bytes } = memory;
  const start = (members[0] as Alone).offset8 * 8;
  const end = (members[members.length - 1] as Alone).offset8 * 8 + RAW_FRAME_BYTES;
  const lengthBytes = Math.min(WINDOW_BYTES, end - start);
  const readBytes = await segments.read(
    segment,
    bytes.subarray(window, window + lengthBytes),
    start,
  );
  let count = 0;
  let aloneBytes = 0;
  for (const { offset8, homeSegment, homeOffset8 } of members) {
    const at = offset8 * 8 - start;
    const available = readBytes - at;
    if (available < FRAME_HEADER_BYTES) break;
    const block = content + count * BLOCK_BYTES;
    const result = kernel.openFrame(window + at, available, homeSegment, homeOffset8, block);
    if (result !== 0) continue; // a scrub tells
    aloneBytes += SharedFrames.frameBytes(view.getUint32(window + at + 16, true));
    count += 1;
  }
  if (count < 2) return { aloneBytes, savedBytes: 0 };
  const limitBytes = aloneBytes * SHARED_WORTH - FRAME_HEADER_BYTES;
  const stored = await shared.compress(
    bytes.slice(content, content + count * BLOCK_BYTES),
    limitBytes,
  );
  const savedBytes = stored === undefined ? 0 : aloneBytes - SharedFrames.frameBytes(stored.length);
  return { aloneBytes, savedBytes };
}
