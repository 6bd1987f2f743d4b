// SPDX-License-Identifier: Apache-2.0
//
// Judges a segment by itself, all of it that is there: its header, its footer, each batch and frame, and what stands
// behind a place where the chain is broken. What was never written, or only in part when the power went, is no damage: a
// page of nothing but zeros tells. Where only its records are left, these are judged.

import type { DiskFile } from "../host/ports.ts";
import {
  BATCH_ALIGN_BYTES,
  BATCH_HEADER_BYTES,
  type BatchHeader,
  parseBatchHeader,
} from "./batch.ts";
import { type LogFiles, withSegment } from "./known-segments.ts";
import { isDamage } from "./log-reach.ts";
import { hashOutside } from "./outside-hash.ts";
import type { RecordCursor } from "./record.ts";
import {
  recordsName,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
  type SegmentHeader,
  segmentName,
  TRAILER_CHECKSUM_AT,
  TRAILER_MAGIC,
} from "./segment.ts";
import type {
  ChainState,
  DamagedFrame,
  SegmentReader,
  WalkOptions,
  WalkResult,
} from "./segment-reader.ts";

const PAGE_BYTES = 4096;
const WINDOW_BYTES = 1 << 20;

export interface SegmentEnds {
  readonly header: SegmentHeader | undefined;
  /** Where its batches end, by its footer. */
  readonly end: number | undefined;
  /** Only its records are left. */
  readonly isRecords: boolean;
  readonly problems: readonly string[];
  /** What is wrong with its footer, which a crash may have torn as long as nobody has recovered from it. */
  readonly footerProblem: string | undefined;
}

/** Checks a segment's header and footer. Throws DISK_IO, FORMAT_UNSUPPORTED. */
export function checkSegmentEnds(files: LogFiles, number: number): Promise<SegmentEnds> {
  return withBytes(files, number, async (reader, bytes) => {
    const { isRecords } = reader;
    const problems: string[] = [];
    const header = await reader.header();
    const isUnwritten = isBlank(await bytes.read(0, SEGMENT_HEADER_BYTES)) && !isRecords;
    if (typeof header === "string" && !isUnwritten) problems.push(header);
    const trailer = await reader.trailer();
    let end: number | undefined;
    let footerProblem: string | undefined;
    if (typeof trailer === "string") {
      const isFooter = trailer !== "no footer" || (await bytes.hasMaimedTrailer());
      if (isFooter || isRecords) footerProblem = `its footer can't be used: ${trailer}`;
    } else {
      end = trailer.end;
      const from = isRecords ? SEGMENT_HEADER_BYTES : Math.ceil(end / PAGE_BYTES) * PAGE_BYTES;
      const footer = await bytes.read(from, reader.sizeBytes - SEGMENT_TRAILER_BYTES - from);
      const isRight = hashOutside(files.memory, footer) === trailer.checksum;
      if (!isRight && (isRecords || !hasBlankPage(footer)))
        footerProblem = "its footer can't be used: footer checksum is wrong";
    }
    const found = typeof header === "string" ? undefined : header;
    return { header: found, end, isRecords, problems, footerProblem };
  });
}

export interface BatchScan {
  readonly from: number;
  /** Where the batches end, if that is known. */
  readonly end: number | undefined;
  /** The segment's header, if it can be read: what its first batch continues. */
  readonly header: SegmentHeader | undefined;
  /** The checksum of its last batch, if that is known: what the next segment continues. */
  readonly chainAtEnd?: bigint | undefined;
  /** What is wrong with a place; frames are told apart. */
  readonly onProblem: (problem: string, offset: number) => void;
  readonly onDamagedFrame: (frame: DamagedFrame) => void;
  /** Told of each whole batch before its records. */
  readonly onBatch?: (offset: number, header: BatchHeader) => void;
  readonly onRecord?: (cursor: RecordCursor) => void;
  /** Called after each batch, with where it ends; what it returns is awaited. */
  readonly afterBatch?: ((end: number) => Promise<void> | undefined) | undefined;
  /** Called after each record of a batch that is verified; what it returns is awaited. */
  readonly pauseInBatch?: (() => Promise<void> | undefined) | undefined;
}

/** Looks at every batch that is there, and its frames; of records alone at each of these. Throws DISK_IO, FORMAT_UNSUPPORTED. */
export function scanBatches(files: LogFiles, number: number, scan: BatchScan): Promise<void> {
  return withBytes(files, number, async (reader, bytes) => {
    if (reader.isRecords) await scanRecords(reader, scan);
    else await new SegmentScan(reader, bytes, scan).run();
  });
}

