// SPDX-License-Identifier: Apache-2.0
//
// What happened to a volume, as the control door tells it: the pool's figures in the contract's JSON. Who asks for no part of
// the past gets the last day.

import type {
  HistoryBranchJson,
  HistoryChangeJson,
  HistoryJson,
  HistoryLineJson,
} from "../api/history.ts";
import type { Operations } from "../api/types.ts";
import { unreachable } from "../base/assert.ts";
import { parsePastMoment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import type { ChangesAsked, HistoryAsked, VolumeChanges } from "../pool/types.ts";
import type { HistoryMark, VolumeHistory } from "../pool/volume-history.ts";
import type { ActivityBucket } from "../volume/activity-bucket.ts";

const BLOCK_BYTES = 4096;
const DAY_MICROS = 86_400_000_000;

/** A pool that knows what happened. */
export interface ServedHistory {
  /** Throws VOLUME_NOT_FOUND, MOMENT_NOT_FOUND, MOMENT_GONE. */
  history(volume: string, asked: HistoryAsked): Promise<VolumeHistory>;
  /** Likewise, and POOL_CORRUPT, DISK_IO. */
  changes(volume: string, asked: ChangesAsked): Promise<VolumeChanges>;
}

export function createHistoryOperations(
  pool: ServedHistory,
): Pick<Operations, "getHistory" | "getChanges"> {
  return {
    getHistory: async ({ volume, from, to, stepMs }) =>
      toHistoryJson(
        await pool.history(volume, {
          from: from === undefined ? { kind: "ago", micros: DAY_MICROS } : parsePastMoment(from),
          to: to === undefined ? { kind: "now" } : parsePastMoment(to),
          stepMicros: stepMs === undefined ? undefined : Number(stepMs) * 1000,
        }),
      ),
    getChanges: async ({ volume, offset, length, from, to, limit = "100" }) => {
      const { changes, ...found } = await pool.changes(volume, {
        offsetBytes: Number(offset),
        lengthBytes: Number(length),
        from: from === undefined ? { kind: "lsn", lsn: 0 } : parsePastMoment(from),
        to: to === undefined ? { kind: "now" } : parsePastMoment(to),
        limit: Number(limit),
      });
      return {
        ...found,
        changes: changes.map(({ lsn, timeMicros, ...change }) => ({
          lsn,
          at: formatTime(timeMicros),
          ...change,
        })),
      };
    },
  };
}

function toHistoryJson(history: VolumeHistory): HistoryJson {
  const { everyWriteFrom, hole } = history;
  const place = ({ lsn, timeMicros }: { readonly lsn: number; readonly timeMicros: number }) => ({
    lsn,
    at: formatTime(timeMicros),
  });
  return {
    volume: history.volume,
    from: formatTime(history.fromMicros),
    to: formatTime(history.toMicros),
    stepMs: history.stepMicros / 1000,
    lines: history.lines.map(toLineJson),
    names: history.names.map((named) => ({ name: named.name, ...place(named) })),
    ...(everyWriteFrom === undefined ? {} : { everyWriteFrom: place(everyWriteFrom) }),
    kept: history.kept.map(place),
    holes:
      hole === undefined
        ? []
        : [
            {
              from: formatTime(hole.from.timeMicros),
              to: formatTime(hole.to.timeMicros),
              fromLsn: hole.from.lsn,
              toLsn: hole.to.lsn,
              why: "retention",
            },
          ],
    branches: history.marks.flatMap(toBranchJson),
    changes: history.marks.flatMap(toChangeJson),
    clockSteps: history.clockSteps.map((step) => ({
      ...place(step),
      stepMs: step.stepMicros / 1000,
    })),
    flagged: history.suspicions.map((suspicion) => ({
      since: formatTime(suspicion.sinceMicros),
      lastLsnBefore: suspicion.lastLsnBefore,
      lastAtBefore: formatTime(suspicion.lastMicrosBefore),
      noticedAt: formatTime(suspicion.noticedMicros),
    })),
  };
}

function toLineJson(line: ActivityBucket): HistoryLineJson {
  return {
    from: formatTime(line.startMicros),
    to: formatTime(line.endMicros),
    firstLsn: line.firstLsn,
    lastLsn: line.lastLsn,
    writeCount: line.writeCount,
    writtenBytes: line.blockCount * BLOCK_BYTES,
    distinctBytes: Math.min(line.blockCount, Math.round(line.blocks.estimate())) * BLOCK_BYTES,
    rewrittenBytes: line.rewrittenCount * BLOCK_BYTES,
    freshBytes: line.freshCount * BLOCK_BYTES,
    newBlockCount: line.frameCount,
    hardBlockCount: line.rawFrameCount,
    storedBytes: line.frameBytes,
    zeroBytes: line.zeroCount * BLOCK_BYTES,
    duplicateBytes: line.duplicateCount * BLOCK_BYTES,
    trimCount: line.trimCount,
    trimmedBytes: line.trimmedBlockCount * BLOCK_BYTES,
    zeroedCount: line.zeroedCount,
    zeroedBytes: line.zeroedBlockCount * BLOCK_BYTES,
    flushCount: line.flushCount,
  };
}

function toBranchJson(mark: HistoryMark): HistoryBranchJson[] {
  const place = { at: formatTime(mark.timeMicros), lsn: mark.lsn };
  switch (mark.kind) {
    case "created":
      return [{ ...place, reason: mark.kind }];
    case "clone":
    case "rewind":
    case "undo":
      return [{ ...place, reason: mark.kind, parentLsn: mark.parentLsn }];
    default:
      return [];
  }
}

function toChangeJson(mark: HistoryMark): HistoryChangeJson[] {
  const place = { at: formatTime(mark.timeMicros), lsn: mark.lsn };
  switch (mark.kind) {
    case "created":
    case "clone":
    case "rewind":
    case "undo":
      return [];
    case "removed":
    case "restored":
      return [{ ...place, change: mark.kind }];
    case "resized":
      return [{ ...place, change: mark.kind, fromBytes: mark.fromBytes, toBytes: mark.toBytes }];
    case "renamed":
      return [{ ...place, change: mark.kind, fromName: mark.from, toName: mark.to }];
    case "cloned":
      return [{ ...place, change: mark.kind, toName: mark.to, parentLsn: mark.parentLsn }];
    default:
      return unreachable(mark);
  }
}
