// SPDX-License-Identifier: Apache-2.0
//
// Values that commands take and print: the same spelling and the same complaint everywhere, whichever
// command reads them.

import { StorageError } from "../base/errors.ts";
import { parseSize } from "../base/units.ts";

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

/** A whole number from 0 up. Throws USAGE. */
export function countOf(option: string, text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new StorageError(
    "USAGE",
    `option "--${option}": "${text}" refused: it isn't a whole number`,
  );
}

/** "2026-03-01 12:00:00", in UTC like everything that is printed. */
export function shortTime(iso: string): string {
  return iso.slice(0, 19).replace("T", " ");
}
