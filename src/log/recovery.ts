// SPDX-License-Identifier: Apache-2.0
//
// Recovery: from a known position (a checkpoint's, or the beginning) along the unbroken chain of batches
// to the last that is whole, telling every record on the way. What lies behind a break is thrown away only
// if nothing says that it had been durable; otherwise the log is damaged, and recovery refuses and touches
// nothing. (docs/format/ordering.md, "Recovery")
//
//   1. Read the headers of all later segments: they say where each earlier one ended, and what was durable.
//   2. Walk: by footers where all of a segment is known to be durable, else batch by batch; frames are
//      verified beyond the durable LSN, because there a batch may be torn.
//   3. At the end: evidence of durability behind it (later headers, batches further on) = corruption.
//   4. Make what was accepted durable (recovered-tail.ts), drop leftovers, and only then let the writer begin a new segment:
//      its header ends the old one for good.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BatchHeader } from "./batch.ts";
import type { LogPosition } from "./log-writer.ts";
import type { RecordCursor } from "./record.ts";
import { RecoveredTail } from "./recovered-tail.ts";
import type { ReplayStart } from "./replay-start.ts";
import {
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
  segmentNumberOf,
} from "./segment.ts";
import { type ChainState, SegmentReader } from "./segment-reader.ts";

export interface RecoveryResult {
  readonly position: LogPosition;
  /** LSNs below this were known to be durable before this recovery. */
  readonly durableLsn: number;
  readonly replayedRecords: number;
  /** Why the walk ended where it did; undefined for a clean end. */
  readonly tornReason: string | undefined;
  readonly leftovers: readonly string[];
  /** Segments that were walked, in order. */
  readonly visited: readonly number[];
}

export interface RecoveryOptions {
  readonly memory: BlockMemory;
  readonly directory: Directory;
  readonly poolId: Uint8Array;
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
  /** Verify the frames of every batch, not only of those that may be torn. */
  readonly isEveryFrameVerified?: boolean;
  /** Called after each batch; what it returns is awaited. */
  readonly afterBatch?: () => Promise<void> | undefined;
  /** Read only: change nothing on disk (check, dump). */
  readonly isReadOnly?: boolean;
}

interface Known {
  readonly number: number;
  readonly header: SegmentHeader | string;
}

export async function recoverLog(options: RecoveryOptions): Promise<RecoveryResult> {
  const known = await readHeaders(options);
  let knownDurable = options.start.nextLsn;
  let incarnation = options.start.incarnation;
  for (const { header } of known) {
    if (typeof header === "string") continue;
    knownDurable = Math.max(knownDurable, header.durableLsn);
    incarnation = Math.max(incarnation, header.incarnation);
  }
  const chain: ChainState = {
    nextLsn: options.start.nextLsn,
    chain: options.start.chain,
    recordedMicros: options.start.recordedMicros,
    durableLsn: knownDurable,
  };
  let segmentNumber = options.start.segmentNumber;
  let from = options.start.offset;
  let tornReason: string | undefined;
  const visited: number[] = [];
  const tail = new RecoveredTail(options.directory);
  let end = from;
  for (;;) {
    visited.push(segmentNumber);
    const walked = await walkSegment(options, {
      number: segmentNumber,
      from,
      chain,
      known,
      knownDurable,
      tail,
    });
    end = walked.end;
    const next = successor(known, segmentNumber, end, chain);
    if (next === undefined) {
      tornReason = walked.reason;
      break;
    }
    segmentNumber = next;
    from = SEGMENT_HEADER_BYTES;
  }
  const leftovers = known.filter(({ number }) => number > segmentNumber);
  await refuseDamage(options, { segmentNumber, end, chain, leftovers, tornReason });
  if (options.isReadOnly !== true) {
    // What was accepted becomes durable before anything is built on it; then leftovers go.
    await tail.settle(chain);
    for (const { number } of leftovers) await options.directory.remove(segmentName(number));
    if (leftovers.length > 0) await options.directory.sync();
  }
  const highest = known.reduce(
    (highestNumber, { number }) => Math.max(highestNumber, number),
    segmentNumber,
  );
  return {
    position: {
      segmentNumber: highest + 1,
      previousNumber: segmentNumber,
      previousEnd: end,
      chain: chain.chain,
      nextLsn: chain.nextLsn,
      incarnation: incarnation + 1,
      recordedMicros: chain.recordedMicros,
    },
    durableLsn: chain.durableLsn,
    replayedRecords: chain.nextLsn - options.start.nextLsn,
    tornReason,
    leftovers: leftovers.map(({ number }) => segmentName(number)),
    visited,
  };
}

async function readHeaders(options: RecoveryOptions): Promise<Known[]> {
  const numbers = (await options.directory.list())
    .map(segmentNumberOf)
    .filter((number) => number >= options.start.segmentNumber);
  numbers.sort((a, b) => a - b);
  const known: Known[] = [];
  for (const number of numbers) {
    const reader = await SegmentReader.open(
      options.memory,
      options.directory,
      number,
      options.poolId,
    );
    try {
      known.push({ number, header: await reader.header() });
    } finally {
      await reader.close();
    }
  }
  const first = known[0];
  if (first?.number !== options.start.segmentNumber) {
    throw corrupt(`segment ${segmentName(options.start.segmentNumber)} is missing`, {
      segment: options.start.segmentNumber,
    });
  }
  if (typeof first.header === "string")
    throw corrupt(`segment ${segmentName(first.number)}: ${first.header}`, {
      segment: first.number,
    });
  return known;
}

