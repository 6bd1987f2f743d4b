// SPDX-License-Identifier: Apache-2.0
//
// Writes the answer to a finished request into a connection's output, in the form that was negotiated:
// simple replies, structured chunks, or extended ones. write() either writes all of an answer or, when
// there is no memory for it, nothing.
//
//   simple       success and data behind one 16-byte head; an error is the head alone
//   structured   data in chunks; success without data stays a simple reply, which is shorter; errors are
//                chunks with a sentence for the human
//   extended     everything is a chunk

import { assert } from "../base/assert.ts";
import {
  type Chunk,
  HEADERS,
  type Headers,
  writeChunkHeader,
  writeSimpleReply,
  writeU64,
} from "./codec.ts";
import {
  EXTENDED_REPLY_MAGIC,
  REPLY_FLAG,
  REPLY_TYPE,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  WIRE,
} from "./constants.ts";
import type { DoorMemory } from "./door-memory.ts";
import type { Output } from "./output.ts";
import { ANSWER, type Request } from "./request.ts";

/** Reads up to this are copied behind their head; a part of its own costs more than the copy. */
const COPIED_READ_BYTES_MAX = 16384;

/** Largest head without data: an error chunk with a message. */
const MESSAGE_BYTES_MAX = 128;

export class Replies {
  readonly #memory: DoorMemory;
  readonly #output: Output;
  readonly #headers: Headers;
  /** Bytes in front of the data of a read that is answered in one go. */
  readonly dataHeadBytes: number;

  constructor(memory: DoorMemory, output: Output, headers: Headers) {
    this.#memory = memory;
    this.#output = output;
    this.#headers = headers;
    this.dataHeadBytes = DATA_HEAD_BYTES[headers];
  }

  /** False: no memory, nothing was written. */
  write(request: Request): boolean {
    if (request.errno !== 0) return this.#error(request);
    switch (request.answer) {
      case ANSWER.STATUS:
        return this.#status(request, this.#headers === HEADERS.EXTENDED);
      case ANSWER.END:
        return this.#status(request, this.#headers !== HEADERS.SIMPLE);
      case ANSWER.DATA:
        return this.#data(request, true);
      case ANSWER.PART:
        return this.#data(request, false);
      case ANSWER.HOLE:
        return this.#hole(request);
      case ANSWER.READY:
        this.#output.attach(request.address, request.lengthBytes, request.piece);
        request.piece = -1;
        return true;
    }
  }

  /**
   * The head of a successful read whose request lies at `head` in the slab, for data that lies behind it:
   * the fast path, which copies cookie and offset from one to the other.
   */
  writeDataHead(address: number, head: number, lengthBytes: number): void {
    const { view } = this.#memory;
    const cookieHigh = view.getUint32(head + 8);
    const cookieLow = view.getUint32(head + 12);
    if (this.#headers === HEADERS.SIMPLE) {
      view.setUint32(address, SIMPLE_REPLY_MAGIC);
      view.setUint32(address + 4, 0);
      view.setUint32(address + 8, cookieHigh);
      view.setUint32(address + 12, cookieLow);
      return;
    }
    const offsetHigh = view.getUint32(head + 16);
    const offsetLow = view.getUint32(head + 20);
    const isExtended = this.#headers === HEADERS.EXTENDED;
    view.setUint32(address, isExtended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
    view.setUint16(address + 4, REPLY_FLAG.DONE);
    view.setUint16(address + 6, REPLY_TYPE.OFFSET_DATA);
    view.setUint32(address + 8, cookieHigh);
    view.setUint32(address + 12, cookieLow);
    let at = address + 16;
    if (isExtended) {
      view.setUint32(at, offsetHigh);
      view.setUint32(at + 4, offsetLow);
      view.setUint32(at + 8, 0);
      at += 12;
    }
    view.setUint32(at, lengthBytes + 8);
    view.setUint32(at + 4, offsetHigh);
    view.setUint32(at + 8, offsetLow);
  }

  #status(request: Request, isChunk: boolean): boolean {
    const address = this.#output.room(WIRE.EXTENDED_REPLY);
    if (address < 0) return false;
    const { view } = this.#memory;
    const count = isChunk
      ? writeChunkHeader(view, address, request, this.#chunk(REPLY_TYPE.NONE, 0, true))
      : writeSimpleReply(view, address, request, 0);
    this.#output.commit(count);
    return true;
  }

  #error(request: Request): boolean {
    const address = this.#output.room(WIRE.EXTENDED_REPLY + 6 + MESSAGE_BYTES_MAX);
    if (address < 0) return false;
    const { view, bytes } = this.#memory;
    if (this.#headers === HEADERS.SIMPLE) {
      this.#output.commit(writeSimpleReply(view, address, request, request.errno));
      return true;
    }
    const { message } = request;
    assert(message.length <= MESSAGE_BYTES_MAX, "messages in error chunks are short");
    const chunk = this.#chunk(REPLY_TYPE.ERROR, 6 + message.length, true);
    let at = address + writeChunkHeader(view, address, request, chunk);
    view.setUint32(at, request.errno);
    view.setUint16(at + 4, message.length);
    at += 6;
    for (let index = 0; index < message.length; index++) bytes[at++] = message.charCodeAt(index);
    this.#output.commit(at - address);
    return true;
  }

