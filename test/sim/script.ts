// SPDX-License-Identifier: Apache-2.0
//
// Scripted runs, stepped through: the same few requests again and again, with the machine cut, or one disk
// operation failing, at the first operation, then at the second, and so on until a run completes. Most
// crash bugs need no more than three operations and a crash in the right place (CrashMonkey, OSDI 2018), so
// going through all places finds what chance takes long to find.

import { AssertionError } from "../../src/base/assert.ts";
import { type DiskOperationKind, type Fault, failOperations } from "../../src/sim/faults.ts";
import type { CrashKind } from "../../src/sim/machine.ts";
import type { CatalogChange } from "../../src/sim/model-operation.ts";
import type { PoolDriver, PoolUnderTest } from "../../src/sim/pool-under-test.ts";
import { openFailure, Rig, Stop } from "../../src/sim/rig.ts";
import type { PowerLoss } from "../../src/sim/stored-file.ts";
import { pump } from "./pump.ts";

/** The machine went down in the middle of a script. */
class Down extends Error {}

interface Place {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly isForced?: boolean;
}

/** One life of the store, as a script sees it. Requests on volumes that aren't there are left out. */
export class Session {
  readonly rig: Rig;
  readonly pool: PoolUnderTest;
  /** A change of the catalog failed: no more of them in this life. */
  #isCatalogInDoubt = false;

  constructor(rig: Rig, pool: PoolUnderTest) {
    this.rig = rig;
    this.pool = pool;
  }

