// SPDX-License-Identifier: Apache-2.0
//
// A pool without its daemon: the directories that log dump, log cat and check read. They only read; what
// isn't a pool is refused with the same words as by the daemon, but a pool whose pool.json is lost is read as what
// its segments say. Reading is possible beside a daemon, but
// whoever judges the whole (check) asks for the lock first.

import { join } from "node:path";
import { hasCode, StorageError } from "../base/errors.ts";
import { openDirectory } from "../host/node/directory.ts";
import { lockPool, type PoolLock } from "../host/node/pool-lock.ts";
import { fileKind } from "../host/node/text-file.ts";
import type { Directory } from "../host/ports.ts";
import { poolIdBytes, readIdentity } from "../pool/identity.ts";
import { findIdentity, isIdentityLost, lostIdentity } from "../pool/lost-identity.ts";
import type { Output } from "./output.ts";

export interface OfflinePool {
  readonly root: Directory;
  readonly log: Directory;
  readonly poolId: Uint8Array;
  /** Why pool.json doesn't say who the pool is; then its segments do. */
  readonly identityProblem: StorageError | undefined;
}

/** Throws POOL_NOT_FOUND, NOT_A_POOL, POOL_CORRUPT, FORMAT_UNSUPPORTED. */
export async function openOfflinePool(path: string, output: Output): Promise<OfflinePool> {
  const kind = await fileKind(path);
  if (kind === "missing") {
    throw new StorageError(
      "POOL_NOT_FOUND",
      `pool "${path}": not found: there is no such directory`,
      {
        hint: "name another with --pool or VARVE_POOL",
      },
    );
  }
  if (kind !== "directory") {
    throw new StorageError("NOT_A_POOL", `pool "${path}": not opened: it isn't a directory`);
  }
  const isThere = (await fileKind(join(path, "pool.json"))) === "file";
  const missing = `pool "${path}": not opened: it holds no pool.json`;
  if (!isThere && (await fileKind(join(path, "log"))) !== "directory")
    throw new StorageError("NOT_A_POOL", missing);
  const root = await openDirectory(path);
  const log = await openDirectory(join(path, "log"));
  try {
    if (!isThere) throw new StorageError("NOT_A_POOL", missing);
    return { root, log, poolId: poolIdBytes(await readIdentity(root)), identityProblem: undefined };
  } catch (error) {
    const found = isIdentityLost(error) ? await findIdentity(log) : undefined;
    if (!isIdentityLost(error) || found === undefined) throw error;
    const identityProblem = lostIdentity(error, found);
    output.note(
      `pool "${path}": pool.json is missing or damaged; by its segments this is pool ${found.poolId}`,
    );
    return { root, log, poolId: poolIdBytes(found), identityProblem };
  }
}

/**
 * Keeps daemons away meanwhile. Throws POOL_LOCKED when one has the pool open. A pool that can't be
 * written (a read-only copy) can't have a daemon either: there is nothing to lock then.
 */
export async function lockOfflinePool(path: string): Promise<PoolLock> {
  const none: PoolLock = { release: () => {} };
  if ((await fileKind(join(path, "lock"))) !== "file") return none;
  try {
    return lockPool(path);
  } catch (error) {
    const isReadOnly =
      hasCode(error, "DISK_IO") && ["EROFS", "EACCES"].includes(String(error.data.errno));
    if (isReadOnly) return none;
    throw error;
  }
}
