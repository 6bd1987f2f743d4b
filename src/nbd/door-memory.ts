// SPDX-License-Identifier: Apache-2.0
//
// The memory that all connections share: pieces of the slab, lent to requests and replies while they need
// them. An idle connection holds none.
//
//   window    one receive window for all plain sockets: what a read brings is handled before the next
//             read happens, so that one is enough. The bytes before it are for the unread rest of the
//             chunk before, so that a request which was cut in two is in one piece again.
//   output    pieces that replies are gathered in; a reserve of them is never lent to anything else, so
//             that what is finished can always be answered
//   requests  payloads that have to wait: up to MAX_SLAB_PIECE_BYTES each
//
// When there is nothing left, connections wait in line and are woken in turn; whoever is not first in
// line gets nothing, so that a large request isn't overtaken for ever by small ones.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { Slab } from "./block-device.ts";
import { viewOf } from "./codec.ts";

/** Room before the window: for the head of a request, and to keep the window page-aligned. */
const WINDOW_LEAD_BYTES = 4096;
/** One read of a socket. Unix sockets hold about 200 KiB; with its lead it is a power of two. */
export const WINDOW_BYTES: number = (256 << 10) - WINDOW_LEAD_BYTES;
/** Replies of one burst: 32 reads of 4 KiB and more fit. */
export const OUTPUT_PIECE_BYTES: number = 256 << 10;
/** Output pieces that are held for ever, so that replies never wait for payloads. */
const OUTPUT_RESERVE_COUNT = 4;
/** Output pieces that are kept for the next burst instead of going back to the slab. */
const OUTPUT_KEEP_COUNT = 16;
/** Somebody else may have given memory back: those who wait look again after so long. */
const LOOK_AGAIN_MS = 20;

/** Somebody who has finished replies and no memory to write them in. */
export interface OutputWaiter {
  /** There is an output piece again. */
  retryOutput(): void;
}

/** Somebody who waits for memory. */
export interface MemoryWaiter {
  /** Memory was released; false when it isn't enough yet, and the waiter stays first in line. */
  retry(): boolean;
}

export class DoorMemory {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Where the window begins; WINDOW_LEAD_BYTES before it are usable too. */
  readonly windowAddress: number;
  readonly window: Uint8Array;
  readonly #slab: Slab;
  readonly #soon: (callback: () => void) => void;
  readonly #clock: Clock;
  /** Free output pieces, the reserve included. */
  readonly #outputs: number[] = [];
  /** Waits for memory, first come first served. */
  readonly #waiters: MemoryWaiter[] = [];
  /** Wait for an output piece. */
  readonly #outputWaiters: OutputWaiter[] = [];
  /** Pieces that requests and replies hold now. */
  #heldCount = 0;
  #isWaking = false;
  #isServing = false;
  #cancelLook: (() => void) | undefined;
  readonly #wake = (): void => this.#serve();

  constructor(slab: Slab, clock: Clock, soon: (callback: () => void) => void) {
    this.#slab = slab;
    this.#clock = clock;
    this.#soon = soon;
    this.bytes = slab.bytes;
    this.view = viewOf(slab.bytes);
    const lead = this.#reserve(WINDOW_LEAD_BYTES + WINDOW_BYTES);
    this.windowAddress = lead + WINDOW_LEAD_BYTES;
    this.window = this.bytes.subarray(this.windowAddress, this.windowAddress + WINDOW_BYTES);
    for (let count = 0; count < OUTPUT_RESERVE_COUNT; count++) {
      this.#outputs.push(this.#reserve(OUTPUT_PIECE_BYTES));
    }
  }

  get heldCount(): number {
    return this.#heldCount;
  }

  get waiterCount(): number {
    return this.#waiters.length;
  }

