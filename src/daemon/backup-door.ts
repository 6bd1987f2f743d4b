// SPDX-License-Identifier: Apache-2.0
//
// An NBD door to a backup target, without a pool: sockets, memory for payloads, and the target's points behind them. It has
// neither TLS nor access lists: it is opened by hand, for as long as somebody looks.

import type { Target } from "../backup/target.ts";
import type { TargetReader } from "../backup/target-reader.ts";
import { BuddyAllocator } from "../base/buddy.ts";
import { createClock } from "../host/node/clock.ts";
import { openScratchFile } from "../host/node/scratch-file.ts";
import { createSockets } from "../host/node/socket-listener.ts";
import { claimSocketPath } from "../host/node/socket-path.ts";
import type { Logger } from "../host/ports.ts";
import type { ListenAddress } from "../host/sockets.ts";
import { MAX_SLAB_PIECE_BYTES, type Slab } from "../nbd/block-device.ts";
import { NbdServer } from "../nbd/server.ts";
import { uriOf } from "./nbd-door.ts";
import { PointExports } from "./point-exports.ts";
import { parseTcpAddress } from "./settings.ts";

const PAYLOAD_PIECES = 64;

export interface BackupDoorOptions {
  readonly target: Target;
  readonly reader: TargetReader;
  /** A path, or undefined. */
  readonly socket: string | undefined;
  /** HOST:PORT, or undefined. */
  readonly listen: string | undefined;
  /** Disks can be written, until the door closes. */
  readonly hasOverlays: boolean;
  readonly logger: Logger;
}

export interface BackupDoor {
  /** Without an export name. */
  readonly uris: readonly string[];
  close(): Promise<void>;
}

/** Throws LISTEN_FAILED, CONFIG_INVALID. */
export async function openBackupDoor(options: BackupDoorOptions): Promise<BackupDoor> {
  const { target, reader, socket, listen, hasOverlays, logger } = options;
  const slab = payloadSlab();
  const openOverlay = hasOverlays ? openScratchFile : undefined;
  const catalog = new PointExports({ target, reader, slab, logger, openOverlay });
  const host = { sockets: createSockets(), clock: createClock(), logger, slab };
  const server = new NbdServer(catalog, { tlsMode: "off" }, host);
  const addresses: ListenAddress[] = [];
  if (socket !== undefined) {
    await claimSocketPath(socket);
    addresses.push({ kind: "unix", path: socket, mode: 0o600 });
  }
  if (listen !== undefined)
    addresses.push({ kind: "tcp", ...parseTcpAddress("option --listen", listen) });
  const uris: string[] = [];
  try {
    for (const address of addresses) uris.push(uriOf(await server.listen(address), "nbd"));
  } catch (error) {
    await server.close({ graceMs: 0 });
    throw error;
  }
  return { uris, close: () => server.close({ graceMs: 1000 }) };
}

/** Memory for clients' payloads, as a pool would give it. */
function payloadSlab(): Slab {
  const bytes = new Uint8Array(new SharedArrayBuffer(PAYLOAD_PIECES * MAX_SLAB_PIECE_BYTES));
  const allocator = new BuddyAllocator({
    baseAddress: 0,
    chunkBytes: MAX_SLAB_PIECE_BYTES,
    chunkCount: PAYLOAD_PIECES,
  });
  return {
    bytes,
    allocate: (lengthBytes) => allocator.allocate(lengthBytes),
    release: (address) => allocator.release(address),
  };
}
