// SPDX-License-Identifier: Apache-2.0
//
// The log without the rest of Varve: tells what is in it, and gives back a volume's content, by reading nothing
// but segments from the first on. This is the reader that the format promises (docs/format): no index, no
// checkpoint, no daemon. It changes nothing on disk and stops at damage with what it has told so far.
//
// Where garbage collection has let segments go with their records, what is left is told, and each hole. What the volumes
// hold then only checkpoints say (pool/salvage.ts).

import { StorageError } from "../base/errors.ts";
import type { Directory, Zstd } from "../host/ports.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { BATCH_FLAG, type BatchHeader } from "./batch.ts";
import { type BranchPoint, readBranchPoints } from "./branch-points.ts";
import { brokenChain, ChainWalk } from "./chain-walk.ts";
import type { KnownSegments, LogFiles } from "./known-segments.ts";
import { isLetGo, readLogBegin } from "./log-begin.ts";
import { homeOf } from "./moved-frame.ts";
import { PLAIN_PAGE_BLOCKS, PlainMap } from "./plain-map.ts";
import { PlainMoves } from "./plain-moves.ts";
import { RECORD_KIND, RECORD_NAME, type RecordCursor } from "./record.ts";
import { type RecoveryOptions, recoverLog } from "./recovery.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "./reference.ts";
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

export interface PlainVolume {
  readonly id: number;
  name: string;
  sizeBytes: number;
  branch: number;
  isRemoved: boolean;
}

/** Everything that the log says about content: a plain, second reading of it, without the index's code. */
export class PlainState {
  readonly volumes: Map<number, PlainVolume> = new Map();
  readonly branches: Map<number, PlainMap> = new Map();
  /** Where frames are that garbage collection moved. */
  readonly moves: PlainMoves = new PlainMoves();
  /** Segments of which nothing is needed any more, by what was read: their frames are elsewhere, or nobody's. */
  readonly dropped: Set<number> = new Set();
  /** Where branches begin that records will tell of, by LSN; and what they begin with, of those that were passed. */
  #points: readonly BranchPoint[] = [];
  #passedCount = 0;
  readonly #begun: Map<number, PlainMap> = new Map();
  /** Only these pages' references are wanted, and where frames are is not; undefined: everything is. */
  readonly #isWanted: ((branch: number, page: number) => boolean) | undefined;

  /** Blocks written in pages that aren't wanted are left out, and moves of frames. */
  constructor(isWanted?: (branch: number, page: number) => boolean) {
    this.#isWanted = isWanted;
  }

  /** Branches that records from `nextLsn` on will tell of. What began before can't be known by reading on. */
  expectBranches(points: readonly BranchPoint[], nextLsn: number): void {
    this.#points = points.filter(({ parentLsn }) => parentLsn >= nextLsn - 1);
  }

  apply(memory: BlockMemory, cursor: RecordCursor): void {
    if (this.#passedCount < this.#points.length) this.#passPoints(cursor.lsn);
    const map = this.branches.get(cursor.branch);
    switch (cursor.kind) {
      case RECORD_KIND.WROTE:
        for (let block = 0; block < cursor.blockCount; block++) {
          const page = Math.floor((cursor.lba + block) / PLAIN_PAGE_BLOCKS);
          if (this.#isWanted?.(cursor.branch, page) === false) continue;
          const at = cursor.referencesOffset + block * 8;
          map?.set(
            cursor.lba + block,
            memory.view.getUint32(at, true),
            memory.view.getUint32(at + 4, true),
          );
        }
        return;
      case RECORD_KIND.ZEROED:
        map?.fill(cursor.lba, cursor.blockCount, LOW_ZERO);
        return;
      case RECORD_KIND.TRIMMED:
        map?.fill(cursor.lba, cursor.blockCount, LOW_HOLE);
        return;
      case RECORD_KIND.RELOCATED:
        if (this.#isWanted === undefined) this.moves.apply(memory, cursor);
        return;
      default:
        if (cursor.json !== undefined) this.#applyJson(cursor.kind, cursor.json);
    }
  }

  /** Copies the parents of branches that begin before the record. */
  #passPoints(lsn: number): void {
    for (; this.#passedCount < this.#points.length; this.#passedCount++) {
      const { branch, parent, parentLsn } = this.#points[this.#passedCount] as BranchPoint;
      if (parentLsn >= lsn) return;
      // A branch of a branch whose record comes only now isn't there yet, nor is it known where that began.
      const map = this.branches.get(parent);
      if (map !== undefined) this.#begun.set(branch, map.copy());
    }
  }

  /** The volume of that name that isn't removed. Throws VOLUME_NOT_FOUND. */
  volumeNamed(name: string): PlainVolume {
    const volume = [...this.volumes.values()].find(
      (candidate) => candidate.name === name && !candidate.isRemoved,
    );
    if (volume === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found in the log`);
    return volume;
  }

  /** Throws LOG_CORRUPT where it began in a past that can't be read any more. */
  mapOf({ name, branch }: PlainVolume): PlainMap {
    const map = this.branches.get(branch);
    if (map !== undefined) return map;
    throw new StorageError(
      "LOG_CORRUPT",
      `volume "${name}": not given back: it began with a moment that the log doesn't reach any more`,
      { data: { volume: name } },
    );
  }

  #applyJson(kind: number, body: Readonly<Record<string, unknown>>): void {
    if (kind === RECORD_KIND.SEGMENT_DROPPED) this.dropped.add(body.segment as number);
    const id = body.id as number;
    if (kind === RECORD_KIND.VOLUME_MADE) {
      this.volumes.set(id, {
        id,
        name: body.name as string,
        sizeBytes: body.sizeBytes as number,
        branch: body.branch as number,
        isRemoved: false,
      });
      this.branches.set(body.branch as number, new PlainMap());
    }
    if (kind === RECORD_KIND.BRANCHED) this.#branched(body);
    const volume = this.volumes.get(id);
    if (volume === undefined) return;
    if (kind === RECORD_KIND.VOLUME_REMOVED) volume.isRemoved = true;
    if (kind === RECORD_KIND.VOLUME_RESTORED) volume.isRemoved = false;
    const mayRename = kind === RECORD_KIND.VOLUME_SET || kind === RECORD_KIND.VOLUME_RESTORED;
    if (mayRename && typeof body.name === "string") volume.name = body.name;
    if (kind === RECORD_KIND.VOLUME_RESIZED) {
      const sizeBytes = body.sizeBytes as number;
      const lba = Math.ceil(sizeBytes / BLOCK_BYTES);
      const oldEnd = Math.ceil(volume.sizeBytes / BLOCK_BYTES);
      if (lba < oldEnd) this.branches.get(volume.branch)?.fill(lba, oldEnd - lba, LOW_HOLE);
      volume.sizeBytes = sizeBytes;
    }
  }

  #branched({ id, branch, sizeBytes, name }: Readonly<Record<string, unknown>>): void {
    const begun = this.#begun.get(branch as number);
    if (begun !== undefined) this.branches.set(branch as number, begun);
    this.#begun.delete(branch as number);
    const isClone = typeof name === "string";
    const before = this.volumes.get(id as number);
    if (!isClone && before === undefined) return;
    this.volumes.set(id as number, {
      id: id as number,
      name: isClone ? name : (before?.name ?? ""),
      sizeBytes: sizeBytes as number,
      branch: branch as number,
      isRemoved: false,
    });
  }
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
