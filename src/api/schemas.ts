// SPDX-License-Identifier: Apache-2.0
//
// The JSON Schemas of the control contract (OpenAPI 3.1, so JSON Schema 2020-12), one per type in
// types.ts. The HTTP door validates requests with them and the OpenAPI description quotes them. Objects
// are closed: a misspelled field is an error, not a silent nothing.

import { ERRORS } from "../base/errors.ts";
import { NAME_LENGTH_MAX, NAME_PATTERN } from "../base/names.ts";
import { DIFF_KINDS } from "./diff.ts";

export type Schema = Readonly<Record<string, unknown>>;

/** Volume sizes: 1 MiB to 64 TiB, a multiple of 512. */
export const VOLUME_BYTES_MIN: number = 1024 ** 2;
export const VOLUME_BYTES_MAX: number = 64 * 1024 ** 4;
export const VOLUME_BYTES_STEP = 512;

/** 0: no limit. */
export const POOL_BYTES_MIN: number = 256 * 1024 ** 2;
/** A hundred years. */
export const RETENTION_MS_MAX: number = 36_525 * 86_400_000;

export const DESCRIPTION_LENGTH_MAX = 200;
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
const ACK_MODES = ["written", "memory", "durable"] as const;
const POOL_STATES = ["open", "full", "stopped", "closed"] as const;
const KINDS = ["invalid", "not_found", "conflict", "full", "unavailable", "corrupt", "internal"];

const string: Schema = { type: "string" };
const boolean: Schema = { type: "boolean" };
const count: Schema = { type: "integer", minimum: 0 };
const bytes: Schema = { type: "integer", minimum: 0, description: "bytes" };
const storedBytes: Schema = {
  ...bytes,
  description: "bytes that the pool takes on the disk: log, index and reserve",
};
/** As of the last census. */
function counted(what: string): Schema {
  return { ...bytes, description: `bytes by the census: ${what}` };
}
const milliseconds: Schema = { type: "number", minimum: 0, description: "milliseconds" };
const time: Schema = { type: "string", format: "date-time" };

export const name: Schema = {
  type: "string",
  pattern: NAME_PATTERN,
  maxLength: NAME_LENGTH_MAX,
  description: "without '..', and not now, lsn or flush",
};

export const volumeBytes: Schema = {
  type: "integer",
  minimum: VOLUME_BYTES_MIN,
  maximum: VOLUME_BYTES_MAX,
  multipleOf: VOLUME_BYTES_STEP,
  description: "bytes: 1 MiB to 64 TiB, a multiple of 512",
};

export const poolBytes: Schema = {
  type: "integer",
  minimum: 0,
  description: "bytes, 256 MiB or more; 0: as much as the file system has",
};

/** A closed object; names that end in "?" may be absent. */
export function object(properties: Readonly<Record<string, Schema>>): Schema {
  const names = Object.keys(properties);
  return {
    type: "object",
    additionalProperties: false,
    properties: Object.fromEntries(
      names.map((key) => [key.replace(/\?$/, ""), properties[key] as Schema]),
    ),
    required: names.filter((key) => !key.endsWith("?")),
  };
}

export function reference(schema: keyof typeof SCHEMAS): Schema {
  return { $ref: `#/components/schemas/${schema}` };
}

function list(items: Schema): Schema {
  return { type: "array", items };
}

/** Milliseconds; null: for ever. */
function span(what: string): Schema {
  const limits = { minimum: 0, maximum: RETENTION_MS_MAX };
  const description = `how far back ${what} can be reached, in ms; 0: not at all, null: for ever`;
  return { type: ["integer", "null"], ...limits, description };
}

const SPANS = {
  everyWriteMs: span("every write"),
  hourlyMs: span("one moment of each hour"),
  dailyMs: span("one moment of each day"),
  weeklyMs: span("one moment of each week"),
  monthlyMs: span("one moment of each month"),
};

const retention: Schema = object(SPANS);

const historyBytes: Schema = {
  ...bytes,
  description: "bytes that only the past needs: of promised, named and read moments",
};
const historyAt: Schema = { ...time, description: "when historyBytes was counted" };

