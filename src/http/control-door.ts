// SPDX-License-Identifier: Apache-2.0
//
// The control door: the table of operations as HTTP+JSON routes (fastify), the stream of events, metrics
// and the description of itself. It owns no socket: the daemon listens (src/host/node) and hands each
// request in, so that the socket stands before this code and its packages are loaded; NBD clients that
// reconnect after a restart come first. Requests are checked against the contract before an operation
// sees them; every error leaves as {error: {code, kind, message, hint, data}} with the table's status.

import {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
} from "fastify";
import type { DiffSource } from "../api/diff.ts";
import { openApiDocument } from "../api/openapi.ts";
import {
  bodySchema,
  checkInput,
  DIFF_PATH,
  EVENTS_PATH,
  METRICS_PATH,
  OPENAPI_PATH,
  OPERATION_NAMES,
  OPERATIONS,
  type OperationRow,
  PATH_PARAMETER,
  querySchema,
} from "../api/operations.ts";
import type { ErrorBody, EventSource, HealthJson, Operations } from "../api/types.ts";
import { AssertionError } from "../base/assert.ts";
import { StorageError, spell } from "../base/errors.ts";
import type { Logger } from "../host/ports.ts";
import { streamDiffs } from "./diff-stream.ts";
import { streamEvents } from "./event-stream.ts";
import { Metrics } from "./metrics.ts";
import { hasToken } from "./token.ts";

/** The largest body is a volume's description. */
const BODY_BYTES_MAX = 64 * 1024;

export interface ControlDoorOptions {
  readonly operations: Operations;
  readonly events: EventSource;
  readonly diffs: DiffSource;
  readonly version: string;
  readonly logger: Logger;
  /** A broken invariant came up in a handler: stop the process, don't return. */
  readonly onBug: (error: unknown) => void;
}

/** Where a request came in decides what it must bring. */
export interface Entrance {
  /** Bearer token that every request must carry; undefined on the Unix socket. */
  readonly token: string | undefined;
}

export interface ControlDoor {
  handle(
    request: RawRequestDefaultExpression,
    response: RawReplyDefaultExpression,
    entrance: Entrance,
  ): void;
  /** Ends event streams and takes no further request. */
  close(): Promise<void>;
}

export async function createControlDoor(options: ControlDoorOptions): Promise<ControlDoor> {
  const app = fastify({
    bodyLimit: BODY_BYTES_MAX,
    // Closed objects and exact types: what isn't in the contract is refused, never coerced or dropped.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false } },
    routerOptions: { maxParamLength: 200 },
    frameworkErrors: (error, _request, reply) => answerError(error, reply, options),
  });
  const tokens = new WeakMap<RawRequestDefaultExpression, string>();
  app.addHook("onRequest", async (request) => {
    const token = tokens.get(request.raw);
    if (token !== undefined && !hasToken(request.headers.authorization, token)) {
      throw new StorageError(
        "ACCESS_DENIED",
        "control: request refused: the bearer token is missing or wrong",
        {
          hint: "send the header Authorization: Bearer TOKEN, with the token of http.token-file",
        },
      );
    }
  });
  app.setErrorHandler((error, _request, reply) => answerError(error, reply, options));
  app.setNotFoundHandler((request, reply) => {
    const what = `${request.method} ${request.url.slice(0, 200)}`;
    const error = new StorageError("USAGE", `request: ${what}: there is no such operation`, {
      hint: `GET ${OPENAPI_PATH} lists all of them`,
    });
    return reply.status(404).send({ error: error.toJSON() });
  });
  for (const operation of OPERATION_NAMES) addOperation(app, operation, options.operations);
  const streams = streamEvents(app, EVENTS_PATH, options.events);
  const diffs = streamDiffs(app, DIFF_PATH, options);
  const metrics = new Metrics(options.version);
  app.get(METRICS_PATH, async (_request, reply) => {
    const text = await metrics.render(await options.operations.getStatistics({}));
    return reply.type(metrics.contentType).send(text);
  });
  const description = openApiDocument(options.version);
  app.get(OPENAPI_PATH, async () => description);
  await app.ready();
  return {
    handle: (request, response, entrance) => {
      if (entrance.token !== undefined) tokens.set(request, entrance.token);
      app.routing(request, response);
    },
    close: async () => {
      streams.end();
      diffs.end();
      await app.close();
    },
  };
}

function addOperation(
  app: FastifyInstance,
  operation: keyof Operations,
  operations: Operations,
): void {
  const row: OperationRow = OPERATIONS[operation];
  const run = operations[operation] as (input: Record<string, unknown>) => Promise<unknown>;
  const body = bodySchema(row);
  app.route({
    method: row.method,
    url: row.path.replace(PATH_PARAMETER, ":$1"),
    schema: { querystring: querySchema(row), ...(body === undefined ? {} : { body }) },
    // Names and sizes have codes of their own, which say more than a schema's complaint.
    preValidation: async (request) => checkInput(fieldsOf(request.body)),
    handler: async (request, reply) => {
      const input = {
        ...fieldsOf(request.query),
        ...fieldsOf(request.body),
        ...fieldsOf(request.params),
      };
      const answer = await run(input);
      const isFailing = operation === "getHealth" && (answer as HealthJson).status === "failing";
      return reply.status(isFailing ? spell("POOL_STOPPED", "http") : row.status).send(answer);
    },
  });
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

function answerError(
  error: unknown,
  reply: FastifyReply,
  { logger, onBug }: ControlDoorOptions,
): FastifyReply {
  if (error instanceof AssertionError) onBug(error);
  const shown = toStorageError(error, reply.request);
  if (shown.code === "INTERNAL") logger.log("error", "http.request-failed", { error });
  const body: ErrorBody = { error: shown.toJSON() as unknown as ErrorBody["error"] };
  return reply.status(spell(shown.code, "http")).send(body);
}

/** Ours as they are; what the framework refused is the client's mistake; the rest is a bug of ours. */
function toStorageError(error: unknown, request: FastifyRequest): StorageError {
  if (error instanceof StorageError) return error;
  const { validation, statusCode, message } = error as FastifyError;
  const what = `${request.method} ${request.url.slice(0, 200)}`;
  if (validation !== undefined || (statusCode !== undefined && statusCode < 500)) {
    const why = message.charAt(0).toLowerCase() + message.slice(1);
    return new StorageError("USAGE", `request: ${what}: refused: ${why}`, {
      hint: `GET ${OPENAPI_PATH} has the schema of every request`,
      cause: error,
    });
  }
  return new StorageError("INTERNAL", `request: ${what}: failed: ${message}`, { cause: error });
}
