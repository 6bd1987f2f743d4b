// SPDX-License-Identifier: Apache-2.0
//
// Rewinding a huge, sparse volume in place: through the control socket, and with the command, which starts a Node of
// its own. Before each rewind a block is overwritten, and after it the block must be as it was before.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { BLOCK_BYTES } from "./moments-history.ts";
import { FioJobs, scatteredFill } from "./moments-speed.ts";

export interface RewindOptions {
  readonly scratch: Scratch;
  readonly volumeBytes: number;
  /** Scattered over it in pieces of 64 KiB. */
  readonly writtenBytes: number;
  readonly runs: number;
}

export interface RewindResult {
  readonly apiMs: readonly number[];
  readonly commandMs: readonly number[];
  /** After a rewind, on a fresh connection: until a block is read. */
  readonly firstBlockMs: readonly number[];
}

const VOLUME = "db";

export async function measureRewinds(options: RewindOptions): Promise<RewindResult> {
  const { scratch, volumeBytes, writtenBytes, runs } = options;
  const directory = scratch.path("rewound");
  const serveArgs = ["--exit-with-parent"];
  const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
  scratch.defer("the daemon of the rewinds", () => server.stop());
  await new FioJobs(scratch).run(server, VOLUME, scatteredFill(volumeBytes, writtenBytes));
  const daemon = new DaemonClient(join(directory, "pool"));
  const rewinds = {
    apiMs: (moment: string) => daemon.call("rewindVolume", { volume: VOLUME, moment }),
    commandMs: (moment: string) => server.varve(["rewind", `${VOLUME}@${moment}`]),
  };
  const result = { apiMs: [] as number[], commandMs: [] as number[], firstBlockMs: [] as number[] };
  for (let round = 0; round < runs; round++) {
    for (const [way, rewind] of Object.entries(rewinds) as [keyof typeof rewinds, Rewind][]) {
      const content = Buffer.alloc(BLOCK_BYTES, `${way} ${round}`);
      const offset = Math.floor((volumeBytes / BLOCK_BYTES / runs) * round) * BLOCK_BYTES;
      await write(server, offset, content);
      const { lsn } = await daemon.call("resolveMoment", { volume: VOLUME, moment: "now" });
      await write(server, offset, Buffer.alloc(BLOCK_BYTES, "an accident"));
      const start = performance.now();
      await rewind(`lsn:${lsn}`);
      result[way].push(performance.now() - start);
      const opened = performance.now();
      const connection = await NbdConnection.open(server.socket, VOLUME);
      const found = await connection.read(offset, BLOCK_BYTES);
      result.firstBlockMs.push(performance.now() - opened);
      await connection.close();
      if (!found.equals(content)) throw new Error(`lsn ${lsn}: rewound, but not to what was there`);
    }
  }
  await server.stop();
  await rm(directory, { recursive: true, force: true });
  return result;
}

type Rewind = (moment: string) => Promise<unknown>;

async function write(server: Server, offset: number, content: Buffer): Promise<void> {
  const connection = await NbdConnection.open(server.socket, VOLUME);
  await connection.write(offset, content);
  await connection.close();
}