/** What isn't given stays. */
export const retentionChange: Schema = {
  ...object(Object.fromEntries(Object.entries(SPANS).map(([key, one]) => [`${key}?`, one]))),
  minProperties: 1,
};

export const WHEN_FULL = ["shorten-history", "stop-writes"] as const;
export const whenFull: Schema = { type: "string", enum: WHEN_FULL };
export const historyFloor: Schema = {
  type: "integer",
  minimum: 0,
  maximum: RETENTION_MS_MAX,
  description: "ms of history that stay whatever happens",
};
/** How long a snapshot stays. */
export const keep: Schema = { type: "integer", minimum: 1, maximum: RETENTION_MS_MAX };
/** As people write it: "-10m", "#123". */
export const moment: Schema = { type: "string", minLength: 1, maxLength: 128 };
/** VOLUME@MOMENT, or a volume, which means now. */
export const volumeMoment: Schema = { type: "string", minLength: 1, maxLength: 200 };

/** On the machine of the daemon. */
export const filePath: Schema = {
  type: "string",
  pattern: "^/",
  maxLength: 1024,
  description: "an absolute path",
};
export const EVERY_MS_MIN = 60_000;
export const EVERY_MS_MAX: number = 366 * 86_400_000;
export const everyMs: Schema = {
  type: "integer",
  minimum: EVERY_MS_MIN,
  maximum: EVERY_MS_MAX,
  description: "milliseconds from one backup to the next: 1 minute to 1 year",
};
export const byteRate: Schema = { type: "integer", minimum: 1024, description: "bytes a second" };
export const scheduleVolumes: Schema = {
  type: "array",
  items: name,
  minItems: 1,
  maxItems: 64,
  uniqueItems: true,
};
const keepCount: Schema = { type: "integer", minimum: 0, maximum: 1_000_000 };
export const scheduleKeep: Schema = {
  ...object({
    "last?": keepCount,
    "withinMs?": { type: "integer", minimum: 1, maximum: RETENTION_MS_MAX },
    "hourly?": keepCount,
    "daily?": keepCount,
    "weekly?": keepCount,
    "monthly?": keepCount,
    "yearly?": keepCount,
  }),
  description: "which points a prune after each backup keeps; empty: all",
};

/** In a query. */
export const stepMs: Schema = {
  type: "string",
  pattern: "^[1-9][0-9]{0,11}$",
  description: "milliseconds of an interval, in whole minutes; without, so that some sixty fit",
};

/** Bytes in a query. */
export const byteCount: Schema = {
  type: "string",
  pattern: "^[0-9]{1,15}$",
  description: "bytes",
};
export const changeLimit: Schema = {
  type: "string",
  pattern: "^([1-9][0-9]{0,3}|10000)$",
  description: "at most 10000; without, 100",
};

const activity = {
  readCount: count,
  readBytes: bytes,
  writeCount: count,
  writeBytes: bytes,
  trimCount: count,
  zeroCount: count,
  flushCount: count,
};

const volume = {
  name,
  id: count,
  sizeBytes: bytes,
  isReadOnly: boolean,
  description: { ...string, maxLength: DESCRIPTION_LENGTH_MAX },
  isDeduplicated: boolean,
  isCompressed: boolean,
  "isTemporary?": {
    ...boolean,
    description: "true: a clone that is removed when its last client has left",
  },
  "retention?": { ...retention, description: "its own; missing: the pool's" },
  createdAt: time,
  "removedAt?": time,
  clientCount: count,
  uris: list(string),
};

const client = object({
  id: count,
  address: { ...string, description: '"127.0.0.1:5123", or "unix:1000" with the peer\'s uid' },
  "unixUid?": count,
  "certificateName?": string,
  "pskIdentity?": string,
  export: { ...string, description: "as the client named it" },
  volume: string,
  "view?": {
    ...object({ name: string, at: time }),
    description:
      "of a client that reads a past moment: the name that always means it, and its time",
  },
  connectedAt: time,
  requestCount: count,
  readBytes: bytes,
  writeBytes: bytes,
});

