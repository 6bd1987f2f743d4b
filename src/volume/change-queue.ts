// SPDX-License-Identifier: Apache-2.0
//
// Changes that can't take their place in the order at once: parts of blocks, which must be read and merged first;
// large writes, trims and zeroes; and whatever comes while the log or the pool has no room. They take effect in
// the order in which they came, so the order of a volume is always the order of its calls: a later write waits
// behind them too (`isEmpty`), and a read of blocks that they touch (`overlapping`).
//
// Only the last step is in line. What a change needs to read is read as soon as it comes, and blocks of large writes are
// hashed and compressed then, by other threads; when its turn comes, and another change was quicker on the same block,
// the block's reference differs and it is read again, then from memory. Between that check and the appending nothing
// awaits. So no lock is held and nothing is lost.
//
// On a full pool ranges go on: they take a record, not blocks. Only their edges would be new data, and those depend on
// who asks. A client's trim leaves them as they are: it is a hint, and half a block is nothing to give back. Zeroes
// must be zeroes: without room for the edges the whole request is refused, and nothing of it was done. What the pool
// itself clears (the end of a shrunk volume) is a block in a command, and comes from the reserve.

import { AssertionError } from "../base/assert.ts";
import { StorageError, spell } from "../base/errors.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import type { DeviceRequest } from "./device-request.ts";

/** Largest part of a write that one record takes; a larger request may survive a crash as a prefix. */
export const WRITE_BYTES_MAX: number = 1 << 20;

/** A zero keeps its blocks allocated; a clear may make holes of them, like a trim, but always reads as zeros. */
export type ChangeKind = "write" | "zero" | "clear" | "trim";

/** What a queue asks of its volume. */
export interface ChangeTarget {
  readonly memory: BlockMemory;
  readonly sizeBytes: number;
  /** Throws what forbids the request. */
  checkWritable(request: DeviceRequest): void;
  /** Whether so many new blocks may be stored. */
  hasSpace(blockCount: number): boolean;
  /** Waits for space that garbage collection frees; false: there is no garbage. */
  reclaim(): Promise<boolean>;
  /** Hashes and compresses blocks beside the event loop, into a piece of memory; 0: in line is as good. */
  prepareBlocks(blockCount: number, address: number): number | Promise<number>;
  releasePiece(piece: number): void;
  /** The last write had to wait for the blocks that it may be equal to: the next one had better begin early. */
  readonly areTwinsCold: boolean;
  /** Reads where blocks may be stored already, and compares them; returns where they are, two words a block (0: nowhere). */
  fetchTwins(write: WholeBlocks): Promise<Uint32Array>;
  /** When it has changed, more may be found than before. */
  readonly listCount: number;
  hasRoom(blockCount: number): boolean;
  room(blockCount: number): Promise<void>;
  /** Reads blocks one behind the other to `target`; their references, two numbers each. */
  fetch(lbas: readonly number[], target: number): Promise<number[]>;
  isUnchanged(lbas: readonly number[], references: readonly number[]): boolean;
  appendBlocks(lba: number, blockCount: number, address: number): void;
  /** Without what `fetchTwins` found out, only if there is nothing to be waited for: see `APPENDED`. */
  appendWhole(write: WholeBlocks, verified: Uint32Array | undefined): number;
  appendRange(kind: "zero" | "clear" | "trim", lba: number, blockCount: number): void;
  acknowledge(request: DeviceRequest): void;
  report(error: StorageError): void;
}

/** Whole blocks of a write that take one record. */
export interface WholeBlocks {
  readonly lba: number;
  readonly blockCount: number;
  readonly address: number;
  /** Where they were prepared, or 0. */
  readonly piece: number;
}

export const APPENDED = {
  YES: 0,
  /** What isn't stored yet may not be stored. */
  POOL_IS_FULL: 1,
  /** Blocks may be stored already where only the disk can tell. */
  TWINS_ARE_COLD: 2,
} as const;

interface Pending {
  readonly request: DeviceRequest;
  readonly kind: ChangeKind;
  readonly lba: number;
  readonly endLba: number;
  /** Blocks of which only a part changes: none, the first, the last, or both. */
  edges: readonly number[];
  /** Two blocks for the edges, then one piece of the write; 0 where nothing is merged. */
  buffer: number;
  /** Where its blocks were prepared, or 0. */
  piece: number;
  /** Where its blocks were found to be stored already. */
  verified: Uint32Array | undefined;
  references: readonly number[];
  prepared: Promise<void>;
  /** What its blocks may be equal to was fetched, when so many lists of fingerprints had been read; -1: it wasn't. */
  readonly listCount: number;
  readonly done: Promise<void>;
  readonly end: () => void;
}

/** What one record takes. */
interface PartOfWrite {
  readonly at: number;
  readonly lengthBytes: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly address: number;
}

