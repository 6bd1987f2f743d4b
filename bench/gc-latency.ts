// SPDX-License-Identifier: Apache-2.0
//
// What a client feels of garbage collection: random 4 KiB writes at depth 32 over NBD,
//
//   quiet       all history is kept, so nothing is collected
//   collecting  no history is kept, and one thorough collection (`varve gc`) follows the other
//   full        the pool is so small that what it must keep is four fifths of it: clients wait for what is freed
//
// Quiet and collecting runs take turns, and the order within a turn changes, so that each finds what the other left:
// what was written in a quiet run is the garbage of the next.

import { join } from "node:path";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { delay } from "../test/interop/command.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { type FioResult, fio } from "./fio.ts";
import { settle } from "./machine.ts";
import { CONTENT, fillArguments } from "./rows.ts";

export interface LatencyOptions {
  readonly scratch: Scratch;
  readonly volumeBytes: number;
  readonly runs: number;
  readonly seconds: number;
  readonly fillShare: number;
  readonly say: (line: string) => void;
}

export interface LatencySample extends FioResult {
  /** Of the run's time, 0 to 1. */
  readonly collectingShare: number;
  /** A second, in the collections that were under way or ended in the run. */
  readonly movedBytesPerSecond: number;
}

export interface LatencyResult {
  readonly quiet: readonly LatencySample[];
  readonly collecting: readonly LatencySample[];
  readonly full: readonly LatencySample[];
}

const WRITES = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap", ...CONTENT];
const LOOK_MS = 100;

export async function measureLatency(options: LatencyOptions): Promise<LatencyResult> {
  const { scratch, volumeBytes, runs, fillShare, say } = options;
  const directory = scratch.path("latency");
  const serveArgs = ["--exit-with-parent"];
  const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
  scratch.defer("the daemon", () => server.stop());
  const under = new UnderTest(server, options);
  await under.fio(fillArguments(volumeBytes));
  await under.fio(WRITES, 1);
  const quiet: LatencySample[] = [];
  const collecting: LatencySample[] = [];
  for (let round = 0; round < runs; round++) {
    const inTurn = [
      async () => quiet.push(await under.quietly()),
      async () => collecting.push(await under.collecting()),
    ];
    for (const measure of round % 2 === 0 ? inTurn : inTurn.toReversed()) await measure();
    const [without, beside] = [quiet.at(-1), collecting.at(-1)];
    say(`  p99: ${without?.p99Micros.toFixed(0)} µs quiet, ${beside?.p99Micros.toFixed(0)} µs`);
  }
  await under.makeFull(fillShare);
  const full: LatencySample[] = [];
  for (let round = 0; round < runs; round++) full.push(await under.measured());
  say(`  p99: ${full.at(-1)?.p99Micros.toFixed(0)} µs in the full pool`);
  await server.stop();
  return { quiet, collecting, full };
}

class UnderTest {
  readonly #server: Server;
  readonly #options: LatencyOptions;
  readonly #daemon: DaemonClient;
  #seed = 1;

  constructor(server: Server, options: LatencyOptions) {
    this.#server = server;
    this.#options = options;
    this.#daemon = new DaemonClient(join(server.directory, "pool"));
  }

  fio(args: readonly string[], seconds?: number): Promise<FioResult> {
    const { scratch, volumeBytes } = this.#options;
    return fio({
      uri: this.#server.uri,
      args: [...args, `--size=${volumeBytes}`],
      ...(seconds !== undefined && { seconds }),
      seed: this.#seed++,
      reportPath: scratch.path("fio.json"),
    });
  }

  async quietly(): Promise<LatencySample> {
    await this.#server.varve(["retention", "--all"]);
    return await this.measured();
  }

  async collecting(): Promise<LatencySample> {
    await this.#server.varve(["retention", "--none"]);
    let isOver = false;
    const loop = this.#collectUntil(() => isOver);
    const sample = await this.measured().finally(() => {
      isOver = true;
    });
    return { ...sample, movedBytesPerSecond: await loop };
  }

  /** Bytes that were moved a second. */
  async #collectUntil(isOver: () => boolean): Promise<number> {
    const started = performance.now();
    let movedBytes = 0;
    while (!isOver()) {
      const { run } = await this.#daemon.call("startGc", { isDryRun: false });
      let status = await this.#daemon.call("getGc", {});
      for (; status.run === run && status.isRunning; status = await this.#daemon.call("getGc", {}))
        await delay(LOOK_MS);
      movedBytes += status.report?.bytesMoved ?? 0;
    }
    return (movedBytes * 1000) / (performance.now() - started);
  }

  /** A pool with no more room than it needs, and already so full that each write waits for space. */
  async makeFull(fillShare: number): Promise<void> {
    await this.#server.varve(["retention", "--none"]);
    await this.#server.varve(["gc"], { timeoutMs: 300_000 });
    const { pool } = await this.#daemon.call("getStatistics", { fresh: "false" });
    await this.#server.varve(["set", `pool-size=${Math.ceil(pool.storedBytes / fillShare)}`]);
    await this.fio([...WRITES, `--io_size=${this.#options.volumeBytes}`]);
  }

  async measured(): Promise<LatencySample> {
    await settle();
    let lookCount = 0;
    let collectingCount = 0;
    const watch = setInterval(() => {
      void this.#daemon.call("getGc", {}).then(({ progress }) => {
        lookCount += 1;
        if (progress !== undefined) collectingCount += 1;
      });
    }, LOOK_MS);
    const started = performance.now();
    const before = await this.#movedBytes();
    const { seconds } = this.#options;
    const result = await this.fio(WRITES, seconds).finally(() => clearInterval(watch));
    const moved = (await this.#movedBytes()) - before;
    return {
      ...result,
      collectingShare: collectingCount / Math.max(1, lookCount),
      movedBytesPerSecond: (moved * 1000) / (performance.now() - started),
    };
  }

  async #movedBytes(): Promise<number> {
    const { gc } = await this.#daemon.call("getStatistics", { fresh: "false" });
    return gc.movedBytes;
  }
}
