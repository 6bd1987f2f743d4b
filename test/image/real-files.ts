// SPDX-License-Identifier: Apache-2.0
//
// Real files for tests of images, through the same ports as the command line.

import { basename, dirname } from "node:path";
import { openDirectory } from "../../src/host/node/directory.ts";
import type { DiskFile } from "../../src/host/ports.ts";

export async function openReal(
  path: string,
  mode: "read" | "write" | "create" = "read",
): Promise<DiskFile> {
  return (await openDirectory(dirname(path))).open(basename(path), mode);
}