export class ChangeQueue {
  readonly #target: ChangeTarget;
  readonly #queue: Pending[] = [];
  #isDraining = false;

  constructor(target: ChangeTarget) {
    this.#target = target;
  }

  /** Whether a change may take its place at once. */
  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  /** Ends when the last pending change that touches the blocks has taken effect; undefined: there is none. */
  overlapping(lba: number, endLba: number): Promise<void> | undefined {
    for (let index = this.#queue.length - 1; index >= 0; index--) {
      const pending = this.#queue[index] as Pending;
      if (pending.lba < endLba && lba < pending.endLba) return pending.done;
    }
    return undefined;
  }

  /** The request's payload belongs to the queue until the request completes. */
  add(request: DeviceRequest, kind: ChangeKind): void {
    const { promise: done, resolve: end } = Promise.withResolvers<void>();
    const { offsetBytes, lengthBytes } = request;
    const pending: Pending = {
      request,
      kind,
      lba: Math.floor(offsetBytes / BLOCK_BYTES),
      endLba: Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES),
      edges: this.#edgesOf(request, kind),
      buffer: 0,
      piece: 0,
      verified: undefined,
      references: [],
      prepared: Promise.resolve(),
      listCount: this.#target.areTwinsCold ? this.#target.listCount : -1,
      done,
      end,
    };
    if (pending.edges.length > 0) pending.prepared = this.#prepareEdges(pending);
    else if (kind === "write" && lengthBytes > 0) pending.prepared = this.#prepareBlocks(pending);
    pending.prepared.catch(() => undefined); // told when its turn comes
    this.#queue.push(pending);
    if (!this.#isDraining) void this.#drain();
  }

