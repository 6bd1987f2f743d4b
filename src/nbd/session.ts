// SPDX-License-Identifier: Apache-2.0
//
// The transmission phase of one connection: bytes become requests, requests go to the device, completions
// become replies. This is the data path. It has no promise, closure, BigInt or array per small request:
//
//   a chunk in the window ─ every complete request in it is handled where it lies    commands.ts
//                         ─ a payload that it has only a part of is gathered         incoming-payload.ts
//   completions ─ replies, or a line of those that there is no memory for            in-flight.ts
//   everything that the chunk caused is answered with one socket write               output.ts
//
// Here is what holds these together: when to read and where to, when to stop, when to send, when to go.
// What has to wait (device, memory, a client that doesn't read) stops this connection and no other: the
// rest of its chunk is kept aside, reading pauses, and goes on when there is room again.

import { assert } from "../base/assert.ts";
import type { Socket } from "../host/sockets.ts";
import type { BlockDevice } from "./block-device.ts";
import { Commands, HALT } from "./commands.ts";
import { type DoorMemory, type MemoryWaiter, WINDOW_BYTES } from "./door-memory.ts";
import { InFlight, type InFlightOwner } from "./in-flight.ts";
import { IncomingPayload } from "./incoming-payload.ts";
import type { Agreement } from "./negotiation.ts";
import type { RequestPool } from "./request.ts";
import type { StatusContext } from "./status-reply.ts";

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

const NO_BYTES = new Uint8Array(0);

export class Session implements InFlightOwner, MemoryWaiter {
  readonly #share: SessionShare;
  readonly #shell: SessionShell;
  readonly #memory: DoorMemory;
  readonly #inFlight: InFlight;
  readonly #payload: IncomingPayload;
  readonly #commands: Commands;
  /** Room for a head and nothing behind it. */
  readonly #headTarget: Uint8Array;

  /** Bytes that are here but not handled: the head of a cut request, or all that a stall left over. */
  #kept: Uint8Array = NO_BYTES;
  /** target() gave out the place of a payload, not the window. */
  #isDirect = false;
  /** Reading is paused until completions or the client make room ("load"), or memory comes ("memory"). */
  #stall: "none" | "load" | "memory" = "none";
  /** Inside received() or a resume: replies are flushed at its end. */
  #isHandling = false;
  #isFlushPlanned = false;
  /** Inside retry(): the line for memory is this session's. */
  #isServed = false;
  /** "leaving": no more requests are taken, what is in flight is finished; "finished": it has been. */
  #phase: "open" | "leaving" | "finished" | "closed" = "open";
  /** Counts reads and sends: a client that holds memory must move. */
  #progress = 0;

  constructor(
    socket: Pick<Socket, "send">,
    options: {
      device: BlockDevice;
      agreement: Pick<Agreement, "headers">;
      contexts: readonly StatusContext[];
      share: SessionShare;
      shell: SessionShell;
    },
  ) {
    const { device, agreement, contexts, share, shell } = options;
    const { memory, requests } = share;
    const { headers } = agreement;
    const inFlight = new InFlight({ device, memory, requests, headers, socket, owner: this });
    this.#share = share;
    this.#shell = shell;
    this.#memory = memory;
    this.#inFlight = inFlight;
    this.#payload = new IncomingPayload(inFlight);
    this.#commands = new Commands({ inFlight, payload: this.#payload, agreement, contexts });
    this.#headTarget = memory.window.subarray(0, this.#commands.headBytes);
  }

  get progress(): number {
    return this.#progress;
  }

  /** Memory is held until the client sends or reads. */
  get isWaitingForClient(): boolean {
    return this.#inFlight.output.isSending || this.#payload.isHoldingMemory;
  }

  /** Bytes that came behind the handshake. */
  begin(rest: Uint8Array): void {
    if (rest.length === 0) return;
    this.#keep(rest);
    this.#handleKept();
  }

