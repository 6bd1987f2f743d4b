// SPDX-License-Identifier: Apache-2.0
//
// Hands out the clusters of a qcow2 image that is being written, from front to back, and counts their
// references as it goes. The file is cut into spans, each as long as one refcount block can count (2 GiB
// with clusters of 64 KiB), and the block lies at the beginning of its own span:
//
//     | header | block 0 | L1 ... | data, L2 tables ...        | block 1 | data, L2 tables ... | ...
//     0        1         2                          span bytes
//
// So a block is final as soon as the next span begins, and a terabyte needs one block of memory. Clusters
// that hold compressed data count each piece in them; all others count 1. Nothing is ever given back.

import { assert } from "../base/assert.ts";

const REFCOUNT_BYTES = 2;

export interface FinishedBlock {
  readonly offset: number;
  readonly bytes: Buffer;
}

export class ClusterAllocator {
  readonly clusterBytes: number;
  readonly #spanClusters: number;
  /** The next cluster that was never handed out. */
  #next = 0;
  #block: Buffer;
  /** Where the next compressed piece may go: the end of the last one, in a cluster that isn't full. */
  #packOffset = 0;
  /** Blocks whose span is complete, not yet fetched by takeFinished(). */
  #finished: FinishedBlock[] = [];

  constructor(clusterBytes: number) {
    this.clusterBytes = clusterBytes;
    this.#spanClusters = clusterBytes / REFCOUNT_BYTES;
    this.#block = Buffer.alloc(clusterBytes);
    // The header, then the block of the first span: the only one that isn't first in its span.
    this.#next = 2;
    this.#count(0);
    this.#count(1);
  }

  /** The file's length so far: all clusters are below. */
  get endOffset(): number {
    return this.#next * this.clusterBytes;
  }

  get spanBytes(): number {
    return this.#spanClusters * this.clusterBytes;
  }

  /** Up to `count` clusters in a row; the number may be smaller at the end of a span. */
  allocate(count: number): { offset: number; count: number } {
    assert(count > 0, "someone wants clusters");
    if (this.#next % this.#spanClusters === 0) this.#beginSpan();
    const left = this.#spanClusters - (this.#next % this.#spanClusters);
    const got = Math.min(count, left);
    const offset = this.endOffset;
    for (let index = 0; index < got; index += 1) this.#count(this.#next + index);
    this.#next += got;
    return { offset, count: got };
  }

  /** Exactly `count` clusters in a row; leaves the rest of a span unused where they don't fit. */
  allocateWhole(count: number): number {
    assert(count < this.#spanClusters - 2, "a row of clusters fits into a span");
    if (this.#next % this.#spanClusters === 0) this.#beginSpan();
    const left = this.#spanClusters - (this.#next % this.#spanClusters);
    if (left < count) {
      this.#next += left;
      this.#beginSpan();
    }
    return this.allocate(count).offset;
  }

  /** A place for `bytes` of compressed data, right behind the last ones where possible. */
  allocatePacked(bytes: number): number {
    assert(
      bytes > 0 && bytes < this.clusterBytes,
      "a compressed cluster is smaller than a cluster",
    );
    const room =
      Math.ceil(this.#packOffset / this.clusterBytes) * this.clusterBytes - this.#packOffset;
    const isLast = this.#packOffset + room === this.endOffset;
    const mayGrow = isLast && this.#next % this.#spanClusters !== 0;
    if (room === 0 || (room < bytes && !mayGrow)) {
      this.#packOffset = this.allocate(1).offset;
    } else {
      // The cluster that is partly full gets one more reference.
      this.#count(Math.floor(this.#packOffset / this.clusterBytes));
      if (room < bytes) this.allocate(1);
    }
    const offset = this.#packOffset;
    this.#packOffset += bytes;
    return offset;
  }

  /** Blocks that won't change any more. */
  takeFinished(): FinishedBlock[] {
    const finished = this.#finished;
    this.#finished = [];
    return finished;
  }

  /** Ends the allocation: places the refcount table and returns the last block with it. */
  finish(): { tableOffset: number; tableClusters: number; table: Buffer; blocks: FinishedBlock[] } {
    // The table has an entry for each span, perhaps one more because of the table itself.
    const spans = Math.ceil(this.#next / this.#spanClusters) + 1;
    const tableClusters = Math.ceil((spans * 8) / this.clusterBytes);
    const tableOffset = this.allocateWhole(tableClusters);
    this.#finished.push({ offset: this.#blockOffset(), bytes: this.#block });
    const table = Buffer.alloc(tableClusters * this.clusterBytes);
    const used = Math.ceil(this.#next / this.#spanClusters);
    for (let span = 0; span < used; span += 1) {
      const offset = span === 0 ? this.clusterBytes : span * this.spanBytes;
      table.writeBigUInt64BE(BigInt(offset), span * 8);
    }
    return { tableOffset, tableClusters, table, blocks: this.takeFinished() };
  }

  #beginSpan(): void {
    assert(this.#next % this.#spanClusters === 0, "a span begins at its first cluster");
    // #next is already in the new span; the block at hand belongs to the one before.
    const span = this.#next / this.#spanClusters - 1;
    const offset = span === 0 ? this.clusterBytes : span * this.spanBytes;
    this.#finished.push({ offset, bytes: this.#block });
    this.#block = Buffer.alloc(this.clusterBytes);
    this.#packOffset = 0; // the old span's counts are final
    this.#count(this.#next);
    this.#next += 1;
  }

  #blockOffset(): number {
    const span = Math.floor((this.#next - 1) / this.#spanClusters);
    return span === 0 ? this.clusterBytes : span * this.spanBytes;
  }

  #count(cluster: number): void {
    const at = (cluster % this.#spanClusters) * REFCOUNT_BYTES;
    const count = this.#block.readUInt16BE(at) + 1;
    assert(count <= 0xffff, "a cluster is too small for so many pieces");
    this.#block.writeUInt16BE(count, at);
  }
}
