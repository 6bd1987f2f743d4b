// SPDX-License-Identifier: Apache-2.0
//
// Records: what happened, in order. Each has an LSN (its batch's first plus its place) and a time (its
// batch's recorded time plus an offset). Data records are binary, the rare others carry JSON:
//
//   0  u8   kind             2  u16  bytes of the whole record, a multiple of 8
//   1  u8   flags (bit 0: a reader that doesn't know the kind must stop)
//   4  u32  time offset, µs  8 …     body
//
//   wrote             8 u32 branch  12 u32 block count  16 u64 LBA  24 references, 8 bytes each
//   zeroed, trimmed   8 u32 branch  12 u32 options      16 u64 LBA  24 u64 block count
//   flushed           8 u32 branch  12 u32 0
//   relocated         8 u32 segment and 12 u32 offset / 8 of the place  16 u32 stored bytes  20 u16 slots
//                     22 u16 flags  24 per slot: u64 hash of the block, u32 home segment, u32 home offset / 8
//   all others        8 u32 bytes of JSON  12 JSON (UTF-8), padded with zeros
//
// docs/format/record.md is the specification; nothing in here trusts a byte.

import { assert } from "../base/assert.ts";
import { FRAME_HEADER_BYTES } from "../reduce/block-memory.ts";
import { SEGMENT_BYTES_MAX } from "./reference.ts";

export const RECORD_KIND = {
  WROTE: 1,
  ZEROED: 2,
  TRIMMED: 3,
  FLUSHED: 4,
  VOLUME_MADE: 16,
  VOLUME_RESIZED: 17,
  VOLUME_REMOVED: 18,
  VOLUME_SET: 19,
  BRANCHED: 20,
  VOLUME_RESTORED: 21,
  BRANCHES_FORGOTTEN: 22,
  MOMENT_NAMED: 24,
  MOMENT_FORGOTTEN: 25,
  RETENTION_SET: 26,
  POOL_SET: 27,
  MOMENT_SET: 28,
  VOLUME_MARKED: 30,
  RELOCATED: 32,
  SEGMENT_DROPPED: 33,
  SCHEDULE_SET: 36,
  SCHEDULE_REMOVED: 37,
  SCHEDULE_RAN: 38,
  GAP: 40,
  CURSOR: 41,
  EXTERNAL_BASE: 44,
  BEFORE_IMAGE: 45,
  OPENED: 48,
  CLOCK_STEPPED: 49,
} as const;

export const RECORD_NAME: Readonly<Record<number, string>> = Object.fromEntries(
  Object.entries(RECORD_KIND).map(([name, kind]) => [
    kind,
    name.toLowerCase().replaceAll("_", "-"),
  ]),
);

/** The kinds with JSON that this version understands; all others have a name and a place, no meaning yet. */
const JSON_KINDS: ReadonlySet<number> = new Set([
  RECORD_KIND.VOLUME_MADE,
  RECORD_KIND.VOLUME_RESIZED,
  RECORD_KIND.VOLUME_REMOVED,
  RECORD_KIND.VOLUME_SET,
  RECORD_KIND.BRANCHED,
  RECORD_KIND.VOLUME_RESTORED,
  RECORD_KIND.BRANCHES_FORGOTTEN,
  RECORD_KIND.MOMENT_NAMED,
  RECORD_KIND.MOMENT_FORGOTTEN,
  RECORD_KIND.RETENTION_SET,
  RECORD_KIND.POOL_SET,
  RECORD_KIND.MOMENT_SET,
  RECORD_KIND.VOLUME_MARKED,
  RECORD_KIND.SEGMENT_DROPPED,
  RECORD_KIND.SCHEDULE_SET,
  RECORD_KIND.SCHEDULE_REMOVED,
  RECORD_KIND.SCHEDULE_RAN,
  RECORD_KIND.OPENED,
  RECORD_KIND.CLOCK_STEPPED,
]);

