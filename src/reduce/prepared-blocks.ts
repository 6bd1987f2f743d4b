// SPDX-License-Identifier: Apache-2.0
//
// Blocks of a large write that are hashed and compressed before their turn comes, beside the event loop: what depends
// on nothing but their bytes. Whether they are duplicates, and where they go, is decided in their turn, as for any other.
//
// A piece of the memory's `prepared` region, as the kernel's `prepareBlocks` fills it:
//
//   0      u64 hash a block
//   2048   u32 size a block
//   3072   compressed blocks, 3840 bytes apart

/** Largest piece: a megabyte, with its lists in the room that compression must save. */
export const PREPARED_BLOCKS_MAX = 256;
const SIZES_AT: number = PREPARED_BLOCKS_MAX * 8;
const CONTENT_AT: number = SIZES_AT + PREPARED_BLOCKS_MAX * 4;
const STRIDE_BYTES = 3840;

export function preparedBytes(blockCount: number): number {
  return CONTENT_AT + blockCount * STRIDE_BYTES;
}

export function preparedHashesOf(piece: number, block = 0): number {
  return piece + block * 8;
}

export function preparedSizesOf(piece: number, block = 0): number {
  return piece + SIZES_AT + block * 4;
}

export function preparedContentOf(piece: number, block = 0): number {
  return piece + CONTENT_AT + block * STRIDE_BYTES;
}

/** A piece of a write, and where what is found out about it goes. */
export interface PreparedWrite {
  readonly source: number;
  /** At most PREPARED_BLOCKS_MAX. */
  readonly blockCount: number;
  readonly piece: number;
  /** As for the kernel. */
  readonly compressEvery: number;
}

export interface BlockPreparer {
  /** Writes of fewer blocks are quicker in line. */
  readonly blocksMin: number;
  /** Resolves when the piece is filled; until then source and piece are the preparer's. Undefined: too much to do. */
  prepare(write: PreparedWrite): Promise<void> | undefined;
  /** What is under way ends, or never will. */
  close(): Promise<void>;
}
