// SPDX-License-Identifier: Apache-2.0
//
// Reads change lists, and directories of checkpoints that aren't the newest. What was read last is kept: nodes never
// change. The memory that takes is bounded by numbers of nodes, some two megabytes, and by the roots of eight checkpoints.

import { StorageError } from "../base/errors.ts";
import { RecentMap } from "../base/recent-map.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import {
  type ChangeListFile,
  decodeEntries,
  decodeRoots,
  isChange,
  isChangedPage,
  isRange,
  LIST_ENTRY_WORDS,
  LIST_NODE_BYTES_MAX,
  PAGE_WORDS,
} from "./change-list.ts";
import type { ChunkRoot, HistoryBase } from "./checkpoint-body.ts";
import { largeNode, readBody, readChunk, readLargeNode } from "./checkpoint-loader.ts";
import type { ListPart, ListRepair } from "./list-repair.ts";
import { CHUNK_PAGES } from "./page-directory.ts";
import { NODE_KIND, type NodeIdentity, nodeCorrupt, type RunStore, readNode } from "./run-file.ts";

export interface ChangeListSource {
  readonly memory: BlockMemory;
  readonly runs: RunStore;
  /** Gives what a damaged list says; without it, reading that throws. */
  readonly listRepair?: ListRepair;
}

/** A list's roots, to be found by branch and chunk. */
interface ListRoots {
  readonly chunks: ReadonlyMap<number, readonly number[]>;
  readonly ranges: ReadonlyMap<number, readonly number[]>;
}

/** What a list tells of: chunks with changed pages, and branches with ranges. */
export interface ListPlaces {
  readonly chunks: readonly { readonly branch: number; readonly chunk: number }[];
  readonly branches: readonly number[];
}

const BODIES_MAX = 8;
const LISTS_MAX = 32;
const DIRECTORIES_MAX = 64;
const NODES_MAX = 128;
/** 64 TiB in chunks of 2 GiB. */
const CHUNKS_MAX = 32768;
const NOTHING: Uint32Array = new Uint32Array(0);

export class ChangeListReader {
  readonly #source: ChangeListSource;
  readonly #bodies: RecentMap<number, ReadonlyMap<number, ChunkRoot>> = new RecentMap(BODIES_MAX);
  readonly #lists: RecentMap<number, ListRoots> = new RecentMap(LISTS_MAX);
  readonly #directories: RecentMap<string, Uint32Array> = new RecentMap(DIRECTORIES_MAX);
  readonly #nodes: RecentMap<string, Uint32Array> = new RecentMap(NODES_MAX);

  constructor(source: ChangeListSource) {
    this.#source = source;
  }

