// SPDX-License-Identifier: Apache-2.0
//
// The NBD door: listeners, the connections they bring, and what all of these share. It knows no disks,
// only a catalog of them, and no sockets, only their port, so that one and the same server runs on the
// real network and in the simulator.
//
// Nobody may hold up the others: when memory for clients is short, a client that holds some and neither
// reads nor sends for STALL_MS_MAX is ended.

import { StorageError } from "../base/errors.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type {
  ListenAddress,
  Listener,
  Socket,
  Sockets,
  TlsServerSettings,
} from "../host/sockets.ts";
import { AccessPolicy, type AccessRule } from "./access.ts";
import type { ClientIdentity, ExportCatalog, Slab } from "./block-device.ts";
import { Connection, type ConnectionContext, HANDSHAKE_MS_MAX } from "./connection.ts";
import { DoorMemory } from "./door-memory.ts";
import { type HookRunner, type HookSettings, runHookFor } from "./hooks.ts";
import type { TlsMode } from "./negotiation.ts";
import { RequestPool } from "./request.ts";
import type { Session, SessionShare } from "./session.ts";

/** Connections at once: a descriptor and a few KiB each. */
export const CONNECTIONS_MAX = 1024;
/** A client that holds memory others wait for has to move within this. */
export const STALL_MS_MAX = 5_000;

export interface NbdServerSettings {
  readonly tlsMode: TlsMode;
  /** Needed unless tlsMode is "off". */
  readonly tls?: TlsServerSettings;
  readonly access?: readonly AccessRule[];
  readonly hooks?: HookSettings;
  readonly connectionsMax?: number;
  readonly handshakeMs?: number;
  readonly stallMs?: number;
}

export interface NbdServerHost {
  readonly sockets: Sockets;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly slab: Slab;
  /** Needed when there are hooks. */
  readonly hookRunner?: HookRunner;
}

export interface ConnectedClient {
  readonly client: ClientIdentity;
  /** undefined: still in the handshake. */
  readonly exportName: string | undefined;
}

export class NbdServer {
  readonly #settings: NbdServerSettings;
  readonly #host: NbdServerHost;
  readonly #memory: DoorMemory;
  readonly #context: ConnectionContext;
  readonly #connections = new Set<Connection>();
  readonly #listeners: Listener[] = [];
  /** Sessions with replies that nobody has sent yet. */
  #unflushed: Session[] = [];
  readonly #flushAll = (): void => this.#flush();
  #isClosing = false;
  #whenEmpty: (() => void) | undefined;
  #cancelWatch: (() => void) | undefined;
  readonly #progress = new Map<Connection, number>();
  #refusedCount = 0;
  #acceptedCount = 0;