  #edgesOf(request: DeviceRequest, kind: ChangeKind): number[] {
    const { offsetBytes, lengthBytes } = request;
    const end = offsetBytes + lengthBytes;
    const edges: number[] = [];
    if (lengthBytes === 0) return edges;
    if (offsetBytes % BLOCK_BYTES !== 0) edges.push(Math.floor(offsetBytes / BLOCK_BYTES));
    // Behind the end of the volume there is nothing to keep: a range may take its last block whole.
    const isWholeToEnd = kind !== "write" && end === this.#target.sizeBytes;
    const last = Math.floor(end / BLOCK_BYTES);
    if (end % BLOCK_BYTES !== 0 && !isWholeToEnd && last !== edges[0]) edges.push(last);
    return edges;
  }

  /** The first part of a write of whole blocks; mostly there is no other. */
  async #prepareBlocks(pending: Pending): Promise<void> {
    const target = this.#target;
    const { lengthBytes, address } = pending.request;
    const blockCount = Math.min(lengthBytes, WRITE_BYTES_MAX) / BLOCK_BYTES;
    const piece = target.prepareBlocks(blockCount, address);
    pending.piece = typeof piece === "number" ? piece : await piece;
    const { lba, piece: prepared, listCount } = pending;
    if (listCount < 0) return;
    pending.verified = await target.fetchTwins({ lba, blockCount, address, piece: prepared });
  }

  async #prepareEdges(pending: Pending): Promise<void> {
    const { memory } = this.#target;
    const payload =
      pending.kind === "write" ? Math.min(pending.request.lengthBytes, WRITE_BYTES_MAX) : 0;
    const pieceBlocks = payload === 0 ? 0 : Math.ceil(payload / BLOCK_BYTES) + 1;
    pending.buffer = await memory.operations.acquire((2 + pieceBlocks) * BLOCK_BYTES);
    pending.references = await this.#target.fetch(pending.edges, pending.buffer);
  }

  async #drain(): Promise<void> {
    this.#isDraining = true;
    for (let pending = this.#queue[0]; pending !== undefined; pending = this.#queue[0]) {
      const { request } = pending;
      try {
        await pending.prepared;
        this.#target.checkWritable(request);
        // Once complete, the request is its owner's to use again: nothing looks at it any more.
        if (request.lengthBytes === 0) request.complete(0);
        else if (pending.kind === "write") await this.#write(pending);
        else await this.#range(pending, pending.kind);
      } catch (error) {
        if (!(error instanceof StorageError))
          throw error instanceof Error ? error : new AssertionError(String(error));
        if (error.kind !== "invalid") this.#target.report(error);
        request.complete(spell(error.code, "nbd"));
      }
      this.#queue.shift();
      if (pending.buffer !== 0) this.#target.memory.operations.release(pending.buffer);
      if (pending.piece !== 0) this.#target.releasePiece(pending.piece);
      pending.end();
    }
    this.#isDraining = false;
  }

  /** In pieces that end with a block, each a record. Acknowledged in the turn of the last. */
  async #write(pending: Pending): Promise<void> {
    const target = this.#target;
    const { request } = pending;
    const end = request.offsetBytes + request.lengthBytes;
    for (let at = request.offsetBytes; at < end; ) {
      const lba = Math.floor(at / BLOCK_BYTES);
      const left = end - at;
      const lengthBytes = left <= WRITE_BYTES_MAX ? left : WRITE_BYTES_MAX - (at % BLOCK_BYTES);
      const blockCount = Math.ceil((at + lengthBytes) / BLOCK_BYTES) - lba;
      const address = request.address + (at - request.offsetBytes);
      const part = { at, lengthBytes, lba, blockCount, address };
      if (pending.edges.length === 0) await this.#writeWhole(pending, part);
      else {
        while (!target.hasSpace(blockCount)) if (!(await target.reclaim())) throw poolFull();
        await this.#inTurn(pending, blockCount, () => {
          target.appendBlocks(lba, blockCount, this.#compose(pending, part));
          if (at + lengthBytes === end) target.acknowledge(request);
        });
      }
      at += lengthBytes;
    }
  }

  /** Whole blocks: looked for and appended in one turn, as soon as there is room for them. */
  async #writeWhole(pending: Pending, part: PartOfWrite): Promise<void> {
    const target = this.#target;
    const { request } = pending;
    const { at, lengthBytes, lba, blockCount, address } = part;
    const isFirst = at === request.offsetBytes;
    const write = { lba, blockCount, address, piece: isFirst ? pending.piece : 0 };
    let verified = isFirst && pending.listCount === target.listCount ? pending.verified : undefined;
    for (;;) {
      while (!target.hasRoom(blockCount)) await target.room(blockCount);
      const appended = target.appendWhole(write, verified);
      if (appended === APPENDED.YES) break;
      if (appended === APPENDED.TWINS_ARE_COLD) verified = await target.fetchTwins(write);
      else if (!(await target.reclaim())) throw poolFull();
    }
    if (at + lengthBytes === request.offsetBytes + request.lengthBytes) target.acknowledge(request);
  }

  /** Lays the piece over its edge blocks, behind them in the buffer; returns where. */
  #compose(pending: Pending, part: PartOfWrite): number {
    const { bytes } = this.#target.memory;
    const blocks = pending.buffer + 2 * BLOCK_BYTES;
    for (const [index, edge] of pending.edges.entries()) {
      if (edge < part.lba || edge >= part.lba + part.blockCount) continue;
      const source = pending.buffer + index * BLOCK_BYTES;
      bytes.copyWithin(blocks + (edge - part.lba) * BLOCK_BYTES, source, source + BLOCK_BYTES);
    }
    bytes.copyWithin(
      blocks + (part.at - part.lba * BLOCK_BYTES),
      part.address,
      part.address + part.lengthBytes,
    );
    return blocks;
  }

  /** Zeroes or trims: a record for the whole blocks, and the zeroed edges as blocks, in one batch. */
  async #range(pending: Pending, kind: "zero" | "clear" | "trim"): Promise<void> {
    const target = this.#target;
    const { edges, request } = pending;
    const end = request.offsetBytes + request.lengthBytes;
    const first = edges.includes(pending.lba) ? pending.lba + 1 : pending.lba;
    const endWhole = edges.includes(pending.endLba - 1) ? pending.endLba - 1 : pending.endLba;
    if (edges.length > 0 && request.isInternal !== true) {
      const hasSpace = target.hasSpace(edges.length);
      if (!hasSpace && kind !== "trim") throw poolFull();
      if (!hasSpace) pending.edges = [];
    }
    await this.#inTurn(pending, 4, () => {
      for (const [index, lba] of pending.edges.entries()) {
        const block = pending.buffer + index * BLOCK_BYTES;
        const from = Math.max(request.offsetBytes - lba * BLOCK_BYTES, 0);
        const to = Math.min(end - lba * BLOCK_BYTES, BLOCK_BYTES);
        target.memory.bytes.fill(0, block + from, block + to);
        target.appendBlocks(lba, 1, block);
      }
      if (first < endWhole) target.appendRange(kind, first, endWhole - first);
      target.acknowledge(request);
    });
  }

  /** Calls `append` in a turn in which there is room and the edges that were read are still the newest. */
  async #inTurn(pending: Pending, roomBlocks: number, append: () => void): Promise<void> {
    const target = this.#target;
    for (;;) {
      while (!target.hasRoom(roomBlocks)) await target.room(roomBlocks);
      // From here to append() nothing awaits: what is checked stays true.
      if (pending.edges.length === 0 || target.isUnchanged(pending.edges, pending.references)) {
        append();
        return;
      }
      pending.references = await target.fetch(pending.edges, pending.buffer);
    }
  }
}

function poolFull(): StorageError {
  return new StorageError("POOL_FULL", "write: refused: the pool is full");
}
