// SPDX-License-Identifier: Apache-2.0
//
// The OpenAPI 3.1 description of the control door, made from the tables of operations, schemas and
// errors: served as /openapi.json and kept as docs/openapi.json for those who generate clients. Nothing
// is written twice, so it can't be out of date; a test checks that it is valid and leaves nothing out.

import { type ErrorCode, spell } from "../base/errors.ts";
import {
  COMMON_ERRORS,
  DIFF_PATH,
  DIFF_QUERY,
  EVENTS_PATH,
  METRICS_PATH,
  OPENAPI_PATH,
  OPERATION_NAMES,
  OPERATIONS,
  type OperationRow,
  PATH_PARAMETER,
} from "./operations.ts";
import { name, object, reference, SCHEMAS, type Schema, type SchemaName } from "./schemas.ts";

type Json = Record<string, unknown>;

export function openApiDocument(version: string): Json {
  const paths: Record<string, Json> = {};
  for (const operationId of OPERATION_NAMES) {
    const row = OPERATIONS[operationId];
    const methods = paths[row.path] ?? {};
    methods[row.method.toLowerCase()] = describe(operationId, row);
    paths[row.path] = methods;
  }
  paths[EVENTS_PATH] = { get: EVENTS };
  paths[DIFF_PATH] = { get: DIFF };
  paths[METRICS_PATH] = { get: METRICS };
  paths[OPENAPI_PATH] = { get: DESCRIPTION };
  return {
    openapi: "3.1.0",
    info: {
      title: "Varve control",
      version,
      summary: "What the command line talks to: volumes, clients, events and metrics of one pool",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [
      { url: "http://localhost", description: "over the Unix socket control.sock in the pool" },
    ],
    security: [{}, { token: [] }],
    paths,
    components: {
      schemas: SCHEMAS,
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "over TCP only; always with TLS" },
      },
    },
  };
}

function describe(operationId: string, row: OperationRow): Json {
  const parameters = [
    ...[...row.path.matchAll(PATH_PARAMETER)].map(([, key]) => ({
      name: key,
      in: "path",
      required: true,
      schema: name,
    })),
    ...parametersOf(row.query ?? {}),
  ];
  return {
    operationId,
    summary: row.summary,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(row.body === undefined
      ? {}
      : { requestBody: { required: true, content: json(object(row.body)) } }),
    responses: {
      [row.status]: { description: "done", content: json(reference(row.answer)) },
      ...(operationId === "getHealth"
        ? { 503: { description: "the pool has stopped", content: json(reference(row.answer)) } }
        : errorResponses([...row.errors, ...COMMON_ERRORS])),
    },
  };
}

function parametersOf(query: Readonly<Record<string, Schema>>): Json[] {
  return Object.entries(query).map(([key, schema]) => ({
    name: key.replace(/\?$/, ""),
    in: "query",
    required: !key.endsWith("?"),
    schema,
  }));
}

function errorResponses(codes: readonly ErrorCode[]): Json {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) {
    const status = spell(code, "http");
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, names]) => [
      status,
      { description: [...new Set(names)].join(", "), content: json(reference("ErrorBody")) },
    ]),
  );
}

function json(schema: Schema): Json {
  return { "application/json": { schema } };
}

const EVENTS: Json = {
  operationId: "streamEvents",
  summary:
    "The latest events, unless recent=false, one JSON object per line; with follow=true also those to come",
  parameters: ["follow", "recent"].map((flag) => ({
    name: flag,
    in: "query",
    required: false,
    schema: { type: "string", enum: ["true", "false"] },
  })),
  responses: {
    200: {
      description: "events, oldest first, without an end when followed",
      content: { "application/x-ndjson": { schema: reference("Event") } },
    },
    ...errorResponses(COMMON_ERRORS),
  },
};

const DIFF: Json = {
  operationId: "streamDiff",
  summary: "What differs between two moments, of whichever volumes, as lines of JSON",
  parameters: parametersOf(DIFF_QUERY),
  responses: {
    200: {
      description:
        "which moments were compared; then what differs, in order, each line of one kind; then the sums. Without the last line it was cut short; an error on the way is a line",
      content: {
        "application/x-ndjson": {
          schema: {
            anyOf: ["DiffHead", "DiffExtents", "DiffEnd", "ErrorBody"].map((one) =>
              reference(one as SchemaName),
            ),
          },
        },
      },
    },
    ...errorResponses([
      ...(["MOMENT_INVALID", "VOLUME_NOT_FOUND", "MOMENT_NOT_FOUND", "MOMENT_GONE"] as const),
      ...COMMON_ERRORS,
    ]),
  },
};

const METRICS: Json = {
  operationId: "getMetrics",
  summary: "The same counters for Prometheus",
  responses: {
    200: {
      description: "text exposition format",
      content: { "text/plain": { schema: { type: "string" } } },
    },
    ...errorResponses(COMMON_ERRORS),
  },
};

const DESCRIPTION: Json = {
  operationId: "getOpenApi",
  summary: "This description",
  responses: {
    200: { description: "OpenAPI 3.1", content: json({ type: "object" }) },
    ...errorResponses(COMMON_ERRORS),
  },
};
