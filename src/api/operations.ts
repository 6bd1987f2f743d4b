// SPDX-License-Identifier: Apache-2.0
//
// The table of operations: one row says method, path, input, answer and errors. Everything that speaks
// of an operation reads it here: the HTTP door makes its routes, the command line its requests, OpenAPI
// its description. An input is one flat record; the row says which fields travel in the path, in the
// query and in the body. What JSON Schema can't say about an input (reserved names) is in `checkInput`.

import { type ErrorCode, StorageError } from "../base/errors.ts";
import { checkName } from "../base/names.ts";
import { formatSize } from "../base/units.ts";
import {
  byteCount,
  byteRate,
  changeLimit,
  DESCRIPTION_LENGTH_MAX,
  everyMs,
  filePath,
  historyFloor,
  keep,
  LOG_LEVELS,
  markedExtents,
  moment,
  name,
  object,
  POOL_BYTES_MIN,
  poolBytes,
  retentionChange,
  type Schema,
  type SchemaName,
  scheduleKeep,
  scheduleVolumes,
  stepMs,
  VOLUME_BYTES_MAX,
  VOLUME_BYTES_MIN,
  VOLUME_BYTES_STEP,
  volumeBytes,
  volumeMoment,
  whenFull,
} from "./schemas.ts";
import type { OperationName, OperationTypes } from "./types.ts";

export interface OperationRow {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  /** With {volume}, {snapshot} and {schedule} for the parameters. */
  readonly path: string;
  readonly summary: string;
  readonly answer: SchemaName;
  /** HTTP status of success. */
  readonly status: 200 | 201;
  /** Query parameters by name; "?" at the end: may be absent. */
  readonly query?: Readonly<Record<string, Schema>>;
  readonly body?: Readonly<Record<string, Schema>>;
  /** Beyond those any operation may answer (COMMON_ERRORS). */
  readonly errors: readonly ErrorCode[];
}

export const COMMON_ERRORS: readonly ErrorCode[] = [
  "USAGE",
  "ACCESS_DENIED",
  "POOL_STOPPED",
  "BUSY",
  "INTERNAL",
];

const FULL: readonly ErrorCode[] = ["POOL_FULL", "DISK_FULL", "DISK_IO"];

const MISSING: readonly ErrorCode[] = ["VOLUME_NOT_FOUND", "MOMENT_NOT_FOUND", "MOMENT_GONE"];