const snapshot = object({
  volume: { ...name, description: "its name now" },
  volumeId: count,
  name,
  lsn: count,
  at: time,
  sizeBytes: { ...bytes, description: "the volume's size then" },
  "expiresAt?": time,
  isProtected: boolean,
  description: string,
  uris: list(string),
});

const scheduleRun = object({
  dueAt: time,
  startedAt: time,
  durationMs: milliseconds,
  isDone: { ...boolean, description: "there is a new point" },
  attempt: { ...count, description: "how many there were for this time" },
  "point?": { ...string, description: "name of the new point" },
  readBytes: bytes,
  sentBytes: { ...bytes, description: "bytes that the target didn't hold" },
  storedBytes: { ...bytes, description: "what they take there" },
  "problem?": {
    ...object({ code: string, message: string }),
    description: "why it failed; of one that is done, why its prune failed",
  },
});

const schedule = object({
  name,
  state: {
    type: "string",
    enum: ["waiting", "queued", "running", "paused", "suspended"],
    description: "suspended: a volume of it is removed",
  },
  volumes: list(object({ id: count, "name?": name, isRemoved: boolean })),
  target: filePath,
  everyMs,
  keep: scheduleKeep,
  "keyFile?": filePath,
  "passphraseFile?": filePath,
  "limitBytesPerSecond?": byteRate,
  isPaused: boolean,
  createdAt: time,
  "nextAt?": { ...time, description: "missing: none comes by itself, or it runs now" },
  "progress?": object({ doneBytes: bytes, totalBytes: bytes }),
  isOverdue: { ...boolean, description: "there should have been a point an interval ago" },
  "lastRun?": scheduleRun,
  "lastDone?": { ...scheduleRun, description: "the last that made a point" },
});

const place = { lsn: count, at: time };

const history = object({
  volume: name,
  from: time,
  to: time,
  stepMs: milliseconds,
  lines: list(
    object({
      from: time,
      to: time,
      firstLsn: count,
      lastLsn: count,
      writeCount: count,
      writtenBytes: bytes,
      distinctBytes: { ...bytes, description: "bytes of different blocks, by estimate" },
      rewrittenBytes: { ...bytes, description: "bytes where data is known to have been" },
      freshBytes: { ...bytes, description: "bytes where none is known to have been" },
      newBlockCount: { ...count, description: "blocks whose content was new to the pool" },
      hardBlockCount: { ...count, description: "of them, those that don't shrink" },
      storedBytes: { ...bytes, description: "what the new ones take" },
      zeroBytes: bytes,
      duplicateBytes: bytes,
      trimCount: count,
      trimmedBytes: bytes,
      zeroedCount: count,
      zeroedBytes: bytes,
      flushCount: count,
    }),
  ),
  names: list(object({ name, ...place })),
  "everyWriteFrom?": {
    ...object(place),
    description: "from this moment on each can be opened; absent: only single ones",
  },
  kept: { ...list(object(place)), description: "single moments before it, without names" },
  holes: list(object({ from: time, to: time, fromLsn: count, toLsn: count, why: string })),
  branches: list(
    object({
      ...place,
      reason: { type: "string", enum: ["created", "clone", "rewind", "undo"] },
      "parentLsn?": count,
    }),
  ),
  changes: list(
    object({
      ...place,
      change: { type: "string", enum: ["removed", "restored", "resized", "renamed", "cloned"] },
      "fromBytes?": bytes,
      "toBytes?": bytes,
      "fromName?": name,
      "toName?": name,
      "parentLsn?": count,
    }),
  ),
  clockSteps: list(object({ ...place, stepMs: { type: "number" } })),
  flagged: list(object({ since: time, lastLsnBefore: count, lastAtBefore: time, noticedAt: time })),
});

