// SPDX-License-Identifier: Apache-2.0
//
// A run: one immutable file of index nodes, written by one checkpoint. Nodes are leaves (the references of
// one page) and directories (where the leaves of one chunk are), and the same of moved frames (relocation-node.ts); the
// checkpoint's body comes last. Each node says what it is and where it was written, and carries a checksum, so that
// a misdirected read is found.
//
//   | header 4096 | relocations | … | their directories | … | leaf | leaf | … | directory | … | body | trailer 64 |
//
//   node     0 u64 XXH64 of bytes 8..   8 u32 run   12 u32 offset / 8   16 u8 kind, u8 encoding, u16 count
//            20 u32 branch   24 u32 page, chunk or segment   28 u32 payload bytes   32 … payload, padded to 8
//   leaf     dense: 512 references; sparse: count references, then count u16 block numbers
//   directory  sparse: count times (u32 page in the chunk, u32 run, u32 offset / 8)
//
// docs/format/run.md is the specification.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { CHUNK_PAGES, CHUNK_WORDS, PAGE_BLOCKS, WORD_OFFSET, WORD_RUN } from "./page-directory.ts";

export const RUN_HEADER_BYTES = 4096;
export const RUN_TRAILER_BYTES = 64;
export const RUN_HEADER_CHECKSUM_AT = 120;
export const RUN_TRAILER_CHECKSUM_AT = 56;
export const NODE_HEADER_BYTES = 32;
export const NODE_KIND = {
  LEAF: 1,
  DIRECTORY: 2,
  BODY: 3,
  RELOCATIONS: 4,
  RELOCATION_DIRECTORY: 5,
  CHANGES: 6,
  CHANGED_PAGES: 7,
  RANGES: 8,
  CHANGE_LISTS: 9,
  ACTIVITY: 10,
} as const;
const ENCODING = { DENSE: 0, SPARSE: 1 } as const;
const PAGE_BYTES: number = PAGE_BLOCKS * 8;
/** Beyond so many references a dense leaf is no larger. */
const SPARSE_MAX = 400;
export const LEAF_BYTES_MAX: number = NODE_HEADER_BYTES + PAGE_BYTES;
export const DIRECTORY_BYTES_MAX: number = NODE_HEADER_BYTES + CHUNK_PAGES * 12;

/** "000000000000000b.run", in the same directory as the segments. */
export function runName(number: number): string {
  return `${number.toString(16).padStart(16, "0")}.run`;
}

export function runNumberOf(name: string): number {
  return /^[0-9a-f]{16}\.run$/.test(name) ? Number.parseInt(name.slice(0, 16), 16) : -1;
}

export interface NodeIdentity {
  readonly kind: number;
  readonly branch: number;
  /** Page number of a leaf, chunk number of a directory; home segment of moved frames. */
  readonly position: number;
}

/** Encodes the page of references at `pageAddress` as a leaf at `target`. Returns its bytes (0: all holes). */
export function encodeLeaf(
  memory: BlockMemory,
  pageAddress: number,
  target: number,
): { lengthBytes: number; count: number; encoding: number } {
  const { words, view } = memory;
  const page = pageAddress >>> 2;
  let count = 0;
  for (let block = 0; block < PAGE_BLOCKS; block++)
    if (words[page + block * 2 + 1] !== 0) count += 1;
  const payload = target + NODE_HEADER_BYTES;
  if (count > SPARSE_MAX) {
    memory.bytes.copyWithin(payload, pageAddress, pageAddress + PAGE_BYTES);
    return { lengthBytes: LEAF_BYTES_MAX, count, encoding: ENCODING.DENSE };
  }
  let at = 0;
  for (let block = 0; block < PAGE_BLOCKS; block++) {
    if (words[page + block * 2 + 1] === 0) continue;
    view.setUint32(payload + at * 8, words[page + block * 2] as number, true);
    view.setUint32(payload + at * 8 + 4, words[page + block * 2 + 1] as number, true);
    view.setUint16(payload + count * 8 + at * 2, block, true);
    at += 1;
  }
  const payloadBytes = padTo8(count * 10);
  memory.bytes.fill(0, payload + count * 10, payload + payloadBytes);
  return { lengthBytes: NODE_HEADER_BYTES + payloadBytes, count, encoding: ENCODING.SPARSE };
}

