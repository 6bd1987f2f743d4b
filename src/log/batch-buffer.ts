// SPDX-License-Identifier: Apache-2.0
//
// The memory of one batch, used in turn: frames grow from the front, records gather at the back and are laid
// behind the frames when the batch closes. Once written, a buffer keeps its content for readers until it is
// taken again.
//
//   | header | frames → …                          … | records → … |
//   0        128                          2 MiB - 128 KiB

import { BATCH_BUFFER_BYTES, type BlockMemory, RAW_FRAME_BYTES } from "../reduce/block-memory.ts";
import {
  BATCH_ALIGN_BYTES,
  BATCH_HEADER_BYTES,
  type BatchHeader,
  FLUSH_ALIGN_BYTES,
  sealBatch,
} from "./batch.ts";
import type { OpenSegment } from "./open-segment.ts";
import { RECORD_BYTES_MAX } from "./record.ts";

const RECORD_AREA_BYTES: number = 128 << 10;
const FRAME_AREA_BYTES: number =
  BATCH_BUFFER_BYTES - RECORD_AREA_BYTES - BATCH_HEADER_BYTES - FLUSH_ALIGN_BYTES;

/** Whoever waits for a batch: a request, or a promise's adapter. 0 or an NBD error number. */
export interface Waiter {
  complete(errno: number): void;
}

export class BatchBuffer {
  readonly address: number;
  readonly #recordArea: number;
  readonly #memory: BlockMemory;
  segment: OpenSegment | undefined;
  /** Where in the segment the batch begins, and where what it holds so far ends. */
  startOffset = 0;
  endOffset = 0;
  frameBytes = 0;
  recordBytes = 0;
  recordCount = 0;
  firstLsn = 0;
  /** Counts the batches of this opening, also those without records. */
  sequence = 0;
  isFree = true;
  /** On its way to disk, or there and waiting for an earlier one. */
  isStarted = false;
  isWritten = false;
  /** Somebody waits for it to be durable: it will end with its page. */
  isSyncWanted = false;
  flags = 0;
  /** Told when the batch is written. */
  readonly written: Waiter[] = [];

  constructor(memory: BlockMemory, address: number) {
    this.#memory = memory;
    this.address = address;
    this.#recordArea = address + BATCH_BUFFER_BYTES - RECORD_AREA_BYTES;
  }

  begin(segment: OpenSegment, firstLsn: number, sequence: number): void {
    this.sequence = sequence;
    this.segment = segment;
    this.startOffset = segment.end;
    this.endOffset = segment.end;
    this.frameBytes = 0;
    this.recordBytes = 0;
    this.recordCount = 0;
    this.firstLsn = firstLsn;
    this.isFree = false;
    this.isStarted = false;
    this.isWritten = false;
    this.isSyncWanted = false;
    this.flags = 0;
  }

  hasRoom(blockCount: number): boolean {
    return (
      this.frameBytes + blockCount * RAW_FRAME_BYTES <= FRAME_AREA_BYTES &&
      this.recordBytes + RECORD_BYTES_MAX <= RECORD_AREA_BYTES
    );
  }

  /** Where the next record goes until the batch closes. */
  get recordAddress(): number {
    return this.#recordArea + this.recordBytes;
  }

  /** Where the next frame goes: in memory, and in the segment. */
  get frameAddress(): number {
    return this.address + BATCH_HEADER_BYTES + this.frameBytes;
  }
  get frameOffset(): number {
    return this.startOffset + BATCH_HEADER_BYTES + this.frameBytes;
  }

  /** A record of so many bytes, and frames, have been put at those places. */
  appended(recordBytes: number, frameBytes: number): void {
    this.frameBytes += frameBytes;
    this.recordBytes += recordBytes;
    this.recordCount += 1;
    this.endOffset = this.frameOffset;
  }

  /** Completes the batch: records behind frames, padding, header. Returns its checksum. */
  seal(
    poolId: Uint8Array,
    header: Omit<
      BatchHeader,
      | "firstLsn"
      | "recordCount"
      | "frameBytes"
      | "recordBytes"
      | "totalBytes"
      | "flags"
      | "checksum"
    >,
    endsWithPage: boolean,
  ): bigint {
    const { bytes, zerosAddress } = this.#memory;
    const usedBytes = BATCH_HEADER_BYTES + this.frameBytes + this.recordBytes;
    const unit = endsWithPage ? FLUSH_ALIGN_BYTES : BATCH_ALIGN_BYTES;
    this.endOffset = Math.ceil((this.startOffset + usedBytes) / unit) * unit;
    const totalBytes = this.endOffset - this.startOffset;
    bytes.copyWithin(this.frameAddress, this.#recordArea, this.#recordArea + this.recordBytes);
    // Copied zeros: filling shared memory is slow.
    bytes.copyWithin(this.address + usedBytes, zerosAddress, zerosAddress + totalBytes - usedBytes);
    const { firstLsn, recordCount, frameBytes, recordBytes, flags } = this;
    const counts = { firstLsn, recordCount, frameBytes, recordBytes, totalBytes, flags };
    return sealBatch(this.#memory, this.address, poolId, { ...header, ...counts, checksum: 0n });
  }
}
