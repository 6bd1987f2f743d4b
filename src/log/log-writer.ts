// SPDX-License-Identifier: Apache-2.0
//
// The head of the log. Requests are ordered here: whatever is appended gets the next LSN, its blocks are
// packed as frames into the open batch, and the batch goes to disk as one write. One datasync serves every
// flush that waits when it starts, and the next batch fills meanwhile.
//
//     append → open batch → closed batches (queue) → written → durable
//              ^ one        ^ at most batchBufferCount, counted as written in order
//
// A small batch is written synchronously: the kernel takes it into its cache in microseconds, while a trip
// through the thread pool costs thirty. When a synchronous write was slow (the kernel is throttling us), or
// a batch is large, writes go through the thread pool for a while, so that reads don't wait for the disk; a few
// at once where each begins a page, and then around the system's cache: copying a megabyte into fresh pages takes
// longer than the disk does (docs/decisions/0005).
//
// Failure: no space is waited out (the batch stays, in order; see `onSpaceMissing`), but not for ever by one who
// closes: what still finds no room then is given up, from the first such batch on. None of it was acknowledged as
// written, so what is left is the prefix that was promised. Any other failure of a write, a datasync or a directory
// sync stops the writer for good: all waiters get EIO, and nothing is written behind a hole. Recovery decides what
// survived. (docs/format/ordering.md)

import { assert } from "../base/assert.ts";
import { hasCode, NBD_ERROR, StorageError } from "../base/errors.ts";
import type { Clock, Directory, DiskFile } from "../host/ports.ts";
import {
  BATCH_BUFFER_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  FRAME_ROW_BYTES,
} from "../reduce/block-memory.ts";
import { BATCH_FLAG, FLUSH_ALIGN_BYTES } from "./batch.ts";
import { BatchBuffer, type Waiter } from "./batch-buffer.ts";
import { OpenSegment } from "./open-segment.ts";
import {
  FLUSHED_RECORD_BYTES,
  putRecordHeader,
  putRelocated,
  putU64,
  RANGE_RECORD_BYTES,
  RECORD_KIND,
  WROTE_HEADER_BYTES,
} from "./record.ts";
import { RecordedTime } from "./recorded-time.ts";
import type { ReplayStart } from "./replay-start.ts";
import { SEGMENT_HEADER_BYTES, segmentName } from "./segment.ts";
import type { RecentSegment } from "./segment-times.ts";
import { SyncQueue } from "./sync-queue.ts";

export interface LogPosition {
  readonly segmentNumber: number;
  /** Where the last batch ended in the previous segment, and its checksum. */
  readonly previousNumber: number;
  readonly previousEnd: number;
  readonly chain: bigint;
  readonly nextLsn: number;
  readonly incarnation: number;
  readonly recordedMicros: number;
}

export interface LogWriterOptions {
  readonly memory: BlockMemory;
  readonly directory: Directory;
  readonly clock: Clock;
  readonly poolId: Uint8Array;
  readonly segmentBytes: number;
  /** Batches up to this are written synchronously while the disk is quick. */
  readonly syncWriteBytes: number;
  readonly position: LogPosition;
  /** Called when there is room again after `hasRoom` said no. */
  readonly onRoom: () => void;
  /** Called after each batch was written: acknowledgements went out just before. */
  readonly onWritten: () => void;
  /** The file system is full. May free a reserve; the write is tried again after `SPACE_RETRY_MS`. */
  readonly onSpaceMissing: () => void;
  readonly onStopped: (cause: StorageError) => void;
  /** A flushed record was appended. */
  readonly onFlushed: (branch: number, lsn: number, timeMicros: number) => void;
  /** Called in the turn in which a segment gets its last batch; its footer follows, unless the disk is full. */
  readonly onSegmentSealed: (segment: SealedSegment) => void;
}

export interface BlockExtent {
  readonly branch: number;
  readonly lba: number;
  readonly blockCount: number;
}

/** What is known of blocks that are to be packed, and how: see the kernel's `packBlocks`. */
export interface Packing {
  readonly hashesAddress: number;
  readonly referencesAddress: number;
  readonly resultAddress: number;
  /** Blocks that are equal among themselves share a frame. */
  readonly isShared: boolean;
  readonly compressEvery: number;
  /** Of blocks that were prepared; else 0. */
  readonly preparedSizes: number;
  readonly preparedContent: number;
}

/** A frame on its way to a new place. */
export interface MovedFrame {
  /** Behind its header. */
  readonly storedBytes: number;
  readonly slotCount: number;
  readonly isShared: boolean;
  /** For each slot, as in the record: hash of the block, home segment, home offset / 8. */
  readonly slotsAddress: number;
}

export interface SealedSegment {
  readonly number: number;
  readonly sizeBytes: number;
  readonly firstLsn: number;
}

