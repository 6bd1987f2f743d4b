// SPDX-License-Identifier: Apache-2.0
//
// A machine, a store on it and the model beside them, with the steps that every run is made of: start,
// wait in virtual time, read everything back and let the model judge, make one request and follow it to
// its end. Lives by chance (life.ts) and scripts of tests are both written in these steps. A check that
// fails ends a run by a Stop; a wait that ends because the machine went down says so.

import { AssertionError, assert, must } from "../base/assert.ts";
import { fillContent } from "./content.ts";
import { SimMachine } from "./machine.ts";
import { DiskModel, type ModelOptions } from "./model.ts";
import type { CatalogChange, ModelOperation } from "./model-operation.ts";
import type { ObservedVolume, VolumeModel } from "./model-volume.ts";
import type { PoolDriver, PoolUnderTest, StoreRequest, VolumeShape } from "./pool-under-test.ts";
import type { Pump } from "./scheduler.ts";
import { CHUNK_BYTES } from "./sparse-bytes.ts";
import type { Violation } from "./violation.ts";

/** Virtual time without any progress after which a store counts as hanging. */
const HANG_MICROS = 120_000_000;
const STEPS_MAX = 1_000_000;
const READ_BYTES = 65536;
const FILLER_BYTE = 0xa5;

/** Ends a run at the first check that fails. */
export class Stop extends Error {
  readonly violation: Violation;

  constructor(violation: Violation, cause?: unknown) {
    const { check, volume, sector, expected, found } = violation;
    const place = sector < 0 ? "" : ` (volume "${volume}", sector ${sector})`;
    super(`${check}${place}: expected ${expected}; found ${found}`, { cause });
    this.violation = violation;
  }
}

/** A check that isn't about a place of a volume. */
export function violationOf(check: string, expected: string, found: unknown): Violation {
  const text = found instanceof Error ? `${found.name}: ${found.message}` : String(found);
  return { check, volume: "", sector: -1, expected, found: text };
}

/** How a wait ended. */
export type Outcome<T> = { readonly value: T } | { readonly error: unknown } | "down";

export interface RigOptions {
  readonly seed: number;
  readonly driver: PoolDriver;
  readonly pump: Pump;
  readonly isOrderOfCalls?: boolean | undefined;
}

export class Rig {
  readonly machine: SimMachine;
  readonly model: DiskModel;
  readonly driver: PoolDriver;
  /** Called once at a standstill: what a patient operator would do. */
  relief: (() => void) | undefined;
  readonly #pump: Pump;
  #violation: Stop | undefined;

  constructor({ seed, driver, pump, isOrderOfCalls }: RigOptions) {
    this.machine = new SimMachine(seed);
    this.driver = driver;
    this.#pump = pump;
    const options: ModelOptions = { ack: driver.ack, isOrderOfCalls: isOrderOfCalls ?? false };
    this.model = new DiskModel(options);
  }

  /** A check failed in the middle of an event: the run ends with its next step. */
  fail(violation: Violation, cause?: unknown): void {
    this.#violation ??= new Stop(violation, cause);
  }

  /** Begins a life and opens the store. */
  async open(): Promise<Outcome<PoolUnderTest>> {
    return this.wait("the store opens", this.driver.start(this.machine.start()));
  }

  /** Opens the store and checks it; both must succeed. */
  async recover(): Promise<PoolUnderTest> {
    const opened = await this.open();
    assert(opened !== "down", "nobody crashes this recovery");
    if ("error" in opened) throw openFailure(opened.error);
    await this.check(opened.value);
    return opened.value;
  }

  /** Tells the model that the machine went down. */
  noteCrash(): void {
    this.model.crashed(this.machine.lastCrash);
  }

  /** Reads everything back and judges it; false if the machine went down, or the disk failed. */
  async check(pool: PoolUnderTest): Promise<boolean> {
    pool.checkInvariants?.();
    const observed: ObservedVolume[] = [];
    for (const shape of pool.volumes()) {
      const chunks = await this.#observe(pool, shape);
      if (chunks === undefined) return false;
      observed.push({ ...shape, chunks });
    }
    const violation = this.model.recovered(observed);
    if (violation !== undefined) throw new Stop(violation);
    return true;
  }

