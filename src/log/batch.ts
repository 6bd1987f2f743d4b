// SPDX-License-Identifier: Apache-2.0
//
// The batch: the unit of append. One header, frames, records; one write. All of it survives a crash, or
// none. Layout (little-endian; docs/format/batch.md):
//
//   0    u32 magic "VBAT"         4  u16 format version      6  u16 header bytes (128)
//   8    16 bytes pool id         24 u64 incarnation         32 u64 first LSN
//   40   u32 record count         44 u32 frame bytes         48 u32 record bytes
//   52   u32 total bytes (with padding: 512, or 4096 where a flush ends)
//   56   u64 previous checksum: the chain
//   64   u64 durable LSN: everything below was on stable storage when this was written
//   72   u64 wall µs, raw         80 u64 monotone µs, raw    88 u64 recorded µs (never goes back)
//   96   u64 must-understand bits 104 u16 cipher suite, u16 flags  108 u32 key id
//   112  u64 XXH64 of the records 120 u64 XXH64 of bytes 0..120
//   128  frames (frame bytes, padded to 8), then records
//
// What makes a batch acceptable: its own checksums, this pool, an incarnation not below the last, the LSN
// that comes next, and `previous checksum` = the checksum of the batch before it. So neither a torn batch
// beside a whole later one nor leftovers of another life ever come back.

import { StorageError } from "../base/errors.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { getU64, putU64 } from "./record.ts";
import { checksumMatches, isPoolId } from "./self-check.ts";

const BATCH_MAGIC = 0x54414256; // "VBAT"
export const FORMAT_VERSION = 1;
export const BATCH_HEADER_BYTES = 128;
/** A batch begins at a multiple of this: no sector is shared by two batches. */
export const BATCH_ALIGN_BYTES = 512;
/** A batch that somebody waits to be durable ends at a multiple of this: durable pages are never rewritten. */
export const FLUSH_ALIGN_BYTES = 4096;
const CHECKSUM_AT = 120;
const RECORDS_CHECKSUM_AT = 112;

export const BATCH_FLAG = {
  /** Empty: says only what is durable. */
  MARKER: 1,
  /** A replicated batch: an origin (pool id, epoch, LSN) follows the header; reserved. */
  ORIGIN: 2,
} as const;

export interface BatchHeader {
  incarnation: number;
  firstLsn: number;
  recordCount: number;
  frameBytes: number;
  recordBytes: number;
  totalBytes: number;
  previousChecksum: bigint;
  durableLsn: number;
  wallMicros: number;
  monotoneMicros: number;
  recordedMicros: number;
  flags: number;
  checksum: bigint;
}

/** Writes the header at `address` and both checksums; records are already at their place. */
export function sealBatch(
  memory: BlockMemory,
  address: number,
  poolId: Uint8Array,
  header: BatchHeader,
): bigint {
  const view = memory.view;
  view.setUint32(address, BATCH_MAGIC, true);
  view.setUint16(address + 4, FORMAT_VERSION, true);
  view.setUint16(address + 6, BATCH_HEADER_BYTES, true);
  memory.bytes.set(poolId, address + 8);
  putU64(view, address + 24, header.incarnation);
  putU64(view, address + 32, header.firstLsn);
  view.setUint32(address + 40, header.recordCount, true);
  view.setUint32(address + 44, header.frameBytes, true);
  view.setUint32(address + 48, header.recordBytes, true);
  view.setUint32(address + 52, header.totalBytes, true);
  view.setBigUint64(address + 56, header.previousChecksum, true);
  putU64(view, address + 64, header.durableLsn);
  putU64(view, address + 72, header.wallMicros);
  putU64(view, address + 80, header.monotoneMicros);
  putU64(view, address + 88, header.recordedMicros);
  putU64(view, address + 96, 0);
  view.setUint16(address + 104, 0, true);
  view.setUint16(address + 106, header.flags, true);
  view.setUint32(address + 108, 0, true);
  memory.kernel.hash(
    address + BATCH_HEADER_BYTES + header.frameBytes,
    header.recordBytes,
    address + RECORDS_CHECKSUM_AT,
  );
  memory.kernel.hash(address, CHECKSUM_AT, address + CHECKSUM_AT);
  return view.getBigUint64(address + CHECKSUM_AT, true);
}