export const OPERATIONS: { readonly [operation in OperationName]: OperationRow } = {
  getPool: {
    method: "GET",
    path: "/v1/pool",
    summary: "The pool and the daemon that serves it",
    answer: "Pool",
    status: 200,
    errors: [],
  },
  setPool: {
    method: "PATCH",
    path: "/v1/pool",
    summary: "Change what can be changed while the daemon runs",
    answer: "Pool",
    status: 200,
    body: {
      "logLevel?": { type: "string", enum: LOG_LEVELS },
      "poolSizeBytes?": poolBytes,
      "retention?": retentionChange,
      "whenFull?": whenFull,
      "historyFloorMs?": historyFloor,
    },
    errors: ["SIZE_INVALID", "DISK_FULL", "DISK_IO"],
  },
  getStatistics: {
    method: "GET",
    path: "/v1/statistics",
    summary: "All counters, of the pool and of each volume",
    answer: "Statistics",
    status: 200,
    query: { "fresh?": { type: "string", enum: ["true", "false"] } },
    errors: [],
  },
  getGc: {
    method: "GET",
    path: "/v1/gc",
    summary: "The garbage collection that runs, or the report of the last one",
    answer: "GcStatus",
    status: 200,
    errors: [],
  },
  startGc: {
    method: "POST",
    path: "/v1/gc",
    summary: "Begin a garbage collection; ask for its progress until it has ended",
    answer: "GcStatus",
    status: 200,
    body: { "isDryRun?": { type: "boolean" } },
    errors: [],
  },
  getScrub: {
    method: "GET",
    path: "/v1/scrub",
    summary: "The scrub that runs, and the report of the last one",
    answer: "ScrubStatus",
    status: 200,
    errors: [],
  },
  startScrub: {
    method: "POST",
    path: "/v1/scrub",
    summary: "Begin to verify all that is stored; ask for its progress until it has ended",
    answer: "ScrubStatus",
    status: 200,
    errors: [],
  },
  stopScrub: {
    method: "DELETE",
    path: "/v1/scrub",
    summary: "End the scrub that runs; its report says what it found",
    answer: "ScrubStatus",
    status: 200,
    errors: [],
  },
  startRetentionPreview: {
    method: "POST",
    path: "/v1/retention/preview",
    summary: "Begin to find out what a retention would let go of; ask until that has ended",
    answer: "RetentionPreviewStatus",
    status: 200,
    body: { "volume?": name, "retention?": { anyOf: [retentionChange, { type: "null" }] } },
    errors: ["NAME_INVALID", "VOLUME_NOT_FOUND"],
  },
  getRetentionPreview: {
    method: "GET",
    path: "/v1/retention/preview",
    summary: "What the retention would let go of that was asked about last",
    answer: "RetentionPreviewStatus",
    status: 200,
    errors: [],
  },
  getHealth: {
    method: "GET",
    path: "/health",
    summary: "Whether the pool serves; status 503 when it has stopped",
    answer: "Health",
    status: 200,
    errors: [],
  },
  listVolumes: {
    method: "GET",
    path: "/v1/volumes",
    summary: "The volumes, by name; removed ones on request",
    answer: "VolumeList",
    status: 200,
    query: { "removed?": { type: "string", enum: ["true", "false"] } },
    errors: [],
  },
  createVolume: {
    method: "POST",
    path: "/v1/volumes",
    summary: "Create a thin volume",
    answer: "Volume",
    status: 201,
    body: { name, sizeBytes: volumeBytes },
    errors: ["NAME_INVALID", "SIZE_INVALID", "VOLUME_EXISTS", ...FULL],
  },
  getVolume: {
    method: "GET",
    path: "/v1/volumes/{volume}",
    summary: "One volume, with its clients and counters",
    answer: "VolumeDetails",
    status: 200,
    errors: ["VOLUME_NOT_FOUND"],
  },
  setVolume: {
    method: "PATCH",
    path: "/v1/volumes/{volume}",
    summary: "Change the settings of a volume; what clients are told they see when they connect",
    answer: "Volume",
    status: 200,
    body: {
      "isReadOnly?": { type: "boolean" },
      "description?": { type: "string", maxLength: DESCRIPTION_LENGTH_MAX },
      "isDeduplicated?": { type: "boolean" },
      "isCompressed?": { type: "boolean" },
      "retention?": { anyOf: [retentionChange, { type: "null" }] },
    },
    errors: ["VOLUME_NOT_FOUND", "VOLUME_BUSY", ...FULL],
  },
  resizeVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/resize",
    summary: "Grow or shrink a volume; clients see it when they reconnect",
    answer: "Volume",
    status: 200,
    body: { sizeBytes: volumeBytes, "force?": { type: "boolean" } },
    errors: ["VOLUME_NOT_FOUND", "SIZE_INVALID", "VOLUME_BUSY", ...FULL],
  },
  renameVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/rename",
    summary: "Rename a volume; clients that are connected stay connected",
    answer: "Volume",
    status: 200,
    body: { to: name },
    errors: ["VOLUME_NOT_FOUND", "NAME_INVALID", "VOLUME_EXISTS", ...FULL],
  },
  removeVolume: {
    method: "DELETE",
    path: "/v1/volumes/{volume}",
    summary: "Remove a volume; refused while clients are connected",
    answer: "Volume",
    status: 200,
    errors: ["VOLUME_NOT_FOUND", "VOLUME_BUSY", "DISK_IO"],
  },
  cloneVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/clone",
    summary: "A new volume that begins as this one was at a moment",
    answer: "Volume",
    status: 201,
    body: { "moment?": moment, to: name, "isTemporary?": { type: "boolean" } },
    errors: ["NAME_INVALID", "MOMENT_INVALID", "VOLUME_EXISTS", ...MISSING, ...FULL],
  },
  rewindVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/rewind",
    summary: "Go on from what the volume was at a moment; refused while clients are connected",
    answer: "Volume",
    status: 200,
    body: { moment, "force?": { type: "boolean" } },
    errors: ["MOMENT_INVALID", "VOLUME_BUSY", ...MISSING, ...FULL],
  },
  undoVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/undo",
    summary: "Take back the last rewind, undo, shrink or removal of a volume",
    answer: "Volume",
    status: 200,
    body: { "as?": name, "force?": { type: "boolean" } },
    errors: [
      ...(["NAME_INVALID", "NOTHING_TO_UNDO", "VOLUME_EXISTS", "VOLUME_BUSY"] as const),
      ...MISSING,
      ...FULL,
    ],
  },
  markVolume: {
    method: "POST",
    path: "/v1/volumes/{volume}/mark",
    summary: "Let parts of a volume count as changed, in each difference over this moment",
    answer: "Lsn",
    status: 200,
    body: { extents: markedExtents },
    errors: ["VOLUME_NOT_FOUND", "RANGE_INVALID", ...FULL],
  },
  resolveMoment: {
    method: "GET",
    path: "/v1/volumes/{volume}/moment",
    summary: "Which disk a moment of a volume is, and the name that always means it",
    answer: "Moment",
    status: 200,
    query: { moment },
    errors: ["MOMENT_INVALID", ...MISSING],
  },
  getHistory: {
    method: "GET",
    path: "/v1/volumes/{volume}/history",
    summary: "What happened to a volume, in intervals; of a removed one too",
    answer: "History",
    status: 200,
    query: { "from?": moment, "to?": moment, "stepMs?": stepMs },
    errors: ["MOMENT_INVALID", ...MISSING],
  },
  getChanges: {
    method: "GET",
    path: "/v1/volumes/{volume}/changes",
    summary: "The moments at which a range of a volume changed, newest first",
    answer: "Changes",
    status: 200,
    query: {
      offset: byteCount,
      length: byteCount,
      "from?": moment,
      "to?": moment,
      "limit?": changeLimit,
    },
    errors: ["MOMENT_INVALID", ...MISSING, "DISK_IO"],
  },
  listSnapshots: {
    method: "GET",
    path: "/v1/snapshots",
    summary: "The snapshots of one volume or of all, oldest first",
    answer: "SnapshotList",
    status: 200,
    query: { "volume?": name },
    errors: ["VOLUME_NOT_FOUND"],
  },
  takeSnapshot: {
    method: "POST",
    path: "/v1/snapshots",
    summary: "Name one moment of several volumes, all of them or none",
    answer: "SnapshotList",
    status: 201,
    body: {
      targets: { type: "array", items: object({ volume: name, name }), minItems: 1 },
      "at?": moment,
      "keepMs?": keep,
      "isProtected?": { type: "boolean" },
      "description?": { type: "string", maxLength: DESCRIPTION_LENGTH_MAX },
    },
    errors: ["NAME_INVALID", "MOMENT_INVALID", "SNAPSHOT_EXISTS", ...MISSING, ...FULL],
  },
  setSnapshot: {
    method: "PATCH",
    path: "/v1/volumes/{volume}/snapshots/{snapshot}",
    summary: "Change how long a snapshot stays, its protection or its description",
    answer: "Snapshot",
    status: 200,
    body: {
      "keepMs?": { anyOf: [keep, { type: "null" }] },
      "isProtected?": { type: "boolean" },
      "description?": { type: "string", maxLength: DESCRIPTION_LENGTH_MAX },
    },
    errors: [...MISSING, ...FULL],
  },
  renameSnapshot: {
    method: "POST",
    path: "/v1/volumes/{volume}/snapshots/{snapshot}/rename",
    summary: "Rename a snapshot",
    answer: "Snapshot",
    status: 200,
    body: { to: name },
    errors: ["NAME_INVALID", "SNAPSHOT_EXISTS", ...MISSING, ...FULL],
  },
  removeSnapshot: {
    method: "DELETE",
    path: "/v1/volumes/{volume}/snapshots/{snapshot}",
    summary: "Remove a snapshot; its moment stays as long as retention promises it",
    answer: "Snapshot",
    status: 200,
    errors: ["SNAPSHOT_PROTECTED", ...MISSING, ...FULL],
  },
  listSchedules: {
    method: "GET",
    path: "/v1/schedules",
    summary: "The schedules of backups, in the order in which they were made",
    answer: "ScheduleList",
    status: 200,
    errors: [],
  },
  createSchedule: {
    method: "POST",
    path: "/v1/schedules",
    summary: "Back up volumes at regular times; the first time at once",
    answer: "Schedule",
    status: 201,
    body: {
      name,
      volumes: scheduleVolumes,
      target: filePath,
      everyMs,
      "keep?": scheduleKeep,
      "keyFile?": filePath,
      "passphraseFile?": filePath,
      "limitBytesPerSecond?": byteRate,
    },
    errors: ["NAME_INVALID", "VOLUME_NOT_FOUND", "SCHEDULE_EXISTS", ...FULL],
  },
  setSchedule: {
    method: "PATCH",
    path: "/v1/schedules/{schedule}",
    summary: "Pause a schedule, or resume it; a backup that runs goes on",
    answer: "Schedule",
    status: 200,
    body: { isPaused: { type: "boolean" } },
    errors: ["SCHEDULE_NOT_FOUND", ...FULL],
  },
  runSchedule: {
    method: "POST",
    path: "/v1/schedules/{schedule}/run",
    summary: "Begin a backup of a schedule now, as soon as its target is free",
    answer: "Schedule",
    status: 200,
    errors: ["SCHEDULE_NOT_FOUND", "VOLUME_NOT_FOUND"],
  },
  removeSchedule: {
    method: "DELETE",
    path: "/v1/schedules/{schedule}",
    summary: "Remove a schedule; its backups stay, one that runs is ended",
    answer: "Schedule",
    status: 200,
    errors: ["SCHEDULE_NOT_FOUND", ...FULL],
  },
  listClients: {
    method: "GET",
    path: "/v1/clients",
    summary: "The NBD clients that are connected",
    answer: "ClientList",
    status: 200,
    errors: [],
  },
  flush: {
    method: "POST",
    path: "/v1/flush",
    summary: "Put everything written so far on stable storage",
    answer: "Lsn",
    status: 200,
    errors: ["DISK_IO", "DISK_FULL"],
  },
  checkpoint: {
    method: "POST",
    path: "/v1/checkpoint",
    summary: "Save the index, so that the next opening is short",
    answer: "Lsn",
    status: 200,
    errors: ["DISK_IO", "DISK_FULL"],
  },
  shutdown: {
    method: "POST",
    path: "/v1/shutdown",
    summary: "Stop the daemon as SIGTERM does: drain, flush, end",
    answer: "Done",
    status: 200,
    errors: [],
  },
};

