// SPDX-License-Identifier: Apache-2.0
//
// The pool's memory: one shared WebAssembly memory that holds every block on its way through the pool,
// so that sockets, files, threads and the block kernel reach the same bytes without copying. It is laid
// out once, from the memory budget:
//
//   0           scratch       references and hashes of the call that is running
//   clients     client slab   payloads that wait (NBD); what clients may use, they may exhaust
//   staging     pool slab     what recovery, checkpoints and footers work in
//   prepared    pool slab     blocks that threads compressed before their turn (block-threads.ts)
//   jobs        a ring        what those threads are to do
//   operations  pool slab     what requests hold while they wait for reads
//   reads       pool slab     what is read from files before it is checked
//   batches     batch buffers the open batch and those on their way to disk
//   tables      frame tables  of the segment being written and the one being sealed
//   deltas      delta ring    changes of the index since the last checkpoint
//   dedup       hash table    fingerprints of stored blocks (dedup-index.ts)
//   slots       4 KiB slots   cached blocks and index pages: all the rest of the budget
//
// WebAssembly memory is page-aligned and at most 4 GiB.

import { assert } from "../base/assert.ts";
import { BuddyAllocator } from "../base/buddy.ts";
import type { FingerprintKernel } from "./dedup-index.ts";
import { KERNEL_CODE } from "./kernel-code.ts";
import { Staging } from "./staging.ts";

export const BLOCK_BYTES = 4096;
/** Largest payload of one record: a write up to this is atomic across a crash (1 MiB and its edges). */
export const RECORD_BLOCKS_MAX = 257;
export const FRAME_HEADER_BYTES = 24;
export const RAW_FRAME_BYTES: number = FRAME_HEADER_BYTES + BLOCK_BYTES;

export const BATCH_BUFFER_BYTES: number = 2 << 20;
/** A segment is sealed when it holds so many frames, whatever their size: it bounds the footer. */
export const SEGMENT_FRAMES_MAX = 65536;
export const FRAME_ROW_BYTES = 16;

/** Frames of a stream of duplicates are read so many bytes at a time. */
export const MATCH_WINDOW_BYTES: number = 32 << 10;
const SCRATCH_BYTES = 65536;
/** Written into the kernel's source as well: the last 16 KiB of the scratch are its own. */
const KERNEL_SCRATCH_ADDRESS = 4096;
const WASM_PAGE_BYTES = 65536;
const CHUNK_BYTES = 1 << 20;
/** One batch of zero blocks changes up to 14,400 blocks: a ring takes four of them. */
const DELTAS_MIN: number = 1 << 16;
/** No pool has a larger ring, whatever its budget. */
const DELTAS_MAX: number = 1 << 22;
const STAGING_PIECE_BYTES_MAX: number = 2 << 20;
/** Two tables in turn; the margin takes the record that crosses the limit. */
const FRAME_TABLE_BYTES: number = (SEGMENT_FRAMES_MAX + 2 * RECORD_BLOCKS_MAX) * FRAME_ROW_BYTES;
/** A change, and the low word of its LSN. */
const DELTA_BYTES = 20;
/** Threads that prepare blocks, at most; each has a table of its own behind the ring. */
export const THREADS_MAX = 4;
export const JOB_RING_BYTES = 4096;
export const JOB_TABLE_BYTES = 8192;
const JOBS_BYTES: number = JOB_RING_BYTES + THREADS_MAX * JOB_TABLE_BYTES;
const DEDUP_SHARE = 8;
/** Fingerprints of half a gigabyte. */
const DEDUP_BYTES_MIN: number = 1 << 20;

export interface BlockMemoryShape {
  readonly clientBytes: number;
  readonly stagingBytes: number;
  readonly preparedBytes: number;
  readonly operationBytes: number;
  readonly readBytes: number;
  readonly batchBufferCount: number;
  /** Power of two. */
  readonly deltaCount: number;
  readonly dedupBytes: number;
  readonly slotCount: number;
}