/**
 * Parses the batch header at `address`, of which `availableBytes` are there. Returns a sentence that says
 * why it is none. Checks everything but the chain, which is the reader's.
 */
export function parseBatchHeader(
  memory: BlockMemory,
  address: number,
  availableBytes: number,
  poolId: Uint8Array,
): BatchHeader | string {
  const view = memory.view;
  if (availableBytes < BATCH_HEADER_BYTES) return "cut off";
  if (view.getUint32(address, true) !== BATCH_MAGIC) return "no batch";
  if (!checksumMatches(memory, address, CHECKSUM_AT)) return "header checksum is wrong";
  // The pool first: content may look like a batch, and nobody who writes content knows the pool's id.
  if (!isPoolId(memory, address + 8, poolId)) return "another pool's batch";
  requireVersion("log: batch", view.getUint16(address + 4, true), getU64(view, address + 96));
  if (view.getUint16(address + 6, true) !== BATCH_HEADER_BYTES) return "header length is unknown";
  const header: BatchHeader = {
    incarnation: getU64(view, address + 24),
    firstLsn: getU64(view, address + 32),
    recordCount: view.getUint32(address + 40, true),
    frameBytes: view.getUint32(address + 44, true),
    recordBytes: view.getUint32(address + 48, true),
    totalBytes: view.getUint32(address + 52, true),
    previousChecksum: view.getBigUint64(address + 56, true),
    durableLsn: getU64(view, address + 64),
    wallMicros: getU64(view, address + 72),
    monotoneMicros: getU64(view, address + 80),
    recordedMicros: getU64(view, address + 88),
    flags: view.getUint16(address + 106, true),
    checksum: view.getBigUint64(address + CHECKSUM_AT, true),
  };
  return isSane(header) ? header : "impossible numbers in the header";
}

/** Bytes whose checksum is right, but which a newer version wrote: never taken for damage. */
export function requireVersion(subject: string, version: number, mustUnderstand: number): void {
  if (version !== FORMAT_VERSION)
    throw new StorageError(
      "FORMAT_UNSUPPORTED",
      `${subject}: not read: format version ${version}, this is ${FORMAT_VERSION}`,
    );
  if (mustUnderstand !== 0)
    throw new StorageError(
      "FORMAT_UNSUPPORTED",
      `${subject}: not read: it needs features that this version doesn't know`,
    );
}

function isSane(header: BatchHeader): boolean {
  const usedBytes = BATCH_HEADER_BYTES + header.frameBytes + header.recordBytes;
  return (
    header.incarnation >= 0 &&
    header.firstLsn >= 0 &&
    header.durableLsn >= 0 &&
    header.durableLsn <= header.firstLsn &&
    header.wallMicros >= 0 &&
    header.monotoneMicros >= 0 &&
    header.recordedMicros >= 0 &&
    header.frameBytes % 8 === 0 &&
    header.recordBytes % 8 === 0 &&
    header.totalBytes % BATCH_ALIGN_BYTES === 0 &&
    header.totalBytes >= usedBytes &&
    header.totalBytes - usedBytes < FLUSH_ALIGN_BYTES &&
    Number.isSafeInteger(header.firstLsn + header.recordCount) &&
    header.recordCount * 16 <= header.recordBytes
  );
}

/** True when the records at `address` are those that the header was sealed with. */
export function recordsMatch(
  memory: BlockMemory,
  headerAddress: number,
  recordsAddress: number,
  recordBytes: number,
): boolean {
  memory.kernel.hash(recordsAddress, recordBytes, memory.scratchAddress);
  return (
    memory.view.getBigUint64(memory.scratchAddress, true) ===
    memory.view.getBigUint64(headerAddress + RECORDS_CHECKSUM_AT, true)
  );
}
