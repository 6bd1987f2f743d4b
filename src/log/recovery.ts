// SPDX-License-Identifier: Apache-2.0
//
// Recovery: from a known position (a checkpoint's, or the beginning) along the unbroken chain of batches
// to the last that is whole, telling every record on the way. What lies behind a break is thrown away only
// if nothing says that it had been durable; otherwise the log is damaged, and recovery refuses and touches
// nothing. (docs/format/ordering.md, "Recovery")
//
//   1. Read the headers of all later segments: they say where each earlier one ended, and what was durable.
//   2. Walk: by footers where all of a segment is known to be durable, else batch by batch; frames are
//      verified beyond the durable LSN, because there a batch may be torn. Whether one with a bad frame is torn or
//      damaged, the batches behind it tell: where the chain goes on to one that claims it durable, it is accepted,
//      and only that frame is lost.
//   3. At the end: evidence of durability behind it (later headers, batches further on) = corruption.
//   4. Make what was accepted durable (recovered-tail.ts), drop leftovers, and only then let the writer begin a new segment:
//      its header ends the old one for good. Then what is left behind accepted batches may be cut off (`tails`).

import type { BatchHeader } from "./batch.ts";
import { brokenChain, ChainWalk, type LogEnd, type Visitor } from "./chain-walk.ts";
import { KnownSegments, type LogFiles, segmentCorrupt, withSegment } from "./known-segments.ts";
import type { LogPosition } from "./log-writer.ts";
import type { RecordCursor } from "./record.ts";
import { cutTails, type LeftTail, RecoveredTail } from "./recovered-tail.ts";
import type { ReplayStart } from "./replay-start.ts";
import { SEGMENT_HEADER_BYTES, segmentName } from "./segment.ts";
import type { ChainState, DamagedFrame } from "./segment-reader.ts";

export interface RecoveryResult {
  readonly position: LogPosition;
  /** LSNs below this were known to be durable before this recovery. */
  readonly durableLsn: number;
  readonly replayedRecords: number;
  /** Why the walk ended where it did; undefined for a clean end. */
  readonly tornReason: string | undefined;
  readonly leftovers: readonly string[];
  /** What is left behind accepted batches and is no footer of theirs. Not looked for when nothing is to be changed. */
  readonly tails: readonly LeftTail[];
  /** Segments that were walked, in order. */
  readonly visited: readonly number[];
}

export interface RecoveryOptions extends LogFiles {
  readonly start: ReplayStart;
  readonly onRecord: (cursor: RecordCursor) => void;
  /**
   * Called after each batch, with where the log stands; what it returns is awaited. So a replay longer than memory
   * can take checkpoints on its way, once it has called `makeDurable`.
   */
  readonly onStanding?: (
    at: ReplayStart,
    makeDurable: () => Promise<void>,
  ) => Promise<void> | undefined;
  /** Told of each batch before its records. */
  readonly onBatch?: (segmentNumber: number, offset: number, header: BatchHeader) => void;
  /** A frame that had been durable is damaged; told before the records of its batch. */
  readonly onDamagedFrame?: (frame: DamagedFrame) => void;
  /** Verify the frames of every batch, not only of those that may be torn. */
  readonly isEveryFrameVerified?: boolean;
  /** Called after each batch; what it returns is awaited. */
  readonly afterBatch?: () => Promise<void> | undefined;
  /** Read only: change nothing on disk (check, dump). */
  readonly isReadOnly?: boolean;
}

export async function recoverLog(options: RecoveryOptions): Promise<RecoveryResult> {
  const known = await KnownSegments.read(options, options.start.segmentNumber);
  return await new Recovery(options, known).run();
}

class Recovery {
  readonly #options: RecoveryOptions;
  readonly #known: KnownSegments;
  readonly #walk: ChainWalk;
  readonly #tail: RecoveredTail;
  readonly #chain: ChainState;
  readonly #visited: number[] = [];

