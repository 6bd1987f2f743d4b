// SPDX-License-Identifier: Apache-2.0
//
// Which pool a command means: --pool, else VARVE_POOL, else ./varve-pool when it exists, else the
// system's. The same rule for every command and for the daemon.

import { environmentVariable } from "../host/node/environment.ts";
import { fileKind } from "../host/node/text-file.ts";

const LOCAL_POOL = "varve-pool";
const SYSTEM_POOL = "/var/lib/varve";

export async function poolDirectory(named: string | undefined): Promise<string> {
  const chosen = named ?? environmentVariable("VARVE_POOL");
  return chosen ?? (await defaultPoolDirectory());
}

export async function defaultPoolDirectory(): Promise<string> {
  return (await fileKind(LOCAL_POOL)) === "directory" ? LOCAL_POOL : SYSTEM_POOL;
}
