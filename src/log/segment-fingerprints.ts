// SPDX-License-Identifier: Apache-2.0
//
// The fingerprints of the blocks in one segment: for each block that can be found alone, its hash and the name by which
// references know it. A frame that was born in the segment is known by its place, one that garbage collection moved
// there by the homes of its blocks, which its relocated record tells; its own row in the footer names nobody.
//
//   with a footer      rows of the footer, without those of moved frames; records out of the metas beside them
//   without            headers of the frames, and records, batch by batch: that reads the whole segment
//
// It runs beside clients: after some thousand steps it asks to pause, and it holds no staging memory meanwhile. What
// it tells is only a hint where a block may be (reduce/dedup-index.ts), so a damaged frame is no matter here; but no number
// leaves the bounds that the log itself has.

import { assert } from "../base/assert.ts";
import type { DiskFile } from "../host/ports.ts";
import { FRAME_HEADER_BYTES, FRAME_ROW_BYTES } from "../reduce/block-memory.ts";
import { BATCH_HEADER_BYTES, type BatchHeader, parseBatchHeader, recordsMatch } from "./batch.ts";
import { FingerprintRows, type FingerprintRowsOptions } from "./fingerprint-rows.ts";
import { type LogFiles, segmentCorrupt } from "./known-segments.ts";
import { hashPiece, OUTSIDE_PIECE_BYTES } from "./outside-hash.ts";
import {
  newRecordCursor,
  parseRecord,
  RECORD_KIND,
  RELOCATED_HOME_AT,
  RELOCATED_SLOT_BYTES,
  type RecordCursor,
} from "./record.ts";
import {
  META_PREFIX_BYTES,
  parseSegmentHeader,
  parseSegmentTrailer,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
  type SegmentHeader,
  type SegmentTrailer,
  segmentName,
} from "./segment.ts";

export interface FingerprintReaderOptions extends LogFiles, FingerprintRowsOptions {}

export interface FingerprintReading {
  readonly number: number;
  /** Where the segment's part of the log ends, by its header; Infinity: all of it counts, 0: nothing does. */
  readonly endOf: (header: SegmentHeader) => number;
  /** Nothing is read but a footer: not 64 MiB for one list. */
  readonly isFooterNeeded: boolean;
}

/** What was read of a segment. */
export interface FingerprintsRead {
  readonly header: SegmentHeader;
  readonly frameCount: number;
  readonly readBytes: number;
}

/** What most footers of 64 MiB take. */
const TAIL_BYTES: number = 448 << 10;
/** 1 MiB of rows, 4 MiB of metas, and what the batch that crossed these limits adds. */
const FOOTER_BYTES_MAX: number = 8 << 20;
/** A batch is no larger. */
const WINDOW_BYTES: number = 2 << 20;
/** Behind what hashes use of the scratch. */
const PARSED_IN_SCRATCH = 8192;

