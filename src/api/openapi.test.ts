// SPDX-License-Identifier: Apache-2.0
//
// The description is complete (every operation, parameter, schema and error is in it) and valid (every
// reference leads somewhere, every schema is one we can check).

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { resolveReference, type Schema, violations } from "../../test/conformance/json-schema.ts";
import { ERRORS } from "../base/errors.ts";
import { openApiDocument } from "./openapi.ts";
import {
  DIFF_PATH,
  EVENTS_PATH,
  METRICS_PATH,
  OPENAPI_PATH,
  OPERATION_NAMES,
  OPERATIONS,
  requestFor,
} from "./operations.ts";
import { SCHEMAS } from "./schemas.ts";

const document = openApiDocument("1.2.3") as Schema & {
  paths: Record<string, Record<string, Operation>>;
};

interface Operation {
  operationId: string;
  summary: string;
  parameters?: { name: string; in: string; required: boolean; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { description: string; content: Record<string, { schema: Schema }> }>;
}

const operations = Object.values(document.paths).flatMap((methods) => Object.values(methods));

test("every operation of the table is described once, with the streams and texts beside it", () => {
  const ids = operations.map(({ operationId }) => operationId);
  deepEqual([...new Set(ids)].sort(), [...ids].sort());
  deepEqual(
    ids.sort(),
    [...OPERATION_NAMES, "streamEvents", "streamDiff", "getMetrics", "getOpenApi"].sort(),
  );
  for (const path of [EVENTS_PATH, DIFF_PATH, METRICS_PATH, OPENAPI_PATH])
    ok(document.paths[path]?.get);
});

test("every path parameter is declared and every operation has a success and errors", () => {
  for (const [path, methods] of Object.entries(document.paths)) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    for (const { operationId, parameters = [], responses, summary } of Object.values(methods)) {
      const declared = parameters.filter((parameter) => parameter.in === "path");
      deepEqual(
        declared.map(({ name }) => name),
        inPath,
        operationId,
      );
      const statuses = Object.keys(responses);
      equal(statuses.filter((status) => status.startsWith("2")).length, 1, operationId);
      ok(
        statuses.some((status) => !status.startsWith("2")),
        operationId,
      );
      ok(summary.length > 10, operationId);
    }
  }
});

test("every reference leads to a schema, and every schema is used", () => {
  const text = JSON.stringify(document);
  const references = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1]!);
  for (const reference of references) ok(resolveReference(document, reference));
  const used = new Set(references.map((reference) => reference.split("/").at(-1)));
  deepEqual(
    Object.keys(SCHEMAS).filter((name) => !used.has(name)),
    [],
  );
});

test("every schema uses only keywords that are checked", () => {
  for (const [name, schema] of Object.entries(SCHEMAS)) {
    const complaints = violations(schema, {}, document);
    deepEqual(
      complaints.filter((why) => why.includes("keyword")),
      [],
      name,
    );
  }
});

test("every error code that an operation names is in the table, and its status in the description", () => {
  for (const name of OPERATION_NAMES) {
    for (const code of OPERATIONS[name].errors) ok(code in ERRORS, `${name}: ${code}`);
  }
});

test("a request carries each field where the table says", () => {
  deepEqual(requestFor("resizeVolume", { volume: "a b", sizeBytes: 4096, force: true }), {
    method: "POST",
    path: "/v1/volumes/a%20b/resize",
    body: { sizeBytes: 4096, force: true },
  });
  deepEqual(requestFor("listVolumes", { removed: "true" }), {
    method: "GET",
    path: "/v1/volumes?removed=true",
    body: undefined,
  });
  deepEqual(requestFor("listVolumes", {}).path, "/v1/volumes");
});
