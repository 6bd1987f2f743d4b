// SPDX-License-Identifier: Apache-2.0
//
// Follows the chain of batches from one segment to the next: by the footer where all of a segment is known to be
// durable and payloads don't matter, or where there is nothing else; else batch by batch. What is done with the batches
// is the caller's.

import type { StorageError } from "../base/errors.ts";
import {
  type KnownSegments,
  type LogFiles,
  segmentCorrupt,
  successorAt,
  withSegment,
} from "./known-segments.ts";
import { SEGMENT_HEADER_BYTES } from "./segment.ts";
import type { ChainState, SegmentReader, WalkOptions, WalkResult } from "./segment-reader.ts";

/** What a walk does besides following the chain. */
export type Visitor = Omit<WalkOptions, "from" | "chain" | "incarnation" | "endsAt">;

/** Where a walk ended, and why if not at the end of a file. */
export interface LogEnd {
  readonly segmentNumber: number;
  readonly end: number;
  readonly tornReason: string | undefined;
}

export class ChainWalk {
  readonly #files: LogFiles;
  readonly #known: KnownSegments;
  readonly #isFooterEnough: boolean;
  /** Segments that were walked by their footers. */
  readonly byFooter: Set<number> = new Set();

  constructor(files: LogFiles, known: KnownSegments, options: { isFooterEnough: boolean }) {
    this.#files = files;
    this.#known = known;
    this.#isFooterEnough = options.isFooterEnough;
  }

  /**
   * Follows the chain from `place`, through as many segments as it goes, or until it has told the record before `endLsn`.
   */
  async follow(
    place: { readonly segmentNumber: number; readonly offset: number },
    chain: ChainState,
    visitorOf: (segmentNumber: number, from: number) => Visitor,
    endLsn: number = Number.POSITIVE_INFINITY,
  ): Promise<LogEnd> {
    let segmentNumber = place.segmentNumber;
    let from = place.offset;
    for (;;) {
      const visitor = visitorOf(segmentNumber, from);
      const { end, reason } = await this.#walkSegment({
        segmentNumber,
        from,
        chain,
        visitor,
        endLsn,
      });
      const next = successorAt(this.#known.successorsOf(segmentNumber), end, chain.chain);
      if (next === undefined || next.firstLsn !== chain.nextLsn || chain.nextLsn >= endLsn)
        return { segmentNumber, end, tornReason: reason };
      segmentNumber = next.number;
      from = SEGMENT_HEADER_BYTES;
    }
  }

  #walkSegment(place: {
    segmentNumber: number;
    from: number;
    chain: ChainState;
    visitor: Visitor;
    endLsn: number;
  }): Promise<WalkResult> {
    const { segmentNumber, from, chain, visitor, endLsn } = place;
    const successors = this.#known.successorsOf(segmentNumber);
    const incarnation = this.#known.header(segmentNumber)?.incarnation ?? -1;
    return withSegment(this.#files, segmentNumber, async (reader) => {
      let foreign: string | undefined;
      const walk: WalkOptions = {
        ...visitor,
        from,
        chain,
        incarnation,
        endsAt: (offset) =>
          chain.nextLsn >= endLsn || successorAt(successors, offset, chain.chain) !== undefined,
        onBatch: (offset, batch) => {
          visitor.onBatch?.(offset, batch);
          if (batch.incarnation !== incarnation)
            foreign ??= `batch at ${offset}: incarnation ${batch.incarnation} in a segment of ${incarnation}`;
        },
      };
      const walked = (await this.#walkFooter(reader, walk)) ?? (await reader.walk(walk));
      if (foreign !== undefined) throw segmentCorrupt(segmentNumber, foreign);
      return walked;
    });
  }

  /** Undefined where there is no footer that can be believed: it may be durable when the batches are not. */
  async #walkFooter(reader: SegmentReader, walk: WalkOptions): Promise<WalkResult | undefined> {
    if (reader.isRecords) return await this.#walkRecords(reader, walk);
    if (!this.#isFooterEnough) return undefined;
    const trailer = await reader.trailer();
    if (typeof trailer === "string") return undefined;
    const isDurable = this.#known
      .successorsOf(reader.number)
      .some(
        ({ firstLsn, previousEnd }) =>
          firstLsn <= walk.chain.durableLsn && previousEnd === trailer.end,
      );
    if (!isDurable) return undefined;
    const before = walk.chain.nextLsn;
    const walked = await reader.walkFooter(trailer, walk);
    if (typeof walked === "object") {
      this.byFooter.add(reader.number);
      return walked;
    }
    if (walk.chain.nextLsn !== before) throw segmentCorrupt(reader.number, walked);
    return undefined;
  }

  /** There is nothing but the footer. */
  async #walkRecords(reader: SegmentReader, walk: WalkOptions): Promise<WalkResult> {
    const trailer = await reader.trailer();
    const walked = typeof trailer === "string" ? trailer : await reader.walkFooter(trailer, walk);
    if (typeof walked === "string") throw segmentCorrupt(reader.number, `its records: ${walked}`);
    // Its frames were moved behind it, and that was durable: a log that ends here was cut off.
    walk.chain.durableLsn = Math.max(walk.chain.durableLsn, walk.chain.nextLsn + 1);
    this.byFooter.add(reader.number);
    return walked;
  }
}

/** LOG_CORRUPT: the chain ends at `logEnd`, before `nextLsn`, though records up to `durableLsn` had been durable. */
export function brokenChain(logEnd: LogEnd, nextLsn: number, durableLsn: number): StorageError {
  const { segmentNumber, end, tornReason } = logEnd;
  return segmentCorrupt(
    segmentNumber,
    `broken at offset ${end} (${tornReason ?? "the next segment is missing"}), LSN ${nextLsn}, but everything below LSN ${durableLsn} had been durable`,
    { offset: end, lsn: nextLsn, durableLsn },
  );
}
