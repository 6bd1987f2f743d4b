// SPDX-License-Identifier: Apache-2.0
//
// Listening sockets of the runtime as the Sockets port: Unix paths, TCP, and descriptors that systemd
// opened. A path that a dead server left behind is taken over; one where somebody still answers is not.
// A Unix socket never exists with wider permissions than asked for, not even for an instant: the file
// mode is set by the umask around the bind, which the runtime does before listen() returns.

import { readFileSync, readlinkSync } from "node:fs";
import { createServer, type Socket as NetSocket, type Server } from "node:net";
import { StorageError } from "../../base/errors.ts";
import type { ListenAddress, Listener, Socket, Sockets } from "../sockets.ts";
import { claimSocketPath } from "./socket-path.ts";
import { StreamSocket } from "./socket-stream.ts";

/** Connections that the kernel may hold ready for us: a thousand clients may come back at once. */
const BACKLOG = 1024;
const DEFAULT_SOCKET_MODE = 0o600;

export function createSockets(): Sockets {
  return { listen, soon: (callback) => queueMicrotask(callback) };
}

async function listen(address: ListenAddress, accept: (socket: Socket) => void): Promise<Listener> {
  if (address.kind === "unix") await claimSocketPath(address.path);
  try {
    return await listenOnce(address, accept);
  } catch (error) {
    throw refusal(address, error);
  }
}

function listenOnce(address: ListenAddress, accept: (socket: Socket) => void): Promise<Listener> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  server.on("connection", (socket: NetSocket) => accept(new StreamSocket(socket)));
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.once("listening", () => {
      server.removeListener("error", reject);
      // Out of descriptors, for instance: that connection fails, listening goes on.
      server.on("error", () => {});
      resolve({ address: shownAddress(address, server), close: () => closeServer(server) });
    });
    begin(server, address);
  });
}

function begin(server: Server, address: ListenAddress): void {
  switch (address.kind) {
    case "tcp":
      server.listen({ host: address.host, port: address.port, backlog: BACKLOG });
      return;
    case "descriptor":
      server.listen({ fd: address.descriptor });
      return;
    case "unix": {
      const before = process.umask(0o777 & ~(address.mode ?? DEFAULT_SOCKET_MODE));
      try {
        server.listen({ path: address.path, backlog: BACKLOG });
      } finally {
        process.umask(before);
      }
    }
  }
}

function closeServer(server: Server): Promise<void> {
  // close() calls back only when the last connection is gone; no new ones come from now on.
  server.close();
  return Promise.resolve();
}

function shownAddress(address: ListenAddress, server: Server): string {
  if (address.kind === "unix") return address.path;
  const bound = server.address();
  if (bound !== null && typeof bound === "object") {
    const { family, port } = bound;
    return family === "IPv6" ? `[${bound.address}]:${port}` : `${bound.address}:${port}`;
  }
  if (bound !== null || address.kind !== "descriptor") return bound ?? "";
  return unixPathOf(address.descriptor) ?? `descriptor ${address.descriptor}`;
}

/** The path that an inherited Unix socket is bound to; the runtime doesn't know, the kernel does. */
function unixPathOf(descriptor: number): string | undefined {
  const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${descriptor}`))?.[1];
  if (inode === undefined) return undefined;
  // Num RefCount Protocol Flags Type St Inode Path
  const rows = readFileSync("/proc/net/unix", "utf8").split("\n");
  const row = rows.map((text) => text.trim().split(/\s+/)).find((fields) => fields[6] === inode);
  const path = row?.slice(7).join(" ");
  return path === "" ? undefined : path;
}

function refusal(address: ListenAddress, cause: unknown): StorageError {
  const what = {
    unix: () => (address.kind === "unix" ? `socket "${address.path}"` : ""),
    tcp: () => (address.kind === "tcp" ? `address ${address.host}:${address.port}` : ""),
    descriptor: () => "inherited socket",
  }[address.kind]();
  const { code, message } = cause as NodeJS.ErrnoException;
  return new StorageError("LISTEN_FAILED", `${what}: not opened: ${code ?? message}`, { cause });
}
