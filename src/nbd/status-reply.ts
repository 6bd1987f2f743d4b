// SPDX-License-Identifier: Apache-2.0
//
// The answer to one BLOCK_STATUS: a chunk for each metadata context, filled while the device tells its
// extents. Descriptors go straight into a piece of slab, with room in front for the chunk's head, which is
// known last. A piece begins small, as most answers are, and is exchanged for one four times as large
// when it is full; where that can't be had, the answer ends there, as the protocol allows: the client asks
// on from where it ended. So an answer is bounded by MAX_SLAB_PIECE_BYTES whatever the device tells.
//
//   piece   [ room for the head | context id, (count) | length flags | length flags | … ]

import { type ExtentSink, MAX_SLAB_PIECE_BYTES, type StatusSource } from "./block-device.ts";
import { writeChunkHeader, writeU64 } from "./codec.ts";
import { EXTENTS_MAX, REPLY_TYPE, WIRE } from "./constants.ts";
import type { InFlight } from "./in-flight.ts";
import { ANSWER, type Request, type RequestOwner } from "./request.ts";

const FIRST_PIECE_BYTES = 4096;
const GROWTH = 4;
/** Head and context in front of the descriptors; a multiple of 16. */
const FRONT_BYTES = 64;

/** A context that was agreed on. */
export interface StatusContext {
  readonly id: number;
  readonly source: StatusSource;
}

export class StatusReply implements RequestOwner, ExtentSink {
  readonly #inFlight: InFlight;
  readonly #subject: Request;
  readonly #contexts: readonly StatusContext[];
  /** A piece for each context, taken together beforehand; -1 once it is on its way out. */
  readonly #pieces: number[];
  readonly #isOne: boolean;
  readonly #descriptorBytes: number;
  #index = 0;
  #pieceBytes = FIRST_PIECE_BYTES;
  /** Where the next descriptor goes, and the one that is being added to. */
  #at = 0;
  #count = 0;
  #lastBytes = 0;
  #lastFlags = 0;
  /** How much of the request's range was described. */
  #describedBytes = 0;

  /** False: no memory now, nothing was begun. */
  static begin(
    inFlight: InFlight,
    subject: Request,
    options: { contexts: readonly StatusContext[]; isOne: boolean },
  ): boolean {
    const pieces: number[] = [];
    while (pieces.length < options.contexts.length) {
      const piece = inFlight.memory.take(FIRST_PIECE_BYTES);
      if (piece < 0) {
        for (const taken of pieces) inFlight.memory.release(taken);
        return false;
      }
      pieces.push(piece);
    }
    new StatusReply(inFlight, subject, { ...options, pieces }).#ask();
    return true;
  }

  private constructor(
    inFlight: InFlight,
    subject: Request,
    options: { contexts: readonly StatusContext[]; isOne: boolean; pieces: number[] },
  ) {
    this.#inFlight = inFlight;
    this.#subject = subject;
    this.#contexts = options.contexts;
    this.#pieces = options.pieces;
    this.#isOne = options.isOne;
    this.#descriptorBytes = inFlight.isExtended ? 16 : 8;
  }

