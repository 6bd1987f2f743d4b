// SPDX-License-Identifier: Apache-2.0
//
// Events as newline-delimited JSON: first the latest (unless recent=false), then, with follow=true, each as it
// comes, until the client goes. A client that doesn't read gets no memory beyond STREAM_BYTES_MAX: its stream is cut, and
// it sees that, instead of events silently missing in between.

import type { FastifyInstance, RawReplyDefaultExpression } from "fastify";
import { object } from "../api/schemas.ts";
import type { EventSource } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";

const STREAM_BYTES_MAX = 1 << 20;
const STREAM_COUNT_MAX = 32;
const FLAG = { type: "string", enum: ["true", "false"] } as const;

export function streamEvents(
  app: FastifyInstance,
  path: string,
  events: EventSource,
): { end(): void } {
  const open = new Set<RawReplyDefaultExpression>();
  app.get<{ Querystring: { follow?: string; recent?: string } }>(
    path,
    {
      schema: { querystring: object({ "follow?": FLAG, "recent?": FLAG }) },
    },
    async (request, reply) => {
      const isFollowed = request.query.follow === "true";
      if (isFollowed && open.size >= STREAM_COUNT_MAX) {
        throw new StorageError(
          "BUSY",
          `events: stream refused: ${open.size} are open, ${STREAM_COUNT_MAX} are allowed`,
        );
      }
      reply.hijack();
      const stream = reply.raw;
      stream.writeHead(200, { "content-type": "application/x-ndjson" });
      const send = (event: unknown): void => {
        stream.write(`${JSON.stringify(event)}\n`);
        if (stream.writableLength > STREAM_BYTES_MAX) stream.destroy();
      };
      if (request.query.recent !== "false") for (const event of events.recent()) send(event);
      if (!isFollowed) {
        stream.end();
        return;
      }
      stream.flushHeaders();
      open.add(stream);
      const unsubscribe = events.subscribe(send);
      stream.once("close", () => {
        unsubscribe();
        open.delete(stream);
      });
    },
  );
  return {
    end: () => {
      for (const stream of open) stream.end();
    },
  };
}
