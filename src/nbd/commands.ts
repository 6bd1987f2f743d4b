// SPDX-License-Identifier: Apache-2.0
//
// What each command does: a request whose head is complete is decoded where it lies in the slab, checked,
// and given to the device or answered at once. begin() is called for one request after the other; what it
// decodes is kept in fields instead of being handed from function to function.
//
//   read  ≤ 32 KiB, in memory   the device fills the output piece, right behind the reply's head
//         up to a piece         into a piece of its own, which is sent from there
//         larger                large-read.ts
//   write that fits the chunk   the device copies it out of the window, or else it is moved to a piece
//         with a missing rest   incoming-payload.ts
//   everything else             one call of the device, which carries no payload
//
// A request that a client got wrong is answered with the error that the specification names, and a
// sentence for the human. A stream that can't be trusted any more is a violation.

import { type BlockDevice, MAX_SLAB_PIECE_BYTES } from "./block-device.ts";
import { HEADERS, readU64 } from "./codec.ts";
import {
  BLOCK_SIZE,
  COMMAND,
  COMMAND_FLAG,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_MAGIC,
  WIRE,
} from "./constants.ts";
import type { DoorMemory } from "./door-memory.ts";
import type { InFlight } from "./in-flight.ts";
import { DIRECT_RECEIVE_BYTES_MIN, type IncomingPayload } from "./incoming-payload.ts";
import { beginGatheredRead, StreamedRead } from "./large-read.ts";
import { type Agreement, CONTEXT_COUNT_MAX } from "./negotiation.ts";
import type { Output } from "./output.ts";
import {
  NOTHING_WRONG,
  READING,
  REFUSAL,
  type Refusal,
  type Rules,
  TRIMMING,
  WRITING,
} from "./refusals.ts";
import type { Replies } from "./replies.ts";
import { ANSWER, type Answer, partBytesMax, type Request } from "./request.ts";
import { type StatusContext, StatusReply } from "./status-reply.ts";

/** Reads up to this are answered inside an output piece; larger ones are sent from their own. */
const INLINE_READ_BYTES_MAX: number = 32 << 10;
/** Effect length and an id for each context. */
const STATUS_PAYLOAD_BYTES_MAX = 8 + 4 * CONTEXT_COUNT_MAX;

/** Why begin() took no request: below every address. */
export const HALT = {
  /** The rest of the request isn't here yet. */
  NEEDS_MORE: -1,
  /** No memory: begin the same request again when there may be some. */
  NO_MEMORY: -2,
  /** The client takes its leave. */
  GOODBYE: -3,
  /** The client broke the protocol: see `violation`. */
  VIOLATION: -4,
} as const;

const F = COMMAND_FLAG;

export class Commands {
  /** Of a request, without its payload. */
  readonly headBytes: number;
  /** Requests are answered with ESHUTDOWN. */
  isRefusing = false;
  /** How the client broke the protocol. */
  violation = "";
  /**
   * The last payload was a long one: the next read takes a head alone, so that the payload behind it
   * goes straight to its place as well, instead of through the window.
   */
  isLongExpected = false;
  readonly #device: BlockDevice;
  readonly #memory: DoorMemory;
  readonly #output: Output;
  readonly #replies: Replies;
  readonly #inFlight: InFlight;
  readonly #payload: IncomingPayload;
  readonly #contexts: readonly StatusContext[];
  readonly #isExtended: boolean;
  readonly #isStructured: boolean;
  readonly #requestMagic: number;

  /** The request that is being begun. */
  #flags = 0;
  #offset = 0;
  #length = 0;
  #head = 0;

