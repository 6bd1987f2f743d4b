// SPDX-License-Identifier: Apache-2.0
//
// What a run holds of moved frames: per home segment a list of entries (relocation-table.ts) in nodes that fit a slot
// of the cache, and a directory that says where these nodes are and in which segments the frames lie now. The second
// is what a dropped segment is looked up in: the tables that still name it are written anew without it.
//
//   relocations   count times 16 bytes: an entry
//   directory     0 u32 entries in all   4 u32 places   8 count times (u32 home offset / 8 of the first, u32 run,
//                 u32 offset / 8), then the places: u32 segment, ascending; 0xffffffff places: too many to list
//
// docs/format/run.md is the specification; nothing read here is believed.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { STORED_BYTES_MAX } from "../log/record.ts";
import { offset8Of, SEGMENT_BYTES_MAX, stateOf } from "../log/reference.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  SEGMENT_FRAMES_MAX,
} from "../reduce/block-memory.ts";
import { CONSTANT } from "./page-directory.ts";
import { ENTRY_WORDS, PLACE_STATE } from "./relocation-table.ts";
import {
  DIRECTORY_BYTES_MAX,
  NODE_HEADER_BYTES,
  NODE_KIND,
  type NodeIdentity,
  nodeCorrupt,
  RUN_HEADER_BYTES,
  type RunStore,
  readNode,
} from "./run-file.ts";

const ENTRY_BYTES: number = ENTRY_WORDS * 4;
/** So many fit a slot with the node's header. */
export const NODE_ENTRIES_MAX = 252;
/** Far more than a segment has frames: who says more is damaged. */
export const HOME_ENTRIES_MAX: number = 2 * SEGMENT_FRAMES_MAX;
export const RELOCATIONS_BYTES_MAX: number = NODE_HEADER_BYTES + NODE_ENTRIES_MAX * ENTRY_BYTES;
const NODES_MAX: number = Math.ceil(HOME_ENTRIES_MAX / NODE_ENTRIES_MAX);
/** Words of a node in a directory: home offset / 8 of its first entry, run, offset / 8. */
export const NODE_WORDS = 3;
const PLACES_MAX = 1500;
const PLACES_UNLISTED = 0xffffffff;
const DIRECTORY_HEADER_BYTES = 8;
/** Nodes lie in the first 8 GiB of their run: together with the run that names them in the cache of slots. */
export const NODE_OFFSET8_END: number = 2 ** 30;

assert(RELOCATIONS_BYTES_MAX <= BLOCK_BYTES, "a node fits a slot");
assert(
  NODE_HEADER_BYTES + DIRECTORY_HEADER_BYTES + NODES_MAX * NODE_WORDS * 4 + PLACES_MAX * 4 <=
    DIRECTORY_BYTES_MAX,
  "a directory fits where directories are read to",
);

/** One home segment's moved frames, as a checkpoint has them. */
export interface StoredTable {
  /** Where the directory is; undefined when there is none. */
  readonly location: { readonly run: number; readonly offset8: number } | undefined;
  /** Three words a node. */
  readonly nodes: Uint32Array;
  /** Segments that the entries name, ascending; undefined: too many to list. */
  readonly places: Uint32Array | undefined;
  readonly entryCount: number;
  /** Its nodes can't be read, and all entries are in memory. */
  readonly isRebuilt?: boolean;
}

export const NOTHING_STORED: StoredTable = {
  location: undefined,
  nodes: new Uint32Array(0),
  places: new Uint32Array(0),
  entryCount: 0,
};

/** Whether an entry may name the segment as its place. */
export function mayName(table: StoredTable, segment: number): boolean {
  if (table.places === undefined) return true;
  let low = 0;
  let high = table.places.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((table.places[middle] as number) < segment) low = middle + 1;
    else high = middle;
  }
  return table.places[low] === segment;
}

/** The segments that the entries name; undefined: too many to list. */
export function placesOf(entries: Uint32Array): Uint32Array | undefined {
  const places = new Set<number>();
  for (let at = 0; at < entries.length; at += ENTRY_WORDS) places.add(entries[at + 1] as number);
  return places.size > PLACES_MAX ? undefined : Uint32Array.from(places).sort();
}

/** The word of the node that would hold the entry of a home; negative: none. */
export function nodeFor(nodes: Uint32Array, offset8: number): number {
  let low = 0;
  let high = nodes.length / NODE_WORDS;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((nodes[middle * NODE_WORDS] as number) <= offset8) low = middle + 1;
    else high = middle;
  }
  return (low - 1) * NODE_WORDS;
}

/** Identity of a home segment's nodes; they differ in where they are. */
export function relocationsOf(segment: number): NodeIdentity {
  return { kind: NODE_KIND.RELOCATIONS, branch: 0, position: segment };
}

export function relocationDirectoryOf(segment: number): NodeIdentity {
  return { kind: NODE_KIND.RELOCATION_DIRECTORY, branch: 0, position: segment };
}

/** Throws LOG_CORRUPT when a segment has more frames than it can have. */
export function checkEntryCount(segment: number, entryCount: number): void {
  if (entryCount <= HOME_ENTRIES_MAX) return;
  throw new StorageError(
    "LOG_CORRUPT",
    `index: segment ${segment}: ${entryCount} of its frames were moved, and it has at most ${SEGMENT_FRAMES_MAX}`,
    { data: { segment } },
  );
}

interface EncodedNode {
  readonly lengthBytes: number;
  readonly count: number;
  readonly encoding: number;
}

