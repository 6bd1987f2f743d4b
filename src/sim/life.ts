// SPDX-License-Identifier: Apache-2.0
//
// One seed's life of a store: made, used, crashed, recovered, checked, used again, many times. Crashes come
// between any two events or in the middle of any disk operation, also while it recovers, three deep; in some
// lives the disk fails too, or is full. What a seed does never changes, so a failure is repeated by its
// number.

import { type FaultRatios, failAtRandom } from "./faults.ts";
import type { CrashKind, SimMachine } from "./machine.ts";
import type { PoolDriver, PoolUnderTest } from "./pool-under-test.ts";
import type { Prng } from "./prng.ts";
import { openFailure, Rig, Stop, violationOf } from "./rig.ts";
import type { Pump } from "./scheduler.ts";
import type { Violation } from "./violation.ts";
import { drawProfile, Workload, type WorkloadProfile } from "./workload.ts";

export interface LifeOptions {
  readonly seed: number;
  readonly driver: PoolDriver;
  readonly pump: Pump;
  /** How often it is crashed or restarted at least. */
  readonly cycleCount: number;
  /** What happens besides crashes. */
  readonly trouble?: Trouble;
  readonly crashKinds?: readonly CrashKind[];
  readonly profile?: Partial<WorkloadProfile>;
  /** The store orders requests as they are called: checked more strictly. */
  readonly isOrderOfCalls?: boolean;
}

/**
 * none: the disk works. faults: operations fail now and then. sync: a datasync fails now and then, and the
 * system forgets what it should have made durable. full: the disk has too little room.
 */
export const TROUBLES = ["none", "faults", "sync", "full"] as const;
export type Trouble = (typeof TROUBLES)[number];

export interface LifeResult {
  readonly seed: number;
  /** The same for the same seed, whatever the machine. */
  readonly digest: string;
  readonly crashCount: number;
  /** Crashes before the store had recovered from the one before. */
  readonly recoveryCrashCount: number;
  readonly requestCount: number;
  readonly stepCount: number;
  readonly failure: LifeFailure | undefined;
}

export interface LifeFailure {
  readonly violation: Violation;
  readonly cause: unknown;
  /** The last events, oldest first. */
  readonly trace: readonly string[];
}

const RECOVERY_CRASHES_MAX = 3;
const TRACE_LINES = 60;
const FULL_DISK_BYTES_MIN: number = 1 << 20;

/** Runs one life to its end, or to the first check that fails. */
export async function runLife(options: LifeOptions): Promise<LifeResult> {
  const life = new Life(options);
  const failure = await life.run();
  return {
    seed: options.seed,
    digest: life.machine.trace.digest(),
    crashCount: life.machine.crashCount,
    recoveryCrashCount: life.recoveryCrashCount,
    requestCount: life.requestCount,
    stepCount: life.machine.scheduler.stepCount,
    failure,
  };
}

/** A failure as a person wants to read it. */
export function describeFailure(seed: number, failure: LifeFailure): string {
  const { violation, cause, trace } = failure;
  const place =
    violation.sector < 0 ? "" : `, volume "${violation.volume}", sector ${violation.sector}`;
  return [
    `seed ${seed}: ${violation.check}${place}`,
    `  expected: ${violation.expected}`,
    `  found:    ${violation.found}`,
    ...(cause instanceof Error ? [`  ${cause.stack ?? cause.message}`] : []),
    "last events (s, what, where, position, length or result):",
    ...trace,
  ].join("\n");
}

class Life {
  recoveryCrashCount = 0;
  requestCount = 0;
  readonly #options: LifeOptions;
  readonly #rig: Rig;
  readonly #prng: Prng;
  readonly #profile: WorkloadProfile;
  #openOperationCount = 20;
  #openStepCount = 20;
  #burstStepCount = 200;
  /** The disk failed while the store opened: it may still be full, or have stopped. */
  #isShaken = false;

  constructor(options: LifeOptions) {
    this.#options = options;
    this.#rig = new Rig(options);
    this.#prng = this.machine.prng.fork();
    if (options.trouble === "full") this.#rig.relief = () => this.#disarm();
    const areTrimsWhole = options.trouble === "full" || options.trouble === "faults";
    this.#profile = { ...drawProfile(this.#prng), areTrimsWhole, ...options.profile };
  }

  get machine(): SimMachine {
    return this.#rig.machine;
  }

  async run(): Promise<LifeFailure | undefined> {
    try {
      for (let cycle = 0; cycle < this.#options.cycleCount; cycle++) {
        const pool = await this.#recover(RECOVERY_CRASHES_MAX);
        await this.#burst(pool);
      }
      // The last words: a recovery without trouble, an orderly end, and everything is still there.
      await this.#close(await this.#recover(0), false);
      await this.#close(await this.#recover(0), false);
      return undefined;
    } catch (error) {
      const isStop = error instanceof Stop;
      const violation = isStop
        ? error.violation
        : violationOf("the store throws nothing", "no exception", error);
      const cause = isStop ? error.cause : error;
      return { violation, cause, trace: this.machine.trace.lines(TRACE_LINES) };
    }
  }