  /** Where the checkpoint has the chunk's directory; undefined: nowhere. Throws POOL_CORRUPT, DISK_IO. */
  async root({ slot }: HistoryBase, branch: number, chunk: number): Promise<ChunkRoot | undefined> {
    let roots = this.#bodies.get(slot.run);
    if (roots === undefined) {
      const body = await readBody(this.#source, slot);
      roots = new Map(body.roots.map((root) => [keyOf(root.branch, root.chunk), root]));
      this.#bodies.set(slot.run, roots);
    }
    return roots.get(keyOf(branch, chunk));
  }

  /** The directory's entries, not to be changed. Throws POOL_CORRUPT, DISK_IO. */
  async directory(root: ChunkRoot): Promise<Uint32Array> {
    const key = `${root.run}:${root.offset8}`;
    const known = this.#directories.get(key);
    if (known !== undefined) return known;
    const { chunk } = await readChunk(this.#source, root);
    this.#directories.set(key, chunk);
    return chunk;
  }

  /** Where the list has anything. Throws POOL_CORRUPT, DISK_IO. */
  async places(list: ChangeListFile): Promise<ListPlaces> {
    const { chunks, ranges } = await this.#rootsOf(list);
    const placeOf = (key: number) => ({
      branch: Math.floor(key / CHUNKS_MAX),
      chunk: key % CHUNKS_MAX,
    });
    return { chunks: [...chunks.keys()].map(placeOf), branches: [...ranges.keys()] };
  }

  /** Words as RANGE_WORDS says, by LSN. Throws POOL_CORRUPT, DISK_IO. */
  async ranges(list: ChangeListFile, branch: number): Promise<Uint32Array> {
    try {
      const offsets = (await this.#rootsOf(list)).ranges.get(branch);
      if (offsets === undefined) return NOTHING;
      return await this.#nodesAt(list, offsets, { kind: NODE_KIND.RANGES, branch, position: 0 });
    } catch (error) {
      return (await this.#rebuilt(list, branch, error)).ranges;
    }
  }

  /** Words as PAGE_WORDS says, by page, and of a page by LSN. Throws POOL_CORRUPT, DISK_IO. */
  async changedPages(
    list: ChangeListFile,
    { branch, chunk }: { readonly branch: number; readonly chunk: number },
  ): Promise<Uint32Array> {
    try {
      const offsets = (await this.#rootsOf(list)).chunks.get(keyOf(branch, chunk));
      if (offsets === undefined) return NOTHING;
      const node = { kind: NODE_KIND.CHANGED_PAGES, branch, position: chunk };
      return await this.#nodesAt(list, offsets, node);
    } catch (error) {
      return (await this.#rebuilt(list, branch, error)).changedPages(chunk);
    }
  }

  /**
   * Calls `apply` with the page's changes, words as CHANGE_WORDS says, node by node, as far as one has a change up to
   * `until` (an LSN less the list's first). Throws POOL_CORRUPT, DISK_IO.
   */
  async changes(
    list: ChangeListFile,
    {
      branch,
      page,
      until,
    }: { readonly branch: number; readonly page: number; readonly until: number },
    apply: (changes: Uint32Array) => void,
  ): Promise<void> {
    const pages = await this.changedPages(list, { branch, chunk: Math.floor(page / CHUNK_PAGES) });
    const node = { kind: NODE_KIND.CHANGES, branch, position: page };
    const parts: Uint32Array[] = [];
    try {
      const inChunk = page % CHUNK_PAGES;
      for (let at = firstOf(pages, inChunk); pages[at] === inChunk; at += LIST_ENTRY_WORDS) {
        if ((pages[at + PAGE_WORDS.first] as number) > until) continue;
        const offset8 = pages[at + PAGE_WORDS.offset8] as number;
        parts.push(await this.#read(list, offset8, node));
      }
    } catch (error) {
      // Those that were rebuilt are no node, and so can't be read, either.
      apply((await this.#rebuilt(list, branch, error)).changes(page));
      return;
    }
    for (const part of parts) apply(part);
  }

  async #rebuilt(list: ChangeListFile, branch: number, cause: unknown): Promise<ListPart> {
    const { listRepair } = this.#source;
    if (listRepair === undefined || !(cause instanceof StorageError)) throw cause;
    return await listRepair.part(list, branch, cause);
  }

  async #rootsOf(list: ChangeListFile): Promise<ListRoots> {
    const known = this.#lists.get(list.run);
    if (known !== undefined) return known;
    const node = { ...list, kind: NODE_KIND.CHANGE_LISTS };
    const roots = decodeRoots(await readLargeNode(this.#source, node));
    const isRight =
      roots !== undefined &&
      roots.fromLsn === list.fromLsn &&
      roots.endLsn === list.endLsn &&
      roots.chunks.every(({ chunk }) => chunk < CHUNKS_MAX);
    if (!isRight) throw nodeCorrupt(largeNode(node), "impossible content");
    const chunks = grouped(roots.chunks, ({ branch, chunk }) => keyOf(branch, chunk));
    const found = { chunks, ranges: grouped(roots.ranges, ({ branch }) => branch) };
    this.#lists.set(list.run, found);
    return found;
  }

  /** All nodes of a kind that follow each other, as one. */
  async #nodesAt(
    list: ChangeListFile,
    offsets: readonly number[],
    node: NodeIdentity,
  ): Promise<Uint32Array> {
    const key = `${list.run}:${offsets[0]}`;
    const known = this.#nodes.get(key);
    if (known !== undefined) return known;
    const parts: Uint32Array[] = [];
    for (const offset8 of offsets) parts.push(await this.#read(list, offset8, node));
    const [first = NOTHING] = parts;
    const all = parts.length === 1 ? first : joined(parts);
    this.#nodes.set(key, all);
    return all;
  }

  async #read({ run }: ChangeListFile, offset8: number, node: NodeIdentity): Promise<Uint32Array> {
    const { memory, runs } = this.#source;
    const target = await memory.reads.acquire(LIST_NODE_BYTES_MAX);
    try {
      const place = { ...node, run, offset: offset8 * 8, target, maxBytes: LIST_NODE_BYTES_MAX };
      await readNode(memory, runs, place);
      const words = decodeEntries(memory, target, entryCheckOf(node.kind));
      if (words === undefined) throw nodeCorrupt(place, "impossible content");
      return words;
    } finally {
      memory.reads.release(target);
    }
  }
}

/** Where the entries of the page begin, or would: they are in order. */
function firstOf(pages: Uint32Array, inChunk: number): number {
  let low = 0;
  let high = pages.length / LIST_ENTRY_WORDS;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((pages[middle * LIST_ENTRY_WORDS] as number) < inChunk) low = middle + 1;
    else high = middle;
  }
  return low * LIST_ENTRY_WORDS;
}

function entryCheckOf(kind: number): (words: Uint32Array, at: number) => boolean {
  if (kind === NODE_KIND.CHANGES) return isChange;
  return kind === NODE_KIND.RANGES ? isRange : isChangedPage;
}

function keyOf(branch: number, chunk: number): number {
  return branch * CHUNKS_MAX + chunk;
}

function grouped<T extends { readonly offset8: number }>(
  roots: readonly T[],
  keyOfRoot: (root: T) => number,
): Map<number, number[]> {
  const groups = new Map<number, number[]>();
  for (const root of roots) {
    const key = keyOfRoot(root);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [root.offset8]);
    else group.push(root.offset8);
  }
  return groups;
}

function joined(parts: readonly Uint32Array[]): Uint32Array {
  const all = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
