// SPDX-License-Identifier: Apache-2.0
//
// The requests of one connection, from the moment that they count until their answers are in its output,
// and all that larger transfers need of the connection besides: device, memory, output.
//
//   take() ─ with the device ─ finish() ─ written into the output       back to the pool
//                                       └ no memory: in line, in order ┘
//
// A transfer of several parts has a subject, which counts here and is answered at the end, and parts,
// which don't count and are answered on the way. After close() whatever ends is dropped, not answered.

import type { Socket } from "../host/sockets.ts";
import type { BlockDevice } from "./block-device.ts";
import { HEADERS, type Headers } from "./codec.ts";
import type { DoorMemory, OutputWaiter } from "./door-memory.ts";
import type { StreamedRead } from "./large-read.ts";
import { Output } from "./output.ts";
import { Replies } from "./replies.ts";
import { ANSWER, type Request, type RequestOwner, type RequestPool } from "./request.ts";

/** Requests of one connection that may be on their way: enough for any queue depth in use. */
const REQUESTS_IN_FLIGHT_MAX = 1024;
/** Payload of one connection that may be on its way, replies that the client hasn't read included. */
export const BYTES_IN_FLIGHT_MAX: number = 8 << 20;

/** The session that the requests came through. */
export interface InFlightOwner {
  /** Something ended: there may be replies to send and room for more requests. */
  answered(): void;
  /** After close(), once: nothing is with the device any more. */
  idle(): void;
}

export class InFlight implements RequestOwner, OutputWaiter {
  readonly device: BlockDevice;
  readonly memory: DoorMemory;
  readonly requests: RequestPool;
  readonly output: Output;
  readonly replies: Replies;
  readonly isExtended: boolean;
  readonly #owner: InFlightOwner;
  #count = 0;
  #bytes = 0;
  /** Finished, but there was no memory to answer in; in order. */
  #unanswered: Request[] = [];
  readonly #streams = new Set<StreamedRead>();
  /** "closing": what ends is dropped; "closed": and when all has ended, the owner is told. */
  #state: "open" | "closing" | "closed" = "open";

  constructor(options: {
    device: BlockDevice;
    memory: DoorMemory;
    requests: RequestPool;
    headers: Headers;
    socket: Pick<Socket, "send">;
    owner: InFlightOwner;
  }) {
    const { device, memory, requests, headers, socket, owner } = options;
    this.device = device;
    this.memory = memory;
    this.requests = requests;
    this.output = new Output(memory, socket);
    this.replies = new Replies(memory, this.output, headers);
    this.isExtended = headers === HEADERS.EXTENDED;
    this.#owner = owner;
  }

  get count(): number {
    return this.#count;
  }

  /** Finished requests wait for memory: no answer may overtake them. */
  get isAnyUnanswered(): boolean {
    return this.#unanswered.length > 0;
  }

  get isFull(): boolean {
    return (
      this.#count >= REQUESTS_IN_FLIGHT_MAX ||
      this.#bytes + this.output.unsentBytes >= BYTES_IN_FLIGHT_MAX
    );
  }

  /** After isFull: enough has ended to go on with. */
  get hasRoomAgain(): boolean {
    return (
      this.#count <= REQUESTS_IN_FLIGHT_MAX / 2 &&
      this.#bytes + this.output.unsentBytes <= BYTES_IN_FLIGHT_MAX / 2
    );
  }

  /** A request that counts from now on. */
  take(weightBytes: number): Request {
    const request = this.requests.take();
    request.weightBytes = weightBytes;
    request.owner = this;
    this.#count += 1;
    this.#bytes += weightBytes;
    return request;
  }

  /** As if it hadn't been taken. */
  untake(request: Request): void {
    request.owner = undefined;
    this.#count -= 1;
    this.#bytes -= request.weightBytes;
    this.requests.give(request);
  }

  /** A request that is answered in one go is done. */
  completed(request: Request, errno: number): void {
    this.finish(request, errno);
  }

  /** Answers `request`, which counts until then. */
  finish(request: Request, errno: number): void {
    request.errno = errno;
    if (errno !== 0 || request.answer === ANSWER.STATUS) this.releasePiece(request);
    this.#answer(request);
    this.#owner.answered();
  }

  /** A part of an answer: its subject still counts. */
  answerPart(part: Request): void {
    this.#answer(part);
    this.#owner.answered();
  }

  releasePiece(request: Request): void {
    if (request.piece < 0) return;
    this.memory.release(request.piece);
    request.piece = -1;
  }

  /** Ends a part that isn't answered by itself. */
  givePart(part: Request): void {
    this.releasePiece(part);
    part.owner = undefined;
    this.requests.give(part);
  }

  /** Ends a request that nobody waits for any more. */
  drop(request: Request): void {
    this.releasePiece(request);
    for (const part of request.parts ?? []) this.releasePiece(part);
    this.#answered(request);
    this.#sayIdle();
  }

  retryOutput(): void {
    let count = 0;
    for (const request of this.#unanswered) {
      if (!this.replies.write(request)) break;
      this.#answered(request);
      count += 1;
    }
    this.#unanswered.splice(0, count);
    if (this.isAnyUnanswered) this.memory.waitForOutput(this);
    this.#owner.answered();
  }

  streamBegan(stream: StreamedRead): void {
    this.#streams.add(stream);
  }

  streamEnded(stream: StreamedRead): void {
    this.#streams.delete(stream);
  }

  /** What was sent made room for more of a large read. */
  pumpStreams(): void {
    if (this.#streams.size > 0) for (const stream of [...this.#streams]) stream.pump();
  }

  /** The socket is gone. */
  close(): void {
    this.#state = "closing";
    this.memory.forget(this);
    for (const request of this.#unanswered.splice(0)) this.drop(request);
    for (const stream of [...this.#streams]) stream.cancel();
    this.output.close();
    this.#state = "closed";
    this.#sayIdle();
  }

  /** Writes the answer, or puts it in line until there is memory to write it in. */
  #answer(request: Request): void {
    if (this.#state !== "open") this.drop(request);
    else if (!this.isAnyUnanswered && this.replies.write(request)) this.#answered(request);
    else {
      if (!this.isAnyUnanswered) this.memory.waitForOutput(this);
      this.#unanswered.push(request);
    }
  }

  /** The answer is in the output. */
  #answered(request: Request): void {
    if (request.answer >= ANSWER.PART) {
      this.requests.give(request); // its subject still counts
      return;
    }
    for (const part of request.parts ?? []) this.requests.give(part);
    request.parts = undefined;
    this.untake(request);
  }

  #sayIdle(): void {
    if (this.#state === "closed" && this.#count === 0) this.#owner.idle();
  }
}
