// SPDX-License-Identifier: Apache-2.0
//
// A checkpoint as a plain state: what all records before its cut came to, in the form that reading those records would
// have given. Where the log no longer reaches back to its beginning, this is what readers without an index begin from.

import type { CheckpointBody } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  type LoadedChunk,
  readDirectories,
  readRelocationTables,
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
import {
  NODE_WORDS,
  RELOCATIONS_BYTES_MAX,
  readRelocations,
  type StoredTable,
} from "../index/relocation-node.ts";
import { ENTRY_WORDS, PLACE_STATE } from "../index/relocation-table.ts";
import {
  decodeLeaf,
  LEAF_BYTES_MAX,
  NODE_HEADER_BYTES,
  NODE_KIND,
  readNode,
} from "../index/run-file.ts";
import { PlainState } from "../log/log-dump.ts";
import { isDamage } from "../log/log-reach.ts";
import { PlainMap } from "../log/plain-map.ts";
import type { PlainMoves } from "../log/plain-moves.ts";
import { LOW_ZERO, offset8Of, slotOf, stateOf } from "../log/reference.ts";
import { LOW_LOST } from "../log/volume-content.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import { Catalog } from "./catalog.ts";

export interface CheckpointState {
  readonly state: PlainState;
  /** Pages, and lists of moved frames, that can't be read: their blocks are lost until a later record names them. */
  readonly lostNodes: number;
}

/** Volumes and branches without content. Throws POOL_CORRUPT. */
export function stateOfCatalog(
  { catalog: json }: CheckpointBody,
  isWanted?: (branch: number, page: number) => boolean,
): PlainState {
  const catalog = Catalog.fromJson(json);
  const state = new PlainState(isWanted);
  for (const { id, name, sizeBytes, branch, removedMicros } of catalog.volumes.values()) {
    const isRemoved = removedMicros !== undefined;
    state.volumes.set(id, { id, name, sizeBytes, branch, isRemoved });
  }
  for (const branch of catalog.branches.keys()) state.branches.set(branch, new PlainMap());
  return state;
}

/** What the checkpoint says about content; undefined when its catalog or a directory can't be read. */
export async function readCheckpointState(
  index: CheckpointSource,
  body: CheckpointBody,
): Promise<CheckpointState | undefined> {
  try {
    const state = stateOfCatalog(body);
    // What a branch began with stands with its origin's past, which a plain state hasn't got.
    for (const { id, parent } of Catalog.fromJson(body.catalog).branches.values())
      if (parent !== 0) state.branches.delete(id);
    const chunks = await readDirectories(index, body);
    const tables = await readRelocationTables(index, body);
    const reading = new StateReading(index, state);
    for (const chunk of chunks) await reading.addChunk(chunk);
    for (const [segment, table] of tables) await reading.addMoves(segment, table);
    return { state, lostNodes: reading.lostNodes };
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

/** The places that a home segment's tables name. Tells those of lists that can be read; the number of others. */
export async function readMoves(
  index: CheckpointSource,
  homeSegment: number,
  { nodes }: StoredTable,
  moves: PlainMoves,
): Promise<number> {
  const { memory, runs } = index;
  const { words, view } = memory;
  const target = await memory.reads.acquire(RELOCATIONS_BYTES_MAX);
  let lostNodes = 0;
  try {
    for (let node = 0; node < nodes.length; node += NODE_WORDS) {
      const run = nodes[node + 1] as number;
      const offset = (nodes[node + 2] as number) * 8;
      const isRead = await orLost(
        readRelocations(memory, runs, { homeSegment, run, offset, target }),
      );
      if (!isRead) {
        lostNodes += 1;
        continue;
      }
      const first = (target + NODE_HEADER_BYTES) >>> 2;
      const end = first + view.getUint16(target + 18, true) * ENTRY_WORDS;
      for (let at = first; at < end; at += ENTRY_WORDS) {
        const low = words[at + 2] as number;
        moves.put(homeSegment, words[at] as number, {
          segment: words[at + 1] as number,
          offset8: offset8Of(low),
          slot: slotOf(low),
          isShared: stateOf(low) === PLACE_STATE.SHARED,
          storedBytes: words[at + 3] as number,
        });
      }
    }
    return lostNodes;
  } finally {
    memory.reads.release(target);
  }
}

class StateReading {
  readonly #index: CheckpointSource;
  readonly #state: PlainState;
  lostNodes = 0;

  constructor(index: CheckpointSource, state: PlainState) {
    this.#index = index;
    this.#state = state;
  }

  async addMoves(homeSegment: number, table: StoredTable): Promise<void> {
    this.lostNodes += await readMoves(this.#index, homeSegment, table, this.#state.moves);
  }

  async addChunk({ root, chunk }: LoadedChunk): Promise<void> {
    const map = this.#state.branches.get(root.branch);
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
      else await this.#addPage({ branch: root.branch, page, run, offset: offset * 8 }, map);
    }
  }

  /** The references of a page; where its leaf is damaged, its blocks are lost until a later record names them. */
  async #addPage(
    leaf: { branch: number; page: number; run: number; offset: number },
    map: PlainMap,
  ): Promise<void> {
    const { memory, runs } = this.#index;
    const { page } = leaf;
    const target = await memory.reads.acquire(LEAF_BYTES_MAX);
    const image = memory.staging.allocate(BLOCK_BYTES);
    const place = { ...leaf, kind: NODE_KIND.LEAF, position: page, target };
    try {
      const isRead =
        (await orLost(readNode(memory, runs, { ...place, maxBytes: LEAF_BYTES_MAX }))) &&
        decodeLeaf(memory, target, image);
      if (!isRead) this.lostNodes += 1;
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
}

/** Whether it was read; false: it is damaged. */
function orLost(reading: Promise<unknown>): Promise<boolean> {
  return reading.then(
    () => true,
    (error: unknown) => {
      if (isDamage(error)) return false;
      throw error;
    },
  );
}
