// SPDX-License-Identifier: Apache-2.0
//
// The difference of two moments as newline-delimited JSON (src/api/diff.ts). What differs goes out as it is found, and no faster
// than the client reads: one that doesn't read for a while is cut off, for meanwhile its moments can't be let go.

import type { FastifyInstance, RawReplyDefaultExpression } from "fastify";
import type { DiffHeadJson, DiffKindJson, DiffSource, DiffTaker } from "../api/diff.ts";
import { DIFF_QUERY } from "../api/operations.ts";
import { object } from "../api/schemas.ts";
import { StorageError } from "../base/errors.ts";

/** Each takes 25 MiB at most, for as long as its client reads. */
const STREAM_COUNT_MAX = 4;
/** Of text, gathered before it is handed on. */
const PIECE_LENGTH = 32 << 10;
const STALLED_MS = 60_000;

type Query = Parameters<DiffSource["diff"]>[0];

export function streamDiffs(
  app: FastifyInstance,
  path: string,
  { diffs, onBug }: { readonly diffs: DiffSource; readonly onBug: (error: unknown) => void },
): { end(): void } {
  const open = new Set<RawReplyDefaultExpression>();
  app.get<{ Querystring: Query }>(
    path,
    { schema: { querystring: object(DIFF_QUERY) } },
    async (request, reply) => {
      if (open.size >= STREAM_COUNT_MAX) {
        throw new StorageError(
          "BUSY",
          `diff: refused: ${open.size} are under way, ${STREAM_COUNT_MAX} are allowed`,
        );
      }
      const lines = new DiffLines(reply.raw);
      open.add(reply.raw);
      try {
        const end = await diffs.diff(request.query, (head) => lines.begin(head));
        reply.hijack();
        lines.end(end);
      } catch (error) {
        // Before the first line it is an answer of its own; the door makes it.
        if (!lines.isBegun) throw error;
        reply.hijack();
        const isTold = error instanceof StorageError;
        lines.end(isTold ? { error: error.toJSON() } : undefined);
        if (!isTold) onBug(error);
      } finally {
        open.delete(reply.raw);
      }
      return reply;
    },
  );
  return {
    end: () => {
      for (const stream of open) stream.destroy();
    },
  };
}

class DiffLines implements DiffTaker {
  readonly #stream: RawReplyDefaultExpression;
  #text = "";
  #kind: DiffKindJson | undefined;
  #isGone = false;
  isBegun = false;

  constructor(stream: RawReplyDefaultExpression) {
    this.#stream = stream;
    stream.once("close", () => {
      this.#isGone = true;
    });
  }

  begin(head: DiffHeadJson): DiffTaker {
    this.#text = `${JSON.stringify(head)}\n`;
    return this;
  }

  extent(offsetBytes: number, lengthBytes: number, kind: DiffKindJson): boolean {
    if (kind === this.#kind && this.#text.length < PIECE_LENGTH)
      this.#text += `,${offsetBytes},${lengthBytes}`;
    else {
      this.#closeLine();
      this.#send();
      this.#kind = kind;
      this.#text += `{"kind":"${kind}","extents":[${offsetBytes},${lengthBytes}`;
    }
    return !this.#isGone;
  }

  room(): Promise<void> | undefined {
    if (!this.isBegun) this.#send(true);
    const stream = this.#stream;
    if (this.#isGone || !stream.writableNeedDrain) return undefined;
    return new Promise((resolve) => {
      const go = (): void => {
        stream.setTimeout(0);
        stream.off("drain", go).off("close", go);
        resolve();
      };
      stream.setTimeout(STALLED_MS, () => stream.destroy());
      stream.once("drain", go).once("close", go);
    });
  }

  /** The last line; undefined: the answer is cut short. */
  end(last: unknown): void {
    if (this.#isGone) return;
    if (last === undefined) {
      this.#stream.destroy();
      return;
    }
    this.#closeLine();
    this.#text += `${JSON.stringify(last)}\n`;
    this.#send(true);
    this.#stream.end();
  }

  #closeLine(): void {
    if (this.#kind !== undefined) this.#text += "]}\n";
    this.#kind = undefined;
  }

  /** Hands on what was gathered, if it is much or `isWanted`. A line isn't open. */
  #send(isWanted = false): void {
    if (this.#isGone || (!isWanted && this.#text.length < PIECE_LENGTH)) return;
    if (!this.isBegun) this.#stream.writeHead(200, { "content-type": "application/x-ndjson" });
    this.isBegun = true;
    this.#stream.write(this.#text);
    this.#text = "";
  }
}
