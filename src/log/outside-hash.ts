// SPDX-License-Identifier: Apache-2.0
//
// Checksums of what is larger than a node or lies outside the block memory (footers, checkpoint bodies): XXH64
// over pieces of 1 MiB, each hashed behind the checksum of the piece before (8 bytes, 0 for the first).

import { assert } from "../base/assert.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";

/** Where one piece ends and the next begins. */
export const OUTSIDE_PIECE_BYTES: number = 1 << 20;

/** XXH64 of bytes that aren't in the pool's memory, through staging, chained piece by piece. */
export function hashOutside(memory: BlockMemory, source: Uint8Array): bigint {
  let checksum = 0n;
  for (let at = 0; at < source.length || at === 0; at += OUTSIDE_PIECE_BYTES) {
    const piece = source.subarray(at, Math.min(source.length, at + OUTSIDE_PIECE_BYTES));
    const next = hashPiece(memory, checksum, piece);
    assert(next !== undefined, "staging always has room for a footer's checksum");
    checksum = next;
  }
  return checksum;
}

/** The checksum behind one more piece; undefined while staging has no room for it. */
export function hashPiece(
  memory: BlockMemory,
  checksum: bigint,
  piece: Uint8Array,
): bigint | undefined {
  const address = memory.staging.allocate(piece.length + 8);
  if (address < 0) return undefined;
  memory.view.setBigUint64(address, checksum, true);
  memory.bytes.set(piece, address + 8);
  const next = memory.hash(address, piece.length + 8);
  memory.staging.release(address);
  return next;
}
