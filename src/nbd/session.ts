// SPDX-License-Identifier: Apache-2.0
//
// The transmission phase of one connection: bytes become requests, requests go to the device, completions
// become replies. This is the data path. It has no promise, closure, BigInt or array per small request:
//
//   a chunk in the window ─ every complete request in it is handled where it lies
//      read  ≤ 32 KiB, in memory   the device fills the output piece, right behind the reply's head
//      write that fits the chunk   the device copies it out of the window
//      write with a missing rest   gets its own piece; a long rest is received straight into it
//   everything that the chunk caused is answered with one socket write
//
// What has to wait (device, memory, a client that doesn't read) stops this connection and no other: the
// rest of its chunk is kept aside, reading pauses, and goes on when there is room again. A request that a
// client got wrong is answered with the error that the specification names; a stream that can't be
// trusted any more ends the connection.

import { assert } from "../base/assert.ts";
import { NBD_ERROR } from "../base/errors.ts";
import type { Socket } from "../host/sockets.ts";
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
import {
  type DoorMemory,
  type MemoryWaiter,
  type OutputWaiter,
  WINDOW_BYTES,
} from "./door-memory.ts";
import { beginGatheredRead, StreamedRead } from "./large-read.ts";
import { LargeWrite } from "./large-write.ts";
import { type Agreement, CONTEXT_COUNT_MAX, type MetaContext } from "./negotiation.ts";
import { Output } from "./output.ts";
import { Replies } from "./replies.ts";
import { ANSWER, type Request, type RequestOwner, type RequestPool } from "./request.ts";
import { StatusReply } from "./status-reply.ts";

/** Requests of one connection that may be on their way: enough for any queue depth in use. */
const REQUESTS_IN_FLIGHT_MAX = 1024;
/** Payload of one connection that may be on its way, replies that the client hasn't read included. */
export const BYTES_IN_FLIGHT_MAX: number = 8 << 20;
/** Reads up to this are answered inside an output piece; larger ones are sent from their own. */
const INLINE_READ_BYTES_MAX: number = 32 << 10;
/** A payload that misses at least this much is received straight into its piece. */
const DIRECT_RECEIVE_BYTES_MIN: number = 64 << 10;
/** While connections keep more than this aside together, sockets are read in small bites. */
const KEPT_BYTES_MAX: number = 16 << 20;
const SMALL_BITE_BYTES = 4096;

/** What all sessions of a server share. */
export interface SessionShare {
  readonly memory: DoorMemory;
  readonly requests: RequestPool;
  /** Flushes this session's output when the current event has been handled. */
  flushSoon(session: Session): void;
  /** A session waits for memory: see that nobody holds it for nothing. */
  memoryIsShort(): void;
  /** Bytes that all sessions together keep aside. */
  keptBytes: number;
}

/** The connection that a session belongs to. */
export interface SessionShell {
  pause(): void;
  resume(): void;
  /** The session is over in good order: everything was answered and sent. */
  finished(): void;
  /** The client broke the protocol: hang up. */
  violated(reason: string): void;
  /** After closed(): nothing of this session is with the device any more. */
  idle(): void;
}

/** Why #begin() didn't get past a request. */
const STALLED = -1;
const NEEDS_MORE = -2;

const NO_BYTES = new Uint8Array(0);
const F = COMMAND_FLAG;

export class Session implements RequestOwner, MemoryWaiter, OutputWaiter {
  readonly device: BlockDevice;
  readonly memory: DoorMemory;
  readonly requests: RequestPool;
  readonly output: Output;
  readonly replies: Replies;
  readonly contexts: readonly MetaContext[];
  readonly isExtended: boolean;
  readonly isStructured: boolean;
  readonly #share: SessionShare;
  readonly #shell: SessionShell;
  readonly #requestMagic: number;
  readonly #headBytes: number;

  /** The request that is being begun: decoded in place of many arguments. */
  #flags = 0;
  #offset = 0;
  #length = 0;
  #head = 0;

