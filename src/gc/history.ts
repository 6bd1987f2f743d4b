// SPDX-License-Identifier: Apache-2.0
//
// What history keeps alive. A version of a block is needed as long as any promised moment shows it: what volumes held where
// a window of every write begins and everything that was written since, and what they held at single moments that are kept.

import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { CheckpointSource } from "../index/checkpoint-loader.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  INHERITED,
  isImage,
  isShared,
  type Origin,
  WORD_OFFSET,
  WORD_RUN,
} from "../index/page-directory.ts";
import type { Past } from "../index/past.ts";
import { decodeLeaf, LEAF_BYTES_MAX, NODE_KIND, readNode } from "../index/run-file.ts";
import { RunReadAhead } from "../index/run-read-ahead.ts";
import { readLogUntil } from "../log/log-range.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import type { ReplayStart } from "../log/replay-start.ts";
import type { ReferenceVisitor } from "./reference-scan.ts";
import type { SeenLeaves } from "./seen-leaves.ts";
import { stagingPiece } from "./staging-piece.ts";

/** What a branch held after a record, as far as the volume reached then. */
export interface KeptMoment extends Origin {
  readonly chunkCount: number;
}

/** What is promised of the past, beside what the volumes hold. */
export type History =
  | { readonly kind: "all" }
  | {
      readonly kind: "some";
      /** The records from here on may be needed; undefined: none is. */
      readonly start: ReplayStart | undefined;
      /** Of a branch: the first LSN whose record counts; undefined: none does. */
      readonly fromLsnOf: (branch: number) => number | undefined;
      readonly moments: readonly KeptMoment[];
    };

export interface HistoryScanOptions extends CheckpointSource {
  readonly clock: Clock;
  readonly past: Past;
  readonly checkStopped: () => void;
}

/** Takes references one by one. */
export interface ReferenceTaker extends ReferenceVisitor {
  note(branch: number, segment: number, low: number): void;
}

/** Pages, or batches, between two turns of others: half a millisecond. */
const SLICE = 8;

/**
 * Visits every reference that a promised moment before `endLsn` can show, some of them often, but for leaves that were
 * seen. All before `endLsn` is durable. Throws POOL_CORRUPT, LOG_CORRUPT, DISK_IO, and what `checkStopped` throws.
 */
export async function scanHistory(
  options: HistoryScanOptions,
  history: Extract<History, { readonly kind: "some" }>,
  scan: { readonly endLsn: number; readonly taker: ReferenceTaker; readonly seen: SeenLeaves },
): Promise<void> {
  const { taker, seen } = scan;
  const moments = new MomentScan(options, taker, seen);
  for (const moment of history.moments) await moments.scan(moment);
  if (history.start === undefined) return;
  const { memory, clock, checkStopped } = options;
  let batchCount = 0;
  await readLogUntil({
    ...options,
    start: history.start,
    endLsn: scan.endLsn,
    onRecord: (cursor) => {
      const fromLsn = history.fromLsnOf(cursor.branch);
      if (fromLsn !== undefined && cursor.lsn >= fromLsn) takeRecord(memory.view, cursor, taker);
    },
    afterBatch: () => {
      batchCount += 1;
      if (batchCount % SLICE !== 0) return undefined;
      checkStopped();
      return new Promise((resolve) => clock.afterInput(resolve));
    },
  });
}

function takeRecord(view: DataView, cursor: RecordCursor, taker: ReferenceTaker): void {
  if (cursor.kind !== RECORD_KIND.WROTE) return;
  const end = cursor.referencesOffset + cursor.blockCount * 8;
  for (let at = cursor.referencesOffset; at < end; at += 8)
    taker.note(cursor.branch, view.getUint32(at, true), view.getUint32(at + 4, true));
}

/** Visits what branches held at moments: leaves that several of them share, once. */
export class MomentScan {
  readonly #options: Omit<HistoryScanOptions, "directory" | "poolId">;
  readonly #taker: ReferenceVisitor;
  readonly #seen: SeenLeaves;
  readonly #runs: RunReadAhead;
  #sliceLeft = SLICE;

  constructor(
    options: Omit<HistoryScanOptions, "directory" | "poolId">,
    taker: ReferenceVisitor,
    seen: SeenLeaves,
  ) {
    this.#options = options;
    this.#taker = taker;
    this.#seen = seen;
    this.#runs = new RunReadAhead(options.runs);
  }

  /** Throws POOL_CORRUPT, DISK_IO, and what `checkStopped` throws. */
  async scan(moment: KeptMoment): Promise<void> {
    for (let chunk = 0; chunk < moment.chunkCount; chunk++) await this.scanChunk(moment, chunk);
  }

  async scanChunk(moment: Origin, chunkIndex: number): Promise<void> {
    if (!this.#seen.addChunk(moment, chunkIndex)) return;
    const words = await this.#options.past.chunk(moment, chunkIndex);
    if (isShared(words)) return;
    for (let inChunk = 0; inChunk < CHUNK_PAGES; inChunk++) {
      const at = inChunk * CHUNK_WORDS;
      const run = words[at + WORD_RUN] as number;
      const offset8 = words[at + WORD_OFFSET] as number;
      const page = chunkIndex * CHUNK_PAGES + inChunk;
      if (run === INHERITED)
        this.#taker.page(moment.branch, await this.#options.past.page(moment, page), 0);
      else if (isImage(run) && !this.#seen.has(run, offset8)) {
        await this.#readLeaf(moment, page, { run, offset8 });
        this.#seen.add(run, offset8);
      } else continue;
      await this.#pause();
    }
  }

  /** Whoever wrote it: it is found by its place. A damaged one is rebuilt. */
  async #readLeaf(
    moment: Origin,
    page: number,
    { run, offset8 }: { readonly run: number; readonly offset8: number },
  ): Promise<void> {
    const { memory, past } = this.#options;
    const { branch } = moment;
    const leaf = await stagingPiece(this.#options, 2 * LEAF_BYTES_MAX + 4096);
    try {
      const image = leaf + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
      await readNode(memory, this.#runs, {
        ...{ kind: NODE_KIND.LEAF, branch, position: page, run, offset: offset8 * 8 },
        isKin: () => true,
        ...{ target: leaf, maxBytes: LEAF_BYTES_MAX },
      });
      if (decodeLeaf(memory, leaf, image)) this.#taker.page(branch, memory.words, image >>> 2);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#taker.page(branch, await past.page(moment, page), 0);
    } finally {
      memory.staging.release(leaf);
    }
  }

  async #pause(): Promise<void> {
    this.#sliceLeft -= 1;
    if (this.#sliceLeft > 0) return;
    this.#sliceLeft = SLICE;
    await new Promise<void>((resolve) => this.#options.clock.afterInput(resolve));
    this.#options.checkStopped();
  }
}
