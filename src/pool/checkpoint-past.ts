// SPDX-License-Identifier: Apache-2.0
//
// A checkpoint and the history that goes with it, read by the index's own code and without a running pool: what any branch
// held at the cut, or at an earlier moment, a chunk at a time. For those who look at a pool's files from outside: check
// and salvage. It needs no memory of the slots, so several of them may be open.

import { BlockIndex } from "../index/block-index.ts";
import type { HistoryBase } from "../index/checkpoint-body.ts";
import type { CheckpointSource, LoadedCheckpoint } from "../index/checkpoint-loader.ts";
import { type CheckpointState, checkpointStateOf } from "../index/kept-checkpoints.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  isImage,
  isShared,
  type Origin,
  WORD_OFFSET,
  WORD_RUN,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import { Past } from "../index/past.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { chunkCountOf } from "./history-needs.ts";
import { PoolContent } from "./pool-content.ts";

/** What a page is: its references, or where they are, or the low word that all of them have. */
export type PageContent =
  | { readonly kind: "constant"; readonly low: number }
  /** An image of a run: the same place, the same content. */
  | { readonly kind: "image"; readonly run: number; readonly offset8: number }
  /** An image and changes. */
  | { readonly kind: "changed" };

export class CheckpointPast {
  readonly content: PoolContent;
  readonly state: Readonly<CheckpointState>;
  readonly #past: Past;
  readonly #source: CheckpointSource;

  /** Throws POOL_CORRUPT, DISK_IO. */
  static async load(
    source: CheckpointSource,
    checkpoint: LoadedCheckpoint,
  ): Promise<CheckpointPast> {
    const content = new PoolContent(new BlockIndex(source.memory, source.runs));
    await content.load(source, checkpoint.body);
    const state = checkpointStateOf([checkpoint], await source.directory.list());
    return new CheckpointPast(source, content, state);
  }

  private constructor(
    source: CheckpointSource,
    content: PoolContent,
    state: Readonly<CheckpointState>,
  ) {
    const { memory, runs } = source;
    this.#source = source;
    this.content = content;
    this.state = state;
    this.#past = new Past({ memory, runs, index: content.index, state: () => state });
  }

  /** The same, read as if this base weren't there. */
  without(base: HistoryBase): CheckpointPast {
    const bases = this.state.bases.filter((each) => each !== base);
    return new CheckpointPast(this.#source, this.content, { ...this.state, bases });
  }

  /** Whether the base and the lists are there that lead to the moment. */
  reaches(lsn: number): boolean {
    return this.#past.reaches(lsn);
  }

  /** The last moment that the checkpoint has. */
  get lsn(): number {
    return (this.state.newest?.cut.nextLsn ?? 1) - 1;
  }

  /** Chunks that the branch may have had anything in, at any time. */
  chunkCountOf(branch: number): number {
    const { branches, volumes } = this.content.catalog;
    const { volume = 0, parent = 0 } = branches.get(branch) ?? {};
    const sizes = volumes.get(volume)?.states.map(({ sizeBytes }) => chunkCountOf(sizeBytes)) ?? [];
    const own = this.content.index.branches.get(branch)?.chunks.length ?? 0;
    return Math.max(own, ...sizes, parent === 0 ? 0 : this.chunkCountOf(parent));
  }

  /** What the chunk's pages are, in their order, or all of them. Throws POOL_CORRUPT, DISK_IO. */
  async chunk(origin: Origin, chunkIndex: number): Promise<PageContent | readonly PageContent[]> {
    const words = await this.#past.chunk(origin, chunkIndex);
    if (isShared(words)) return words === ZERO_CHUNK ? ZERO : HOLE;
    return Array.from({ length: CHUNK_PAGES }, (_, page) => contentAt(words, page * CHUNK_WORDS));
  }

  /** References of one page, two words a block. Throws POOL_CORRUPT, DISK_IO. */
  page(origin: Origin, page: number): Promise<Uint32Array> {
    return this.#past.page(origin, page);
  }
}

const HOLE: PageContent = { kind: "constant", low: LOW_HOLE };
const ZERO: PageContent = { kind: "constant", low: LOW_ZERO };
const CHANGED: PageContent = { kind: "changed" };

function contentAt(words: Uint32Array, at: number): PageContent {
  const run = words[at + WORD_RUN] as number;
  const offset8 = words[at + WORD_OFFSET] as number;
  if (isImage(run)) return { kind: "image", run, offset8 };
  if (run === 0) return HOLE;
  if (run !== CONSTANT) return CHANGED;
  return offset8 === LOW_ZERO ? ZERO : { kind: "constant", low: offset8 };
}