  /** A piece for a payload, or -1: wait. */
  take(lengthBytes: number): number {
    if (this.#waiters.length > 0 && !this.#isServing) return -1;
    const address = this.#slab.allocate(lengthBytes);
    if (address >= 0) this.#heldCount += 1;
    return address;
  }

  release(address: number): void {
    this.#heldCount -= 1;
    assert(this.#heldCount >= 0, "no piece is released twice");
    this.#slab.release(address);
    this.#wakeSoon();
  }

  /** An output piece, or -1: wait. Not in line: replies are what frees memory. */
  takeOutput(): number {
    const kept = this.#outputs.pop();
    const address = kept ?? this.#slab.allocate(OUTPUT_PIECE_BYTES);
    if (address >= 0) this.#heldCount += 1;
    return address;
  }

  releaseOutput(address: number): void {
    this.#heldCount -= 1;
    assert(this.#heldCount >= 0, "no output piece is released twice");
    const isKept = this.#waiters.length === 0 && this.#outputs.length < OUTPUT_KEEP_COUNT;
    if (isKept || this.#outputs.length < OUTPUT_RESERVE_COUNT) this.#outputs.push(address);
    else this.#slab.release(address);
    this.#wakeSoon();
  }

  waitForOutput(waiter: OutputWaiter): void {
    assert(!this.#outputWaiters.includes(waiter), "a waiter for output stands in line once");
    this.#outputWaiters.push(waiter);
    this.#lookAgain();
  }

  /** Calls `waiter.retry()` until it says true, each time that memory was released. */
  wait(waiter: MemoryWaiter): void {
    assert(!this.#waiters.includes(waiter), "a waiter stands in line once");
    if (this.#waiters.length === 0) this.#giveBackKept();
    this.#waiters.push(waiter);
    this.#wakeSoon();
    this.#lookAgain();
  }

  forget(waiter: MemoryWaiter | OutputWaiter): void {
    const index = this.#waiters.indexOf(waiter as MemoryWaiter);
    if (index >= 0) this.#waiters.splice(index, 1);
    const outputIndex = this.#outputWaiters.indexOf(waiter as OutputWaiter);
    if (outputIndex >= 0) this.#outputWaiters.splice(outputIndex, 1);
  }

  /** Gives everything back. Nobody may hold or want memory any more. */
  close(): void {
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    assert(this.#heldCount === 0, "memory is given back by those who took it");
    this.#slab.release(this.windowAddress - WINDOW_LEAD_BYTES);
    for (const address of this.#outputs.splice(0)) this.#slab.release(address);
  }

  #giveBackKept(): void {
    while (this.#outputs.length > OUTPUT_RESERVE_COUNT) {
      this.#slab.release(this.#outputs.pop() as number);
    }
  }

  get isAnyoneWaiting(): boolean {
    return this.#waiters.length + this.#outputWaiters.length > 0;
  }

  #wakeSoon(): void {
    // What a waiter gives back because it wasn't enough is no news, least of all for itself.
    if (this.#isWaking || this.#isServing || !this.isAnyoneWaiting) return;
    this.#isWaking = true;
    this.#soon(this.#wake);
  }

  #serve(): void {
    this.#isWaking = false;
    // Once each: whoever finds too little stands in line again.
    for (const waiter of this.#outputWaiters.splice(0)) waiter.retryOutput();
    for (let first = this.#waiters.shift(); first !== undefined; first = this.#waiters.shift()) {
      this.#isServing = true;
      const isServed = first.retry();
      this.#isServing = false;
      if (isServed) continue;
      this.#waiters.unshift(first);
      break;
    }
    if (this.#outputWaiters.length > 0 && this.#outputs.length > 0) this.#wakeSoon();
  }

  #lookAgain(): void {
    this.#cancelLook ??= this.#clock.after(LOOK_AGAIN_MS, () => {
      this.#cancelLook = undefined;
      this.#serve();
      if (this.isAnyoneWaiting) this.#lookAgain();
    });
  }

  #reserve(lengthBytes: number): number {
    const address = this.#slab.allocate(lengthBytes);
    if (address < 0) {
      throw new StorageError(
        "BUSY",
        `nbd door: not started: the memory for clients has no free piece of ${lengthBytes} bytes`,
        { hint: 'give the daemon more memory with "varve serve --memory"' },
      );
    }
    return address;
  }
}
