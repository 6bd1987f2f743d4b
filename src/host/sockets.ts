// SPDX-License-Identifier: Apache-2.0
//
// The network port: byte streams over Unix sockets, TCP and TLS, as the doors see them. Made for a server
// that allocates nothing per read: before every read the handler says where the bytes shall land, and
// what is sent stays the handler's memory until the socket says that it is done with it.
// src/host/node/socket-*.ts are the real ones.

/** Told what happens on one socket. Called one at a time, never from inside send(). */
export interface SocketHandler {
  /**
   * Where the next bytes land, at least one byte long. Asked once before each read, but that may be as
   * early as right after the read before: the answer has to hold until the bytes are there.
   */
  target(): Uint8Array;
  /** So many bytes are now at the beginning of what target() returned last. */
  received(countBytes: number): void;
  /** Everything that send() could not finish at once has gone. */
  sent(): void;
  /** The peer will send no more. */
  ended(): void;
  /** The socket is gone; nothing follows. `error` when it ended badly. */
  closed(error?: Error): void;
}

export interface Socket {
  /** "127.0.0.1:5123", "[::1]:5123", or "unix". */
  readonly peer: string;
  /** The peer's IP address without port; undefined on Unix sockets. */
  readonly peerAddress: string | undefined;
  /** Begins reading. Once, before anything else. */
  start(handler: SocketHandler): void;
  /**
   * Sends the parts in order. True: the parts are free again. False: they belong to the socket until
   * sent() is called, and send() must not be called before that.
   */
  send(parts: readonly Uint8Array[]): boolean;
  /** Stops reading; target() and received() aren't called until resume(). */
  pause(): void;
  resume(): void;
  /** Sends no more; the peer reads an end of file behind what was sent. */
  end(): void;
  /** Drops the connection and what was not sent yet. closed() follows. */
  destroy(): void;
  /** The user id of the process at the other end of a Unix socket; undefined where it can't be known. */
  peerUid(): Promise<number | undefined>;
  /** Upgrades to TLS as the server. Resolves with the encrypted socket, which takes this one's place. */
  startTls(tls: TlsServerSettings): Promise<TlsSocket>;
}

/** A socket behind TLS, and who the peer has proved to be. */
export interface TlsSocket extends Socket {
  /** Subject common name of a client certificate that was verified. */
  readonly certificateName: string | undefined;
  /** Identity of the pre-shared key that was used. */
  readonly pskIdentity: string | undefined;
  /** "TLSv1.3", for logs. */
  readonly protocol: string;
}

/** What the server's side of TLS needs, as PEM texts and keys (never paths). */
export interface TlsServerSettings {
  readonly certificate?: string;
  readonly key?: string;
  /** Authorities that client certificates are verified against. */
  readonly authorities?: string;
  readonly clientCertificate: "none" | "optional" | "required";
  /** Pre-shared keys by identity; empty: none. */
  readonly presharedKeys: ReadonlyMap<string, Uint8Array>;
}

export interface Listener {
  /** As it is shown: a path, or "127.0.0.1:10809" with the real port. */
  readonly address: string;
  /** Takes no more connections; those that are open stay. */
  close(): Promise<void>;
}

/** Where to listen. */
export type ListenAddress =
  | { readonly kind: "unix"; readonly path: string; readonly mode?: number }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  /** A listening socket that was inherited (systemd socket activation). */
  | { readonly kind: "descriptor"; readonly descriptor: number; readonly name: string };

export interface Sockets {
  /** Throws StorageError LISTEN_FAILED. */
  listen(address: ListenAddress, accept: (socket: Socket) => void): Promise<Listener>;
  /** Runs `callback` when the current event has been handled, before the next one (queueMicrotask). */
  soon(callback: () => void): void;
}