/** Writes references that come from elsewhere as `decodeLeaf` takes them; no header besides. */
export function putDenseLeaf(memory: BlockMemory, references: Uint32Array, target: number): void {
  assert(references.byteLength === PAGE_BYTES, "references of a page");
  memory.view.setUint8(target + 17, ENCODING.DENSE);
  memory.view.setUint16(target + 18, PAGE_BLOCKS, true);
  memory.view.setUint32(target + 28, PAGE_BYTES, true);
  memory.words.set(references, (target + NODE_HEADER_BYTES) >>> 2);
}

/** Encodes a chunk's directory at `target`; returns its bytes. */
export function encodeDirectory(
  memory: BlockMemory,
  chunk: Uint32Array,
  target: number,
): { lengthBytes: number; count: number; encoding: number } {
  let count = 0;
  let at = target + NODE_HEADER_BYTES;
  for (let page = 0; page < CHUNK_PAGES; page++) {
    const run = chunk[page * CHUNK_WORDS + WORD_RUN] as number;
    if (run === 0) continue;
    memory.view.setUint32(at, page, true);
    memory.view.setUint32(at + 4, run, true);
    memory.view.setUint32(at + 8, chunk[page * CHUNK_WORDS + WORD_OFFSET] as number, true);
    at += 12;
    count += 1;
  }
  const payloadBytes = padTo8(count * 12);
  memory.bytes.fill(0, at, target + NODE_HEADER_BYTES + payloadBytes);
  return { lengthBytes: NODE_HEADER_BYTES + payloadBytes, count, encoding: ENCODING.SPARSE };
}

/** Writes a node's header before its payload at `target`, with the place where it will be. */
export function sealNode(
  memory: BlockMemory,
  target: number,
  node: NodeIdentity & {
    run: number;
    offset: number;
    count: number;
    encoding: number;
    lengthBytes: number;
  },
): void {
  const view = memory.view;
  assert(node.offset % 8 === 0, "nodes lie at multiples of 8");
  view.setUint32(target + 8, node.run, true);
  view.setUint32(target + 12, node.offset / 8, true);
  view.setUint8(target + 16, node.kind);
  view.setUint8(target + 17, node.encoding);
  view.setUint16(target + 18, node.count, true);
  view.setUint32(target + 20, node.branch, true);
  view.setUint32(target + 24, node.position, true);
  view.setUint32(target + 28, node.lengthBytes - NODE_HEADER_BYTES, true);
  memory.kernel.hash(target + 8, node.lengthBytes - 8, target);
}

/** Reads runs. */
export interface RunStore {
  read(run: number, target: Uint8Array, position: number): Promise<number>;
}

/** Where a node is to be read from, and what it must be. */
export interface NodePlace extends NodeIdentity {
  readonly run: number;
  readonly offset: number;
  /** Room for `maxBytes`. */
  readonly target: number;
  readonly maxBytes: number;
  /** Whether another branch may have written it. */
  readonly isKin?: (branch: number) => boolean;
}

/** Reads a node and checks it. Throws POOL_CORRUPT, DISK_IO. */
export async function readNode(
  memory: BlockMemory,
  runs: RunStore,
  place: NodePlace,
): Promise<number> {
  const { target, maxBytes } = place;
  const readBytes = await runs.read(
    place.run,
    memory.bytes.subarray(target, target + maxBytes),
    place.offset,
  );
  const problem = nodeProblem(memory, readBytes, place);
  if (problem !== undefined) throw nodeCorrupt(place, problem);
  return NODE_HEADER_BYTES + memory.view.getUint32(target + 28, true);
}