  #data(request: Request, isLast: boolean): boolean {
    const { lengthBytes, piece, parts } = request;
    const isCopied = piece >= 0 && lengthBytes <= COPIED_READ_BYTES_MAX;
    const headBytes = this.dataHeadBytes;
    const address = this.#output.room(headBytes + (isCopied ? lengthBytes : 0));
    if (address < 0) return false;
    this.#dataHead(address, request, isLast);
    this.#output.commit(headBytes);
    if (isCopied) {
      this.#memory.bytes.copyWithin(address + headBytes, piece, piece + lengthBytes);
      this.#output.commit(lengthBytes);
      this.#memory.release(piece);
    } else if (parts === undefined) this.#output.attach(piece, lengthBytes, piece);
    for (const part of parts ?? []) {
      this.#output.attach(part.piece, part.lengthBytes, part.piece);
      part.piece = -1;
    }
    request.piece = -1;
    return true;
  }

  #dataHead(address: number, request: Request, isLast: boolean): void {
    const { view } = this.#memory;
    if (this.#headers === HEADERS.SIMPLE) {
      writeSimpleReply(view, address, request, 0);
      return;
    }
    const chunk = this.#chunk(REPLY_TYPE.OFFSET_DATA, 8 + request.lengthBytes, isLast);
    const count = writeChunkHeader(view, address, request, chunk);
    writeU64(view, address + count, request.offsetBytes);
  }

  #hole(request: Request): boolean {
    const address = this.#output.room(WIRE.EXTENDED_REPLY + 12);
    if (address < 0) return false;
    const { view } = this.#memory;
    const chunk = this.#chunk(REPLY_TYPE.OFFSET_HOLE, 12, false);
    const count = writeChunkHeader(view, address, request, chunk);
    writeU64(view, address + count, request.offsetBytes);
    view.setUint32(address + count + 8, request.lengthBytes);
    this.#output.commit(count + 12);
    return true;
  }

  #chunk(type: number, payloadBytes: number, isLast: boolean): Chunk {
    return { isExtended: this.#headers === HEADERS.EXTENDED, isLast, type, payloadBytes };
  }
}

/** The head of a read's data; chunks name the offset. */
const DATA_HEAD_BYTES: Readonly<Record<Headers, number>> = {
  [HEADERS.SIMPLE]: WIRE.SIMPLE_REPLY,
  [HEADERS.STRUCTURED]: WIRE.STRUCTURED_REPLY + 8,
  [HEADERS.EXTENDED]: WIRE.EXTENDED_REPLY + 8,
};
