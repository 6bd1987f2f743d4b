// SPDX-License-Identifier: Apache-2.0
//
// pool.json: what a directory must hold to be a pool, and who the pool is. Written whole, to a new file that
// then takes its name, so that it is never half there. `log` says whether the log was ever begun: a begun log
// that is missing is damage, not a new pool.

import { hasCode, StorageError } from "../base/errors.ts";
import type { Directory, Random } from "../host/ports.ts";
import { FORMAT_VERSION } from "../log/batch.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";

export interface PoolIdentity {
  readonly poolId: string;
  readonly createdMicros: number;
  readonly log: "new" | "begun";
}

const NAME = "pool.json";
const IDENTITY_BYTES_MAX = 65536;

export function poolIdBytes(identity: PoolIdentity): Uint8Array {
  return Uint8Array.from(Buffer.from(identity.poolId, "hex"));
}

export function newIdentity(random: Random, createdMicros: number): PoolIdentity {
  const id = new Uint8Array(16);
  random.fill(id);
  return { poolId: Buffer.from(id).toString("hex"), createdMicros, log: "new" };
}

export async function writeIdentity(root: Directory, identity: PoolIdentity): Promise<void> {
  const temporary = `${NAME}.new`;
  if ((await root.list()).includes(temporary)) await root.remove(temporary);
  const file = await root.open(temporary, "create");
  await file.write(new TextEncoder().encode(identityText(identity)), 0);
  await file.datasync();
  await file.close();
  await root.rename(temporary, NAME);
  await root.sync();
}

/** What pool.json says. */
export function identityText(identity: PoolIdentity): string {
  const json = { format: "varve-pool", formatVersion: FORMAT_VERSION, blockBytes: BLOCK_BYTES };
  return `${JSON.stringify({ ...json, ...identity }, undefined, 2)}\n`;
}

/** Throws POOL_NOT_FOUND, NOT_A_POOL, FORMAT_UNSUPPORTED. */
export async function readIdentity(root: Directory): Promise<PoolIdentity> {
  const names = await root.list();
  if (!names.includes(NAME)) {
    const isEmpty = names.length === 0;
    throw new StorageError(
      isEmpty ? "POOL_NOT_FOUND" : "NOT_A_POOL",
      isEmpty
        ? "pool: not found: the directory is empty"
        : `pool: not opened: the directory has no ${NAME}`,
    );
  }
  const json = await readJson(root);
  if (json.format !== "varve-pool")
    throw new StorageError("NOT_A_POOL", `pool: not opened: ${NAME} is not a pool's`);
  if (json.formatVersion !== FORMAT_VERSION || json.blockBytes !== BLOCK_BYTES) {
    throw new StorageError(
      "FORMAT_UNSUPPORTED",
      `pool: not opened: format version ${String(json.formatVersion)}, this varve reads ${FORMAT_VERSION}`,
    );
  }
  const { poolId, createdMicros, log } = json;
  if (
    typeof poolId !== "string" ||
    !/^[0-9a-f]{32}$/.test(poolId) ||
    typeof createdMicros !== "number" ||
    (log !== "new" && log !== "begun")
  ) {
    throw new StorageError("POOL_CORRUPT", `pool: not opened: ${NAME} makes no sense`);
  }
  return { poolId, createdMicros, log };
}

async function readJson(root: Directory): Promise<Readonly<Record<string, unknown>>> {
  const file = await root.open(NAME, "read");
  try {
    const bytes = new Uint8Array(Math.min(IDENTITY_BYTES_MAX, await file.sizeBytes()));
    await file.read(bytes, 0);
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch (error) {
    if (hasCode(error, "DISK_IO")) throw error;
  } finally {
    await file.close();
  }
  throw new StorageError("POOL_CORRUPT", `pool: not opened: ${NAME} doesn't parse`);
}
