// SPDX-License-Identifier: Apache-2.0
//
// A segment that is being written, or sealed and not yet wholly durable: its file, how far it is filled, and what
// its footer will repeat. The header page waits here until the first batch is written, so that a full disk stops
// neither the roll-over nor the log.

import { assert } from "../base/assert.ts";
import type { DiskFile } from "../host/ports.ts";
import { type BlockMemory, FRAME_ROW_BYTES, SEGMENT_FRAMES_MAX } from "../reduce/block-memory.ts";
import { BATCH_HEADER_BYTES, FLUSH_ALIGN_BYTES } from "./batch.ts";
import { hashOutside } from "./outside-hash.ts";
import {
  META_PREFIX_BYTES,
  putSegmentHeader,
  putSegmentTrailer,
  SEGMENT_HEADER_BYTES,
  SEGMENT_TRAILER_BYTES,
  type SegmentHeader,
} from "./segment.ts";

/** Metas of one segment beyond this seal it, so that a footer stays small. */
const SEGMENT_META_BYTES_MAX: number = 4 << 20;
const META_BYTES_FIRST: number = 1 << 16;

export class OpenSegment {
  readonly number: number;
  readonly file: DiskFile;
  readonly firstLsn: number;
  /** Where the kernel writes a row for each frame. */
  readonly tableAddress: number;
  readonly #memory: BlockMemory;
  /** Until it is written. */
  #headerPage: Uint8Array | undefined;
  /** Batch metas for the footer, copied as batches close; kept until they can be read from the file. */
  #meta: Uint8Array = new Uint8Array(META_BYTES_FIRST);
  #hasFooter = false;
  #metaBytes = 0;
  #batchCount = 0;
  /** Where the next batch begins. */
  end: number = SEGMENT_HEADER_BYTES;
  frameCount = 0;
  /** Written since the last datasync began. */
  isDirty = true;
  /** No batch will be added; the footer is written or on its way. */
  isSealed = false;
  /** The footer is written, or given up. */
  isFooterDone = false;
  /** Batches that are closed and not yet written. */
  pendingBatchCount = 0;

  constructor(
    memory: BlockMemory,
    file: DiskFile,
    options: { header: SegmentHeader; poolId: Uint8Array; tableAddress: number },
  ) {
    this.#memory = memory;
    this.file = file;
    this.number = options.header.number;
    this.firstLsn = options.header.firstLsn;
    this.tableAddress = options.tableAddress;
    const page = memory.scratchAddress + 8192;
    putSegmentHeader(memory, page, options.poolId, options.header);
    this.#headerPage = memory.bytes.slice(page, page + SEGMENT_HEADER_BYTES);
  }

  /** Writes the header unless that was done. Throws DISK_FULL (try again later), DISK_IO. */
  writeHeader(): void {
    if (this.#headerPage === undefined) return;
    this.file.writeSync(this.#headerPage, 0);
    this.#headerPage = undefined;
  }

  /** Nothing more will be written to it. */
  get isAtRest(): boolean {
    return this.isSealed && this.isFooterDone && this.pendingBatchCount === 0;
  }

  isFull(segmentBytes: number): boolean {
    return (
      this.end >= segmentBytes ||
      this.frameCount >= SEGMENT_FRAMES_MAX ||
      this.#metaBytes >= SEGMENT_META_BYTES_MAX
    );
  }

  /** The batch at `address` (header, and records at `recordsAddress`) is sealed: keeps its meta. */
  keepMeta(batch: {
    address: number;
    recordsAddress: number;
    recordBytes: number;
    startOffset: number;
  }): void {
    const lengthBytes = BATCH_HEADER_BYTES + batch.recordBytes;
    const at = this.#metaBytes;
    this.#reserve(at + META_PREFIX_BYTES + lengthBytes);
    const view = new DataView(this.#meta.buffer);
    view.setUint32(at, batch.startOffset, true);
    view.setUint32(at + 4, lengthBytes, true);
    const target = at + META_PREFIX_BYTES;
    const { bytes } = this.#memory;
    this.#meta.set(bytes.subarray(batch.address, batch.address + BATCH_HEADER_BYTES), target);
    const records = bytes.subarray(batch.recordsAddress, batch.recordsAddress + batch.recordBytes);
    this.#meta.set(records, target + BATCH_HEADER_BYTES);
    this.#metaBytes = target + lengthBytes;
    this.#batchCount += 1;
  }

  /** Where the footer goes: behind the page that the last batch ends in. */
  get footerOffset(): number {
    return Math.ceil(this.end / FLUSH_ALIGN_BYTES) * FLUSH_ALIGN_BYTES;
  }

  buildFooter(): Uint8Array {
    const memory = this.#memory;
    const rowBytes = this.frameCount * FRAME_ROW_BYTES;
    const usedBytes = rowBytes + this.#metaBytes + SEGMENT_TRAILER_BYTES;
    const footer = new Uint8Array(Math.ceil(usedBytes / FLUSH_ALIGN_BYTES) * FLUSH_ALIGN_BYTES);
    footer.set(memory.bytes.subarray(this.tableAddress, this.tableAddress + rowBytes));
    footer.set(this.#meta.subarray(0, this.#metaBytes), rowBytes);
    const trailerAt = footer.length - SEGMENT_TRAILER_BYTES;
    const trailer = memory.scratchAddress + 8192;
    putSegmentTrailer(memory, trailer, {
      number: this.number,
      end: this.end,
      frameCount: this.frameCount,
      batchCount: this.#batchCount,
      rowBytes,
      metaBytes: this.#metaBytes,
      checksum: hashOutside(memory, footer.subarray(0, trailerAt)),
    });
    footer.set(memory.bytes.subarray(trailer, trailer + SEGMENT_TRAILER_BYTES), trailerAt);
    return footer;
  }

  /** The footer is in the file. */
  footerWritten(): void {
    assert(this.isSealed, "a footer follows the last batch");
    this.isFooterDone = true;
    this.#hasFooter = true;
    this.#forgetMetas();
  }

  /** One of the batches that were closed is. */
  batchWritten(): void {
    this.pendingBatchCount -= 1;
    this.#forgetMetas();
  }

  /** The file doesn't say all of what is in here yet. */
  get hasMetas(): boolean {
    return !this.#hasFooter || this.pendingBatchCount > 0;
  }

  /** Offset, header and records of each batch that is closed, as in the footer; valid in this turn. */
  get metas(): Uint8Array {
    return this.#meta.subarray(0, this.#metaBytes);
  }

  #forgetMetas(): void {
    if (this.hasMetas) return;
    this.#meta = new Uint8Array(0);
    this.#metaBytes = 0;
  }

  #reserve(lengthBytes: number): void {
    if (lengthBytes <= this.#meta.length) return;
    const larger = new Uint8Array(Math.max(lengthBytes, this.#meta.length * 2));
    larger.set(this.#meta.subarray(0, this.#metaBytes));
    this.#meta = larger;
  }
}