export interface KernelExports extends FingerprintKernel {
  hash(start: number, lengthBytes: number, target: number): void;
  compareBlocks(first: number, second: number): number;
  examineBlocks(source: number, blockCount: number, hashes: number, references: number): number;
  packBlocks(
    source: number,
    blockCount: number,
    target: number,
    segment: number,
    offset8: number,
    hashes: number,
    references: number,
    table: number,
    shared: number,
    compressEvery: number,
    preparedSizes: number,
    preparedContent: number,
    result: number,
  ): number;
  prepareBlocks(
    source: number,
    blockCount: number,
    hashes: number,
    sizes: number,
    content: number,
    compressEvery: number,
    table: number,
  ): void;
  examinePrepared(
    preparedHashes: number,
    sizes: number,
    blockCount: number,
    hashes: number,
    references: number,
  ): number;
  matchFrame(
    frame: number,
    availableBytes: number,
    segment: number,
    offset8: number,
    block: number,
    hash: number,
  ): number;
  openFrame(
    frame: number,
    availableBytes: number,
    segment: number,
    offset8: number,
    target: number,
  ): number;
  compressBlock(source: number, target: number, limitBytes: number, table: number): number;
  decompressBlock(source: number, lengthBytes: number, target: number, targetBytes: number): number;
}

export const FRAME_OPEN_RESULT: readonly string[] = [
  "ok",
  "cut off",
  "another frame's identity",
  "unknown codec or shape",
  "wrong checksum",
];

/** Splits a budget. What is left after the fixed parts becomes slots. `dedupBytes` 0: an eighth. */
export function shapeOf(memoryBytes: number, dedupBytes = 0): BlockMemoryShape {
  const heapBytes = Math.min(192 << 20, memoryBytes / 5);
  const usable = Math.min(memoryBytes - heapBytes, 0xffff0000 - (16 << 20));
  const isSmall = memoryBytes < 256 << 20;
  const clientBytes = isSmall ? 4 << 20 : Math.min(64 << 20, powerOfTwoBelow(usable / 8));
  const stagingBytes = isSmall ? 12 << 20 : 16 << 20;
  const preparedBytes = isSmall ? 2 << 20 : 8 << 20;
  const operationBytes = isSmall ? 4 << 20 : 16 << 20;
  const readBytes = isSmall ? 4 << 20 : 16 << 20;
  const batchBufferCount = isSmall ? 3 : 8;
  const deltaCount = isSmall
    ? DELTAS_MIN
    : Math.min(DELTAS_MAX, powerOfTwoBelow(usable / 8 / DELTA_BYTES));
  const dedupMax = Math.max(DEDUP_BYTES_MIN, usable / 2);
  const dedupWanted = dedupBytes === 0 ? usable / DEDUP_SHARE : dedupBytes;
  const dedup =
    Math.floor(Math.min(dedupMax, Math.max(DEDUP_BYTES_MIN, dedupWanted)) / 4096) * 4096;
  const fixed =
    SCRATCH_BYTES +
    clientBytes +
    stagingBytes +
    preparedBytes +
    JOBS_BYTES +
    operationBytes +
    readBytes +
    batchBufferCount * BATCH_BUFFER_BYTES +
    2 * FRAME_TABLE_BYTES +
    deltaCount * DELTA_BYTES +
    dedup +
    MATCH_WINDOW_BYTES +
    8192;
  const slotCount = Math.max(64, Math.floor((usable - fixed) / (BLOCK_BYTES + 24)));
  return {
    clientBytes,
    stagingBytes,
    preparedBytes,
    operationBytes,
    readBytes,
    batchBufferCount,
    deltaCount,
    dedupBytes: dedup,
    slotCount,
  };
}

export class BlockMemory {
  readonly shape: BlockMemoryShape;
  /** For other threads. */
  readonly shared: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly view: DataView;
  readonly kernel: KernelExports;
  /** Bytes of address space; touched lazily. */
  readonly totalBytes: number;

  /** 64 KiB for the call that is running: nothing survives an await here. */
  readonly scratchAddress: number;
  /** A block of zeros that nobody writes: copying it is ten times as quick as filling shared memory. */
  readonly zerosAddress: number;
  /** Frames that are compared with blocks: MATCH_WINDOW_BYTES. */
  readonly matchAddress: number;
  readonly jobsAddress: number;
  readonly batchesAddress: number;
  readonly tablesAddress: readonly [number, number];
  readonly deltasAddress: number;
  readonly dedupAddress: number;
  readonly slotsAddress: number;