const RECORD_FLAG_MUST_UNDERSTAND = 1;
/** Kinds that a reader who doesn't know them may pass over: content and promises are right without. */
const OPTIONAL_KINDS: ReadonlySet<number> = new Set([
  RECORD_KIND.VOLUME_MARKED,
  RECORD_KIND.SCHEDULE_SET,
  RECORD_KIND.SCHEDULE_REMOVED,
  RECORD_KIND.SCHEDULE_RAN,
]);
/** Zeroed with this option stays allocated (NBD NO_HOLE). */
export const ZERO_OPTION_KEEP_ALLOCATED = 1;

const RECORD_HEADER_BYTES = 8;
export const WROTE_HEADER_BYTES = 24;
export const RANGE_RECORD_BYTES = 32;
export const FLUSHED_RECORD_BYTES = 16;
const RELOCATED_HEADER_BYTES = 24;
export const RELOCATED_SLOT_BYTES = 16;
/** Behind its hash, a slot of a relocated record names the block's home. */
export const RELOCATED_HOME_AT = 8;
const FRAME_SLOTS_MAX = 64;
/** What 64 blocks take when they don't shrink, and what a codec may add. */
export const STORED_BYTES_MAX: number = (FRAME_SLOTS_MAX + 1) * 4096;
const RELOCATED_FLAG_SHARED = 1;
const JSON_RECORD_BYTES_MAX = 16384;
/** The largest record of any kind: JSON. A wrote record of 257 blocks takes 2080 bytes. */
export const RECORD_BYTES_MAX: number = JSON_RECORD_BYTES_MAX + 16;

/** A record as a reader sees it: positions into `bytes`, no copies. One object is reused for all. */
export interface RecordCursor {
  kind: number;
  flags: number;
  lsn: number;
  /** µs since 1970, recorded time. */
  timeMicros: number;
  branch: number;
  lba: number;
  blockCount: number;
  options: number;
  /** wrote: where its references are. relocated: where its slots are. */
  referencesOffset: number;
  /** relocated: where the frame is now, and what it is there. */
  placeSegment: number;
  placeOffset8: number;
  storedBytes: number;
  slotCount: number;
  /** Else it was moved alone, and its header says its home. */
  isShared: boolean;
  json: Readonly<Record<string, unknown>> | undefined;
}

export function newRecordCursor(): RecordCursor {
  return {
    kind: 0,
    flags: 0,
    lsn: 0,
    timeMicros: 0,
    branch: 0,
    lba: 0,
    blockCount: 0,
    options: 0,
    referencesOffset: 0,
    placeSegment: 0,
    placeOffset8: 0,
    storedBytes: 0,
    slotCount: 0,
    isShared: false,
    json: undefined,
  };
}

/** Writes the 8-byte header. */
export function putRecordHeader(
  view: DataView,
  at: number,
  kind: number,
  lengthBytes: number,
  timeOffsetMicros: number,
): void {
  assert(
    lengthBytes % 8 === 0 && lengthBytes < 65536,
    "a record is a multiple of 8 bytes, below 64 KiB",
  );
  view.setUint8(at, kind);
  view.setUint8(at + 1, OPTIONAL_KINDS.has(kind) ? 0 : RECORD_FLAG_MUST_UNDERSTAND);
  view.setUint16(at + 2, lengthBytes, true);
  view.setUint32(at + 4, timeOffsetMicros, true);
}

export function putU64(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, "a u64 is a safe integer inside");
  view.setUint32(at, value % 0x100000000, true);
  view.setUint32(at + 4, Math.floor(value / 0x100000000), true);
}

/** Reads a u64 that must be a safe integer; -1 when it isn't (the caller reports corruption). */
export function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  if (high > 0x1fffff) return -1;
  return high * 0x100000000 + view.getUint32(at, true);
}

/**
 * Parses the record at `at`, which must end by `end`. Returns its length, or a sentence that says what
 * is wrong with it. `cursor.lsn` and `cursor.timeMicros` are the caller's to set.
 */
