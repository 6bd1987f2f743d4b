// SPDX-License-Identifier: Apache-2.0
//
// Opens the newest checkpoint that is whole: slot → run → body → directories of chunks and of moved frames. A slot whose run is
// missing or damaged is passed over for the other one, with the reason; if none is left, the caller replays
// the log from its beginning, which must then still be there.

import { StorageError } from "../base/errors.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { hashOutside } from "../log/outside-hash.ts";
import { LOW_HOLE } from "../log/reference.ts";
import {
  type CheckpointBody,
  type CheckpointSlot,
  type ChunkRoot,
  decodeBody,
  type RelocationRoot,
  type RunEntry,
  readSlots,
} from "./checkpoint-body.ts";
import { CHUNK_PAGES, CHUNK_WORDS, CONSTANT, HOLE_CHUNK, ZERO_CHUNK } from "./page-directory.ts";
import {
  decodeRelocationDirectory,
  relocationDirectoryOf,
  type StoredTable,
} from "./relocation-node.ts";
import {
  DIRECTORY_BYTES_MAX,
  decodeDirectory,
  NODE_HEADER_BYTES,
  NODE_KIND,
  type NodeIdentity,
  nodeCorrupt,
  RUN_HEADER_BYTES,
  RUN_TRAILER_BYTES,
  type RunStore,
  readNode,
} from "./run-file.ts";
import { RunReadAhead } from "./run-read-ahead.ts";

export interface LoadedCheckpoint {
  readonly slot: CheckpointSlot;
  readonly body: CheckpointBody;
}

/** Largest body that is believed: 64 TiB in 32768 chunks and a thousand volumes are far below. */
const BODY_BYTES_MAX = 256 << 20;
const LOADS_AT_ONCE = 8;
/** 64 TiB in chunks of 2 GiB. */
const CHUNKS_MAX = 32768;

export interface CheckpointSource extends LogFiles {
  readonly runs: RunStore;
}

/** The runs that a checkpoint needs, and those that only earlier ones need; its own last. */
export function runsOf({ body, slot }: LoadedCheckpoint): readonly RunEntry[] {
  const sizeBytes = slot.bodyOffset + slot.bodyBytes + RUN_TRAILER_BYTES;
  const own = { number: slot.run, nodeCount: body.nodeCount, sizeBytes, since: slot.sequence };
  return [...body.runs, own];
}

/** All runs and change lists that these checkpoints need, newest first: what an older one kept for history alone may be gone. */
export function neededRuns(
  checkpoints: readonly LoadedCheckpoint[],
): { readonly number: number; readonly sizeBytes: number }[] {
  const needed = new Map<number, { number: number; sizeBytes: number }>();
  for (const [age, checkpoint] of checkpoints.entries()) {
    const { sequence } = checkpoint.slot;
    for (const run of runsOf(checkpoint))
      if (age === 0 || isRunOf(run, sequence)) needed.set(run.number, run);
  }
  for (const { run: number, sizeBytes } of checkpoints[0]?.body.lists ?? [])
    needed.set(number, { number, sizeBytes });
  return [...needed.values()];
}

/** Whether the checkpoint with that sequence needs the run. */
export function isRunOf({ since, until }: RunEntry, sequence: number): boolean {
  return since <= sequence && (until === undefined || sequence < until);
}

/** The whole checkpoints, newest first, and why others were passed over. */
export async function readCheckpoints(
  source: CheckpointSource,
): Promise<{ checkpoints: LoadedCheckpoint[]; problems: string[] }> {
  const checkpoints: LoadedCheckpoint[] = [];
  const problems: string[] = [];
  for (const slot of await readSlots(source.memory, source.directory, source.poolId)) {
    try {
      checkpoints.push({ slot, body: await readBody(source, slot) });
    } catch (error) {
      if (!(error instanceof StorageError) || error.code === "FORMAT_UNSUPPORTED") throw error;
      problems.push(error.message);
    }
  }
  return { checkpoints, problems };
}

/** Throws POOL_CORRUPT, DISK_IO. */
export async function readBody(
  source: Pick<CheckpointSource, "memory" | "runs">,
  slot: CheckpointSlot,
): Promise<CheckpointBody> {
  const place = { ...slot, kind: NODE_KIND.BODY };
  const body = decodeBody(await readLargeNode(source, place));
  if (body === undefined || body.sequence !== slot.sequence)
    throw nodeCorrupt(largeNode(place), "impossible content");
  return body;
}

/** The node at the end of a run, which may be of any size. */
interface LargeNode {
  readonly kind: number;
  readonly run: number;
  readonly bodyOffset: number;
  readonly bodyBytes: number;
}

