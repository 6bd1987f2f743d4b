// SPDX-License-Identifier: Apache-2.0
//
// The segment: one file of the log. A header page, batches, and once it is sealed a footer that repeats
// what a reader wants without the payloads, so that recovery and history read one piece at the end instead
// of hopping from batch to batch:
//
//   | header 4096 | batch | batch | … | frame rows | batch metas | trailer 64 |
//   0             4096                ^ end, a multiple of 4096              ^ end of file
//
//   header   magic "VARVESEG", version, pool id, number, incarnation, first LSN, where the log was when the
//            segment began (previous number, its end, chain checksum), durable LSN, wall time, checksum
//   row      u32 offset / 8, u32 stored bytes, u64 checksum                       one per frame
//   meta     u32 offset in the segment, u32 bytes, batch header, records          one per batch
//   trailer  magic "VSEGFOOT", counts and lengths, XXH64 of rows and metas, XXH64 of the trailer
//
// docs/format/segment.md is the specification.

import type { BlockMemory } from "../reduce/block-memory.ts";
import { FORMAT_VERSION, requireVersion } from "./batch.ts";
import { getU64, putU64 } from "./record.ts";
import { checksumMatches, isPoolId } from "./self-check.ts";

export const SEGMENT_HEADER_BYTES = 4096;
export const SEGMENT_TRAILER_BYTES = 64;
export const META_PREFIX_BYTES = 8;
const SEGMENT_MAGIC = "VARVESEG";
export const TRAILER_MAGIC = "VSEGFOOT";
const HEADER_CHECKSUM_AT = 120;
export const TRAILER_CHECKSUM_AT = 56;

export interface SegmentHeader {
  readonly number: number;
  readonly incarnation: number;
  readonly firstLsn: number;
  readonly previousNumber: number;
  readonly previousEnd: number;
  /** Checksum of the last batch before this segment: what its first batch must name. */
  readonly chain: bigint;
  readonly durableLsn: number;
  readonly wallMicros: number;
}

export interface SegmentTrailer {
  readonly number: number;
  /** Where the batches end and the footer begins. */
  readonly end: number;
  readonly frameCount: number;
  readonly batchCount: number;
  readonly rowBytes: number;
  readonly metaBytes: number;
  readonly checksum: bigint;
}

/** "0000000000000011.seg": 16 hexadecimal digits, so that names sort as numbers. */
export function segmentName(number: number): string {
  return `${number.toString(16).padStart(16, "0")}.seg`;
}

/** Where the records of a segment are whose frames are elsewhere. */
export function recordsName(number: number): string {
  return `${number.toString(16).padStart(16, "0")}.rec`;
}

/** The number in the name of such a file, or -1. */
export function recordsNumberOf(name: string): number {
  return /^[0-9a-f]{16}\.rec$/.test(name) ? Number.parseInt(name.slice(0, 16), 16) : -1;
}

/** The number in a segment's name, or -1. */
export function segmentNumberOf(name: string): number {
  return /^[0-9a-f]{16}\.seg$/.test(name) ? Number.parseInt(name.slice(0, 16), 16) : -1;
}

/** Writes a header page at `address` (4096 bytes). */
export function putSegmentHeader(
  memory: BlockMemory,
  address: number,
  poolId: Uint8Array,
  header: SegmentHeader,
): void {
  const view = memory.view;
  memory.bytes.fill(0, address, address + SEGMENT_HEADER_BYTES);
  putMagic(memory, address, SEGMENT_MAGIC);
  view.setUint16(address + 8, FORMAT_VERSION, true);
  view.setUint16(address + 10, SEGMENT_HEADER_BYTES, true);
  memory.bytes.set(poolId, address + 16);
  putU64(view, address + 32, header.number);
  putU64(view, address + 40, header.incarnation);
  putU64(view, address + 48, header.firstLsn);
  putU64(view, address + 56, header.previousNumber);
  putU64(view, address + 64, header.previousEnd);
  view.setBigUint64(address + 72, header.chain, true);
  putU64(view, address + 80, header.durableLsn);
  putU64(view, address + 88, header.wallMicros);
  // 96 must-understand bits, 104 cipher suite, 108 key id: zero
  memory.kernel.hash(address, HEADER_CHECKSUM_AT, address + HEADER_CHECKSUM_AT);
}

/** Parses a header page; a sentence when it is none. */
export function parseSegmentHeader(
  memory: BlockMemory,
  address: number,
  availableBytes: number,
  poolId: Uint8Array,
): SegmentHeader | string {
  const view = memory.view;
  if (availableBytes < SEGMENT_HEADER_BYTES) return "cut off";
  if (!hasMagic(memory, address, SEGMENT_MAGIC)) return "no segment header";
  if (!checksumMatches(memory, address, HEADER_CHECKSUM_AT))
    return "segment header checksum is wrong";
  requireVersion("log: segment", view.getUint16(address + 8, true), getU64(view, address + 96));
  if (!isPoolId(memory, address + 16, poolId)) return "another pool's segment";
  return {
    number: getU64(view, address + 32),
    incarnation: getU64(view, address + 40),
    firstLsn: getU64(view, address + 48),
    previousNumber: getU64(view, address + 56),
    previousEnd: getU64(view, address + 64),
    chain: view.getBigUint64(address + 72, true),
    durableLsn: getU64(view, address + 80),
    wallMicros: getU64(view, address + 88),
  };
}

/** Writes the 64-byte trailer at `address`. */
export function putSegmentTrailer(
  memory: BlockMemory,
  address: number,
  trailer: SegmentTrailer,
): void {
  const view = memory.view;
  memory.bytes.fill(0, address, address + SEGMENT_TRAILER_BYTES);
  putMagic(memory, address, TRAILER_MAGIC);
  view.setUint32(address + 8, trailer.number, true);
  view.setUint32(address + 12, FORMAT_VERSION, true);
  putU64(view, address + 16, trailer.end);
  view.setUint32(address + 24, trailer.frameCount, true);
  view.setUint32(address + 28, trailer.batchCount, true);
  putU64(view, address + 32, trailer.rowBytes);
  putU64(view, address + 40, trailer.metaBytes);
  view.setBigUint64(address + 48, trailer.checksum, true);
  memory.kernel.hash(address, TRAILER_CHECKSUM_AT, address + TRAILER_CHECKSUM_AT);
}

export function parseSegmentTrailer(memory: BlockMemory, address: number): SegmentTrailer | string {
  const view = memory.view;
  if (!hasMagic(memory, address, TRAILER_MAGIC)) return "no footer";
  if (!checksumMatches(memory, address, TRAILER_CHECKSUM_AT)) return "trailer checksum is wrong";
  if (view.getUint32(address + 12, true) !== FORMAT_VERSION)
    return "the footer's format version is unknown";
  return {
    number: view.getUint32(address + 8, true),
    end: getU64(view, address + 16),
    frameCount: view.getUint32(address + 24, true),
    batchCount: view.getUint32(address + 28, true),
    rowBytes: getU64(view, address + 32),
    metaBytes: getU64(view, address + 40),
    checksum: view.getBigUint64(address + 48, true),
  };
}

function putMagic(memory: BlockMemory, address: number, magic: string): void {
  for (let index = 0; index < magic.length; index++)
    memory.bytes[address + index] = magic.charCodeAt(index);
}

function hasMagic(memory: BlockMemory, address: number, magic: string): boolean {
  for (let index = 0; index < magic.length; index++)
    if (memory.bytes[address + index] !== magic.charCodeAt(index)) return false;
  return true;
}
