// SPDX-License-Identifier: Apache-2.0
//
// How long it takes from a name to its first block: a fresh connection asks for a random moment out of the whole
// history, by LSN and by time in turn, and reads one random block of it.
//
//   cold    the daemon has just started, and the page cache is empty; that again for each round
//   warm    the same daemon, other moments: what is kept in memory helps, but no moment is asked for twice
//
// The client's own code is warmed up before. Closing isn't in the times.

import { Prng } from "../src/sim/prng.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Server } from "../test/interop/server.ts";
import { dropPageCache, settle, usageOf } from "./machine.ts";
import { BLOCK_BYTES, type KnownHistory } from "./moments-history.ts";

const CLIENT_WARM_UPS = 50;

export interface OpeningOptions {
  readonly server: Server;
  readonly volume: string;
  readonly volumeBytes: number;
  readonly history: KnownHistory;
  /** Starts of the daemon. */
  readonly rounds: number;
  /** In each round, cold and warm. */
  readonly openings: number;
  readonly isPageCacheDropped: boolean;
}

export const NAMINGS = ["lsn", "time"] as const;
export type Naming = (typeof NAMINGS)[number];

export interface Opening {
  readonly isCold: boolean;
  readonly naming: Naming;
  /** Since the daemon started; the first of all pays for code that never ran. */
  readonly isFirst: boolean;
  readonly moment: string;
  /** Until the export is open, and until its first block is there. */
  readonly openMs: number;
  readonly blockMs: number;
}

export interface OpeningResult {
  readonly openings: readonly Opening[];
  /** Of the daemon, to open one, read a block and close it; cold with all that it does after a start. */
  readonly cpuMsEach: { readonly cold: number; readonly warm: number };
}

export async function measureOpenings(options: OpeningOptions): Promise<OpeningResult> {
  const { server, rounds, openings } = options;
  const prng = new Prng(3);
  const results: Opening[] = [];
  const cpuSeconds = { cold: 0, warm: 0 };
  for (let round = 0; round < rounds; round++) {
    await server.stop();
    await settle();
    if (options.isPageCacheDropped) await dropPageCache();
    await server.restart();
    if (round === 0) {
      // The client's code; and a daemon that has been started again, as in each round.
      for (let turn = 0; turn < CLIENT_WARM_UPS; turn++) await openOnce(options, options.volume, 0);
      await server.stop();
      if (options.isPageCacheDropped) await dropPageCache();
      await server.restart();
    }
    for (const isCold of [true, false]) {
      const before = await usageOf(server.pid);
      for (let turn = 0; turn < openings; turn++) {
        const naming = NAMINGS[turn % NAMINGS.length]!;
        const opened = await openRandom(options, prng, naming);
        results.push({ isCold, naming, isFirst: isCold && turn === 0, ...opened });
      }
      const used = (await usageOf(server.pid)).cpuSeconds - before.cpuSeconds;
      cpuSeconds[isCold ? "cold" : "warm"] += used;
    }
  }
  const each = (seconds: number): number => (seconds * 1000) / (rounds * openings);
  const cpuMsEach = { cold: each(cpuSeconds.cold), warm: each(cpuSeconds.warm) };
  return { openings: results, cpuMsEach };
}

async function openRandom(
  options: OpeningOptions,
  prng: Prng,
  naming: Naming,
): Promise<{ moment: string; openMs: number; blockMs: number }> {
  const { history, volume, volumeBytes } = options;
  const { beginLsn, endLsn, beginMicros, endMicros } = history.built;
  const block = prng.below(volumeBytes / BLOCK_BYTES);
  const lsn = prng.between(beginLsn, endLsn + 1);
  const micros = beginMicros + Math.floor(prng.fraction() * (endMicros - beginMicros));
  const moment = naming === "lsn" ? `lsn:${lsn}` : timeOf(micros);
  const { content, openMs, blockMs } = await openOnce(options, `${volume}@${moment}`, block);
  if (naming === "lsn") history.check(lsn, block, content);
  return { moment, openMs, blockMs };
}

async function openOnce(
  { server }: OpeningOptions,
  exportName: string,
  block: number,
): Promise<{ content: Buffer; openMs: number; blockMs: number }> {
  const start = performance.now();
  const connection = await NbdConnection.open(server.socket, exportName);
  const openMs = performance.now() - start;
  const content = await connection.read(block * BLOCK_BYTES, BLOCK_BYTES);
  const blockMs = performance.now() - start;
  await connection.close();
  return { content, openMs, blockMs };
}

/** To the microsecond. */
function timeOf(micros: number): string {
  const text = new Date(Math.floor(micros / 1000)).toISOString();
  return text.replace("Z", `${String(micros % 1000).padStart(3, "0")}Z`);
}
