// SPDX-License-Identifier: Apache-2.0
//
// Two rows that are no stream of requests but one event each: how long a client waits for its first
// read after the server was killed with -9 under load (start of the process, recovery, handshake and
// read, all of it), and how long the trim of a whole huge device takes. Where the server has extended
// headers the trim is one request; else it is the fewest that 32-bit lengths allow, all in flight.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { delay } from "../test/interop/command.ts";
import { COMMAND, NbdConnection } from "../test/interop/nbd-connection.ts";
import { Server, type ServerKind } from "../test/interop/server.ts";
import { fio } from "./fio.ts";
import { forgetOldPayloads } from "./forgetful-log.ts";
import { occupiedBytes, usageOf } from "./machine.ts";
import { CONTENT, GIB, KIB, MIB } from "./rows.ts";

interface ShotOptions {
  readonly scratch: string;
  readonly runs: number;
  readonly varveArgs: readonly string[];
  readonly say: (line: string) => void;
}

export interface RestartOptions extends ShotOptions {
  readonly volumeBytes: number;
  /** Written at random before the first kill, each block once. */
  readonly mappedBytes: number;
  /** Old payloads are punched out during the fill: for more than the disk holds. Varve only. */
  readonly isForgetful: boolean;
}

export interface RestartResult {
  readonly firstReadMs: readonly number[];
  readonly mappedBytes: number;
  readonly fillSeconds: number;
  readonly fillPeakResidentBytes: number;
  readonly restartedResidentBytes: number;
  readonly storedBytes: number;
  /** What `varve stats` says after the fill; Varve only. */
  readonly statistics?: Readonly<Record<string, unknown>>;
}

/** Kill -9 under load, start, first read. */
export async function measureRestart(
  kind: ServerKind,
  options: RestartOptions,
): Promise<RestartResult> {
  const directory = join(options.scratch, `${kind}-restart`);
  const server = await Server.start(kind, {
    directory,
    sizeBytes: options.volumeBytes,
    serveArgs: options.varveArgs,
  });
  const write = ["--rw=randwrite", "--bs=4k", "--iodepth=32", ...CONTENT];
  const reportPath = join(options.scratch, "fio.json");
  try {
    const started = performance.now();
    // Every block at most once: so `mappedBytes` is what is mapped afterwards, all over the volume.
    const amount = [`--size=${options.volumeBytes}`, `--io_size=${options.mappedBytes}`];
    const args = [...write, ...amount, "--random_generator=lfsr"];
    const forgetful = options.isForgetful
      ? forgetOldPayloads(join(directory, "pool"))
      : { end: async () => {} };
    await fio({ uri: server.uri, args, seed: 1, reportPath }).finally(() => forgetful.end());
    const fillSeconds = (performance.now() - started) / 1000;
    const filled = await usageOf(server.pid);
    const statistics = await statisticsOf(server);
    options.say(
      `  ${kind}: mapped ${options.mappedBytes / MIB} MiB in ${fillSeconds.toFixed(1)} s`,
    );
    const firstReadMs: number[] = [];
    for (let round = 0; round < options.runs; round++) {
      const args = [...write, `--size=${options.volumeBytes}`, "--norandommap"];
      const load = fio({ uri: server.uri, args, seconds: 30, seed: 2 + round, reportPath });
      load.catch(() => {}); // it ends with the server's death
      await delay(1000);
      await writeFirstBlock(server);
      await server.kill9();
      await load.catch(() => {});
      firstReadMs.push(await timeToFirstRead(server));
    }
    return {
      firstReadMs,
      mappedBytes: options.mappedBytes,
      fillSeconds,
      fillPeakResidentBytes: filled.peakResidentBytes,
      restartedResidentBytes: (await usageOf(server.pid)).peakResidentBytes,
      storedBytes: await occupiedBytes(directory),
      ...(statistics && { statistics }),
    };
  } finally {
    await server.kill9();
    await rm(directory, { recursive: true, force: true });
  }
}

