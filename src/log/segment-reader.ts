// SPDX-License-Identifier: Apache-2.0
//
// Reads one segment: its header, its footer where it has one, and its batches one after the other. It
// judges each batch by itself (checksums, pool, sane numbers, frames where asked) and by the chain that the
// caller holds; what doesn't fit is not an exception but the end of the walk, with a sentence that says why.
//
// Of a segment whose frames garbage collection has moved, only a file with its records may be left: header and footer,
// no batches. It is opened where the segment isn't there, and has to be walked by its footer.

import { assert } from "../base/assert.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { Directory, DiskFile } from "../host/ports.ts";
import { type BlockMemory, FRAME_OPEN_RESULT } from "../reduce/block-memory.ts";
import { BATCH_HEADER_BYTES, type BatchHeader, parseBatchHeader, recordsMatch } from "./batch.ts";
import { type FrameHome, homeOf, movedFrameProblem } from "./moved-frame.ts";
import { hashOutside } from "./outside-hash.ts";
import { newRecordCursor, parseRecord, RECORD_KIND, type RecordCursor } from "./record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "./reference.ts";
import {
  META_PREFIX_BYTES,
  parseSegmentHeader,
  parseSegmentTrailer,
  recordsName,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
  type SegmentHeader,
  type SegmentTrailer,
  segmentName,
} from "./segment.ts";

/** Where a walk stands: what the next batch must continue. */
export interface ChainState {
  nextLsn: number;
  chain: bigint;
  /** Newest recorded time seen. */
  recordedMicros: number;
  /** The highest durable LSN that any batch claimed. */
  durableLsn: number;
}

/** A frame that isn't what the record in its batch says. */
export interface DamagedFrame {
  readonly segmentNumber: number;
  readonly offset: number;
  readonly problem: string;
  readonly lsn: number;
  /** The block that it held, by a wrote record. */
  readonly branch?: number;
  readonly lba?: number;
  /** Of a frame that was moved, any number of blocks: where they were born. */
  readonly homes?: readonly FrameHome[];
}

export interface WalkResult {
  /** Where the last good batch ended. */
  readonly end: number;
  /** Why the walk ended there; undefined when it met the end of the file or `stopAt`. */
  readonly reason: string | undefined;
}

export interface WalkOptions {
  readonly from: number;
  readonly chain: ChainState;
  /** Frames of batches that reach this LSN or beyond are verified; Infinity: none. */
  readonly verifyFromLsn: number;
  /**
   * Asked about a batch with a bad frame: whether all before `next`, where the chain stands behind it, had been
   * durable. If so, the frame is damaged and the walk goes on; if not, the batch is torn and the walk ends.
   */
  readonly wasDurable: (end: number, next: ChainState) => Promise<boolean>;
  readonly onDamagedFrame?: (frame: DamagedFrame) => void;
  /** Of the segment's header. */
  readonly incarnation: number;
  /** Asked before each batch: a walk ends where the next segment says that this one ended, whatever follows. */
  readonly endsAt: (offset: number) => boolean;
  /** Positions in the cursor are addresses in the block memory, valid during the call only. */
  readonly onRecord: (cursor: RecordCursor) => void;
  readonly onBatch?: (offset: number, header: BatchHeader) => void;
  /** Asked after each record whose frames were verified: a batch may have tens of thousands. May be awaited. */
  readonly pauseInBatch?: (() => Promise<void> | undefined) | undefined;
  /** The batch that ends at `end` has been told; the chain stands behind it. May be awaited. */
  readonly afterBatch?: ((end: number, chain: ChainState) => Promise<void> | undefined) | undefined;
}

const WINDOW_BYTES = 2 << 20;
/** Enough for whoever walks no batches. */
export const PEEK_WINDOW_BYTES: number = SEGMENT_HEADER_BYTES;

export class SegmentReader {
  readonly number: number;
  readonly sizeBytes: number;
  /** Only its records are left. */
  readonly isRecords: boolean;
  readonly #memory: BlockMemory;
  readonly #file: DiskFile;
  readonly #poolId: Uint8Array;
  readonly #window: number;
  readonly #windowBytes: number;
  /** Reused: nothing keeps it across a call. */
  readonly #cursor: RecordCursor = newRecordCursor();
  #windowStart = 0;
  #windowEnd = 0;

