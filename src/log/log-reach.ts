// SPDX-License-Identifier: Apache-2.0
//
// Reads the log as far as its chain goes, for those who want what can be had: damage is a part of the answer, with
// the place where the chain broke, and everything before it has been told. Changes nothing on disk.

import { StorageError } from "../base/errors.ts";
import { BATCH_FLAG, type BatchHeader } from "./batch.ts";
import type { LogFiles } from "./known-segments.ts";
import type { RecordCursor } from "./record.ts";
import { recoverLog } from "./recovery.ts";
import type { ReplayStart } from "./replay-start.ts";
import type { DamagedFrame } from "./segment-reader.ts";

/** How far a log can be read. */
export interface LogReach {
  /** LSN behind the last record that was told. */
  readonly nextLsn: number;
  /** Where the last batch ended. */
  readonly segmentNumber: number;
  readonly offset: number;
  /** Recorded time of the last record, µs; 0 when there is none. */
  readonly timeMicros: number;
  /** The log ends with a marker: it was at rest then, and all of it durable. Its time, µs. */
  readonly markedMicros: number | undefined;
  /** Why the log ends there, where a crash may have torn it. */
  readonly tornReason: string | undefined;
  /** Why it ends there, where it must have gone on. */
  readonly damage: StorageError | undefined;
}

export interface LogReading extends LogFiles {
  readonly start: ReplayStart;
  readonly isEveryFrameVerified?: boolean;
  readonly onRecord: (cursor: RecordCursor) => void;
  readonly onBatch?: (segmentNumber: number, offset: number, header: BatchHeader) => void;
  readonly onDamagedFrame?: (frame: DamagedFrame) => void;
}

/** Throws what isn't damage: FORMAT_UNSUPPORTED, and what the callbacks throw. */
export async function readLogReach(reading: LogReading): Promise<LogReach> {
  const { start, onRecord, onBatch, ...rest } = reading;
  const { segmentNumber, offset, nextLsn, recordedMicros: timeMicros } = start;
  let place = { segmentNumber, offset, nextLsn };
  let newestMicros = timeMicros;
  let markedMicros: number | undefined;
  let tornReason: string | undefined;
  let damage: StorageError | undefined;
  try {
    const result = await recoverLog({
      ...rest,
      start,
      isReadOnly: true,
      onRecord: (cursor) => {
        newestMicros = cursor.timeMicros;
        onRecord(cursor);
      },
      onBatch: (segment, at, header) => {
        const isMarker = (header.flags & BATCH_FLAG.MARKER) !== 0;
        markedMicros = isMarker ? header.recordedMicros : undefined;
        onBatch?.(segment, at, header);
      },
      onStanding: (at) => {
        place = { segmentNumber: at.segmentNumber, offset: at.offset, nextLsn: at.nextLsn };
        return undefined;
      },
    });
    tornReason = result.tornReason;
    if (tornReason !== undefined || result.leftovers.length > 0) markedMicros = undefined;
  } catch (error) {
    if (!isDamage(error)) throw error;
    damage = error;
    markedMicros = undefined;
  }
  return { ...place, timeMicros: newestMicros, markedMicros, tornReason, damage };
}

/** Whether an error says that something on the disk can't be read any more. */
export function isDamage(error: unknown): error is StorageError {
  return error instanceof StorageError && error.kind === "corrupt";
}