async function statisticsOf(server: Server): Promise<Record<string, unknown> | undefined> {
  if (server.kind !== "varve") return undefined;
  const { stdout } = await server.varve(["stats", "--json"]);
  return (JSON.parse(stdout) as { pool: Record<string, unknown> }).pool;
}

/** A block whose payload surely exists, to be read after the restart. */
async function writeFirstBlock(server: Server): Promise<void> {
  const connection = await NbdConnection.open(server.socket, server.exportName);
  await connection.write(0, Buffer.alloc(4 * KIB, 0xa5));
  await connection.close();
}

async function timeToFirstRead(server: Server): Promise<number> {
  const start = performance.now();
  await server.launch();
  await server.ready();
  const connection = await NbdConnection.open(server.socket, server.exportName);
  const block = await connection.read(0, 4 * KIB);
  const elapsed = performance.now() - start;
  await connection.close();
  // The load may have overwritten it, but not with nothing.
  if (block.every((byte) => byte === 0)) throw new Error(`${server.kind}: the first block is lost`);
  return elapsed;
}

export interface TrimResult {
  readonly volumeBytes: number;
  readonly requestCount: number;
  readonly trimMs: readonly number[];
  /** Until a FLUSH after the trim has been answered. */
  readonly flushedMs: readonly number[];
}

const LARGEST_RAW_BYTES = 15 * 1024 * GIB; // ext4 ends just below 16 TiB
const LARGEST_REQUEST_BYTES = 2 ** 32 - 64 * KIB;

/** The whole of a huge device in one go, with data all over it. */
export async function measureTrim(
  kind: ServerKind,
  options: ShotOptions & { readonly volumeBytes: number; readonly writtenBytes: number },
): Promise<TrimResult> {
  const isRaw = kind === "nbdkit" || kind === "qemu-raw";
  const volumeBytes = Math.min(options.volumeBytes, isRaw ? LARGEST_RAW_BYTES : Infinity);
  const directory = join(options.scratch, `${kind}-trim`);
  const server = await Server.start(kind, {
    directory,
    sizeBytes: volumeBytes,
    serveArgs: options.varveArgs,
  });
  const trimMs: number[] = [];
  const flushedMs: number[] = [];
  let requestCount = 0;
  try {
    for (let round = 0; round < options.runs; round++) {
      const amount = [`--size=${volumeBytes}`, `--io_size=${options.writtenBytes}`];
      const args = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap", ...CONTENT];
      const reportPath = join(options.scratch, "fio.json");
      await fio({ uri: server.uri, args: [...args, ...amount], seed: round + 1, reportPath });
      const connection = await openForTrim(server);
      await connection.flush();
      const lengths = trimLengths(volumeBytes, connection.isExtended);
      requestCount = lengths.length;
      const start = performance.now();
      let offset = 0;
      const trims = lengths.map((length) => {
        const trim = connection.submit({ command: COMMAND.TRIM, offset, length });
        offset += length;
        return trim;
      });
      await Promise.all(trims);
      trimMs.push(performance.now() - start);
      await connection.flush();
      flushedMs.push(performance.now() - start);
      await connection.close();
    }
    return { volumeBytes, requestCount, trimMs, flushedMs };
  } finally {
    await server.kill9();
    await rm(directory, { recursive: true, force: true });
  }
}

async function openForTrim(server: Server): Promise<NbdConnection> {
  return await NbdConnection.open(server.socket, server.exportName, { isExtended: true }).catch(
    () => NbdConnection.open(server.socket, server.exportName),
  );
}

function trimLengths(volumeBytes: number, isExtended: boolean): number[] {
  if (isExtended) return [volumeBytes];
  const lengths: number[] = [];
  for (let left = volumeBytes; left > 0; left -= LARGEST_REQUEST_BYTES)
    lengths.push(Math.min(left, LARGEST_REQUEST_BYTES));
  return lengths;
}
