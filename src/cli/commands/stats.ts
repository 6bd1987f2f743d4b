// SPDX-License-Identifier: Apache-2.0
//
// `varve stats`: the counters that matter, or with --verbose every one there is; below them one line per
// volume.

import type { StatisticsJson } from "../../api/types.ts";
import { formatDuration, formatSize } from "../../base/units.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const statistics = await (await context.daemon()).call("getStatistics", {});
  if (context.isJson) return output.json(statistics) as undefined;
  if (context.flag("verbose")) printAll(statistics, output);
  else printMain(statistics, output);
  if (statistics.volumes.length === 0) return;
  output.line();
  output.table(
    ["VOLUME", "READS", "READ", "WRITES", "WRITTEN", "TRIMS", "ZEROES", "FLUSHES", "CLIENTS"],
    statistics.volumes.map((volume) => [
      volume.name,
      volume.readCount,
      formatSize(volume.readBytes),
      volume.writeCount,
      formatSize(volume.writeBytes),
      volume.trimCount,
      volume.zeroCount,
      volume.flushCount,
      volume.clientCount,
    ]),
  );
}

function printMain(s: StatisticsJson, output: Output): void {
  const written = s.volumes.reduce((sum, volume) => sum + volume.writeBytes, 0);
  const amplification = written === 0 ? "-" : ((s.batchBytes + s.indexBytes) / written).toFixed(2);
  const looks = s.cacheHitCount + s.cacheMissCount;
  const hits = looks === 0 ? "-" : `${((100 * s.cacheHitCount) / looks).toFixed(1)} %`;
  output.facts([
    ["state", s.state],
    ["up", formatDuration(s.uptimeMs)],
    [
      "stored",
      `${formatSize(s.storedBytes)} of ${formatSize(s.capacityBytes)} in ${s.segmentCount} segments`,
    ],
    ["log", `#${s.headLsn}, durable up to #${s.durableLsn}`],
    [
      "appended",
      `${formatSize(s.batchBytes)} in ${s.batchCount} batches, ${formatSize(s.frameBytes)} of it content`,
    ],
    ["index", `${formatSize(s.indexBytes)} written in ${s.checkpointCount} checkpoints`],
    ["per byte", `${amplification} bytes written`],
    ["flushes", `${s.flushCount} asked for, ${s.datasyncCount} of the disk`],
    ["cache", `${hits} of reads from memory`],
    [
      "memory",
      `${formatSize(s.memoryUsedBytes)} of ${formatSize(s.memoryLimitBytes)}; process ${formatSize(s.residentBytes)}`,
    ],
    ["cpu", formatDuration(s.cpuMs)],
    ["clients", String(s.clientCount)],
  ]);
}

function printAll(statistics: StatisticsJson, output: Output): void {
  output.facts(
    Object.entries(statistics)
      .filter((row): row is [string, string | number] => typeof row[1] !== "object")
      .map(([name, value]) => [
        name,
        name.endsWith("Bytes") ? `${value} (${formatSize(Number(value))})` : String(value),
      ]),
  );
}
