// SPDX-License-Identifier: Apache-2.0
//
// `varve top`: what each volume does per second, as the difference of two looks at the counters. On a
// terminal the table stays in place, like top's; the screen is given back however it ends.

import type { StatisticsJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import { formatDuration, formatSize, parseDurationMs } from "../../base/units.ts";
import { createClock } from "../../host/node/clock.ts";
import type { CommandContext } from "../command.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { formatTable, type Output, plain } from "../output.ts";
import { countOf } from "../values.ts";

const INTERVAL_MS_MIN = 100;
const INTERVAL_MS_MAX = 3_600_000;

const SCREEN = {
  enter: "\u001b[?1049h\u001b[?25l",
  leave: "\u001b[?25h\u001b[?1049l",
  home: "\u001b[H",
  clearLine: "\u001b[K",
  clearBelow: "\u001b[J",
} as const;

interface Rates {
  readonly name: string;
  readonly clientCount: number;
  readonly readsPerSecond: number;
  readonly readBytesPerSecond: number;
  readonly writesPerSecond: number;
  readonly writeBytesPerSecond: number;
  readonly flushesPerSecond: number;
}

export async function run(context: CommandContext): Promise<undefined> {
  const intervalMs = intervalOf(context.option("interval") ?? "1s");
  const count = countOf("count", context.option("count") ?? "0");
  const daemon = await context.daemon();
  const isScreen = context.output.isTerminal && !context.isJson;
  // Asked before the screen changes: "no daemon" must stay readable.
  const first = await daemon.call("getStatistics", {});
  if (!isScreen) return watch(context, { daemon, intervalMs, count, first, isScreen });
  const keys = new KeyWatch();
  context.output.raw(SCREEN.enter);
  try {
    await watch(context, { daemon, intervalMs, count, first, isScreen, keys });
  } finally {
    context.output.raw(SCREEN.leave);
    keys.close();
  }
}

interface Watch {
  readonly daemon: DaemonClient;
  readonly intervalMs: number;
  /** 0: for ever. */
  readonly count: number;
  readonly first: StatisticsJson;
  readonly isScreen: boolean;
  readonly keys?: KeyWatch;
}

async function watch({ output, isJson }: CommandContext, options: Watch): Promise<undefined> {
  const { daemon, intervalMs, count, isScreen, keys } = options;
  const clock = createClock();
  let before = options.first;
  for (let look = 1; count === 0 || look <= count; look += 1) {
    await new Promise<void>((resolve) => {
      const cancel = clock.after(intervalMs, resolve);
      keys?.onQuit(() => {
        cancel();
        resolve();
      });
    });
    if (keys?.isQuit) return;
    const now = await daemon.call("getStatistics", {});
    const rates = ratesBetween(before, now);
    if (isJson) {
      output.jsonLine({
        uptimeMs: now.pool.uptimeMs,
        intervalMs: now.pool.uptimeMs - before.pool.uptimeMs,
        volumes: rates,
      });
    } else if (isScreen) {
      draw(output, now, rates);
    } else {
      for (const line of lines(now, rates)) output.line(line);
    }
    before = now;
  }
}

function ratesBetween(before: StatisticsJson, now: StatisticsJson): Rates[] {
  // A daemon that has restarted counts from 0: what it has now is what happened since.
  const { uptimeMs } = now.pool;
  const isSameRun = uptimeMs >= before.pool.uptimeMs;
  const seconds = Math.max(1e-3, (uptimeMs - (isSameRun ? before.pool.uptimeMs : 0)) / 1000);
  return now.volumes
    .map((volume) => {
      const old = isSameRun ? before.volumes.find(({ id }) => id === volume.id) : undefined;
      const rate = (
        key: "readCount" | "readBytes" | "writeCount" | "writeBytes" | "flushCount",
      ): number => Math.round((volume[key] - (old?.[key] ?? 0)) / seconds);
      return {
        name: volume.name,
        clientCount: volume.clientCount,
        readsPerSecond: rate("readCount"),
        readBytesPerSecond: rate("readBytes"),
        writesPerSecond: rate("writeCount"),
        writeBytesPerSecond: rate("writeBytes"),
        flushesPerSecond: rate("flushCount"),
      };
    })
    .sort((a, b) => busyness(b) - busyness(a) || (a.name < b.name ? -1 : 1));
}

function busyness(rates: Rates): number {
  return rates.readBytesPerSecond + rates.writeBytesPerSecond;
}

function lines(now: StatisticsJson, rates: readonly Rates[]): string[] {
  const { state, uptimeMs, clientCount, ...pool } = now.pool;
  const memory = `${formatSize(pool.memoryUsedBytes)} of ${formatSize(pool.memoryLimitBytes)}`;
  const stored = `${formatSize(pool.storedBytes)} of ${formatSize(pool.capacityBytes)}`;
  return [
    `varve: ${state}, up ${formatDuration(uptimeMs)}; ${clientCount} clients; memory ${memory}; stored ${stored}`,
    "",
    ...formatTable(
      ["VOLUME", "READS/s", "READ/s", "WRITES/s", "WRITTEN/s", "FLUSHES/s", "CLIENTS"],
      rates.map((row) => [
        row.name,
        row.readsPerSecond,
        `${formatSize(row.readBytesPerSecond)}/s`,
        row.writesPerSecond,
        `${formatSize(row.writeBytesPerSecond)}/s`,
        row.flushesPerSecond,
        row.clientCount,
      ]),
    ),
  ];
}

function draw(output: Output, now: StatisticsJson, rates: readonly Rates[]): void {
  const shown = lines(now, rates)
    .slice(0, output.height - 1)
    .map((line) => plain(line).slice(0, output.width) + SCREEN.clearLine);
  output.raw(`${SCREEN.home}${shown.join("\r\n")}\r\n${SCREEN.clearBelow}`);
}

/** q, Escape or Ctrl-C on the terminal. */
class KeyWatch {
  isQuit = false;
  #onQuit: () => void = () => {};

  constructor() {
    if (process.stdin.isTTY !== true) return;
    process.stdin.setRawMode(true);
    process.stdin.on("data", (bytes: Buffer) => {
      if (!["q", "Q", "\u0003", "\u001b"].includes(bytes.toString("latin1"))) return;
      this.isQuit = true;
      this.#onQuit();
    });
  }

  onQuit(callback: () => void): void {
    this.#onQuit = callback;
  }

  close(): void {
    if (process.stdin.isTTY === true) process.stdin.setRawMode(false);
    process.stdin.pause();
  }
}

function intervalOf(text: string): number {
  const ms = parseDurationMs(text);
  if (ms !== undefined && ms >= INTERVAL_MS_MIN && ms <= INTERVAL_MS_MAX) return ms;
  throw new StorageError(
    "USAGE",
    `option "--interval": "${text}" refused: it isn't a time from 100ms to 1h`,
    {
      hint: "write it like 1s or 500ms",
    },
  );
}
