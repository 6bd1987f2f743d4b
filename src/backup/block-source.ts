// SPDX-License-Identifier: Apache-2.0
//
// What a backup needs of a disk: which blocks it has to look at, and their bytes. The disk is a past moment, so whatever
// is asked of it twice is answered twice the same; a backup that was interrupted may ask again.

import type { ExtentBatch } from "./extents.ts";

export interface BlockSource {
  readonly sizeBytes: number;
  /**
   * What blocks [start, end) hold, without gaps, in order, until all is told or the batch (emptied at first) is full.
   * Frames stand for anything that must be read; places are meaningless. Returns where it stopped.
   */
  allocated(start: number, end: number, batch: ExtentBatch): Promise<number>;
  /**
   * The same, but only of blocks whose content isn't what it was at `base`. Where that can't be told a block has
   * changed. Both disks have all blocks that are asked about.
   */
  changedSince(base: string, range: BlockRange, batch: ExtentBatch): Promise<number>;
  /** Fills `target` from `offsetBytes`. Calls may overlap. */
  read(target: Uint8Array, offsetBytes: number): Promise<void>;
}

/** A half-open run of blocks. */
export interface BlockRange {
  readonly start: number;
  readonly end: number;
}

/** What of a disk a backup looks at, in order; together they are the disk. */
export interface BackupSegment extends BlockRange {
  /** What lies below in the target is as of this moment; undefined: what lies there is unknown, so all is looked at. */
  readonly base: string | undefined;
}
