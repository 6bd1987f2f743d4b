// SPDX-License-Identifier: Apache-2.0
//
// `varve stats`: how full the pool and its volumes are and what is saved, as a table like vdostats; with
// --verbose every counter, one per line, under its name in --json. What is stored is counted anew for it.
//
// The pool's saving is what its live volumes would take more without deduplication and compression; a
// volume's is what it holds that it doesn't take for itself alone. Zeros are no data: they count for nothing.

import type { StatisticsJson, VolumeStatisticsJson } from "../../api/types.ts";
import { formatSize } from "../../base/units.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";
import { counted, historyText, shortTime } from "../values.ts";

/** No volume's name: those have no parentheses. */
const POOL_NAME = "(pool)";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const daemon = await context.daemon();
  const statistics = await daemon.call("getStatistics", { fresh: "true" });
  if (context.isJson) return output.json(statistics) as undefined;
  if (context.flag("verbose")) return printAll(statistics, output);
  printTable(statistics, output);
}

function printTable(statistics: StatisticsJson, output: Output): void {
  const { pool, dedup, compression, zero, census, volumes } = statistics;
  output.table(
    ["NAME", "SIZE", "USED", "AVAILABLE", "USE%", "SAVING%"],
    [
      row(POOL_NAME, {
        size: pool.capacityBytes,
        used: pool.storedBytes,
        saving: poolSaving(statistics),
      }),
      ...volumes.map((volume) =>
        row(volume.name, {
          size: volume.sizeBytes,
          used: volume.mappedBytes,
          saving: volumeSaving(volume),
        }),
      ),
    ],
  );
  output.line();
  if (census === undefined) {
    output.line("what is stored is being counted; ask again");
    return;
  }
  const sampled = census.isSampled ? ", from a sample" : "";
  const { historyBytes, historyAt } = pool;
  const rest = Math.max(0, pool.storedBytes - pool.liveBytes - (historyBytes ?? 0));
  const isKnown = historyBytes !== undefined && historyAt !== undefined;
  const others = isKnown ? "garbage, index and reserve" : "history, garbage, index and reserve";
  output.facts([
    [
      "saved",
      `${formatSize(dedup.savedBytes)} by deduplication, ${formatSize(compression.savedBytes)} by compression, ${formatSize(zero.savedBytes)} of zeros`,
    ],
    ["live", `${formatSize(pool.liveBytes)}; ${others} ${formatSize(rest)}`],
    isKnown ? ["history", historyText(historyBytes, historyAt)] : undefined,
    ["counted", `${shortTime(census.at)}${sampled}`],
    ...restoreFacts(dedup),
  ]);
}

/** Nothing once all is restored. */
function restoreFacts({
  restoredSegmentCount: restored,
  unrestoredSegmentCount: left,
}: StatisticsJson["dedup"]): [string, string][] {
  if (left === 0) return [];
  const done = `${restored} of ${counted(restored + left, "segment")} read since the start`;
  return [["dedup index", `${done}; until the others are, what they hold is found less often`]];
}

function row(
  name: string,
  { size, used, saving }: { size: number; used: number; saving: number | undefined },
): (string | number)[] {
  return [
    name,
    formatSize(size),
    formatSize(used),
    formatSize(Math.max(0, size - used)),
    percent(size === 0 ? undefined : used / size),
    percent(saving),
  ];
}

/** Undefined where there is nothing that could be saved. */
function poolSaving({ dedup, compression, volumes }: StatisticsJson): number | undefined {
  const mappedBytes = volumes.reduce((sum, volume) => sum + volume.mappedBytes, 0);
  if (mappedBytes === 0) return undefined;
  return (dedup.savedBytes + compression.savedBytes) / mappedBytes;
}

function volumeSaving({ mappedBytes, uniqueBytes }: VolumeStatisticsJson): number | undefined {
  return mappedBytes === 0 ? undefined : 1 - uniqueBytes / mappedBytes;
}

/** Rounded down: nothing is full or free before it is. */
function percent(share: number | undefined): string {
  return share === undefined ? "-" : `${Math.max(0, Math.floor(share * 100))}%`;
}

function printAll(statistics: StatisticsJson, output: Output): undefined {
  const { pool, volumes, census, ...groups } = statistics;
  const facts = [
    ...factsOf("pool", { ...pool, ...derived(statistics) }),
    ...Object.entries(groups).flatMap(([name, group]) => factsOf(name, group)),
    ...(census === undefined ? [] : factsOf("census", census)),
  ];
  output.facts(facts);
  for (const volume of volumes) {
    output.line();
    output.facts(factsOf(`volume ${volume.name}`, { ...volume, name: undefined }));
  }
}

/** What follows from the other counters; undefined while there is nothing to divide by. */
function derived({ pool, volumes }: StatisticsJson): Record<string, string | undefined> {
  const writtenBytes = volumes.reduce((sum, volume) => sum + volume.writeBytes, 0);
  const looks = pool.cacheHitCount + pool.cacheMissCount;
  const ratio = (part: number, whole: number): string | undefined =>
    whole === 0 ? undefined : (part / whole).toFixed(3);
  return {
    bytesWrittenPerByte: ratio(pool.batchBytes + pool.indexBytes, writtenBytes),
    cacheHitShare: ratio(pool.cacheHitCount, looks),
  };
}

function factsOf(group: string, counters: object): (readonly [string, string])[] {
  return Object.entries(counters)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [
      `${group}.${name}`,
      name.endsWith("Bytes") ? `${value} (${formatSize(Number(value))})` : String(value),
    ]);
}
