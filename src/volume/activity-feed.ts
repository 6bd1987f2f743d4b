// SPDX-License-Identifier: Apache-2.0
//
// Where changes of blocks take effect on the index and on the timeline, in this order, live and in replay: what a write
// replaces must be looked at before the index takes it. So neither can be told something that the other isn't.

import type { BlockIndex } from "../index/block-index.ts";
import type { PageDirectory } from "../index/page-directory.ts";
import { LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { ReplacedBlocks } from "./activity-replaced.ts";
import type { ActivityTimeline, BlocksRecord, WroteRecord } from "./activity-timeline.ts";

export class ActivityFeed {
  readonly #index: BlockIndex;
  readonly timeline: ActivityTimeline;
  readonly #replaced: ReplacedBlocks = new ReplacedBlocks();

  constructor(index: BlockIndex, timeline: ActivityTimeline) {
    this.#index = index;
    this.timeline = timeline;
  }

  /** `framesEnd8`: where the record's frames end; 0 in a replay, where what follows tells. */
  wrote(directory: PageDirectory, record: WroteRecord, framesEnd8: number): void {
    this.#replaced.look(this.#index, directory, record.lba, record.blockCount);
    this.#index.applyWrote(directory, record, record.referencesOffset, record.lsn);
    this.timeline.wrote(record, this.#replaced.words, framesEnd8);
  }

  trimmed(directory: PageDirectory, record: BlocksRecord): void {
    this.#index.applyConstant(directory, record, LOW_HOLE, record.lsn);
    this.timeline.trimmed(record);
  }

  zeroed(directory: PageDirectory, record: BlocksRecord): void {
    this.#index.applyConstant(directory, record, LOW_ZERO, record.lsn);
    this.timeline.zeroed(record);
  }
}
