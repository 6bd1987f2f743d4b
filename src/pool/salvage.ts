// SPDX-License-Identifier: Apache-2.0
//
// The most that a pool's files still tell of its volumes. The log from its beginning comes first: it needs nothing
// else. Where its chain breaks below a checkpoint's cut, that checkpoint says what all before the cut came to,
// and the log is read on from there: then only the frames that are damaged or gone themselves are lost.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import type { CheckpointBody } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  type LoadedChunk,
  readCheckpoints,
  readDirectories,
} from "../index/checkpoint-loader.ts";
import {
  CHUNK_BLOCKS,
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  PAGE_BLOCKS,
  WORD_OFFSET,
  WORD_RUN,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import { decodeLeaf, LEAF_BYTES_MAX, NODE_KIND, readNode, runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { PlainState } from "../log/log-dump.ts";
import { isDamage, type LogReach, readLogReach } from "../log/log-reach.ts";
import { PlainMap } from "../log/plain-map.ts";
import { LOW_ZERO } from "../log/reference.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { LOW_LOST } from "../log/volume-content.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import { Catalog } from "./catalog.ts";

const OPEN_FILES_MAX = 16;

export interface SalvageSource {
  readonly memory: BlockMemory;
  readonly log: Directory;
  readonly poolId: Uint8Array;
}

export interface Salvage {
  readonly state: PlainState;
  readonly reach: LogReach;
  /** LSN of the cut of the checkpoint that was begun from; undefined: the log's beginning. */
  readonly cutLsn: number | undefined;
  /** Why this isn't all, or not from the log alone; undefined when nothing contradicts that it is. */
  readonly damage: StorageError | undefined;
}

/** Reads what can be read. Throws FORMAT_UNSUPPORTED. */
export async function salvagePool(source: SalvageSource): Promise<Salvage> {
  const state = new PlainState();
  const reach = await readFrom(source, LOG_BEGIN, state);
  let best: Salvage = { state, reach, cutLsn: undefined, damage: reach.damage };
  const runs = new FileStore(source.log, runName, OPEN_FILES_MAX);
  const { memory, log: directory, poolId } = source;
  const index = { memory, directory, runs, poolId };
  try {
    for (const { body } of await checkpointsOf(index)) {
      if (body.cut.nextLsn <= best.reach.nextLsn) continue;
      const begun = await stateOfCheckpoint(index, body);
      if (begun === undefined) continue;
      const further = await readFrom(source, body.cut, begun);
      const damage = best.damage ?? endsEarly(best.reach, body.cut);
      best = { state: begun, reach: further, cutLsn: body.cut.nextLsn, damage };
    }
  } finally {
    await runs.closeAll();
  }
  return best;
}

function readFrom(source: SalvageSource, start: ReplayStart, state: PlainState): Promise<LogReach> {
  const { memory, log: directory, poolId } = source;
  const onRecord = state.apply.bind(state, memory);
  return readLogReach({ memory, directory, poolId, start, onRecord });
}

async function checkpointsOf(
  index: CheckpointSource,
): Promise<{ readonly body: CheckpointBody }[]> {
  try {
    return (await readCheckpoints(index)).checkpoints;
  } catch (error) {
    if (isDamage(error)) return [];
    throw error;
  }
}

/** LOG_CORRUPT: nothing in the log says that it went on, but a checkpoint does. */
export function endsEarly(reach: LogReach, cut: ReplayStart): StorageError {
  const { nextLsn } = reach;
  return new StorageError(
    "LOG_CORRUPT",
    `log: cut off before LSN ${nextLsn}: a checkpoint holds everything below LSN ${cut.nextLsn}`,
    { data: { lsn: nextLsn, durableLsn: cut.nextLsn } },
  );
}

/** What the checkpoint says about content; undefined when its catalog or a directory can't be read. */
async function stateOfCheckpoint(
  index: CheckpointSource,
  body: CheckpointBody,
): Promise<PlainState | undefined> {
  try {
    const catalog = Catalog.fromJson(body.catalog);
    const chunks = await readDirectories(index, body);
    const state = new PlainState();
    for (const { id, name, sizeBytes, branch, removedMicros } of catalog.volumes.values()) {
      const isRemoved = removedMicros !== undefined;
      state.volumes.set(id, { id, name, sizeBytes, branch, isRemoved });
    }
    for (const branch of catalog.branches.keys()) state.branches.set(branch, new PlainMap());
    for (const chunk of chunks) await addChunk(index, chunk, state);
    return state;
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

async function addChunk(
  index: CheckpointSource,
  { root, chunk }: LoadedChunk,
  state: PlainState,
): Promise<void> {
  const map = state.branches.get(root.branch);
  if (map === undefined) return;
  if (chunk === ZERO_CHUNK) {
    map.fill(root.chunk * CHUNK_BLOCKS, CHUNK_BLOCKS, LOW_ZERO);
    return;
  }
  for (let at = 0; at < CHUNK_PAGES; at++) {
    const page = root.chunk * CHUNK_PAGES + at;
    const run = chunk[at * CHUNK_WORDS + WORD_RUN] as number;
    const offset = chunk[at * CHUNK_WORDS + WORD_OFFSET] as number;
    if (run === 0) continue;
    if (run === CONSTANT) map.fill(page * PAGE_BLOCKS, PAGE_BLOCKS, offset);
    else await addPage(index, { branch: root.branch, page, run, offset: offset * 8 }, map);
  }
}

/** The references of a page; where its leaf is damaged, its blocks are lost until a later record names them. */
async function addPage(
  { memory, runs }: CheckpointSource,
  leaf: { branch: number; page: number; run: number; offset: number },
  map: PlainMap,
): Promise<void> {
  const { page } = leaf;
  const target = await memory.reads.acquire(LEAF_BYTES_MAX);
  const image = memory.staging.allocate(BLOCK_BYTES);
  try {
    const isRead = await readNode(memory, runs, {
      ...leaf,
      kind: NODE_KIND.LEAF,
      position: page,
      target,
      maxBytes: LEAF_BYTES_MAX,
    }).then(
      () => decodeLeaf(memory, target, image),
      (error: unknown) => {
        if (isDamage(error)) return false;
        throw error;
      },
    );
    for (let block = 0; block < PAGE_BLOCKS; block++) {
      const word = (image >>> 2) + block * 2;
      const segment = isRead ? (memory.words[word] as number) : 0;
      const low = isRead ? (memory.words[word + 1] as number) : LOW_LOST;
      map.set(page * PAGE_BLOCKS + block, segment, low);
    }
  } finally {
    memory.reads.release(target);
    memory.staging.release(image);
  }
}