export function parseRecord(
  view: DataView,
  at: number,
  end: number,
  cursor: RecordCursor,
): number | string {
  if (end - at < RECORD_HEADER_BYTES) return "its header is cut off";
  const lengthBytes = view.getUint16(at + 2, true);
  if (lengthBytes < RECORD_HEADER_BYTES + 8 || lengthBytes % 8 !== 0 || at + lengthBytes > end)
    return `record of ${lengthBytes} bytes in ${end - at}`;
  cursor.kind = view.getUint8(at);
  cursor.flags = view.getUint8(at + 1);
  cursor.json = undefined;
  cursor.branch = view.getUint32(at + 8, true);
  switch (cursor.kind) {
    case RECORD_KIND.WROTE:
      return parseWrote(view, at, lengthBytes, cursor);
    case RECORD_KIND.ZEROED:
    case RECORD_KIND.TRIMMED:
      if (lengthBytes !== RANGE_RECORD_BYTES) return `range record of ${lengthBytes} bytes`;
      cursor.options = view.getUint32(at + 12, true);
      cursor.lba = getU64(view, at + 16);
      cursor.blockCount = getU64(view, at + 24);
      return isBlockRange(cursor) ? lengthBytes : "range record that names no range of blocks";
    case RECORD_KIND.FLUSHED:
      return lengthBytes === FLUSHED_RECORD_BYTES
        ? lengthBytes
        : `flushed record of ${lengthBytes} bytes`;
    case RECORD_KIND.RELOCATED:
      return parseRelocated(view, at, lengthBytes, cursor);
    default:
      return parseJson(view, at, lengthBytes, cursor);
  }
}

function parseWrote(
  view: DataView,
  at: number,
  lengthBytes: number,
  cursor: RecordCursor,
): number | string {
  if (lengthBytes < WROTE_HEADER_BYTES + 8) return `wrote record of ${lengthBytes} bytes`;
  cursor.blockCount = view.getUint32(at + 12, true);
  cursor.lba = getU64(view, at + 16);
  cursor.referencesOffset = at + WROTE_HEADER_BYTES;
  if (lengthBytes !== WROTE_HEADER_BYTES + 8 * cursor.blockCount)
    return `wrote record of ${cursor.blockCount} blocks in ${lengthBytes} bytes`;
  return isBlockRange(cursor) ? lengthBytes : "wrote record that names no range of blocks";
}

function parseRelocated(
  view: DataView,
  at: number,
  lengthBytes: number,
  cursor: RecordCursor,
): number | string {
  if (lengthBytes < relocatedBytes(1)) return `relocated record of ${lengthBytes} bytes`;
  const flags = view.getUint16(at + 22, true);
  cursor.branch = 0;
  cursor.placeSegment = view.getUint32(at + 8, true);
  cursor.placeOffset8 = view.getUint32(at + 12, true);
  cursor.storedBytes = view.getUint32(at + 16, true);
  cursor.slotCount = view.getUint16(at + 20, true);
  cursor.isShared = (flags & RELOCATED_FLAG_SHARED) !== 0;
  cursor.referencesOffset = at + RELOCATED_HEADER_BYTES;
  const { slotCount, storedBytes, placeOffset8 } = cursor;
  if (flags > RELOCATED_FLAG_SHARED) return `relocated record with flags ${flags}`;
  if (slotCount === 0 || slotCount > FRAME_SLOTS_MAX)
    return `relocated record of ${slotCount} slots`;
  if (lengthBytes !== relocatedBytes(slotCount))
    return `relocated record of ${slotCount} slots in ${lengthBytes} bytes`;
  if (slotCount > 1 && !cursor.isShared) return `frame of ${slotCount} slots that was moved alone`;
  if (storedBytes === 0 || storedBytes > STORED_BYTES_MAX)
    return `frame of ${storedBytes} stored bytes`;
  if (placeOffset8 * 8 + FRAME_HEADER_BYTES + storedBytes > SEGMENT_BYTES_MAX)
    return "relocated record whose place is beyond a segment";
  for (let slot = 0; slot < slotCount; slot++) {
    const home = cursor.referencesOffset + slot * RELOCATED_SLOT_BYTES + RELOCATED_HOME_AT;
    if (view.getUint32(home + 4, true) * 8 >= SEGMENT_BYTES_MAX)
      return "relocated record whose home is beyond a segment";
  }
  return lengthBytes;
}

