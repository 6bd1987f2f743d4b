// SPDX-License-Identifier: Apache-2.0
//
// One run of one row on one server: settle the disk, empty the page cache, start the server on its store,
// read or write a little so that caches and compilers are warm, measure, flush, stop. Only one server runs at a time;
// each keeps a store of its own from run to run, which is made anew and filled again, by the same job
// for all, when it has grown beyond the limit or when a row wants a fresh one.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import { Server, type ServerKind } from "../test/interop/server.ts";
import { type FioResult, fio } from "./fio.ts";
import { deviceWrittenBytes, dropPageCache, occupiedBytes, settle, usageOf } from "./machine.ts";
import { fillArguments, fioArguments, MIB, type Row } from "./rows.ts";

export interface BenchOptions {
  readonly scratch: string;
  readonly volumeBytes: number;
  readonly seconds: number;
  readonly warmUpSeconds: number;
  readonly storeLimitBytes: number;
  /** Every run begins with an empty page cache. */
  readonly isPageCacheDropped: boolean;
  readonly varveArgs: readonly string[];
  readonly say: (line: string) => void;
}

export interface Sample extends FioResult {
  readonly cpuSecondsPerMillion: number;
  readonly peakResidentBytes: number;
  /** Written to the device, per byte that the client wrote, until the device was quiet again. */
  readonly writtenPerByte?: number;
  /** The same by /proc/PID/io, which charges a whole large folio for a block: for comparison only. */
  readonly chargedPerByte?: number;
  /** Growth of the store per byte that the client wrote. */
  readonly storedPerByte?: number;
}

/** A server of one kind with its filled store; stopped except while something is measured. */
export class Contender {
  readonly kind: ServerKind;
  readonly #options: BenchOptions;
  #server: Server | undefined;
  #seed = 1;

  constructor(kind: ServerKind, options: BenchOptions) {
    this.kind = kind;
    this.#options = options;
  }

  get commandLine(): string {
    return this.#server?.commandLine ?? "";
  }

  get #directory(): string {
    return join(this.#options.scratch, this.kind);
  }

  get #reportPath(): string {
    return join(this.#options.scratch, "fio.json");
  }

  /** A filled store within its limit, and no process. */
  async prepare(): Promise<void> {
    const { storeLimitBytes, volumeBytes, varveArgs } = this.#options;
    if (this.#server && (await occupiedBytes(this.#directory)) <= storeLimitBytes) return;
    await this.discard();
    await settle();
    const server = await Server.start(this.kind, {
      directory: this.#directory,
      sizeBytes: volumeBytes,
      serveArgs: varveArgs,
    });
    this.#server = server;
    const start = performance.now();
    try {
      await this.#fio(fillArguments(volumeBytes));
      await flush(server);
    } finally {
      await server.stop();
    }
    const seconds = (performance.now() - start) / 1000;
    this.#options.say(
      `  ${this.kind}: filled ${volumeBytes / MIB} MiB in ${seconds.toFixed(1)} s, ` +
        `store ${Math.round((await occupiedBytes(this.#directory)) / MIB)} MiB`,
    );
  }

  async discard(): Promise<void> {
    await this.#server?.kill9();
    this.#server = undefined;
    await rm(this.#directory, { recursive: true, force: true });
  }

  #fio(args: readonly string[], seconds?: number): Promise<FioResult> {
    return fio({
      uri: this.#server!.uri,
      args,
      ...(seconds !== undefined && { seconds }),
      seed: this.#seed++,
      reportPath: this.#reportPath,
    });
  }

  async measure(row: Row): Promise<Sample> {
    await this.prepare();
    const server = this.#server!;
    const { seconds, warmUpSeconds, volumeBytes, scratch } = this.#options;
    const args = fioArguments(row, volumeBytes);
    await settle();
    if (this.#options.isPageCacheDropped) await dropPageCache();
    await server.restart();
    try {
      if (row.isRead) await this.#primeReads(row);
      await this.#fio(args, warmUpSeconds);
      await flush(server);
      await settle();
      const storedBefore = await occupiedBytes(this.#directory);
      const deviceBefore = await deviceWrittenBytes(scratch);
      const before = await usageOf(server.pid);
      const result = await this.#fio(args, seconds);
      const after = await usageOf(server.pid);
      if (!row.isRead) await flush(server);
      const flushed = await usageOf(server.pid);
      await settle();
      const perByte = (bytes: number): number => bytes / result.bytes;
      return {
        ...result,
        cpuSecondsPerMillion: ((after.cpuSeconds - before.cpuSeconds) / result.requestCount) * 1e6,
        peakResidentBytes: flushed.peakResidentBytes,
        ...(!row.isRead && {
          writtenPerByte: perByte((await deviceWrittenBytes(scratch)) - deviceBefore),
          chargedPerByte: perByte(flushed.chargedBytes - before.chargedBytes),
          storedPerByte: perByte((await occupiedBytes(this.#directory)) - storedBefore),
        }),
      };
    } finally {
      await server.stop();
    }
  }

  /** Brings what will be read into the page cache, for every server in the same way. */
  async #primeReads(row: Row): Promise<void> {
    const size = Math.min(row.workingSetBytes ?? Infinity, this.#options.volumeBytes);
    // A working set is read the way it will be used: whatever a server keeps, it keeps it by then.
    const blockBytes = row.workingSetBytes === undefined ? MIB : row.blockBytes;
    const depth = row.workingSetBytes === undefined ? 8 : row.depth;
    await this.#fio(["--rw=read", `--bs=${blockBytes}`, `--iodepth=${depth}`, `--size=${size}`]);
  }
}

/** FLUSH over the wire: whatever the server does behind its replies is done after this. */
async function flush(server: Server): Promise<void> {
  const connection = await NbdConnection.open(server.socket, server.exportName);
  await connection.flush();
  await connection.close();
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
