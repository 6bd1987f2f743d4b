// SPDX-License-Identifier: Apache-2.0
//
// Values that commands take and print: the same spelling and the same complaint everywhere, whichever
// command reads them.

import { RETENTION_MS_MAX } from "../api/schemas.ts";
import type { RetentionJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { formatDuration, parseDurationMs, parseSize } from "../base/units.ts";

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

/** History to keep for "all", "none" or "24h". Throws USAGE. */
export function retentionOf(what: string, text: string): RetentionJson {
  if (text === "all") return { everyWriteMs: null };
  if (text === "none") return { everyWriteMs: 0 };
  const everyWriteMs = parseDurationMs(text);
  if (everyWriteMs !== undefined && everyWriteMs > 0 && everyWriteMs <= RETENTION_MS_MAX)
    return { everyWriteMs };
  throw new StorageError("USAGE", `${what}: "${text}" refused: it isn't a time`, {
    hint: "write it like 24h or 7d, or all, or none",
  });
}

export function formatRetention({ everyWriteMs }: RetentionJson): string {
  if (everyWriteMs === null) return "all: every write is kept";
  if (everyWriteMs === 0) return "none: only the newest content is kept";
  const hours = everyWriteMs / HOUR_MS;
  const isFewHours = Number.isInteger(hours) && hours <= 72;
  return `every write of the last ${isFewHours ? `${hours} h` : formatDuration(everyWriteMs)} is kept`;
}

/** A whole number from 0 up. Throws USAGE. */
export function countOf(option: string, text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new StorageError(
    "USAGE",
    `option "--${option}": "${text}" refused: it isn't a whole number`,
  );
}

/** "1 segment", "2 segments". */
export function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** "2026-03-01 12:00:00", in UTC like everything that is printed. */
export function shortTime(iso: string): string {
  return iso.slice(0, 19).replace("T", " ");
}