  /** What clients' payloads may use. */
  readonly clients: BuddyAllocator;
  /** For recovery, checkpoints and footers, which run one at a time and can't wait. */
  readonly staging: BuddyAllocator;
  /** For whole pieces of writes, as long as it lasts: nobody waits for it. */
  readonly prepared: BuddyAllocator;
  /** For requests: see staging.ts. */
  readonly operations: Staging;
  readonly reads: Staging;

  constructor(shape: BlockMemoryShape) {
    this.shape = shape;
    let at = 0;
    const take = (lengthBytes: number): number => {
      const address = at;
      at = alignUp(at + lengthBytes, 4096);
      return address;
    };
    take(64); // address 0 means "nowhere"
    this.scratchAddress = take(SCRATCH_BYTES);
    assert(this.scratchAddress === KERNEL_SCRATCH_ADDRESS, "the kernel knows where its scratch is");
    this.zerosAddress = take(BLOCK_BYTES);
    this.matchAddress = take(MATCH_WINDOW_BYTES);
    const clientsAddress = take(shape.clientBytes);
    const stagingAddress = take(shape.stagingBytes);
    const preparedAddress = take(shape.preparedBytes);
    this.jobsAddress = take(JOBS_BYTES);
    const operationsAddress = take(shape.operationBytes);
    const readsAddress = take(shape.readBytes);
    this.batchesAddress = take(shape.batchBufferCount * BATCH_BUFFER_BYTES);
    this.tablesAddress = [take(FRAME_TABLE_BYTES), take(FRAME_TABLE_BYTES)];
    this.deltasAddress = take(shape.deltaCount * DELTA_BYTES);
    this.dedupAddress = take(shape.dedupBytes);
    this.slotsAddress = take(shape.slotCount * BLOCK_BYTES);
    this.totalBytes = alignUp(at, WASM_PAGE_BYTES);
    const pages = this.totalBytes / WASM_PAGE_BYTES;
    assert(pages <= 65536, "WebAssembly memory is at most 4 GiB");

    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.shared = memory;
    this.bytes = new Uint8Array(memory.buffer);
    this.words = new Uint32Array(memory.buffer);
    this.view = new DataView(memory.buffer);
    this.kernel = instantiate(memory);
    this.clients = new BuddyAllocator({
      baseAddress: clientsAddress,
      chunkBytes: CHUNK_BYTES,
      chunkCount: shape.clientBytes / CHUNK_BYTES,
    });
    this.staging = stagingRegion(stagingAddress, shape.stagingBytes);
    this.prepared = new BuddyAllocator({
      baseAddress: preparedAddress,
      chunkBytes: CHUNK_BYTES,
      chunkCount: shape.preparedBytes / CHUNK_BYTES,
    });
    this.operations = new Staging(stagingRegion(operationsAddress, shape.operationBytes));
    this.reads = new Staging(stagingRegion(readsAddress, shape.readBytes));
  }

  /** XXH64 of a range as a bigint: for headers and tests, not for blocks. */
  hash(address: number, lengthBytes: number): bigint {
    this.kernel.hash(address, lengthBytes, this.scratchAddress);
    return this.view.getBigUint64(this.scratchAddress, true);
  }
}

function stagingRegion(baseAddress: number, lengthBytes: number): BuddyAllocator {
  const chunkBytes = STAGING_PIECE_BYTES_MAX;
  return new BuddyAllocator({ baseAddress, chunkBytes, chunkCount: lengthBytes / chunkBytes });
}

let compiled: WebAssembly.Module | undefined;

/** The kernel over a memory, in this thread. */
export function instantiate(memory: WebAssembly.Memory): KernelExports {
  compiled ??= new WebAssembly.Module(Buffer.from(KERNEL_CODE, "base64"));
  const instance = new WebAssembly.Instance(compiled, { env: { memory } });
  return instance.exports as unknown as KernelExports;
}

function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function powerOfTwoBelow(value: number): number {
  return 2 ** Math.floor(Math.log2(value));
}
