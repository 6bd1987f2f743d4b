// SPDX-License-Identifier: Apache-2.0
//
// One connection of the runtime as the Socket port. Two ways of reading:
//
// Shortcut: an accepted socket's handle is put into a new net.Socket with the `onread` option, which the
// runtime offers for outgoing connections only. Then every read lands where the handler wants it, with
// no buffer allocated and no stream machinery in between. If a runtime doesn't let us (the handle is an
// internal), the plain way below is taken; a test watches that the shortcut still works.
//
// With the shortcut, what is sent goes to the descriptor first; only what the kernel doesn't take at once waits in
// the runtime's stream.
//
// Plain: 'data' events, copied to where the handler wants them. TLS always takes this way.
//
// A handler is never called while it is paused: bytes that the plain way delivers late are kept here.

import { writeSync, writevSync } from "node:fs";
import type { Socket as NetSocket } from "node:net";
import { Socket as NodeSocket } from "node:net";
import type { Socket, SocketHandler, TlsServerSettings, TlsSocket } from "../sockets.ts";
import { peerUidOf } from "./socket-peer.ts";
import { startTlsServer } from "./socket-tls.ts";

/** What is used of the runtime's stream handle. */
interface StreamHandle {
  readonly fd?: number;
  readStart?: () => number;
  onconnection?: unknown;
}

/** Keep-alive probes find dead TCP peers that would hold a connection for ever. */
const KEEP_ALIVE_MS = 60_000;

const NOTHING = new Uint8Array(0);

