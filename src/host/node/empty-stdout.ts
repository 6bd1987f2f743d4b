// SPDX-License-Identifier: Apache-2.0
//
// Stdout as a file with positions, where the shell has made it one (`> disk.raw`): what isn't written there stays
// a hole. Only where the file is empty and nothing was written through it: positions are the file's then, and not
// moved for whoever writes to the same stdout later.

import { fstatSync, readFileSync } from "node:fs";
import type { DiskFile } from "../ports.ts";
import { NodeDiskFile } from "./disk-file.ts";

const STDOUT = 1;
const O_APPEND = 0o2000;

/** Undefined where stdout isn't an empty regular file, or appends wherever it is told to write. */
export function emptyStdoutFile(): DiskFile | undefined {
  const stats = fstatSync(STDOUT);
  if (!stats.isFile() || stats.size !== 0) return undefined;
  try {
    const about = readFileSync(`/proc/self/fdinfo/${STDOUT}`, "utf8");
    const position = /^pos:\s*(\d+)$/m.exec(about)?.[1];
    const flags = /^flags:\s*([0-7]+)$/m.exec(about)?.[1];
    if (position !== "0" || flags === undefined) return undefined;
    if ((Number.parseInt(flags, 8) & O_APPEND) !== 0) return undefined;
  } catch {
    return undefined; // no /proc: it is written as a stream
  }
  return new NodeDiskFile(STDOUT, "stdout");
}
