// SPDX-License-Identifier: Apache-2.0
//
// Whether a Unix socket may be bound at a path. A socket that a dead process left behind is replaced; one
// that somebody answers on is not, and nothing that isn't a socket is ever removed: connecting to a plain
// file fails just like connecting to a dead socket does, so the kind is looked at first.

import { lstat, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { StorageError } from "../../base/errors.ts";

/** sun_path holds 108 bytes with the closing zero. */
const SOCKET_PATH_BYTES_MAX = 107;

/**
 * Makes a Unix socket's path free for this process: nothing there is fine, a socket that nobody answers
 * on is removed, anything else is refused.
 */
export async function claimSocketPath(path: string): Promise<void> {
  const length = Buffer.byteLength(path);
  if (length > SOCKET_PATH_BYTES_MAX) {
    throw new StorageError(
      "LISTEN_FAILED",
      `socket "${path}": listening failed: the path has ${length} bytes, ${SOCKET_PATH_BYTES_MAX} are possible`,
      { hint: "use a pool with a shorter path" },
    );
  }
  const kind = await lstat(path).catch(() => undefined);
  if (kind === undefined) return;
  if (!kind.isSocket()) {
    throw new StorageError(
      "LISTEN_FAILED",
      `socket "${path}": listening failed: something that isn't a socket is in its place`,
      { hint: "move it away; nothing was changed" },
    );
  }
  if (await isAnswering(path)) {
    throw new StorageError(
      "LISTEN_FAILED",
      `socket "${path}": listening failed: another process answers on it`,
      { hint: "see which: ss -lxp" },
    );
  }
  await unlink(path).catch(() => {});
}

function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      resolve(error.code !== "ECONNREFUSED" && error.code !== "ENOENT");
    });
  });
}
