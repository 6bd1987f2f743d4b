// SPDX-License-Identifier: Apache-2.0
//
// Reads of more than one piece of slab (1 MiB), up to 32 MiB, in two ways:
//
// Streamed, where replies may be chunks: the device first says where holes are, which cost 12 bytes each
// instead of zeroes; data is read piece by piece, a few at a time, and each piece is a chunk that leaves
// as soon as it is there. An error in one piece ends the reply with an error chunk.
//
// Gathered, for simple replies and for DF: the head promises success for all that follows, so that all
// pieces must be there first. They are taken together or not at all, so that two such reads can't wait
// for each other's memory.

import { ALLOCATION, type ExtentSink, MAX_SLAB_PIECE_BYTES } from "./block-device.ts";
import type { MemoryWaiter } from "./door-memory.ts";
import type { InFlight } from "./in-flight.ts";
import { ANSWER, partBytesMax, type Request, type RequestOwner } from "./request.ts";

/** Pieces of one streamed read that are being read or wait to be sent. */
const PARTS_AHEAD_MAX = 4;
/** A smaller hole isn't worth a chunk: it is read as zeroes. */
const HOLE_BYTES_MIN: number = 64 << 10;
/** Extents of one read that are looked at; what lies behind is read as data. */
const EXTENT_COUNT_MAX = 1024;

/** False: there is no memory for all of it now, and nothing was begun. */
export function beginGatheredRead(inFlight: InFlight, subject: Request): boolean {
  const { memory, requests, device } = inFlight;
  const parts: Request[] = [];
  const end = subject.offsetBytes + subject.lengthBytes;
  for (let offset = subject.offsetBytes; offset < end; ) {
    const lengthBytes = Math.min(partBytesMax(offset), end - offset);
    const piece = memory.take(lengthBytes);
    if (piece < 0) {
      for (const part of parts) inFlight.givePart(part);
      return false;
    }
    const part = requests.take();
    part.offsetBytes = offset;
    part.lengthBytes = lengthBytes;
    part.piece = piece;
    part.address = piece;
    parts.push(part);
    offset += lengthBytes;
  }
  const gathering = new Gathering(inFlight, subject, parts);
  for (const part of parts) part.owner = gathering;
  for (const part of parts) {
    if (device.readNow(part.offsetBytes, part.lengthBytes, part.address)) part.complete(0);
    else device.read(part);
  }
  return true;
}

class Gathering implements RequestOwner {
  readonly #inFlight: InFlight;
  readonly #subject: Request;
  readonly #parts: Request[];
  #outstanding: number;
  #errno = 0;

  constructor(inFlight: InFlight, subject: Request, parts: Request[]) {
    this.#inFlight = inFlight;
    this.#subject = subject;
    this.#parts = parts;
    this.#outstanding = parts.length;
  }