const retentionPreview = object({
  "volume?": name,
  at: time,
  retentionNow: retention,
  retention,
  historyBytes,
  freedBytes: { ...bytes, description: "bytes of history that nothing would need any more" },
  isEstimated: { ...boolean, description: "counted in a part of the blocks, and scaled" },
  volumes: list(
    object({
      name,
      id: count,
      isRemoved: boolean,
      isForgotten: { ...boolean, description: "removed, and then gone for good" },
      "everyWriteFrom?": {
        ...object(place),
        description: "from this moment on each can be opened; absent: only single ones",
      },
      "everyWriteFromThen?": { ...object(place), description: "likewise, with that retention" },
      keptCount: { ...count, description: "hourly, daily and other single moments before it" },
      keptCountThen: count,
      goneCount: count,
    }),
  ),
  goneMoments: {
    ...list(object(place)),
    description: "single moments that would go, oldest first; the newest 1000 of them",
  },
  goneMomentCount: count,
  snapshotCount: { ...count, description: "named moments that stay all the same" },
  viewCount: { ...count, description: "moments that stay while they are open" },
  cloneCount: { ...count, description: "live volumes that began from these" },
  isBeyondPast: {
    ...boolean,
    description: "more is asked for than there is: what has been let go doesn't come back",
  },
});

const changes = object({
  volume: name,
  changes: list(object({ ...place, offsetBytes: bytes, lengthBytes: bytes, isBranch: boolean })),
  isMore: { ...boolean, description: "there are older ones" },
  knownFromLsn: { ...count, description: "of what came before nothing is known" },
});

/** In a body. */
export const markedExtents: Schema = {
  ...list(object({ offsetBytes: count, lengthBytes: { type: "integer", minimum: 1 } })),
  minItems: 1,
  maxItems: 256,
};

const diffMoment = object({
  volume: { ...name, description: "its name then" },
  stableName: { ...string, description: 'what always means it: "db@#123"' },
  lsn: count,
  at: time,
  sizeBytes: bytes,
});

const error = object({
  code: { type: "string", enum: Object.keys(ERRORS) },
  kind: { type: "string", enum: KINDS },
  message: string,
  hint: string,
  data: { type: "object", additionalProperties: true },
});

const progress = {
  phase: { ...string, description: "in words" },
  doneBytes: bytes,
  totalBytes: bytes,
};

const reasons: Schema = { ...list(string), description: "what is wrong; empty: nothing" };
const poolState: Schema = { type: "string", enum: POOL_STATES };

