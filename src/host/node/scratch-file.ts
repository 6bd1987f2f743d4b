// SPDX-License-Identifier: Apache-2.0
//
// A file that nobody else has and that is gone with this process, however it ends: it loses its name as soon as it is
// open. It lies where the system wants such files (TMPDIR).

import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import type { DiskFile } from "../ports.ts";
import { openDirectory } from "./directory.ts";

export async function openScratchFile(): Promise<DiskFile> {
  const directory = await openDirectory(tmpdir());
  const name = `varve-${randomBytes(8).toString("hex")}`;
  const file = await directory.open(name, "create");
  await directory.remove(name);
  return file;
}
