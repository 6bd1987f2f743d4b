// SPDX-License-Identifier: Apache-2.0
//
// What another retention would let go of, for whoever asks: one question at a time, as counting visits all that is
// promised.

import type {
  PlaceJson,
  RetentionPreviewJson,
  RetentionPreviewStatusJson,
} from "../api/retention-preview.ts";
import type { ErrorJson, Operations, OperationTypes } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import type { PreviewedVolume, Retention, RetentionPreview, VolumeSummary } from "../pool/types.ts";
import { toProgressJson } from "./collections.ts";
import { changedRetention, toRetentionJson } from "./moment-operations.ts";
import { NumberedRuns } from "./numbered-runs.ts";
import type { ServedPool } from "./served-pool.ts";

export interface RetentionPreviewsOptions {
  readonly pool: Pick<ServedPool, "policy" | "previewRetention" | "gcProgress">;
  /** Throws VOLUME_NOT_FOUND. */
  readonly find: (volume: string) => VolumeSummary;
}

type Asked = OperationTypes["startRetentionPreview"]["input"];

export function createRetentionOperations(
  options: RetentionPreviewsOptions,
): Pick<Operations, "startRetentionPreview" | "getRetentionPreview"> {
  const { pool } = options;
  const runs: NumberedRuns<string, RetentionPreviewJson> = new NumberedRuns();
  const status = (): RetentionPreviewStatusJson => {
    const { number, asked, report, problem } = runs;
    const { gcProgress } = pool;
    return {
      run: number,
      isRunning: asked !== undefined,
      ...(asked === undefined || gcProgress === undefined
        ? {}
        : { progress: toProgressJson(gcProgress) }),
      ...(report === undefined ? {} : { report }),
      ...(problem === undefined ? {} : { problem: problem.toJSON() as unknown as ErrorJson }),
    };
  };
  return {
    startRetentionPreview: async ({ volume, retention }) => {
      const { now, wished } = retentionsOf(options, { volume, retention });
      const question = JSON.stringify([volume, wished]);
      // Who asks the same takes part.
      if (runs.asked === question) return status();
      if (runs.asked !== undefined)
        throw new StorageError("BUSY", "retention: not looked at: another one is being looked at", {
          hint: "try again when it has been answered",
        });
      runs.begin(question, async () => {
        const preview = await pool.previewRetention(volume, wished);
        return {
          ...(volume === undefined ? {} : { volume }),
          retentionNow: toRetentionJson(now ?? pool.policy.retention),
          retention: toRetentionJson(wished ?? pool.policy.retention),
          ...toPreviewJson(preview),
        };
      });
      return status();
    },
    getRetentionPreview: async () => status(),
  };
}

/** The volume's own, or the pool's; undefined: the volume has the pool's. */
function retentionsOf(
  { pool, find }: RetentionPreviewsOptions,
  { volume, retention: change }: Asked,
): { now: Retention | undefined; wished: Retention | undefined } {
  const now = volume === undefined ? pool.policy.retention : find(volume).retention;
  if (change === undefined) return { now, wished: now };
  if (change === null && volume === undefined)
    throw new StorageError("USAGE", "retention: refused: the pool inherits from nobody", {
      hint: "name a volume",
    });
  const wished =
    change === null ? undefined : changedRetention(now ?? pool.policy.retention, change);
  return { now, wished };
}

function toPreviewJson({
  timeMicros,
  volumes,
  goneMoments,
  ...preview
}: RetentionPreview): Omit<RetentionPreviewJson, "retention" | "retentionNow"> {
  return {
    at: formatTime(timeMicros),
    ...preview,
    volumes: volumes.map(toVolumeJson),
    goneMoments: goneMoments.map(toPlace),
  };
}

function toVolumeJson(previewed: PreviewedVolume): RetentionPreviewJson["volumes"][number] {
  const { volume: name, volumeId: id, everyWriteFrom, everyWriteFromThen, ...rest } = previewed;
  return {
    name,
    id,
    ...rest,
    ...(everyWriteFrom === undefined ? {} : { everyWriteFrom: toPlace(everyWriteFrom) }),
    ...(everyWriteFromThen === undefined
      ? {}
      : { everyWriteFromThen: toPlace(everyWriteFromThen) }),
  };
}

function toPlace({ lsn, timeMicros }: { lsn: number; timeMicros: number }): PlaceJson {
  return { lsn, at: formatTime(timeMicros) };
}
