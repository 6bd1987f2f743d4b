// SPDX-License-Identifier: Apache-2.0
//
// A volume's history as the control door tells it: intervals in which something happened, and what stands on the line of
// time beside them. Times are ISO 8601 in UTC, LSNs are the pool's; each list is in order of time.

export interface HistoryJson {
  readonly volume: string;
  readonly from: string;
  readonly to: string;
  /** Of an interval; where only coarser ones are left, lines are longer. */
  readonly stepMs: number;
  /** Intervals in which nothing happened are left out. */
  readonly lines: readonly HistoryLineJson[];
  readonly names: readonly HistoryNameJson[];
  /** From this moment on each can be opened; absent: only single ones. */
  readonly everyWriteFrom?: HistoryPlaceJson;
  /** Single moments before it that can be opened, besides those with names. */
  readonly kept: readonly HistoryPlaceJson[];
  readonly holes: readonly HistoryHoleJson[];
  readonly branches: readonly HistoryBranchJson[];
  readonly changes: readonly HistoryChangeJson[];
  readonly clockSteps: readonly HistoryClockStepJson[];
  readonly flagged: readonly HistoryFlagJson[];
}

export interface HistoryLineJson {
  readonly from: string;
  readonly to: string;
  readonly firstLsn: number;
  readonly lastLsn: number;
  readonly writeCount: number;
  readonly writtenBytes: number;
  /** Of different blocks; estimated, with a standard error of 6.5 %. */
  readonly distinctBytes: number;
  /** Written to blocks that are known to have held data, and to blocks that are known not to. */
  readonly rewrittenBytes: number;
  readonly freshBytes: number;
  /** New content: its blocks, those of them that don't shrink, and what all take stored. */
  readonly newBlockCount: number;
  readonly hardBlockCount: number;
  readonly storedBytes: number;
  readonly zeroBytes: number;
  readonly duplicateBytes: number;
  readonly trimCount: number;
  readonly trimmedBytes: number;
  readonly zeroedCount: number;
  readonly zeroedBytes: number;
  readonly flushCount: number;
}

export interface HistoryNameJson {
  readonly name: string;
  readonly lsn: number;
  readonly at: string;
}

export interface HistoryPlaceJson {
  readonly lsn: number;
  readonly at: string;
}

/** Moments that can't be reached, but for single ones. */
export interface HistoryHoleJson {
  readonly from: string;
  readonly to: string;
  readonly fromLsn: number;
  readonly toLsn: number;
  readonly why: string;
}

export interface HistoryBranchJson {
  readonly at: string;
  readonly lsn: number;
  readonly reason: "created" | "clone" | "rewind" | "undo";
  /** Where it goes on from; absent: from nothing. */
  readonly parentLsn?: number;
}

/** What else became of it. Cloned: another volume, `toName`, began as it was at #parentLsn. */
export interface HistoryChangeJson {
  readonly at: string;
  readonly lsn: number;
  readonly change: "removed" | "restored" | "resized" | "renamed" | "cloned";
  readonly fromBytes?: number;
  readonly toBytes?: number;
  readonly fromName?: string;
  readonly toName?: string;
  readonly parentLsn?: number;
}

export interface HistoryClockStepJson {
  readonly at: string;
  readonly lsn: number;
  /** Negative: back. */
  readonly stepMs: number;
}

/** When a range of a volume changed. */
export interface ChangesJson {
  readonly volume: string;
  /** Newest first. */
  readonly changes: readonly {
    readonly lsn: number;
    readonly at: string;
    /** From the first byte of the range that changed to the last. */
    readonly offsetBytes: number;
    readonly lengthBytes: number;
    /** The volume went on from another moment: everything may have changed. */
    readonly isBranch: boolean;
  }[];
  /** There are older ones. */
  readonly isMore: boolean;
  /** Of what came before nothing is known. */
  readonly knownFromLsn: number;
}

/** From then on content that shrank gave way to content that doesn't. */
export interface HistoryFlagJson {
  readonly since: string;
  readonly lastLsnBefore: number;
  readonly lastAtBefore: string;
  readonly noticedAt: string;
}
