// SPDX-License-Identifier: Apache-2.0
//
// Sockets that systemd opened before it started us (LISTEN_FDS, sd_listen_fds(3)): descriptors from 3 on,
// meant for the process whose pid is LISTEN_PID. Clients that connect while the daemon restarts wait in
// the kernel's queue instead of being refused.

import { environmentVariable } from "./environment.ts";

const FIRST_DESCRIPTOR = 3;
const DESCRIPTOR_COUNT_MAX = 64;

export interface InheritedSocket {
  readonly descriptor: number;
  /** FileDescriptorName= of the unit, or "". */
  readonly name: string;
}

export function inheritedSockets(): readonly InheritedSocket[] {
  if (environmentVariable("LISTEN_PID") !== String(process.pid)) return [];
  const count = Number(environmentVariable("LISTEN_FDS") ?? 0);
  if (!Number.isInteger(count) || count < 1 || count > DESCRIPTOR_COUNT_MAX) return [];
  const names = (environmentVariable("LISTEN_FDNAMES") ?? "").split(":");
  return Array.from({ length: count }, (_, index) => ({
    descriptor: FIRST_DESCRIPTOR + index,
    name: names[index] ?? "",
  }));
}