export class StreamSocket implements Socket {
  readonly peer: string;
  readonly peerAddress: string | undefined;
  /** The runtime's socket: the accepted one, or after start() the one that has taken it over. */
  #stream: NetSocket;
  /** Set by the shortcut: reads go to the handler without events. */
  #isDirect = false;
  readonly #isShortcutWanted: boolean;
  #handler: SocketHandler | undefined;
  #isPaused = false;
  /** Delivered by the plain way while paused, or not taken in one go. */
  #late: Uint8Array = NOTHING;
  #hasEnded = false;
  #sendsBegun = 0;
  #sendsDone = 0;
  /** The send that sent() is owed for, or 0. */
  #owed = 0;
  #error: Error | undefined;
  /** One function for all sends: they finish in order. */
  readonly #onSent = (): void => {
    this.#sendsDone += 1;
    if (this.#sendsDone !== this.#owed) return;
    this.#owed = 0;
    if (!this.#stream.destroyed) this.#handler?.sent();
  };

  constructor(accepted: NetSocket, isShortcutWanted = true) {
    this.peerAddress = addressOf(accepted);
    this.peer = peerOf(accepted, this.peerAddress);
    this.#isShortcutWanted = isShortcutWanted;
    this.#stream = accepted;
  }

  /** Reads land without a copy. */
  get isDirect(): boolean {
    return this.#isDirect;
  }

  start(handler: SocketHandler): void {
    this.#handler = handler;
    const direct = this.#isShortcutWanted ? this.#takeOver(this.#stream, handler) : undefined;
    this.#isDirect = direct !== undefined;
    this.#stream = direct ?? this.#stream;
    if (this.peerAddress !== undefined) {
      this.#stream.setNoDelay(true);
      this.#stream.setKeepAlive(true, KEEP_ALIVE_MS);
    }
    this.#stream.on("error", (error: Error) => {
      this.#error = error; // 'close' follows and tells the handler
    });
    this.#stream.on("close", () => {
      this.#handler = undefined;
      handler.closed(this.#error);
    });
    this.#stream.on("end", () => {
      this.#hasEnded = true;
      if (this.#late.length === 0) this.#handler?.ended();
    });
    if (!this.#isDirect) this.#stream.on("data", (bytes: Uint8Array) => this.#arrived(bytes));
    this.#stream.resume();
    if (this.#isDirect) this.#stream.read(0);
  }

  send(parts: readonly Uint8Array[]): boolean {
    const stream = this.#stream;
    if (stream.destroyed) return true;
    const rest = this.#isDirect && stream.writableLength === 0 ? this.#sendNow(parts) : parts;
    const last = rest.length - 1;
    if (last < 0) return true;
    if (last > 0) stream.cork();
    for (let index = 0; index < last; index++) stream.write(rest[index] as Uint8Array);
    stream.write(rest[last] as Uint8Array, this.#onSent);
    if (last > 0) stream.uncork();
    this.#sendsBegun += 1;
    // What the kernel took at once is not counted any more; then the callback says nothing new.
    if (stream.writableLength === 0) return true;
    this.#owed = this.#sendsBegun;
    return false;
  }

  /** Gives the kernel what it takes at once, past the machinery of streams; returns what is left. */
  #sendNow(parts: readonly Uint8Array[]): readonly Uint8Array[] {
    const descriptor = descriptorOf(this.#stream);
    if (descriptor === undefined) return parts;
    let takenBytes: number;
    try {
      takenBytes =
        parts.length === 1
          ? writeSync(descriptor, parts[0] as Uint8Array)
          : writevSync(descriptor, parts);
    } catch {
      return parts; // no room now, or an error, which the stream will meet again and tell
    }
    return withoutFirst(parts, takenBytes);
  }

  pause(): void {
    this.#isPaused = true;
    this.#stream.pause();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#deliverLate();
    if (!this.#isPaused) this.#stream.resume();
  }

  end(): void {
    this.#stream.end();
  }

  destroy(): void {
    this.#stream.destroy();
  }

  async peerUid(): Promise<number | undefined> {
    const descriptor = descriptorOf(this.#stream);
    if (this.peerAddress !== undefined || descriptor === undefined) return undefined;
    return await peerUidOf(descriptor);
  }

  async startTls(tls: TlsServerSettings): Promise<TlsSocket> {
    // The handler goes on with the encrypted socket; what happens to this one is its business.
    this.#handler = undefined;
    this.#stream.removeAllListeners("close");
    this.#stream.removeAllListeners("end");
    this.#stream.removeAllListeners("data");
    const secure = await startTlsServer(this.#stream, tls);
    return new SecureSocket(secure.stream, this.peer, secure);
  }

  #arrived(bytes: Uint8Array): void {
    const late = this.#late;
    if (late.length === 0) this.#late = bytes;
    else {
      this.#late = new Uint8Array(late.length + bytes.length);
      this.#late.set(late);
      this.#late.set(bytes, late.length);
    }
    this.#deliverLate();
  }

  #deliverLate(): void {
    while (this.#late.length > 0 && !this.#isPaused && this.#handler !== undefined) {
      const target = this.#handler.target();
      const count = Math.min(target.length, this.#late.length);
      target.set(this.#late.subarray(0, count));
      this.#late = this.#late.subarray(count);
      this.#handler.received(count);
    }
    if (this.#late.length > 0) return;
    this.#late = NOTHING;
    if (this.#hasEnded) this.#handler?.ended();
  }

  /** The shortcut; undefined where the runtime doesn't offer what it takes. */
  #takeOver(accepted: NetSocket, handler: SocketHandler): NetSocket | undefined {
    const holder = accepted as unknown as { _handle: StreamHandle | null };
    const handle = holder._handle;
    if (handle === null || typeof handle?.readStart !== "function") return undefined;
    if (accepted.readableLength > 0) return undefined;
    holder._handle = null;
    const options = {
      handle,
      allowHalfOpen: true,
      onread: {
        // Asked once now, and then after each read for the next.
        buffer: () => (this.#handler === undefined ? SPARE : handler.target()),
        callback: (count: number) => {
          this.#handler?.received(count);
          return !this.#isPaused;
        },
      },
    };
    return new NodeSocket(options as never);
  }
}

/** What is left of the parts behind their first `countBytes`. */
function withoutFirst(parts: readonly Uint8Array[], countBytes: number): readonly Uint8Array[] {
  let left = countBytes;
  for (const [index, part] of parts.entries()) {
    if (left < part.length) return [part.subarray(left), ...parts.slice(index + 1)];
    left -= part.length;
  }
  return NO_PARTS;
}

const NO_PARTS: readonly Uint8Array[] = [];

/** Where the runtime may prepare a read for a socket that nobody listens to any more. */
const SPARE = new Uint8Array(4096);

/** A connection behind TLS: always read the plain way, since the runtime decrypts into its own memory. */
class SecureSocket extends StreamSocket implements TlsSocket {
  readonly certificateName: string | undefined;
  readonly pskIdentity: string | undefined;
  readonly protocol: string;
  override readonly peer: string;

  constructor(
    stream: NetSocket,
    peer: string,
    proved: {
      certificateName: string | undefined;
      pskIdentity: string | undefined;
      protocol: string;
    },
  ) {
    super(stream, false);
    this.peer = peer;
    this.certificateName = proved.certificateName;
    this.pskIdentity = proved.pskIdentity;
    this.protocol = proved.protocol;
  }
}

function descriptorOf(stream: NetSocket): number | undefined {
  const descriptor = (stream as unknown as { _handle: StreamHandle | null })._handle?.fd;
  return descriptor !== undefined && descriptor >= 0 ? descriptor : undefined;
}

function addressOf(stream: NetSocket): string | undefined {
  const address = stream.remoteAddress;
  // IPv4 clients of an IPv6 socket are IPv4 clients.
  return address?.startsWith("::ffff:") && address.includes(".") ? address.slice(7) : address;
}

function peerOf(stream: NetSocket, address: string | undefined): string {
  if (address === undefined) return "unix";
  return address.includes(":")
    ? `[${address}]:${stream.remotePort}`
    : `${address}:${stream.remotePort}`;
}