function nodeProblem(memory: BlockMemory, readBytes: number, place: NodePlace): string | undefined {
  const { view } = memory;
  const { target } = place;
  if (readBytes < NODE_HEADER_BYTES) return "cut off";
  const lengthBytes = NODE_HEADER_BYTES + view.getUint32(target + 28, true);
  if (lengthBytes > place.maxBytes || lengthBytes % 8 !== 0)
    return `impossible length ${lengthBytes}`;
  if (readBytes < lengthBytes) return "cut off";
  memory.kernel.hash(target + 8, lengthBytes - 8, memory.scratchAddress);
  if (view.getBigUint64(memory.scratchAddress, true) !== view.getBigUint64(target, true))
    return "wrong checksum";
  const branch = view.getUint32(target + 20, true);
  const isRight =
    view.getUint32(target + 8, true) === place.run &&
    view.getUint32(target + 12, true) * 8 === place.offset &&
    view.getUint8(target + 16) === place.kind &&
    (branch === place.branch || place.isKin?.(branch) === true) &&
    view.getUint32(target + 24, true) === place.position;
  return isRight ? undefined : "another node's identity";
}

export function nodeCorrupt(
  place: NodeIdentity & { run: number; offset: number },
  problem: string,
): StorageError {
  return new StorageError(
    "POOL_CORRUPT",
    `index: ${runName(place.run)}, offset ${place.offset}, ${nodeName(place)}: ${problem}`,
    {
      data: { run: place.run, offset: place.offset },
    },
  );
}

function nodeName({ kind, branch, position }: NodeIdentity): string {
  switch (kind) {
    case NODE_KIND.LEAF:
      return `leaf of page ${position} of branch ${branch}`;
    case NODE_KIND.DIRECTORY:
      return `directory of chunk ${position} of branch ${branch}`;
    case NODE_KIND.RELOCATIONS:
      return `relocations of segment ${position}`;
    case NODE_KIND.RELOCATION_DIRECTORY:
      return `directory of relocations of segment ${position}`;
    case NODE_KIND.CHANGES:
      return `changes of page ${position} of branch ${branch}`;
    case NODE_KIND.CHANGED_PAGES:
      return `changed pages of chunk ${position} of branch ${branch}`;
    case NODE_KIND.RANGES:
      return `ranges of branch ${branch}`;
    case NODE_KIND.CHANGE_LISTS:
      return "roots of change lists";
    case NODE_KIND.ACTIVITY:
      return `activity, part ${position}`;
    default:
      return "body";
  }
}

/** Spreads the checked leaf at `leaf` over the page of references at `pageAddress`. False if it makes no sense. */
export function decodeLeaf(memory: BlockMemory, leaf: number, pageAddress: number): boolean {
  const { view } = memory;
  const count = view.getUint16(leaf + 18, true);
  const payload = leaf + NODE_HEADER_BYTES;
  const payloadBytes = view.getUint32(leaf + 28, true);
  if (view.getUint8(leaf + 17) === ENCODING.DENSE) {
    if (payloadBytes !== PAGE_BYTES) return false;
    memory.bytes.copyWithin(pageAddress, payload, payload + PAGE_BYTES);
    return true;
  }
  if (count > SPARSE_MAX || payloadBytes !== padTo8(count * 10)) return false;
  memory.bytes.fill(0, pageAddress, pageAddress + PAGE_BYTES);
  for (let index = 0; index < count; index++) {
    const block = view.getUint16(payload + count * 8 + index * 2, true);
    if (block >= PAGE_BLOCKS) return false;
    memory.bytes.copyWithin(pageAddress + block * 8, payload + index * 8, payload + index * 8 + 8);
  }
  return true;
}

/** Spreads the checked directory at `node` over `chunk`. False if it makes no sense. */
export function decodeDirectory(memory: BlockMemory, node: number, chunk: Uint32Array): boolean {
  const { view } = memory;
  const count = view.getUint16(node + 18, true);
  if (count > CHUNK_PAGES || view.getUint32(node + 28, true) !== padTo8(count * 12)) return false;
  for (let index = 0; index < count; index++) {
    const at = node + NODE_HEADER_BYTES + index * 12;
    const page = view.getUint32(at, true);
    if (page >= CHUNK_PAGES) return false;
    chunk[page * CHUNK_WORDS + WORD_RUN] = view.getUint32(at + 4, true);
    chunk[page * CHUNK_WORDS + WORD_OFFSET] = view.getUint32(at + 8, true);
  }
  return true;
}

function padTo8(lengthBytes: number): number {
  return (lengthBytes + 7) & ~7;
}