  /** Starts and checks until the store is up and right. */
  async #recover(crashesMax: number): Promise<PoolUnderTest> {
    let crashesLeft = this.#prng.chance(0.3) ? this.#prng.between(0, crashesMax + 1) : 0;
    for (;;) {
      if (crashesLeft > 0) this.#orderCrash(this.#openStepCount, this.#openOperationCount);
      const isFaulty = crashesMax > 0 && this.#prng.chance(0.1) && this.#armFaults("recovery");
      this.#isShaken = isFaulty;
      const pool = await this.#open(isFaulty);
      const isRight = pool !== undefined && (await this.#rig.check(pool));
      this.#disarm();
      if (pool !== undefined && isRight) return pool;
      if (this.machine.isUp) this.machine.crash("kill");
      this.#rig.noteCrash();
      this.recoveryCrashCount += 1;
      crashesLeft -= 1;
    }
  }

  async #open(isFaulty: boolean): Promise<PoolUnderTest | undefined> {
    const { scheduler, disk } = this.machine;
    const [step, operation] = [scheduler.stepCount, disk.operationCount];
    const opened = await this.#rig.open();
    if (opened === "down") return undefined;
    if ("error" in opened) {
      if (isFaulty) return undefined;
      throw openFailure(opened.error);
    }
    this.#openStepCount = scheduler.stepCount - step;
    this.#openOperationCount = disk.operationCount - operation;
    return opened.value;
  }

  /** Clients at work, until a crash, or an end in order. */
  async #burst(pool: PoolUnderTest): Promise<void> {
    const prng = this.#prng;
    const hasFaults = prng.chance(0.7) && this.#armFaults("burst");
    const areFailuresExpected = hasFaults || this.#isShaken;
    this.#rig.model.areFailuresExpected = areFailuresExpected;
    const workload = new Workload({
      machine: this.machine,
      model: this.#rig.model,
      pool,
      prng,
      profile: this.#profile,
      volumeBytesMin: this.#options.driver.volumeBytesMin,
      requestCount: prng.skewed(200),
      areFailuresExpected,
      onViolation: (violation) => this.#rig.fail(violation),
    });
    if (prng.chance(0.9)) this.#orderCrash(this.#burstStepCount, 3 * this.#openOperationCount);
    const step = this.machine.scheduler.stepCount;
    workload.start();
    await this.#rig.runUntil("every request ends", () => workload.isDone, {
      progress: () => workload.doneCount,
    });
    this.requestCount += workload.doneCount;
    if (this.machine.isUp) {
      this.#burstStepCount = Math.max(50, this.machine.scheduler.stepCount - step);
      this.#disarm();
      if (!hasFaults) pool.checkInvariants?.();
      if (prng.chance(0.2)) {
        await this.#close(pool, areFailuresExpected);
        return;
      }
      this.machine.crash(this.#drawCrash());
    }
    this.#disarm();
    this.#rig.noteCrash();
  }

  async #close(pool: PoolUnderTest, mayFail: boolean): Promise<void> {
    const closed = await this.#rig.close(pool, mayFail);
    if (closed !== "down") {
      const isFailed = "error" in closed;
      if (isFailed && !mayFail) throw closed.error;
      this.machine.orderCrash(undefined);
      this.machine.crash(isFailed ? "kill" : this.#prng.pick(["kill", "power"]));
      this.machine.crashCount -= 1;
    }
    this.#rig.noteCrash();
  }

  // --- crashes and faults

  #orderCrash(stepCount: number, operationCount: number): void {
    const prng = this.#prng;
    const kind = this.#drawCrash();
    const isBetweenEvents = prng.chance(0.5);
    const count = isBetweenEvents ? stepCount : operationCount;
    const after = 1 + prng.below(Math.max(1, Math.ceil(count * 1.2)));
    const order = isBetweenEvents ? { afterSteps: after } : { afterOperations: after };
    this.machine.orderCrash({ kind, ...order });
  }

  #drawCrash(): CrashKind {
    return this.#prng.pick(this.#options.crashKinds ?? ["power", "power", "kill"]);
  }

  /** True when from now on the disk may fail. */
  #armFaults(when: "burst" | "recovery"): boolean {
    const { trouble = "none" } = this.#options;
    const { disk } = this.machine;
    if (trouble === "full" && when === "burst") {
      disk.capacityBytes = disk.usedBytes() + this.#prng.skewed(FULL_DISK_BYTES_MIN);
    }
    if (trouble === "faults" || trouble === "sync") {
      const ratio = this.#prng.pick([0.002, 0.02, 0.1]);
      const ratios = trouble === "sync" ? { datasync: ratio * 3 } : faultRatios(ratio, when);
      disk.faultPlan = failAtRandom(this.#prng.fork(), ratios);
    }
    return trouble === "faults" || trouble === "sync" || (trouble === "full" && when === "burst");
  }

  #disarm(): void {
    this.machine.disk.faultPlan = undefined;
    this.machine.disk.capacityBytes = Number.POSITIVE_INFINITY;
  }
}

function faultRatios(ratio: number, when: "burst" | "recovery"): FaultRatios {
  return {
    write: ratio,
    create: ratio,
    remove: ratio,
    rename: ratio,
    sync: ratio,
    truncate: ratio,
    open: ratio,
    // What a lying disk says during recovery nobody can see through.
    read: when === "burst" ? ratio : 0,
  };
}
