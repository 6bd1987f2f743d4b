// SPDX-License-Identifier: Apache-2.0
//
// Goes through a segment frame by frame, by what its footer says of them: for one of which a part can't be read. A large
// read that fails says nothing of what is in it; small ones find the frames that are lost, and which blocks those held.

import { hasCode } from "../base/errors.ts";
import { FileStore } from "../log/file-store.ts";
import { type LogFiles, withSegment } from "../log/known-segments.ts";
import { type FrameHome, homeOf } from "../log/moved-frame.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { SEGMENT_HEADER_BYTES, segmentName } from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { hasRightChecksum, SHARED_STORED_BYTES_MAX } from "../log/shared-frame.ts";
import { FRAME_HEADER_BYTES, FRAME_OPEN_RESULT, RAW_FRAME_BYTES } from "../reduce/block-memory.ts";

/** A frame that the footer's records tell of. */
interface Told extends Omit<DamagedFrame, "problem"> {
  /** Its identity, where it has one slot. */
  readonly home: FrameHome | undefined;
  readonly lengthBytes: number;
}

export interface FrameReading {
  readonly onLost: (lost: DamagedFrame) => void;
  readonly pause: () => Promise<void> | undefined;
}

/** Reads every frame by itself; nothing where there is no footer. Throws DISK_IO when the footer can't be read either. */
export async function readFrameByFrame(
  files: LogFiles,
  number: number,
  { onLost, pause }: FrameReading,
): Promise<void> {
  const told = await framesOf(files, number);
  const { memory, directory } = files;
  const segments = new FileStore(directory, segmentName, 1);
  const address = memory.staging.allocate(FRAME_HEADER_BYTES + SHARED_STORED_BYTES_MAX);
  try {
    for (const frame of told) {
      const problem = await problemOf(files, { segments, address }, frame);
      const { home: _home, lengthBytes: _lengthBytes, ...place } = frame;
      if (problem !== undefined) onLost({ ...place, problem });
      await pause();
    }
  } finally {
    memory.staging.release(address);
    await segments.closeAll();
  }
}

async function problemOf(
  { memory }: LogFiles,
  { segments, address }: { readonly segments: FileStore; readonly address: number },
  { segmentNumber, offset, home, lengthBytes }: Told,
): Promise<string | undefined> {
  const target = memory.bytes.subarray(address, address + lengthBytes);
  let readBytes: number;
  try {
    readBytes = await segments.read(segmentNumber, target, offset);
  } catch (error) {
    if (hasCode(error, "DISK_IO") && error.data.errno !== "ENOENT") return "it can't be read";
    throw error;
  }
  if (home !== undefined) {
    const { segment, offset8 } = home;
    const result = memory.kernel.openFrame(address, readBytes, segment, offset8, 0);
    return result === 0 ? undefined : FRAME_OPEN_RESULT[result];
  }
  if (readBytes < lengthBytes) return "cut off";
  const { view } = memory;
  const isHere =
    view.getUint32(address + 8, true) === segmentNumber &&
    view.getUint32(address + 12, true) * 8 === offset;
  if (!isHere) return "another frame's identity";
  const isWhole = hasRightChecksum(memory, address, lengthBytes - FRAME_HEADER_BYTES);
  return isWhole ? undefined : "wrong checksum";
}

/** The frames of the segment, by the records in its footer. */
function framesOf(files: LogFiles, number: number): Promise<readonly Told[]> {
  return withSegment(files, number, async (reader) => {
    const told = new Map<number, Told>();
    const header = await reader.header();
    const trailer = await reader.trailer();
    if (typeof header === "string" || typeof trailer === "string" || reader.isRecords) return [];
    await reader.walkFooter(trailer, {
      from: SEGMENT_HEADER_BYTES,
      chain: {
        nextLsn: header.firstLsn,
        chain: header.chain,
        recordedMicros: 0,
        durableLsn: 0,
      },
      verifyFromLsn: Number.POSITIVE_INFINITY,
      wasDurable: () => Promise.resolve(true),
      incarnation: header.incarnation,
      endsAt: () => false,
      onRecord: (cursor) => tell(files, number, cursor, told),
    });
    return [...told.values()].sort((a, b) => a.offset - b.offset);
  });
}

function tell(
  { memory }: LogFiles,
  number: number,
  cursor: RecordCursor,
  told: Map<number, Told>,
): void {
  const { kind, lsn, branch, lba } = cursor;
  if (kind === RECORD_KIND.RELOCATED && cursor.placeSegment === number) {
    const { placeOffset8, slotCount, isShared, storedBytes } = cursor;
    const homes = Array.from({ length: slotCount }, (_, slot) => homeOf(memory, cursor, slot));
    const offset = placeOffset8 * 8;
    const lengthBytes = FRAME_HEADER_BYTES + Math.min(storedBytes, SHARED_STORED_BYTES_MAX);
    const home = isShared ? undefined : homes[0];
    told.set(offset, { segmentNumber: number, offset, lsn, homes, home, lengthBytes });
  }
  if (kind !== RECORD_KIND.WROTE) return;
  const { view } = memory;
  for (let block = 0; block < cursor.blockCount; block++) {
    const at = cursor.referencesOffset + block * 8;
    const low = view.getUint32(at + 4, true);
    const isHere = stateOf(low) === REFERENCE_STATE.FRAME && view.getUint32(at, true) === number;
    const offset8 = offset8Of(low);
    const offset = offset8 * 8;
    // The first that names it wrote it.
    if (!isHere || told.has(offset)) continue;
    const place = { segmentNumber: number, offset, lsn, branch, lba: lba + block };
    told.set(offset, {
      ...place,
      home: { segment: number, offset8 },
      lengthBytes: RAW_FRAME_BYTES,
    });
  }
}