/** Bytes of a relocated record. */
export function relocatedBytes(slotCount: number): number {
  return RELOCATED_HEADER_BYTES + slotCount * RELOCATED_SLOT_BYTES;
}

/** One frame's move, as a writer tells it; reused for all. */
export interface RelocatedFrame {
  timeOffsetMicros: number;
  placeSegment: number;
  placeOffset8: number;
  storedBytes: number;
  slotCount: number;
  isShared: boolean;
  /** Where the slots' hashes and homes lie, in the form of the record, outside of it. */
  slotsOffset: number;
}

/** Writes a relocated record and returns its bytes; there is room for `relocatedBytes`. */
export function putRelocated(view: DataView, at: number, frame: RelocatedFrame): number {
  const { slotCount, placeOffset8, storedBytes } = frame;
  assert(slotCount > 0 && slotCount <= FRAME_SLOTS_MAX, "a frame has 1 to 64 slots");
  assert(slotCount === 1 || frame.isShared, "a frame of several slots is shared");
  assert(storedBytes > 0 && storedBytes <= STORED_BYTES_MAX, "a frame stores something");
  assert(
    placeOffset8 * 8 + FRAME_HEADER_BYTES + storedBytes <= SEGMENT_BYTES_MAX,
    "a frame ends in its segment",
  );
  const lengthBytes = relocatedBytes(slotCount);
  putRecordHeader(view, at, RECORD_KIND.RELOCATED, lengthBytes, frame.timeOffsetMicros);
  view.setUint32(at + 8, frame.placeSegment, true);
  view.setUint32(at + 12, placeOffset8, true);
  view.setUint32(at + 16, storedBytes, true);
  view.setUint16(at + 20, slotCount, true);
  view.setUint16(at + 22, frame.isShared ? RELOCATED_FLAG_SHARED : 0, true);
  const from = frame.slotsOffset;
  for (let word = 0; word < slotCount * RELOCATED_SLOT_BYTES; word += 4)
    view.setUint32(at + RELOCATED_HEADER_BYTES + word, view.getUint32(from + word, true), true);
  return lengthBytes;
}

function parseJson(
  view: DataView,
  at: number,
  lengthBytes: number,
  cursor: RecordCursor,
): number | string {
  if (!JSON_KINDS.has(cursor.kind)) {
    if ((cursor.flags & RECORD_FLAG_MUST_UNDERSTAND) === 0) return lengthBytes;
    const name = RECORD_NAME[cursor.kind] ?? "unknown";
    return `record kind ${cursor.kind} (${name}) must be understood, and this version doesn't`;
  }
  const jsonBytes = view.getUint32(at + 8, true);
  if (12 + jsonBytes > lengthBytes)
    return `record with ${jsonBytes} bytes of JSON in ${lengthBytes}`;
  const source = new Uint8Array(jsonBytes); // TextDecoder refuses shared memory
  source.set(new Uint8Array(view.buffer, view.byteOffset + at + 12, jsonBytes));
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(source));
    if (typeof value !== "object" || value === null || Array.isArray(value))
      return "record whose JSON is no object";
    cursor.json = value as Record<string, unknown>;
    return lengthBytes;
  } catch {
    return "record whose JSON doesn't parse";
  }
}

/** 64 TiB is 2^34 blocks; nothing in a record reaches beyond. */
function isBlockRange(cursor: RecordCursor): boolean {
  return cursor.lba >= 0 && cursor.blockCount > 0 && cursor.lba + cursor.blockCount <= 2 ** 34;
}

/** Encodes a JSON record into new memory (control plane only). */
export function encodeJsonRecord(
  kind: number,
  body: Readonly<Record<string, unknown>>,
): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(body));
  assert(text.length <= JSON_RECORD_BYTES_MAX, "a JSON record is at most 16 KiB");
  const record = new Uint8Array(Math.ceil((12 + text.length) / 8) * 8);
  const view = new DataView(record.buffer);
  putRecordHeader(view, 0, kind, record.length, 0);
  view.setUint32(8, text.length, true);
  record.set(text, 12);
  return record;
}
