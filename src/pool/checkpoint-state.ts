// SPDX-License-Identifier: Apache-2.0
//
// A checkpoint as a plain state: what all records before its cut came to, in the form that reading those records would
// have given. Where the log no longer reaches back to its beginning, this is what readers without an index begin from.
//
// Branches share what they inherited: an image of a run is one array, whoever names it.

import type { CheckpointBody } from "../index/checkpoint-body.ts";
import type { CheckpointSource, LoadedCheckpoint } from "../index/checkpoint-loader.ts";
import { CHUNK_BLOCKS, CHUNK_PAGES, type Origin, PAGE_BLOCKS } from "../index/page-directory.ts";
import {
  NODE_WORDS,
  RELOCATIONS_BYTES_MAX,
  readRelocations,
  type StoredTable,
} from "../index/relocation-node.ts";
import { ENTRY_WORDS, PLACE_STATE } from "../index/relocation-table.ts";
import { NODE_HEADER_BYTES } from "../index/run-file.ts";
import type { BranchPoint } from "../log/branch-points.ts";
import { isDamage } from "../log/log-reach.ts";
import { PlainMap } from "../log/plain-map.ts";
import type { PlainMoves } from "../log/plain-moves.ts";
import { PlainState } from "../log/plain-state.ts";
import { LOW_HOLE, offset8Of, slotOf, stateOf } from "../log/reference.ts";
import { LOW_LOST } from "../log/volume-content.ts";
import { Catalog } from "./catalog.ts";
import { CheckpointPast, type PageContent } from "./checkpoint-past.ts";

export interface CheckpointState {
  readonly state: PlainState;
  /** Pages, and lists of moved frames, that can't be read: their blocks are lost until a later record names them. */
  readonly lostNodes: number;
  /** Branches that records behind the cut tell of may have begun before it: the state is told with what. */
  readonly expectBranches: (points: readonly BranchPoint[]) => Promise<void>;
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
  source: CheckpointSource,
  checkpoint: LoadedCheckpoint,
): Promise<CheckpointState | undefined> {
  try {
    const past = await CheckpointPast.load(source, checkpoint);
    const state = stateOfCatalog(checkpoint.body);
    const reading = new StateReading(past);
    // What was left by then only moments before have.
    for (const branch of state.branches.keys())
      if (!past.content.catalog.isCurrent(branch)) state.branches.delete(branch);
      else state.branches.set(branch, (await reading.mapAt({ branch, lsn: past.lsn })).copy());
    let lostNodes = reading.lostNodes;
    for (const [segment, table] of past.content.index.relocations.storedTables())
      lostNodes += await readMoves(source, segment, table, state.moves);
    const { nextLsn } = checkpoint.body.cut;
    const expectBranches = async (points: readonly BranchPoint[]): Promise<void> => {
      state.expectBranches(points, nextLsn);
      for (const { branch, parent, parentLsn: lsn } of points)
        if (lsn < nextLsn - 1 && past.content.catalog.branches.has(parent))
          state.expectBranch(branch, (await reading.mapAt({ branch: parent, lsn })).copy());
    };
    return { state, lostNodes, expectBranches };
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

/** In place of a page that can't be read: its blocks are lost until a later record names them. */
const LOST_PAGE: Uint32Array = Uint32Array.from({ length: PAGE_BLOCKS * 2 }, (_, at) =>
  at % 2 === 0 ? 0 : LOW_LOST,
);

class StateReading {
  readonly #past: CheckpointPast;
  readonly #moments: Map<string, PlainMap> = new Map();
  /** Images of runs, by place. */
  readonly #images: Map<string, Uint32Array> = new Map();
  lostNodes = 0;

  constructor(past: CheckpointPast) {
    this.#past = past;
  }

  /** What the branch held. Whoever changes it takes a copy. */
  async mapAt(origin: Origin): Promise<PlainMap> {
    const key = `${origin.branch}@${origin.lsn}`;
    let map = this.#moments.get(key);
    if (map === undefined) {
      map = await this.#readMap(origin);
      this.#moments.set(key, map);
    }
    return map;
  }

  async #readMap(origin: Origin): Promise<PlainMap> {
    const map = new PlainMap();
    const count = this.#past.chunkCountOf(origin.branch);
    for (let chunk = 0; chunk < count; chunk++) {
      const pages = await this.#orLost(this.#past.chunk(origin, chunk));
      if (pages !== undefined && "kind" in pages) {
        if (pages.kind === "constant" && pages.low !== LOW_HOLE)
          map.fill(chunk * CHUNK_BLOCKS, CHUNK_BLOCKS, pages.low);
        continue;
      }
      for (let at = 0; at < CHUNK_PAGES; at++)
        await this.#addPage(map, origin, { page: chunk * CHUNK_PAGES + at, content: pages?.[at] });
    }
    return map;
  }

  async #addPage(
    map: PlainMap,
    origin: Origin,
    { page, content }: { readonly page: number; readonly content: PageContent | undefined },
  ): Promise<void> {
    if (content === undefined) return map.putPage(page, LOST_PAGE);
    if (content.kind === "constant") {
      if (content.low !== LOW_HOLE) map.fill(page * PAGE_BLOCKS, PAGE_BLOCKS, content.low);
      return;
    }
    const key = content.kind === "image" ? `${content.run}:${content.offset8}` : undefined;
    let references = key === undefined ? undefined : this.#images.get(key);
    references ??= (await this.#orLost(this.#past.page(origin, page))) ?? LOST_PAGE;
    if (key !== undefined) this.#images.set(key, references);
    map.putPage(page, references);
  }

  /** Undefined, and counted: it is damaged. */
  async #orLost<T>(reading: Promise<T>): Promise<T | undefined> {
    try {
      return await reading;
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.lostNodes += 1;
      return undefined;
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
