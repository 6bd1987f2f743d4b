// SPDX-License-Identifier: Apache-2.0
//
// Waits for work that the daemon does in the background, with its progress on stderr. The work is the
// daemon's: Ctrl-C ends the waiting, not the work, and says so. The daemon is asked again and again, at
// first quickly, because most work is short.

import type { ProgressJson } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import { onStopSignal } from "../host/node/signals.ts";
import type { CommandContext } from "./command.ts";
import { meterOf } from "./progress-meter.ts";

const ASK_MS_MIN = 10;
const ASK_MS_MAX = 250;

export interface Work<T> {
  /** What the progress is called. */
  readonly label: string;
  /** Asks the daemon. */
  readonly ask: () => Promise<T>;
  readonly isRunning: (status: T) => boolean;
  readonly progressOf: (status: T) => ProgressJson | undefined;
  /** How to come back to it after Ctrl-C. */
  readonly hint: string;
}

/** The status when the work has ended. Throws INTERRUPTED. */
export async function waitForWork<T>(context: CommandContext, first: T, work: Work<T>): Promise<T> {
  const clock = createClock();
  const meter = meterOf(context, work.label);
  const stop = Promise.withResolvers<never>();
  stop.promise.catch(() => undefined); // it is only looked at while there is something to wait for
  const ignoreSignals = onStopSignal((signal) => {
    const message = `${work.label}: not waited for: ended by ${signal}`;
    stop.reject(new StorageError("INTERRUPTED", message, { hint: work.hint }));
  });
  try {
    let status = first;
    for (
      let pauseMs = ASK_MS_MIN;
      work.isRunning(status);
      pauseMs = Math.min(ASK_MS_MAX, 2 * pauseMs)
    ) {
      const progress = work.progressOf(status);
      if (progress !== undefined) meter.update(progress.doneBytes, progress.totalBytes);
      const pause = Promise.withResolvers<void>();
      const cancel = clock.after(pauseMs, pause.resolve);
      await Promise.race([pause.promise, stop.promise]).finally(cancel);
      status = await Promise.race([work.ask(), stop.promise]);
    }
    return status;
  } finally {
    meter.stop();
    ignoreSignals();
  }
}