  async #observe(
    pool: PoolUnderTest,
    shape: VolumeShape,
  ): Promise<Map<number, Uint8Array> | undefined> {
    const found = new Map<number, Uint8Array>();
    let missingCount = 0;
    let errno = 0;
    for (const { start, end } of pieces(this.model.chunksToObserve(shape), shape.sizeBytes)) {
      const target = new Uint8Array(end - start).fill(FILLER_BYTE);
      missingCount += 1;
      pool.submit(shape.name, { kind: "read", offsetBytes: start, target }, (result) => {
        missingCount -= 1;
        if (result !== 0) errno = result;
        for (let at = 0; at < target.length; at += CHUNK_BYTES) {
          found.set((start + at) / CHUNK_BYTES, target.subarray(at, at + CHUNK_BYTES));
        }
      });
    }
    await this.runUntil("a recovered volume can be read", () => missingCount === 0);
    if (!this.machine.isUp) return undefined;
    if (errno === 0) return found;
    if (this.machine.disk.faultPlan !== undefined) return undefined;
    const check = "a recovered volume can be read";
    throw new Stop({ ...violationOf(check, "no error", `error ${errno}`), volume: shape.name });
  }

  /**
   * Closes the store; then nothing can be lost, whatever happens to the machine. With `isStopped` the disk
   * had failed and the store may have given up before: then closing promises nothing.
   */
  async close(pool: PoolUnderTest, isStopped = false): Promise<Outcome<void>> {
    const closed = await this.wait("the store closes", pool.close());
    if (closed === "down" || "error" in closed) return closed;
    this.machine.orderCrash(undefined);
    if (!isStopped) this.model.closed();
    return closed;
  }

  // --- running

  async wait<T>(what: string, promise: Promise<T>): Promise<Outcome<T>> {
    let settled: { readonly value: T } | { readonly error: unknown } | undefined;
    promise.then(
      (value) => {
        settled = { value };
      },
      (error: unknown) => {
        settled = { error };
      },
    );
    await this.runUntil(what, () => settled !== undefined);
    return this.machine.isUp ? must(settled, "what was waited for has ended") : "down";
  }

  /** Runs until `isDone`, or the machine is down; a standstill is a failure. */
  async runUntil(
    what: string,
    isDone: () => boolean,
    options: {
      /** Any number that changes as long as something gets done. */
      readonly progress?: () => number;
    } = {},
  ): Promise<void> {
    const { machine } = this;
    const { scheduler } = machine;
    const stepLimit = scheduler.stepCount + STEPS_MAX;
    let { relief } = this;
    let progress = Number.NaN;
    let progressMicros = scheduler.nowMicros;
    let standstill: string | undefined;
    await this.#pump(() => {
      if (this.#violation !== undefined || !machine.isUp || isDone()) return false;
      const now = options.progress?.() ?? 0;
      if (now !== progress) {
        progress = now;
        progressMicros = scheduler.nowMicros;
      }
      if (scheduler.nowMicros - progressMicros > HANG_MICROS) {
        if (relief === undefined) standstill = `nothing ended for ${HANG_MICROS / 1e6} seconds`;
        relief?.();
        relief = undefined;
        progressMicros = scheduler.nowMicros;
      }
      if (scheduler.stepCount > stepLimit) standstill = `it isn't done after ${STEPS_MAX} events`;
      return standstill === undefined && machine.step();
    });
    if (this.#violation !== undefined) throw this.#violation;
    if (!machine.isUp || isDone()) return;
    const found = standstill ?? "nothing is left that could happen";
    throw new Stop(violationOf("the store never hangs", what, found));
  }

  // --- single requests, for scripts; the promises settle while the rig runs

  volume(name: string): VolumeModel {
    const volume = this.model.volumes().find((one) => one.name === name);
    return must(volume, "a script names volumes that it made");
  }

  create(pool: PoolUnderTest, name: string, sizeBytes: number): Promise<number> {
    const operation = this.model.createVolume(name, sizeBytes);
    return this.#followChange(pool, operation, pool.createVolume(name, sizeBytes));
  }

  change(pool: PoolUnderTest, name: string, change: CatalogChange): Promise<number> {
    const operation = this.model.begin(this.volume(name), { change });
    return this.#followChange(pool, operation, callCatalog(pool, name, change));
  }

  write(
    pool: PoolUnderTest,
    name: string,
    place: {
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly isForced?: boolean;
    },
  ): Promise<number> {
    const { offsetBytes, lengthBytes, isForced: isForceUnitAccess = false } = place;
    const volume = this.volume(name);
    const change = { kind: "write", pattern: "stamped" } as const;
    const operation = this.model.begin(volume, { ...place, change, isForceUnitAccess });
    const source = new Uint8Array(lengthBytes);
    const { sequence } = operation;
    fillContent(source, { volumeId: volume.id, sequence, pattern: "stamped" }, offsetBytes);
    const request = { kind: "write", offsetBytes, source, isForceUnitAccess } as const;
    return this.#follow(pool, name, request, (errno) => this.model.end(operation, errno));
  }

  trim(
    pool: PoolUnderTest,
    name: string,
    place: { readonly offsetBytes: number; readonly lengthBytes: number },
  ): Promise<number> {
    const operation = this.model.begin(this.volume(name), { ...place, change: { kind: "zero" } });
    const request = { kind: "trim", ...place, isForceUnitAccess: false } as const;
    return this.#follow(pool, name, request, (errno) => this.model.end(operation, errno));
  }

  read(
    pool: PoolUnderTest,
    name: string,
    place: { readonly offsetBytes: number; readonly lengthBytes: number },
  ): Promise<number> {
    const { offsetBytes, lengthBytes } = place;
    const read = this.model.beginRead(this.volume(name), offsetBytes, lengthBytes);
    const target = new Uint8Array(lengthBytes).fill(FILLER_BYTE);
    return this.#follow(pool, name, { kind: "read", offsetBytes, target }, (errno) => {
      const violation = errno === 0 ? this.model.endRead(read, target) : undefined;
      if (errno !== 0) this.model.endFailedRead(read);
      if (violation !== undefined) this.fail(violation);
    });
  }

  flush(pool: PoolUnderTest, name: string): Promise<number> {
    const flush = this.model.beginFlush();
    return this.#follow(pool, name, { kind: "flush" }, (errno) =>
      this.model.endFlush(flush, errno),
    );
  }

  #follow(
    pool: PoolUnderTest,
    name: string,
    request: StoreRequest,
    end: (errno: number) => void,
  ): Promise<number> {
    const process = this.machine.process;
    return new Promise((resolve) => {
      pool.submit(name, request, (errno) => {
        if (process?.isAlive !== true) return;
        end(errno);
        resolve(errno);
      });
    });
  }

  #followChange(
    pool: PoolUnderTest,
    operation: ModelOperation,
    promise: Promise<void>,
  ): Promise<number> {
    const process = this.machine.process;
    return new Promise((resolve) => {
      const end = (errno: number): void => {
        if (process?.isAlive !== true) return;
        this.model.end(operation, errno);
        const violation = errno === 0 ? undefined : this.model.settleCatalog(pool.volumes());
        if (violation !== undefined) this.fail(violation);
        resolve(errno);
      };
      promise.then(
        () => end(0),
        (error: unknown) => {
          if (error instanceof AssertionError) this.fail(bug(error));
          end(-1);
        },
      );
    });
  }
}

