// SPDX-License-Identifier: Apache-2.0
//
// HTTP over a Unix socket, as the command line talks to the daemon. Two forms: one request with one
// bounded answer, and a stream of lines that goes on until one end closes it. Failures of the connection
// come as the system's error codes: only the caller knows whether a missing socket means "no daemon".

import { type ClientRequest, type IncomingMessage, request as start } from "node:http";

export interface HttpRequest {
  readonly socketPath: string;
  readonly method: string;
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  readonly timeoutMs: number;
  /** Ends it, with an error. */
  readonly signal?: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  readonly text: string;
}

const ANSWER_BYTES_MAX = 64 << 20;

/** One request, one answer. Throws the system's error (`code` ENOENT, ECONNREFUSED, EACCES, ETIMEDOUT …). */
export async function requestOverSocket(request: HttpRequest): Promise<HttpAnswer> {
  const response = await send(request);
  const chunks: Buffer[] = [];
  let countBytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    countBytes += chunk.length;
    if (countBytes > ANSWER_BYTES_MAX) {
      response.destroy();
      throw Object.assign(new Error(`the answer has more than ${ANSWER_BYTES_MAX} bytes`), {
        code: "EFBIG",
      });
    }
    chunks.push(chunk);
  }
  return { status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString("utf8") };
}

/** The lines of an answer as they come. The time-out only covers the beginning. */
export async function* linesOverSocket(
  request: HttpRequest,
): AsyncGenerator<string, void, undefined> {
  const response = await send(request);
  response.setEncoding("utf8");
  let rest = "";
  for await (const chunk of response as AsyncIterable<string>) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    if (rest.length > ANSWER_BYTES_MAX) throw new Error("a line of the answer has no end");
    for (const line of lines) if (line !== "") yield line;
  }
  if (rest !== "") yield rest;
}

function send({
  socketPath,
  method,
  path,
  body,
  timeoutMs,
  signal,
}: HttpRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      text === undefined
        ? {}
        : { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const request: ClientRequest = start(
      { socketPath, method, path, headers, agent: false, ...(signal && { signal }) },
      (response) => {
        clearTimeout(timer);
        resolve(response);
      },
    );
    const timer = setTimeout(() => {
      const error = new Error(`no answer within ${timeoutMs} ms`);
      request.destroy(Object.assign(error, { code: "ETIMEDOUT" }));
    }, timeoutMs);
    request.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    request.end(text);
  });
}
