// SPDX-License-Identifier: Apache-2.0
//
// A new pool for bench/reduction-fio.ts, its daemon, and the fio jobs that write to it.
//
// fio makes a duplicate of a whole request: 1 MiB in the sequential job, 4 KiB in the random one. Left to
// itself it repeats the request just before, which a cache of one block would find; `working_set` takes
// any of the first unique requests instead. Contents come from the seed alone, not from where they are written:
// other seeds never share a block, and the same seed with the same options writes the same again.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { StatisticsJson } from "../src/api/types.ts";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { delay, until } from "../test/interop/command.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { type FioResult, fio } from "./fio.ts";
import { settle, usageOf } from "./machine.ts";
import { KIB, MIB } from "./rows.ts";

export const BLOCK_BYTES: number = 4 * KIB;
/** Whoever writes with a seed of its own writes new data. */
export const SEEDS = {
  warmRandom: 1,
  warmSequential: 2,
  fill: 3,
  image: 4,
  warmPair: 5,
  firstRun: 10,
};
const PATIENT = { timeoutMs: 600_000 };

/** What is written: how many of the requests are duplicates, and how much of each block is a constant. */
export interface Content {
  readonly dedupePercent: number;
  readonly compressPercent: number;
}

export const PAIR_WORKS = ["random", "sequential"] as const;
export type PairWork = (typeof PAIR_WORKS)[number];

export interface WorkOptions {
  readonly scratch: Scratch;
  readonly volumeBytes: number;
  readonly imageBytes: number;
  /** Of each run of random writes; the warm-up takes a quarter of it, twice. */
  readonly seconds: number;
  readonly serveArgs: readonly string[];
  readonly vdoRatio: string | undefined;
}

export interface Measured extends FioResult {
  readonly cpuSeconds: number;
  /** By which the pool's count of stored bytes grew: frames, records, index. */
  readonly storedBytes: number;
  /** Of the blocks written, 0 to 1: what the pool recognised. */
  readonly duplicateShare: number;
}

/** What a pool says of a volume that was made of a file. */
export interface StoredImage {
  readonly storedBytes: number;
  readonly dedupSavedBytes: number;
  readonly compressionSavedBytes: number;
}

export interface Job {
  readonly args: readonly string[];
  readonly seed: number;
  readonly seconds?: number;
  readonly exportName?: string;
}

/** A daemon on a pool of its own, with an empty volume. */
export class FreshPool {
  readonly #server: Server;
  readonly #options: WorkOptions;
  readonly #daemon: DaemonClient;

  private constructor(server: Server, options: WorkOptions) {
    this.#server = server;
    this.#options = options;
    this.#daemon = new DaemonClient(join(server.directory, "pool"));
  }

  static async start(options: WorkOptions): Promise<FreshPool> {
    const { scratch, volumeBytes, serveArgs } = options;
    const directory = scratch.path("fresh");
    await rm(directory, { recursive: true, force: true });
    const server = await Server.start("varve", {
      directory,
      sizeBytes: volumeBytes,
      serveArgs: [...serveArgs, "--exit-with-parent"],
    });
    scratch.defer("the daemon", () => server.stop());
    return new FreshPool(server, options);
  }

  /** The same jobs on another volume, for compilers and caches. */
  async warmUp(content: Content): Promise<void> {
    const { volumeBytes, seconds } = this.#options;
    await this.#server.varve(["create", "warm", `${volumeBytes}`]);
    for (const work of PAIR_WORKS) {
      await this.fio({
        args: jobArguments(work, content, volumeBytes),
        // Not the same, or the second job would write nothing but duplicates.
        seed: work === "random" ? SEEDS.warmRandom : SEEDS.warmSequential,
        seconds: seconds / 4,
        exportName: "warm",
      });
    }
    await this.#flush();
  }