  /** Where the next bytes are to land. */
  target(): Uint8Array {
    const direct = this.#payload.directTarget();
    this.#isDirect = direct !== undefined;
    if (direct !== undefined) return direct;
    const isHeadNext = this.#kept.length === 0 && !this.#payload.isExpected;
    if (isHeadNext && this.#commands.isLongExpected) return this.#headTarget;
    if (this.#share.keptBytes <= KEPT_BYTES_MAX) return this.#memory.window;
    return this.#memory.window.subarray(0, SMALL_BITE_BYTES);
  }

  received(countBytes: number): void {
    this.#progress += 1;
    if (this.#phase !== "open") return; // nobody listens any more
    this.#isHandling = true;
    if (this.#isDirect) {
      this.#payload.filled(countBytes);
      if (this.#payload.isLackingPiece) this.#stall = "memory";
    } else {
      const { bytes, windowAddress } = this.#memory;
      const start = windowAddress - this.#kept.length;
      const end = windowAddress + countBytes;
      if (this.#kept.length > 0) bytes.set(this.#takeKept(), start);
      const stopped = this.#handle(start, end);
      if (stopped < end) this.#keep(bytes.slice(stopped, end));
    }
    this.#isHandling = false;
    if (this.#stall !== "none") this.#pause();
    this.#settle();
  }

  /** The socket is done with a send. */
  sent(): void {
    this.#progress += 1;
    this.#inFlight.output.sent();
    this.#settle();
  }

  /** Takes no more requests and finishes; `isRefusing`: answers those that come meanwhile ESHUTDOWN. */
  leave(options: { isRefusing: boolean }): void {
    if (options.isRefusing && this.#inFlight.count > 0) this.#commands.isRefusing = true;
    else if (this.#phase === "open") this.#phase = "leaving";
    this.#settle();
  }

  /** The socket is gone. */
  closed(): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    this.#memory.forget(this);
    this.#takeKept();
    this.#inFlight.close();
    this.#payload.drop();
  }

  flushNow(): void {
    this.#isFlushPlanned = false;
    this.#settle();
  }

  answered(): void {
    if (this.#isHandling || this.#isFlushPlanned || this.#phase === "closed") return;
    this.#isFlushPlanned = true;
    this.#share.flushSoon(this);
  }

  idle(): void {
    this.#shell.idle();
  }

  /** There may be memory for the request that stalled. */
  retry(): boolean {
    assert(this.#stall === "memory", "only a session that lacks memory waits for it");
    const before = this.#kept.length;
    this.#stall = "none";
    this.#isServed = true;
    this.#handleKept();
    this.#isServed = false;
    const isStuck = (this.#stall as string) === "memory";
    if (!isStuck) return true;
    if (this.#kept.length === before) return false;
    // One request further: to the end of the line.
    this.#memory.wait(this);
    return true;
  }

  // Handling what came

  /** Handles [start, end) of the slab; returns where it stopped: the rest is kept for later. */
  #handle(start: number, end: number): number {
    const commands = this.#commands;
    const payload = this.#payload;
    const inFlight = this.#inFlight;
    const { headBytes } = commands;
    let at = start;
    while (at < end && this.#stall === "none" && this.#phase === "open") {
      if (payload.isExpected) {
        at += payload.take(at, end);
        if (payload.isLackingPiece) this.#stall = "memory";
      } else if (end - at < headBytes) break;
      else if (inFlight.isFull) this.#stall = "load";
      else {
        const next = commands.begin(at, end);
        if (next < 0) {
          this.#halt(next);
          break;
        }
        at = next;
      }
    }
    return at;
  }

  #halt(why: number): void {
    if (why === HALT.NO_MEMORY) this.#stall = "memory";
    else if (why !== HALT.NEEDS_MORE) this.#phase = "leaving";
    if (why === HALT.VIOLATION) this.#shell.violated(this.#commands.violation);
  }

  /** Handles what was kept aside, window by window, and goes on reading when all of it is done. */
  #handleKept(): void {
    this.#isHandling = true;
    const { bytes, windowAddress } = this.#memory;
    if (this.#payload.isLackingPiece && !this.#payload.takePiece()) this.#stall = "memory";
    let rest = this.#takeKept();
    while (this.#stall === "none" && rest.length > 0) {
      const count = Math.min(rest.length, WINDOW_BYTES);
      bytes.set(rest.subarray(0, count), windowAddress);
      const stopped = this.#handle(windowAddress, windowAddress + count);
      const handled = stopped - windowAddress;
      rest = rest.subarray(handled);
      if (handled === 0 || this.#phase !== "open") break;
    }
    // A copy, so that the large rest isn't held by the small one.
    if (rest.length > 0) this.#keep(rest.slice());
    this.#isHandling = false;
    if (this.#stall === "none") this.#shell.resume();
    else this.#pause();
    this.#settle();
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

  #pause(): void {
    this.#shell.pause();
    if (this.#stall !== "memory") return;
    this.#share.memoryIsShort();
    if (!this.#isServed) this.#memory.wait(this);
  }

  // Going on, and going

  /** After anything happened: send, go on, or go. */
  #settle(): void {
    if (this.#isHandling || this.#phase === "closed" || this.#phase === "finished") return;
    this.#inFlight.output.flush();
    this.#inFlight.pumpStreams();
    if (this.#stall === "load" && this.#inFlight.hasRoomAgain) {
      this.#stall = "none";
      this.#handleKept();
      return;
    }
    if (this.#commands.isRefusing && this.#inFlight.count === 0) this.#phase = "leaving";
    if (this.#phase === "open" || this.#openCount > 0) return;
    if (this.#inFlight.output.unsentBytes > 0) return;
    this.#phase = "finished";
    this.#shell.finished();
  }

  /** In flight, without a write that will never be complete. */
  get #openCount(): number {
    return this.#inFlight.count - (this.#payload.isUnfinished ? 1 : 0);
  }
}
