// SPDX-License-Identifier: Apache-2.0
//
// `varve check`: reads all of a pool that no daemon has open, and says what contradicts what. A finding
// is a result, not a failure of the command, so it goes to stdout; the exit code is 13 when there is one.

import { EXIT_CODE, StorageError } from "../../base/errors.ts";
import { formatSize, formatTime } from "../../base/units.ts";
import { createZstd } from "../../host/node/zstd.ts";
import { type CheckReport, checkPool } from "../../pool/pool-check.ts";
import type { CommandContext } from "../command.ts";
import { lockOfflinePool, openOfflinePool } from "../offline-pool.ts";
import type { Output } from "../output.ts";
import { counted, sizeOf } from "../values.ts";

const MEMORY_BYTES_MIN: number = 64 * 1024 ** 2;
const MEMORY_BYTES_MAX: number = 4 * 1024 ** 3;
const BLOCK_BYTES = 4096;

export async function run(context: CommandContext): Promise<number | undefined> {
  const { output } = context;
  const memoryBytes = sizeOf("memory", context.option("memory") ?? "256M");
  if (memoryBytes < MEMORY_BYTES_MIN || memoryBytes > MEMORY_BYTES_MAX) {
    throw new StorageError(
      "USAGE",
      `option "--memory": ${formatSize(memoryBytes)} refused: it is 64M to 4G`,
    );
  }
  const path = await context.pool();
  const { root, log, poolId, identityProblem: problem } = await openOfflinePool(path, output);
  const found = problem === undefined ? undefined : { poolId, problem };
  const lock = await lockOfflinePool(path);
  try {
    const report = await checkPool({ root, log, zstd: createZstd(), found, memoryBytes });
    const isSound = report.findings.length === 0;
    if (context.isJson) output.json({ isSound, ...report });
    else print(path, report, output);
    return isSound ? undefined : EXIT_CODE.corrupt;
  } finally {
    lock.release();
  }
}

function print(path: string, report: CheckReport, output: Output): void {
  for (const { code, message } of report.findings) output.line(`${message} [${code}]`);
  const { checkpoints, blocksCompared, segment, offset, isLogWhole, tail, volumes } = report;
  const { firstLsn } = report;
  const size = formatSize(blocksCompared * BLOCK_BYTES);
  const torn = tail === "clean" ? "" : `; it ends at a torn batch: ${tail}`;
  const from = firstLsn === 1 ? "" : `from #${firstLsn} `;
  const end = isLogWhole ? torn : "; broken there, though it went on";
  output.facts([
    ["pool", `${path} (${report.poolId})`],
    ["result", resultOf(report)],
    ["log", `read ${from}${upTo(report)}, segment ${segment}, offset ${offset}${end}`],
    ["volumes", isLogWhole ? String(volumes) : `${volumes}, ${upTo(report)}`],
    [
      "index",
      `${counted(checkpoints, "checkpoint")}, ${counted(blocksCompared, "block")} (${size}) compared`,
    ],
    ["frames", framesOf(report)],
  ]);
}

/** What following every reference came to. */
function framesOf({ counted: count }: CheckReport): string {
  if (count === undefined) return "not counted: the log is broken";
  const { references, frames, frameBytes, danglingReferences, damagedReferences } = count;
  const { unreferencedFrames, unreferencedBytes } = count;
  const parts = [
    `${frames} (${formatSize(frameBytes)}) for ${counted(references, "block")}`,
    `${unreferencedFrames} (${formatSize(unreferencedBytes)}) needed by nothing`,
  ];
  if (damagedReferences > 0) parts.push(`${counted(damagedReferences, "block")} in damaged ones`);
  if (danglingReferences > 0) parts.push(`${counted(danglingReferences, "reference")} to none`);
  return parts.join("; ");
}

function resultOf(report: CheckReport): string {
  const { findings, closedMicros } = report;
  if (findings.length > 0) return counted(findings.length, "finding");
  const sound = `sound, ${upTo(report)}`;
  return closedMicros === undefined
    ? `${sound}; the log wasn't closed cleanly: what was written after that, if anything, is not here`
    : `${sound}; closed cleanly at ${formatTime(closedMicros)}`;
}

/** "up to #17 (2026-03-01T12:00:00.000Z)" */
function upTo({ lsn, timeMicros }: CheckReport): string {
  return lsn === 1 ? "up to its beginning" : `up to #${lsn - 1} (${formatTime(timeMicros)})`;
}
