// SPDX-License-Identifier: Apache-2.0
//
// A TCP port of the loopback address for a server that a guest must reach: guests see the machine's
// loopback address, but not its Unix sockets. Another process may take the port before it is used; the
// server then says so.

import { createServer } from "node:net";

/** A port that nobody listens on at the moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}
