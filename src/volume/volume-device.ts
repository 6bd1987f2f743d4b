// SPDX-License-Identifier: Apache-2.0
//
// A live volume as a block device: what NBD clients read and write.
//
// The quick paths are synchronous: a read that memory can answer, and a write of whole blocks, which is
// ordered, packed and indexed before the call returns. Everything else takes the slow paths below: they may
// wait for the disk or for room, and end with the same synchronous step.
//
// Requests take effect in the order of the calls: a write that can't be ordered at once goes to the queue of
// changes (change-queue.ts), and then everything after it does, until the queue is empty again.

import { AssertionError } from "../base/assert.ts";
import { StorageError, spell } from "../base/errors.ts";
import { type BlockIndex, NOT_LOADED } from "../index/block-index.ts";
import {
  CHUNK_BLOCKS,
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  PAGE_BLOCKS,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { RECORD_KIND, ZERO_OPTION_KEEP_ALLOCATED } from "../log/record.ts";
import { LOW_HOLE, LOW_ZERO, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import { type BlockReducer, MATCH, Reduction } from "../reduce/block-reducer.ts";
import {
  type BlockPreparer,
  PREPARED_BLOCKS_MAX,
  preparedBytes,
} from "../reduce/prepared-blocks.ts";
import type { ActivityFeed } from "./activity-feed.ts";
import type { WroteRecord } from "./activity-timeline.ts";
import { type BlockStore, Wanted } from "./block-store.ts";
import {
  APPENDED,
  ChangeQueue,
  type ChangeTarget,
  type WholeBlocks,
  WRITE_BYTES_MAX,
} from "./change-queue.ts";
import type { DeviceRequest } from "./device-request.ts";
import type { FingerprintLists } from "./fingerprint-lists.ts";

export interface DeviceExtentSink {
  add(lengthBytes: number, flags: number): boolean;
}

/** What a device asks of its pool. */
export interface DevicePool {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly activity: ActivityFeed;
  readonly log: LogWriter;
  readonly blocks: BlockStore;
  readonly reducer: BlockReducer;
  readonly lists: FingerprintLists;
  /** Where threads can be spared. */
  readonly preparer: BlockPreparer | undefined;
  readonly isAckedWhenDurable: boolean;
  readonly isAckedAtOnce: boolean;
  /** Frees space that nothing needs any more; false: there is none. */
  reclaim(): Promise<boolean>;
  /** Whether a write of so many new blocks may be stored, or of none; false: the pool is full. */
  admits(blockCount: number): boolean;
  /** Whether a record of so many blocks can be appended now (log and index). */
  hasRoom(blockCount: number): boolean;
  /** Resolves when `hasRoom` holds, in order of the calls. Rejects when the pool has stopped. */
  room(blockCount: number): Promise<void>;
  /** Resolves after the input that is ready now has been handled. */
  nextTurn(): Promise<void>;
  /** A request of the branch failed for a reason that the operator should see. */
  report(error: StorageError, branch: number): void;
}

export interface DeviceCounters {
  readCount: number;
  readBytes: number;
  writeCount: number;
  writeBytes: number;
  trimCount: number;
  zeroCount: number;
  flushCount: number;
}

/** Larger reads go to the disk in pieces of neighbours, through the thread pool. */
const READ_NOW_BYTES_MAX: number = 4 * BLOCK_BYTES;
const FLAG_HOLE = 1;
const FLAG_ZERO = 2;
/** A write waits for no more lists of fingerprints: its blocks would come from as many places. */
const LISTS_PER_WRITE_MAX = 4;
/** A block-status answer looks at so many blocks, pages and chunks: the client asks on from where it ended. */
const STATUS_STEPS_MAX = 1 << 20;
/** And never further than 1 TiB: some clients ask for everything up to the end, over and over. */
const STATUS_CHUNKS_MAX = 512;
/** Then others have their turn: a third of a millisecond. */
const STATUS_STEPS_PER_TURN = 4096;

export class VolumeDevice implements ChangeTarget {
  readonly #pool: DevicePool;
  readonly #directory: PageDirectory;
  readonly #changes: ChangeQueue = new ChangeQueue(this);
  /** Of the write that is being appended. */
  readonly #record: { -readonly [field in keyof WroteRecord]: WroteRecord[field] };
  sizeBytes: number;
  isReadOnly: boolean;
  readonly reduction: Reduction = new Reduction();
  /** Of the last write: the last frame that was found for it (0, 0: none), and the block behind it. */
  #trailSegment = 0;
  #trailLow = 0;
  #trailEnd = 0;
  /** Most of the last large write was there already: the next one is only hashed ahead. */
  #isMostlyKnown = false;
  areTwinsCold = false;
  readonly canMultiConnect = true;
  readonly counters: DeviceCounters = {
    readCount: 0,
    readBytes: 0,
    writeCount: 0,
    writeBytes: 0,
    trimCount: 0,
    zeroCount: 0,
    flushCount: 0,
  };

  constructor(
    pool: DevicePool,
    directory: PageDirectory,
    options: { sizeBytes: number; isReadOnly: boolean },
  ) {
    this.#pool = pool;
    this.#directory = directory;
    const { branch } = directory;
    this.#record = { lsn: 0, timeMicros: 0, branch, lba: 0, blockCount: 0, referencesOffset: 0 };
    this.sizeBytes = options.sizeBytes;
    this.isReadOnly = options.isReadOnly;
  }

  get branch(): number {
    return this.#directory.branch;
  }

  /** Nothing that was asked for is still on its way into the order of changes. */
  get isIdle(): boolean {
    return this.#changes.isEmpty;
  }

  // ---- reading

  readNow(offsetBytes: number, lengthBytes: number, address: number): boolean {
    if (
      ((offsetBytes | lengthBytes) & (BLOCK_BYTES - 1)) !== 0 ||
      offsetBytes + lengthBytes > this.sizeBytes
    )
      return false;
    const { index, blocks } = this.#pool;
    let lba = offsetBytes / BLOCK_BYTES;
    const end = lba + lengthBytes / BLOCK_BYTES;
    if (!this.#changes.isEmpty && this.#changes.overlapping(lba, end) !== undefined) return false;
    const isSmall = lengthBytes <= READ_NOW_BYTES_MAX;
    for (let target = address; lba < end; lba++, target += BLOCK_BYTES) {
      const low = index.lookup(this.#directory, lba);
      if (low === NOT_LOADED) return false;
      const segment = index.foundSegment;
      if (blocks.copyNow(segment, low, target)) continue;
      if (!isSmall || !blocks.readNow(segment, low, target)) return false;
    }
    this.counters.readCount += 1;
    this.counters.readBytes += lengthBytes;
    return true;
  }

  read(request: DeviceRequest): void {
    this.#run(request, this.#read(request));
  }

  async #read(request: DeviceRequest): Promise<void> {
    const { offsetBytes, lengthBytes, address } = request;
    this.#checkRange(request);
    const endLba = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
    await this.#changes.overlapping(Math.floor(offsetBytes / BLOCK_BYTES), endLba);
    if (((offsetBytes | lengthBytes) & (BLOCK_BYTES - 1)) === 0)
      await this.#readBlocks(offsetBytes / BLOCK_BYTES, lengthBytes / BLOCK_BYTES, address);
    else await this.#readUnaligned(offsetBytes, lengthBytes, address);
    this.counters.readCount += 1;
    this.counters.readBytes += lengthBytes;
    request.complete(0);
  }

  /** Whole blocks in the middle go straight to their place; the edges pass through a block of staging. */
  async #readUnaligned(offsetBytes: number, lengthBytes: number, address: number): Promise<void> {
    const { memory } = this.#pool;
    const end = offsetBytes + lengthBytes;
    const edge = await memory.operations.acquire(BLOCK_BYTES);
    try {
      let at = offsetBytes;
      while (at < end) {
        const lba = Math.floor(at / BLOCK_BYTES);
        const inBlock = at % BLOCK_BYTES;
        const whole = inBlock === 0 ? Math.floor((end - at) / BLOCK_BYTES) : 0;
        const target = address + (at - offsetBytes);
        if (whole > 0) {
          await this.#readBlocks(lba, whole, target);
          at += whole * BLOCK_BYTES;
        } else {
          const count = Math.min(BLOCK_BYTES - inBlock, end - at);
          await this.#readBlocks(lba, 1, edge);
          memory.bytes.copyWithin(target, edge + inBlock, edge + inBlock + count);
          at += count;
        }
      }
    } finally {
      memory.operations.release(edge);
    }
  }

  async #readBlocks(lba: number, blockCount: number, address: number): Promise<void> {
    const { index, blocks } = this.#pool;
    const wanted = new Wanted();
    for (let at = lba; at < lba + blockCount; at++) {
      const target = address + (at - lba) * BLOCK_BYTES;
      let low = index.lookup(this.#directory, at);
      while (low === NOT_LOADED) {
        await index.load(this.#directory, at);
        low = index.lookup(this.#directory, at);
      }
      if (!blocks.copyNow(index.foundSegment, low, target))
        wanted.add(index.foundSegment, low, target);
    }
    if (wanted.lows.length > 0) await blocks.read(wanted);
  }

  // ---- writing

  writeNow(request: DeviceRequest): boolean {
    const { offsetBytes, lengthBytes } = request;
    if (!this.#changes.isEmpty || lengthBytes > WRITE_BYTES_MAX) return false;
    if (((offsetBytes | lengthBytes) & (BLOCK_BYTES - 1)) !== 0) return false;
    if (this.isReadOnly || offsetBytes + lengthBytes > this.sizeBytes) return false;
    const lba = offsetBytes / BLOCK_BYTES;
    const blockCount = lengthBytes / BLOCK_BYTES;
    if (this.#isPreparable(blockCount)) return false;
    const { reducer } = this.#pool;
    // Making room may let others write: it comes before the plan, which is theirs to use too.
    if (!this.#pool.hasRoom(blockCount)) return false;
    reducer.examine(request.address, blockCount, this.reduction, false);
    if (this.#mustFetch(lba, blockCount)) return false;
    if (!this.#admitsPlanned()) return false;
    this.#appendPlanned(lba, blockCount, request.address);
    this.counters.writeCount += 1;
    this.counters.writeBytes += lengthBytes;
    this.acknowledge(request);
    return true;
  }

  write(request: DeviceRequest): void {
    this.counters.writeCount += 1;
    this.counters.writeBytes += request.lengthBytes;
    this.#changes.add(request, "write");
  }

  trim(request: DeviceRequest): void {
    this.counters.trimCount += 1;
    this.#changes.add(request, "trim");
  }

  writeZeroes(request: DeviceRequest, options: { isHoleForbidden: boolean }): void {
    this.counters.zeroCount += 1;
    this.#changes.add(request, options.isHoleForbidden ? "zero" : "clear");
  }

  // ---- what the queue of changes asks (ChangeTarget)

  get memory(): BlockMemory {
    return this.#pool.memory;
  }

  hasRoom(blockCount: number): boolean {
    return this.#pool.hasRoom(blockCount);
  }

  room(blockCount: number): Promise<void> {
    return this.#pool.room(blockCount);
  }

  report(error: StorageError): void {
    this.#pool.report(error, this.branch);
  }

  checkWritable(request: DeviceRequest): void {
    this.#checkRange(request);
    if (this.isReadOnly && request.isInternal !== true)
      throw new StorageError("ACCESS_DENIED", "request: refused: the volume is read-only");
  }

  hasSpace(blockCount: number): boolean {
    return this.#pool.admits(blockCount);
  }

  async fetch(lbas: readonly number[], target: number): Promise<number[]> {
    const { blocks, index } = this.#pool;
    const references: number[] = [];
    const wanted = new Wanted();
    for (const [at, lba] of lbas.entries()) {
      let low = index.lookup(this.#directory, lba);
      while (low === NOT_LOADED) {
        await index.load(this.#directory, lba);
        low = index.lookup(this.#directory, lba);
      }
      const segment = index.foundSegment;
      references.push(segment, low);
      const address = target + at * BLOCK_BYTES;
      if (!blocks.copyNow(segment, low, address)) wanted.add(segment, low, address);
    }
    if (wanted.lows.length > 0) await blocks.read(wanted);
    return references;
  }

  isUnchanged(lbas: readonly number[], references: readonly number[]): boolean {
    const { index } = this.#pool;
    return lbas.every((lba, at) => {
      const low = index.lookup(this.#directory, lba);
      return low === references[at * 2 + 1] && index.foundSegment === references[at * 2];
    });
  }

  /** Whether what the last plan must store anew may be stored; what is there already always may. */
  #admitsPlanned(): boolean {
    return this.#pool.admits(this.#pool.reducer.newCount);
  }

  reclaim(): Promise<boolean> {
    return this.#pool.reclaim();
  }

  #isPreparable(blockCount: number): boolean {
    const { preparer } = this.#pool;
    if (preparer === undefined) return false;
    return blockCount >= preparer.blocksMin && blockCount <= PREPARED_BLOCKS_MAX;
  }

  prepareBlocks(blockCount: number, address: number): number | Promise<number> {
    if (!this.#isPreparable(blockCount)) return 0;
    const { preparer, memory } = this.#pool;
    const piece = memory.prepared.allocate(preparedBytes(blockCount));
    if (piece < 0) return 0;
    const compressEvery = this.#isMostlyKnown ? 0 : this.reduction.compressEvery;
    const done = preparer?.prepare({ source: address, blockCount, piece, compressEvery });
    if (done !== undefined) return done.then(() => piece);
    memory.prepared.release(piece);
    return 0;
  }

  releasePiece(piece: number): void {
    this.#pool.memory.prepared.release(piece);
  }

  appendWhole(write: WholeBlocks, verified: Uint32Array | undefined): number {
    const { lba, blockCount, address, piece } = write;
    const isFinal = verified !== undefined;
    this.#pool.reducer.examine(address, blockCount, this.reduction, isFinal, piece, verified);
    if (!isFinal && this.#mustFetch(lba, blockCount)) return APPENDED.TWINS_ARE_COLD;
    if (!this.#admitsPlanned()) return APPENDED.POOL_IS_FULL;
    this.#appendPlanned(lba, blockCount, address);
    return APPENDED.YES;
  }

  /** Whether something should be read before what was just examined is stored. */
  #mustFetch(lba: number, blockCount: number): boolean {
    const isUnknown = this.#pool.reducer.unknownCount > 0;
    this.areTwinsCold = isUnknown || this.#wantedList(lba, blockCount) !== 0;
    return this.areTwinsCold;
  }

  appendBlocks(lba: number, blockCount: number, address: number): void {
    this.#pool.reducer.examine(address, blockCount, this.reduction, true);
    this.#appendPlanned(lba, blockCount, address);
  }

  #appendPlanned(lba: number, blockCount: number, address: number): void {
    const { log, activity, reducer } = this.#pool;
    const record = this.#record;
    record.lba = lba;
    record.blockCount = blockCount;
    record.lsn = log.appendWrote(record, address, reducer);
    record.timeMicros = log.appendedMicros;
    record.referencesOffset = log.referencesAddress;
    reducer.packed(log.packed, this.reduction);
    activity.wrote(this.#directory, record, log.packed.framesEnd8);
    this.#trailSegment = reducer.hitSegment;
    this.#trailLow = reducer.hitLow;
    this.#trailEnd = lba + blockCount;
    if (this.#isPreparable(blockCount)) this.#isMostlyKnown = reducer.newCount * 2 < blockCount;
  }

  get listCount(): number {
    return this.#pool.lists.readCount;
  }

  /** The segment whose list should be read before what was planned is stored, or 0. */
  #wantedList(lba: number, blockCount: number): number {
    const isNext = lba === this.#trailEnd && this.reduction.isDeduplicated;
    return isNext
      ? this.#pool.lists.wanted(blockCount, this.#trailSegment, this.#trailLow)
      : this.#pool.lists.wanted(blockCount, 0, 0);
  }

  async fetchTwins({ lba, blockCount, address, piece }: WholeBlocks): Promise<Uint32Array> {
    const { reducer, lists } = this.#pool;
    const verified = new Uint32Array(blockCount * 2);
    const read: number[] = [];
    this.areTwinsCold = false;
    for (;;) {
      reducer.examine(address, blockCount, this.reduction, false, piece, verified);
      const unknown = this.#takeVerified(blockCount, verified);
      if (unknown.length > 0) {
        this.areTwinsCold = true;
        await this.#verify(unknown, address, verified);
        reducer.examine(address, blockCount, this.reduction, true, piece, verified);
      }
      if (read.length === LISTS_PER_WRITE_MAX) return verified;
      const segment = this.#wantedList(lba, blockCount);
      // One that was pushed out by the next would only push that out again.
      if (segment === 0 || read.includes(segment)) return verified;
      this.areTwinsCold = true;
      await lists.read(segment);
      read.push(segment);
    }
  }

  /** Notes what the last plan found to be the same; returns the blocks that it couldn't compare. */
  #takeVerified(blockCount: number, verified: Uint32Array): number[] {
    const { reducer, memory } = this.#pool;
    const first = reducer.referencesAddress >>> 2;
    const unknown: number[] = [];
    for (let block = 0; block < blockCount; block++) {
      const match = reducer.matches[block] as number;
      if (match === MATCH.UNKNOWN) unknown.push(block);
      if (match !== MATCH.SAME && match !== MATCH.UNKNOWN) continue;
      verified[block * 2] = memory.words[first + block * 2] as number;
      verified[block * 2 + 1] = memory.words[first + block * 2 + 1] as number;
    }
    return unknown;
  }

  /** Compares blocks at `address` with what their entries in `verified` name, and clears those that hold something else. */
  async #verify(blocks: readonly number[], address: number, verified: Uint32Array): Promise<void> {
    const { blocks: store, memory } = this.#pool;
    const references = blocks.flatMap((block) => [...verified.subarray(block * 2, block * 2 + 2)]);
    for (const block of blocks) verified.fill(0, block * 2, block * 2 + 2);
    const buffer = await memory.operations.acquire(blocks.length * BLOCK_BYTES);
    try {
      // Of what can't be read nothing is known, whatever is in the buffer.
      if (!(await store.readAll(references, buffer))) return;
      for (const [at, block] of blocks.entries()) {
        const twin = buffer + at * BLOCK_BYTES;
        if (memory.kernel.compareBlocks(twin, address + block * BLOCK_BYTES) !== 1) continue;
        verified[block * 2] = references[at * 2] as number;
        verified[block * 2 + 1] = references[at * 2 + 1] as number;
      }
    } finally {
      memory.operations.release(buffer);
    }
  }

  appendRange(kind: "zero" | "clear" | "trim", lba: number, blockCount: number): void {
    const { log, activity } = this.#pool;
    const isKept = kind === "zero";
    const { branch } = this.#directory;
    const lsn = log.appendRange(isKept ? RECORD_KIND.ZEROED : RECORD_KIND.TRIMMED, branch, {
      lba,
      blockCount,
      options: isKept ? ZERO_OPTION_KEEP_ALLOCATED : 0,
    });
    const record = { lsn, timeMicros: log.appendedMicros, branch, lba, blockCount };
    if (isKept) activity.zeroed(this.#directory, record);
    else activity.trimmed(this.#directory, record);
  }

  acknowledge(request: DeviceRequest): void {
    const { log } = this.#pool;
    if (request.isForceUnitAccess || this.#pool.isAckedWhenDurable) log.whenDurable(request, -1);
    else if (this.#pool.isAckedAtOnce) request.complete(0);
    else log.whenWritten(request);
  }

  // ---- flush, cache, status

  flush(request: DeviceRequest): void {
    this.counters.flushCount += 1;
    if (this.#pool.log.durableLsn === this.#pool.log.nextLsn || this.#pool.log.hasRoom(0))
      this.#pool.log.whenDurable(request, this.#directory.branch);
    else this.#run(request, this.#flushLater(request));
  }

  async #flushLater(request: DeviceRequest): Promise<void> {
    while (!this.#pool.hasRoom(0)) await this.#pool.room(0);
    this.#pool.log.whenDurable(request, this.#directory.branch);
  }

  cache(request: DeviceRequest): void {
    this.#run(request, this.#prefetch(request));
  }

  async #prefetch(request: DeviceRequest): Promise<void> {
    this.#checkRange(request);
    const { memory } = this.#pool;
    const pieceBlocks = 16; // small enough to be kept
    const end = Math.ceil((request.offsetBytes + request.lengthBytes) / BLOCK_BYTES);
    const buffer = await memory.operations.acquire(pieceBlocks * BLOCK_BYTES);
    try {
      const budget = Math.min(
        end,
        Math.floor(request.offsetBytes / BLOCK_BYTES) + this.#pool.memory.shape.slotCount / 2,
      );
      for (
        let lba = Math.floor(request.offsetBytes / BLOCK_BYTES);
        lba < budget;
        lba += pieceBlocks
      ) {
        await this.#readBlocks(lba, Math.min(pieceBlocks, budget - lba), buffer);
      }
    } finally {
      memory.operations.release(buffer);
    }
    request.complete(0);
  }

  /** Of base:allocation. */
  blockStatus(request: DeviceRequest, sink: DeviceExtentSink): void {
    this.#run(request, this.#status(request, sink));
  }

  async #status(request: DeviceRequest, sink: DeviceExtentSink): Promise<void> {
    this.#checkRange(request);
    const end = request.offsetBytes + request.lengthBytes;
    const scanEnd = Math.min(
      Math.ceil(end / BLOCK_BYTES),
      Math.floor(request.offsetBytes / BLOCK_BYTES) + STATUS_CHUNKS_MAX * CHUNK_BLOCKS,
    );
    let lba = Math.floor(request.offsetBytes / BLOCK_BYTES);
    let extentStart = request.offsetBytes;
    let flags = -1;
    for (let step = 1; lba < scanEnd && step <= STATUS_STEPS_MAX; step++) {
      // What changes meanwhile is told as it is when it is reached.
      if (step % STATUS_STEPS_PER_TURN === 0) await this.#pool.nextTurn();
      const span = this.#uniformSpan(lba, scanEnd);
      let low = span.low;
      if (low === NOT_LOADED) low = this.#pool.index.lookup(this.#directory, lba);
      if (low === NOT_LOADED) {
        await this.#pool.index.load(this.#directory, lba);
        continue;
      }
      const blockFlags = flagsOf(low);
      if (blockFlags !== flags) {
        const at = Math.max(request.offsetBytes, lba * BLOCK_BYTES);
        if (flags >= 0 && !sink.add(at - extentStart, flags)) {
          request.complete(0);
          return;
        }
        extentStart = at;
        flags = blockFlags;
      }
      lba = span.end;
    }
    if (flags >= 0) sink.add(Math.min(end, lba * BLOCK_BYTES) - extentStart, flags);
    request.complete(0);
  }

  /** How far from `lba` on all blocks are known to be alike without looking at each; NOT_LOADED: look. */
  #uniformSpan(lba: number, end: number): { end: number; low: number } {
    const chunkIndex = Math.floor(lba / CHUNK_BLOCKS);
    const chunk = this.#directory.chunks[chunkIndex];
    if (this.#directory.isHole(chunkIndex))
      return { end: Math.min(end, (chunkIndex + 1) * CHUNK_BLOCKS), low: LOW_HOLE };
    if (chunk === ZERO_CHUNK)
      return { end: Math.min(end, (chunkIndex + 1) * CHUNK_BLOCKS), low: LOW_ZERO };
    if (chunk === undefined) return { end: lba + 1, low: NOT_LOADED };
    const page = Math.floor(lba / PAGE_BLOCKS);
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const isPlain = chunk[entry + WORD_SLOT] === 0 && chunk[entry + WORD_HEAD] === 0;
    const run = chunk[entry + WORD_RUN] as number;
    const pageEnd = Math.min(end, (page + 1) * PAGE_BLOCKS);
    if (isPlain && run === 0) return { end: pageEnd, low: LOW_HOLE };
    if (isPlain && run === CONSTANT)
      return { end: pageEnd, low: chunk[entry + WORD_OFFSET] as number };
    return { end: lba + 1, low: NOT_LOADED };
  }

  // ---- shared

  /** Runs a slow path: errors become the request's answer, bugs stop the program. */
  #run(request: DeviceRequest, work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (!(error instanceof StorageError))
        throw error instanceof Error ? error : new AssertionError(String(error));
      if (error.kind !== "invalid") this.report(error);
      request.complete(spell(error.code, "nbd"));
    });
  }

  #checkRange(request: DeviceRequest): void {
    if (request.offsetBytes + request.lengthBytes <= this.sizeBytes) return;
    throw new StorageError(
      "RANGE_INVALID",
      `request: refused: ${request.lengthBytes} bytes at ${request.offsetBytes} reach beyond the end (${this.sizeBytes})`,
    );
  }
}

function flagsOf(low: number): number {
  const state = stateOf(low);
  if (state === REFERENCE_STATE.HOLE) return FLAG_HOLE | FLAG_ZERO;
  return state === REFERENCE_STATE.ZERO ? FLAG_ZERO : 0;
}