export const OPERATION_NAMES: readonly OperationName[] = Object.keys(OPERATIONS) as OperationName[];

/** Doors beyond the table: streams and texts. */
export const EVENTS_PATH = "/v1/events";
export const DIFF_PATH = "/v1/diff";
export const METRICS_PATH = "/metrics";
export const OPENAPI_PATH = "/openapi.json";

/** Of a difference: see src/api/diff.ts. */
export const DIFF_QUERY: Readonly<Record<string, Schema>> = {
  from: volumeMoment,
  to: volumeMoment,
  "offset?": byteCount,
  "length?": byteCount,
};

/** In a path. */
export const PATH_PARAMETER: RegExp = /\{(\w+)\}/g;

/** Where each field of an input travels. */
export interface OperationRequest {
  readonly method: string;
  /** With the query, percent-encoded. */
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>> | undefined;
}

/** The HTTP request for an operation. */
export function requestFor<N extends OperationName>(
  operation: N,
  input: OperationTypes[N]["input"],
): OperationRequest {
  const row = OPERATIONS[operation];
  const fields = input as Readonly<Record<string, unknown>>;
  const queryNames = fieldNames(row.query);
  const query = queryNames
    .filter((key) => fields[key] !== undefined)
    .map((key) => `${key}=${encodeURIComponent(String(fields[key]))}`);
  const path = row.path.replace(PATH_PARAMETER, (_, key: string) =>
    encodeURIComponent(String(fields[key])),
  );
  const body = Object.fromEntries(
    fieldNames(row.body)
      .filter((key) => fields[key] !== undefined)
      .map((key) => [key, fields[key]]),
  );
  return {
    method: row.method,
    path: query.length === 0 ? path : `${path}?${query.join("&")}`,
    body: row.body === undefined ? undefined : body,
  };
}