/** Reads it, checks it, gives its payload. Throws POOL_CORRUPT, DISK_IO. */
export async function readLargeNode(
  { memory, runs }: Pick<CheckpointSource, "memory" | "runs">,
  node: LargeNode,
): Promise<Uint8Array> {
  const { run, bodyOffset, bodyBytes } = node;
  const isPossible =
    bodyBytes <= BODY_BYTES_MAX && bodyBytes >= NODE_HEADER_BYTES && bodyOffset >= RUN_HEADER_BYTES;
  if (!isPossible) throw nodeCorrupt(largeNode(node), "impossible length");
  const bytes = new Uint8Array(bodyBytes);
  if ((await runs.read(run, bytes, bodyOffset)) < bytes.length)
    throw nodeCorrupt(largeNode(node), "cut off");
  const view = new DataView(bytes.buffer);
  if (hashOutside(memory, bytes.subarray(8)) !== view.getBigUint64(0, true))
    throw nodeCorrupt(largeNode(node), "wrong checksum");
  if (
    view.getUint32(8, true) !== run ||
    view.getUint32(12, true) * 8 !== bodyOffset ||
    view.getUint8(16) !== node.kind
  )
    throw nodeCorrupt(largeNode(node), "another node's identity");
  return bytes.subarray(NODE_HEADER_BYTES);
}

export function largeNode({ kind, run, bodyOffset }: LargeNode): NodeIdentity & {
  run: number;
  offset: number;
} {
  return { kind, branch: 0, position: 0, run, offset: bodyOffset };
}

export interface LoadedChunk {
  readonly root: ChunkRoot;
  readonly chunk: Uint32Array;
}

/** Reads all directories of chunks that the checkpoint names. Throws POOL_CORRUPT, DISK_IO. */
export async function readDirectories(
  source: CheckpointSource,
  body: CheckpointBody,
): Promise<LoadedChunk[]> {
  const chunks: LoadedChunk[] = [];
  for (let first = 0; first < body.roots.length; first += LOADS_AT_ONCE) {
    const reads = body.roots
      .slice(first, first + LOADS_AT_ONCE)
      .map((root) => readChunk(source, root));
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === "rejected") throw result.reason;
      chunks.push(result.value);
    }
  }
  return chunks;
}

/** Reads one of them. Throws POOL_CORRUPT, DISK_IO. */
export async function readChunk(
  source: Pick<CheckpointSource, "memory" | "runs">,
  root: ChunkRoot,
): Promise<LoadedChunk> {
  const { memory } = source;
  const identity = { kind: NODE_KIND.DIRECTORY, branch: root.branch, position: root.chunk };
  const place = { ...identity, run: root.run, offset: root.offset8 * 8 };
  if (root.chunk >= CHUNKS_MAX) throw nodeCorrupt(place, "no volume reaches so far");
  if (root.run === CONSTANT)
    return { root, chunk: root.offset8 === LOW_HOLE ? HOLE_CHUNK : ZERO_CHUNK };
  const target = await memory.reads.acquire(DIRECTORY_BYTES_MAX);
  try {
    await readNode(memory, source.runs, { ...place, target, maxBytes: DIRECTORY_BYTES_MAX });
    const chunk = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
    if (!decodeDirectory(memory, target, chunk)) throw nodeCorrupt(place, "impossible content");
    return { root, chunk };
  } finally {
    memory.reads.release(target);
  }
}

/** Reads all directories of moved frames that the checkpoint names, by home segment. Throws POOL_CORRUPT, DISK_IO. */
export async function readRelocationTables(
  source: CheckpointSource,
  body: CheckpointBody,
): Promise<Map<number, StoredTable>> {
  const tables = new Map<number, StoredTable>();
  // A checkpoint writes them one behind the other.
  const runs = new RunReadAhead(source.runs);
  const roots = [...body.relocations].sort((a, b) => a.run - b.run || a.offset8 - b.offset8);
  for (const root of roots) {
    const table = await readRelocationTable({ ...source, runs }, root);
    if (tables.has(root.segment)) throw tableCorrupt(root, "named twice");
    tables.set(root.segment, table);
  }
  return tables;
}

async function readRelocationTable(
  { memory, runs }: CheckpointSource,
  root: RelocationRoot,
): Promise<StoredTable> {
  const { segment, run, offset8 } = root;
  const target = await memory.reads.acquire(DIRECTORY_BYTES_MAX);
  try {
    const place = { ...relocationDirectoryOf(segment), run, offset: offset8 * 8, target };
    await readNode(memory, runs, { ...place, maxBytes: DIRECTORY_BYTES_MAX });
    const table = decodeRelocationDirectory(memory, target);
    if (table === undefined) throw tableCorrupt(root, "impossible content");
    return { location: { run, offset8 }, ...table };
  } finally {
    memory.reads.release(target);
  }
}

function tableCorrupt({ segment, run, offset8 }: RelocationRoot, problem: string): StorageError {
  return nodeCorrupt({ ...relocationDirectoryOf(segment), run, offset: offset8 * 8 }, problem);
}
