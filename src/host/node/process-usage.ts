// SPDX-License-Identifier: Apache-2.0
//
// What this process is and uses: numbers for statistics and health, the parent it belongs to, and the
// word to systemd that the daemon is ready. The runtime can't send datagrams to a Unix socket, so that
// systemd's own program says it; where systemd runs, that is installed.

import { environmentVariable } from "./environment.ts";
import { runProgram } from "./program.ts";

export const PROCESS_ID: number = process.pid;

export interface ProcessUsage {
  readonly residentBytes: number;
  readonly cpuMs: number;
}

export function processUsage(): ProcessUsage {
  const { user, system } = process.cpuUsage();
  return { residentBytes: process.memoryUsage.rss(), cpuMs: (user + system) / 1000 };
}

/** The pid of the parent now; it changes when the parent has ended. */
export function parentProcessId(): number {
  return process.ppid;
}

export function userId(): number {
  return process.getuid?.() ?? 0;
}

/** Ends the process at once, without any of the cleaning up that callers have done or not. */
export function exitNow(status: number): never {
  process.exit(status);
}

/** Tells systemd (Type=notify); does nothing where nobody asked. False: it couldn't be said. */
export async function notifySystemd(state: "READY=1" | "STOPPING=1"): Promise<boolean> {
  if (environmentVariable("NOTIFY_SOCKET") === undefined) return true;
  try {
    return (await runProgram("systemd-notify", [`--pid=${PROCESS_ID}`, state])).status === 0;
  } catch {
    return false;
  }
}
