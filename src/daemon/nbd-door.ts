// SPDX-License-Identifier: Apache-2.0
//
// The NBD door as the settings want it: certificates and keys read from their files, access lists and
// hooks handed over, and the sockets bound, one after the other, so that a port that is taken is told
// before any client is served. Sockets inherited from systemd take the place of the TCP addresses.

import { join } from "node:path";
import type { InheritedSocket } from "../host/node/activation.ts";
import { runBounded } from "../host/node/program.ts";
import { createSockets } from "../host/node/socket-listener.ts";
import { claimSocketPath } from "../host/node/socket-path.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type { TlsServerSettings } from "../host/sockets.ts";
import type { ExportCatalog, Slab } from "../nbd/block-device.ts";
import { parsePskFile } from "../nbd/psk-file.ts";
import { NbdServer } from "../nbd/server.ts";
import { readSecret } from "./control.ts";
import type { DaemonSettings, TlsFiles } from "./settings.ts";

const NBD_SOCKET = "nbd.sock";

export interface NbdDoorOptions {
  readonly settings: DaemonSettings;
  /** Absolute. */
  readonly directory: string;
  readonly inherited: readonly InheritedSocket[];
  readonly catalog: ExportCatalog;
  readonly slab: Slab;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface NbdDoor {
  readonly server: NbdServer;
  /** URIs without an export name. */
  readonly uris: readonly string[];
}

export async function startNbdDoor(options: NbdDoorOptions): Promise<NbdDoor> {
  const { settings, directory, inherited, catalog, slab, clock, logger } = options;
  const tls = await readTls(settings.tls);
  const server = new NbdServer(
    catalog,
    {
      tlsMode: settings.tls.mode,
      ...(tls === undefined ? {} : { tls }),
      access: settings.access,
      hooks: settings.hooks,
      connectionsMax: settings.clientCountMax,
      handshakeMs: settings.handshakeTimeoutMs,
    },
    { sockets: createSockets(), clock, logger, slab, hookRunner: runBounded },
  );
  const uris: string[] = [];
  const scheme = settings.tls.mode === "off" ? "nbd" : "nbds";
  try {
    for (const { descriptor, name } of inherited) {
      uris.push(uriOf(await server.listen({ kind: "descriptor", descriptor, name }), scheme));
    }
    const path = settings.socket ?? join(directory, NBD_SOCKET);
    const isInherited = uris.includes(uriOf(path, scheme));
    if (!isInherited) {
      await claimSocketPath(path);
      uris.push(
        uriOf(await server.listen({ kind: "unix", path, mode: settings.socketMode }), scheme),
      );
    }
    const addresses = inherited.length === 0 ? settings.listen : [];
    for (const { host, port } of addresses) {
      uris.push(uriOf(await server.listen({ kind: "tcp", host, port }), scheme));
    }
  } catch (error) {
    await server.close({ graceMs: 0 });
    throw error;
  }
  return { server, uris };
}

/** Unix sockets need no TLS; their URI says so as well. */
export function uriOf(address: string, scheme: "nbd" | "nbds"): string {
  if (address.startsWith("/")) return `nbd+unix:///?socket=${encodePath(address)}`;
  return `${scheme}://${address}`;
}

/** A path in a query: what means something there is escaped, slashes stay readable. */
function encodePath(path: string): string {
  return encodeURIComponent(path).replaceAll("%2F", "/");
}

async function readTls(files: TlsFiles): Promise<TlsServerSettings | undefined> {
  if (files.mode === "off") return undefined;
  const read = async (setting: string, path: string | undefined): Promise<string | undefined> =>
    path === undefined ? undefined : readSecret(setting, path);
  const certificate = await read("tls-certificate", files.certificate);
  const key = await read("tls-key", files.key);
  const authorities = await read("tls-ca", files.authority);
  const keys = await read("tls-psk-file", files.presharedKeys);
  const hasKeys = keys !== undefined;
  return {
    ...(certificate === undefined ? {} : { certificate }),
    ...(key === undefined ? {} : { key }),
    ...(authorities === undefined ? {} : { authorities }),
    // Who proves itself by a pre-shared key needs none; everybody else does.
    clientCertificate: authorities === undefined ? "none" : "required",
    presharedKeys: hasKeys ? parsePskFile(keys) : new Map(),
  };
}