function fieldNames(fields: Readonly<Record<string, Schema>> | undefined): string[] {
  return Object.keys(fields ?? {}).map((key) => key.replace(/\?$/, ""));
}

/** The schema of an operation's body, if it takes one. */
export function bodySchema(row: OperationRow): Schema | undefined {
  return row.body === undefined ? undefined : object(row.body);
}

export function querySchema(row: OperationRow): Schema {
  return object(row.query ?? {});
}

/** The checks that give names and sizes their own error codes; the rest is the schema's. */
export function checkInput(input: Readonly<Record<string, unknown>>): void {
  if (typeof input.name === "string") checkName("volume", input.name);
  if (typeof input.to === "string") checkName("volume", input.to);
  if (typeof input.as === "string") checkName("volume", input.as);
  if (typeof input.sizeBytes === "number") checkVolumeSize(input.sizeBytes);
  if (typeof input.poolSizeBytes === "number") checkPoolSize(input.poolSizeBytes);
}

/** Throws SIZE_INVALID unless a pool may have this limit. */
export function checkPoolSize(sizeBytes: number): void {
  const isPossible = sizeBytes === 0 || sizeBytes >= POOL_BYTES_MIN;
  if (isPossible && Number.isSafeInteger(sizeBytes)) return;
  throw new StorageError(
    "SIZE_INVALID",
    `pool size ${sizeBytes}: size refused: ${isPossible ? "not a number of bytes" : `less than ${formatSize(POOL_BYTES_MIN)}`}`,
    { hint: "write it like 500G; 0 is as much as the file system has" },
  );
}

/** Throws SIZE_INVALID unless a volume may have this size. */
export function checkVolumeSize(sizeBytes: number): void {
  const why =
    !Number.isSafeInteger(sizeBytes) || sizeBytes > VOLUME_BYTES_MAX
      ? `more than ${formatSize(VOLUME_BYTES_MAX)}`
      : sizeBytes < VOLUME_BYTES_MIN
        ? `less than ${formatSize(VOLUME_BYTES_MIN)}`
        : sizeBytes % VOLUME_BYTES_STEP === 0
          ? undefined
          : `not a multiple of ${VOLUME_BYTES_STEP}`;
  if (why !== undefined) {
    throw new StorageError("SIZE_INVALID", `volume size ${sizeBytes}: size refused: ${why}`);
  }
}
