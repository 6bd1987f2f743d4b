// SPDX-License-Identifier: Apache-2.0
//
// Threads of this process. One that fails takes the process with it: what it was to do would be waited for in vain.
// None of them keeps the process alive.

import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Threads } from "../ports.ts";

const ENTRY = new URL(`./thread-entry${import.meta.url.slice(-3)}`, import.meta.url);

/** As many as there are cores besides the event loop's, at most `countMax`; undefined: there is none to spare. */
export function createThreads(
  countMax: number,
  coreCount: number = availableParallelism(),
): Threads | undefined {
  const count = Math.min(countMax, coreCount - 1);
  if (count < 1) return undefined;
  return {
    count,
    start: (module, data) => {
      const worker = new Worker(ENTRY, { workerData: { module: module.href, data } });
      worker.on("error", (error) => {
        throw error;
      });
      worker.unref();
      return { stop: async () => void (await worker.terminate()) };
    },
  };
}
