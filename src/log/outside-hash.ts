// SPDX-License-Identifier: Apache-2.0
//
// Checksums of what is larger than a node or lies outside the block memory (footers, checkpoint bodies): XXH64
// over pieces of 1 MiB, each hashed behind the checksum of the piece before (8 bytes, 0 for the first).

import { assert } from "../base/assert.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";

/** XXH64 of bytes that aren't in the pool's memory, through staging, chained piece by piece. */
export function hashOutside(memory: BlockMemory, source: Uint8Array): bigint {
  const pieceBytes = 1 << 20;
  const address = memory.staging.allocate(pieceBytes + 8);
  assert(address >= 0, "staging always has room for a footer's checksum");
  let checksum = 0n;
  for (let at = 0; at < source.length || at === 0; at += pieceBytes) {
    const piece = source.subarray(at, Math.min(source.length, at + pieceBytes));
    memory.view.setBigUint64(address, checksum, true);
    memory.bytes.set(piece, address + 8);
    checksum = memory.hash(address, piece.length + 8);
  }
  memory.staging.release(address);
  return checksum;
}
