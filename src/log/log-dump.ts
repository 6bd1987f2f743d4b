// SPDX-License-Identifier: Apache-2.0
//
// The log without the rest of Varve: tells what is in it, and gives back a volume's content, by reading nothing
// but segments from the first on. This is the reader that the format promises (docs/format): no index, no
// checkpoint, no daemon. It changes nothing on disk and stops at damage with what it has told so far.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { PLAIN_PAGE_BLOCKS, PlainMap } from "./plain-map.ts";
import {
  RECORD_KIND,
  RECORD_NAME,
  RELOCATED_HOME_AT,
  RELOCATED_SLOT_BYTES,
  type RecordCursor,
} from "./record.ts";
import { recoverLog } from "./recovery.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "./reference.ts";
import { LOG_BEGIN } from "./replay-start.ts";
import { giveContent } from "./volume-content.ts";

/** Enough for reading; the budget of a pool is not needed. */
export const READER_MEMORY_BYTES: number = 24 << 20;

export interface LogSource {
  readonly log: Directory;
  readonly poolId: Uint8Array;
}

export type DumpLine =
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

/** Tells every batch and record from the beginning of the log. `after` is awaited after each batch. */
export async function dumpLog(
  source: LogSource,
  onLine: (line: DumpLine) => void,
  after?: () => Promise<void> | undefined,
): Promise<void> {
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  await recoverLog({
    memory,
    directory: source.log,
    poolId: source.poolId,
    start: LOG_BEGIN,
    isReadOnly: true,
    onBatch: (segment, offset, header) => {
      const { incarnation, firstLsn, frameBytes, durableLsn, recordedMicros } = header;
      onLine({
        type: "batch",
        segment,
        offset,
        incarnation,
        firstLsn,
        records: header.recordCount,
        frameBytes,
        durableLsn,
        timeMicros: recordedMicros,
        isMarker: (header.flags & 1) !== 0,
      });
    },
    onRecord: (cursor) => onLine(lineOf(memory, cursor)),
    ...(after === undefined ? {} : { afterBatch: after }),
  });
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
function homesOf({ view }: BlockMemory, cursor: RecordCursor): string[] {
  return Array.from({ length: cursor.slotCount }, (_, slot) => {
    const at = cursor.referencesOffset + slot * RELOCATED_SLOT_BYTES + RELOCATED_HOME_AT;
    return `${view.getUint32(at, true)}:${view.getUint32(at + 4, true) * 8}`;
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
  readonly #isWanted: (branch: number, page: number) => boolean;

  /** Blocks written in pages that aren't wanted are left out. */
  constructor(isWanted: (branch: number, page: number) => boolean = () => true) {
    this.#isWanted = isWanted;
  }

  apply(memory: BlockMemory, cursor: RecordCursor): void {
    const map = this.branches.get(cursor.branch);
    switch (cursor.kind) {
      case RECORD_KIND.WROTE:
        for (let block = 0; block < cursor.blockCount; block++) {
          const page = Math.floor((cursor.lba + block) / PLAIN_PAGE_BLOCKS);
          if (!this.#isWanted(cursor.branch, page)) continue;
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
      default:
        if (cursor.json !== undefined) this.#applyJson(cursor.kind, cursor.json);
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

  mapOf(volume: PlainVolume): PlainMap {
    return this.branches.get(volume.branch) ?? new PlainMap();
  }

  #applyJson(kind: number, body: Readonly<Record<string, unknown>>): void {
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
    const volume = this.volumes.get(id);
    if (volume === undefined) return;
    if (kind === RECORD_KIND.VOLUME_REMOVED) volume.isRemoved = true;
    if (kind === RECORD_KIND.VOLUME_SET && typeof body.name === "string") volume.name = body.name;
    if (kind === RECORD_KIND.VOLUME_RESIZED) {
      const sizeBytes = body.sizeBytes as number;
      const lba = Math.ceil(sizeBytes / BLOCK_BYTES);
      const oldEnd = Math.ceil(volume.sizeBytes / BLOCK_BYTES);
      if (lba < oldEnd) this.branches.get(volume.branch)?.fill(lba, oldEnd - lba, LOW_HOLE);
      volume.sizeBytes = sizeBytes;
    }
  }
}

export interface CatOptions extends LogSource {
  readonly volume: string;
  /** Content in ascending order; what is never told is zeros. The bytes are valid during the call. */
  readonly onContent: (bytes: Uint8Array, offset: number) => Promise<void>;
}

/** Gives back a volume's newest content from the log alone; returns its size. Throws VOLUME_NOT_FOUND, FRAME_CORRUPT. */
export async function catVolume(options: CatOptions): Promise<number> {
  const { log, poolId, onContent } = options;
  const memory = new BlockMemory(shapeOf(READER_MEMORY_BYTES));
  const state = new PlainState();
  await recoverLog({
    memory,
    directory: log,
    poolId,
    start: LOG_BEGIN,
    isReadOnly: true,
    onRecord: (cursor) => state.apply(memory, cursor),
  });
  const volume = state.volumeNamed(options.volume);
  const map = state.mapOf(volume);
  await giveContent({ memory, log, volume, map, onContent });
  return volume.sizeBytes;
}
