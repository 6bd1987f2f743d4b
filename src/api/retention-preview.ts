// SPDX-License-Identifier: Apache-2.0
//
// What another retention would let go of, as the control door tells it. It may take longer than a request: who begins it
// asks until it has ended, and knows it by its number.

import type { ErrorJson, ProgressJson, RetentionJson } from "./types.ts";

export interface PlaceJson {
  readonly lsn: number;
  readonly at: string;
}

export interface PreviewedVolumeJson {
  readonly name: string;
  readonly id: number;
  readonly isRemoved: boolean;
  /** It was removed, and couldn't be brought back any more. */
  readonly isForgotten: boolean;
  /** From where on every write can be reached, now and then; missing: there is no such window. */
  readonly everyWriteFrom?: PlaceJson;
  readonly everyWriteFromThen?: PlaceJson;
  /** Hourly, daily … moments before that, now and then, and how many of them go. */
  readonly keptCount: number;
  readonly keptCountThen: number;
  readonly goneCount: number;
}

export interface RetentionPreviewJson {
  /** Missing: of the pool. */
  readonly volume?: string;
  /** The last record that counts. */
  readonly at: string;
  /** What holds, and what was asked about. */
  readonly retentionNow: RetentionJson;
  readonly retention: RetentionJson;
  /** What history holds: bytes that only the past needs; and of them, what nothing would need any more. */
  readonly historyBytes: number;
  readonly freedBytes: number;
  /** Counted in a part of the blocks, and scaled. */
  readonly isEstimated: boolean;
  /** Those that the retention would hold for. */
  readonly volumes: readonly PreviewedVolumeJson[];
  /** Hourly, daily … moments that would go, oldest first; the newest 1000 of them. */
  readonly goneMoments: readonly PlaceJson[];
  readonly goneMomentCount: number;
  /** What stays all the same: named moments, those that are being read, and clones. */
  readonly snapshotCount: number;
  readonly viewCount: number;
  readonly cloneCount: number;
  /** More is asked for than there is: what has been let go doesn't come back. */
  readonly isBeyondPast: boolean;
}

export interface RetentionPreviewStatusJson {
  /** Of the previews that were asked for since the daemon started: the number of the newest; 0: none. */
  readonly run: number;
  readonly isRunning: boolean;
  /** Of it, or of the collection that it waits for. */
  readonly progress?: ProgressJson;
  /** Of the newest, once it has ended. */
  readonly report?: RetentionPreviewJson;
  /** Why the newest failed. */
  readonly problem?: ErrorJson;
}