/** Where a row of batches that continue each other begins. */
interface RowStart {
  readonly at: number;
  readonly chain: ChainState;
  readonly incarnation: number;
}

class SegmentScan {
  readonly #reader: SegmentReader;
  readonly #bytes: RawSegment;
  readonly #scan: BatchScan;
  /** Batches are looked for up to here. */
  #end: number;
  /** What was read and accepted ends here; undefined reason: nothing is wrong with that. */
  #accepted: number;
  #reason: string | undefined;

  constructor(reader: SegmentReader, bytes: RawSegment, scan: BatchScan) {
    this.#reader = reader;
    this.#bytes = bytes;
    this.#scan = scan;
    this.#end = Math.min(scan.end ?? reader.sizeBytes, reader.sizeBytes);
    this.#accepted = scan.from;
  }

  async run(): Promise<void> {
    const { header, from, end, chainAtEnd } = this.#scan;
    // A footer repeats the headers of batches, and what it says may have been torn: but nothing behind its end is one.
    const trailer = end === undefined ? await this.#reader.trailer() : "not needed";
    if (typeof trailer === "object") this.#end = Math.min(this.#end, trailer.end);
    let chain: bigint | undefined;
    if (header !== undefined && from === SEGMENT_HEADER_BYTES && from < this.#end)
      chain = await this.#walkRow({ ...header, at: from, chain: beginOf(header) });
    let next = this.#accepted;
    for (;;) {
      const row = await this.#bytes.findBatch(next, this.#end, header);
      if (row === undefined) break;
      chain = await this.#walkRow(row);
      next = Math.max(this.#accepted, row.at + BATCH_ALIGN_BYTES);
    }
    if (end === undefined) return;
    if (this.#accepted < end) this.#tellGap(end);
    else if (chainAtEnd !== undefined && chain !== undefined && chain !== chainAtEnd)
      this.#scan.onProblem("the next segment continues another batch than its last", end);
  }

  /** Returns the checksum of the last whole batch. */
  async #walkRow(row: RowStart): Promise<bigint> {
    const { at } = row;
    const { end, reason } = await walkFrom(this.#reader, row, {
      end: this.#end,
      scan: this.#scan,
      // What is wrong before a row is told before what is in it.
      onFirst: () => {
        if (at > this.#accepted) this.#tellGap(at);
        else if (this.#reason !== undefined)
          this.#scan.onProblem(`batch at ${at}: ${this.#reason}`, at);
      },
    });
    if (end > at) this.#accepted = end;
    if (end > at || this.#reason === undefined) this.#reason = reason;
    return row.chain.chain;
  }

  #tellGap(end: number): void {
    const why = this.#reason === undefined ? "" : `: ${this.#reason}`;
    this.#scan.onProblem(`no whole batch from ${this.#accepted} to ${end}${why}`, this.#accepted);
  }
}

function beginOf({ firstLsn: nextLsn, chain }: SegmentHeader): ChainState {
  return { nextLsn, chain, recordedMicros: 0, durableLsn: 0 };
}

/** Walks along the chain from a batch; where that ends, and why. */
async function walkFrom(
  reader: SegmentReader,
  { at: from, chain, incarnation }: RowStart,
  { end, scan, onFirst }: { end: number; scan: BatchScan; onFirst: () => void },
): Promise<WalkResult> {
  let walked = from;
  const walk: WalkOptions = {
    from,
    chain,
    verifyFromLsn: 0,
    wasDurable: () => Promise.resolve(true),
    onDamagedFrame: scan.onDamagedFrame,
    incarnation,
    endsAt: (offset) => offset >= end,
    onBatch: (offset, header) => {
      if (offset === from) onFirst();
      scan.onBatch?.(offset, header);
    },
    onRecord: (cursor) => scan.onRecord?.(cursor),
    afterBatch: (offset) => {
      walked = offset;
      return scan.afterBatch?.(offset);
    },
    pauseInBatch: scan.pauseInBatch,
  };
  try {
    return await reader.walk(walk);
  } catch (error) {
    if (!isDamage(error)) throw error;
    const { problem } = error.data;
    return { end: walked, reason: typeof problem === "string" ? problem : error.message };
  }
}

/** Of a segment whose records alone are left: all of them. */
async function scanRecords(reader: SegmentReader, scan: BatchScan): Promise<void> {
  const trailer = await reader.trailer();
  if (typeof trailer === "string" || scan.header === undefined) return; // its ends say so
  const { onBatch, onRecord, afterBatch } = scan;
  const walked = await reader.walkFooter(trailer, {
    from: SEGMENT_HEADER_BYTES,
    chain: beginOf(scan.header),
    verifyFromLsn: Number.POSITIVE_INFINITY,
    wasDurable: () => Promise.resolve(true),
    incarnation: scan.header.incarnation,
    endsAt: () => false,
    onRecord: (cursor) => onRecord?.(cursor),
    ...(onBatch === undefined ? {} : { onBatch }),
    afterBatch,
  });
  if (typeof walked === "string") scan.onProblem(walked, SEGMENT_HEADER_BYTES);
}

/** Opens a segment twice: as what it is, and as bytes. */
function withBytes<T>(
  files: LogFiles,
  number: number,
  work: (reader: SegmentReader, bytes: RawSegment) => Promise<T>,
): Promise<T> {
  return withSegment(files, number, async (reader) => {
    const name = reader.isRecords ? recordsName(number) : segmentName(number);
    const file = await files.directory.open(name, "read");
    try {
      return await work(reader, new RawSegment(files, file, reader.sizeBytes));
    } finally {
      await file.close();
    }
  });
}

/** A segment's bytes, without any meaning. */
class RawSegment {
  readonly #files: LogFiles;
  readonly #file: DiskFile;
  readonly #sizeBytes: number;

  constructor(files: LogFiles, file: DiskFile, sizeBytes: number) {
    this.#files = files;
    this.#file = file;
    this.#sizeBytes = sizeBytes;
  }

  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const target = new Uint8Array(Math.max(0, lengthBytes));
    return target.subarray(0, await this.#file.read(target, offset));
  }

  /**
   * The first place from `from` on where a batch of this segment's life begins, and what that continues. Others were left
   * there by segments that are gone: their blocks are used again.
   */
  async findBatch(
    from: number,
    end: number,
    segment: SegmentHeader | undefined,
  ): Promise<RowStart | undefined> {
    const first = Math.ceil(from / BATCH_ALIGN_BYTES) * BATCH_ALIGN_BYTES;
    for (let windowStart = first; windowStart < end; windowStart += WINDOW_BYTES) {
      const window = await this.read(windowStart, Math.min(WINDOW_BYTES, end - windowStart));
      for (let inWindow = 0; inWindow < window.length; inWindow += BATCH_ALIGN_BYTES) {
        const header = this.#batchAt(window.subarray(inWindow, inWindow + BATCH_HEADER_BYTES));
        if (header === undefined) continue;
        const { incarnation, firstLsn: nextLsn, previousChecksum: chain } = header;
        const isOurs =
          segment === undefined ||
          (incarnation === segment.incarnation && nextLsn >= segment.firstLsn);
        const { recordedMicros, durableLsn } = header;
        const state = { nextLsn, chain, recordedMicros, durableLsn };
        if (isOurs) return { at: windowStart + inWindow, chain: state, incarnation };
      }
    }
    return undefined;
  }

  #batchAt(bytes: Uint8Array): BatchHeader | undefined {
    const { memory, poolId } = this.#files;
    const address = memory.staging.allocate(BATCH_HEADER_BYTES);
    try {
      memory.bytes.set(bytes, address);
      const header = parseBatchHeader(memory, address, bytes.length, poolId);
      return typeof header === "string" ? undefined : header;
    } finally {
      memory.staging.release(address);
    }
  }

  /** The last bytes would be a trailer if its magic were right. */
  async hasMaimedTrailer(): Promise<boolean> {
    const { memory } = this.#files;
    const at = this.#sizeBytes - SEGMENT_TRAILER_BYTES;
    if (at < SEGMENT_HEADER_BYTES) return false;
    const trailer = await this.read(at, SEGMENT_TRAILER_BYTES);
    if (trailer.length < SEGMENT_TRAILER_BYTES) return false;
    trailer.set(new TextEncoder().encode(TRAILER_MAGIC));
    const address = memory.staging.allocate(SEGMENT_TRAILER_BYTES);
    memory.bytes.set(trailer, address);
    const checksum = memory.hash(address, TRAILER_CHECKSUM_AT);
    memory.staging.release(address);
    return checksum === new DataView(trailer.buffer).getBigUint64(TRAILER_CHECKSUM_AT, true);
  }
}

function isBlank(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** A footer has no page of zeros, but where a power cut kept it from the disk. */
function hasBlankPage(footer: Uint8Array): boolean {
  for (let at = 0; at + PAGE_BYTES <= footer.length; at += PAGE_BYTES)
    if (isBlank(footer.subarray(at, at + PAGE_BYTES))) return true;
  return false;
}
