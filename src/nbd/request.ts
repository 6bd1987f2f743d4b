// SPDX-License-Identifier: Apache-2.0
//
// One request on its way through a device: a pooled object, reused for the next request as soon as it has
// been answered, so that the data path makes no garbage. Its owner is who takes the completion: the
// connection for what is answered in one go, or the larger transfer that it is a part of.

import { assert } from "../base/assert.ts";
import { type BlockRequest, MAX_SLAB_PIECE_BYTES } from "./block-device.ts";
import type { ReplySubject } from "./codec.ts";
import { BLOCK_SIZE } from "./constants.ts";

export interface RequestOwner {
  completed(request: Request, errno: number): void;
}

/** What the answer to a request consists of, if it didn't fail. */
export const ANSWER = {
  /** Success, and nothing else. */
  STATUS: 0,
  /** The end of a reply in chunks. */
  END: 1,
  /** All data of a read: in `piece`, or in the pieces of `parts`. */
  DATA: 2,
  /** Some data of a read, in `piece`; more follows. */
  PART: 3,
  /** Some of what was read is a hole; more follows. */
  HOLE: 4,
  /** A whole chunk, head included, lies ready in `piece`; more follows. */
  READY: 5,
} as const;
export type Answer = (typeof ANSWER)[keyof typeof ANSWER];

export class Request implements BlockRequest, ReplySubject {
  offsetBytes = 0;
  lengthBytes = 0;
  address = 0;
  isForceUnitAccess = false;
  cookieHigh = 0;
  cookieLow = 0;
  /** The offset as it was on the wire: extended replies repeat it exactly. */
  offsetHigh = 0;
  offsetLow = 0;
  /** The piece of slab that this request holds, or -1. */
  piece = -1;
  answer: Answer = ANSWER.STATUS;
  parts: Request[] | undefined = undefined;
  /** Payload that counts against the connection's share, in bytes. */
  weightBytes = 0;
  /** How it ended, kept for an answer that has to wait. */
  errno = 0;
  /** For the human behind a client with structured replies; "" for none. */
  message = "";
  owner: RequestOwner | undefined = undefined;
  /** The next one in the pool, or in a line. */
  next: Request | undefined = undefined;

  complete(errno: number): void {
    const owner = this.owner;
    assert(owner !== undefined, "a request completes once, while it is with the device");
    this.owner = undefined;
    owner.completed(this, errno);
  }

  /** Takes over what a reply repeats. */
  answerTo(subject: ReplySubject): void {
    this.cookieHigh = subject.cookieHigh;
    this.cookieLow = subject.cookieLow;
    this.offsetHigh = subject.offsetHigh;
    this.offsetLow = subject.offsetLow;
  }
}

/** Free requests, shared by all connections; as many as were ever in flight at once. */
export class RequestPool {
  #free: Request | undefined;

  take(): Request {
    const request = this.#free ?? new Request();
    this.#free = request.next;
    request.next = undefined;
    request.answer = ANSWER.STATUS;
    request.parts = undefined;
    request.weightBytes = 0;
    request.isForceUnitAccess = false;
    request.errno = 0;
    request.message = "";
    return request;
  }

  give(request: Request): void {
    assert(request.piece < 0, "a request that is given back holds no memory");
    assert(request.owner === undefined, "a request that is given back isn't with a device");
    request.next = this.#free;
    this.#free = request;
  }
}

/**
 * The largest part of a larger transfer that begins at `offsetBytes`: a piece at most, and cuts fall on
 * 4 KiB of the export.
 */
export function partBytesMax(offsetBytes: number): number {
  return MAX_SLAB_PIECE_BYTES - (offsetBytes % BLOCK_SIZE.PREFERRED);
}