  constructor(options: {
    inFlight: InFlight;
    payload: IncomingPayload;
    agreement: Pick<Agreement, "headers">;
    contexts: readonly StatusContext[];
  }) {
    const { inFlight, payload, agreement, contexts } = options;
    this.#device = inFlight.device;
    this.#memory = inFlight.memory;
    this.#output = inFlight.output;
    this.#replies = inFlight.replies;
    this.#inFlight = inFlight;
    this.#payload = payload;
    this.#contexts = contexts;
    this.#isExtended = inFlight.isExtended;
    this.#isStructured = agreement.headers !== HEADERS.SIMPLE;
    this.#requestMagic = this.#isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC;
    this.headBytes = this.#isExtended ? WIRE.EXTENDED_REQUEST : WIRE.REQUEST;
  }

  /** One request, whose head lies at `at`. Returns where the next begins, or why this one didn't: HALT. */
  begin(at: number, end: number): number {
    const { view } = this.#memory;
    if (view.getUint32(at) !== this.#requestMagic) {
      return this.#violate("a request without its magic");
    }
    this.#head = at;
    this.#flags = view.getUint16(at + 4);
    this.#offset = readU64(view, at + 16);
    this.#length = this.#isExtended ? readU64(view, at + 24) : view.getUint32(at + 24);
    const type = view.getUint16(at + 6);
    const next = at + this.headBytes;
    if (type === COMMAND.WRITE) return this.#write(next, end);
    this.isLongExpected = false;
    if (this.#isExtended && (this.#flags & F.PAYLOAD_LEN) !== 0) {
      return this.#withPayload(type, next, end);
    }
    if (type === COMMAND.READ) return this.#read(next);
    return this.#command(type, next);
  }

  // Read