export const SCHEMAS: Readonly<Record<SchemaName, Schema>> = {
  Error: error,
  ErrorBody: object({ error: { $ref: "#/components/schemas/Error" } }),
  Pool: object({
    directory: string,
    id: { ...string, description: "made with the pool; 32 hexadecimal digits" },
    state: poolState,
    "problem?": { $ref: "#/components/schemas/Error" },
    version: string,
    pid: count,
    startedAt: time,
    ack: { type: "string", enum: ACK_MODES },
    logLevel: { type: "string", enum: LOG_LEVELS },
    listeners: list(string),
    volumeCount: count,
    clientCount: count,
    storedBytes,
    capacityBytes: bytes,
    "historyBytes?": historyBytes,
    "historyAt?": historyAt,
    poolSizeBytes: poolBytes,
    "startedPoolSizeBytes?": {
      ...poolBytes,
      description:
        "the limit that the daemon was started with; it holds again after the next start",
    },
    retention,
    whenFull,
    historyFloorMs: historyFloor,
    memoryUsedBytes: bytes,
    memoryLimitBytes: bytes,
    headLsn: count,
    durableLsn: count,
    incarnation: count,
    recoveryMs: milliseconds,
    warnings: reasons,
  }),
  Volume: object(volume),
  VolumeList: object({ volumes: list({ $ref: "#/components/schemas/Volume" }) }),
  VolumeDetails: object({
    ...volume,
    activity: object(activity),
    clients: list({ $ref: "#/components/schemas/Client" }),
    schedules: list({ $ref: "#/components/schemas/Schedule" }),
  }),
  Client: client,
  ClientList: object({ clients: list({ $ref: "#/components/schemas/Client" }) }),
  Statistics: object({
    pool: object({
      uptimeMs: milliseconds,
      state: poolState,
      storedBytes,
      capacityBytes: bytes,
      liveBytes: counted("what live volumes refer to"),
      "historyBytes?": historyBytes,
      "historyAt?": historyAt,
      segmentCount: count,
      headLsn: count,
      durableLsn: count,
      incarnation: count,
      batchCount: count,
      batchBytes: bytes,
      frameBytes: bytes,
      indexBytes: bytes,
      datasyncCount: count,
      flushCount: count,
      checkpointCount: count,
      cacheHitCount: count,
      cacheMissCount: count,
      memoryUsedBytes: bytes,
      memoryLimitBytes: bytes,
      recoveryMs: milliseconds,
      damagedBlockCount: { ...count, description: "blocks that aren't what was written" },
      damagedPageCount: { ...count, description: "pages of the index that couldn't be read" },
      failedRequestCount: { ...count, description: "requests that ended with an I/O error" },
      refusedRequestCount: { ...count, description: "requests refused because the pool was full" },
      clientCount: count,
      viewCount: { ...count, description: "past moments that clients have open" },
      residentBytes: bytes,
      cpuMs: milliseconds,
    }),
    dedup: object({
      savedBytes: counted("mapped blocks that share the frame of another one"),
      indexMemoryBytes: bytes,
      indexEntries: count,
      indexEntriesMax: count,
      isIndexSampled: boolean,
      indexEvictionCount: count,
      restoredSegmentCount: { ...count, description: "segments the index was filled from again" },
      unrestoredSegmentCount: {
        ...count,
        description: "segments still to come; what is in them is found less often until then",
      },
      hitCount: { ...count, description: "blocks written that were stored already" },
      prefetchedHitCount: { ...count, description: "of them, found by reading lists ahead" },
      missCount: count,
      staleCount: { ...count, description: "what the index promised and the frame didn't hold" },
    }),
    compression: object({
      savedBytes: counted("what the frames of mapped blocks take less than the blocks"),
      compressedFrameCount: count,
      incompressibleFrameCount: count,
    }),
    zero: object({
      savedBytes: counted("blocks that were written as zeros"),
      blockCount: { ...count, description: "blocks written that were all zero" },
    }),
    gc: object({
      collectionCount: count,
      freedSegmentCount: count,
      freedBytes: bytes,
      movedBytes: bytes,
    }),
    scrub: object({ completedCount: count, checkedBytes: bytes, problemCount: count }),
    "census?": object({ at: time, ageMs: milliseconds, isSampled: boolean }),
    volumes: list(
      object({
        name,
        id: count,
        sizeBytes: bytes,
        clientCount: count,
        mappedBytes: counted("blocks that hold something other than zeros"),
        zeroBytes: counted("blocks that were written as zeros"),
        uniqueBytes: counted("what no other live volume shares, as it is on the disk"),
        dedupSavedBytes: counted("of mappedBytes, blocks that share the frame of another block"),
        compressionSavedBytes: counted("of mappedBytes, what compression saves of the others"),
        zeroBlockCount: count,
        duplicateBlockCount: count,
        frameCount: count,
        compressedFrameCount: count,
        frameBytes: bytes,
        isSuspicious: {
          ...boolean,
          description: "what is written to it looks as if files were being encrypted",
        },
        ...activity,
      }),
    ),
    schedules: list(
      object({
        name,
        target: filePath,
        isRunning: boolean,
        isOverdue: boolean,
        runCount: count,
        failureCount: count,
        "lastDone?": {
          ...object({
            endedAt: time,
            durationMs: milliseconds,
            sentBytes: bytes,
            storedBytes: bytes,
          }),
          description: "the last that made a point",
        },
      }),
    ),
  }),
  GcReport: object({
    isDryRun: boolean,
    startedAt: time,
    durationMs: milliseconds,
    segmentsExamined: count,
    segmentsFreed: count,
    segmentsCompacted: count,
    bytesBefore: { ...bytes, description: "bytes stored before" },
    bytesAfter: { ...bytes, description: "bytes stored after" },
    bytesFreed: {
      ...bytes,
      description: "bytes of segments that are gone; of a dry run: so many less would be stored",
    },
    bytesMoved: { ...bytes, description: "of them, bytes that are stored elsewhere now" },
    garbageBytes: {
      ...bytes,
      description: "bytes that nothing refers to and no retention promises",
    },
    liveBytes: bytes,
    holders: list(object({ what: string, bytes })),
    "coldGainBytes?": {
      ...bytes,
      description: "bytes, of a dry run: of bytesFreed, by compressing cold data; by samples",
    },
  }),
  GcStatus: object({
    run: { ...count, description: "number of the newest collection that was asked for; 0: none" },
    isRunning: boolean,
    "progress?": object(progress),
    "report?": { $ref: "#/components/schemas/GcReport" },
    "problem?": { $ref: "#/components/schemas/Error" },
  }),
  ScrubReport: object({
    startedAt: time,
    durationMs: milliseconds,
    isComplete: { ...boolean, description: "false: it was stopped before it had read everything" },
    segmentsChecked: count,
    framesChecked: count,
    bytesChecked: bytes,
    problemCount: count,
    problems: {
      ...list(
        object({
          code: string,
          message: string,
          data: { type: "object", additionalProperties: true },
        }),
      ),
      description: "the first of them",
    },
  }),
  ScrubStatus: object({
    isRunning: boolean,
    "progress?": object({ ...progress, problemCount: count }),
    "report?": { $ref: "#/components/schemas/ScrubReport" },
  }),
  Moment: object({
    volume: { ...name, description: "its name then" },
    volumeId: count,
    stableName: { ...string, description: 'what always means it: "db@#123"' },
    lsn: count,
    branch: { ...count, description: "the line of history that it is a moment of" },
    at: time,
    sizeBytes: { ...bytes, description: "the volume's size then" },
    isRelative: { ...boolean, description: "what was asked for means another one each time" },
    uris: list(string),
  }),
  History: history,
  Changes: changes,
  DiffHead: object({
    from: diffMoment,
    to: diffMoment,
    offsetBytes: { ...bytes, description: "where what was compared begins" },
    lengthBytes: bytes,
  }),
  DiffExtents: object({
    kind: {
      type: "string",
      enum: DIFF_KINDS,
      description: "what the later moment has there: data, written zeros, or nothing",
    },
    extents: { ...list(count), description: "offset and length of each, in bytes" },
  }),
  DiffEnd: object({
    extentCount: count,
    dataBytes: bytes,
    zeroBytes: bytes,
    holeBytes: bytes,
    untoldBytes: {
      ...bytes,
      description: "of them, what damage keeps from telling whether it changed",
    },
  }),
  Schedule: schedule,
  ScheduleList: object({ schedules: list({ $ref: "#/components/schemas/Schedule" }) }),
  Snapshot: snapshot,
  SnapshotList: object({ snapshots: list({ $ref: "#/components/schemas/Snapshot" }) }),
  RetentionPreview: retentionPreview,
  RetentionPreviewStatus: object({
    run: { ...count, description: "number of the newest preview that was asked for; 0: none" },
    isRunning: boolean,
    "progress?": object(progress),
    "report?": { $ref: "#/components/schemas/RetentionPreview" },
    "problem?": { $ref: "#/components/schemas/Error" },
  }),
  Health: object({
    status: { type: "string", enum: ["ok", "degraded", "failing"] },
    state: poolState,
    reasons,
    uptimeMs: milliseconds,
  }),
  Event: object({
    at: time,
    level: { type: "string", enum: ["info", "warn", "error"] },
    event: string,
    fields: { type: "object", additionalProperties: true },
  }),
  Lsn: object({ durableLsn: count }),
  Done: object({ done: { const: true } }),
};

export type SchemaName =
  | "Error"
  | "ErrorBody"
  | "Pool"
  | "Volume"
  | "VolumeList"
  | "VolumeDetails"
  | "Client"
  | "ClientList"
  | "Statistics"
  | "GcReport"
  | "GcStatus"
  | "ScrubReport"
  | "ScrubStatus"
  | "Moment"
  | "History"
  | "Changes"
  | "DiffHead"
  | "DiffExtents"
  | "DiffEnd"
  | "Schedule"
  | "ScheduleList"
  | "Snapshot"
  | "SnapshotList"
  | "RetentionPreview"
  | "RetentionPreviewStatus"
  | "Health"
  | "Event"
  | "Lsn"
  | "Done";