interface SegmentWalk {
  readonly number: number;
  readonly from: number;
  readonly chain: ChainState;
  readonly known: readonly Known[];
  readonly knownDurable: number;
  readonly tail: RecoveredTail;
}

async function walkSegment(
  options: RecoveryOptions,
  walk: SegmentWalk,
): Promise<{ end: number; reason: string | undefined }> {
  const { number, from, chain, known, knownDurable, tail } = walk;
  const header = known.find((entry) => entry.number === number)?.header;
  const reader = await SegmentReader.open(
    options.memory,
    options.directory,
    number,
    options.poolId,
  );
  try {
    const incarnation = typeof header === "object" ? header.incarnation : -1;
    if (reader.sizeBytes < from)
      throw corrupt(
        `segment ${segmentName(number)}: cut off at ${reader.sizeBytes}, below the checkpoint at ${from}`,
        { segment: number, offset: reader.sizeBytes },
      );
    const successors = known.filter(
      (entry) =>
        typeof entry.header === "object" &&
        entry.number > number &&
        entry.header.previousNumber === number,
    );
    if (typeof header === "object" && from === SEGMENT_HEADER_BYTES) tail.noteSegment(header);
    let foreign: string | undefined;
    const base = {
      from,
      chain,
      incarnation,
      verifyFromLsn: options.isEveryFrameVerified === true ? 0 : knownDurable,
      endsAt: (offset: number, checksum: bigint): boolean =>
        successorAt(successors, number, offset, checksum) !== undefined,
      onRecord: options.onRecord,
      afterBatch: (end: number, state: ChainState): Promise<void> | undefined => {
        const pause = options.afterBatch?.();
        if (pause !== undefined) return pause;
        return options.onStanding?.(
          {
            segmentNumber: number,
            offset: end,
            nextLsn: state.nextLsn,
            chain: state.chain,
            incarnation,
            recordedMicros: state.recordedMicros,
          },
          () => tail.settle(state),
        );
      },
      onBatch: (offset: number, batch: BatchHeader): void => {
        tail.noteBatch(number, offset, batch);
        options.onBatch?.(number, offset, batch);
        if (batch.incarnation !== incarnation)
          foreign ??= `batch at ${offset}: incarnation ${batch.incarnation} in a segment of ${incarnation}`;
      },
    };
    // A footer may be durable when the batches are not: it is believed only below what was known durable.
    const trailer = await reader.trailer();
    const isDurable = (entry: Known): boolean =>
      typeof trailer === "object" &&
      typeof entry.header === "object" &&
      entry.header.firstLsn <= knownDurable &&
      entry.header.previousEnd === trailer.end;
    const isFooterEnough = options.isEveryFrameVerified !== true && successors.some(isDurable);
    if (typeof trailer === "object" && isFooterEnough) {
      const before = { ...chain };
      const walked = await reader.walkFooter(trailer, base);
      if (typeof walked === "object") return walked;
      if (chain.nextLsn !== before.nextLsn)
        throw corrupt(`segment ${segmentName(number)}: ${walked}`, { segment: number });
    }
    const walked = await reader.walk(base);
    if (foreign !== undefined)
      throw corrupt(`segment ${segmentName(number)}: ${foreign}`, { segment: number });
    return walked;
  } finally {
    await reader.close();
  }
}

/** The segment whose header says that it continues `number` at exactly this point of the chain. */
function successorAt(
  known: readonly Known[],
  number: number,
  end: number,
  checksum: bigint,
): SegmentHeader | undefined {
  for (const { header } of known) {
    if (
      typeof header === "object" &&
      header.number > number &&
      header.previousNumber === number &&
      header.previousEnd === end &&
      header.chain === checksum
    )
      return header;
  }
  return undefined;
}

function successor(
  known: readonly Known[],
  number: number,
  end: number,
  chain: ChainState,
): number | undefined {
  const header = successorAt(known, number, end, chain.chain);
  return header !== undefined && header.firstLsn === chain.nextLsn ? header.number : undefined;
}

interface LogEnd {
  readonly segmentNumber: number;
  readonly end: number;
  readonly chain: ChainState;
  readonly leftovers: readonly Known[];
  readonly tornReason: string | undefined;
}

/** Throws LOG_CORRUPT if anything says that records behind the end had been durable. */
async function refuseDamage(options: RecoveryOptions, logEnd: LogEnd): Promise<void> {
  const { chain, segmentNumber, end, leftovers, tornReason } = logEnd;
  let claimed = chain.durableLsn;
  const numbers = leftovers.map(({ number }) => number);
  if (tornReason !== undefined || numbers.length > 0) {
    for (const number of [segmentNumber, ...numbers]) {
      const reader = await SegmentReader.open(
        options.memory,
        options.directory,
        number,
        options.poolId,
      );
      try {
        claimed = Math.max(claimed, await reader.durableBehind(number === segmentNumber ? end : 0));
      } finally {
        await reader.close();
      }
    }
  }
  if (claimed <= chain.nextLsn) return;
  throw corrupt(
    `segment ${segmentName(segmentNumber)}: broken at offset ${end} (${tornReason ?? "the next segment is missing"}), LSN ${chain.nextLsn}, but everything below LSN ${claimed} had been durable`,
    { segment: segmentNumber, offset: end, lsn: chain.nextLsn, durableLsn: claimed },
  );
}

function corrupt(message: string, data: Readonly<Record<string, unknown>>): StorageError {
  return new StorageError("LOG_CORRUPT", `log: ${message}`, { data });
}
