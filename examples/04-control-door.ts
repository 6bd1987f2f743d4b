// SPDX-License-Identifier: Apache-2.0
//
// What the command line can do, a program can: the control door speaks HTTP and JSON over a socket in
// the pool. GET /openapi.json describes all of it.
//
//   node examples/04-control-door.ts varve-pool/control.sock

import { requestOverSocket } from "../src/varve.ts";

const [socketPath = "varve-pool/control.sock"] = process.argv.slice(2);

async function ask(method: string, path: string, body?: unknown): Promise<unknown> {
  const answer = await requestOverSocket({
    socketPath,
    method,
    path,
    ...(body !== undefined && { body }),
    timeoutMs: 10_000,
  });
  const result = answer.text === "" ? undefined : (JSON.parse(answer.text) as unknown);
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
  return result;
}

await ask("POST", "/v1/volumes", { name: "by-program", sizeBytes: 64 * 1024 * 1024 });
console.log("made:", await ask("GET", "/v1/volumes/by-program"));

const { pool } = (await ask("GET", "/v1/statistics")) as { pool: Record<string, number> };
console.log(`the log is at #${pool.headLsn}, on stable storage up to #${pool.durableLsn}`);

await ask("DELETE", "/v1/volumes/by-program");
console.log("removed again; its past stays in the log");
