// SPDX-License-Identifier: Apache-2.0
//
// One seed's life of a store that remembers: used, crashed, recovered, and used again, with its past looked at all the
// while. After each recovery everything live is read, which settles what the crash took, and then moments from all over
// the past.

import { BLOCK_BYTES } from "./block-versions.ts";
import { drawHistoryProfile, HistoryClients } from "./history-clients.ts";
import { HistoryLooks } from "./history-looks.ts";
import { HistoryModel } from "./history-model.ts";
import type { HistoryDriver, HistoryUnderTest } from "./history-under-test.ts";
import type { HistoryVolume } from "./history-volume.ts";
import type { LifeFailure, LifeResult } from "./life.ts";
import type { CrashKind, SimMachine } from "./machine.ts";
import type { Prng } from "./prng.ts";
import { openFailure, Rig, Stop, violationOf } from "./rig.ts";
import type { Pump } from "./scheduler.ts";
import type { Violation } from "./violation.ts";

export interface HistoryLifeOptions {
  readonly seed: number;
  readonly driver: HistoryDriver;
  readonly pump: Pump;
  /** How often it is crashed or restarted. */
  readonly cycleCount: number;
}

const TRACE_LINES = 60;
const RECOVERY_CRASHES_MAX = 2;
const LOOKS_AFTER_RECOVERY = 12;
const ACTIONS_MAX = 250;

/** Runs one life to its end, or to the first check that fails. */
export async function runHistoryLife(options: HistoryLifeOptions): Promise<LifeResult> {
  const life = new HistoryLife(options);
  const failure = await life.run();
  const { machine } = life;
  return {
    seed: options.seed,
    digest: machine.trace.digest(),
    crashCount: machine.crashCount,
    recoveryCrashCount: life.recoveryCrashCount,
    requestCount: life.actionCount,
    stepCount: machine.scheduler.stepCount,
    failure,
  };
}

class HistoryLife {
  recoveryCrashCount = 0;
  actionCount = 0;
  readonly #options: HistoryLifeOptions;
  readonly #rig: Rig;
  readonly #model: HistoryModel;
  readonly #prng: Prng;
  #openStepCount = 20;
  #openOperationCount = 20;
  #burstStepCount = 500;

  constructor(options: HistoryLifeOptions) {
    this.#options = options;
    this.#rig = new Rig(options);
    this.#model = new HistoryModel(options.driver.ack);
    this.#prng = this.machine.prng.fork();
  }

  get machine(): SimMachine {
    return this.#rig.machine;
  }

