// SPDX-License-Identifier: Apache-2.0
//
// The log without the rest of Varve: tells what is in it, and gives back a volume's content, by reading nothing
// but segments from the first on. This is the reader that the format promises (docs/format): no index, no
// checkpoint, no daemon. It changes nothing on disk and stops at damage with what it has told so far.
//
// Where garbage collection has let segments go with their records, what is left is told, and each hole. What the volumes
// hold then only checkpoints say (pool/salvage.ts).

import type { Directory, Zstd } from "../host/ports.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { BATCH_FLAG, type BatchHeader } from "./batch.ts";
import { readBranchPoints } from "./branch-points.ts";
import { brokenChain, ChainWalk } from "./chain-walk.ts";
import type { KnownSegments, LogFiles } from "./known-segments.ts";
import { isLetGo, readLogBegin } from "./log-begin.ts";
import { homeOf } from "./moved-frame.ts";
import { PlainState } from "./plain-state.ts";
import { RECORD_KIND, RECORD_NAME, type RecordCursor } from "./record.ts";
import { type RecoveryOptions, recoverLog } from "./recovery.ts";
import { formatReference } from "./reference.ts";
import { LOG_BEGIN, type ReplayStart } from "./replay-start.ts";
import { giveContent } from "./volume-content.ts";

/** Enough for reading; the budget of a pool is not needed. */
export const READER_MEMORY_BYTES: number = 24 << 20;

export interface LogSource {
  readonly log: Directory;
  readonly poolId: Uint8Array;
}

export type DumpLine =
  | {
      /** Garbage collection let the segments go that stood here: the log goes on with this one. */
      readonly type: "gap";
      readonly segment: number;
      readonly lsn: number;
    }
  | {
      readonly type: "batch";
      readonly segment: number;
      readonly offset: number;
      readonly incarnation: number;
      readonly firstLsn: number;
      readonly records: number;
      readonly frameBytes: number;
      readonly durableLsn: number;
      readonly timeMicros: number;
      readonly isMarker: boolean;
    }
  | {
      readonly type: "record";
      readonly lsn: number;
      readonly timeMicros: number;
      readonly kind: string;
      readonly branch?: number;
      readonly lba?: number;
      readonly blocks?: number;
      readonly references?: readonly string[];
      /** relocated: where the frame is now; its blocks' homes are the references. */
      readonly place?: string;
      readonly storedBytes?: number;
      readonly body?: Readonly<Record<string, unknown>>;
    };

/** Tells every batch and record that is there, from the beginning of the log. `after` is awaited after each batch. */
export async function dumpLog(
  source: LogSource,
  onLine: (line: DumpLine) => void,
  after?: () => Promise<void> | undefined,
): Promise<void> {
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  const files: LogFiles = { memory, directory: source.log, poolId: source.poolId };
  const teller: LogTeller = {
    onBatch: (segment, offset, header) => onLine(batchLine(segment, offset, header)),
    onRecord: (cursor) => onLine(lineOf(memory, cursor)),
    ...(after === undefined ? {} : { afterBatch: after }),
  };
  const { known, stretches, highestLetGo } = await readLogBegin(files);
  let start = LOG_BEGIN;
  for (const stretch of stretches) {
    if (stretch.missing === 0) continue;
    // A hole that nobody made is damage: whoever reads on to it says so.
    if (!isLetGo(stretch, highestLetGo)) break;
    const { segmentNumber: end } = stretch.start;
    if (known.numbers.includes(start.segmentNumber))
      await tellStretch(files, { known, start, end }, teller);
    start = stretch.start;
    onLine({ type: "gap", segment: start.segmentNumber, lsn: start.nextLsn });
  }
  await recoverLog({ ...files, ...teller, start, isReadOnly: true });
}

type LogTeller = Pick<RecoveryOptions, "onRecord" | "afterBatch"> &
  Required<Pick<RecoveryOptions, "onBatch">>;

