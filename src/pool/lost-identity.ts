// SPDX-License-Identifier: Apache-2.0
//
// Who a pool is whose pool.json is lost or damaged: each segment's header carries the pool's id, under a checksum.
// Where all that can be read agree, that is the pool. Readers go on with it; a daemon, which would write, only says
// what to put back.

import { hasCode, StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { READER_MEMORY_BYTES } from "../log/log-dump.ts";
import { parseSegmentHeader, SEGMENT_HEADER_BYTES, segmentNumberOf } from "../log/segment.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { identityText, type PoolIdentity } from "./identity.ts";

const POOL_ID_AT = 16;
const POOL_ID_END = 32;

/** The identity that all readable segment headers agree on; undefined when there is none, or several. */
export async function findIdentity(log: Directory): Promise<PoolIdentity | undefined> {
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  const address = memory.staging.allocate(SEGMENT_HEADER_BYTES);
  let found: PoolIdentity | undefined;
  for (const name of (await log.list()).filter((each) => segmentNumberOf(each) >= 0).sort()) {
    const page = new Uint8Array(SEGMENT_HEADER_BYTES);
    const file = await log.open(name, "read");
    const readBytes = await file.read(page, 0).finally(() => file.close());
    memory.bytes.set(page, address);
    const id = page.subarray(POOL_ID_AT, POOL_ID_END);
    const header = parseSegmentHeader(memory, address, readBytes, id);
    if (typeof header === "string") continue;
    const poolId = Buffer.from(id).toString("hex");
    if (found !== undefined && found.poolId !== poolId) return undefined;
    found ??= { poolId, createdMicros: header.wallMicros, log: "begun" };
  }
  return found;
}

/** Whether an error says that pool.json isn't there or makes no sense. */
export function isIdentityLost(error: unknown): error is StorageError {
  return (
    hasCode(error, "POOL_CORRUPT") ||
    hasCode(error, "NOT_A_POOL") ||
    hasCode(error, "POOL_NOT_FOUND")
  );
}

/** The refusal of a pool that lost its identity: who it is, and what to do. */
export function lostIdentity(cause: StorageError, found: PoolIdentity): StorageError {
  const { code, message, data } = cause;
  const text = identityText(found).replaceAll(/\s+/g, " ").trim();
  const hint = `copy pool.json from a copy of this pool, or write it: ${text}`;
  return new StorageError(code, `${message}; its segments are those of pool ${found.poolId}`, {
    hint,
    data: { ...data, poolId: found.poolId },
    cause,
  });
}
