// SPDX-License-Identifier: Apache-2.0
//
// Change lists: what happened to the index between two checkpoints' cuts, in a run of its own beside the checkpoint's, by
// page. With the older checkpoint they give the index as it was after any record between the two (past.ts); and
// which records changed a page, they say at once.
//
//   roots → changed pages of a chunk → changes of a page, oldest first
//         → ranges of a branch: trims and zeroes of whole pages, oldest first
//
// A list is dropped as a whole, with its file, when no promised moment lies in it. docs/format/run.md is the specification.

import { getU64, putU64 } from "../log/record.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { CHUNK_PAGES, PAGE_BLOCKS } from "./page-directory.ts";
import { NODE_HEADER_BYTES } from "./run-file.ts";

/** Of all three nodes: changes, changed pages, ranges. */
export const LIST_ENTRY_BYTES = 16;
/** Entries in a node, at most: a node takes no more than a directory. */
export const LIST_ENTRIES_MAX = 512;
export const LIST_NODE_BYTES_MAX: number = NODE_HEADER_BYTES + LIST_ENTRIES_MAX * LIST_ENTRY_BYTES;
/** 64 TiB of pages. */
const PAGES_MAX: number = 2 ** 25;
const ROOTS_HEADER_BYTES = 32;

/** The file, as a checkpoint names it. */
export interface ChangeListFile {
  readonly run: number;
  readonly bodyOffset: number;
  readonly bodyBytes: number;
  readonly sizeBytes: number;
  /** Of the records that it tells of: LSNs [fromLsn, endLsn). */
  readonly fromLsn: number;
  readonly endLsn: number;
}

export interface ChangedChunkRoot {
  readonly branch: number;
  readonly chunk: number;
  readonly offset8: number;
}

export interface ChangeListRoots {
  readonly fromLsn: number;
  readonly endLsn: number;
  /** Of a chunk, one behind the other in the order of pages. */
  readonly chunks: readonly ChangedChunkRoot[];
  /** Of a branch, one behind the other in the order of LSNs. */
  readonly ranges: readonly { readonly branch: number; readonly offset8: number }[];
}

/** Words of an entry of changed pages: page in the chunk, where its changes are, the first and the last LSN less fromLsn. */
export const PAGE_WORDS = { page: 0, offset8: 1, first: 2, last: 3 } as const;
/** Words of a change: LSN less fromLsn, first block | (blocks - 1) << 16, reference. */
export const CHANGE_WORDS = { lsn: 0, blocks: 1, segment: 2, low: 3 } as const;
/** Words of a range: LSN less fromLsn, low of the reference, first page, end page. */
export const RANGE_WORDS = { lsn: 0, low: 1, firstPage: 2, endPage: 3 } as const;
export const LIST_ENTRY_WORDS = 4;

export function encodeRoots({ fromLsn, endLsn, chunks, ranges }: ChangeListRoots): Uint8Array {
  const bytes = new Uint8Array(ROOTS_HEADER_BYTES + chunks.length * 12 + ranges.length * 8);
  const view = new DataView(bytes.buffer);
  putU64(view, 0, fromLsn);
  putU64(view, 8, endLsn);
  view.setUint32(16, chunks.length, true);
  view.setUint32(20, ranges.length, true);
  let at = ROOTS_HEADER_BYTES;
  for (const { branch, chunk, offset8 } of chunks) {
    view.setUint32(at, branch, true);
    view.setUint32(at + 4, chunk, true);
    view.setUint32(at + 8, offset8, true);
    at += 12;
  }
  for (const { branch, offset8 } of ranges) {
    view.setUint32(at, branch, true);
    view.setUint32(at + 4, offset8, true);
    at += 8;
  }
  return bytes;
}

/** Undefined when the bytes make no sense (their checksum was right: another version's, or a bug). */
export function decodeRoots(bytes: Uint8Array): ChangeListRoots | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < ROOTS_HEADER_BYTES) return undefined;
  const fromLsn = getU64(view, 0);
  const endLsn = getU64(view, 8);
  const chunkCount = view.getUint32(16, true);
  const rangeCount = view.getUint32(20, true);
  const rangesAt = ROOTS_HEADER_BYTES + chunkCount * 12;
  if (rangesAt + rangeCount * 8 > bytes.length || fromLsn < 0 || endLsn < fromLsn) return undefined;
  const chunks: ChangedChunkRoot[] = [];
  for (let at = ROOTS_HEADER_BYTES; at < rangesAt; at += 12)
    chunks.push({
      branch: view.getUint32(at, true),
      chunk: view.getUint32(at + 4, true),
      offset8: view.getUint32(at + 8, true),
    });
  const ranges: { branch: number; offset8: number }[] = [];
  for (let at = rangesAt; ranges.length < rangeCount; at += 8)
    ranges.push({ branch: view.getUint32(at, true), offset8: view.getUint32(at + 4, true) });
  return { fromLsn, endLsn, chunks, ranges };
}

/** A copy of the checked node's entries. Undefined if it makes no sense. */
export function decodeEntries(
  memory: BlockMemory,
  node: number,
  isEntry: (words: Uint32Array, at: number) => boolean,
): Uint32Array | undefined {
  const count = memory.view.getUint16(node + 18, true);
  const payloadBytes = memory.view.getUint32(node + 28, true);
  if (count > LIST_ENTRIES_MAX || payloadBytes !== count * LIST_ENTRY_BYTES) return undefined;
  const first = (node + NODE_HEADER_BYTES) >>> 2;
  const words = memory.words.slice(first, first + count * LIST_ENTRY_WORDS);
  let previous = 0;
  for (let at = 0; at < words.length; at += LIST_ENTRY_WORDS) {
    const key = words[at] as number;
    if (key < previous || !isEntry(words, at)) return undefined;
    previous = key;
  }
  return words;
}

export function isChange(words: Uint32Array, at: number): boolean {
  const blocks = words[at + CHANGE_WORDS.blocks] as number;
  return (blocks & 0xffff) + (blocks >>> 16) < PAGE_BLOCKS;
}

export function isChangedPage(words: Uint32Array, at: number): boolean {
  const page = words[at + PAGE_WORDS.page] as number;
  const first = words[at + PAGE_WORDS.first] as number;
  return page < CHUNK_PAGES && first <= (words[at + PAGE_WORDS.last] as number);
}

export function isRange(words: Uint32Array, at: number): boolean {
  const firstPage = words[at + RANGE_WORDS.firstPage] as number;
  const endPage = words[at + RANGE_WORDS.endPage] as number;
  return firstPage < endPage && endPage <= PAGES_MAX;
}
