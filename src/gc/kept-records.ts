// SPDX-License-Identifier: Apache-2.0
//
// The records of a segment whose frames are elsewhere: what history needs of it. The file has the segment's header page
// and a footer without rows (docs/format/segment.md), and so is read like any sealed segment.

import { BATCH_HEADER_BYTES } from "../log/batch.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { hashOutside } from "../log/outside-hash.ts";
import {
  META_PREFIX_BYTES,
  putSegmentTrailer,
  recordsName,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
} from "../log/segment.ts";
import type { SegmentFrames } from "./segment-frames.ts";

const PAGE_BYTES = 4096;

/** Writes the file and makes it durable, but not its name; its size. Throws DISK_FULL, DISK_IO. */
export async function keepRecords(
  files: LogFiles,
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
