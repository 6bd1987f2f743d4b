// SPDX-License-Identifier: Apache-2.0
//
// The NBD door with everything around it in memory: a disk, sockets, a clock that stands still until it
// is turned, and a log that can be read. Tests feed bytes or a client and see what comes back.

import { StorageError } from "../base/errors.ts";
import type { Clock, Logger, LogLevel } from "../host/ports.ts";
import type { Sockets } from "../host/sockets.ts";
import type { ClientStream } from "../nbd/client.ts";
import { NbdServer, type NbdServerHost, type NbdServerSettings } from "../nbd/server.ts";
import {
  MemoryCatalog,
  MemoryDevice,
  type MemoryDeviceOptions,
  MemorySlab,
} from "./memory-device.ts";
import { MemorySocket, type MemorySocketOptions } from "./memory-socket.ts";

/** Time that passes only when it is told to. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #timers: { atMs: number; callback: () => void }[] = [];
  readonly #soon: (callback: () => void) => void;

  constructor(soon: (callback: () => void) => void) {
    this.#soon = soon;
  }

  get timerCount(): number {
    return this.#timers.length;
  }

  wallMicros(): number {
    return this.#nowMs * 1000;
  }

  monotoneMicros(): number {
    return this.#nowMs * 1000;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  afterInput(callback: () => void): void {
    this.#soon(callback);
  }

  advance(ms: number): void {
    const end = this.#nowMs + ms;
    for (;;) {
      const due = this.#timers.filter((timer) => timer.atMs <= end);
      const next = due.sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.callback();
    }
    this.#nowMs = end;
  }
}

export interface LogLine {
  readonly level: LogLevel;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface DoorOptions {
  readonly soon: (callback: () => void) => void;
  readonly settings?: Partial<NbdServerSettings>;
  readonly device?: Partial<MemoryDeviceOptions>;
  /** Slab in pieces of 1 MiB. */
  readonly slabPieces?: number;
  readonly hookRunner?: NbdServerHost["hookRunner"];
}

export class NbdDoorInMemory {
  readonly clock: ManualClock;
  readonly slab: MemorySlab;
  readonly device: MemoryDevice;
  readonly catalog: MemoryCatalog;
  readonly server: NbdServer;
  readonly lines: LogLine[] = [];
  readonly #soon: (callback: () => void) => void;

  constructor(options: DoorOptions) {
    this.#soon = options.soon;
    this.clock = new ManualClock(options.soon);
    this.slab = new MemorySlab(options.slabPieces ?? 64);
    const size = { sizeBytes: 64 << 20, slab: this.slab };
    this.device = new MemoryDevice({ ...size, ...options.device });
    this.catalog = new MemoryCatalog({ db: this.device });
    const logger: Logger = {
      log: (level, event, fields = {}) => {
        this.lines.push({ level, event, fields });
      },
    };
    const sockets: Sockets = {
      listen: () => Promise.reject(new StorageError("LISTEN_FAILED", "there is no network here")),
      soon: options.soon,
    };
    const { clock, slab } = this;
    const host = { sockets, clock, logger, slab };
    const hooks = options.hookRunner === undefined ? {} : { hookRunner: options.hookRunner };
    const settings = { tlsMode: "off" as const, ...options.settings };
    this.server = new NbdServer(this.catalog, settings, { ...host, ...hooks });
  }

  /** A client that the test plays byte by byte. */
  connect(options: Partial<MemorySocketOptions> = {}): MemorySocket {
    const socket = new MemorySocket({ soon: this.#soon, ...options });
    this.server.accept(socket);
    return socket;
  }

  /** A stream for our own client. */
  connectStream(
    options: Partial<MemorySocketOptions> = {},
  ): ClientStream & { socket: MemorySocket } {
    const socket = new MemorySocket({ soon: this.#soon, ...options });
    const soon = this.#soon;
    return {
      socket,
      start: (received, ended) => {
        socket.onSent = (bytes) => soon(() => received(bytes));
        socket.onEnd = () => soon(() => ended());
        this.server.accept(socket);
      },
      send: (bytes) => {
        const copy = bytes.slice();
        soon(() => socket.feed(copy));
      },
      startTls: () => Promise.reject(new Error("there is no TLS without a network")),
      close: () => soon(() => socket.feedEnd()),
    };
  }

  /** Log lines of this event, as reasons. */
  reasons(event: string): string[] {
    return this.lines
      .filter((line) => line.event === event)
      .map((line) => String(line.fields.reason));
  }
}
