// SPDX-License-Identifier: Apache-2.0
//
// Varve's part of bench/reduction.ts: a daemon on a new pool imports every image as a volume, the pool is
// given time to come to rest, and what it says it stores is compared with what `du` finds in its directory.
// Then `varve gc` may clean, and all is counted again. At last the first and the last volume are exported
// and compared with their images, for a store that loses data reduces best.

import { rm } from "node:fs/promises";
import { delay } from "../test/interop/command.ts";
import { Server } from "../test/interop/server.ts";
import { sha256Of } from "./corpus/sources.ts";
import { occupiedBytes } from "./machine.ts";
import type { StoreOptions, StoreResult } from "./reduction-stores.ts";

const PATIENT = { timeoutMs: 3_600_000 };
const RESTED_AFTER = 5; // this many equal counts, a second apart
const REST_SECONDS_MAX = 300;

export interface VarveResult extends StoreResult {
  /** Undefined where there is no `varve gc`. */
  readonly afterGc?: { readonly storedBytes: number; readonly seconds: number };
  /** All counters at the end. */
  readonly stats: unknown;
}

export async function measureVarve(
  options: StoreOptions & { readonly serveArgs: readonly string[]; readonly commit: string },
): Promise<VarveResult> {
  const { images, scratch, serveArgs, say } = options;
  const directory = scratch.path("varve");
  const first = images[0]!;
  const server = await Server.start("varve", {
    directory,
    exportName: first.name,
    sizeBytes: first.sizeBytes,
    serveArgs: [...serveArgs, "--exit-with-parent"],
  });
  scratch.defer("the daemon", () => server.stop());
  const pool = `${directory}/pool`;
  const notes: string[] = [];

  const after: number[] = [];
  const start = performance.now();
  for (const { name, path } of images) {
    await server.varve(["import", path, name, "--progress", "none"], PATIENT);
    after.push(await occupiedBytes(pool));
    say(`  ${name}: ${Math.round(after.at(-1)! / 1024 / 1024)} MiB`);
  }
  const importSeconds = (performance.now() - start) / 1000;
  const seconds = importSeconds + (await rest(server));
  const storedBytes = await compareCounts(server, pool, "after the imports", notes);
  notes.push(`the imports took ${importSeconds.toFixed(1)} s of the time`);

  const gcStart = performance.now();
  const gc = await server.varve(["gc"], { ...PATIENT, accept: [0, 1, 2, 12] });
  let gcSeconds = (performance.now() - gcStart) / 1000;
  if (gc.status !== 0) notes.push(`varve gc: not available: ${gc.stderr.split("\n")[0]}`);
  else gcSeconds += await rest(server);
  const gcBytes = gc.status === 0 && (await compareCounts(server, pool, "after gc", notes));

  const stats: unknown = await readStats(server);
  for (const { name, sha256 } of new Set([first, images.at(-1)!])) {
    const copy = scratch.path("copy.img");
    await server.varve(["export", name, copy, "--format", "raw", "--progress", "none"], PATIENT);
    if ((await sha256Of(copy)) !== sha256)
      throw new Error(`volume "${name}" isn't what was imported`);
    await rm(copy);
    notes.push(`${name}: exported, and equal to its image`);
  }
  await server.stop();
  await rm(directory, { recursive: true, force: true });
  return {
    storedBytes,
    seconds,
    version: options.commit,
    command: `varve import IMAGE NAME${serveArgs.length > 0 ? `, served with ${serveArgs.join(" ")}` : ""}`,
    after,
    notes,
    ...(gcBytes !== false && { afterGc: { storedBytes: gcBytes, seconds: gcSeconds } }),
    stats,
  };
}

async function readStats(server: Server): Promise<unknown> {
  return JSON.parse((await server.varve(["stats", "--json"])).stdout);
}

/** What the pool says it stores; the counter has moved once, and both places are known. */
async function countedBytes(server: Server): Promise<number> {
  const stats = (await readStats(server)) as {
    storedBytes?: number;
    pool?: { storedBytes?: number };
  };
  const counted = stats.pool?.storedBytes ?? stats.storedBytes;
  if (counted === undefined) throw new Error("varve stats: no storedBytes");
  return counted;
}

/** Waits until what is stored changes no more, for some work is left for quiet times: seconds until then. */
async function rest(server: Server): Promise<number> {
  const start = performance.now();
  let last = await countedBytes(server);
  let seconds = 0;
  for (let equal = 0; equal < RESTED_AFTER && seconds < REST_SECONDS_MAX; equal++) {
    await delay(1000);
    const now = await countedBytes(server);
    if (now === last) continue;
    seconds = (performance.now() - start) / 1000;
    equal = -1;
    last = now;
  }
  return seconds;
}

/** `du` decides; a pool that counts less than it takes is told off. */
async function compareCounts(
  server: Server,
  pool: string,
  when: string,
  notes: string[],
): Promise<number> {
  const counted = await countedBytes(server);
  const occupied = await occupiedBytes(pool);
  const difference = ((counted / occupied - 1) * 100).toFixed(2);
  notes.push(`${when}: du ${occupied} bytes, varve stats ${counted} (${difference} %)`);
  return occupied;
}