  add(lengthBytes: number, flags: number): boolean {
    const room = this.#subject.lengthBytes - this.#describedBytes;
    const clipped = Math.min(lengthBytes, room);
    if (clipped <= 0) return false;
    if (this.#lastBytes > 0 && flags === this.#lastFlags) this.#lastBytes += clipped;
    else {
      if (this.#lastBytes > 0 && !this.#close()) return false;
      this.#lastBytes = clipped;
      this.#lastFlags = flags;
    }
    this.#describedBytes += clipped;
    return clipped < room;
  }

  completed(request: Request, errno: number): void {
    this.#inFlight.requests.give(request);
    if (errno !== 0) {
      this.#fail(errno);
      return;
    }
    // A device that knows nothing of a range says nothing of it: that is "allocated, not zero".
    if (this.#count === 0 && this.#lastBytes === 0) this.#lastBytes = this.#subject.lengthBytes;
    if (this.#lastBytes > 0) this.#put();
    this.#send();
    this.#index += 1;
    if (this.#index === this.#contexts.length) this.#inFlight.finish(this.#subject, 0);
    else this.#ask();
  }

  #ask(): void {
    const request = this.#inFlight.requests.take();
    request.offsetBytes = this.#subject.offsetBytes;
    request.lengthBytes = this.#subject.lengthBytes;
    request.owner = this;
    this.#pieceBytes = FIRST_PIECE_BYTES;
    this.#at = (this.#pieces[this.#index] as number) + FRONT_BYTES;
    this.#count = 0;
    this.#lastBytes = 0;
    this.#lastFlags = 0;
    this.#describedBytes = 0;
    const context = this.#contexts[this.#index] as StatusContext;
    context.source.blockStatus(request, this);
  }

  /** Writes the descriptor that is complete; false when no other may follow it. */
  #close(): boolean {
    const isLast = this.#isOne || this.#count + 1 >= EXTENTS_MAX;
    // Two must fit: this one and the next.
    if (isLast || !this.#hasRoom(2)) return false;
    this.#put();
    return true;
  }

  #put(): void {
    const { view } = this.#inFlight.memory;
    if (this.#inFlight.isExtended) {
      writeU64(view, this.#at, this.#lastBytes);
      writeU64(view, this.#at + 8, this.#lastFlags);
    } else {
      view.setUint32(this.#at, this.#lastBytes);
      view.setUint32(this.#at + 4, this.#lastFlags);
    }
    this.#at += this.#descriptorBytes;
    this.#count += 1;
    this.#lastBytes = 0;
  }

  #hasRoom(count: number): boolean {
    const piece = this.#pieces[this.#index] as number;
    const needed = this.#at + count * this.#descriptorBytes - piece;
    if (needed <= this.#pieceBytes) return true;
    const grownBytes = this.#pieceBytes * GROWTH;
    if (grownBytes > MAX_SLAB_PIECE_BYTES) return false;
    const { memory } = this.#inFlight;
    const grown = memory.take(grownBytes);
    if (grown < 0) return false;
    memory.bytes.copyWithin(grown, piece, this.#at);
    memory.release(piece);
    this.#at += grown - piece;
    this.#pieces[this.#index] = grown;
    this.#pieceBytes = grownBytes;
    return true;
  }

  /** Writes the chunk's head in front of the descriptors and puts it on its way. */
  #send(): void {
    const { memory, isExtended } = this.#inFlight;
    const piece = this.#pieces[this.#index] as number;
    const context = this.#contexts[this.#index] as StatusContext;
    const idBytes = isExtended ? 8 : 4;
    const payload = piece + FRONT_BYTES - idBytes;
    memory.view.setUint32(payload, context.id);
    if (isExtended) memory.view.setUint32(payload + 4, this.#count);
    const chunk = {
      isExtended,
      isLast: false,
      type: isExtended ? REPLY_TYPE.BLOCK_STATUS_EXT : REPLY_TYPE.BLOCK_STATUS,
      payloadBytes: this.#at - payload,
    };
    const headBytes = isExtended ? WIRE.EXTENDED_REPLY : WIRE.STRUCTURED_REPLY;
    const start = payload - headBytes;
    writeChunkHeader(memory.view, start, this.#subject, chunk);
    const part = this.#inFlight.requests.take();
    part.answer = ANSWER.READY;
    part.piece = piece;
    part.address = start;
    part.lengthBytes = this.#at - start;
    this.#pieces[this.#index] = -1;
    this.#inFlight.answerPart(part);
  }

  #fail(errno: number): void {
    for (const piece of this.#pieces) if (piece >= 0) this.#inFlight.memory.release(piece);
    this.#inFlight.finish(this.#subject, errno);
  }
}
