// SPDX-License-Identifier: Apache-2.0
//
// A payload that wasn't complete in the chunk that its request came in: gathered in a piece of slab, then
// given to the device. Of a write that is larger than a piece, one part at a time is here. The payload of
// a refused request is counted and forgotten, and the refusal sent behind it.
//
// A long rest is received straight into the piece; what comes through the window is copied there.

import type { InFlight } from "./in-flight.ts";
import { LargeWrite } from "./large-write.ts";
import type { Request } from "./request.ts";

/** A payload that misses at least this much is received straight into its piece. */
export const DIRECT_RECEIVE_BYTES_MIN: number = 64 << 10;

export class IncomingPayload {
  readonly #inFlight: InFlight;
  /** Whose payload comes next. One that is refused has its errno already, and no piece. */
  #request: Request | undefined;
  /** So much of it is there. */
  #filledBytes = 0;
  /** The larger write that #request is a part of; set without #request while there is no piece. */
  #large: LargeWrite | undefined;

  constructor(inFlight: InFlight) {
    this.#inFlight = inFlight;
  }

  /** The next bytes are payload. */
  get isExpected(): boolean {
    return this.#request !== undefined;
  }

  /** Memory is held until the client sends. */
  get isHoldingMemory(): boolean {
    return this.#request !== undefined && this.#request.piece >= 0;
  }

  /** The next part of a large write has no piece yet: takePiece(). */
  get isLackingPiece(): boolean {
    return this.#large !== undefined && this.#request === undefined;
  }

  /** A request counts as in flight that isn't with the device, for want of its payload. */
  get isUnfinished(): boolean {
    return this.#large !== undefined || this.#request !== undefined;
  }

  /** The payload of a write that has its piece. */
  expect(request: Request): void {
    this.#request = request;
    this.#filledBytes = 0;
  }

  /** The payload of a write of more than one piece; `piece` is for its first part. */
  expectLarge(subject: Request, piece: number): void {
    this.#large = new LargeWrite(this.#inFlight, subject);
    this.expect(this.#large.nextPart(piece));
  }

  /** The rest of a payload that nobody wants; its request is answered with `request.errno` behind it. */
  expectRefused(request: Request, hereBytes: number): void {
    this.#request = request;
    this.#filledBytes = hereBytes;
  }

  /** Where a long rest is to land; undefined: in the window. */
  directTarget(): Uint8Array | undefined {
    const request = this.#request;
    if (request === undefined || request.piece < 0) return undefined;
    const missing = request.lengthBytes - this.#filledBytes;
    if (missing < DIRECT_RECEIVE_BYTES_MIN) return undefined;
    const from = request.address + this.#filledBytes;
    return this.#inFlight.memory.bytes.subarray(from, from + missing);
  }

  /** Takes what is its own of [at, end) in the slab; returns how much that was. */
  take(at: number, end: number): number {
    const request = this.#request as Request;
    const count = Math.min(request.lengthBytes - this.#filledBytes, end - at);
    if (request.piece >= 0) {
      const { bytes } = this.#inFlight.memory;
      bytes.copyWithin(request.address + this.#filledBytes, at, at + count);
    }
    this.filled(count);
    return count;
  }

  /** So much more is where directTarget() said. */
  filled(countBytes: number): void {
    const request = this.#request as Request;
    this.#filledBytes += countBytes;
    if (this.#filledBytes < request.lengthBytes) return;
    this.#request = undefined;
    if (request.errno === 0) this.#write(request);
    else this.#inFlight.finish(request, request.errno);
  }

  /** Takes the piece for the next part of a large write. False: there is no memory. */
  takePiece(): boolean {
    const large = this.#large as LargeWrite;
    const piece = this.#inFlight.memory.take(large.nextPartBytes);
    if (piece < 0) return false;
    this.expect(large.nextPart(piece));
    return true;
  }

  /** The rest will never come; what is in flight has been closed. */
  drop(): void {
    const request = this.#request;
    const large = this.#large;
    this.#request = undefined;
    this.#large = undefined;
    if (large !== undefined) large.abandon(request);
    else if (request !== undefined) this.#inFlight.drop(request);
  }

  #write(request: Request): void {
    const { device } = this.#inFlight;
    const isLong = request.lengthBytes >= DIRECT_RECEIVE_BYTES_MIN;
    if (isLong || !device.writeNow(request)) device.write(request);
    if (this.#large === undefined) return;
    if (this.#large.isComplete) this.#large = undefined;
    else this.takePiece();
  }
}
