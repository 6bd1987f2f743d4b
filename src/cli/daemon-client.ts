// SPDX-License-Identifier: Apache-2.0
//
// The daemon of a pool as a command sees it: operations by name, over the socket in the pool's
// directory. When nothing answers, the error says whether there is a pool at all and how to start its
// daemon, since that is what the user has to do next.

import { join } from "node:path";
import type { DiffAsked, DiffEndJson, DiffExtentsJson, DiffHeadJson } from "../api/diff.ts";
import { DIFF_PATH, EVENTS_PATH, requestFor } from "../api/operations.ts";
import type { ErrorBody, EventJson, OperationName, OperationTypes } from "../api/types.ts";
import { ERRORS, StorageError } from "../base/errors.ts";
import { type HttpRequest, linesOverSocket, requestOverSocket } from "../host/node/http-client.ts";
import { fileKind, listNames } from "../host/node/text-file.ts";
import { opening } from "./named-file.ts";

const CONTROL_SOCKET = "control.sock";
const IDENTITY = "pool.json";
const LOG = "log";
/** A flush of a busy disk can take long; a daemon that says nothing for longer is stuck. */
const ANSWER_TIMEOUT_MS = 120_000;

export interface EventsAsked {
  readonly isFollowed: boolean;
  readonly isRecentWanted?: boolean;
  readonly signal?: AbortSignal;
}

export class DaemonClient {
  readonly pool: string;

  constructor(pool: string) {
    this.pool = pool;
  }

  async call<N extends OperationName>(
    operation: N,
    input: OperationTypes[N]["input"],
  ): Promise<OperationTypes[N]["output"]> {
    const request = this.#request(requestFor(operation, input));
    const { status, text } = await requestOverSocket(request).catch((error: unknown) => {
      throw this.#unanswered(error);
    });
    const isHealth = operation === "getHealth" && status === 503;
    if (status >= 400 && !isHealth) throw errorOf(status, text);
    return this.#parse(text) as OperationTypes[N]["output"];
  }

  /** The latest events, then those to come, until the daemon ends or the signal comes; either only if it is wanted. */
  async *events({
    isFollowed,
    isRecentWanted = true,
    signal,
  }: EventsAsked): AsyncGenerator<EventJson, void, undefined> {
    try {
      yield* this.#lines<EventJson>(
        `${EVENTS_PATH}?follow=${isFollowed}&recent=${isRecentWanted}`,
        signal,
      );
    } catch (error) {
      if (signal?.aborted !== true) throw error;
    }
  }

  /** What differs between two moments, a line at a time: first which they are, last the sums (src/api/diff.ts). */
  async *diff(
    asked: DiffAsked,
  ): AsyncGenerator<DiffHeadJson | DiffExtentsJson | DiffEndJson, void, undefined> {
    const query = Object.entries(asked).map(
      ([name, value]) => `${name}=${encodeURIComponent(String(value))}`,
    );
    yield* this.#lines<DiffHeadJson | DiffExtentsJson | DiffEndJson>(
      `${DIFF_PATH}?${query.join("&")}`,
    );
  }

  async *#lines<T extends object>(
    path: string,
    signal?: AbortSignal,
  ): AsyncGenerator<T, void, undefined> {
    const request = this.#request({ method: "GET", path, body: undefined });
    const lines = linesOverSocket(signal === undefined ? request : { ...request, signal });
    try {
      for await (const line of lines) {
        const value = this.#parse(line) as T | ErrorBody;
        if ("error" in value) throw errorOf(0, line);
        yield value;
      }
    } catch (error) {
      if (error instanceof StorageError) throw error;
      throw this.#unanswered(error);
    }
  }

  #request(parts: { method: string; path: string; body: unknown }): HttpRequest {
    return { ...parts, socketPath: join(this.pool, CONTROL_SOCKET), timeoutMs: ANSWER_TIMEOUT_MS };
  }

  #parse(text: string): unknown {
    try {
      return JSON.parse(text);
    } catch (error) {
      // biome-ignore lint/style/useErrorCause: it is in the details, which the rule doesn't see
      throw new StorageError("INTERNAL", `daemon of pool "${this.pool}": its answer isn't JSON`, {
        cause: error,
      });
    }
  }

  #unanswered(error: unknown): StorageError {
    const { code, message } = error as NodeJS.ErrnoException;
    const where = `pool "${this.pool}"`;
    if (code === "ENOENT" || code === "ECONNREFUSED" || code === "ENOTDIR") {
      const why = code === "ECONNREFUSED" ? "its daemon has ended" : "no daemon runs";
      return new StorageError("DAEMON_NOT_RUNNING", `${where}: not reached: ${why}`, {
        hint: `start it with "varve serve --pool ${this.pool}"`,
        cause: error,
      });
    }
    if (code === "EACCES" || code === "EPERM") {
      return new StorageError(
        "ACCESS_DENIED",
        `${where}: not reached: its control socket is another user's`,
        {
          hint: `run varve as that user; if no daemon runs, start it as that user: varve serve --pool ${this.pool}`,
          cause: error,
        },
      );
    }
    if (code === "ECONNRESET" || code === "EPIPE") {
      return new StorageError(
        "DAEMON_NOT_RUNNING",
        `${where}: not answered: its daemon has just ended`,
        {
          hint: `see its log; start it with "varve serve --pool ${this.pool}"`,
          cause: error,
        },
      );
    }
    return new StorageError("BUSY", `${where}: not answered: ${message}`, { cause: error });
  }
}

/** The daemon of the pool in `directory`; POOL_NOT_FOUND where there is no such directory. */
export async function connectDaemon(directory: string): Promise<DaemonClient> {
  if ((await fileKind(directory)) === "missing") {
    throw new StorageError(
      "POOL_NOT_FOUND",
      `pool "${directory}": not found: there is no such directory`,
      {
        hint: `make it with "varve serve --pool ${directory}", or name another with --pool or VARVE_POOL`,
      },
    );
  }
  await refuseOtherDirectory(directory);
  return new DaemonClient(directory);
}

/** A directory of something else: a daemon would refuse it, so starting one is no advice. */
async function refuseOtherDirectory(directory: string): Promise<void> {
  if ((await fileKind(directory)) !== "directory")
    throw notAPool(directory, "it isn't a directory");
  if ((await fileKind(join(directory, IDENTITY))) !== "missing") return;
  const names = await opening(`pool "${directory}": not reached`, () => listNames(directory));
  const [first] = names ?? [];
  // A pool that has lost its pool.json is for its daemon, and for `varve check`, to judge.
  if (first === undefined || names?.includes(LOG)) return;
  throw notAPool(directory, `it holds "${first}" and no ${IDENTITY}`);
}

function notAPool(directory: string, why: string): StorageError {
  return new StorageError("NOT_A_POOL", `pool "${directory}": not reached: ${why}`, {
    hint: "name the directory of a pool with --pool or VARVE_POOL",
  });
}

/** The daemon's error as our own, so that it exits, prints and matches like one thrown here. */
function errorOf(status: number, text: string): StorageError {
  try {
    const { error } = JSON.parse(text) as ErrorBody;
    if (error.code in ERRORS) {
      const { code, message, hint, data } = error;
      return new StorageError(code, message, { hint, data });
    }
  } catch {
    // Not an answer of ours: said below.
  }
  return new StorageError("INTERNAL", `daemon: it answered with status ${status} and no reason`);
}
