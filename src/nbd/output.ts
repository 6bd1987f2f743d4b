// SPDX-License-Identifier: Apache-2.0
//
// The replies of one connection on their way out. They are written one behind the other into a piece of
// the slab and leave with one socket write per burst; a payload with a piece of its own is not copied but
// sent from where it lies, between the replies around it. A piece is free again once the socket has taken
// it, which for all but slow clients is before send() returns: then one and the same piece serves burst
// after burst. One send is under way at a time; what comes meanwhile is gathered for the next.
//
//   piece   [ sent or in flight | ready | room ]      base ≤ start ≤ end ≤ base + OUTPUT_PIECE_BYTES

import { assert } from "../base/assert.ts";
import type { Socket } from "../host/sockets.ts";
import { type DoorMemory, OUTPUT_PIECE_BYTES } from "./door-memory.ts";

const NONE = -1;

/** Pieces that are given back when a send is done. */
interface Load {
  readonly payloads: number[];
  readonly outputs: number[];
}

export class Output {
  readonly #memory: DoorMemory;
  readonly #socket: Pick<Socket, "send">;
  /** The piece that replies are being written into, or NONE. */
  #base = NONE;
  /** Ready to be sent, not yet in #parts: [#start, #end). */
  #start = 0;
  #end = 0;
  /** Ready before that, in order. */
  #parts: Uint8Array[] = [];
  /** What the next send carries, and what the socket holds now. */
  #next: Load = { payloads: [], outputs: [] };
  #sending: Load = { payloads: [], outputs: [] };
  #isSending = false;
  #partsBytes = 0;
  #sendingBytes = 0;

  constructor(memory: DoorMemory, socket: Pick<Socket, "send">) {
    this.#memory = memory;
    this.#socket = socket;
  }

  /** Bytes that the socket hasn't finished with, and those that are ready. */
  get unsentBytes(): number {
    return this.#sendingBytes + this.#partsBytes + (this.#end - this.#start);
  }

  get isSending(): boolean {
    return this.#isSending;
  }

  /** Where the next `countBytes` of replies go, or -1 when there is no memory. Then commit() them. */
  room(countBytes: number): number {
    if (this.#base !== NONE && this.#end + countBytes <= this.#base + OUTPUT_PIECE_BYTES) {
      return this.#end;
    }
    assert(
      countBytes <= OUTPUT_PIECE_BYTES,
      "a reply in an output piece is no larger than the piece",
    );
    const fresh = this.#memory.takeOutput();
    if (fresh < 0) return NONE;
    if (this.#base !== NONE) {
      this.#cut();
      this.#next.outputs.push(this.#base);
    }
    this.#base = fresh;
    this.#start = fresh;
    this.#end = fresh;
    return fresh;
  }

  commit(countBytes: number): void {
    this.#end += countBytes;
  }

  /** Sends a payload from its own piece, behind what was committed so far; the piece is released then. */
  attach(address: number, lengthBytes: number, piece: number): void {
    this.#cut();
    this.#parts.push(this.#memory.bytes.subarray(address, address + lengthBytes));
    this.#partsBytes += lengthBytes;
    this.#next.payloads.push(piece);
  }

  /** Sends what is ready, unless a send is under way: then sent() will. */
  flush(): void {
    if (this.#isSending) return;
    this.#cut();
    if (this.#parts.length === 0) {
      this.#rest();
      return;
    }
    const parts = this.#parts;
    this.#parts = [];
    this.#sendingBytes = this.#partsBytes;
    this.#partsBytes = 0;
    const load = this.#next;
    this.#next = this.#sending;
    this.#sending = load;
    this.#isSending = true;
    if (this.#socket.send(parts)) this.#done();
  }

  /** The socket is done with the send that was under way. */
  sent(): void {
    assert(this.#isSending, "a send that ends was under way");
    this.#done();
    this.flush();
  }

  /** The socket is gone, and what it held is free. */
  close(): void {
    this.#giveBack(this.#sending);
    this.#giveBack(this.#next);
    if (this.#base !== NONE) this.#memory.releaseOutput(this.#base);
    this.#base = NONE;
    this.#start = 0;
    this.#end = 0;
    this.#parts = [];
    this.#partsBytes = 0;
    this.#sendingBytes = 0;
    this.#isSending = false;
  }

  #done(): void {
    this.#isSending = false;
    this.#sendingBytes = 0;
    this.#giveBack(this.#sending);
    if (this.#start === this.#end && this.#parts.length === 0) this.#rest();
  }

  /** Nothing waits: the piece goes to whoever answers next. */
  #rest(): void {
    if (this.#base === NONE) return;
    this.#memory.releaseOutput(this.#base);
    this.#base = NONE;
    this.#start = 0;
    this.#end = 0;
  }

  /** Makes a part of what was committed since the last cut. */
  #cut(): void {
    if (this.#start === this.#end) return;
    this.#parts.push(this.#memory.bytes.subarray(this.#start, this.#end));
    this.#partsBytes += this.#end - this.#start;
    this.#start = this.#end;
  }

  #giveBack(load: Load): void {
    while (load.payloads.length > 0) this.#memory.release(load.payloads.pop() as number);
    while (load.outputs.length > 0) this.#memory.releaseOutput(load.outputs.pop() as number);
  }
}
