// SPDX-License-Identifier: Apache-2.0
//
// Values that commands take and print: the same spelling and the same complaint everywhere, whichever
// command reads them.

import { RETENTION_MS_MAX } from "../api/schemas.ts";
import type { RetentionJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { parseVolumeMoment } from "../base/moment.ts";
import { formatDuration, formatSize, parseDurationMs, parseSize } from "../base/units.ts";

const HOUR_MS = 3_600_000;

/** Bytes for "10G". Throws SIZE_INVALID. */
export function sizeOf(what: string, text: string): number {
  const sizeBytes = parseSize(text);
  if (sizeBytes !== undefined) return sizeBytes;
  const why = /^\d+(\.\d+)?[KMGTP]B$/i.test(text)
    ? "10GB could mean two sizes; 10G and 10GiB mean 10737418240 bytes"
    : "it isn't a size";
  throw new StorageError("SIZE_INVALID", `${what} "${text}": size refused: ${why}`, {
    hint: "write it like 512M, 10G, 1.5T, or in bytes",
  });
}

/** What of the history is kept for "all", "none" or "24h". Throws USAGE. */
export function retentionOf(what: string, text: string): Partial<RetentionJson> {
  if (text === "none")
    return { everyWriteMs: 0, hourlyMs: 0, dailyMs: 0, weeklyMs: 0, monthlyMs: 0 };
  return { everyWriteMs: spanOf(what, text) };
}

/** Milliseconds for "24h" or "none"; null for "all". Throws USAGE. */
export function spanOf(what: string, text: string): number | null {
  if (text === "all") return null;
  if (text === "none") return 0;
  return timeOf(what, text, "write it like 24h or 7d, or all, or none");
}

/** How long a snapshot stays, in milliseconds. Throws USAGE. */
export function keepOf(what: string, text: string): number {
  return timeOf(what, text, "write it like 24h or 7d");
}

function timeOf(what: string, text: string, hint: string): number {
  const ms = parseDurationMs(text);
  if (ms !== undefined && ms > 0 && ms <= RETENTION_MS_MAX) return ms;
  throw new StorageError("USAGE", `${what}: "${text}" refused: it isn't a time`, { hint });
}

export function formatRetention(retention: RetentionJson): string {
  const { everyWriteMs, hourlyMs, dailyMs, weeklyMs, monthlyMs } = retention;
  if (everyWriteMs === null) return "all: every write is kept";
  const thinned = [
    ["hour", hourlyMs],
    ["day", dailyMs],
    ["week", weeklyMs],
    ["month", monthlyMs],
  ] as const;
  const kept = thinned
    .filter(([, ms]) => ms !== 0)
    .map(([unit, ms]) =>
      ms === null ? `of each ${unit} for ever` : `of each ${unit} for ${spanText(ms)}`,
    );
  const moments = kept.length === 0 ? "" : `one moment ${kept.join(", ")}`;
  if (everyWriteMs === 0)
    return moments === "" ? "none: only the newest content is kept" : `${moments} is kept`;
  const all = `every write of the last ${spanText(everyWriteMs)} is kept`;
  return moments === "" ? all : `${all}, and ${moments}`;
}

/** "24 h", "7 d". */
function spanText(ms: number): string {
  const hours = ms / HOUR_MS;
  return Number.isInteger(hours) && hours <= 72 ? `${hours} h` : formatDuration(ms);
}

/** "db@v1" in two. Throws USAGE, NAME_INVALID, MOMENT_INVALID. */
export function snapshotOf(what: string, text: string): { volume: string; name: string } {
  const { volume, moment } = parseVolumeMoment(text);
  if (volume !== "" && moment?.kind === "name") return { volume, name: moment.name };
  const why = moment === undefined ? "it has no name of a moment" : "it isn't a name of a moment";
  throw new StorageError("USAGE", `${what} "${text}": refused: ${why}`, {
    hint: `write "${volume || "VOLUME"}@NAME"; a name begins with a letter`,
  });
}

/** A whole number from 0 up. Throws USAGE. */
export function countOf(option: string, text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new StorageError(
    "USAGE",
    `option "--${option}": "${text}" refused: it isn't a whole number`,
  );
}

/** "1M:64K" in bytes. Throws USAGE. */
export function extentOf(text: string): {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
} {
  const [offset = "", length = "", ...rest] = text.split(":");
  const offsetBytes = parseSize(offset);
  const lengthBytes = parseSize(length);
  const isExtent = offsetBytes !== undefined && lengthBytes !== undefined && rest.length === 0;
  if (isExtent && lengthBytes > 0) return { offsetBytes, lengthBytes };
  throw new StorageError("USAGE", `option "--extent": "${text}" refused: it isn't OFFSET:LENGTH`, {
    hint: "write it like 1M:64K, or in bytes",
  });
}

/** "1 segment", "2 segments". */
export function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** How much history holds, as it was counted last. */
export function historyText(bytes: number, at: string): string {
  return `${formatSize(bytes)} that only the past needs, counted ${shortTime(at)}`;
}

/** "2026-03-01 12:00:00", in UTC like everything that is printed. */
export function shortTime(iso: string): string {
  return iso.slice(0, 19).replace("T", " ");
}
