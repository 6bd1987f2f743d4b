// SPDX-License-Identifier: Apache-2.0
//
// A machine that can be switched off: one disk, one clock, one process at a time. Everything that chance
// decides comes from its seed. A crash may be ordered for any step (an event of the schedule) or any disk
// operation, synchronous ones included; when it comes, the process is dead from that very moment, and
// start() begins the next life on what the disk kept.

import { assert, must } from "../base/assert.ts";
import type { Clock, Directory, Logger, Random, Zstd } from "../host/ports.ts";
import { Prng } from "./prng.ts";
import {
  type MachineTime,
  SimClock,
  SimLogger,
  type SimProcess,
  SimRandom,
  SimScheduler,
} from "./scheduler.ts";
import { SimDirectory } from "./sim-directory.ts";
import { DISK_SPEEDS, SimDisk } from "./sim-disk.ts";
import { SIM_ZSTD } from "./sim-zstd.ts";
import { drawPowerLoss, type PowerLoss } from "./stored-file.ts";
import { Trace } from "./trace.ts";

/** What a pool is given to live on. */
export interface StoreHost {
  readonly root: Directory;
  readonly log: Directory;
  readonly clock: Clock;
  readonly random: Random;
  readonly zstd: Zstd;
  readonly logger: Logger;
}

/** kill: the process dies, the operating system keeps what it was given. power: the machine stops. */
export type CrashKind = "kill" | "power";

export interface CrashReport {
  readonly kind: CrashKind;
  /** The page cache had all that was written to it: no datasync had failed. */
  readonly isCacheWhole: boolean;
}

export interface CrashOrder {
  readonly kind: CrashKind;
  /** So many steps of the schedule from now; or */
  readonly afterSteps?: number;
  /** so many disk operations from now, in the middle of the last one. */
  readonly afterOperations?: number;
  /** How a power loss goes; drawn when left out. */
  readonly loss?: PowerLoss;
}

const OTHER_PROCESS = { number: 0, isAlive: true };

export class SimMachine {
  readonly seed: number;
  readonly prng: Prng;
  readonly trace: Trace = new Trace();
  readonly scheduler: SimScheduler;
  readonly logger: SimLogger;
  disk: SimDisk;
  crashCount = 0;
  readonly #time: MachineTime = { wallOffsetMicros: 0, bootMicros: 0 };
  #process: SimProcess | undefined;
  #processCount = 0;
  #order:
    | { readonly order: CrashOrder; readonly step: number; readonly operation: number }
    | undefined;
  #lastCrash: CrashReport | undefined;

  constructor(seed: number, options: { readonly capacityBytes?: number } = {}) {
    this.seed = seed;
    this.prng = new Prng(seed);
    this.scheduler = new SimScheduler(this.prng.fork(), this.trace);
    this.logger = new SimLogger(this.scheduler);
    this.disk = new SimDisk({
      scheduler: this.scheduler,
      prng: this.prng.fork(),
      capacityBytes: options.capacityBytes ?? Number.POSITIVE_INFINITY,
      speed: this.prng.pick(DISK_SPEEDS),
      faultPlan: undefined,
      onOperation: (number) => this.#onOperation(number),
    });
  }

  /** The process that runs now; undefined after a crash. */
  get process(): SimProcess | undefined {
    return this.#process;
  }

  get isUp(): boolean {
    return this.#process !== undefined;
  }

  /** How the last process died. */
  get lastCrash(): CrashReport {
    return must(this.#lastCrash, "a machine that is down has crashed");
  }

  /** Begins a life. */
  start(): StoreHost {
    assert(this.#process === undefined, "a machine runs one process at a time");
    const process: SimProcess = { number: ++this.#processCount, isAlive: true };
    this.#process = process;
    const user = { disk: this.disk, process };
    const { scheduler } = this;
    return {
      root: new SimDirectory(user, "root"),
      log: new SimDirectory(user, "log"),
      clock: new SimClock({ scheduler, process, time: this.#time, prng: this.prng.fork() }),
      random: new SimRandom(this.prng.fork()),
      zstd: SIM_ZSTD,
      logger: this.logger,
    };
  }

  /** A directory of this disk as another program sees it: for tests that look or prepare. */
  directory(name: string): Directory {
    return new SimDirectory({ disk: this.disk, process: OTHER_PROCESS }, name);
  }

  /** Orders a crash; undefined takes the order back. */
  orderCrash(order: CrashOrder | undefined): void {
    this.#order =
      order === undefined
        ? undefined
        : {
            order,
            step: this.scheduler.stepCount + (order.afterSteps ?? Number.POSITIVE_INFINITY),
            operation:
              this.disk.operationCount + (order.afterOperations ?? Number.POSITIVE_INFINITY),
          };
  }

  /** Runs one event, or crashes if it's time; false when there is none or the machine is down. */
  step(): boolean {
    if (this.#process === undefined) return false;
    if (this.#order !== undefined && this.scheduler.stepCount >= this.#order.step) {
      this.crash(this.#order.order.kind, this.#order.order.loss);
      return false;
    }
    return this.scheduler.step() && this.#process !== undefined;
  }

  /** Ends the process now. */
  crash(kind: CrashKind, loss: PowerLoss = drawPowerLoss(this.prng)): void {
    const process = must(this.#process, "a machine that is down can't crash");
    process.isAlive = false;
    this.#process = undefined;
    this.#order = undefined;
    this.#lastCrash = { kind, isCacheWhole: !this.disk.hasLostWrites };
    this.crashCount += 1;
    const subject = kind === "kill" ? "" : `${loss.shape}/${loss.unitBytes}`;
    const event = { subject, first: process.number, second: this.disk.operationCount };
    this.trace.record(this.scheduler.nowMicros, kind, event);
    this.disk = kind === "kill" ? this.disk.forkKilled() : this.disk.forkPowerLoss(loss);
    if (kind === "power") this.#time.bootMicros = this.scheduler.nowMicros;
  }

  /** Ends the process in order: it has closed what it had open. */
  stop(): void {
    this.crash("kill");
    this.crashCount -= 1;
  }

  /** Steps the wall clock. */
  stepClock(deltaMicros: number): void {
    this.#time.wallOffsetMicros += Math.round(deltaMicros);
    const event = { subject: "", first: deltaMicros, second: 0 };
    this.trace.record(this.scheduler.nowMicros, "clock step", event);
  }

  #onOperation(number: number): void {
    const order = this.#order;
    if (order !== undefined && number >= order.operation)
      this.crash(order.order.kind, order.order.loss);
  }
}
