// SPDX-License-Identifier: Apache-2.0
//
// The log of BlockCDP and QEMU-CDP: pairs of files, metafile.SUFFIX and datafile.SUFFIX, the suffix being
// the time at which the pair was begun. The metafile has a line of text for each write, the datafile the
// bytes of all of them, one behind the other (github.com/OpenCDP/BlockCDP, cdp.c):
//
//   2024-03-01-14-03-12:[sector of 512 bytes][bytes][position in the datafile]
//
// There is no magic, no checksum and no sequence number. What can be checked is that a line is one, that
// its bytes are there, and that each write's bytes follow those of the one before; all that isn't so is
// said. The sector has 32 bits, so a disk of more than 2 TiB was recorded wrongly, and nobody can see where.
//
// The times have no zone. BlockCDP itself always adds eight hours to UTC, wherever the machine stands;
// QEMU-CDP takes local time. So whoever imports says how far ahead of UTC the clock was.

import { parseTime } from "../base/moment-time.ts";

const SECTOR_BYTES = 512;
/** Sectors have 32 bits. */
export const BLOCKCDP_BYTES_MAX: number = 2 ** 32 * SECTOR_BYTES;
/** The writers' own buffer for a line; whatever is longer is none. */
export const LINE_BYTES_MAX = 200;

const NUMBER_MAX: number = 2 ** 32 - 1;
const LINE_PATTERN =
  /^(\d{4}-\d\d-\d\d)-(\d\d)-(\d\d)-(\d\d):\s*\[(\d{1,10})\]\s*\[(\d{1,10})\]\s*\[(\d{1,10})\]$/;

/** BlockCDP's own. */
export const BLOCKCDP_UTC_OFFSET = "+08:00";

export interface MetaLine {
  readonly timeMicros: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly dataPosition: number;
}

/** Undefined for anything but a whole line. `utcOffset` is like "+08:00". */
export function parseMetaLine(text: string, utcOffset: string): MetaLine | undefined {
  const match = LINE_PATTERN.exec(text);
  if (match === null) return undefined;
  const [, day, hour, minute, second] = match;
  const timeMicros = parseTime(`${day}T${hour}:${minute}:${second}${utcOffset}`);
  const [sector, lengthBytes, dataPosition] = match.slice(5).map(Number) as [
    number,
    number,
    number,
  ];
  if (typeof timeMicros === "string") return undefined;
  if (Math.max(sector, lengthBytes, dataPosition) > NUMBER_MAX) return undefined;
  return { timeMicros, offsetBytes: sector * SECTOR_BYTES, lengthBytes, dataPosition };
}

/** Whether it can stand behind a time: "+08:00", "-03:30", "Z". */
export function isUtcOffset(text: string): boolean {
  return text !== "" && typeof parseTime(`2000-01-01T00:00:00${text}`) === "number";
}

/** "2024-03-01-14-03-12" for "metafile.2024-03-01-14-03-12"; undefined for other names. */
export function suffixOf(kind: "metafile" | "datafile", name: string): string | undefined {
  const head = `${kind}.`;
  return name.startsWith(head) && name.length > head.length ? name.slice(head.length) : undefined;
}