/** Reads one segment at a time. */
export class FingerprintReader {
  readonly #options: FingerprintReaderOptions;
  #isReading = false;
  #file!: DiskFile; // set while reading, like all below
  #number = 0;
  #sizeBytes = 0;
  /** What was read last, and where it lies in the file. */
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(this.#bytes.buffer);
  #start = 0;
  #loadedBytes = 0;
  #readBytes = 0;
  /** Where frames lie that were moved here. */
  readonly #moved: Set<number> = new Set();
  readonly #rows: FingerprintRows;

  constructor(options: FingerprintReaderOptions) {
    this.#options = options;
    this.#rows = new FingerprintRows(options);
  }

  /** Throws LOG_CORRUPT, FORMAT_UNSUPPORTED, DISK_IO; what was told until then stays true. */
  async read(reading: FingerprintReading): Promise<FingerprintsRead> {
    assert(!this.#isReading, "one segment is read at a time");
    this.#isReading = true;
    try {
      this.#file = await this.#options.directory.open(segmentName(reading.number), "read");
      try {
        return await this.#read(reading);
      } finally {
        await this.#file.close();
      }
    } finally {
      this.#isReading = false;
    }
  }

  async #read({ number, endOf, isFooterNeeded }: FingerprintReading): Promise<FingerprintsRead> {
    this.#number = number;
    this.#sizeBytes = await this.#file.sizeBytes();
    this.#loadedBytes = 0;
    this.#readBytes = 0;
    this.#rows.clear();
    const header = await this.#header();
    const end = endOf(header);
    if (end > SEGMENT_HEADER_BYTES) {
      const trailer = await this.#footer();
      if (trailer !== undefined) await this.#readFooter(trailer, Math.min(end, trailer.end));
      else if (!isFooterNeeded) await this.#readBatches(header, end);
      await this.#rows.flush(0);
    }
    return { header, frameCount: this.#rows.doneCount, readBytes: this.#readBytes };
  }

  async #header(): Promise<SegmentHeader> {
    const { memory, poolId } = this.#options;
    await this.#load(0, SEGMENT_HEADER_BYTES);
    const at = memory.scratchAddress + PARSED_IN_SCRATCH;
    memory.bytes.set(this.#bytes.subarray(0, SEGMENT_HEADER_BYTES), at);
    const header = parseSegmentHeader(memory, at, this.#loadedBytes, poolId);
    if (typeof header === "string") throw this.#corrupt(header);
    if (header.number !== this.#number)
      throw this.#corrupt(`it is segment ${header.number} by its header`);
    return header;
  }

  // ---- with a footer

  /** Loads the footer; undefined when there is none that can be believed: a power cut may have left a part of it. */
  async #footer(): Promise<SegmentTrailer | undefined> {
    const tailBytes = Math.min(TAIL_BYTES, this.#sizeBytes - SEGMENT_HEADER_BYTES);
    if (tailBytes < SEGMENT_TRAILER_BYTES) return undefined;
    await this.#load(this.#sizeBytes - tailBytes, tailBytes);
    if (this.#loadedBytes < tailBytes) return undefined;
    const { memory } = this.#options;
    const at = memory.scratchAddress + PARSED_IN_SCRATCH;
    memory.bytes.set(this.#bytes.subarray(tailBytes - SEGMENT_TRAILER_BYTES, tailBytes), at);
    const trailer = parseSegmentTrailer(memory, at);
    if (typeof trailer === "string") return undefined;
    const { number, end, frameCount, rowBytes, metaBytes } = trailer;
    const footerOffset = Math.ceil(end / 4096) * 4096;
    const footerBytes = this.#sizeBytes - footerOffset;
    const isSane =
      number === this.#number &&
      end >= SEGMENT_HEADER_BYTES &&
      rowBytes === frameCount * FRAME_ROW_BYTES &&
      metaBytes >= 0 &&
      rowBytes + metaBytes + SEGMENT_TRAILER_BYTES <= footerBytes &&
      footerBytes <= FOOTER_BYTES_MAX;
    if (!isSane) return undefined;
    if (footerOffset < this.#start) await this.#load(footerOffset, footerBytes);
    else this.#moveTo(footerOffset);
    if (this.#loadedBytes < footerBytes) return undefined;
    const checksum = await this.#checksum(footerBytes - SEGMENT_TRAILER_BYTES);
    return checksum === trailer.checksum ? trailer : undefined;
  }

  async #checksum(lengthBytes: number): Promise<bigint> {
    let checksum = 0n;
    for (let at = 0; at < lengthBytes; ) {
      const end = Math.min(lengthBytes, at + OUTSIDE_PIECE_BYTES);
      const next = hashPiece(this.#options.memory, checksum, this.#bytes.subarray(at, end));
      if (next !== undefined) {
        checksum = next;
        at = end;
      }
      await this.#rows.pause();
    }
    return checksum;
  }

  async #readFooter({ rowBytes, metaBytes }: SegmentTrailer, end: number): Promise<void> {
    const view = this.#view;
    this.#moved.clear();
    const metasEnd = rowBytes + metaBytes;
    for (let at = rowBytes; at < metasEnd; ) {
      const recordsAt = at + META_PREFIX_BYTES + BATCH_HEADER_BYTES;
      if (recordsAt > metasEnd) throw this.#corrupt("meta cut off in the footer");
      const lengthBytes = view.getUint32(at + 4, true);
      const next = at + META_PREFIX_BYTES + lengthBytes;
      if (next < recordsAt || next > metasEnd)
        throw this.#corrupt(`meta of ${lengthBytes} bytes in the footer`);
      if (view.getUint32(at, true) < end) await this.#readMoves(recordsAt, next);
      at = next;
    }
    const rows = new Uint32Array(this.#bytes.buffer, 0, rowBytes / 4);
    for (let word = 0; word < rows.length; word += 4) {
      const offset8 = rows[word] as number;
      this.#rows.steps += 1;
      if (this.#rows.isFlushDue(this.#number)) await this.#rows.flush(this.#number);
      if (offset8 * 8 < SEGMENT_HEADER_BYTES || offset8 * 8 >= end || this.#moved.has(offset8))
        continue;
      this.#rows.add(
        offset8,
        rows[word + 1] as number,
        rows[word + 2] as number,
        rows[word + 3] as number,
      );
    }
  }

  // ---- without one

  async #readBatches(header: SegmentHeader, end: number): Promise<void> {
    const limit = Math.min(end, this.#sizeBytes);
    let { chain, firstLsn: nextLsn } = header;
    for (let at = SEGMENT_HEADER_BYTES; at < limit; ) {
      const batch = await this.#batchAt(at);
      const continues =
        typeof batch === "object" &&
        batch.incarnation === header.incarnation &&
        batch.previousChecksum === chain &&
        batch.firstLsn === nextLsn;
      if (!continues) {
        if (end === Number.POSITIVE_INFINITY) return;
        throw this.#corrupt(`no batch of the log at ${at}, which goes on to ${end}`);
      }
      const framesAt = at - this.#start + BATCH_HEADER_BYTES;
      const framesEnd = framesAt + batch.frameBytes;
      this.#moved.clear();
      await this.#readMoves(framesEnd, framesEnd + batch.recordBytes);
      await this.#readFrames(framesAt, framesEnd);
      chain = batch.checksum;
      nextLsn = batch.firstLsn + batch.recordCount;
      at += batch.totalBytes;
    }
  }

  /** Loads the batch at an offset, with records that are right; a sentence when there is none. */
  async #batchAt(offset: number): Promise<BatchHeader | string> {
    const { memory, poolId } = this.#options;
    if (!this.#has(offset, BATCH_HEADER_BYTES)) await this.#loadWindow(offset);
    const parsedAt = memory.scratchAddress + PARSED_IN_SCRATCH;
    const copyHeader = (target: number): number => {
      const from = offset - this.#start;
      const header = this.#bytes.subarray(from, from + BATCH_HEADER_BYTES);
      memory.bytes.set(header, target);
      return this.#loadedBytes - from;
    };
    const batch = parseBatchHeader(memory, parsedAt, copyHeader(parsedAt), poolId);
    if (typeof batch === "string") return batch;
    const usedBytes = BATCH_HEADER_BYTES + batch.frameBytes + batch.recordBytes;
    if (usedBytes > WINDOW_BYTES) return "larger than a batch";
    if (!this.#has(offset, usedBytes)) await this.#loadWindow(offset);
    if (!this.#has(offset, usedBytes)) return "cut off";
    let staging = memory.staging.allocate(BATCH_HEADER_BYTES + batch.recordBytes);
    for (; staging < 0; staging = memory.staging.allocate(BATCH_HEADER_BYTES + batch.recordBytes))
      await this.#rows.pause();
    copyHeader(staging);
    const recordsAt = offset - this.#start + BATCH_HEADER_BYTES + batch.frameBytes;
    const records = this.#bytes.subarray(recordsAt, recordsAt + batch.recordBytes);
    memory.bytes.set(records, staging + BATCH_HEADER_BYTES);
    const isRight = recordsMatch(memory, staging, staging + BATCH_HEADER_BYTES, batch.recordBytes);
    memory.staging.release(staging);
    return isRight ? batch : "records checksum is wrong";
  }

  /** Frames lie one behind the other; where one isn't what its header should say, the rest is not looked at. */
  async #readFrames(from: number, end: number): Promise<void> {
    for (let at = from; at + FRAME_HEADER_BYTES <= end; ) {
      const view = this.#view;
      const offset8 = (this.#start + at) / 8;
      const storedBytes = view.getUint32(at + 16, true);
      const next = at + FRAME_HEADER_BYTES + Math.ceil(storedBytes / 8) * 8;
      if (storedBytes === 0 || next > end) return;
      this.#rows.steps += 1;
      if (!this.#moved.has(offset8)) {
        const isHome =
          view.getUint32(at + 8, true) === this.#number &&
          view.getUint32(at + 12, true) === offset8;
        if (!isHome) return;
        if (this.#rows.isFlushDue(this.#number)) await this.#rows.flush(this.#number);
        this.#rows.add(
          offset8,
          storedBytes,
          view.getUint32(at, true),
          view.getUint32(at + 4, true),
        );
      }
      at = next;
    }
  }

  // ---- both

  /** Looks through records, whose checksum is right, for frames that were moved here. */
  async #readMoves(from: number, end: number): Promise<void> {
    const view = this.#view;
    for (let at = from; at < end; ) {
      const lengthBytes = end - at < 4 ? 0 : view.getUint16(at + 2, true);
      if (lengthBytes < 16 || lengthBytes % 8 !== 0 || at + lengthBytes > end)
        throw this.#corrupt(`record of ${lengthBytes} bytes in ${end - at}`);
      this.#rows.steps += 1;
      if (view.getUint8(at) === RECORD_KIND.RELOCATED) await this.#readMove(at, at + lengthBytes);
      else if (this.#rows.isTurnOver) await this.#rows.pause();
      at += lengthBytes;
    }
  }

  async #readMove(at: number, end: number): Promise<void> {
    const view = this.#view;
    const cursor = CURSOR;
    const problem = parseRecord(view, at, end, cursor);
    if (typeof problem === "string") throw this.#corrupt(problem);
    if (cursor.placeSegment !== this.#number) return;
    const { placeOffset8, referencesOffset, slotCount, storedBytes } = cursor;
    this.#moved.add(placeOffset8);
    for (let slot = 0; slot < slotCount; slot++) {
      const slotAt = referencesOffset + slot * RELOCATED_SLOT_BYTES;
      const home = view.getUint32(slotAt + RELOCATED_HOME_AT, true);
      const homeOffset8 = view.getUint32(slotAt + RELOCATED_HOME_AT + 4, true);
      this.#rows.steps += 1;
      // Frames are moved to the head of the log: whatever says else would teach the index a segment that isn't there.
      if (home === 0 || home >= this.#number || homeOffset8 * 8 < SEGMENT_HEADER_BYTES) continue;
      if (this.#rows.isFlushDue(home)) await this.#rows.flush(home);
      this.#rows.add(
        homeOffset8,
        storedBytes,
        view.getUint32(slotAt, true),
        view.getUint32(slotAt + 4, true),
      );
    }
  }

  #has(offset: number, lengthBytes: number): boolean {
    return offset >= this.#start && offset + lengthBytes <= this.#start + this.#loadedBytes;
  }

  async #loadWindow(offset: number): Promise<void> {
    await this.#rows.pause();
    await this.#load(offset, WINDOW_BYTES);
  }

  /** Reads up to `lengthBytes` from `offset` on to the beginning of the buffer. */
  async #load(offset: number, lengthBytes: number): Promise<void> {
    if (this.#bytes.length < lengthBytes) {
      this.#bytes = new Uint8Array(lengthBytes);
      this.#view = new DataView(this.#bytes.buffer);
    }
    this.#loadedBytes = 0;
    this.#start = offset;
    const target = this.#bytes.subarray(0, lengthBytes);
    this.#loadedBytes = await this.#file.read(target, offset);
    this.#readBytes += this.#loadedBytes;
  }

  /** Makes the bytes from `offset` on the first in the buffer. */
  #moveTo(offset: number): void {
    const skipped = offset - this.#start;
    this.#bytes.copyWithin(0, skipped, this.#loadedBytes);
    this.#start = offset;
    this.#loadedBytes -= skipped;
  }

  #corrupt(problem: string): Error {
    return segmentCorrupt(this.#number, `its fingerprints can't be read: ${problem}`);
  }
}

/** Reused: nothing keeps it across a call. */
const CURSOR: RecordCursor = newRecordCursor();