/** Tells what stands before the hole in front of segment `end`. Throws LOG_CORRUPT when it doesn't reach so far. */
async function tellStretch(
  files: LogFiles,
  { known, start, end }: { known: KnownSegments; start: ReplayStart; end: number },
  teller: LogTeller,
): Promise<void> {
  const { nextLsn, chain, recordedMicros } = start;
  const { onRecord, onBatch, afterBatch } = teller;
  const walk = new ChainWalk(files, known, { isFooterEnough: true });
  const state = { nextLsn, chain, recordedMicros, durableLsn: known.durableLsn };
  const logEnd = await walk.follow(start, state, (segment) => ({
    verifyFromLsn: Number.POSITIVE_INFINITY,
    wasDurable: () => Promise.resolve(true),
    onRecord,
    onBatch: (offset, header) => onBatch(segment, offset, header),
    afterBatch,
  }));
  const last = known.numbers.findLast((number) => number < end);
  if (logEnd.segmentNumber !== last) throw brokenChain(logEnd, state.nextLsn, known.durableLsn);
}

function batchLine(segment: number, offset: number, header: BatchHeader): DumpLine {
  const { incarnation, firstLsn, recordCount, frameBytes, durableLsn } = header;
  return {
    type: "batch",
    segment,
    offset,
    incarnation,
    firstLsn,
    records: recordCount,
    frameBytes,
    durableLsn,
    timeMicros: header.recordedMicros,
    isMarker: (header.flags & BATCH_FLAG.MARKER) !== 0,
  };
}

function lineOf(memory: BlockMemory, cursor: RecordCursor): DumpLine {
  const kind = RECORD_NAME[cursor.kind] ?? `kind-${cursor.kind}`;
  const base = { type: "record" as const, lsn: cursor.lsn, timeMicros: cursor.timeMicros, kind };
  switch (cursor.kind) {
    case RECORD_KIND.WROTE: {
      const references: string[] = [];
      for (let block = 0; block < cursor.blockCount; block++) {
        const at = cursor.referencesOffset + block * 8;
        references.push(
          formatReference(memory.view.getUint32(at, true), memory.view.getUint32(at + 4, true)),
        );
      }
      return {
        ...base,
        branch: cursor.branch,
        lba: cursor.lba,
        blocks: cursor.blockCount,
        references,
      };
    }
    case RECORD_KIND.ZEROED:
    case RECORD_KIND.TRIMMED:
      return { ...base, branch: cursor.branch, lba: cursor.lba, blocks: cursor.blockCount };
    case RECORD_KIND.FLUSHED:
      return { ...base, branch: cursor.branch };
    case RECORD_KIND.RELOCATED: {
      const { slotCount: blocks, storedBytes } = cursor;
      const place = `${cursor.placeSegment}:${cursor.placeOffset8 * 8}`;
      return { ...base, blocks, references: homesOf(memory, cursor), place, storedBytes };
    }
    default:
      return cursor.json === undefined ? base : { ...base, body: cursor.json };
  }
}

/** Where the blocks of a relocated record were born, by slot. */
function homesOf(memory: BlockMemory, cursor: RecordCursor): string[] {
  return Array.from({ length: cursor.slotCount }, (_, slot) => {
    const { segment, offset8 } = homeOf(memory, cursor, slot);
    return `${segment}:${offset8 * 8}`;
  });
}

export interface CatOptions extends LogSource {
  readonly zstd: Zstd;
  readonly volume: string;
  /** Content in ascending order; what is never told is zeros. The bytes are valid during the call. */
  readonly onContent: (bytes: Uint8Array, offset: number) => Promise<void>;
}

/** Gives back a volume's newest content from the log alone; returns its size. Throws VOLUME_NOT_FOUND, FRAME_CORRUPT. */
export async function catVolume(options: CatOptions): Promise<number> {
  const { log, poolId, zstd, onContent } = options;
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  const state = new PlainState();
  const reading = { memory, directory: log, poolId, start: LOG_BEGIN };
  state.expectBranches(await readBranchPoints(reading), LOG_BEGIN.nextLsn);
  await recoverLog({
    ...reading,
    isReadOnly: true,
    onRecord: (cursor) => state.apply(memory, cursor),
  });
  const volume = state.volumeNamed(options.volume);
  const map = state.mapOf(volume);
  await giveContent({ memory, log, zstd, volume, map, moves: state.moves, onContent });
  return volume.sizeBytes;
}