/** Encodes entries as a node at `target`. */
export function encodeRelocations(
  memory: BlockMemory,
  entries: Uint32Array,
  target: number,
): EncodedNode {
  const count = entries.length / ENTRY_WORDS;
  assert(count > 0 && count <= NODE_ENTRIES_MAX, "a node holds 1 to 252 entries");
  memory.words.set(entries, (target + NODE_HEADER_BYTES) >>> 2);
  return { lengthBytes: NODE_HEADER_BYTES + entries.byteLength, count, encoding: 0 };
}

/** Encodes a home segment's directory at `target`. */
export function encodeRelocationDirectory(
  memory: BlockMemory,
  table: Omit<StoredTable, "location">,
  target: number,
): EncodedNode {
  const { nodes, places, entryCount } = table;
  const count = nodes.length / NODE_WORDS;
  assert(count > 0 && count <= NODES_MAX, "a directory holds 1 to 521 nodes");
  const first = (target + NODE_HEADER_BYTES) >>> 2;
  memory.words[first] = entryCount;
  memory.words[first + 1] = places?.length ?? PLACES_UNLISTED;
  memory.words.set(nodes, first + 2);
  memory.words.set(places ?? [], first + 2 + nodes.length);
  const words = 2 + nodes.length + (places?.length ?? 0);
  if (words % 2 !== 0) memory.words[first + words] = 0;
  const payloadBytes = ((words + 1) & ~1) * 4;
  return { lengthBytes: NODE_HEADER_BYTES + payloadBytes, count, encoding: 0 };
}

/** Whether the checked node at `node` is a list of entries. */
export function isRelocations(memory: BlockMemory, node: number): boolean {
  const { view, words } = memory;
  const count = view.getUint16(node + 18, true);
  const isShaped =
    view.getUint8(node + 17) === 0 &&
    count > 0 &&
    count <= NODE_ENTRIES_MAX &&
    view.getUint32(node + 28, true) === count * ENTRY_BYTES;
  if (!isShaped) return false;
  const first = (node + NODE_HEADER_BYTES) >>> 2;
  let previous = -1;
  for (let at = first; at < first + count * ENTRY_WORDS; at += ENTRY_WORDS) {
    const offset8 = words[at] as number;
    if (offset8 <= previous || offset8 * 8 >= SEGMENT_BYTES_MAX) return false;
    if (!isPlace(words[at + 2] as number, words[at + 3] as number)) return false;
    previous = offset8;
  }
  return true;
}

function isPlace(low: number, storedBytes: number): boolean {
  const state = stateOf(low);
  const hasSlot = (low & 63) !== 0;
  const isState = state === PLACE_STATE.SHARED || (state === PLACE_STATE.ALONE && !hasSlot);
  const end = offset8Of(low) * 8 + FRAME_HEADER_BYTES + storedBytes;
  return isState && storedBytes > 0 && storedBytes <= STORED_BYTES_MAX && end <= SEGMENT_BYTES_MAX;
}

/**
 * Reads a node of entries to `target`, which has room for RELOCATIONS_BYTES_MAX, checks it and gives its bytes. Throws
 * POOL_CORRUPT, DISK_IO.
 */
export async function readRelocations(
  memory: BlockMemory,
  runs: RunStore,
  place: { homeSegment: number; run: number; offset: number; target: number },
): Promise<number> {
  const { run, offset, target } = place;
  const node = { ...relocationsOf(place.homeSegment), run, offset, target };
  const lengthBytes = await readNode(memory, runs, { ...node, maxBytes: RELOCATIONS_BYTES_MAX });
  if (!isRelocations(memory, target)) throw nodeCorrupt(node, "impossible content");
  return lengthBytes;
}

/** The checked directory at `node`; undefined if it makes no sense. */
export function decodeRelocationDirectory(
  memory: BlockMemory,
  node: number,
): Omit<StoredTable, "location"> | undefined {
  const { view, words } = memory;
  const count = view.getUint16(node + 18, true);
  const payloadBytes = view.getUint32(node + 28, true);
  const first = (node + NODE_HEADER_BYTES) >>> 2;
  const nodesAt = first + 2;
  const placesAt = nodesAt + count * NODE_WORDS;
  if (view.getUint8(node + 17) !== 0 || count === 0 || count > NODES_MAX) return undefined;
  if (payloadBytes < (placesAt - first) * 4 || payloadBytes > DIRECTORY_BYTES_MAX) return undefined;
  const entryCount = words[first] as number;
  const listed = words[first + 1] as number;
  const placeCount = listed === PLACES_UNLISTED ? 0 : listed;
  if (entryCount < count || entryCount > count * NODE_ENTRIES_MAX) return undefined;
  if (placeCount > PLACES_MAX) return undefined;
  const wordCount = 2 + count * NODE_WORDS + placeCount;
  if (payloadBytes !== ((wordCount + 1) & ~1) * 4) return undefined;
  const nodes = words.slice(nodesAt, placesAt);
  const places = words.slice(placesAt, placesAt + placeCount);
  if (!areNodes(nodes) || !isAscending(places, 1)) return undefined;
  return { nodes, places: listed === PLACES_UNLISTED ? undefined : places, entryCount };
}

function areNodes(nodes: Uint32Array): boolean {
  for (let at = 0; at < nodes.length; at += NODE_WORDS) {
    const run = nodes[at + 1] as number;
    const offset8 = nodes[at + 2] as number;
    if ((nodes[at] as number) * 8 >= SEGMENT_BYTES_MAX) return false;
    if (run === 0 || run === CONSTANT) return false;
    if (offset8 < RUN_HEADER_BYTES / 8 || offset8 >= NODE_OFFSET8_END) return false;
  }
  return isAscending(nodes, NODE_WORDS);
}

function isAscending(words: Uint32Array, step: number): boolean {
  for (let at = step; at < words.length; at += step)
    if ((words[at] as number) <= (words[at - step] as number)) return false;
  return true;
}
