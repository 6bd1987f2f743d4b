// SPDX-License-Identifier: Apache-2.0
//
// Judges a segment by itself, for what a walk along the chain doesn't reach: its header, its footer, and, behind a
// break of the chain, each batch and frame that is there. What was never written, or only in part when the power
// went, is no damage: a page of nothing but zeros tells.

import type { DiskFile } from "../host/ports.ts";
import { BATCH_ALIGN_BYTES, BATCH_HEADER_BYTES, parseBatchHeader } from "./batch.ts";
import { type LogFiles, withSegment } from "./known-segments.ts";
import { isDamage } from "./log-reach.ts";
import { hashOutside } from "./outside-hash.ts";
import {
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
  type SegmentHeader,
  segmentName,
  TRAILER_CHECKSUM_AT,
  TRAILER_MAGIC,
} from "./segment.ts";
import type { ChainState, DamagedFrame, SegmentReader } from "./segment-reader.ts";

const PAGE_BYTES = 4096;
const WINDOW_BYTES = 1 << 20;

export interface SegmentEnds {
  readonly header: SegmentHeader | undefined;
  /** Where its batches end, by its footer. */
  readonly end: number | undefined;
  readonly problems: readonly string[];
}

/** Checks a segment's header and footer. Throws DISK_IO, FORMAT_UNSUPPORTED. */
export function checkSegmentEnds(files: LogFiles, number: number): Promise<SegmentEnds> {
  return withBytes(files, number, async (reader, bytes) => {
    const problems: string[] = [];
    const header = await reader.header();
    if (typeof header === "string" && !isBlank(await bytes.read(0, SEGMENT_HEADER_BYTES)))
      problems.push(header);
    const trailer = await reader.trailer();
    let end: number | undefined;
    if (typeof trailer === "string") {
      const isFooter = trailer !== "no footer" || (await bytes.hasMaimedTrailer());
      if (isFooter) problems.push(`its footer can't be used: ${trailer}`);
    } else {
      end = trailer.end;
      const from = Math.ceil(end / PAGE_BYTES) * PAGE_BYTES;
      const footer = await bytes.read(from, reader.sizeBytes - SEGMENT_TRAILER_BYTES - from);
      if (hashOutside(files.memory, footer) !== trailer.checksum && !hasBlankPage(footer))
        problems.push("its footer can't be used: footer checksum is wrong");
    }
    return { header: typeof header === "string" ? undefined : header, end, problems };
  });
}

export interface BatchScan {
  readonly from: number;
  /** Where the batches end, if that is known. */
  readonly end: number | undefined;
  /** Bytes of the segment in which there is no whole batch, where there should be one. */
  readonly onGap: (start: number, end: number) => void;
  readonly onDamagedFrame: (frame: DamagedFrame) => void;
}

/** Looks at every batch that is there, whatever it continues. Throws DISK_IO, FORMAT_UNSUPPORTED. */
export function scanBatches(files: LogFiles, number: number, scan: BatchScan): Promise<void> {
  return withBytes(files, number, async (reader, bytes) => {
    const end = Math.min(scan.end ?? reader.sizeBytes, reader.sizeBytes);
    let gapStart = scan.from;
    for (let from = scan.from; ; ) {
      const found = await bytes.findBatch(from, end);
      if (found === undefined) break;
      const { at, start } = found;
      if (at > gapStart) scan.onGap(gapStart, at);
      gapStart = await walkFrom(reader, at, { start, end, scan });
      from = Math.max(gapStart, at + BATCH_ALIGN_BYTES);
    }
    if (scan.end !== undefined && gapStart < scan.end) scan.onGap(gapStart, scan.end);
  });
}

/** Walks along the chain from a batch; returns where that ends. */
async function walkFrom(
  reader: SegmentReader,
  from: number,
  { start, end, scan }: { start: ChainState; end: number; scan: BatchScan },
): Promise<number> {
  let walked = from;
  try {
    const result = await reader.walk({
      from,
      chain: start,
      verifyFromLsn: 0,
      wasDurable: () => Promise.resolve(true),
      onDamagedFrame: scan.onDamagedFrame,
      incarnation: -1,
      endsAt: (offset) => offset >= end,
      onRecord: () => undefined,
      afterBatch: (offset) => {
        walked = offset;
        return undefined;
      },
    });
    return result.end;
  } catch (error) {
    if (!isDamage(error)) throw error;
    return walked;
  }
}

/** Opens a segment twice: as what it is, and as bytes. */
function withBytes<T>(
  files: LogFiles,
  number: number,
  work: (reader: SegmentReader, bytes: RawSegment) => Promise<T>,
): Promise<T> {
  return withSegment(files, number, async (reader) => {
    const file = await files.directory.open(segmentName(number), "read");
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

  /** The first place from `from` on where a batch begins, and what that continues. */
  async findBatch(
    from: number,
    end: number,
  ): Promise<{ at: number; start: ChainState } | undefined> {
    const first = Math.ceil(from / BATCH_ALIGN_BYTES) * BATCH_ALIGN_BYTES;
    for (let windowStart = first; windowStart < end; windowStart += WINDOW_BYTES) {
      const window = await this.read(windowStart, Math.min(WINDOW_BYTES, end - windowStart));
      for (let at = 0; at < window.length; at += BATCH_ALIGN_BYTES) {
        const start = this.#chainOf(window.subarray(at, at + BATCH_HEADER_BYTES));
        if (start !== undefined) return { at: windowStart + at, start };
      }
    }
    return undefined;
  }

  #chainOf(bytes: Uint8Array): ChainState | undefined {
    const { memory, poolId } = this.#files;
    const address = memory.staging.allocate(BATCH_HEADER_BYTES);
    try {
      memory.bytes.set(bytes, address);
      const header = parseBatchHeader(memory, address, bytes.length, poolId);
      if (typeof header === "string") return undefined;
      const { firstLsn: nextLsn, previousChecksum: chain, recordedMicros, durableLsn } = header;
      return { nextLsn, chain, recordedMicros, durableLsn };
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
