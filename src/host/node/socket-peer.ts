// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end of a Unix socket: the kernel's own record (SO_PEERCRED), taken when the client
// connected. The runtime has no call for it, so a short-lived Perl, which every Debian has, gets the
// socket as descriptor 3 and asks. That is exact and without a race, needs no privilege, and costs a
// process (5 to 10 ms) for each client; so it is only done where an access list or a hook needs to know.
//
// Descriptor 3 and not 0: what a child gets as 0 to 2 is switched to blocking mode, for us as well.

import { spawn } from "node:child_process";

const ASK =
  'use Socket; open(my $s, "+<&=", 3) or exit 1; my $c = getsockopt($s, SOL_SOCKET, SO_PEERCRED) or exit 1; print((unpack("i3", $c))[1])';

/** A client that doesn't get an answer in this time is unknown, and is refused where it matters. */
const ASK_TIMEOUT_MS = 5000;

/** undefined: not to be found out (no Perl, or not a Unix socket). */
export function peerUidOf(descriptor: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const child = spawn("perl", ["-e", ASK], {
      stdio: ["ignore", "pipe", "ignore", descriptor],
      timeout: ASK_TIMEOUT_MS,
    });
    let output = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      output += bytes.toString("latin1");
    });
    child.on("error", () => resolve(undefined));
    child.on("close", (status) => {
      resolve(status === 0 && /^\d+$/.test(output) ? Number(output) : undefined);
    });
  });
}
