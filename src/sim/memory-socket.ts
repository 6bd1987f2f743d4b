// SPDX-License-Identifier: Apache-2.0
//
// A socket without a network, for tests of the NBD door: what the test feeds arrives at the handler, what
// the handler sends is collected. Like the real one it asks for the next target right after a read, long
// before the bytes come, and never calls a handler that paused or is being called already. A slow client
// is played by holding sends.

import type { Socket, SocketHandler, TlsServerSettings, TlsSocket } from "../host/sockets.ts";

export interface MemorySocketOptions {
  readonly peer?: string;
  readonly peerAddress?: string;
  readonly uid?: number;
  /** At most so many bytes per read. */
  readonly biteBytes?: number;
  readonly soon: (callback: () => void) => void;
}

export class MemorySocket implements Socket {
  readonly peer: string;
  readonly peerAddress: string | undefined;
  /** Sends don't finish until release(). */
  isHoldingSends = false;
  isPaused = false;
  /** The server has sent its last byte. */
  isEnded = false;
  isDestroyed = false;
  onSent: ((bytes: Uint8Array) => void) | undefined;
  onEnd: (() => void) | undefined;
  readonly #options: MemorySocketOptions;
  #handler: SocketHandler | undefined;
  #inbox: Uint8Array[] = [];
  #target: Uint8Array | undefined;
  #sent: Uint8Array[] = [];
  /** What the socket was given and hasn't taken: shows what would be sent if it changed meanwhile. */
  #held: readonly Uint8Array[] | undefined;
  #isDelivering = false;

  constructor(options: MemorySocketOptions) {
    this.#options = options;
    this.peer = options.peer ?? "unix";
    this.peerAddress = options.peerAddress;
  }

  start(handler: SocketHandler): void {
    this.#handler = handler;
    this.#target = handler.target();
    this.#deliver();
  }

  /** Bytes from the client. */
  feed(bytes: Uint8Array): void {
    this.#inbox.push(bytes.slice());
    this.#deliver();
  }

  /** The client sends no more. */
  feedEnd(): void {
    this.#handler?.ended();
  }

  /** The connection breaks. */
  cut(error?: Error): void {
    this.#close(error);
  }

  /** Everything sent so far, and forgets it. */
  takeSent(): Uint8Array {
    const bytes = concat(this.#sent);
    this.#sent = [];
    return bytes;
  }

  get unreadBytes(): number {
    return this.#inbox.reduce((total, bytes) => total + bytes.length, 0);
  }

  /** Room that the handler offers for the next read. */
  get targetBytes(): number {
    return this.#target?.length ?? 0;
  }

  get isHolding(): boolean {
    return this.#held !== undefined;
  }

  /** The client reads: the send that was held is done. */
  release(): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    this.#collect(held);
    this.#handler?.sent();
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (this.isDestroyed) return true;
    if (this.isHoldingSends) {
      this.#held = parts;
      return false;
    }
    this.#collect(parts);
    return true;
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.#options.soon(() => this.#deliver());
  }

  end(): void {
    this.isEnded = true;
    this.#options.soon(() => this.onEnd?.());
  }

  destroy(): void {
    this.isDestroyed = true;
    this.#options.soon(() => this.#close());
  }

  async peerUid(): Promise<number | undefined> {
    return this.#options.uid;
  }

  startTls(_tls: TlsServerSettings): Promise<TlsSocket> {
    return Promise.reject(new Error("there is no TLS without a network"));
  }

  #collect(parts: readonly Uint8Array[]): void {
    for (const part of parts) {
      const bytes = part.slice();
      this.#sent.push(bytes);
      this.onSent?.(bytes);
    }
  }

  #deliver(): void {
    if (this.#isDelivering) return;
    this.#isDelivering = true;
    for (let next = this.#inbox[0]; next !== undefined; next = this.#inbox[0]) {
      const handler = this.#handler;
      const target = this.#target;
      if (handler === undefined || target === undefined || this.isPaused || this.isDestroyed) break;
      const most = this.#options.biteBytes ?? Number.POSITIVE_INFINITY;
      const count = Math.min(next.length, target.length, most);
      target.set(next.subarray(0, count));
      if (count === next.length) this.#inbox.shift();
      else this.#inbox[0] = next.subarray(count);
      handler.received(count);
      if (this.#handler === handler) this.#target = handler.target();
    }
    this.#isDelivering = false;
  }

  #close(error?: Error): void {
    const handler = this.#handler;
    this.#handler = undefined;
    this.#held = undefined;
    this.isDestroyed = true;
    handler?.closed(error);
    if (handler !== undefined) this.onEnd?.();
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
