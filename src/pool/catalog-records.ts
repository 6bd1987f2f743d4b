// SPDX-License-Identifier: Apache-2.0
//
// The records that change the catalog, as they are made. Read from a log they are plain fields, and the catalog checks
// each (catalog.ts). docs/format/record.md is the specification.

import type { RECORD_KIND } from "../log/record.ts";
import type { ExtentToMark } from "./catalog-marks.ts";
import type { MomentName } from "./catalog-moments.ts";
import type { ScheduleFields, ScheduleRun } from "./catalog-schedules.ts";
import type { PoolPolicy, Retention, VolumeSettings } from "./types.ts";

/** Records of a volume carry its id. */
export type VolumeRecord =
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_MADE;
      readonly body: {
        readonly id: number;
        readonly name: string;
        readonly sizeBytes: number;
        readonly branch: number;
      };
    }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_RESIZED;
      readonly body: {
        readonly id: number;
        readonly sizeBytes: number;
        /** Of a shrink that cleared the end of a block: the moment before that. */
        readonly priorLsn?: number;
      };
    }
  | { readonly kind: typeof RECORD_KIND.VOLUME_REMOVED; readonly body: { readonly id: number } }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_RESTORED;
      readonly body: { readonly id: number; readonly name: string };
    }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_SET;
      readonly body: { readonly id: number; readonly name?: string } & VolumeSettings;
    }
  | {
      readonly kind: typeof RECORD_KIND.VOLUME_MARKED;
      readonly body: {
        readonly id: number;
        readonly extents: readonly ExtentToMark[];
        /** Marks of records up to this one are forgotten: no moment before them is left. */
        readonly keptLsn?: number;
      };
    }
  | {
      readonly kind: typeof RECORD_KIND.BRANCHED;
      readonly body: {
        readonly id: number;
        readonly branch: number;
        readonly parent: number;
        readonly parentLsn: number;
        readonly sizeBytes: number;
      } & (
        | { readonly reason: "clone"; readonly name: string; readonly isTemporary?: true }
        | { readonly reason: "rewind" | "undo" }
      );
    };

export type HistoryRecord = {
  readonly kind: typeof RECORD_KIND.BRANCHES_FORGOTTEN;
  readonly body: { readonly branches: readonly number[]; readonly volumes: readonly number[] };
};

export type MomentRecord =
  | {
      readonly kind: typeof RECORD_KIND.MOMENT_NAMED;
      readonly body: {
        readonly lsn: number;
        readonly timeMicros: number;
        readonly moments: readonly MomentName[];
        readonly expiresMicros?: number;
        readonly isProtected?: boolean;
        readonly description?: string;
      };
    }
  | {
      readonly kind: typeof RECORD_KIND.MOMENT_FORGOTTEN;
      readonly body: { readonly moments: readonly MomentName[] };
    }
  | {
      readonly kind: typeof RECORD_KIND.MOMENT_SET;
      readonly body: MomentName & {
        readonly newName?: string;
        readonly expiresMicros?: number | null;
        readonly isProtected?: boolean;
        readonly description?: string;
      };
    };

export type PoolRecord =
  | {
      readonly kind: typeof RECORD_KIND.RETENTION_SET;
      readonly body:
        | Retention
        | ({ readonly volume: number } & (Retention | { readonly isInherited: true }));
    }
  | {
      readonly kind: typeof RECORD_KIND.POOL_SET;
      readonly body: Partial<Omit<PoolPolicy, "retention">>;
    };

/** Records of a schedule carry its id as `schedule`. */
export type ScheduleRecord =
  | {
      readonly kind: typeof RECORD_KIND.SCHEDULE_SET;
      readonly body: { readonly schedule: number } & Omit<ScheduleFields, "id">;
    }
  | {
      readonly kind: typeof RECORD_KIND.SCHEDULE_REMOVED;
      readonly body: { readonly schedule: number };
    }
  | {
      readonly kind: typeof RECORD_KIND.SCHEDULE_RAN;
      readonly body: { readonly schedule: number } & ScheduleRun;
    };

export type CatalogRecord =
  | HistoryRecord
  | VolumeRecord
  | MomentRecord
  | PoolRecord
  | ScheduleRecord;
