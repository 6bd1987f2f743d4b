// SPDX-License-Identifier: Apache-2.0
//
// The NBD door on real sockets over a disk in memory, inside the test's own process: what real clients
// and the door say to each other, with no pool behind that could be at fault.

import { createClock } from "../../src/host/node/clock.ts";
import { createSockets } from "../../src/host/node/socket-listener.ts";
import { NbdServer, type NbdServerSettings } from "../../src/nbd/server.ts";
import { MemoryCatalog, MemoryDevice, MemorySlab } from "../../src/sim/memory-device.ts";
import type { Scratch } from "./scratch.ts";

export interface DoorOptions {
  readonly sizeBytes?: number;
  readonly settings?: Partial<NbdServerSettings>;
  readonly isLate?: boolean;
  readonly isReadOnly?: boolean;
  readonly slabPieces?: number;
}

export interface Door {
  readonly server: NbdServer;
  readonly device: MemoryDevice;
  readonly catalog: MemoryCatalog;
  readonly slab: MemorySlab;
  readonly socket: string;
  readonly port: number;
  /** As libnbd spells it. */
  readonly uri: string;
  /** Log lines with level "warn". */
  readonly warnings: string[];
}

export async function openDoor(scratch: Scratch, options: DoorOptions = {}): Promise<Door> {
  const slab = new MemorySlab(options.slabPieces ?? 64);
  const clock = createClock();
  const device = new MemoryDevice({
    sizeBytes: options.sizeBytes ?? 64 << 20,
    slab,
    isReadOnly: options.isReadOnly ?? false,
    ...(options.isLate ? { lateBy: clock } : {}),
  });
  const catalog = new MemoryCatalog({ db: device });
  const warnings: string[] = [];
  const server = new NbdServer(
    catalog,
    { tlsMode: "off", ...options.settings },
    {
      sockets: createSockets(),
      clock,
      slab,
      logger: {
        log: (level, event, fields) => {
          if (level === "warn") warnings.push(`${event}: ${JSON.stringify(fields)}`);
        },
      },
    },
  );
  const socket = await server.listen({ kind: "unix", path: scratch.path("nbd.sock") });
  const tcp = await server.listen({ kind: "tcp", host: "127.0.0.1", port: 0 });
  scratch.defer("the door", () => server.close({ graceMs: 200 }));
  return {
    server,
    device,
    catalog,
    slab,
    socket,
    port: Number(tcp.split(":").pop()),
    uri: `nbd+unix:///db?socket=${socket}`,
    warnings,
  };
}