/** A synchronous write that took longer means that the kernel throttles us. */
const SLOW_WRITE_MICROS = 4000;
const SLOW_BATCH_COUNT = 64;
/** From this size on a write around the system's cache is quicker than one into it. */
const DIRECT_BYTES_MIN = 256 << 10;
const WRITES_AT_ONCE = 3;
const MARKER_DELAY_MS = 50;
const SPACE_RETRY_MS = 200;
/** How long one who closes waits: the reserve was given up at the first try, and its room may take a moment to come. */
const CLOSING_SPACE_MICROS = 3_000_000;
const ACK_NONE = 0;

export class LogWriter {
  readonly #options: LogWriterOptions;
  readonly #memory: BlockMemory;
  readonly #time: RecordedTime;
  readonly #buffers: BatchBuffer[] = [];
  readonly #queue: BatchBuffer[] = [];
  #open: BatchBuffer | undefined;
  #segment: OpenSegment | undefined;
  /** The file of the next segment, made ahead so that a roll-over doesn't wait. */
  #next: { number: number; file: DiskFile } | undefined;
  #isPreparing = false;
  readonly #sync: SyncQueue;
  /** Writes under way; more than one only where each begins a page. */
  #writeCount = 0;
  #footerCount = 0;
  #isWaitingForSpace = false;
  /** From when on what finds no space is given up: never, until the log is about to be closed. */
  #giveUpMicros = Number.POSITIVE_INFINITY;
  #isGivenUp = false;
  /** Why less is durable at the end than was appended, when something was given up. */
  #lossCause: StorageError | undefined;
  #isCloseScheduled = false;
  /** Batches to come that avoid synchronous writes, because the last one was slow. */
  #slowBatches = 0;
  #stopCause: StorageError | undefined;
  #isRoomWanted = false;
  /** This segment ends although it has room. */
  #sealWanted = 0;
  #isMarkerScheduled = false;
  #isMarked = true;
  #isClosed = false;

  /** The LSN of the next record. */
  #nextLsn: number;
  /** All records below are written. durable <= settled <= written <= next (I1). */
  #writtenLsn: number;
  #chain: bigint;
  #batchSequence = 0;
  #previousNumber: number;
  #previousEnd: number;
  #tableTurn = 0;
  /** Of the last append of blocks: where its references are, and what was made of them. */
  referencesAddress = 0;
  readonly packed: {
    segment: number;
    rowsAddress: number;
    frameBytes: number;
    /** Where the frames end, offset / 8. */
    framesEnd8: number;
  } = { segment: 0, rowsAddress: 0, frameBytes: 0, framesEnd8: 0 };
  /** Of the last record of a change, or of JSON: its time. */
  appendedMicros = 0;

  batchCount = 0;
  batchBytes = 0;
  frameBytes = 0;
  /** Bytes of frames that garbage collection moved. */
  movedBytes = 0;
  /** Records of clients' changes. */
  changeCount = 0;
  markerCount = 0;
  /** Branches that changed since their last flushed record; and the one that changed last, if it is one of them. */
  readonly #changedBranches: Set<number> = new Set();
  #lastChanged = -1;

