// SPDX-License-Identifier: Apache-2.0
//
// Clones of a filled volume: many of one moment, asked for all at once through the control socket, and a chain in which
// each is a clone of the one before, with something written to it. What they take is what the pool's count of stored
// bytes grows by, up to the next checkpoint. Reading at the end of the chain is measured against reading the volume that
// it began from.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { BLOCK_BYTES } from "./moments-history.ts";
import { FioJobs, inTurn, type Run } from "./moments-speed.ts";
import { fillArguments, fioArguments, KIB, type Row } from "./rows.ts";

const VOLUME = "db";
/** Requests to the control socket at once. */
const AT_ONCE = 32;
export const LINK_BYTES: number = 64 * KIB;

export interface CloneOptions {
  readonly scratch: Scratch;
  readonly volumeBytes: number;
  readonly cloneCount: number;
  readonly chainLength: number;
  readonly row: Row;
  readonly runs: number;
  readonly seconds: number;
  readonly say: (line: string) => void;
}

/** What a way of making clones, snapshots or a chain takes. */
export interface Made {
  readonly count: number;
  readonly seconds: number;
  readonly bytesEach: number;
}

export interface EndOfChain {
  readonly length: number;
  /** Making a link, without what is written to it. */
  readonly linkMs: number;
  readonly base: readonly Run[];
  readonly end: readonly Run[];
}

export interface CloneResult {
  readonly clones: Made;
  /** Of the daemon's resident memory. */
  readonly memoryBytesEach: number;
  /** With all clones there: from the start of the daemon until a block of the last one is read. */
  readonly restartMs: number;
  readonly chain: EndOfChain;
}

export async function measureClones(options: CloneOptions): Promise<CloneResult> {
  const { scratch, volumeBytes, cloneCount, say } = options;
  const directory = scratch.path("cloned");
  const serveArgs = ["--exit-with-parent"];
  const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
  scratch.defer("the daemon of the clones", () => server.stop());
  const jobs = new FioJobs(scratch);
  await jobs.run(server, VOLUME, fillArguments(volumeBytes));
  const daemon = new DaemonClient(join(directory, "pool"));
  await warmUp(daemon);
  const before = await atCheckpoint(daemon);
  const start = performance.now();
  const clone = async (first: number): Promise<void> => {
    for (let at = first; at < cloneCount; at += AT_ONCE)
      await daemon.call("cloneVolume", { volume: VOLUME, to: `clone-${at}` });
  };
  await Promise.all(Array.from({ length: AT_ONCE }, (_, first) => clone(first)));
  const seconds = (performance.now() - start) / 1000;
  const after = await atCheckpoint(daemon);
  const bytesEach = (after.storedBytes - before.storedBytes) / cloneCount;
  const memoryBytesEach = (after.residentBytes - before.residentBytes) / cloneCount;
  say(`  ${cloneCount} clones in ${seconds.toFixed(2)} s, ${bytesEach.toFixed(0)} bytes each`);
  const restartMs = await restarted(server, `clone-${cloneCount - 1}`);
  const chain = await measureChain(server, daemon, jobs, options);
  await server.stop();
  await rm(directory, { recursive: true, force: true });
  return { clones: { count: cloneCount, seconds, bytesEach }, memoryBytesEach, restartMs, chain };
}

/** The code of both sides. */
async function warmUp(daemon: DaemonClient): Promise<void> {
  for (let turn = 0; turn < AT_ONCE; turn++)
    await daemon.call("cloneVolume", { volume: VOLUME, to: `warm-${turn}` });
}

async function atCheckpoint(
  daemon: DaemonClient,
): Promise<{ storedBytes: number; residentBytes: number }> {
  await daemon.call("checkpoint", {});
  return (await daemon.call("getStatistics", { fresh: "false" })).pool;
}

async function restarted(server: Server, exportName: string): Promise<number> {
  await server.stop();
  const start = performance.now();
  await server.restart();
  const connection = await NbdConnection.open(server.socket, exportName);
  const block = await connection.read(0, BLOCK_BYTES);
  const elapsed = performance.now() - start;
  await connection.close();
  if (block.every((byte) => byte === 0)) throw new Error(`${exportName}: its content is lost`);
  return elapsed;
}

async function measureChain(
  server: Server,
  daemon: DaemonClient,
  jobs: FioJobs,
  options: CloneOptions,
): Promise<EndOfChain> {
  const { volumeBytes, chainLength, say } = options;
  let volume = VOLUME;
  let linkMs = 0;
  for (let link = 1; link <= chainLength; link++) {
    const to = `link-${link}`;
    const start = performance.now();
    await daemon.call("cloneVolume", { volume, to });
    linkMs += performance.now() - start;
    await writeLink(server, to, linkOffset(volumeBytes, link), link);
    volume = to;
  }
  linkMs /= chainLength;
  say(`  a chain of ${chainLength}: ${linkMs.toFixed(2)} ms a link`);
  for (const link of [1, Math.ceil(chainLength / 2), chainLength])
    await checkLink(server, volume, linkOffset(volumeBytes, link), link);
  const ends = await measureEnds(server, jobs, options, { base: VOLUME, end: volume });
  return { length: chainLength, linkMs, ...ends };
}

/** Where each link differs from the one before; not twice in the same place. */
export function linkOffset(volumeBytes: number, link: number): number {
  const places = volumeBytes / LINK_BYTES;
  return ((link * 7919) % places) * LINK_BYTES;
}

async function writeLink(server: Server, name: string, offset: number, link: number) {
  const connection = await NbdConnection.open(server.socket, name);
  await connection.write(offset, Buffer.alloc(LINK_BYTES, `link ${link} `));
  await connection.close();
}

async function checkLink(server: Server, name: string, offset: number, link: number) {
  const connection = await NbdConnection.open(server.socket, name);
  const found = await connection.read(offset, LINK_BYTES);
  await connection.close();
  if (!found.equals(Buffer.alloc(LINK_BYTES, `link ${link} `)))
    throw new Error(`${name}: what was written to link ${link} isn't there`);
}

async function measureEnds(
  server: Server,
  jobs: FioJobs,
  options: CloneOptions,
  names: { readonly base: string; readonly end: string },
): Promise<{ base: Run[]; end: Run[] }> {
  const { volumeBytes, row, runs, seconds, say } = options;
  const results = { base: [] as Run[], end: [] as Run[] };
  const args = fioArguments(row, volumeBytes);
  for (let round = 0; round < runs; round++) {
    for (const place of inTurn(["base", "end"] as const, round)) {
      await jobs.run(server, names[place], primeArguments(row, volumeBytes));
      results[place].push(await jobs.run(server, names[place], args, seconds));
    }
  }
  const last = (list: readonly Run[]): string => (list.at(-1)?.iops ?? 0).toFixed(0);
  say(`  random reads: ${last(results.base)} at its beginning, ${last(results.end)} at its end`);
  return results;
}

/** One pass over the working set, in the blocks in which it will be read. */
export function primeArguments(row: Row, volumeBytes: number): string[] {
  const size = Math.min(row.workingSetBytes ?? volumeBytes, volumeBytes);
  return ["--rw=read", `--bs=${row.blockBytes}`, `--iodepth=${row.depth}`, `--size=${size}`];
}