  /** Bytes that are here but not handled: the head of a cut request, or all that a stall left over. */
  #kept: Uint8Array = NO_BYTES;
  /** A write whose payload isn't complete: the piece's request, and how much of it is there. */
  #incoming: Request | undefined;
  #incomingBytes = 0;
  /** The larger write that #incoming is a part of; set without #incoming while the next part has no piece. */
  #large: LargeWrite | undefined;
  /** A refused payload: so much of it is still to come, then #skipped is answered. */
  #skipBytes = 0;
  #skipped: Request | undefined;
  /** target() gave out the incoming piece, not the window. */
  #isDirect = false;
  /**
   * The last payload was a long one: the next read takes a head alone, so that the payload behind it
   * goes straight to its place as well, instead of through the window.
   */
  #isLongExpected = false;
  readonly #headTarget: Uint8Array;

  #inFlightCount = 0;
  #inFlightBytes = 0;
  /** Finished, but there was no memory to answer in; in order. */
  #unanswered: Request[] = [];
  #streams = new Set<StreamedRead>();

  /** Reading is paused until completions or the client make room ("load"), or memory comes ("memory"). */
  #stall: "none" | "load" | "memory" = "none";
  /** Inside received() or a resume: replies are flushed at its end. */
  #isHandling = false;
  #isFlushPlanned = false;
  /** Inside retry(): the line for memory is this session's. */
  #isServed = false;
  /** No more requests are taken: finish what is in flight, then say so. */
  #isLeaving = false;
  /** Requests are answered with ESHUTDOWN. */
  #isRefusing = false;
  #isFinished = false;
  #isClosed = false;
  #canSayIdle = false;
  /** Counts reads and sends: a client that holds memory must move. */
  #progress = 0;

