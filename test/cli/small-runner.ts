// SPDX-License-Identifier: Apache-2.0
//
// A runner of scheduled backups without processes: each run waits until a test says how it ends.

import type {
  BackupJob,
  BackupOutcome,
  BackupProgress,
  BackupRunner,
  RunningBackup,
} from "../../src/daemon/backup-runner.ts";

export class SmallRun implements RunningBackup {
  readonly job: BackupJob;
  readonly ended: Promise<BackupOutcome>;
  progress: BackupProgress | undefined;
  /** Ends it. */
  readonly end: (outcome: BackupOutcome) => void;

  constructor(job: BackupJob) {
    const { promise, resolve } = Promise.withResolvers<BackupOutcome>();
    this.job = job;
    this.ended = promise;
    this.end = resolve;
  }

  stop(): void {
    this.end("stopped");
  }

  done(point = "p"): void {
    this.end({ point, readBytes: 3000, sentBytes: 2000, storedBytes: 1000, problem: undefined });
  }

  fail(message = "target: gone"): void {
    const problem = { code: "TARGET_UNAVAILABLE", message };
    this.end({ point: undefined, readBytes: 0, sentBytes: 0, storedBytes: 0, problem });
  }
}

export class SmallRunner implements BackupRunner {
  /** All that were started, oldest first. */
  readonly runs: SmallRun[] = [];
  onStart: (run: SmallRun) => void = () => {};

  start(job: BackupJob): SmallRun {
    const run = new SmallRun(job);
    this.runs.push(run);
    this.onStart(run);
    return run;
  }
}
