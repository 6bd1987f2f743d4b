// SPDX-License-Identifier: Apache-2.0
//
// Many reads of a disk under way at once, whose bytes come out in the order in which they were asked for: what a backup
// makes of them depends on nothing but the disk. What needs no read (zeros, holes) stands in the same queue.
//
// The bytes lie in one ring of memory. A read gets the next free stretch of it, in one piece; since what was asked for
// first leaves first, what is free is always one stretch, or two at the ends.

import { assert, must } from "../base/assert.ts";
import { EXTENT_KIND } from "./extents.ts";
import { BLOCK_BYTES } from "./place.ts";

const RING_BYTES: number = 16 << 20;
/** As large as a server likes them, small enough that sixteen are under way. */
export const READ_BLOCKS_MAX: number = (1 << 20) / BLOCK_BYTES;
const ENTRIES_MAX = 1024;

export interface OrderedRead {
  readonly lba: number;
  readonly blockCount: number;
  /** See EXTENT_KIND; of frames `bytes` has the content. */
  readonly kind: number;
  readonly bytes: Uint8Array;
}

interface Entry extends OrderedRead {
  readonly done: Promise<void> | undefined;
  /** Of the ring, with what was left out at its end. */
  readonly takenBytes: number;
}

const NO_BYTES: Uint8Array = new Uint8Array(0);

export class OrderedReads {
  readonly #read: (target: Uint8Array, offsetBytes: number) => Promise<void>;
  readonly #sizeBytes: number;
  readonly #ring: Uint8Array = new Uint8Array(RING_BYTES);
  readonly #entries: Entry[] = [];
  /** Entries before this one have left. */
  #first = 0;
  #nextByte = 0;
  #takenBytes = 0;

  constructor(source: {
    readonly sizeBytes: number;
    read(target: Uint8Array, offsetBytes: number): Promise<void>;
  }) {
    this.#read = (target, offsetBytes) => source.read(target, offsetBytes);
    this.#sizeBytes = source.sizeBytes;
  }

  get isEmpty(): boolean {
    return this.#first === this.#entries.length;
  }

  /** Something of that kind and so many blocks may be pushed. */
  hasRoomFor(kind: number, blockCount: number): boolean {
    if (this.#entries.length - this.#first >= ENTRIES_MAX) return false;
    if (kind !== EXTENT_KIND.frames) return true;
    const wanted = blockCount * BLOCK_BYTES;
    return this.#takenBytes + this.#skippedFor(wanted) + wanted <= RING_BYTES;
  }

  push(lba: number, blockCount: number, kind: number): void {
    assert(this.hasRoomFor(kind, blockCount), "who reads ahead waits for room");
    if (kind !== EXTENT_KIND.frames) {
      this.#entries.push({
        lba,
        blockCount,
        kind,
        bytes: NO_BYTES,
        done: undefined,
        takenBytes: 0,
      });
      return;
    }
    assert(blockCount <= READ_BLOCKS_MAX, "a read has a bounded size");
    const lengthBytes = blockCount * BLOCK_BYTES;
    const skipped = this.#skippedFor(lengthBytes);
    const at = (this.#nextByte + skipped) % RING_BYTES;
    const takenBytes = skipped + lengthBytes;
    const bytes = this.#ring.subarray(at, at + lengthBytes);
    this.#takenBytes += takenBytes;
    this.#nextByte = at + lengthBytes;
    const done = this.#begin(bytes, lba * BLOCK_BYTES);
    // Whoever comes to it learns of a failure; until then nobody has to.
    done.catch(() => undefined);
    this.#entries.push({ lba, blockCount, kind, bytes, done, takenBytes });
  }

  /** The oldest one, with its bytes, which stay until `leave`. */
  async front(): Promise<OrderedRead> {
    const entry = must(this.#entries[this.#first], "there is something to wait for");
    await entry.done;
    return entry;
  }

  /** The oldest one is done with. */
  leave(): void {
    const entry = must(this.#entries[this.#first], "what leaves was there");
    this.#takenBytes -= entry.takenBytes;
    this.#first += 1;
    if (this.#takenBytes === 0) this.#nextByte = 0;
    if (this.#first < ENTRIES_MAX) return;
    this.#entries.splice(0, this.#first);
    this.#first = 0;
  }

  /** Resolves when no read is under way, however they end: only then is the disk's connection to be closed. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#entries.slice(this.#first).map(({ done }) => done));
  }

  /** The last block of a disk may be a part of one; what it lacks is zeros. */
  #begin(bytes: Uint8Array, offsetBytes: number): Promise<void> {
    const there = Math.min(bytes.length, this.#sizeBytes - offsetBytes);
    assert(there > 0, "a read lies within the disk");
    bytes.fill(0, there);
    return this.#read(bytes.subarray(0, there), offsetBytes);
  }

  #skippedFor(lengthBytes: number): number {
    const left = RING_BYTES - this.#nextByte;
    return lengthBytes <= left ? 0 : left;
  }
}