  constructor(
    socket: Pick<Socket, "send">,
    options: {
      device: BlockDevice;
      agreement: Agreement;
      share: SessionShare;
      shell: SessionShell;
    },
  ) {
    const { device, agreement, share, shell } = options;
    this.device = device;
    this.memory = share.memory;
    this.requests = share.requests;
    this.contexts = agreement.contexts;
    this.isExtended = agreement.headers === HEADERS.EXTENDED;
    this.isStructured = agreement.headers !== HEADERS.SIMPLE;
    this.output = new Output(share.memory, socket);
    this.replies = new Replies(share.memory, this.output, agreement.headers);
    this.#share = share;
    this.#shell = shell;
    this.#requestMagic = this.isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC;
    this.#headBytes = this.isExtended ? WIRE.EXTENDED_REQUEST : WIRE.REQUEST;
    this.#headTarget = share.memory.window.subarray(0, this.#headBytes);
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  get progress(): number {
    return this.#progress;
  }

  /** Memory is held until the client sends or reads. */
  get isWaitingForClient(): boolean {
    return this.output.isSending || (this.#incoming !== undefined && this.#stall === "none");
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  /** Bytes that came behind the handshake. */
  begin(rest: Uint8Array): void {
    if (rest.length === 0) return;
    this.#keep(rest);
    this.#handleKept();
  }

  /** Where the next bytes are to land. */
  target(): Uint8Array {
    const incoming = this.#incoming;
    const { memory } = this;
    this.#isDirect = false;
    if (incoming !== undefined) {
      const missing = incoming.lengthBytes - this.#incomingBytes;
      if (missing >= DIRECT_RECEIVE_BYTES_MIN) {
        this.#isDirect = true;
        const from = incoming.address + this.#incomingBytes;
        return memory.bytes.subarray(from, from + missing);
      }
    }
    if (this.#isLongExpected && this.#kept.length === 0 && incoming === undefined) {
      return this.#headTarget;
    }
    if (this.#share.keptBytes <= KEPT_BYTES_MAX) return memory.window;
    return memory.window.subarray(0, SMALL_BITE_BYTES);
  }

  received(countBytes: number): void {
    this.#progress += 1;
    if (this.#isLeaving || this.#isClosed) return; // nobody listens any more
    this.#isHandling = true;
    if (this.#isDirect) {
      this.#incomingBytes += countBytes;
      if (this.#incomingBytes === (this.#incoming as Request).lengthBytes) this.#pieceIsThere();
    } else {
      const start = this.memory.windowAddress - this.#kept.length;
      const end = this.memory.windowAddress + countBytes;
      if (this.#kept.length > 0) this.memory.bytes.set(this.#takeKept(), start);
      const stopped = this.#handle(start, end);
      if (stopped < end) this.#keep(this.memory.bytes.slice(stopped, end));
    }
    this.#isHandling = false;
    if (this.#stall !== "none") this.#pause();
    this.#settle();
  }

  /** The socket is done with a send. */
  sent(): void {
    this.#progress += 1;
    this.output.sent();
    this.#settle();
  }

  /** Takes no more requests and finishes; `isRefusing`: answers those that come meanwhile ESHUTDOWN. */
  leave(options: { isRefusing: boolean }): void {
    if (options.isRefusing && this.#inFlightCount > 0) this.#isRefusing = true;
    else this.#isLeaving = true;
    this.#settle();
  }

  /** The socket is gone. */
  closed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.memory.forget(this);
    this.#takeKept();
    this.#dropIncoming();
    for (const request of this.#unanswered.splice(0)) this.#drop(request);
    for (const stream of [...this.#streams]) stream.cancel();
    this.output.close();
    this.#canSayIdle = true;
    this.#sayIdle();
  }

  flushNow(): void {
    this.#isFlushPlanned = false;
    this.#settle();
  }

  /** A request that was answered in one go is done. */
  completed(request: Request, errno: number): void {
    this.finish(request, errno);
  }

  /** Answers `request`, which counts as in flight until then. */
  finish(request: Request, errno: number): void {
    request.errno = errno;
    if (request.piece >= 0 && (errno !== 0 || request.answer === ANSWER.STATUS)) {
      this.memory.release(request.piece);
      request.piece = -1;
    }
    this.answer(request);
    this.#planFlush();
  }

  /** Writes the answer, or puts it in line until there is memory to write it in. */
  answer(request: Request): void {
    if (this.#isClosed) this.#drop(request);
    else if (this.#unanswered.length === 0 && this.replies.write(request)) this.#answered(request);
    else {
      if (this.#unanswered.length === 0) this.memory.waitForOutput(this);
      this.#unanswered.push(request);
    }
  }

  /** A part of an answer: its request is still in flight. */
  answerPart(part: Request): void {
    this.answer(part);
    this.#planFlush();
  }

  retryOutput(): void {
    let count = 0;
    for (const request of this.#unanswered) {
      if (!this.replies.write(request)) break;
      this.#answered(request);
      count += 1;
    }
    this.#unanswered.splice(0, count);
    if (this.#unanswered.length > 0) this.memory.waitForOutput(this);
    this.#planFlush();
  }

  /** There may be memory for the request that stalled. */
  retry(): boolean {
    assert(this.#stall === "memory", "only a session that lacks memory waits for it");
    const before = this.#kept.length;
    const largeBefore = this.#incoming;
    this.#stall = "none";
    this.#isServed = true;
    this.#handleKept();
    this.#isServed = false;
    const isStuck = (this.#stall as string) === "memory";
    if (!isStuck) return true;
    if (this.#kept.length === before && this.#incoming === largeBefore) return false;
    // One request further: to the end of the line.
    this.memory.wait(this);
    return true;
  }

  streamEnded(stream: StreamedRead): void {
    this.#streams.delete(stream);
  }

  // Handling what came

  /** Handles [at, end) of the slab; returns where it stopped: the rest is the head of a request. */
  #handle(start: number, end: number): number {
    let at = start;
    while (at < end && this.#stall === "none" && !this.#isLeaving) {
      if (this.#skipBytes > 0) at += this.#skip(end - at);
      else if (this.#incoming !== undefined) at += this.#fill(at, end);
      else if (end - at < this.#headBytes) break;
      else if (this.#isLoaded()) this.#stall = "load";
      else {
        const next = this.#begin(at, end);
        if (next < 0) break;
        at = next;
      }
    }
    return at;
  }

  /** One request whose head is complete. Returns where the next begins, STALLED or NEEDS_MORE. */
  #begin(at: number, end: number): number {
    const { view } = this.memory;
    if (view.getUint32(at) !== this.#requestMagic)
      return this.#violate("a request without its magic");
    this.#head = at;
    this.#flags = view.getUint16(at + 4);
    this.#offset = readU64(view, at + 16);
    this.#length = this.isExtended ? readU64(view, at + 24) : view.getUint32(at + 24);
    const type = view.getUint16(at + 6);
    if (type === COMMAND.WRITE) return this.#write(at, end);
    this.#isLongExpected = false;
    if ((this.#flags & F.PAYLOAD_LEN) !== 0 && this.isExtended) return this.#withPayload(type, end);
    if (type === COMMAND.READ) return this.#read(at + this.#headBytes);
    return this.#command(type, at + this.#headBytes);
  }

  #command(type: number, next: number): number {
    switch (type) {
      case COMMAND.DISC:
        this.#isLeaving = true;
        return next;
      case COMMAND.FLUSH:
        if (this.#offset !== 0 || this.#length !== 0) {
          return this.#refuse(NBD_ERROR.EINVAL, "flush takes no offset and no length", next);
        }
        return this.#checkAndDo(F.FUA, "flush", next);
      case COMMAND.TRIM:
        return this.#checkAndDo(F.FUA, "trim", next);
      case COMMAND.CACHE:
        return this.#checkAndDo(F.FUA, "cache", next);
      case COMMAND.WRITE_ZEROES:
        return this.#checkAndDo(F.FUA | F.NO_HOLE | F.FAST_ZERO, "writeZeroes", next);
      case COMMAND.BLOCK_STATUS:
        return this.#blockStatus(this.contexts, this.#length, next);
      default:
        return this.#refuse(NBD_ERROR.EINVAL, "unknown command", next);
    }
  }

  #checkAndDo(
    allowedFlags: number,
    command: "flush" | "trim" | "cache" | "writeZeroes",
    next: number,
  ): number {
    const isChange = command === "trim" || command === "writeZeroes";
    const beyond = command === "writeZeroes" ? NBD_ERROR.ENOSPC : NBD_ERROR.EINVAL;
    if (this.#isMisuse(allowedFlags, { isChange, beyond })) return this.#refuseMisuse(next);
    if (this.#length === 0 && command !== "flush") return this.#refuse(0, "", next);
    const request = this.#take(0);
    const isHoleForbidden = (this.#flags & F.NO_HOLE) !== 0;
    switch (command) {
      case "flush":
        this.device.flush(request);
        break;
      case "trim":
        this.device.trim(request);
        break;
      case "cache":
        this.device.cache(request);
        break;
      case "writeZeroes":
        this.device.writeZeroes(request, isHoleForbidden ? NO_HOLE : MAY_HOLE);
        break;
    }
    return next;
  }

  #read(next: number): number {
    const allowed = this.isStructured ? F.FUA | F.DF : F.FUA;
    if (this.#isMisuse(allowed, READING)) return this.#refuseMisuse(next);
    const length = this.#length;
    if (length > BLOCK_SIZE.MAXIMUM) {
      const errno = this.isStructured ? NBD_ERROR.EOVERFLOW : NBD_ERROR.EINVAL;
      return this.#refuse(errno, "a read of more than 32 MiB", next);
    }
    if (length === 0) return this.#refuse(0, "", next, ANSWER.END);
    if (length > MAX_SLAB_PIECE_BYTES) return this.#readLarge(next);
    if (length <= INLINE_READ_BYTES_MAX) {
      const headBytes = this.replies.dataHeadBytes;
      const address = this.output.room(headBytes + length);
      if (address < 0) return this.#stallForMemory();
      if (
        this.#unanswered.length === 0 &&
        this.device.readNow(this.#offset, length, address + headBytes)
      ) {
        this.replies.writeDataHead(address, this.#head, length);
        this.output.commit(headBytes + length);
        return next;
      }
    }
    return this.#readIntoPiece(next);
  }

  #readIntoPiece(next: number): number {
    const piece = this.memory.take(this.#length);
    if (piece < 0) return this.#stallForMemory();
    const request = this.#take(this.#length);
    request.answer = ANSWER.DATA;
    request.piece = piece;
    request.address = piece;
    if (this.device.readNow(this.#offset, this.#length, piece)) request.complete(0);
    else this.device.read(request);
    return next;
  }

  #readLarge(next: number): number {
    const subject = this.#take(this.#length);
    if (this.isStructured && (this.#flags & F.DF) === 0) {
      subject.answer = ANSWER.END;
      subject.owner = undefined;
      const stream = new StreamedRead(this, subject);
      this.#streams.add(stream);
      stream.begin();
      return next;
    }
    subject.answer = ANSWER.DATA;
    subject.owner = undefined;
    if (beginGatheredRead(this, subject)) return next;
    const isHopeless = this.memory.heldCount === 0;
    if (isHopeless) {
      subject.message = "not enough memory for clients";
      this.finish(subject, NBD_ERROR.ENOMEM);
      return next;
    }
    this.#untake(subject);
    return this.#stallForMemory();
  }

  #write(at: number, end: number): number {
    const payload = at + this.#headBytes;
    const length = this.#length;
    // With extended headers a write must carry the payload flag. QEMU (seen with 10.0) leaves it out and
    // sends its payload all the same, so that its absence can't mean that there is none.
    if (length > BLOCK_SIZE.MAXIMUM) return this.#violate(`a write of ${length} bytes`);
    const allowed = this.isExtended ? F.FUA | F.PAYLOAD_LEN : F.FUA;
    if (this.#isMisuse(allowed, WRITING)) {
      return this.#refusePayload(payload, end);
    }
    if (length === 0) return this.#refuse(0, "", payload);
    this.#isLongExpected = length >= DIRECT_RECEIVE_BYTES_MIN;
    if (length > end - payload) return this.#receivePayload(payload);
    const request = this.#take(length);
    request.address = payload;
    if (this.device.writeNow(request)) return payload + length;
    const piece = this.memory.take(length);
    if (piece < 0) {
      request.owner = undefined;
      this.#untake(request);
      return this.#stallForMemory();
    }
    this.memory.bytes.copyWithin(piece, payload, payload + length);
    request.piece = piece;
    request.address = piece;
    this.device.write(request);
    return payload + length;
  }

  /** A write whose payload isn't here yet. */
  #receivePayload(payload: number): number {
    const isLarge = this.#length > MAX_SLAB_PIECE_BYTES;
    const pieceBytes = isLarge ? LargeWrite.firstPartBytes(this.#offset) : this.#length;
    const piece = this.memory.take(pieceBytes);
    if (piece < 0) return this.#stallForMemory();
    const subject = this.#take(this.#length);
    if (isLarge) {
      subject.owner = undefined;
      this.#large = new LargeWrite(this, subject);
      this.#incoming = this.#large.nextPart(piece);
    } else {
      subject.piece = piece;
      subject.address = piece;
      this.#incoming = subject;
    }
    this.#incomingBytes = 0;
    return payload;
  }

  #fill(at: number, end: number): number {
    const incoming = this.#incoming as Request;
    const count = Math.min(incoming.lengthBytes - this.#incomingBytes, end - at);
    this.memory.bytes.copyWithin(incoming.address + this.#incomingBytes, at, at + count);
    this.#incomingBytes += count;
    if (this.#incomingBytes === incoming.lengthBytes) this.#pieceIsThere();
    return count;
  }

  #pieceIsThere(): void {
    const incoming = this.#incoming as Request;
    this.#incoming = undefined;
    this.#incomingBytes = 0;
    if (incoming.lengthBytes >= DIRECT_RECEIVE_BYTES_MIN || !this.device.writeNow(incoming)) {
      this.device.write(incoming);
    }
    const large = this.#large;
    if (large === undefined) return;
    if (large.isComplete) this.#large = undefined;
    else this.#nextPart(large);
  }

  #nextPart(large: LargeWrite): void {
    const piece = this.memory.take(large.nextPartBytes);
    if (piece < 0) {
      this.#stallForMemory();
      return;
    }
    this.#incoming = large.nextPart(piece);
  }

  #withPayload(type: number, end: number): number {
    const payload = this.#head + this.#headBytes;
    const length = this.#length;
    if (length > BLOCK_SIZE.MAXIMUM) return this.#violate(`a payload of ${length} bytes`);
    if (type === COMMAND.BLOCK_STATUS && length >= 12 && length <= STATUS_PAYLOAD_BYTES_MAX) {
      if (payload + length > end) return NEEDS_MORE;
      const contexts = this.#contextsIn(payload, length);
      if (contexts !== undefined) {
        const effectBytes = readU64(this.memory.view, payload);
        return this.#blockStatus(contexts, effectBytes, payload + length);
      }
    }
    this.#misuse = NBD_ERROR.EINVAL;
    this.#misuseText = "a payload that this command doesn't take";
    return this.#refusePayload(payload, end);
  }

  /** The ids of a block-status payload; undefined if they aren't distinct ids of this connection. */
  #contextsIn(payload: number, length: number): readonly MetaContext[] | undefined {
    const count = (length - 8) / 4;
    const contexts: MetaContext[] = [];
    for (let index = 0; index < count; index++) {
      const id = this.memory.view.getUint32(payload + 8 + index * 4);
      const context = this.contexts.find((candidate) => candidate.id === id);
      if (context === undefined || contexts.includes(context)) return undefined;
      contexts.push(context);
    }
    return Number.isInteger(count) ? contexts : undefined;
  }

  #blockStatus(contexts: readonly MetaContext[], length: number, next: number): number {
    this.#length = length;
    const allowed = F.FUA | F.REQ_ONE | (this.isExtended ? F.PAYLOAD_LEN : 0);
    if (this.#isMisuse(allowed, READING)) return this.#refuseMisuse(next);
    if (contexts.length === 0) {
      return this.#refuse(NBD_ERROR.EINVAL, "no metadata context was selected", next);
    }
    if (length === 0) return this.#refuse(NBD_ERROR.EINVAL, "a status of no bytes", next);
    const subject = this.#take(0);
    subject.answer = ANSWER.END;
    subject.owner = undefined;
    const isOne = (this.#flags & F.REQ_ONE) !== 0;
    if (StatusReply.begin(this, subject, { contexts, isOne })) return next;
    this.#untake(subject);
    return this.#stallForMemory();
  }

  // Misuse

  #misuse = 0;
  #misuseText = "";

  /** Checks what all commands have in common; what is wrong goes to #misuse. */
  #isMisuse(allowedFlags: number, rules: { isChange: boolean; beyond: number }): boolean {
    const { sizeBytes, isReadOnly } = this.device;
    if ((this.#flags & ~allowedFlags) !== 0) {
      this.#misuse = NBD_ERROR.EINVAL;
      this.#misuseText = "a flag that this command doesn't take";
    } else if (rules.isChange && isReadOnly) {
      this.#misuse = NBD_ERROR.EPERM;
      this.#misuseText = "the export is read-only";
    } else if (this.#offset > sizeBytes || this.#length > sizeBytes - this.#offset) {
      this.#misuse = rules.beyond;
      this.#misuseText = "beyond the end of the export";
    } else if (this.#isRefusing) {
      this.#misuse = NBD_ERROR.ESHUTDOWN;
      this.#misuseText = "the server is shutting down";
    } else return false;
    return true;
  }

  #refuseMisuse(next: number): number {
    return this.#refuse(this.#misuse, this.#misuseText, next);
  }

  /** Answers at once, without the device. */
  #refuse(
    errno: number,
    message: string,
    next: number,
    answer: Request["answer"] = ANSWER.STATUS,
  ): number {
    const request = this.#take(0);
    request.owner = undefined;
    request.answer = answer;
    request.message = message;
    this.finish(request, errno);
    return next;
  }

  /** Refuses a request whose payload must be read past first. */
  #refusePayload(payload: number, end: number): number {
    const here = Math.min(this.#length, end - payload);
    if (here === this.#length) return this.#refuseMisuse(payload + here);
    const request = this.#take(0);
    request.owner = undefined;
    request.errno = this.#misuse;
    request.message = this.#misuseText;
    this.#skipped = request;
    this.#skipBytes = this.#length - here;
    return end;
  }

  #skip(available: number): number {
    const count = Math.min(this.#skipBytes, available);
    this.#skipBytes -= count;
    const request = this.#skipped;
    if (this.#skipBytes > 0 || request === undefined) return count;
    this.#skipped = undefined;
    this.finish(request, request.errno);
    return count;
  }

  #violate(reason: string): number {
    this.#isLeaving = true;
    this.#shell.violated(reason);
    return STALLED;
  }

  // Books

  /** A request for the one that is being begun. */
  #take(weightBytes: number): Request {
    const { view } = this.memory;
    const request = this.requests.take();
    request.offsetBytes = this.#offset;
    request.lengthBytes = this.#length;
    request.isForceUnitAccess = (this.#flags & F.FUA) !== 0;
    request.cookieHigh = view.getUint32(this.#head + 8);
    request.cookieLow = view.getUint32(this.#head + 12);
    request.offsetHigh = view.getUint32(this.#head + 16);
    request.offsetLow = view.getUint32(this.#head + 20);
    request.weightBytes = weightBytes;
    request.owner = this;
    this.#inFlightCount += 1;
    this.#inFlightBytes += weightBytes;
    return request;
  }

  /** As if it hadn't been begun: it will be, again. */
  #untake(request: Request): void {
    request.owner = undefined;
    this.#inFlightCount -= 1;
    this.#inFlightBytes -= request.weightBytes;
    this.requests.give(request);
  }

  /** The answer is in the output. */
  #answered(request: Request): void {
    if (request.answer >= ANSWER.PART) {
      this.requests.give(request); // its subject is still in flight
      return;
    }
    for (const part of request.parts ?? []) this.requests.give(part);
    request.parts = undefined;
    this.#untake(request);
  }

  /** Ends a request that nobody waits for any more. */
  #drop(request: Request): void {
    if (request.piece >= 0) this.memory.release(request.piece);
    request.piece = -1;
    for (const part of request.parts ?? []) {
      if (part.piece >= 0) this.memory.release(part.piece);
      part.piece = -1;
    }
    this.#answered(request);
    this.#sayIdle();
  }

  /** Tells the connection once, when the device holds nothing of this session any more. */
  #sayIdle(): void {
    if (!this.#canSayIdle || this.#inFlightCount > 0) return;
    this.#canSayIdle = false;
    this.#shell.idle();
  }

  #dropIncoming(): void {
    const incoming = this.#incoming;
    const large = this.#large;
    this.#incoming = undefined;
    this.#large = undefined;
    if (incoming !== undefined) {
      incoming.owner = undefined;
      if (large === undefined) this.#drop(incoming);
      else large.abandon(incoming);
    } else large?.abandon(undefined);
    const skipped = this.#skipped;
    this.#skipped = undefined;
    if (skipped !== undefined) this.#drop(skipped);
  }

  #isLoaded(): boolean {
    return (
      this.#inFlightCount >= REQUESTS_IN_FLIGHT_MAX ||
      this.#inFlightBytes + this.output.unsentBytes >= BYTES_IN_FLIGHT_MAX
    );
  }

  #stallForMemory(): number {
    this.#stall = "memory";
    return STALLED;
  }

  #pause(): void {
    this.#shell.pause();
    if (this.#stall !== "memory") return;
    this.#share.memoryIsShort();
    if (!this.#isServed) this.memory.wait(this);
  }

  /** After anything happened: go on, or go. */
  #settle(): void {
    if (this.#isHandling || this.#isClosed || this.#isFinished) return;
    this.output.flush();
    // What was sent made room for more of a large read.
    if (this.#streams.size > 0) for (const stream of [...this.#streams]) stream.pump();
    if (this.#stall === "load" && this.#hasRoomAgain()) {
      this.#stall = "none";
      this.#handleKept();
      return;
    }
    if (this.#isRefusing && this.#inFlightCount === 0) this.#isLeaving = true;
    if (!this.#isLeaving || this.#openCount() > 0 || this.output.unsentBytes > 0) return;
    this.#isFinished = true;
    this.#shell.finished();
  }

  /** In flight, without a write that will never be complete. */
  #openCount(): number {
    const isCut = this.#incoming !== undefined || this.#large !== undefined;
    return this.#inFlightCount - (isCut || this.#skipped !== undefined ? 1 : 0);
  }

  #hasRoomAgain(): boolean {
    return (
      this.#inFlightCount <= REQUESTS_IN_FLIGHT_MAX / 2 &&
      this.#inFlightBytes + this.output.unsentBytes <= BYTES_IN_FLIGHT_MAX / 2
    );
  }

  #planFlush(): void {
    if (this.#isHandling || this.#isFlushPlanned || this.#isClosed) return;
    this.#isFlushPlanned = true;
    this.#share.flushSoon(this);
  }

  #keep(bytes: Uint8Array): void {
    this.#kept = bytes;
    this.#share.keptBytes += bytes.length;
  }

  #takeKept(): Uint8Array {
    const kept = this.#kept;
    this.#share.keptBytes -= kept.length;
    this.#kept = NO_BYTES;
    return kept;
  }

  /** Handles what was kept aside, window by window, and goes on reading when all of it is done. */
  #handleKept(): void {
    this.#isHandling = true;
    const { memory } = this;
    const large = this.#large;
    if (large !== undefined && this.#incoming === undefined) this.#nextPart(large);
    let rest = this.#takeKept();
    while (this.#stall === "none" && rest.length > 0) {
      const count = Math.min(rest.length, WINDOW_BYTES);
      memory.bytes.set(rest.subarray(0, count), memory.windowAddress);
      const stopped = this.#handle(memory.windowAddress, memory.windowAddress + count);
      const handled = stopped - memory.windowAddress;
      rest = rest.subarray(handled);
      if (handled === 0 || this.#isLeaving) break;
    }
    // A copy, so that the large rest isn't held by the small one.
    if (rest.length > 0) this.#keep(rest.slice());
    this.#isHandling = false;
    if (this.#stall === "none") this.#shell.resume();
    else this.#pause();
    this.#settle();
  }
}

const READING = { isChange: false, beyond: NBD_ERROR.EINVAL } as const;
const WRITING = { isChange: true, beyond: NBD_ERROR.ENOSPC } as const;
const NO_HOLE = { isHoleForbidden: true } as const;
const MAY_HOLE = { isHoleForbidden: false } as const;

/** Effect length and an id for each context. */
const STATUS_PAYLOAD_BYTES_MAX = 8 + 4 * CONTEXT_COUNT_MAX;
