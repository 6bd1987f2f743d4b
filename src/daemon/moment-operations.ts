// SPDX-License-Identifier: Apache-2.0
//
// The operations of the control door that have to do with moments: finding them and naming them. Translations between
// the contract's JSON and the pool, which checks everything that needs to know the past.

import type {
  MomentJson,
  Operations,
  RetentionJson,
  SnapshotJson,
  VolumeJson,
} from "../api/types.ts";
import { parseMoment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import type { Retention, SnapshotSummary } from "../pool/types.ts";
import type { ServedMoments } from "./served-pool.ts";

export interface MomentOperationsOptions {
  readonly pool: ServedMoments;
  /** URIs of an export. */
  readonly urisOf: (exportName: string) => VolumeJson["uris"];
}

type MomentOperationName =
  | "resolveMoment"
  | "listSnapshots"
  | "takeSnapshot"
  | "setSnapshot"
  | "renameSnapshot"
  | "removeSnapshot";

export function createMomentOperations({
  pool,
  urisOf,
}: MomentOperationsOptions): Pick<Operations, MomentOperationName> {
  const toSnapshot = (summary: SnapshotSummary): SnapshotJson => {
    const { volume, volumeId, name, lsn, timeMicros, sizeBytes, expiresMicros } = summary;
    return {
      volume,
      volumeId,
      name,
      lsn,
      at: formatTime(timeMicros),
      sizeBytes,
      ...(expiresMicros === undefined ? {} : { expiresAt: formatTime(expiresMicros) }),
      isProtected: summary.isProtected,
      description: summary.description,
      uris: urisOf(`${volume}@${name}`),
    };
  };
  return {
    resolveMoment: async ({ volume, moment }) => {
      const found = await pool.resolve(volume, parseMoment(moment));
      return {
        volume: found.volume,
        volumeId: found.volumeId,
        stableName: found.stableName,
        lsn: found.lsn,
        branch: found.branch,
        at: formatTime(found.timeMicros),
        sizeBytes: found.sizeBytes,
        isRelative: found.isRelative,
        uris: urisOf(`${found.volume}@lsn:${found.lsn}`),
      } satisfies MomentJson;
    },
    listSnapshots: async ({ volume }) => ({ snapshots: pool.snapshots(volume).map(toSnapshot) }),
    takeSnapshot: async ({ targets, at, keepMs, isProtected, description }) => {
      const taken = await pool.snapshot(targets, {
        isProtected,
        description,
        keepMicros: microsOf(keepMs),
        at: at === undefined ? undefined : parseMoment(at),
      });
      return { snapshots: taken.map(toSnapshot) };
    },
    setSnapshot: async ({ volume, snapshot: name, keepMs, isProtected, description }) => {
      const keepMicros = keepMs === null ? null : microsOf(keepMs);
      const change = { keepMicros, isProtected, description };
      return toSnapshot(await pool.setSnapshot({ volume, name }, change));
    },
    renameSnapshot: async ({ volume, snapshot: name, to }) =>
      toSnapshot(await pool.renameSnapshot({ volume, name }, to)),
    removeSnapshot: async ({ volume, snapshot: name }) =>
      toSnapshot(await pool.removeSnapshot({ volume, name })),
  };
}

function microsOf(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms * 1000;
}

export function toRetentionJson(retention: Retention): RetentionJson {
  const { everyWriteMicros, hourlyMicros, dailyMicros, weeklyMicros, monthlyMicros } = retention;
  return {
    everyWriteMs: spanMs(everyWriteMicros),
    hourlyMs: spanMs(hourlyMicros),
    dailyMs: spanMs(dailyMicros),
    weeklyMs: spanMs(weeklyMicros),
    monthlyMs: spanMs(monthlyMicros),
  };
}

/** The retention with what is to be changed of it. */
export function changedRetention(before: Retention, change: Partial<RetentionJson>): Retention {
  const { everyWriteMs, hourlyMs, dailyMs, weeklyMs, monthlyMs } = {
    ...toRetentionJson(before),
    ...change,
  };
  return {
    everyWriteMicros: spanMicros(everyWriteMs),
    hourlyMicros: spanMicros(hourlyMs),
    dailyMicros: spanMicros(dailyMs),
    weeklyMicros: spanMicros(weeklyMs),
    monthlyMicros: spanMicros(monthlyMs),
  };
}

/** null: for ever. */
function spanMs(micros: number | null): number | null {
  return micros === null ? null : Math.ceil(micros / 1000);
}

function spanMicros(ms: number | null): number | null {
  return ms === null ? null : ms * 1000;
}
