// SPDX-License-Identifier: Apache-2.0
//
// Connections to other servers, for the NBD client: Unix sockets, TCP, and TLS over both. A stream that
// is behind with sending keeps what it was given; who sends much waits for answers anyway.

import { createConnection, type Socket as NetSocket } from "node:net";
import { StorageError } from "../../base/errors.ts";
import { startTlsClient, type TlsClientSettings } from "./socket-tls.ts";

export type ConnectAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** A connection, in the form that the NBD client wants. */
export interface ConnectedStream {
  start(received: (bytes: Uint8Array) => void, ended: (error?: Error) => void): void;
  send(bytes: Uint8Array): void;
  startTls(): Promise<void>;
  close(): void;
}

/** Throws PEER_FAILED. */
export function connectStream(
  address: ConnectAddress,
  tls?: TlsClientSettings,
): Promise<ConnectedStream> {
  const socket =
    address.kind === "unix"
      ? createConnection({ path: address.path })
      : createConnection({ host: address.host, port: address.port, noDelay: true });
  return new Promise((resolve, reject) => {
    socket.once("error", (cause: NodeJS.ErrnoException) => {
      const where = address.kind === "unix" ? address.path : `${address.host}:${address.port}`;
      const message = `nbd server: not connected to ${where}: ${cause.code ?? cause.message}`;
      reject(new StorageError("PEER_FAILED", message, { cause }));
    });
    socket.once("connect", () => {
      socket.removeAllListeners("error");
      resolve(new NodeStream(socket, tls));
    });
  });
}

class NodeStream implements ConnectedStream {
  #socket: NetSocket;
  readonly #tls: TlsClientSettings | undefined;
  #received: ((bytes: Uint8Array) => void) | undefined;
  #ended: ((error?: Error) => void) | undefined;

  constructor(socket: NetSocket, tls: TlsClientSettings | undefined) {
    this.#socket = socket;
    this.#tls = tls;
  }

  start(received: (bytes: Uint8Array) => void, ended: (error?: Error) => void): void {
    this.#received = received;
    this.#ended = ended;
    this.#listen();
  }

  send(bytes: Uint8Array): void {
    if (!this.#socket.destroyed) this.#socket.write(bytes);
  }

  async startTls(): Promise<void> {
    const plain = this.#socket;
    plain.removeAllListeners();
    this.#socket = await startTlsClient(plain, this.#tls ?? {});
    this.#listen();
  }

  close(): void {
    this.#socket.end();
  }

  #listen(): void {
    const socket = this.#socket;
    let failure: Error | undefined;
    socket.on("data", (bytes: Uint8Array) => this.#received?.(bytes));
    socket.on("error", (error: Error) => {
      failure = error; // 'close' follows
    });
    socket.on("close", () => this.#ended?.(failure));
  }
}