  async create(name: string, sizeBytes: number = 1 << 20): Promise<void> {
    if (this.#isCatalogInDoubt || this.#has(name)) return;
    const errno = await this.#end(this.rig.create(this.pool, name, sizeBytes));
    if (errno !== 0) this.#isCatalogInDoubt = true;
  }

  async change(name: string, change: CatalogChange): Promise<void> {
    if (this.#isCatalogInDoubt || !this.#has(name)) return;
    const errno = await this.#end(this.rig.change(this.pool, name, change));
    if (errno !== 0) this.#isCatalogInDoubt = true;
  }

  /** Writes one after the other, each waited for. */
  async write(name: string, ...places: readonly Place[]): Promise<void> {
    for (const place of places) {
      if (this.#has(name)) await this.#end(this.rig.write(this.pool, name, place));
    }
  }

  /** Writes all at once. */
  async writeTogether(name: string, places: readonly Place[]): Promise<void> {
    if (!this.#has(name)) return;
    const ends = places.map((place) => this.rig.write(this.pool, name, place));
    await this.#end(Promise.all(ends));
  }

  async trim(name: string, place: Place): Promise<void> {
    if (this.#has(name)) await this.#end(this.rig.trim(this.pool, name, place));
  }

  async read(name: string, place: Place): Promise<void> {
    if (this.#has(name)) await this.#end(this.rig.read(this.pool, name, place));
  }

  async flush(name: string): Promise<void> {
    if (this.#has(name)) await this.#end(this.rig.flush(this.pool, name));
  }

  async checkpoint(): Promise<void> {
    const checkpoint = this.pool.checkpoint().catch((error: unknown) => {
      if (error instanceof AssertionError) throw error;
    });
    await this.#end(checkpoint);
  }

  /** Changes the catalog while a checkpoint is being taken. */
  async changeDuringCheckpoint(name: string, change: CatalogChange): Promise<void> {
    const checkpoint = this.checkpoint();
    // Whoever waits for both must not leave one of them alone.
    checkpoint.catch(() => undefined);
    await this.change(name, change);
    await checkpoint;
  }

  /** Sends requests without waiting for one another, and waits for all. */
  async together(requests: readonly (() => Promise<number>)[]): Promise<void> {
    await this.#end(Promise.all(requests.map((request) => request())));
  }

  /** Ends the store in order. */
  async close(): Promise<void> {
    const closed = await this.rig.close(this.pool);
    if (closed === "down") throw new Down();
    if ("error" in closed) throw closed.error;
  }

  stepClock(milliseconds: number): void {
    this.rig.machine.stepClock(milliseconds * 1000);
  }

  /** Lets the store do what it does when nobody asks for anything. */
  async idle(milliseconds: number): Promise<void> {
    const { scheduler, process } = this.rig.machine;
    let isOver = false;
    scheduler.schedule(milliseconds * 1000, { what: "idle", process }, () => {
      isOver = true;
    });
    await this.rig.runUntil("time passes", () => isOver);
    if (!this.rig.machine.isUp) throw new Down();
  }

  #has(name: string): boolean {
    return this.rig.model.volumes().some((volume) => volume.name === name);
  }

  async #end<T>(promise: Promise<T>): Promise<T> {
    const outcome = await this.rig.wait("a request ends", promise);
    if (outcome === "down") throw new Down();
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }
}

export type Script = (session: Session) => Promise<void>;

export interface StepOptions {
  readonly driver: PoolDriver;
  readonly seed: number;
  readonly script: Script;
  /** Begins with making the store, instead of when it is there. */
  readonly isNew?: boolean;
}

/** How many places were tried, and in how many runs the machine really went down, or the disk failed. */
export interface StepReport {
  readonly runCount: number;
  readonly hitCount: number;
}

const STEPS_MAX = 5000;

/** Cuts the machine at disk operation 1, 2, 3 … of the script. */
export async function cutEverywhere(
  options: StepOptions & {
    readonly kind: CrashKind;
    readonly loss?: PowerLoss;
    /** Recovery is cut as well, so many times, each time a little later than the time before. */
    readonly recoveryCuts?: number;
  },
): Promise<StepReport> {
  const { driver, seed, kind, loss, recoveryCuts = 0 } = options;
  const order = { kind, ...(loss === undefined ? {} : { loss }) };
  for (let place = 1; place < STEPS_MAX; place++) {
    const rig = new Rig({ seed: seed * STEPS_MAX + place, driver, pump });
    let isOver = false;
    await named(rig, `cut at operation ${place}`, async () => {
      const arm = (): void => rig.machine.orderCrash({ ...order, afterOperations: place });
      await runScript(rig, options, arm);
      isOver = rig.machine.isUp;
      if (isOver) rig.machine.crash(kind, loss);
      rig.noteCrash();
      for (let cut = 0; cut < recoveryCuts; cut++) {
        rig.machine.orderCrash({ ...order, afterOperations: 1 + ((place + 7 * cut) % 40) });
        const opened = await rig.open();
        if (opened !== "down" && "error" in opened) throw openFailure(opened.error);
        if (rig.machine.isUp) rig.machine.crash(kind, loss);
        rig.noteCrash();
      }
      await goOn(rig);
    });
    if (isOver) return { runCount: place, hitCount: place - 1 };
  }
  throw new Error(`the script isn't over after ${STEPS_MAX} operations`);
}

/** Lets disk operation 1, 2, 3 … of these kinds fail. */
export async function failEverywhere(
  options: StepOptions & {
    readonly fault: Fault;
    readonly kinds: readonly DiskOperationKind[];
    /** So many operations fail in a row; Infinity: all from then on, until the operator helps. */
    readonly count: number;
  },
): Promise<StepReport> {
  const { driver, seed, fault, kinds, count } = options;
  for (let place = 1; place < STEPS_MAX; place++) {
    const rig = new Rig({ seed: seed * STEPS_MAX + place, driver, pump });
    let hasFired = false;
    await named(rig, `${fault} at ${kinds.join(" or ")} ${place}`, async () => {
      const plan = failOperations({ fault, kinds, first: place, count });
      const heal = (): void => {
        rig.machine.disk.faultPlan = undefined;
      };
      rig.relief = heal;
      rig.model.areFailuresExpected = true;
      const arm = (): void => {
        rig.machine.disk.faultPlan = plan;
      };
      await runScript(rig, options, arm);
      hasFired = plan.hasFired();
      heal();
      rig.machine.crash(place % 2 === 0 ? "kill" : "power", LOST);
      rig.noteCrash();
      await goOn(rig);
    });
    if (!hasFired) return { runCount: place, hitCount: place - 1 };
  }
  throw new Error(`the script isn't over after ${STEPS_MAX} operations`);
}

/** A power loss that takes all it can. */
export const LOST: PowerLoss = { shape: "none", unitBytes: 512, sizeKeptRatio: 0, staleRatio: 0 };

/** After whatever happened: everything promised is there, new writes last, and it ends in order. */
async function goOn(rig: Rig): Promise<void> {
  const session = new Session(rig, await rig.recover());
  await session.create("after");
  await session.write("after", { offsetBytes: 4096, lengthBytes: 4096, isForced: true });
  rig.machine.crash("power", LOST);
  rig.noteCrash();
  const pool = await rig.recover();
  const closed = await rig.close(pool);
  if (closed !== "down" && "error" in closed) throw closed.error;
  rig.machine.crash("power", LOST);
  rig.noteCrash();
  await rig.recover();
}

/** Runs the script, armed, unless the machine goes down or the store can't be opened. */
async function runScript(rig: Rig, options: StepOptions, arm: () => void): Promise<void> {
  const { script, isNew = false } = options;
  if (isNew) arm();
  const opened = await rig.open();
  if (opened === "down") return;
  if ("error" in opened) {
    if (rig.machine.disk.faultPlan === undefined) throw openFailure(opened.error);
    return;
  }
  try {
    await rig.check(opened.value);
    if (!isNew) arm();
    if (rig.machine.isUp) await script(new Session(rig, opened.value));
  } catch (error) {
    if (!(error instanceof Down)) throw error;
  }
}

/** Says where it happened. */
async function named(rig: Rig, where: string, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    const trace = rig.machine.trace.lines(60).join("\n");
    const message = error instanceof Stop || error instanceof Error ? error.message : String(error);
    throw new Error(`${where} (seed ${rig.machine.seed}): ${message}\n${trace}`, { cause: error });
  }
}
