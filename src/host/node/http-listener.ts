// SPDX-License-Identifier: Apache-2.0
//
// The sockets of the control door. The HTTP code is loaded later and handed each request; here are only
// the listening ends and their limits: how long a request may take to arrive, how many connections there
// may be. A Unix socket is bound under a private umask, so there is no instant at which others could
// open it. One left behind by a dead process is replaced, one that answers is not.

import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { isIPv6 } from "node:net";
import { StorageError } from "../../base/errors.ts";
import { claimSocketPath } from "./socket-path.ts";

export type HttpPlace =
  | { readonly path: string }
  | {
      readonly host: string;
      readonly port: number;
      readonly certificate: string;
      readonly key: string;
    };

export interface HttpListener {
  /** "/pool/control.sock" or "https://127.0.0.1:7070". */
  readonly address: string;
  /** Takes no more connections; those that are still busy after `graceMs` are cut. */
  close(graceMs: number): Promise<void>;
}

const CONNECTIONS_MAX = 128;
const REQUEST_TIMEOUT_MS = 30_000;
const HEADERS_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 10_000;
const PRIVATE_UMASK = 0o177;

export async function listenHttp(
  place: HttpPlace,
  handler: RequestListener,
): Promise<HttpListener> {
  const limits = {
    requestTimeout: REQUEST_TIMEOUT_MS,
    headersTimeout: HEADERS_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connectionsCheckingInterval: 5_000,
  };
  const server =
    "path" in place
      ? createServer(limits, handler)
      : createTlsServer({ ...limits, cert: place.certificate, key: place.key }, handler);
  server.maxConnections = CONNECTIONS_MAX;
  const busy = new Set<IncomingMessage>();
  server.on("request", (request: IncomingMessage, response) => {
    busy.add(request);
    response.once("close", () => busy.delete(request));
  });
  if ("path" in place) await claimSocketPath(place.path);
  await bind(server, place);
  return {
    address: addressOf(server, place),
    close: (graceMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => server.closeAllConnections(), graceMs);
        server.close(() => {
          clearTimeout(timer);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

function bind(server: Server, place: HttpPlace): Promise<void> {
  return new Promise((resolve, reject) => {
    const what = "path" in place ? place.path : `${place.host}:${place.port}`;
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(
        new StorageError(
          "LISTEN_FAILED",
          `control: listening on "${what}" failed: ${error.message}`,
          {
            hint: "see who listens there: ss -lpn",
            cause: error,
          },
        ),
      );
    });
    if ("path" in place) {
      // The bind happens inside listen(), before it returns.
      const umask = process.umask(PRIVATE_UMASK);
      server.listen({ path: place.path }, resolve);
      process.umask(umask);
    } else {
      server.listen({ host: place.host, port: place.port }, resolve);
    }
  });
}

function addressOf(server: Server, place: HttpPlace): string {
  if ("path" in place) return place.path;
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : place.port;
  return `https://${isIPv6(place.host) ? `[${place.host}]` : place.host}:${port}`;
}
