// SPDX-License-Identifier: Apache-2.0
//
// Differences of moments of one pool: what is read of both stays while they are compared (volume-diff.ts): their frames, for
// they are pinned as a view pins its moment, and the checkpoints and change lists that say what happened between them.

import type { BlockIndex } from "../index/block-index.ts";
import { ChangedPages } from "../index/changed-pages.ts";
import type { CheckpointState } from "../index/kept-checkpoints.ts";
import { Past } from "../index/past.ts";
import type { RunStore } from "../index/run-file.ts";
import { RunReadAhead } from "../index/run-read-ahead.ts";
import { FrameComparison, type FrameComparisonOptions } from "../volume/frame-comparison.ts";
import { SharedHashes, type SharedHashesOptions } from "../volume/shared-hashes.ts";
import type { Catalog } from "./catalog.ts";
import type { HistoryKeeper } from "./history-keeper.ts";
import { chunkCountOf } from "./history-needs.ts";
import { viewGone } from "./missing-moment.ts";
import type { ReachedHistory } from "./reached-history.ts";
import type { DiffMoment, DiffRange, DiffSummary, DiffVisitor } from "./types.ts";
import { diffMoments } from "./volume-diff.ts";

export interface PoolDiffOptions extends Omit<FrameComparisonOptions, "shared"> {
  /** What segments are read with. */
  readonly segmentSource: Omit<SharedHashesOptions, "pause">;
  readonly index: BlockIndex;
  readonly runs: RunStore;
  readonly past: Past;
  readonly state: () => Readonly<CheckpointState>;
  readonly catalog: () => Catalog;
  readonly reached: ReachedHistory;
  readonly keeper: HistoryKeeper;
  /** Until the returned function is called no base and no list is let go. */
  readonly pinHistory: () => Promise<() => void>;
}

/** Reads the index for one diff at a time: the pages of both moments and the lists between them, in order. */
interface DiffReader {
  readonly past: Past;
  readonly changed: ChangedPages;
}

/** Images of both moments, and lists that lead to them and from one to the other: 6 MiB. */
const RUNS_AT_ONCE = 24;

export class PoolDiff {
  readonly #options: PoolDiffOptions;
  /** Of the last diff that ended: what it knows of runs stays right. */
  #reader: DiffReader | undefined;

  constructor(options: PoolDiffOptions) {
    this.#options = options;
  }

  /** See Pool.diff. */
  async diff(
    from: DiffMoment,
    to: DiffMoment,
    range: DiffRange,
    visitor: DiffVisitor,
  ): Promise<DiffSummary> {
    const { pinHistory, catalog, past } = this.#options;
    const pause = async (): Promise<void> => {
      await this.#options.pause();
      await visitor.room?.();
    };
    const unpins: (() => void)[] = [];
    let reader: DiffReader | undefined;
    try {
      // At once: the newest moment may be one of the past in the next turn.
      for (const moment of [from, to]) unpins.push(this.#pin(moment));
      unpins.push(await pinHistory());
      // A checkpoint that was being written may have let go of what they need.
      const gone = [from, to].find(({ lsn }) => !past.reaches(lsn));
      if (gone !== undefined) throw viewGone(gone, this.#options.reached);
      const { branches, marks } = catalog();
      const marksOf = (branch: number) => marks.of(branch);
      reader = this.#reader ?? this.#newReader();
      this.#reader = undefined;
      const shared = new SharedHashes({ ...this.#options.segmentSource, pause });
      const comparison = new FrameComparison({ ...this.#options, shared, pause });
      const sources = { branches, pause, comparison, ...reader };
      return await diffMoments(sources, { from, to, marksOf, ...range }, visitor);
    } finally {
      for (const unpin of unpins) unpin();
      this.#reader = reader ?? this.#reader;
    }
  }

  #newReader(): DiffReader {
    const runs = new RunReadAhead(this.#options.runs, RUNS_AT_ONCE);
    const options = { ...this.#options, runs };
    return { past: new Past(options), changed: new ChangedPages(options) };
  }

  #pin(moment: DiffMoment): () => void {
    const { reached, keeper } = this.#options;
    const { branch, lsn, sizeBytes } = moment;
    if (!reached.isReadable(branch, lsn)) throw viewGone(moment, reached);
    return keeper.pin({ branch, lsn, chunkCount: chunkCountOf(sizeBytes) });
  }
}