  private constructor(options: LogWriterOptions) {
    this.#options = options;
    this.#memory = options.memory;
    this.#time = new RecordedTime(options.clock, options.position.recordedMicros);
    this.#nextLsn = options.position.nextLsn;
    this.#writtenLsn = this.#nextLsn;
    this.#sync = new SyncQueue({
      directory: options.directory,
      durableLsn: this.#nextLsn,
      onQuiet: () => this.#scheduleMarker(),
      onFailed: (error) => this.#stop(error),
    });
    this.#chain = options.position.chain;
    this.#previousNumber = options.position.previousNumber;
    this.#previousEnd = options.position.previousEnd;
    for (let index = 0; index < options.memory.shape.batchBufferCount; index++) {
      this.#buffers.push(
        new BatchBuffer(options.memory, options.memory.batchesAddress + index * BATCH_BUFFER_BYTES),
      );
    }
  }

  /**
   * Begins a new segment at `position`; everything before it is durable already. The header is durable on return. Throws
   * DISK_FULL (no segment is left behind), DISK_IO.
   */
  static async open(options: LogWriterOptions): Promise<LogWriter> {
    const writer = new LogWriter(options);
    const file = await options.directory.open(
      segmentName(options.position.segmentNumber),
      "create",
    );
    try {
      writer.#begin(options.position.segmentNumber, file).writeHeader();
      await file.datasync();
    } catch (error) {
      await file.close();
      if (hasCode(error, "DISK_FULL"))
        await options.directory.remove(segmentName(options.position.segmentNumber));
      throw error;
    }
    await options.directory.sync();
    writer.#prepareNext();
    return writer;
  }

  get nextLsn(): number {
    return this.#nextLsn;
  }
  get writtenLsn(): number {
    return this.#writtenLsn;
  }
  get durableLsn(): number {
    return this.#sync.durableLsn;
  }
  get datasyncCount(): number {
    return this.#sync.datasyncCount;
  }
  get stopCause(): StorageError | undefined {
    return this.#stopCause;
  }
  get incarnation(): number {
    return this.#options.position.incarnation;
  }
  get recordedMicros(): number {
    return this.#time.recordedMicros;
  }
  /** Recorded time of the last record. */
  get newestMicros(): number {
    return this.#time.newestMicros;
  }
  /** Both clocks, as they were when the last batch was begun. */
  get timePoint(): Pick<RecordedTime, "monotoneMicros" | "recordedMicros"> {
    const { monotoneMicros, recordedMicros } = this.#time;
    return { monotoneMicros, recordedMicros };
  }
  /** µs that the wall clock jumped since the last call. */
  takeClockStep(): number {
    return this.#time.takeStepMicros();
  }

  /** Whether a record with so many blocks can be appended now. If not, `onRoom` will be called. */
  hasRoom(blockCount: number): boolean {
    if (this.#stopCause !== undefined || this.#isClosed) return false;
    const open = this.#open;
    if (open !== undefined) {
      if (open.hasRoom(blockCount)) return true;
      this.closeBatch();
    }
    if (this.#freeBuffer() !== undefined && this.#isSegmentReady()) return true;
    this.#isRoomWanted = true;
    return false;
  }

  /**
   * Appends a wrote record for the blocks at `source`, of which those that have no reference yet become frames. Only after
   * `hasRoom`. Leaves the references of the blocks at `referencesAddress` (valid until the batch closes), and where the
   * frames are described in `packed`. Returns the record's LSN.
   */
  appendWrote(extent: BlockExtent, source: number, packing: Packing): number {
    const { branch, lba, blockCount } = extent;
    const batch = this.#opened();
    const { view, kernel, words } = this.#memory;
    const segment = batch.segment as OpenSegment;
    const record = batch.recordAddress;
    const recordBytes = WROTE_HEADER_BYTES + 8 * blockCount;
    putRecordHeader(view, record, RECORD_KIND.WROTE, recordBytes, this.#offsetMicros());
    view.setUint32(record + 8, branch, true);
    view.setUint32(record + 12, blockCount, true);
    putU64(view, record + 16, lba);
    const rowsAddress = segment.tableAddress + segment.frameCount * FRAME_ROW_BYTES;
    const frameBytes = kernel.packBlocks(
      source,
      blockCount,
      batch.frameAddress,
      segment.number,
      batch.frameOffset / 8,
      packing.hashesAddress,
      packing.referencesAddress,
      rowsAddress,
      packing.isShared ? 1 : 0,
      packing.compressEvery,
      packing.preparedSizes,
      packing.preparedContent,
      packing.resultAddress,
    );
    const references = record + WROTE_HEADER_BYTES;
    const { referencesAddress } = packing;
    this.#memory.bytes.copyWithin(
      references,
      referencesAddress,
      referencesAddress + 8 * blockCount,
    );
    segment.frameCount += words[packing.resultAddress >>> 2] as number;
    this.frameBytes += frameBytes;
    this.#changed(branch);
    this.referencesAddress = references;
    this.packed.segment = segment.number;
    this.packed.rowsAddress = rowsAddress;
    this.packed.frameBytes = frameBytes;
    const lsn = this.#appended(batch, recordBytes, frameBytes);
    this.packed.framesEnd8 = batch.frameOffset / 8;
    return lsn;
  }

  /**
   * Appends a frame that was stored elsewhere, which `put` writes to the address that it is given, and the record that says
   * so. Only after `hasRoom` for as many blocks as its bytes take. Returns where the record is, until the batch closes.
   */
  appendRelocated(
    frame: MovedFrame,
    put: (address: number, place: { segment: number; offset8: number }) => void,
  ): { address: number; lengthBytes: number } {
    const batch = this.#opened();
    const { view, bytes } = this.#memory;
    const segment = batch.segment as OpenSegment;
    const place = { segment: segment.number, offset8: batch.frameOffset / 8 };
    put(batch.frameAddress, place);
    const { storedBytes } = frame;
    const frameBytes = FRAME_HEADER_BYTES + Math.ceil(storedBytes / 8) * 8;
    const row = segment.tableAddress + segment.frameCount * FRAME_ROW_BYTES;
    view.setUint32(row, place.offset8, true);
    view.setUint32(row + 4, storedBytes, true);
    bytes.copyWithin(row + 8, batch.frameAddress, batch.frameAddress + 8);
    segment.frameCount += 1;
    const record = batch.recordAddress;
    const lengthBytes = putRelocated(view, record, {
      timeOffsetMicros: this.#time.offsetMicros(),
      placeSegment: place.segment,
      placeOffset8: place.offset8,
      storedBytes,
      slotCount: frame.slotCount,
      isShared: frame.isShared,
      slotsOffset: frame.slotsAddress,
    });
    this.movedBytes += frameBytes;
    this.#appended(batch, lengthBytes, frameBytes);
    return { address: record, lengthBytes };
  }

  /** Appends a zeroed or trimmed record. Only after `hasRoom(0)`. */
  appendRange(
    kind: number,
    branch: number,
    range: { lba: number; blockCount: number; options: number },
  ): number {
    assert(
      kind === RECORD_KIND.ZEROED || kind === RECORD_KIND.TRIMMED,
      "a range record zeroes or trims",
    );
    const batch = this.#opened();
    const view = this.#memory.view;
    const record = batch.recordAddress;
    putRecordHeader(view, record, kind, RANGE_RECORD_BYTES, this.#offsetMicros());
    view.setUint32(record + 8, branch, true);
    view.setUint32(record + 12, range.options, true);
    putU64(view, record + 16, range.lba);
    putU64(view, record + 24, range.blockCount);
    this.#changed(branch);
    return this.#appended(batch, RANGE_RECORD_BYTES, 0);
  }

  /** Appends a record made by `encodeJsonRecord`. Only after `hasRoom(0)`. */
  appendEncoded(record: Uint8Array): number {
    const batch = this.#opened();
    const at = batch.recordAddress;
    const offsetMicros = this.#offsetMicros();
    this.#memory.bytes.set(record, at);
    this.#memory.view.setUint32(at + 4, offsetMicros, true);
    return this.#appended(batch, record.length, 0);
  }

  /** `waiter` is told when everything appended so far is written. */
  whenWritten(waiter: Waiter): void {
    if (this.#stopCause !== undefined) waiter.complete(NBD_ERROR.EIO);
    else if (this.#open !== undefined) this.#open.written.push(waiter);
    else if (this.#queue.length > 0)
      (this.#queue[this.#queue.length - 1] as BatchBuffer).written.push(waiter);
    else waiter.complete(ACK_NONE);
  }

  /**
   * `waiter` is told when everything appended so far is on stable storage. `branch` >= 0 leaves a flushed record there, unless
   * nothing has changed since its last one. Only after `hasRoom(0)`.
   */
  whenDurable(waiter: Waiter, branch: number): void {
    if (this.#stopCause !== undefined) {
      waiter.complete(NBD_ERROR.EIO);
      return;
    }
    if (this.durableLsn === this.#nextLsn) {
      // Somebody else's flush, or a write that was forced, made it so: this one is a moment all the same.
      if (this.#changedBranches.has(branch) && this.hasRoom(0)) this.#appendFlushed(branch);
      waiter.complete(ACK_NONE);
      return;
    }
    if (this.#changedBranches.has(branch)) this.#appendFlushed(branch);
    this.#wait(waiter);
  }

  /** Promise: every batch closed so far is durable, and the open one, also those without records. */
  durableBatches(): Promise<void> {
    return this.withRoom(() => this.#promised((waiter) => this.#wait(waiter)));
  }

  /** The segments below are on stable storage with their footers. Rejects when the log stops. */
  async wholeSegments(below: number): Promise<void> {
    await this.#sync.whole(below);
    if (this.#stopCause !== undefined) throw this.#stopped();
  }

  /** Promise form of `whenDurable`, for the control plane. Rejects when the log stops. */
  durable(): Promise<void> {
    return this.withRoom(() => this.#promised((waiter) => this.whenDurable(waiter, -1)));
  }

  /** Calls `append` in a turn in which `hasRoom(0)`. Rejects when the log stops. */
  async withRoom<T>(append: () => T): Promise<Awaited<T>> {
    while (!this.hasRoom(0)) {
      if (this.#stopCause !== undefined || this.#isClosed) throw this.#stopped();
      await new Promise<void>((resolve) => this.#options.clock.after(1, resolve));
    }
    return await append();
  }

  /** Ends the open batch and sends it on its way. */
  closeBatch(): void {
    const batch = this.#open;
    if (batch === undefined) return;
    this.#open = undefined;
    this.#seal(batch);
    this.#queue.push(batch);
    this.#writeQueue();
  }

  /**
   * Where the bytes of the log at (segment, offset) still are in memory: in the open batch or in one written
   * not long ago. 0 when they aren't.
   */
  recentAddress(segmentNumber: number, offset: number): number {
    for (const buffer of this.#buffers) {
      if (
        buffer.segment?.number === segmentNumber &&
        offset >= buffer.startOffset &&
        offset < buffer.endOffset
      ) {
        return buffer.address + (offset - buffer.startOffset);
      }
    }
    return 0;
  }

  /** Bytes that a frame takes in the segment being written; 0: there is no such frame. */
  openFrameBytes(offset8: number): number {
    const { tableAddress, frameCount } = this.#segment as OpenSegment;
    const { view } = this.#memory;
    let low = 0;
    let high = frameCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (view.getUint32(tableAddress + middle * FRAME_ROW_BYTES, true) < offset8) low = middle + 1;
      else high = middle;
    }
    const row = tableAddress + low * FRAME_ROW_BYTES;
    if (low === frameCount || view.getUint32(row, true) !== offset8) return 0;
    return FRAME_HEADER_BYTES + Math.ceil(view.getUint32(row + 4, true) / 8) * 8;
  }

  /** Rows of the frames in the segment that is being written, as in a footer; undefined: it's another one. Valid in this turn. */
  rowsOf(segmentNumber: number): { readonly address: number; readonly count: number } | undefined {
    const { number, tableAddress, frameCount } = this.#segment as OpenSegment;
    return number === segmentNumber ? { address: tableAddress, count: frameCount } : undefined;
  }

  /** The log will be closed soon: from now on a full disk is waited out only for a while. */
  beginClose(): void {
    const endMicros = this.#options.clock.monotoneMicros() + CLOSING_SPACE_MICROS;
    this.#giveUpMicros = Math.min(this.#giveUpMicros, endMicros);
  }

  /**
   * Everything durable, the log marked, files closed. The writer can't be used afterwards. Throws DISK_FULL when
   * records had to be given up; then all before them are durable, and files are closed as well.
   */
  async close(): Promise<void> {
    this.beginClose();
    this.closeBatch();
    if (this.#stopCause === undefined) await this.#finish();
    this.#isClosed = true;
    while (!this.#isUnused) await this.#turn();
    await this.#sync.close(this.#stopCause === undefined || this.#isGivenUp);
    const next = this.#next;
    if (next !== undefined) {
      await next.file.close();
      await this.#options.directory.remove(segmentName(next.number));
    }
    if (this.#lossCause !== undefined) throw this.#lossCause;
  }

  async #finish(): Promise<void> {
    try {
      await this.durable();
      this.#mark();
      while (!this.#isAtRest && this.#stopCause === undefined) await this.#turn();
    } catch (error) {
      if (!this.#isGivenUp) throw error;
    }
  }

  #turn(): Promise<void> {
    return new Promise<void>((resolve) => this.#options.clock.afterInput(resolve));
  }

  /** Nothing of what the writer began by itself is under way. */
  get #isAtRest(): boolean {
    return this.#queue.length === 0 && !this.#isPreparing && this.#sync.isQuiet;
  }

  /** The files may be closed: nothing is written to them, and none is being made. */
  get #isUnused(): boolean {
    return this.#writeCount === 0 && this.#footerCount === 0 && !this.#isPreparing;
  }

  /** Ends the open batch and says where the log stands: what a checkpoint of this turn is cut at. */
  cut(): ReplayStart {
    // Whoever is told of a written batch may append at once: then there is another one to end.
    while (this.#open !== undefined) this.closeBatch();
    const segment = this.#segment as OpenSegment;
    return {
      segmentNumber: segment.number,
      offset: segment.end,
      nextLsn: this.#nextLsn,
      chain: this.#chain,
      incarnation: this.incarnation,
      recordedMicros: this.#time.recordedMicros,
    };
  }

  /**
   * The segments that can't be read from their footers yet, oldest first, with all that was appended so far; the last
   * is being written.
   */
  recentSegments(): readonly RecentSegment[] {
    while (this.#open !== undefined) this.closeBatch();
    return this.#sync.segments.filter((segment) => segment.hasMetas);
  }

  /** Ends the segment being written, if there is anything in it: the next batch begins another one. */
  async sealSegment(): Promise<void> {
    const { number, end } = this.#segment as OpenSegment;
    if (end === SEGMENT_HEADER_BYTES) return;
    this.closeBatch();
    this.#sealWanted = number;
    await this.durableBatches();
  }

  /** The segment that is being written: those below are sealed, or were when the log was opened. */
  get segmentNumber(): number {
    return (this.#segment as OpenSegment).number;
  }

  /** Bytes of all frames of the segment being written. */
  openFramesBytes(): number {
    const { tableAddress, frameCount } = this.#segment as OpenSegment;
    const { view } = this.#memory;
    let bytes = 0;
    for (
      let row = tableAddress;
      row < tableAddress + frameCount * FRAME_ROW_BYTES;
      row += FRAME_ROW_BYTES
    )
      bytes += FRAME_HEADER_BYTES + Math.ceil(view.getUint32(row + 4, true) / 8) * 8;
    return bytes;
  }

  /** Bytes of the segment being written. */
  get tailBytes(): number {
    return this.#segment?.end ?? 0;
  }

  checkInvariants(): void {
    this.#sync.checkInvariants();
    assert(this.#sync.settledLsn <= this.#writtenLsn, "settled <= written (I1)");
    assert(this.#writtenLsn <= this.#nextLsn, "written <= next (I1)");
    assert(this.#open === undefined || !this.#open.isFree, "the open batch is taken");
    const taken = this.#buffers.filter((buffer) => !buffer.isFree).length;
    assert(
      taken === this.#queue.length + (this.#open === undefined ? 0 : 1),
      "every taken buffer is open or queued",
    );
  }

  // ---- appending

  #wait(waiter: Waiter): void {
    const batch = this.#opened();
    batch.isSyncWanted = true;
    this.#sync.wait(batch.sequence, waiter);
  }

  #promised(wait: (waiter: Waiter) => void): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      wait({ complete: (errno) => (errno === 0 ? resolve() : reject(this.#stopped())) });
    });
  }

  #appendFlushed(branch: number): void {
    const batch = this.#opened();
    const view = this.#memory.view;
    const record = batch.recordAddress;
    putRecordHeader(view, record, RECORD_KIND.FLUSHED, FLUSHED_RECORD_BYTES, this.#offsetMicros());
    view.setUint32(record + 8, branch, true);
    view.setUint32(record + 12, 0, true);
    const lsn = this.#appended(batch, FLUSHED_RECORD_BYTES, 0);
    this.#changedBranches.delete(branch);
    if (this.#lastChanged === branch) this.#lastChanged = -1;
    this.#options.onFlushed(branch, lsn, this.appendedMicros);
  }

  #changed(branch: number): void {
    this.changeCount += 1;
    if (branch === this.#lastChanged) return;
    this.#lastChanged = branch;
    this.#changedBranches.add(branch);
  }

  /** Of the record that is being appended; its time stays in `appendedMicros`. */
  #offsetMicros(): number {
    const offsetMicros = this.#time.offsetMicros();
    this.appendedMicros = this.#time.recordedMicros + offsetMicros;
    return offsetMicros;
  }

  #appended(batch: BatchBuffer, recordBytes: number, frameBytes: number): number {
    batch.appended(recordBytes, frameBytes);
    const lsn = this.#nextLsn;
    this.#nextLsn += 1;
    return lsn;
  }

  #opened(): BatchBuffer {
    return this.#open ?? this.#openBatch();
  }

  #openBatch(): BatchBuffer {
    assert(
      this.#stopCause === undefined && !this.#isClosed,
      "nothing is appended to a stopped log",
    );
    const buffer = this.#freeBuffer();
    assert(buffer !== undefined, "a batch is opened only when there is room");
    this.#rollIfFull();
    this.#time.advance();
    this.#batchSequence += 1;
    buffer.begin(this.#segment as OpenSegment, this.#nextLsn, this.#batchSequence);
    this.#open = buffer;
    this.#isMarked = false;
    this.#scheduleClose();
    return buffer;
  }

  /** A batch closes when the input that is ready now has been handled, or when the next record doesn't fit. */
  #scheduleClose(): void {
    if (this.#isCloseScheduled) return;
    this.#isCloseScheduled = true;
    this.#options.clock.afterInput(this.#onInputHandled);
  }

  readonly #onInputHandled = (): void => {
    this.#isCloseScheduled = false;
    this.closeBatch();
  };

  #freeBuffer(): BatchBuffer | undefined {
    // The one that was filled longest ago, so that readers find recent data in the others.
    let best: BatchBuffer | undefined;
    for (const buffer of this.#buffers) {
      if (buffer.isFree && (best === undefined || buffer.firstLsn < best.firstLsn)) best = buffer;
    }
    return best;
  }

  // ---- closing and writing

  #seal(batch: BatchBuffer): void {
    const segment = batch.segment as OpenSegment;
    const recordsAddress = batch.frameAddress;
    const isLarge = batch.frameBytes >= this.#options.syncWriteBytes;
    const endsWithPage = batch.isSyncWanted || isLarge || this.#sync.isBackgroundDue;
    const { wallMicros, monotoneMicros, recordedMicros } = this.#time;
    this.#chain = batch.seal(
      this.#options.poolId,
      {
        incarnation: this.#options.position.incarnation,
        previousChecksum: this.#chain,
        durableLsn: this.durableLsn,
        wallMicros,
        monotoneMicros,
        recordedMicros,
      },
      endsWithPage,
    );
    const { address, recordBytes, startOffset, endOffset } = batch;
    segment.keepMeta({ address, recordsAddress, recordBytes, startOffset });
    segment.end = endOffset;
    segment.pendingBatchCount += 1;
    this.batchCount += 1;
    this.batchBytes += endOffset - startOffset;
    if (endOffset * 2 > this.#options.segmentBytes) this.#prepareNext();
  }

  /** Sends queued batches on their way, in order: at once while they are small and the disk is quick. */
  #writeQueue(): void {
    while (this.#stopCause === undefined && !this.#isWaitingForSpace) {
      const batch = this.#queue.find((queued) => !queued.isStarted);
      if (batch === undefined) return;
      const segment = batch.segment as OpenSegment;
      const lengthBytes = batch.endOffset - batch.startOffset;
      const isAsynchronous = this.#isAsynchronous(lengthBytes);
      // Two writes never touch one page, and a synchronous one waits for nobody and lets nobody wait.
      const mayJoin = isAsynchronous && batch.startOffset % FLUSH_ALIGN_BYTES === 0;
      if (this.#writeCount > 0 && !(mayJoin && this.#writeCount < WRITES_AT_ONCE)) return;
      if (!this.#writeHeaderOf(segment)) return;
      batch.isStarted = true;
      const source = this.#memory.bytes.subarray(batch.address, batch.address + lengthBytes);
      if (isAsynchronous) this.#writeLater(batch, source);
      else if (!this.#writeNow(batch, source)) return;
    }
  }

  #isAsynchronous(lengthBytes: number): boolean {
    return lengthBytes > this.#options.syncWriteBytes || this.#slowBatches > 0;
  }

  /** False when it failed and was seen to. */
  #writeNow(batch: BatchBuffer, source: Uint8Array): boolean {
    const begin = this.#options.clock.monotoneMicros();
    try {
      (batch.segment as OpenSegment).file.writeSync(source, batch.startOffset);
    } catch (error) {
      batch.isStarted = false;
      this.#writeFailed(error);
      return false;
    }
    if (this.#options.clock.monotoneMicros() - begin > SLOW_WRITE_MICROS)
      this.#slowBatches = SLOW_BATCH_COUNT;
    this.#completed(batch);
    return true;
  }

  #writeLater(batch: BatchBuffer, source: Uint8Array): void {
    const { file } = batch.segment as OpenSegment;
    this.#writeCount += 1;
    this.#slowBatches = Math.max(0, this.#slowBatches - 1);
    const isDirect =
      source.length >= DIRECT_BYTES_MIN && batch.startOffset % FLUSH_ALIGN_BYTES === 0;
    const written =
      isDirect && file.writeDirect !== undefined
        ? file.writeDirect(source, batch.startOffset)
        : file.write(source, batch.startOffset);
    written.then(
      () => {
        this.#writeCount -= 1;
        if (this.#stopCause !== undefined) return;
        this.#completed(batch);
        this.#writeQueue();
      },
      (error: unknown) => {
        this.#writeCount -= 1;
        batch.isStarted = false;
        this.#writeFailed(error);
      },
    );
  }

  /** The batch is on disk as far as the system tells; it counts when all before it are. */
  #completed(batch: BatchBuffer): void {
    batch.isWritten = true;
    for (let first = this.#queue[0]; first?.isWritten === true; first = this.#queue[0])
      this.#written(first);
  }

  /** False when that failed and was seen to. */
  #writeHeaderOf(segment: OpenSegment): boolean {
    try {
      segment.writeHeader();
      return true;
    } catch (error) {
      this.#writeFailed(error);
      return false;
    }
  }

  #writeFailed(error: unknown): void {
    if (!hasCode(error, "DISK_FULL")) {
      this.#stop(error);
      return;
    }
    // The bytes that a failed write left behind lie beyond the chain: the same batch will overwrite them.
    this.#options.onSpaceMissing();
    if (this.#isWaitingForSpace || this.#stopCause !== undefined) return;
    if (!this.#mayTryAgain(error)) return;
    this.#isWaitingForSpace = true;
    this.#options.clock.after(SPACE_RETRY_MS, () => {
      this.#isWaitingForSpace = false;
      this.#writeQueue();
    });
  }

  #written(batch: BatchBuffer): void {
    assert(this.#queue[0] === batch, "batches are written in order");
    this.#queue.shift();
    (batch.segment as OpenSegment).batchWritten();
    this.#writtenLsn = batch.firstLsn + batch.recordCount;
    this.#sync.written(batch, this.#writtenLsn);
    // A waiter may append at once: the buffer is free only when all of its own have been told.
    for (const waiter of batch.written) waiter.complete(ACK_NONE);
    batch.written.length = 0;
    batch.isFree = true;
    this.#sync.syncIfDue();
    this.#options.onWritten();
    this.#offerRoom();
  }

  #offerRoom(): void {
    if (!this.#isRoomWanted) return;
    this.#isRoomWanted = false;
    this.#options.onRoom();
  }

  // ---- markers

  /** After an idle flush a marker says, in the log itself, that everything before it was durable. */
  #scheduleMarker(): void {
    if (this.#isMarked || this.#isMarkerScheduled) return;
    this.#isMarkerScheduled = true;
    this.#options.clock.after(MARKER_DELAY_MS, () => {
      this.#isMarkerScheduled = false;
      if (this.#open === undefined && this.#queue.length === 0 && this.durableLsn === this.#nextLsn)
        this.#mark();
    });
  }

  #mark(): void {
    if (this.#isMarked || this.#stopCause !== undefined || this.#isClosed) return;
    if (this.#freeBuffer() === undefined || !this.#isSegmentReady()) return;
    const batch = this.#openBatch();
    batch.flags = BATCH_FLAG.MARKER;
    this.#isMarked = true;
    this.markerCount += 1;
    this.closeBatch();
  }

  // ---- segments

  #isSegmentReady(): boolean {
    if (!this.#isSegmentFull()) return true;
    if (this.#next !== undefined) return true;
    this.#prepareNext();
    return false;
  }

  #isSegmentFull(): boolean {
    const segment = this.#segment as OpenSegment;
    return segment.number === this.#sealWanted || segment.isFull(this.#options.segmentBytes);
  }

  #rollIfFull(): void {
    if (!this.#isSegmentFull()) return;
    const next = this.#next;
    assert(next !== undefined, "a batch is opened only when its segment is ready");
    const full = this.#segment as OpenSegment;
    this.#next = undefined;
    full.isSealed = true;
    this.#previousNumber = full.number;
    this.#previousEnd = full.end;
    this.#begin(next.number, next.file);
    this.#writeFooter(full);
  }

  #begin(number: number, file: DiskFile): OpenSegment {
    this.#tableTurn = 1 - this.#tableTurn;
    const header = {
      number,
      incarnation: this.#options.position.incarnation,
      firstLsn: this.#nextLsn,
      previousNumber: this.#previousNumber,
      previousEnd: this.#previousEnd,
      chain: this.#chain,
      durableLsn: this.durableLsn,
      wallMicros: Math.floor(this.#options.clock.wallMicros()),
    };
    const tableAddress = this.#memory.tablesAddress[this.#tableTurn as 0 | 1];
    const { poolId } = this.#options;
    const segment = new OpenSegment(this.#memory, file, { header, poolId, tableAddress });
    this.#segment = segment;
    this.#sync.add(segment);
    return segment;
  }

  /** Makes the next segment's file ahead of time. Its name becomes durable with the next sync. */
  #prepareNext(): void {
    const current = this.#segment;
    if (this.#next !== undefined || this.#isPreparing || current === undefined || this.#isClosed)
      return;
    this.#isPreparing = true;
    const number = current.number + 1;
    this.#options.directory.open(segmentName(number), "create").then(
      (file) => {
        this.#isPreparing = false;
        this.#sync.directoryChanged();
        this.#next = { number, file };
        this.#offerRoom();
      },
      (error: unknown) => {
        this.#isPreparing = false;
        if (!hasCode(error, "DISK_FULL")) this.#stop(error);
        else {
          this.#options.onSpaceMissing();
          // A segment with room left needs no next one to be closed.
          if (this.#isSegmentFull() && !this.#mayTryAgain(error)) return;
          this.#options.clock.after(SPACE_RETRY_MS, () => this.#prepareNext());
        }
      },
    );
  }

  /** The footer repeats what is in the batches; a segment without one is read batch by batch. */
  #writeFooter(segment: OpenSegment): void {
    const { number, firstLsn, footerOffset } = segment;
    const footer = segment.buildFooter();
    this.#options.onSegmentSealed({ number, sizeBytes: footerOffset + footer.length, firstLsn });
    this.#footerCount += 1;
    segment.file.write(footer, footerOffset).then(
      () => {
        this.#footerCount -= 1;
        segment.footerWritten();
        segment.isDirty = true;
        this.#sync.syncIfDue();
      },
      (error: unknown) => {
        this.#footerCount -= 1;
        if (!hasCode(error, "DISK_FULL")) return this.#stop(error);
        this.#options.onSpaceMissing();
        segment.isFooterDone = true; // recovery reads its batches instead
        segment.isDirty = true;
        this.#sync.syncIfDue();
      },
    );
  }

  // ---- stopping

  /** Stops the writer for good, for a reason outside of it: all waiters get EIO. */
  stop(cause: StorageError): void {
    this.#stop(cause);
  }

  #stop(error: unknown): void {
    if (this.#stopCause !== undefined && !this.#isGivenUp) return;
    if (!(error instanceof StorageError)) throw error;
    if (this.#isGivenUp) {
      // Nothing more is written, but what was may still have been on its way to stable storage.
      this.#lossCause ??= error;
      this.#sync.fail();
      return;
    }
    this.#stopCause = error;
    this.#answerUnwritten(NBD_ERROR.EIO);
    this.#sync.fail();
    this.#options.onStopped(error);
    this.#offerRoom();
  }

  /** Whether one who waits for space may go on waiting. If not, what waits has been given up. */
  #mayTryAgain(error: StorageError): boolean {
    if (this.#options.clock.monotoneMicros() < this.#giveUpMicros) return true;
    if (this.#stopCause === undefined) this.#giveUp(error);
    return false;
  }

  /**
   * The log ends with the last batch that was written; `close` makes that much durable. A write that waited gets
   * ENOSPC, for nothing but space was wrong with it. A flush that waited gets EIO: no promise of it was kept.
   */
  #giveUp(error: StorageError): void {
    const fromLsn = this.#writtenLsn;
    const recordCount = this.#nextLsn - fromLsn;
    this.#isGivenUp = true;
    this.#stopCause = new StorageError(
      "DISK_FULL",
      `log: closed without ${recordCount} records from LSN ${fromLsn} on: no space came, and none of them was acknowledged as written`,
      { cause: error, data: { recordCount, fromLsn } },
    );
    const first = this.#queue[0] ?? this.#open;
    this.#answerUnwritten(NBD_ERROR.ENOSPC);
    if (first !== undefined) this.#sync.refuse(first.sequence);
    // A marker that found no space, with everything written before it, is nothing to speak of.
    if (recordCount > 0) {
      this.#lossCause = this.#stopCause;
      this.#options.onStopped(this.#stopCause);
    }
    this.#offerRoom();
  }

  #answerUnwritten(errno: number): void {
    for (const batch of this.#open === undefined ? this.#queue : [...this.#queue, this.#open])
      for (const waiter of batch.written.splice(0)) waiter.complete(errno);
  }

  #stopped(): StorageError {
    return this.#stopCause ?? new StorageError("POOL_STOPPED", "log: refused: it is closed");
  }
}
