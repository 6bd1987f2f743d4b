// SPDX-License-Identifier: Apache-2.0
//
// A write of more than one piece of slab (1 MiB): every piece goes to the device as soon as it is full,
// as a request of its own, so that 32 MiB need no 32 MiB of memory; the client is answered once, when all
// of them are done. Cuts fall on 4 KiB of the export, so that no block is written in two halves. After a
// crash a prefix of the pieces may have survived, which is what the durability contract says.

import type { InFlight } from "./in-flight.ts";
import { partBytesMax, type Request, type RequestOwner } from "./request.ts";

export class LargeWrite implements RequestOwner {
  readonly #inFlight: InFlight;
  readonly #subject: Request;
  /** Bytes that have been made parts of. */
  #partedBytes = 0;
  #outstanding = 0;
  #errno = 0;
  #isAbandoned = false;

  constructor(inFlight: InFlight, subject: Request) {
    this.#inFlight = inFlight;
    this.#subject = subject;
  }

  /** All parts have been begun. */
  get isComplete(): boolean {
    return this.#partedBytes === this.#subject.lengthBytes;
  }

  get nextPartBytes(): number {
    const missing = this.#subject.lengthBytes - this.#partedBytes;
    const offset = this.#subject.offsetBytes + this.#partedBytes;
    return Math.min(missing, partBytesMax(offset));
  }

  /** The next part, to be filled and given to the device. */
  nextPart(piece: number): Request {
    const part = this.#inFlight.requests.take();
    part.lengthBytes = this.nextPartBytes;
    part.offsetBytes = this.#subject.offsetBytes + this.#partedBytes;
    part.isForceUnitAccess = this.#subject.isForceUnitAccess;
    part.piece = piece;
    part.address = piece;
    part.owner = this;
    this.#partedBytes += part.lengthBytes;
    this.#outstanding += 1;
    return part;
  }

  completed(part: Request, errno: number): void {
    if (this.#errno === 0) this.#errno = errno;
    this.#end(part);
  }

  /** The rest will never come; `part` was being received. */
  abandon(part: Request | undefined): void {
    this.#isAbandoned = true;
    if (part !== undefined) this.#end(part);
    else this.#finishIfDone();
  }

  #end(part: Request): void {
    this.#inFlight.givePart(part);
    this.#outstanding -= 1;
    this.#finishIfDone();
  }

  #finishIfDone(): void {
    if (this.#outstanding > 0 || !(this.isComplete || this.#isAbandoned)) return;
    this.#inFlight.finish(this.#subject, this.#errno);
  }
}