  fio({ args, seed, seconds, exportName = "db" }: Job): Promise<FioResult> {
    return fio({
      uri: `nbd+unix:///${exportName}?socket=${this.#server.socket}`,
      args,
      ...(seconds !== undefined && { seconds }),
      seed,
      reportPath: this.#options.scratch.path("fio.json"),
    });
  }

  async measured(job: Job): Promise<Measured> {
    await settle();
    const before = await this.#rested();
    const { cpuSeconds } = await usageOf(this.#server.pid);
    const result = await this.fio(job);
    const used = (await usageOf(this.#server.pid)).cpuSeconds - cpuSeconds;
    await this.#flush();
    const after = await this.#rested();
    const duplicateBytes = (after.dedup.hitCount - before.dedup.hitCount) * BLOCK_BYTES;
    return {
      ...result,
      cpuSeconds: used,
      storedBytes: after.pool.storedBytes - before.pool.storedBytes,
      duplicateShare: duplicateBytes / result.bytes,
    };
  }

  /** Stores a file as a volume, and says what that took. */
  async importImage(path: string): Promise<StoredImage> {
    const before = await this.#rested();
    await this.#server.varve(["import", path, "image", "--progress", "none"], PATIENT);
    const after = await this.#rested();
    const start = performance.now();
    let statistics: StatisticsJson | undefined;
    // The savings are counted in the background, and not twice within ten seconds.
    await until(
      "a count newer than the import",
      async () => {
        statistics = await this.#daemon.call("getStatistics", { fresh: "true" });
        return (statistics.census?.ageMs ?? Infinity) <= performance.now() - start;
      },
      { timeoutMs: 120_000, everyMs: 200 },
    );
    const image = statistics!.volumes.find(({ name }) => name === "image")!;
    return {
      storedBytes: after.pool.storedBytes - before.pool.storedBytes,
      dedupSavedBytes: image.dedupSavedBytes,
      compressionSavedBytes: image.compressionSavedBytes,
    };
  }

  async discard(): Promise<void> {
    await this.#server.stop();
    await rm(this.#server.directory, { recursive: true, force: true });
  }

  /** The counters, once what is stored changes no more: an index may still be on its way to the disk. */
  async #rested(): Promise<StatisticsJson> {
    let last = await this.#daemon.call("getStatistics", { fresh: "false" });
    await until(
      "the pool at rest",
      async () => {
        await delay(200);
        const { storedBytes } = last.pool;
        last = await this.#daemon.call("getStatistics", { fresh: "false" });
        return last.pool.storedBytes === storedBytes;
      },
      { timeoutMs: 60_000 },
    );
    return last;
  }

  async #flush(): Promise<void> {
    const connection = await NbdConnection.open(this.#server.socket, this.#server.exportName);
    await connection.flush();
    await connection.close();
  }
}

export function jobArguments(work: PairWork, content: Content, sizeBytes: number): string[] {
  const blockBytes = work === "random" ? BLOCK_BYTES : MIB;
  return [
    ...(work === "random" ? ["--rw=randwrite", "--norandommap"] : ["--rw=write"]),
    `--bs=${blockBytes}`,
    `--iodepth=${work === "random" ? 32 : 8}`,
    `--size=${sizeBytes}`,
    ...contentArguments(content, blockBytes, sizeBytes),
  ];
}

/** Duplicates are of the first hundredth of the job's requests, or of one: a percentage is all that fio takes. */
export function contentArguments(
  content: Content,
  blockBytes: number,
  sizeBytes: number,
): string[] {
  const { dedupePercent, compressPercent } = content;
  const workingSetPercent = Math.max(1, Math.ceil((100 * blockBytes) / sizeBytes));
  return [
    "--refill_buffers",
    `--dedupe_percentage=${dedupePercent}`,
    `--buffer_compress_percentage=${compressPercent}`,
    ...(dedupePercent > 0
      ? ["--dedupe_mode=working_set", `--dedupe_working_set_percentage=${workingSetPercent}`]
      : []),
  ];
}