  constructor(catalog: ExportCatalog, settings: NbdServerSettings, host: NbdServerHost) {
    if (settings.tlsMode !== "off" && settings.tls === undefined) {
      throw new StorageError(
        "CONFIG_INVALID",
        `nbd door: not started: TLS is ${settings.tlsMode} and there is no certificate and no key`,
      );
    }
    this.#settings = settings;
    this.#host = host;
    const { sockets, clock, logger, slab } = host;
    this.#memory = new DoorMemory(slab, clock, sockets.soon);
    const access = new AccessPolicy(settings.access ?? []);
    const { hooks, tls, tlsMode } = settings;
    this.#context = {
      catalog,
      access,
      clock,
      logger,
      tlsMode,
      tls,
      share: this.#share(),
      handshakeMs: settings.handshakeMs ?? HANDSHAKE_MS_MAX,
      isUidWanted: access.isUidNeeded || Object.keys(hooks?.commands ?? {}).length > 0,
      runHook: async (event, exportName, client) => {
        const runner = host.hookRunner;
        if (hooks === undefined || runner === undefined) return;
        await runHookFor(event, { exportName, client }, { settings: hooks, runner });
      },
      gone: (connection) => this.#gone(connection),
    };
  }

  get clients(): readonly ConnectedClient[] {
    return [...this.#connections].map(({ client, exportName }) => ({ client, exportName }));
  }

  /** Pieces of slab that requests and replies hold now. */
  get heldPieceCount(): number {
    return this.#memory.heldCount;
  }

  get counts(): { readonly accepted: number; readonly refused: number; readonly open: number } {
    return {
      accepted: this.#acceptedCount,
      refused: this.#refusedCount,
      open: this.#connections.size,
    };
  }

  /** Throws LISTEN_FAILED. Returns the address as it is shown. */
  async listen(address: ListenAddress): Promise<string> {
    const listener = await this.#host.sockets.listen(address, (socket) => this.accept(socket));
    this.#listeners.push(listener);
    return listener.address;
  }

  /** A client that came some other way than through listen(). */
  accept(socket: Socket): void {
    const limit = this.#settings.connectionsMax ?? CONNECTIONS_MAX;
    const isFull = this.#connections.size >= limit;
    if (isFull || this.#isClosing) {
      this.#refusedCount += 1;
      const reason = isFull ? `${limit} connections are open` : "the server is shutting down";
      this.#host.logger.log("warn", "nbd.client-refused", { client: socket.peer, reason });
      socket.destroy();
      return;
    }
    this.#acceptedCount += 1;
    const connection = new Connection(socket, this.#context);
    this.#connections.add(connection);
    connection.start();
  }

  /**
   * Stops listening, lets every client have the answers to what is in flight, and hangs up; after
   * `graceMs` whoever is left is dropped. Requests that come meanwhile stay unanswered, so that a client
   * that reconnects sends them again to the next daemon; with `isRefusing` they get ESHUTDOWN, which most
   * clients hand to their users as an I/O error.
   */
  async close(options: { graceMs: number; isRefusing?: boolean }): Promise<void> {
    this.#isClosing = true;
    const unbound = this.#listeners.splice(0).map((listener) => listener.close());
    const empty = new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
      if (this.#connections.size === 0) resolve();
    });
    for (const connection of [...this.#connections]) {
      connection.leave({ isRefusing: options.isRefusing ?? false });
    }
    const cancel = this.#host.clock.after(options.graceMs, () => {
      for (const connection of [...this.#connections]) connection.abort("the server shut down");
    });
    await Promise.all(unbound);
    await empty;
    cancel();
    this.#cancelWatch?.();
    this.#memory.close();
  }

  #share(): SessionShare {
    return {
      memory: this.#memory,
      requests: new RequestPool(),
      keptBytes: 0,
      flushSoon: (session) => {
        this.#unflushed.push(session);
        if (this.#unflushed.length === 1) this.#host.sockets.soon(this.#flushAll);
      },
      memoryIsShort: () => this.#watch(),
    };
  }

  #flush(): void {
    const sessions = this.#unflushed;
    this.#unflushed = [];
    for (const session of sessions) session.flushNow();
  }

  #gone(connection: Connection): void {
    this.#connections.delete(connection);
    this.#progress.delete(connection);
    if (this.#connections.size === 0) this.#whenEmpty?.();
  }

  /** While memory is short: who holds some and doesn't move is ended. */
  #watch(): void {
    if (this.#cancelWatch !== undefined) return;
    const stallMs = this.#settings.stallMs ?? STALL_MS_MAX;
    this.#progress.clear();
    this.#rememberProgress();
    this.#cancelWatch = this.#host.clock.after(stallMs, () => {
      this.#cancelWatch = undefined;
      if (!this.#memory.isAnyoneWaiting) return;
      for (const connection of [...this.#connections]) {
        const { session } = connection;
        const isStuck =
          session?.isWaitingForClient && this.#progress.get(connection) === session.progress;
        if (isStuck) connection.abort(`held memory that others wait for, without moving`);
      }
      if (this.#memory.isAnyoneWaiting) this.#watch();
    });
  }

  #rememberProgress(): void {
    for (const connection of this.#connections) {
      const { session } = connection;
      if (session?.isWaitingForClient) this.#progress.set(connection, session.progress);
    }
  }
}
