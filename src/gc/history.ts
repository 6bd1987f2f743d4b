// SPDX-License-Identifier: Apache-2.0
//
// What history keeps alive. A version of a block is needed as long as any promised moment shows it: what the volumes held
// where the promise begins (a checkpoint that was kept for that, the base), and everything that was written since.

import type { Clock } from "../host/ports.ts";
import type { HistoryBase } from "../index/checkpoint-body.ts";
import { type CheckpointSource, readBody, readDirectories } from "../index/checkpoint-loader.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  WORD_OFFSET,
  WORD_RUN,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import { decodeLeaf, LEAF_BYTES_MAX, NODE_KIND, readNode } from "../index/run-file.ts";
import { RunReadAhead } from "../index/run-read-ahead.ts";
import { readLogUntil } from "../log/log-range.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import type { ReferenceVisitor } from "./reference-scan.ts";
import { stagingPiece } from "./staging-piece.ts";

/** What is promised of the past. */
export type History =
  | { readonly kind: "all" }
  | { readonly kind: "none" }
  /** Every moment from the base's cut on. */
  | { readonly kind: "since"; readonly base: HistoryBase };

export interface HistoryScanOptions extends CheckpointSource {
  readonly clock: Clock;
  readonly checkStopped: () => void;
}

/** Takes references one by one. */
export interface ReferenceTaker extends ReferenceVisitor {
  note(branch: number, segment: number, low: number): void;
}

/** Pages, or batches, between two turns of others: half a millisecond. */
const SLICE = 8;

/**
 * Visits every reference that a moment between the base and `endLsn` can show, some of them often. All before `endLsn`
 * is durable. Throws POOL_CORRUPT, LOG_CORRUPT, DISK_IO, and what `checkStopped` throws.
 */
export async function scanHistory(
  options: HistoryScanOptions,
  base: HistoryBase,
  endLsn: number,
  taker: ReferenceTaker,
): Promise<void> {
  await scanBase(options, base, taker);
  const { memory, clock, checkStopped } = options;
  let batchCount = 0;
  await readLogUntil({
    ...options,
    start: base.cut,
    endLsn,
    onRecord: (cursor) => takeRecord(memory.view, cursor, taker),
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

async function scanBase(
  options: HistoryScanOptions,
  base: HistoryBase,
  taker: ReferenceTaker,
): Promise<void> {
  const { memory, clock, checkStopped } = options;
  const runs = new RunReadAhead(options.runs);
  const body = await readBody(options, base.slot);
  const leaf = await stagingPiece(options, 2 * LEAF_BYTES_MAX + 4096);
  const page = leaf + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
  let sliceLeft = SLICE;
  try {
    for (const { root, chunk } of await readDirectories(options, body)) {
      if (chunk === ZERO_CHUNK) continue;
      for (let inChunk = 0; inChunk < CHUNK_PAGES; inChunk++) {
        const run = chunk[inChunk * CHUNK_WORDS + WORD_RUN] as number;
        if (run === 0 || run === CONSTANT) continue;
        await readNode(memory, runs, {
          kind: NODE_KIND.LEAF,
          branch: root.branch,
          position: root.chunk * CHUNK_PAGES + inChunk,
          run,
          offset: (chunk[inChunk * CHUNK_WORDS + WORD_OFFSET] as number) * 8,
          target: leaf,
          maxBytes: LEAF_BYTES_MAX,
        });
        if (decodeLeaf(memory, leaf, page)) taker.page(root.branch, memory.words, page >>> 2);
        sliceLeft -= 1;
        if (sliceLeft > 0) continue;
        sliceLeft = SLICE;
        await new Promise<void>((resolve) => clock.afterInput(resolve));
        checkStopped();
      }
    }
  } finally {
    memory.staging.release(leaf);
  }
}
