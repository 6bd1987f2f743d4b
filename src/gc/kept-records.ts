// SPDX-License-Identifier: Apache-2.0
//
// The records of a segment whose frames are elsewhere: what history needs of it. The file has the segment's header page
// and a footer without rows (docs/format/segment.md), and so is read like any sealed segment.

import type { Clock } from "../host/ports.ts";
import { BATCH_HEADER_BYTES, parseBatchHeader, recordsMatch } from "../log/batch.ts";
import type { FileStore } from "../log/file-store.ts";
import { type LogFiles, segmentCorrupt } from "../log/known-segments.ts";
import { hashOutside } from "../log/outside-hash.ts";
import {
  META_PREFIX_BYTES,
  putSegmentTrailer,
  recordsName,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
} from "../log/segment.ts";
import type { SegmentFrames } from "./segment-frames.ts";
import { stagingPiece } from "./staging-piece.ts";

export interface KeptRecordsFiles extends LogFiles {
  readonly clock: Clock;
}

const PAGE_BYTES = 4096;

/** Writes the file and makes it durable, but not its name; its size. Throws LOG_CORRUPT, DISK_FULL, DISK_IO. */
export async function keepRecords(
  files: KeptRecordsFiles,
  segments: FileStore,
  frames: SegmentFrames,
): Promise<number> {
  const { number, batches, end } = frames;
  const metaBytes = batches.reduce(
    (sum, { recordBytes }) => sum + META_PREFIX_BYTES + BATCH_HEADER_BYTES + recordBytes,
    0,
  );
  const usedBytes = SEGMENT_HEADER_BYTES + metaBytes + SEGMENT_TRAILER_BYTES;
  const bytes = new Uint8Array(Math.ceil(usedBytes / PAGE_BYTES) * PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  await segments.read(number, bytes.subarray(0, SEGMENT_HEADER_BYTES), 0);
  let at = SEGMENT_HEADER_BYTES;
  for (const { offset, frameBytes, recordBytes } of batches) {
    view.setUint32(at, offset, true);
    view.setUint32(at + 4, BATCH_HEADER_BYTES + recordBytes, true);
    at += META_PREFIX_BYTES;
    await segments.read(number, bytes.subarray(at, at + BATCH_HEADER_BYTES), offset);
    at += BATCH_HEADER_BYTES;
    const records = bytes.subarray(at, at + recordBytes);
    await segments.read(number, records, offset + BATCH_HEADER_BYTES + frameBytes);
    at += recordBytes;
    // The only copy is made from these bytes.
    const batch = bytes.subarray(at - recordBytes - BATCH_HEADER_BYTES, at);
    if (!(await isSound(files, batch))) throw segmentCorrupt(number, `batch at ${offset}: damaged`);
  }
  const trailerAt = bytes.length - SEGMENT_TRAILER_BYTES;
  const { memory } = files;
  const trailer = memory.scratchAddress + 8192;
  const checksum = hashOutside(memory, bytes.subarray(SEGMENT_HEADER_BYTES, trailerAt));
  putSegmentTrailer(memory, trailer, {
    number,
    end,
    frameCount: 0,
    batchCount: batches.length,
    rowBytes: 0,
    metaBytes,
    checksum,
  });
  bytes.set(memory.bytes.subarray(trailer, trailer + SEGMENT_TRAILER_BYTES), trailerAt);
  const name = recordsName(number);
  const isThere = (await files.directory.list()).includes(name);
  const file = await files.directory.open(name, isThere ? "write" : "create");
  try {
    await file.write(bytes, 0);
    await file.datasync();
  } finally {
    await file.close();
  }
  return bytes.length;
}

/** Whether a batch's header and records are what was written. */
async function isSound(files: KeptRecordsFiles, batch: Uint8Array): Promise<boolean> {
  const { memory, poolId } = files;
  const address = await stagingPiece(files, batch.length);
  memory.bytes.set(batch, address);
  const header = parseBatchHeader(memory, address, batch.length, poolId);
  const records = address + BATCH_HEADER_BYTES;
  const isRight =
    typeof header !== "string" && recordsMatch(memory, address, records, header.recordBytes);
  memory.staging.release(address);
  return isRight;
}