  private constructor(
    memory: BlockMemory,
    file: DiskFile,
    identity: { number: number; sizeBytes: number; isRecords: boolean; poolId: Uint8Array },
    windowBytes: number,
  ) {
    this.#memory = memory;
    this.#file = file;
    this.number = identity.number;
    this.sizeBytes = identity.sizeBytes;
    this.isRecords = identity.isRecords;
    this.#poolId = identity.poolId;
    this.#windowBytes = windowBytes;
    this.#window = memory.staging.allocate(windowBytes);
    if (this.#window < 0)
      throw new StorageError("BUSY", `segment ${this.number}: not read: no staging memory is free`);
  }

  static async open(
    memory: BlockMemory,
    directory: Directory,
    number: number,
    poolId: Uint8Array,
    windowBytes: number = WINDOW_BYTES,
  ): Promise<SegmentReader> {
    const { file, isRecords } = await openSegment(directory, number);
    try {
      const sizeBytes = await file.sizeBytes();
      const identity = { number, sizeBytes, isRecords, poolId };
      return new SegmentReader(memory, file, identity, windowBytes);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#memory.staging.release(this.#window);
    await this.#file.close();
  }

  async header(): Promise<SegmentHeader | string> {
    const availableBytes = await this.#load(0, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
    const header = parseSegmentHeader(this.#memory, this.#window, availableBytes, this.#poolId);
    if (typeof header !== "string" && header.number !== this.number)
      return `it is segment ${header.number} by its header`;
    return header;
  }

  /** The header of the batch that the segment begins with, or why there is none. */
  async firstBatch(header: SegmentHeader): Promise<BatchHeader | string> {
    const at = SEGMENT_HEADER_BYTES + (this.isRecords ? META_PREFIX_BYTES : 0);
    const availableBytes = await this.#load(at, BATCH_HEADER_BYTES);
    const batch = parseBatchHeader(this.#memory, this.#address(at), availableBytes, this.#poolId);
    if (typeof batch === "string") return batch;
    // The file's blocks may have held another segment before.
    if (batch.incarnation !== header.incarnation)
      return `it is of incarnation ${batch.incarnation}`;
    return continues({ chain: header.chain, nextLsn: header.firstLsn }, batch) ?? batch;
  }

  /** The footer's trailer, or why there is none. */
  async trailer(): Promise<SegmentTrailer | string> {
    const at = this.sizeBytes - SEGMENT_TRAILER_BYTES;
    if (at < SEGMENT_HEADER_BYTES) return "no footer";
    if ((await this.#load(at, SEGMENT_TRAILER_BYTES)) < SEGMENT_TRAILER_BYTES) return "no footer";
    const trailer = parseSegmentTrailer(this.#memory, this.#address(at));
    if (typeof trailer === "string") return trailer;
    const footerBytes = this.sizeBytes - SEGMENT_TRAILER_BYTES - this.#footerOffset(trailer);
    const isSane =
      trailer.number === this.number &&
      trailer.end >= SEGMENT_HEADER_BYTES &&
      trailer.rowBytes >= 0 &&
      trailer.metaBytes >= 0 &&
      trailer.rowBytes + trailer.metaBytes <= footerBytes;
    return isSane ? trailer : "impossible numbers in the trailer";
  }

  /** Whether a whole footer follows the batches, which end at `end`. */
  async hasFooterAt(end: number): Promise<boolean> {
    const trailer = await this.trailer();
    if (typeof trailer === "string" || trailer.end !== end) return false;
    const footer = await this.#readFooter(trailer);
    return footer !== undefined && this.#isRight(footer, trailer);
  }

  /** The footer's metas, whose checksum is right, or why there are none. */
  async metas(trailer: SegmentTrailer): Promise<Uint8Array | string> {
    const footer = await this.#readFooter(trailer);
    if (footer === undefined) return "footer cut off";
    if (!this.#isRight(footer, trailer)) return "footer checksum is wrong";
    return footer.subarray(trailer.rowBytes, trailer.rowBytes + trailer.metaBytes);
  }

  /** Walks the batches themselves, where they are there. */
  async walk(options: WalkOptions): Promise<WalkResult> {
    assert(this.#windowBytes === WINDOW_BYTES, "a batch has room in the window of a walk");
    let at = options.from;
    for (;;) {
      if (options.endsAt(at)) return { end: at, reason: undefined };
      const headerBytes = await this.#load(at, BATCH_HEADER_BYTES);
      if (headerBytes === 0) return { end: at, reason: undefined };
      const header = parseBatchHeader(this.#memory, this.#address(at), headerBytes, this.#poolId);
      if (typeof header === "string") return { end: at, reason: header };
      // A segment has batches of one life: what an earlier one wrote where it ended may lie in blocks used again.
      const misfit =
        header.incarnation === options.incarnation
          ? continues(options.chain, header)
          : `it is of incarnation ${header.incarnation}`;
      if (misfit !== undefined) {
        // A place in a segment is written once, so a whole batch of this life that doesn't continue it is no ghost; but one
        // with an earlier LSN is: the file system gave the segment blocks of one that was dropped.
        const isLater = header.firstLsn >= options.chain.nextLsn;
        if (header.incarnation === options.incarnation && isLater)
          throw unreadable(this.number, header.firstLsn, `whole batch at ${at}: ${misfit}`);
        return { end: at, reason: misfit };
      }
      const usedBytes = BATCH_HEADER_BYTES + header.frameBytes + header.recordBytes;
      if (usedBytes > WINDOW_BYTES || (await this.#load(at, usedBytes)) < usedBytes)
        return { end: at, reason: "cut off" };
      const address = this.#address(at);
      const records = address + BATCH_HEADER_BYTES + header.frameBytes;
      if (!recordsMatch(this.#memory, address, records, header.recordBytes))
        return { end: at, reason: "records checksum is wrong" };
      this.#checkRecords(records, header);
      if (header.firstLsn + header.recordCount > options.verifyFromLsn) {
        const damaged = await this.#damagedFrames({ address, offset: at, header }, options);
        const first = damaged[0];
        if (first !== undefined) {
          const next = { ...options.chain };
          advance(next, header);
          if (!(await options.wasDurable(at + header.totalBytes, next)))
            return { end: at, reason: `frame at ${first.offset}: ${first.problem}` };
          for (const frame of damaged) options.onDamagedFrame?.(frame);
        }
      }
      options.onBatch?.(at, header);
      this.#visit(records, header, options);
      advance(options.chain, header);
      at += header.totalBytes;
      const pause = options.afterBatch?.(at, options.chain);
      if (pause !== undefined) await pause;
    }
  }

  /** Walks the metas in the footer: the same records without the payloads. Throws nothing; a sentence when the footer is bad. */
  async walkFooter(trailer: SegmentTrailer, options: WalkOptions): Promise<WalkResult | string> {
    assert(this.#windowBytes === WINDOW_BYTES, "a batch has room in the window of a walk");
    const footer = await this.#readFooter(trailer);
    if (footer === undefined) return "footer cut off";
    if (!this.#isRight(footer, trailer)) return "footer checksum is wrong";
    this.#windowEnd = this.#windowStart; // the window now holds metas
    const view = new DataView(footer.buffer);
    const end = trailer.rowBytes + trailer.metaBytes;
    let at = trailer.rowBytes;
    while (at < end) {
      const offset = view.getUint32(at, true);
      const lengthBytes = view.getUint32(at + 4, true);
      at += META_PREFIX_BYTES;
      if (lengthBytes < BATCH_HEADER_BYTES || at + lengthBytes > end || lengthBytes > WINDOW_BYTES)
        return `meta of ${lengthBytes} bytes in the footer`;
      if (offset >= options.from) {
        // A footer may repeat batches that a crash tore: then the log went on before them.
        if (options.endsAt(offset)) return { end: offset, reason: undefined };
        this.#memory.bytes.set(footer.subarray(at, at + lengthBytes), this.#window);
        const header = parseBatchHeader(this.#memory, this.#window, lengthBytes, this.#poolId);
        if (typeof header === "string") return `footer: ${header}`;
        const misfit =
          continues(options.chain, header) ??
          (header.recordBytes + BATCH_HEADER_BYTES === lengthBytes
            ? undefined
            : "meta length is wrong");
        if (misfit !== undefined) return `footer: ${misfit}`;
        if (
          !recordsMatch(
            this.#memory,
            this.#window,
            this.#window + BATCH_HEADER_BYTES,
            header.recordBytes,
          )
        )
          return "footer: records checksum is wrong";
        this.#checkRecords(this.#window + BATCH_HEADER_BYTES, header);
        options.onBatch?.(offset, header);
        this.#visit(this.#window + BATCH_HEADER_BYTES, header, options);
        advance(options.chain, header);
        const pause = options.afterBatch?.(offset + header.totalBytes, options.chain);
        if (pause !== undefined) await pause;
      }
      at += lengthBytes;
    }
    return { end: trailer.end, reason: undefined };
  }

  /**
   * Looks behind a break for batches of this pool, at every place where one could begin, and returns the
   * highest durable LSN they claim: if it is beyond the break, the break is damage and no torn tail.
   */
  async durableBehind(from: number): Promise<number> {
    let durableLsn = 0;
    if (this.isRecords) {
      // Its frames were moved behind it, and that was durable before they were given up.
      const header = await this.header();
      if (typeof header === "object") return header.firstLsn + 1;
      throw unreadable(this.number, 0, `its records: ${header}`);
    }
    for (let at = alignUp(from, 512); at < this.sizeBytes; at += 512) {
      const availableBytes = await this.#load(at, BATCH_HEADER_BYTES);
      const header = parseBatchHeader(
        this.#memory,
        this.#address(at),
        availableBytes,
        this.#poolId,
      );
      if (typeof header !== "string") durableLsn = Math.max(durableLsn, header.durableLsn);
    }
    return durableLsn;
  }

  async #readFooter(trailer: SegmentTrailer): Promise<Uint8Array | undefined> {
    const footerOffset = this.#footerOffset(trailer);
    const footer = new Uint8Array(this.sizeBytes - footerOffset);
    const readBytes = await this.#file.read(footer, footerOffset);
    return readBytes === footer.length ? footer : undefined;
  }

  #isRight(footer: Uint8Array, trailer: SegmentTrailer): boolean {
    const repeated = footer.subarray(0, footer.length - SEGMENT_TRAILER_BYTES);
    return hashOutside(this.#memory, repeated) === trailer.checksum;
  }

  /** Where the footer begins: where only records are left it follows the header. */
  #footerOffset(trailer: SegmentTrailer): number {
    return this.isRecords ? SEGMENT_HEADER_BYTES : alignUp(trailer.end, 4096);
  }

  /** Every record parses, and there are as many as the header says. Their checksum was right, so nothing is torn here. */
  #checkRecords(records: number, header: BatchHeader): void {
    const end = records + header.recordBytes;
    let at = records;
    for (let index = 0; index < header.recordCount; index++) {
      const lengthBytes = parseRecord(this.#memory.view, at, end, this.#cursor);
      if (typeof lengthBytes === "string")
        throw unreadable(this.number, header.firstLsn + index, lengthBytes);
      at += lengthBytes;
    }
    if (at !== end) throw unreadable(this.number, header.firstLsn, "records don't fill their part");
  }

  /** Verifies the frames that the batch's own records name in this batch; mostly there is nothing to tell. */
  async #damagedFrames(
    batch: BatchInWindow,
    { pauseInBatch }: WalkOptions,
  ): Promise<readonly DamagedFrame[]> {
    const { firstLsn, recordCount, recordBytes } = batch.header;
    const damaged: DamagedFrame[] = [];
    const cursor = this.#cursor;
    let at = batch.address + framesEndOf(batch);
    for (let index = 0; index < recordCount; index++) {
      at += parseRecord(this.#memory.view, at, at + recordBytes, cursor) as number;
      cursor.lsn = firstLsn + index;
      if (cursor.kind === RECORD_KIND.WROTE) this.#judgeWritten(batch, damaged);
      else if (cursor.kind === RECORD_KIND.RELOCATED) this.#judgeMoved(batch, damaged);
      const pause = pauseInBatch?.();
      if (pause !== undefined) await pause;
    }
    return damaged;
  }

  #judgeWritten(batch: BatchInWindow, damaged: DamagedFrame[]): void {
    const { view, kernel } = this.#memory;
    for (let block = 0; block < this.#cursor.blockCount; block++) {
      const segment = view.getUint32(this.#cursor.referencesOffset + block * 8, true);
      const low = view.getUint32(this.#cursor.referencesOffset + block * 8 + 4, true);
      if (stateOf(low) !== REFERENCE_STATE.FRAME || segment !== this.number) continue;
      const offset8 = offset8Of(low);
      const inBatch = placeIn(batch, offset8);
      if (inBatch < 0) continue;
      const availableBytes = framesEndOf(batch) - inBatch;
      const frame = batch.address + inBatch;
      const result = kernel.openFrame(frame, availableBytes, segment, offset8, 0);
      if (result === 0) continue;
      damaged.push({
        segmentNumber: segment,
        offset: offset8 * 8,
        problem: FRAME_OPEN_RESULT[result] as string,
        lsn: this.#cursor.lsn,
        branch: this.#cursor.branch,
        lba: this.#cursor.lba + block,
      });
    }
  }

  #judgeMoved(batch: BatchInWindow, damaged: DamagedFrame[]): void {
    const { placeSegment, placeOffset8: offset8, slotCount } = this.#cursor;
    const inBatch = placeSegment === this.number ? placeIn(batch, offset8) : -1;
    if (inBatch < 0) return;
    const availableBytes = framesEndOf(batch) - inBatch;
    const frame = batch.address + inBatch;
    const problem = movedFrameProblem(this.#memory, this.#cursor, frame, availableBytes);
    if (problem === undefined) return;
    damaged.push({
      segmentNumber: this.number,
      offset: offset8 * 8,
      problem,
      lsn: this.#cursor.lsn,
      homes: Array.from({ length: slotCount }, (_, slot) =>
        homeOf(this.#memory, this.#cursor, slot),
      ),
    });
  }

  #visit(records: number, header: BatchHeader, options: WalkOptions): void {
    let at = records;
    for (let index = 0; index < header.recordCount; index++) {
      const lengthBytes = parseRecord(
        this.#memory.view,
        at,
        records + header.recordBytes,
        this.#cursor,
      ) as number;
      this.#cursor.lsn = header.firstLsn + index;
      this.#cursor.timeMicros = header.recordedMicros + this.#memory.view.getUint32(at + 4, true);
      options.onRecord(this.#cursor);
      at += lengthBytes;
    }
    // Records may be later than their batch began.
    const { chain } = options;
    if (header.recordCount > 0)
      chain.recordedMicros = Math.max(chain.recordedMicros, this.#cursor.timeMicros);
  }

  /** Makes [offset, offset + lengthBytes) available in the window, and some more; returns how much of it there is. */
  async #load(offset: number, lengthBytes: number, readAhead = this.#windowBytes): Promise<number> {
    if (offset >= this.#windowStart && offset + lengthBytes <= this.#windowEnd) return lengthBytes;
    const target = this.#memory.bytes.subarray(
      this.#window,
      this.#window + Math.min(readAhead, Math.max(0, this.sizeBytes - offset)),
    );
    const readBytes = target.length === 0 ? 0 : await this.#file.read(target, offset);
    this.#windowStart = offset;
    this.#windowEnd = offset + readBytes;
    return Math.min(lengthBytes, readBytes);
  }

  #address(offset: number): number {
    return this.#window + (offset - this.#windowStart);
  }
}

/** A batch in the window, and where it begins in the segment. */
interface BatchInWindow {
  readonly address: number;
  readonly offset: number;
  readonly header: BatchHeader;
}

function framesEndOf({ header }: BatchInWindow): number {
  return BATCH_HEADER_BYTES + header.frameBytes;
}

/** Where in the batch the frame is; negative: it isn't in there. */
function placeIn(batch: BatchInWindow, offset8: number): number {
  const inBatch = offset8 * 8 - batch.offset;
  return inBatch < BATCH_HEADER_BYTES || inBatch >= framesEndOf(batch) ? -1 : inBatch;
}

function unreadable(segmentNumber: number, lsn: number, what: string): StorageError {
  const code = what.includes("must be understood") ? "FORMAT_UNSUPPORTED" : "LOG_CORRUPT";
  const place = lsn > 0 ? `, LSN ${lsn}` : "";
  return new StorageError(code, `log: segment ${segmentName(segmentNumber)}${place}: ${what}`, {
    data: { segment: segmentNumber, lsn, problem: what },
  });
}

function continues(
  chain: Pick<ChainState, "chain" | "nextLsn">,
  header: BatchHeader,
): string | undefined {
  if (header.previousChecksum !== chain.chain) return "it doesn't continue the chain";
  if (header.firstLsn !== chain.nextLsn)
    return `it begins at LSN ${header.firstLsn}, expected ${chain.nextLsn}`;
  return undefined;
}

function advance(chain: ChainState, header: BatchHeader): void {
  chain.nextLsn = header.firstLsn + header.recordCount;
  chain.chain = header.checksum;
  chain.durableLsn = Math.max(chain.durableLsn, header.durableLsn);
  chain.recordedMicros = Math.max(chain.recordedMicros, header.recordedMicros);
}

/** The segment, or else the file with its records. */
async function openSegment(
  directory: Directory,
  number: number,
): Promise<{ file: DiskFile; isRecords: boolean }> {
  try {
    return { file: await directory.open(segmentName(number), "read"), isRecords: false };
  } catch (error) {
    if (!isMissing(error)) throw error;
    const file = await directory.open(recordsName(number), "read").catch((second: unknown) => {
      throw isMissing(second) ? error : second;
    });
    return { file, isRecords: true };
  }
}

/** Whether neither the segment nor its records are there. */
export function isMissing(error: unknown): boolean {
  return hasCode(error, "DISK_IO") && error.data.errno === "ENOENT";
}

function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
