// SPDX-License-Identifier: Apache-2.0
//
// Whether the past costs speed: reading a view against reading the live disk, and writing to a disk with a long history
// against writing to one with none. fio over NBD, runs in turn, the order of the turns changing.
//
// Views are held open by a client while they are measured, as a disk of a virtual machine is; what the very first pass
// costs, when each page of the index is put together, is a row of its own.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { type FioResult, fio } from "./fio.ts";
import { settle, usageOf } from "./machine.ts";
import { BLOCK_BYTES } from "./moments-history.ts";
import { CONTENT, fillArguments, fioArguments, MIB, ROWS, type Row } from "./rows.ts";

export const READS: readonly Row[] = [rowOf("seqread"), rowOf("randread-32")];
const WRITES = rowOf("randwrite-32");
/** Of a run's length, what comes before it. */
const WARM_UP_SHARE = 0.25;
const RESTORE_MS_MAX = 120_000;

export interface SpeedOptions {
  readonly scratch: Scratch;
  readonly volume: string;
  readonly volumeBytes: number;
  readonly runs: number;
  readonly seconds: number;
  readonly say: (line: string) => void;
}

export interface Run extends FioResult {
  /** The server's. */
  readonly cpuSecondsPerMillion: number;
}

/** Results by what was measured, each with all its runs. */
export type Series = Record<string, Run[]>;

export class FioJobs {
  readonly #scratch: Scratch;
  #seed = 1;

  constructor(scratch: Scratch) {
    this.#scratch = scratch;
  }

  async run(
    server: Server,
    exportName: string,
    args: readonly string[],
    seconds?: number,
  ): Promise<Run> {
    const before = await usageOf(server.pid);
    const result = await fio({
      uri: `nbd+unix:///${encodeURIComponent(exportName)}?socket=${server.socket}`,
      args,
      ...(seconds !== undefined && { seconds }),
      seed: this.#seed++,
      reportPath: this.#scratch.path("fio.json"),
    });
    const { cpuSeconds } = await usageOf(server.pid);
    const used = cpuSeconds - before.cpuSeconds;
    return { ...result, cpuSecondsPerMillion: (used / result.requestCount) * 1e6 };
  }
}

export interface ReadOptions extends SpeedOptions {
  readonly server: Server;
  readonly workingSetBytes: number;
  /** What is read, by what it is called: export names, the live disk first. */
  readonly exports: Readonly<Record<string, string>>;
}

export interface ReadResult {
  /** By row, then by export. */
  readonly rows: Readonly<Record<string, Series>>;
  /** One pass in order, of an export that nobody had open: blocks from the page cache, pages of the index from nowhere. */
  readonly firstPass: Series;
}

export async function measureReads(options: ReadOptions): Promise<ReadResult> {
  const { server, scratch, seconds, runs, workingSetBytes, say } = options;
  const jobs = new FioJobs(scratch);
  const names = Object.entries(options.exports);
  const pass = passArguments(workingSetBytes);
  // Blocks of all exports come into the page cache.
  for (const [, name] of names) await jobs.run(server, name, pass);
  const empty = (): Series => Object.fromEntries(names.map(([what]) => [what, []]));
  const firstPass = empty();
  const rows = Object.fromEntries(READS.map(({ id }) => [id, empty()]));
  for (let round = 0; round < runs; round++) {
    for (const [what, name] of inTurn(names, round))
      firstPass[what]!.push(await jobs.run(server, name, pass));
  }
  const held = await Promise.all(names.map(([, name]) => NbdConnection.open(server.socket, name)));
  for (const row of READS) {
    const args = fioArguments(row, workingSetBytes);
    const series = rows[row.id]!;
    for (let round = 0; round < runs; round++) {
      for (const [what, name] of inTurn(names, round)) {
        await jobs.run(server, name, pass);
        await jobs.run(server, name, args, seconds * WARM_UP_SHARE);
        series[what]!.push(await jobs.run(server, name, args, seconds));
      }
    }
    say(`  ${row.label}: ${names.map(([what]) => `${what} ${rateOf(series[what])}`).join(", ")}`);
  }
  for (const connection of held) await connection.close();
  return { rows, firstPass };
}

/** Random overwrites of so many blocks. */
export async function writeRandomly(
  server: Server,
  options: SpeedOptions,
  blockCount: number,
): Promise<void> {
  const amount = [`--io_size=${blockCount * BLOCK_BYTES}`, "--norandommap"];
  const args = [...fioArguments(WRITES, options.volumeBytes), ...amount];
  await new FioJobs(options.scratch).run(server, options.volume, args);
}

/** The server with the history is stopped before, and after. */
export async function measureWrites(
  withHistory: Server,
  options: SpeedOptions,
): Promise<{ readonly history: Run[]; readonly none: Run[] }> {
  const { scratch, volume, volumeBytes, runs, say } = options;
  const jobs = new FioJobs(scratch);
  const directory = scratch.path("young");
  const results = { history: [] as Run[], none: [] as Run[] };
  const measured = async (server: Server): Promise<Run> => {
    const args = [...fioArguments(WRITES, volumeBytes), "--norandommap"];
    await server.restart();
    try {
      await jobs.run(server, volume, args, options.seconds * WARM_UP_SHARE);
      await dedupIndexRestored(server);
      await settle();
      return await jobs.run(server, volume, args, options.seconds);
    } finally {
      await server.stop();
    }
  };
  const works = [
    async (): Promise<void> => {
      results.history.push(await measured(withHistory));
    },
    async (): Promise<void> => {
      // New in each run: a run leaves history behind.
      await rm(directory, { recursive: true, force: true });
      const serveArgs = ["--exit-with-parent"];
      const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
      await jobs.run(server, volume, fillArguments(volumeBytes));
      await server.stop();
      results.none.push(await measured(server));
    },
  ];
  for (let round = 0; round < runs; round++) {
    for (const work of inTurn(works, round)) await work();
    const last = (list: readonly Run[]): string => (list.at(-1)?.iops ?? 0).toFixed(0);
    say(`  random writes: ${last(results.history)} with history, ${last(results.none)} with none`);
  }
  await rm(directory, { recursive: true, force: true });
  return results;
}

/** A start fills the index again in the background, from all that is stored: that isn't what is measured here. */
async function dedupIndexRestored(server: Server): Promise<void> {
  const daemon = new DaemonClient(join(server.directory, "pool"));
  const ends = performance.now() + RESTORE_MS_MAX;
  while ((await daemon.call("getStatistics", {})).dedup.unrestoredSegmentCount > 0) {
    if (performance.now() > ends) throw new Error("the deduplication index isn't restored yet");
    await delay(100);
  }
}

/** Every second time the other way round. */
export function inTurn<T>(list: readonly T[], round: number): readonly T[] {
  return round % 2 === 0 ? list : list.toReversed();
}

function passArguments(workingSetBytes: number): string[] {
  return ["--rw=read", `--bs=${MIB}`, "--iodepth=8", `--size=${workingSetBytes}`];
}

export function scatteredFill(volumeBytes: number, writtenBytes: number): string[] {
  const amount = [`--size=${volumeBytes}`, `--io_size=${writtenBytes}`, "--norandommap"];
  return ["--rw=randwrite", "--bs=64k", "--iodepth=32", ...amount, ...CONTENT];
}

function rowOf(id: string): Row {
  const row = ROWS.find((one) => one.id === id);
  if (row === undefined) throw new Error(`no row "${id}"`);
  return row;
}

function rateOf(runs: readonly Run[] | undefined): string {
  return (runs?.at(-1)?.iops ?? 0).toFixed(0);
}