  constructor(options: RecoveryOptions, known: KnownSegments) {
    const { nextLsn, chain, recordedMicros } = options.start;
    this.#options = options;
    this.#known = known;
    this.#walk = new ChainWalk(options, known, {
      isFooterEnough: options.isEveryFrameVerified !== true,
    });
    this.#tail = new RecoveredTail(options.directory);
    const durableLsn = Math.max(nextLsn, known.durableLsn);
    this.#chain = { nextLsn, chain, recordedMicros, durableLsn };
  }

  async run(): Promise<RecoveryResult> {
    const { directory, start, isReadOnly } = this.#options;
    const chain = this.#chain;
    await this.#refuseCutOff();
    const logEnd = await this.#walk.follow(start, chain, (number, from) =>
      this.#visitor(number, from),
    );
    const leftovers = this.#known.numbers.filter((number) => number > logEnd.segmentNumber);
    await this.#refuseDamage(logEnd, leftovers);
    if (isReadOnly !== true) {
      // What was accepted becomes durable before anything is built on it; then leftovers go.
      await this.#tail.settle(chain);
      for (const number of leftovers) await directory.remove(segmentName(number));
      if (leftovers.length > 0) await directory.sync();
    }
    return {
      position: {
        segmentNumber: this.#known.highest + 1,
        previousNumber: logEnd.segmentNumber,
        previousEnd: logEnd.end,
        chain: chain.chain,
        nextLsn: chain.nextLsn,
        incarnation: Math.max(start.incarnation, this.#known.incarnation) + 1,
        recordedMicros: chain.recordedMicros,
      },
      durableLsn: chain.durableLsn,
      replayedRecords: chain.nextLsn - start.nextLsn,
      tornReason: logEnd.tornReason,
      leftovers: leftovers.map(segmentName),
      tails: isReadOnly === true ? [] : await this.#tails(logEnd.end),
      visited: this.#visited,
    };
  }

  /** Throws LOG_CORRUPT when the segment ends before the place that the checkpoint was cut at: that had been durable. */
  async #refuseCutOff(): Promise<void> {
    const { segmentNumber, offset } = this.#options.start;
    const { sizeBytes, isRecords } = await withSegment(this.#options, segmentNumber, (reader) =>
      Promise.resolve({ sizeBytes: reader.sizeBytes, isRecords: reader.isRecords }),
    );
    // Places in a segment of which only the records are left are those that it had.
    if (sizeBytes < offset && !isRecords)
      throw segmentCorrupt(
        segmentNumber,
        `cut off at ${sizeBytes}, below the checkpoint at ${offset}`,
        { offset: sizeBytes },
      );
  }

  /** A torn tail, a footer that repeats it, or what a file held before its blocks were used again. */
  async #tails(logEnd?: number): Promise<LeftTail[]> {
    const tails: LeftTail[] = [];
    for (const [at, number] of this.#visited.entries()) {
      if (this.#walk.byFooter.has(number)) continue;
      const next = this.#visited[at + 1];
      const header = next === undefined ? undefined : this.#known.header(next);
      const end = header?.previousEnd ?? logEnd;
      if (end === undefined) break; // the walk is in this one
      const isClean = await withSegment(
        this.#options,
        number,
        async (reader) => reader.sizeBytes <= end || (await reader.hasFooterAt(end)),
      );
      if (!isClean) tails.push({ segment: number, end });
    }
    return tails;
  }

  /** What recovery does with each batch of a segment. */
  #visitor(segmentNumber: number, from: number): Visitor {
    const { onRecord, onBatch, onDamagedFrame, afterBatch, onStanding } = this.#options;
    const header = this.#known.header(segmentNumber);
    const incarnation = header?.incarnation ?? -1;
    this.#visited.push(segmentNumber);
    if (header !== undefined && from === SEGMENT_HEADER_BYTES) this.#tail.noteSegment(header);
    return {
      verifyFromLsn: this.#options.isEveryFrameVerified === true ? 0 : this.#chain.durableLsn,
      wasDurable: (end, next) => this.#wasDurable(segmentNumber, end, next),
      onRecord,
      ...(onDamagedFrame === undefined ? {} : { onDamagedFrame }),
      onBatch: (offset, batch) => {
        this.#tail.noteBatch(segmentNumber, offset, batch);
        onBatch?.(segmentNumber, offset, batch);
      },
      afterBatch: (offset, { nextLsn, chain, recordedMicros }) => {
        const pause = afterBatch?.();
        if (pause !== undefined) return pause;
        const at = { segmentNumber, offset, nextLsn, chain, incarnation, recordedMicros };
        return onStanding?.(at, () => this.#settleBehind());
      },
    };
  }

  /** For a checkpoint in the middle of the replay: the next recovery won't look at the segments that it goes behind. */
  async #settleBehind(): Promise<void> {
    await this.#tail.settle(this.#chain);
    await cutTails(this.#options.directory, await this.#tails());
  }

  /**
   * Whether everything before `next` had been durable, by what the batches from (segment, end) on claim. Their own
   * frames don't matter for that: the chain says that they were written behind it.
   */
  async #wasDurable(segmentNumber: number, end: number, next: ChainState): Promise<boolean> {
    const chain = this.#chain;
    if (next.nextLsn > chain.durableLsn) {
      const ahead = { ...next };
      const visitor: Visitor = {
        verifyFromLsn: Number.POSITIVE_INFINITY,
        wasDurable: () => Promise.resolve(true),
        onRecord: () => undefined,
      };
      await this.#walk.follow({ segmentNumber, offset: end }, ahead, () => visitor);
      chain.durableLsn = Math.max(chain.durableLsn, ahead.durableLsn);
    }
    return next.nextLsn <= chain.durableLsn;
  }

  /** Throws LOG_CORRUPT if anything says that records behind the end had been durable. */
  async #refuseDamage(logEnd: LogEnd, leftovers: readonly number[]): Promise<void> {
    const { segmentNumber, end, tornReason } = logEnd;
    const { nextLsn, durableLsn } = this.#chain;
    let claimed = durableLsn;
    const suspects = tornReason === undefined && leftovers.length === 0 ? [] : [segmentNumber];
    for (const number of [...suspects, ...leftovers]) {
      const from = number === segmentNumber ? end : 0;
      const behind = await withSegment(this.#options, number, (reader) =>
        reader.durableBehind(from),
      );
      claimed = Math.max(claimed, behind);
    }
    if (claimed <= nextLsn) return;
    throw brokenChain(logEnd, nextLsn, claimed);
  }
}
