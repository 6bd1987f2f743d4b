// SPDX-License-Identifier: Apache-2.0
//
// The process's own events, as callbacks for the daemon: being asked to stop, and being broken. A broken
// invariant (an uncaught error or an unhandled rejection) is fail-stop: the callback may say why in the
// log, then the process ends with exit code 70 without flushing or cleaning anything; recovery does the
// rest.

import { EXIT_CODE } from "../../base/errors.ts";

export type StopSignal = "SIGTERM" | "SIGINT" | "SIGHUP";

/** Calls back at each SIGTERM, SIGINT and SIGHUP; the returned function takes the handlers off. */
export function onStopSignal(callback: (signal: StopSignal) => void): () => void {
  const signals: readonly StopSignal[] = ["SIGTERM", "SIGINT", "SIGHUP"];
  for (const signal of signals) process.on(signal, callback);
  return () => {
    for (const signal of signals) process.off(signal, callback);
  };
}

/** Calls back with what nobody caught, then ends the process with exit code 70. */
export function onBug(callback: (error: unknown) => void): void {
  const stop = (error: unknown): never => {
    try {
      callback(error);
    } finally {
      process.exit(EXIT_CODE.bug);
    }
  };
  process.on("uncaughtException", stop);
  process.on("unhandledRejection", stop);
}