  async run(): Promise<LifeFailure | undefined> {
    try {
      const profile = drawHistoryProfile(this.#prng);
      for (let cycle = 0; cycle < this.#options.cycleCount; cycle++) {
        const store = await this.#recover(RECOVERY_CRASHES_MAX);
        const clients = new HistoryClients({
          ...this.#shared(store),
          profile,
          actionCount: this.#prng.skewed(ACTIONS_MAX),
        });
        await this.#burst(store, clients);
      }
      await this.#close(await this.#recover(0));
      await this.#close(await this.#recover(0));
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

  #shared(store: HistoryUnderTest): {
    machine: SimMachine;
    model: HistoryModel;
    store: HistoryUnderTest;
    prng: Prng;
    onViolation: (violation: Violation, cause?: unknown) => void;
  } {
    const onViolation = (violation: Violation, cause?: unknown): void =>
      this.#rig.fail(violation, cause);
    return { machine: this.machine, model: this.#model, store, prng: this.#prng, onViolation };
  }

  async #recover(crashesMax: number): Promise<HistoryUnderTest> {
    const { machine } = this;
    let crashesLeft = this.#prng.chance(0.3) ? this.#prng.between(0, crashesMax + 1) : 0;
    for (;;) {
      if (crashesLeft > 0) this.#orderCrash(this.#openStepCount, this.#openOperationCount);
      const [step, operation] = [machine.scheduler.stepCount, machine.disk.operationCount];
      const opened = await this.#rig.wait(
        "the store opens",
        this.#options.driver.start(machine.start()),
      );
      if (opened !== "down") {
        if ("error" in opened) throw openFailure(opened.error);
        this.#openStepCount = machine.scheduler.stepCount - step;
        this.#openOperationCount = machine.disk.operationCount - operation;
        machine.orderCrash(undefined);
        await this.#check(opened.value);
        return opened.value;
      }
      this.#model.crashed(machine.lastCrash);
      this.recoveryCrashCount += 1;
      crashesLeft -= 1;
    }
  }

  async #check(store: HistoryUnderTest): Promise<void> {
    store.checkInvariants?.();
    const violation = this.#model.recovered(store);
    if (violation !== undefined) throw new Stop(violation);
    this.#model.noteTime(store);
    const looks = new HistoryLooks({ ...this.#shared(store), alive: (promise) => promise });
    const work = async (): Promise<void> => {
      for (const volume of this.#model.live()) {
        await looks.learn(volume);
        await this.#readAll(store, volume, looks);
      }
      this.#model.settle();
      for (let count = 0; count < LOOKS_AFTER_RECOVERY; count++) await looks.look();
    };
    const outcome = await this.#rig.wait("a recovered store is looked at", work());
    if (outcome !== "down" && "error" in outcome) throw outcome.error;
  }

  async #readAll(
    store: HistoryUnderTest,
    volume: HistoryVolume,
    looks: HistoryLooks,
  ): Promise<void> {
    // A rewind that nobody answered shows here: the volume is on its old line, or on the new one.
    const { newest } = volume;
    if (newest === undefined) return;
    const { name, sizeBytes, line } = newest;
    for (const block of line.touched()) {
      const offsetBytes = block * BLOCK_BYTES;
      if (offsetBytes >= sizeBytes) continue;
      const target = new Uint8Array(Math.min(BLOCK_BYTES, sizeBytes - offsetBytes));
      const request = { kind: "read", offsetBytes, target } as const;
      const errno = await new Promise<number>((done) => store.submit(name, request, done));
      if (errno !== 0)
        throw new Stop(violationOf("a recovered volume can be read", "no error", `error ${errno}`));
      looks.judge({ volume, line, lsn: store.head.lsn }, target, offsetBytes, "after a crash");
    }
  }

  async #burst(store: HistoryUnderTest, clients: HistoryClients): Promise<void> {
    const prng = this.#prng;
    if (prng.chance(0.8)) this.#orderCrash(this.#burstStepCount, 3 * this.#openOperationCount);
    const step = this.machine.scheduler.stepCount;
    clients.start();
    await this.#rig.runUntil("every client is done", () => clients.isDone, {
      progress: () => clients.doneCount,
    });
    this.actionCount += clients.doneCount;
    if (this.machine.isUp) {
      this.#burstStepCount = Math.max(50, this.machine.scheduler.stepCount - step);
      store.checkInvariants?.();
      if (prng.chance(0.2)) return await this.#close(store);
      this.machine.crash(this.#drawCrash());
    }
    this.#model.crashed(this.machine.lastCrash);
  }

  async #close(store: HistoryUnderTest): Promise<void> {
    this.machine.orderCrash(undefined);
    const closed = await this.#rig.wait("the store closes", store.close());
    if (closed !== "down") {
      if ("error" in closed) throw closed.error;
      this.#model.closed();
      this.machine.crash(this.#prng.pick(["kill", "power"]));
      this.machine.crashCount -= 1;
    }
    this.#model.crashed(this.machine.lastCrash);
  }

  #orderCrash(stepCount: number, operationCount: number): void {
    const prng = this.#prng;
    const kind = this.#drawCrash();
    const isBetweenEvents = prng.chance(0.5);
    const count = isBetweenEvents ? stepCount : operationCount;
    const after = 1 + prng.below(Math.max(1, Math.ceil(count * 1.2)));
    this.machine.orderCrash({
      kind,
      ...(isBetweenEvents ? { afterSteps: after } : { afterOperations: after }),
    });
  }

  #drawCrash(): CrashKind {
    return this.#prng.pick(["power", "power", "kill"]);
  }
}
