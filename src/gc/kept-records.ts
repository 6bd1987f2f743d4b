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
  parseSegmentHeader,
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
  await segments.read(number, bytes.subarray(0, SEGMENT_HEADER_BYTES), 0);
  const metas = bytes.subarray(SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + metaBytes);
  if (frames.hasFooter) await segments.read(number, metas, frames.metasOffset);
  else await readMetas(segments, frames, metas);
  // The only copy is made from these bytes.
  await checkHeader(files, number, bytes.subarray(0, SEGMENT_HEADER_BYTES));
  await checkMetas(files, frames, metas);
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

/** Gathers headers and records from the batches themselves. */
async function readMetas(
  segments: FileStore,
  { number, batches }: SegmentFrames,
  metas: Uint8Array,
): Promise<void> {
  const view = new DataView(metas.buffer, metas.byteOffset, metas.byteLength);
  let at = 0;
  for (const { offset, frameBytes, recordBytes } of batches) {
    view.setUint32(at, offset, true);
    view.setUint32(at + 4, BATCH_HEADER_BYTES + recordBytes, true);
    at += META_PREFIX_BYTES;
    await segments.read(number, metas.subarray(at, at + BATCH_HEADER_BYTES), offset);
    at += BATCH_HEADER_BYTES;
    const records = metas.subarray(at, at + recordBytes);
    await segments.read(number, records, offset + BATCH_HEADER_BYTES + frameBytes);
    at += recordBytes;
  }
}

async function checkHeader(
  files: KeptRecordsFiles,
  number: number,
  page: Uint8Array,
): Promise<void> {
  const { memory, poolId } = files;
  const address = await stagingPiece(files, page.length);
  memory.bytes.set(page, address);
  const header = parseSegmentHeader(memory, address, page.length, poolId);
  memory.staging.release(address);
  if (typeof header === "string") throw segmentCorrupt(number, header);
}

async function checkMetas(
  files: KeptRecordsFiles,
  { number, batches }: SegmentFrames,
  metas: Uint8Array,
): Promise<void> {
  const { memory, poolId } = files;
  let at = META_PREFIX_BYTES;
  for (const { offset, recordBytes } of batches) {
    const batch = metas.subarray(at, at + BATCH_HEADER_BYTES + recordBytes);
    const address = await stagingPiece(files, batch.length);
    memory.bytes.set(batch, address);
    const header = parseBatchHeader(memory, address, batch.length, poolId);
    const records = address + BATCH_HEADER_BYTES;
    const isRight =
      typeof header !== "string" &&
      header.recordBytes === recordBytes &&
      recordsMatch(memory, address, records, recordBytes);
    memory.staging.release(address);
    if (!isRight) throw segmentCorrupt(number, `batch at ${offset}: its records are damaged`);
    at += batch.length + META_PREFIX_BYTES;
  }
}