  #read(next: number): number {
    const refusal = this.#refusalOf(this.#isStructured ? F.FUA | F.DF : F.FUA, READING);
    if (refusal !== undefined) return this.#refuse(refusal, next);
    const length = this.#length;
    if (length > BLOCK_SIZE.MAXIMUM) {
      return this.#refuse(this.#isStructured ? REFUSAL.OVERFLOW : REFUSAL.LONG_READ, next);
    }
    if (length === 0) {
      this.#answer(ANSWER.END);
      return next;
    }
    if (length > MAX_SLAB_PIECE_BYTES) return this.#readLarge(next);
    if (length > INLINE_READ_BYTES_MAX) return this.#readIntoPiece(next);
    const headBytes = this.#replies.dataHeadBytes;
    const address = this.#output.room(headBytes + length);
    if (address < 0) return HALT.NO_MEMORY;
    const isRead =
      !this.#inFlight.isAnyUnanswered &&
      this.#device.readNow(this.#offset, length, address + headBytes);
    if (!isRead) return this.#readIntoPiece(next);
    this.#replies.writeDataHead(address, this.#head, length);
    this.#output.commit(headBytes + length);
    return next;
  }

  #readIntoPiece(next: number): number {
    const piece = this.#memory.take(this.#length);
    if (piece < 0) return HALT.NO_MEMORY;
    const request = this.#take(this.#length);
    request.answer = ANSWER.DATA;
    request.piece = piece;
    request.address = piece;
    if (this.#device.readNow(this.#offset, this.#length, piece)) request.complete(0);
    else this.#device.read(request);
    return next;
  }

  #readLarge(next: number): number {
    const subject = this.#take(this.#length);
    if (this.#isStructured && (this.#flags & F.DF) === 0) {
      subject.answer = ANSWER.END;
      new StreamedRead(this.#inFlight, subject).begin();
      return next;
    }
    subject.answer = ANSWER.DATA;
    if (beginGatheredRead(this.#inFlight, subject)) return next;
    this.#inFlight.untake(subject);
    const isHopeless = this.#memory.heldCount === 0;
    return isHopeless ? this.#refuse(REFUSAL.NO_MEMORY, next) : HALT.NO_MEMORY;
  }

  // Write

  #write(payload: number, end: number): number {
    const length = this.#length;
    // With extended headers a write must carry the payload flag. QEMU (seen with 10.0) leaves it out and
    // sends its payload all the same, so that its absence can't mean that there is none.
    if (length > BLOCK_SIZE.MAXIMUM) return this.#violate(`a write of ${length} bytes`);
    const refusal = this.#refusalOf(this.#isExtended ? F.FUA | F.PAYLOAD_LEN : F.FUA, WRITING);
    if (refusal !== undefined) return this.#refusePayload(refusal, payload, end);
    if (length === 0) {
      this.#answer(ANSWER.STATUS);
      return payload;
    }
    this.isLongExpected = length >= DIRECT_RECEIVE_BYTES_MIN;
    if (length > end - payload) return this.#awaitPayload(payload);
    const request = this.#take(length);
    request.address = payload;
    if (this.#device.writeNow(request)) return payload + length;
    const piece = this.#memory.take(length);
    if (piece < 0) {
      this.#inFlight.untake(request);
      return HALT.NO_MEMORY;
    }
    this.#memory.bytes.copyWithin(piece, payload, payload + length);
    request.piece = piece;
    request.address = piece;
    this.#device.write(request);
    return payload + length;
  }

  /** A write whose payload isn't all here; what is here will be taken from `payload` on. */
  #awaitPayload(payload: number): number {
    const isLarge = this.#length > MAX_SLAB_PIECE_BYTES;
    const piece = this.#memory.take(isLarge ? partBytesMax(this.#offset) : this.#length);
    if (piece < 0) return HALT.NO_MEMORY;
    const request = this.#take(this.#length);
    if (isLarge) this.#payload.expectLarge(request, piece);
    else {
      request.piece = piece;
      request.address = piece;
      this.#payload.expect(request);
    }
    return payload;
  }

  // Everything else

  #command(type: number, next: number): number {
    switch (type) {
      case COMMAND.DISC:
        return HALT.GOODBYE;
      case COMMAND.FLUSH:
        return this.#flush(next);
      case COMMAND.TRIM: {
        const request = this.#accept(F.FUA, TRIMMING);
        if (request !== undefined) this.#device.trim(request);
        return next;
      }
      case COMMAND.CACHE: {
        const request = this.#accept(F.FUA, READING);
        if (request !== undefined) this.#device.cache(request);
        return next;
      }
      case COMMAND.WRITE_ZEROES: {
        const request = this.#accept(F.FUA | F.NO_HOLE | F.FAST_ZERO, WRITING);
        const options = (this.#flags & F.NO_HOLE) !== 0 ? NO_HOLE : MAY_HOLE;
        if (request !== undefined) this.#device.writeZeroes(request, options);
        return next;
      }
      case COMMAND.BLOCK_STATUS:
        return this.#blockStatus(this.#contexts, next);
      default:
        return this.#refuse(REFUSAL.UNKNOWN_COMMAND, next);
    }
  }

  #flush(next: number): number {
    if (this.#offset !== 0 || this.#length !== 0) return this.#refuse(REFUSAL.FLUSH_RANGE, next);
    const refusal = this.#refusalOf(F.FUA, READING);
    if (refusal !== undefined) return this.#refuse(refusal, next);
    this.#device.flush(this.#take(0));
    return next;
  }

  #blockStatus(contexts: readonly StatusContext[], next: number): number {
    const allowed = F.FUA | F.REQ_ONE | (this.#isExtended ? F.PAYLOAD_LEN : 0);
    const refusal = this.#refusalOf(allowed, READING);
    if (refusal !== undefined) return this.#refuse(refusal, next);
    if (contexts.length === 0) return this.#refuse(REFUSAL.NO_CONTEXT, next);
    if (this.#length === 0) return this.#refuse(REFUSAL.EMPTY_STATUS, next);
    const subject = this.#take(0);
    subject.answer = ANSWER.END;
    const isOne = (this.#flags & F.REQ_ONE) !== 0;
    if (StatusReply.begin(this.#inFlight, subject, { contexts, isOne })) return next;
    this.#inFlight.untake(subject);
    return HALT.NO_MEMORY;
  }

  /** Extended headers, and a payload on something else than a write. */
  #withPayload(type: number, payload: number, end: number): number {
    const length = this.#length;
    if (length > BLOCK_SIZE.MAXIMUM) return this.#violate(`a payload of ${length} bytes`);
    if (type === COMMAND.BLOCK_STATUS && length >= 12 && length <= STATUS_PAYLOAD_BYTES_MAX) {
      if (payload + length > end) return HALT.NEEDS_MORE;
      const contexts = this.#contextsIn(payload, length);
      if (contexts !== undefined) {
        this.#length = readU64(this.#memory.view, payload);
        return this.#blockStatus(contexts, payload + length);
      }
    }
    return this.#refusePayload(REFUSAL.PAYLOAD, payload, end);
  }

  /** The ids of a block-status payload; undefined if they aren't distinct ids of this connection. */
  #contextsIn(payload: number, length: number): readonly StatusContext[] | undefined {
    const count = (length - 8) / 4;
    const contexts: StatusContext[] = [];
    for (let index = 0; index < count; index++) {
      const id = this.#memory.view.getUint32(payload + 8 + index * 4);
      const context = this.#contexts.find((candidate) => candidate.id === id);
      if (context === undefined || contexts.includes(context)) return undefined;
      contexts.push(context);
    }
    return Number.isInteger(count) ? contexts : undefined;
  }

  // Right or wrong

  /** Checks what all commands have in common. */
  #refusalOf(allowedFlags: number, rules: Rules): Refusal | undefined {
    const { sizeBytes, isReadOnly } = this.#device;
    if ((this.#flags & ~allowedFlags) !== 0) return REFUSAL.FLAG;
    if (rules.isChange && isReadOnly) return REFUSAL.READ_ONLY;
    if (this.#offset > sizeBytes || this.#length > sizeBytes - this.#offset) return rules.beyond;
    return this.isRefusing ? REFUSAL.SHUTDOWN : undefined;
  }

  /** The request for the device; undefined: it has been answered, refused or because it does nothing. */
  #accept(allowedFlags: number, rules: Rules): Request | undefined {
    const refusal = this.#refusalOf(allowedFlags, rules);
    if (refusal === undefined && this.#length > 0) return this.#take(0);
    this.#answer(ANSWER.STATUS, refusal);
    return undefined;
  }

  #refuse(refusal: Refusal, next: number): number {
    this.#answer(ANSWER.STATUS, refusal);
    return next;
  }

  /** Refuses a request whose payload must be read past first. */
  #refusePayload(refusal: Refusal, payload: number, end: number): number {
    const here = Math.min(this.#length, end - payload);
    if (here === this.#length) return this.#refuse(refusal, payload + here);
    const request = this.#take(0);
    request.errno = refusal.errno;
    request.message = refusal.message;
    this.#payload.expectRefused(request, here);
    return end;
  }

  #violate(violation: string): number {
    this.violation = violation;
    return HALT.VIOLATION;
  }

  /** Answers at once, without the device. */
  #answer(answer: Answer, refusal: Refusal = NOTHING_WRONG): void {
    const request = this.#take(0);
    request.answer = answer;
    request.message = refusal.message;
    this.#inFlight.finish(request, refusal.errno);
  }

  /** A request in flight for the one that is being begun. */
  #take(weightBytes: number): Request {
    const { view } = this.#memory;
    const request = this.#inFlight.take(weightBytes);
    request.offsetBytes = this.#offset;
    request.lengthBytes = this.#length;
    request.isForceUnitAccess = (this.#flags & F.FUA) !== 0;
    request.cookieHigh = view.getUint32(this.#head + 8);
    request.cookieLow = view.getUint32(this.#head + 12);
    request.offsetHigh = view.getUint32(this.#head + 16);
    request.offsetLow = view.getUint32(this.#head + 20);
    return request;
  }
}

const NO_HOLE = { isHoleForbidden: true } as const;
const MAY_HOLE = { isHoleForbidden: false } as const;