/** A broken assertion is never a fault of the disk. */
export function bug(error: AssertionError): Violation {
  return violationOf("no assertion fails", "no assertion fails", error.stack ?? error.message);
}

export function openFailure(error: unknown): Stop {
  return new Stop(violationOf("the store opens after a crash", "it opens", error), error);
}

/** The call that makes a change of the catalog. */
export function callCatalog(
  pool: PoolUnderTest,
  name: string,
  change: CatalogChange,
): Promise<void> {
  switch (change.kind) {
    case "create":
      return pool.createVolume(change.name, change.sizeBytes);
    case "remove":
      return pool.removeVolume(name);
    case "rename":
      return pool.renameVolume(name, change.name);
    case "resize":
      return pool.resizeVolume(name, change.sizeBytes);
    default:
      return change satisfies never;
  }
}

/** Neighbouring chunks as ranges to read. */
function pieces(chunks: readonly number[], sizeBytes: number): { start: number; end: number }[] {
  const ranges: { start: number; end: number }[] = [];
  for (const chunk of chunks) {
    const start = chunk * CHUNK_BYTES;
    const end = Math.min(sizeBytes, start + CHUNK_BYTES);
    const last = ranges.at(-1);
    if (last !== undefined && last.end === start && end - last.start <= READ_BYTES) last.end = end;
    else ranges.push({ start, end });
  }
  return ranges;
}
