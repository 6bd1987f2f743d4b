// SPDX-License-Identifier: Apache-2.0
//
// What every header of the format proves about itself, whoever reads it (batches, segments, checkpoint slots): its
// checksum, which covers all bytes before it, and the pool that it belongs to.

import type { BlockMemory } from "../reduce/block-memory.ts";

const POOL_ID_BYTES = 16;

/** The 8 bytes at `checksumAt` are XXH64 of all bytes before them. Uses the scratch memory's first 8 bytes. */
export function checksumMatches(memory: BlockMemory, address: number, checksumAt: number): boolean {
  memory.kernel.hash(address, checksumAt, memory.scratchAddress);
  return (
    memory.view.getBigUint64(memory.scratchAddress, true) ===
    memory.view.getBigUint64(address + checksumAt, true)
  );
}

/** The 16 bytes at `address` are this pool's id. */
export function isPoolId(memory: BlockMemory, address: number, poolId: Uint8Array): boolean {
  for (let index = 0; index < POOL_ID_BYTES; index++)
    if (memory.bytes[address + index] !== poolId[index]) return false;
  return true;
}
