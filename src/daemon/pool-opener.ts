// SPDX-License-Identifier: Apache-2.0
//
// From a path to an open pool, under the lock that makes this process its only writer. A directory that
// is missing or empty becomes a pool; one that holds anything else is left exactly as it is. What an
// interrupted creation left behind counts as empty, as long as there is no log in it.

import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { makeDirectory, openDirectory, pathKind } from "../host/node/directory.ts";
import { lockPool, type PoolLock } from "../host/node/pool-lock.ts";
import { fileKind, listNames } from "../host/node/text-file.ts";
import type { Clock, Logger, Random, Threads, Zstd } from "../host/ports.ts";
import { readIdentity } from "../pool/identity.ts";
import { findIdentity, isIdentityLost, lostIdentity } from "../pool/lost-identity.ts";
import { Pool } from "../pool/pool.ts";
import type { PoolSettings } from "../pool/types.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { BlockThreads } from "../reduce/block-threads.ts";

const IDENTITY = "pool.json";
const LOG = "log";
/** What may stand in a directory whose pool was never finished. */
const BEGINNINGS = new Set([LOG, "lock", `${IDENTITY}.new`]);

export interface PoolMachine {
  readonly clock: Clock;
  readonly random: Random;
  readonly zstd: Zstd;
  readonly threads?: Threads | undefined;
  readonly logger: Logger;
}

export interface OpenedPool {
  readonly pool: Pool;
  readonly isNew: boolean;
  readonly lock: PoolLock;
}

export async function openPool(
  path: string,
  settings: PoolSettings,
  machine: PoolMachine,
): Promise<OpenedPool> {
  // Before anything is made or locked, so that a directory that isn't a pool isn't touched.
  await isPool(path);
  await makeDirectory(path);
  const lock = lockPool(path);
  try {
    // Again under the lock: another daemon may have made the pool meanwhile.
    const isNew = !(await isPool(path));
    const log = await makeDirectory(join(path, LOG));
    const { threads } = machine;
    const startPreparer =
      threads && ((memory: BlockMemory): BlockThreads => new BlockThreads(memory, threads));
    const host = {
      root: await openDirectory(path),
      log,
      ...machine,
      ...(startPreparer && { startPreparer }),
    };
    const pool = await withSubject(path, () =>
      isNew ? Pool.create(host, settings) : Pool.open(host, settings),
    );
    return { pool, isNew, lock };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** The pool doesn't know what its directory is called; the user does. */
async function withSubject<T>(path: string, open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    if (!(error instanceof StorageError) || !error.message.startsWith("pool: ")) throw error;
    const { code, hint, data } = error;
    const message = error.message.replace("pool: ", `pool "${path}": `);
    // biome-ignore lint/style/useErrorCause: it is in the details, which the rule doesn't see
    throw new StorageError(code, message, { hint, data: { ...data, path }, cause: error });
  }
}

/** True for a pool, false for a place where one can be made; else throws NOT_A_POOL, POOL_CORRUPT, FORMAT_UNSUPPORTED. */
async function isPool(path: string): Promise<boolean> {
  try {
    return await isPoolByIdentity(path);
  } catch (error) {
    if (!isIdentityLost(error)) throw error;
    const log = join(path, LOG);
    const isLog = (await fileKind(log)) === "directory";
    const found = isLog ? await findIdentity(await openDirectory(log)) : undefined;
    throw found === undefined ? error : lostIdentity(error, found);
  }
}

async function isPoolByIdentity(path: string): Promise<boolean> {
  const kind = await pathKind(path);
  if (kind === "missing") return false;
  if (kind === "other") throw notPool(path, "it isn't a directory");
  const names = (await listNames(path)) ?? [];
  if (names.includes(IDENTITY)) {
    // One that this version can't open isn't even locked.
    await withSubject(path, async () => readIdentity(await openDirectory(path)));
    return true;
  }
  const stranger = names.find((name) => !BEGINNINGS.has(name));
  if (stranger !== undefined) {
    throw notPool(path, `it holds "${stranger}" and no ${IDENTITY}`);
  }
  const [piece] = (await listNames(join(path, LOG)).catch(() => undefined)) ?? [];
  if (piece !== undefined) throw notPool(path, `it holds "${LOG}/${piece}" and no ${IDENTITY}`);
  return false;
}

function notPool(path: string, why: string): StorageError {
  return new StorageError("NOT_A_POOL", `pool "${path}": not opened: ${why}`, { data: { path } });
}
