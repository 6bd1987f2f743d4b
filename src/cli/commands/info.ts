// SPDX-License-Identifier: Apache-2.0
//
// `varve info`: everything about one volume, or about the pool and its daemon, and how their backups stand, one fact per
// line; programs take --json.

import type { ScheduleJson } from "../../api/schedule.ts";
import type { ClientJson, PoolJson, VolumeDetailsJson } from "../../api/types.ts";
import { formatDuration, formatSize } from "../../base/units.ts";
import { createClock } from "../../host/node/clock.ts";
import type { CommandContext } from "../command.ts";
import type { Output } from "../output.ts";
import { backupText } from "../schedule-text.ts";
import { formatRetention, historyText, shortTime } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const name = context.argument("VOLUME");
  const daemon = await context.daemon();
  if (name === undefined) {
    const pool = await daemon.call("getPool", {});
    const { schedules } = await daemon.call("listSchedules", {});
    if (context.isJson) output.json({ ...pool, schedules });
    else printPool(pool, schedules, output);
    return;
  }
  const volume = await daemon.call("getVolume", { volume: name });
  if (context.isJson) output.json(volume);
  else printVolume(volume, output);
}

function printPool(pool: PoolJson, schedules: readonly ScheduleJson[], output: Output): void {
  output.facts([
    ["pool", pool.directory],
    ["state", pool.state],
    pool.problem === undefined
      ? undefined
      : ["problem", `${pool.problem.message} [${pool.problem.code}]`],
    ...pool.warnings.map((warning) => ["warning", warning] as const),
    ["stored", `${formatSize(pool.storedBytes)} of ${formatSize(pool.capacityBytes)}`],
    [
      "limit",
      pool.poolSizeBytes === 0 ? "what the file system has" : formatSize(pool.poolSizeBytes),
    ],
    ["retention", formatRetention(pool.retention)],
    pool.historyBytes === undefined || pool.historyAt === undefined
      ? undefined
      : ["history", historyText(pool.historyBytes, pool.historyAt)],
    ["volumes", String(pool.volumeCount)],
    ["clients", String(pool.clientCount)],
    ...backupRows(schedules),
    [
      "memory",
      `${formatSize(pool.memoryUsedBytes)} of ${formatSize(pool.memoryLimitBytes)} set aside; resident once touched`,
    ],
    ["acknowledges", pool.ack],
    ["log", `#${pool.headLsn}, durable up to #${pool.durableLsn}`],
    [
      "opened",
      `${pool.incarnation === 1 ? "once" : `${pool.incarnation} times`} so far, now in ${formatDuration(pool.recoveryMs)}`,
    ],
    ["daemon", `varve ${pool.version}, process ${pool.pid}, since ${shortTime(pool.startedAt)}`],
    ["log level", pool.logLevel],
    ...pool.listeners.map((uri, index) => [index === 0 ? "serves" : "", uri] as const),
  ]);
}

function printVolume(volume: VolumeDetailsJson, output: Output): void {
  const { activity } = volume;
  const viewers = volume.clients.filter((client) => client.view !== undefined).length;
  output.facts([
    ["volume", volume.name],
    ["size", `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    volume.description === "" ? undefined : ["description", volume.description],
    volume.isTemporary === true ? ["temporary", "until its last client leaves"] : undefined,
    ["access", volume.isReadOnly ? "read-only" : "read and write"],
    ["dedup", volume.isDeduplicated ? "on" : "off"],
    ["compression", volume.isCompressed ? "on" : "off"],
    ["created", shortTime(volume.createdAt)],
    ["reads", `${activity.readCount} (${formatSize(activity.readBytes)})`],
    ["writes", `${activity.writeCount} (${formatSize(activity.writeBytes)})`],
    ["trims", String(activity.trimCount)],
    ["zeroes", String(activity.zeroCount)],
    ["flushes", String(activity.flushCount)],
    ...volume.uris.map((uri, index) => [index === 0 ? "uri" : "", uri] as const),
    ["clients", String(volume.clientCount)],
    viewers === 0 ? undefined : ["of the past", String(viewers)],
    ...backupRows(volume.schedules),
  ]);
  if (volume.clients.length === 0) return;
  output.line();
  output.table(
    ["CLIENT", "WHO", "OPENED", "SINCE", "REQUESTS", "READ", "WRITTEN"],
    volume.clients.map(clientRow),
  );
}

function backupRows(schedules: readonly ScheduleJson[]): (readonly [string, string])[] {
  const nowMicros = createClock().wallMicros();
  return schedules.map((schedule, index) => [
    index === 0 ? "backups" : "",
    backupText(schedule, nowMicros),
  ]);
}

function clientRow(client: ClientJson): (string | number)[] {
  return [
    client.address,
    client.certificateName ?? client.pskIdentity ?? "",
    client.view?.name ?? "live",
    shortTime(client.connectedAt),
    client.requestCount,
    formatSize(client.readBytes),
    formatSize(client.writeBytes),
  ];
}