  completed(_part: Request, errno: number): void {
    if (this.#errno === 0) this.#errno = errno;
    this.#outstanding -= 1;
    if (this.#outstanding > 0) return;
    if (this.#errno === 0) this.#subject.parts = this.#parts;
    else for (const part of this.#parts) this.#inFlight.givePart(part);
    this.#inFlight.finish(this.#subject, this.#errno);
  }
}

export class StreamedRead implements RequestOwner, ExtentSink, MemoryWaiter {
  readonly #inFlight: InFlight;
  readonly #subject: Request;
  readonly #end: number;
  /** What the device said of the range, from its start on, in turn: length and whether it's a hole. */
  readonly #extentBytes: number[] = [];
  readonly #extentIsHole: boolean[] = [];
  #describedBytes = 0;
  #extentIndex = 0;
  /** Of the extent at #extentIndex, so much is left. */
  #extentLeftBytes = 0;
  #position: number;
  #status: Request | undefined;
  #outstanding = 0;
  #errno = 0;
  #isWaiting = false;
  /** Inside retry(): whose line it is. */
  #isServed = false;
  #isPumping = false;
  #isCancelled = false;
  #isOver = false;

  constructor(inFlight: InFlight, subject: Request) {
    this.#inFlight = inFlight;
    this.#subject = subject;
    this.#position = subject.offsetBytes;
    this.#end = subject.offsetBytes + subject.lengthBytes;
  }

  begin(): void {
    this.#inFlight.streamBegan(this);
    const status = this.#inFlight.requests.take();
    status.offsetBytes = this.#subject.offsetBytes;
    status.lengthBytes = this.#subject.lengthBytes;
    status.owner = this;
    this.#status = status;
    this.#inFlight.device.blockStatus(status, this);
  }

  add(extentBytes: number, flags: number): boolean {
    // Only what lies in the range counts: a long run may begin in its last block.
    const lengthBytes = Math.min(extentBytes, this.#subject.lengthBytes - this.#describedBytes);
    if (lengthBytes <= 0) return false;
    this.#describedBytes += lengthBytes;
    const isZero = (flags & ALLOCATION.ZERO) !== 0;
    const isHole = isZero && lengthBytes >= HOLE_BYTES_MIN;
    const last = this.#extentBytes.length - 1;
    if (last >= 0 && this.#extentIsHole[last] === isHole) {
      this.#extentBytes[last] = (this.#extentBytes[last] as number) + lengthBytes;
      return true;
    }
    this.#extentBytes.push(lengthBytes);
    this.#extentIsHole.push(isHole);
    return this.#extentBytes.length < EXTENT_COUNT_MAX;
  }

  completed(request: Request, errno: number): void {
    if (request === this.#status) {
      // A status that failed says nothing about the data: read all of it.
      this.#status = undefined;
      this.#inFlight.requests.give(request);
      this.#extentLeftBytes = this.#extentBytes[0] ?? this.#subject.lengthBytes;
    } else {
      this.#outstanding -= 1;
      if (errno !== 0) {
        if (this.#errno === 0) this.#errno = errno;
        this.#inFlight.givePart(request);
      } else this.#inFlight.answerPart(request);
    }
    this.pump();
  }

  /** Begins as many parts as may be ahead; ends the read when all are done. */
  pump(): void {
    if (this.#isPumping || this.#status !== undefined || this.#isOver) return;
    this.#isPumping = true;
    while (this.#mayGoOn() && this.#next());
    this.#isPumping = false;
    const isDone = this.#position === this.#end || this.#errno !== 0 || this.#isCancelled;
    if (!isDone || this.#outstanding > 0) return;
    this.#isOver = true;
    if (this.#isWaiting) this.#inFlight.memory.forget(this);
    this.#inFlight.streamEnded(this);
    this.#inFlight.finish(this.#subject, this.#errno);
  }

  retry(): boolean {
    this.#isWaiting = false;
    this.#isServed = true;
    const before = this.#position;
    this.pump();
    this.#isServed = false;
    if (!this.#isWaiting) return true;
    if (this.#position === before) return false;
    this.#inFlight.memory.wait(this);
    return true;
  }

  cancel(): void {
    this.#isCancelled = true;
    this.#inFlight.memory.forget(this);
    this.#isWaiting = false;
    this.pump();
  }

  #mayGoOn(): boolean {
    return (
      this.#position < this.#end &&
      this.#errno === 0 &&
      !this.#isCancelled &&
      !this.#isWaiting &&
      this.#outstanding < PARTS_AHEAD_MAX &&
      this.#inFlight.output.unsentBytes < PARTS_AHEAD_MAX * MAX_SLAB_PIECE_BYTES
    );
  }

  /** One more chunk; false when there is no memory. */
  #next(): boolean {
    const isHole = this.#extentIsHole[this.#extentIndex] ?? false;
    const room = Math.min(this.#extentLeftBytes, this.#end - this.#position);
    const lengthBytes = isHole ? room : Math.min(room, partBytesMax(this.#position));
    const part = isHole ? this.#hole() : this.#data(lengthBytes);
    if (part === undefined) return false;
    part.answerTo(this.#subject);
    part.offsetBytes = this.#position;
    part.lengthBytes = lengthBytes;
    this.#advance(lengthBytes);
    if (isHole) this.#inFlight.answerPart(part);
    else if (this.#inFlight.device.readNow(part.offsetBytes, lengthBytes, part.address)) {
      part.complete(0);
    } else this.#inFlight.device.read(part);
    return true;
  }

  #hole(): Request {
    const part = this.#inFlight.requests.take();
    part.answer = ANSWER.HOLE;
    return part;
  }

  #data(lengthBytes: number): Request | undefined {
    const { memory, requests } = this.#inFlight;
    const piece = memory.take(lengthBytes);
    if (piece < 0) {
      this.#isWaiting = true;
      if (!this.#isServed) memory.wait(this);
      return undefined;
    }
    const part = requests.take();
    part.answer = ANSWER.PART;
    part.piece = piece;
    part.address = piece;
    part.owner = this;
    this.#outstanding += 1;
    return part;
  }

  #advance(lengthBytes: number): void {
    this.#position += lengthBytes;
    this.#extentLeftBytes -= lengthBytes;
    if (this.#extentLeftBytes > 0) return;
    this.#extentIndex += 1;
    // What the device didn't describe is read as data.
    this.#extentLeftBytes = this.#extentBytes[this.#extentIndex] ?? this.#end - this.#position;
  }
}
