// SPDX-License-Identifier: Apache-2.0
//
// The oracle: a plain model of a set of volumes, told of every request as it is called and as it ends.
// It knows what a read may return while the store runs, and after a crash it says whether what is there is
// the state after some prefix of the order (DESIGN, promise 1) that holds all that was promised.
//
//     base ── what is certainly durable ──┬─ operations since, in the order of calls ─┬── current
//                                         └ after a crash: which of these survived?   ┘
//
// Here the books are kept. What a read may show is judged in read-under-way.ts, what a crash may leave in
// crash-explanation.ts.
//
// An operation that failed is uncertain: it may or may not be there, in whole or in part, until something
// certain is written over it. What it covered is not lost with it: where it isn't seen, there is the newest
// certain content.
//
// A store that has stopped after an error of its disk may refuse reads, but nothing that it acknowledged may
// disappear while its process lives, durable or not: a read that ends well shows, byte by byte, the newest
// operation called before it that ended well, or a later one, or one that failed or may still fail. Only a
// crash may lose what was acknowledged and not durable.

import { assert, must } from "../base/assert.ts";
import { explainCrash } from "./crash-explanation.ts";
import type { CrashKind, CrashReport } from "./machine.ts";
import {
  applyToContent,
  type Change,
  covers,
  isCatalogChange,
  type ModelOperation,
  overlap,
  type Survivors,
} from "./model-operation.ts";
import {
  applyToShapes,
  type CatalogHistory,
  catalogViolation,
  matches,
  type ObservedVolume,
  type Shapes,
  shapesOf,
  shapesWith,
  uncertainChoices,
  type VolumeModel,
} from "./model-volume.ts";
import type { VolumeShape } from "./pool-under-test.ts";
import { type OpenOperations, ReadUnderWay } from "./read-under-way.ts";
import { CHUNK_BYTES, SparseBytes } from "./sparse-bytes.ts";
import type { Violation } from "./violation.ts";

export interface FlushTicket {
  readonly calledAt: number;
}

export interface ModelOptions {
  readonly ack: "written" | "memory" | "durable";
  /** The store orders requests exactly as they are called: a stricter check. */
  readonly isOrderOfCalls?: boolean;
}

const NEVER = Number.POSITIVE_INFINITY;

export class DiskModel {
  /** Requests may fail: what one that is under way will leave is then not known before it ends. */
  areFailuresExpected = false;
  readonly #options: ModelOptions;
  readonly #volumes = new Map<number, VolumeModel>();
  #baseShapes: Shapes = new Map();
  #currentShapes: Shapes = new Map();
  #operations: ModelOperation[] = [];
  readonly #reads = new Set<ReadUnderWay>();
  #sequence = 0;
  #step = 0;
  #nextVolumeId = 1;
  /** The worst of the crashes since the last recovery. */
  #crash: CrashKind | undefined;
  #isCacheWhole = true;

  constructor(options: ModelOptions) {
    this.#options = options;
  }

  /** The volumes that there are now, in the order of calls. */
  volumes(): VolumeModel[] {
    return [...this.#currentShapes.keys()].map((id) => this.#volume(id));
  }

  /** Operations that a crash could still lose. */
  get openCount(): number {
    return this.#operations.length;
  }

  /** How many operations there have been. */
  get operationCount(): number {
    return this.#sequence;
  }

  /** True when no failed operation leaves the content of the range in doubt. */
  isCertain(volume: VolumeModel, offsetBytes: number, lengthBytes: number): boolean {
    const end = offsetBytes + lengthBytes;
    return !this.#operations.some(
      (operation) =>
        operation.outcome === "failed" &&
        operation.volume === volume &&
        !isCatalogChange(operation.change) &&
        covers(operation, offsetBytes, end),
    );
  }

  createVolume(name: string, sizeBytes: number): ModelOperation {
    const volume: VolumeModel = {
      id: this.#nextVolumeId++,
      name,
      sizeBytes,
      base: new SparseBytes(),
      current: new SparseBytes(),
      touchedChunks: new Set(),
    };
    this.#volumes.set(volume.id, volume);
    return this.begin(volume, { change: { kind: "create", name, sizeBytes } });
  }

  /** An operation is called. Ranges are inside the volume. */
  begin(
    volume: VolumeModel,
    request: {
      readonly change: Change;
      readonly offsetBytes?: number;
      readonly lengthBytes?: number;
      readonly isForceUnitAccess?: boolean;
    },
  ): ModelOperation {
    const operation: ModelOperation = {
      sequence: ++this.#sequence,
      volume,
      change: request.change,
      offsetBytes: request.offsetBytes ?? 0,
      lengthBytes: request.lengthBytes ?? 0,
      isForceUnitAccess: request.isForceUnitAccess ?? false,
      calledAt: ++this.#step,
      completedAt: NEVER,
      outcome: "pending",
      isDurable: false,
      masks: [],
    };
    this.#operations.push(operation);
    applyToShapes(this.#currentShapes, operation);
    this.#syncShapes();
    applyToContent(volume.current, operation);
    if (operation.change.kind === "write") {
      const end = Math.ceil((operation.offsetBytes + operation.lengthBytes) / CHUNK_BYTES);
      for (let chunk = Math.floor(operation.offsetBytes / CHUNK_BYTES); chunk < end; chunk++) {
        volume.touchedChunks.add(chunk);
      }
    }
    for (const read of this.#reads) read.widen(operation);
    return operation;
  }

  /** An operation ended. */
  end(operation: ModelOperation, errno: number): void {
    assert(operation.outcome === "pending", "an operation ends once");
    operation.completedAt = ++this.#step;
    operation.outcome = errno === 0 ? "done" : "failed";
    if (errno !== 0) {
      this.#rebuildCurrent();
      for (const read of this.#reads) read.widen(operation);
      return;
    }
    if (operation.isForceUnitAccess) {
      this.#markDurable(operation.calledAt);
      operation.isDurable = true;
    }
    if (this.#options.ack === "durable") operation.isDurable = true;
    if (operation.isDurable) this.#fold();
  }

  /** A change of the catalog failed, and this is what the store says is there. */
  settleCatalog(observed: readonly VolumeShape[]): Violation | undefined {
    for (const chosen of uncertainChoices(this.#operations)) {
      const shapes = shapesWith(
        this.#history,
        (operation) => operation.outcome !== "failed" || chosen.has(operation),
      );
      if (shapes === undefined || !matches(shapes, observed)) continue;
      this.#currentShapes = shapes;
      this.#syncShapes();
      this.#rebuildCurrent();
      return undefined;
    }
    return catalogViolation(this.#currentShapes, observed);
  }

  beginFlush(): FlushTicket {
    return { calledAt: ++this.#step };
  }

  endFlush(flush: FlushTicket, errno: number): void {
    if (errno !== 0) return;
    this.#markDurable(flush.calledAt);
    this.#fold();
  }

  beginRead(volume: VolumeModel, offsetBytes: number, lengthBytes: number): ReadUnderWay {
    const call = { ...this.#open, calledAt: ++this.#step };
    const read = new ReadUnderWay(volume, { offsetBytes, lengthBytes }, call);
    this.#reads.add(read);
    return read;
  }

  /** A read ended well and returned `bytes`. */
  endRead(read: ReadUnderWay, bytes: Uint8Array): Violation | undefined {
    this.#reads.delete(read);
    return read.judge(bytes, this.#open);
  }

  endFailedRead(read: ReadUnderWay): void {
    this.#reads.delete(read);
  }

  /** The store was closed in order: all that was acknowledged is durable. */
  closed(): void {
    this.#markDurable(++this.#step);
    this.#fold();
  }

  /** The process died. Nothing that is under way will end. */
  crashed({ kind, isCacheWhole }: CrashReport): void {
    if (this.#crash !== "power") this.#crash = kind;
    if (!isCacheWhole) this.#isCacheWhole = false;
    this.#reads.clear();
  }

  /** Chunks of a volume of this name and size that `recovered` wants to see. */
  chunksToObserve(shape: VolumeShape): number[] {
    const chunks = new Set<number>();
    for (const volume of this.#volumes.values()) {
      for (const chunk of volume.touchedChunks) chunks.add(chunk);
    }
    return [...chunks]
      .filter((chunk) => chunk * CHUNK_BYTES < shape.sizeBytes)
      .sort((a, b) => a - b);
  }

  /** What is there after the crashes since the last call. The model goes on from it if it is right. */
  recovered(observed: readonly ObservedVolume[]): Violation | undefined {
    const crash = this.#crash ?? "kill";
    const state = {
      ...this.#history,
      volumes: this.#volumes,
      isOrderOfCalls: this.#options.isOrderOfCalls ?? false,
      isKillSafe: crash === "kill" && this.#isCacheWhole && this.#options.ack !== "memory",
    };
    const result = explainCrash(state, observed);
    if ("check" in result) return result;
    this.#goOn(crash, observed, result);
    return undefined;
  }

  /** Takes what was found as the truth. */
  #goOn(crash: CrashKind, observed: readonly ObservedVolume[], survivors: Survivors): void {
    this.#step += 1;
    this.#crash = undefined;
    this.#isCacheWhole = true;
    if (crash === "power") {
      this.#baseShapes = shapesOf(this.#history, survivors);
      for (const [id, { name }] of this.#baseShapes) {
        const volume = this.#volume(id);
        const found = observed.find((one) => one.name === name);
        volume.base = new SparseBytes();
        for (const [chunk, bytes] of must(found, "shapes match").chunks) {
          if (volume.touchedChunks.has(chunk)) volume.base.write(bytes, chunk * CHUNK_BYTES);
        }
      }
      this.#operations = [];
    } else {
      this.#operations = this.#operations.filter((operation, index) => {
        if (operation.outcome === "failed") {
          if (isCatalogChange(operation.change) && !survivors.has(index)) return false;
          if (!isCatalogChange(operation.change)) return true;
        }
        if (!survivors.has(index)) return false;
        operation.lengthBytes = survivors.includedBytes(index);
        operation.outcome = "done";
        if (operation.completedAt === NEVER) operation.completedAt = this.#step;
        return true;
      });
      this.#fold();
    }
    this.#currentShapes = must(
      shapesWith(this.#history, ({ outcome }) => outcome !== "failed"),
      "survivors fit",
    );
    this.#forgetVolumes();
    this.#syncShapes();
    this.#rebuildCurrent();
  }

  // --- keeping the books

  /** All that was acknowledged before `step` is durable. */
  #markDurable(step: number): void {
    for (const operation of this.#operations) {
      if (operation.outcome === "done" && operation.completedAt < step) operation.isDurable = true;
    }
  }

  /** Moves durable operations into the base, as far as none before them is still open. */
  #fold(): void {
    const open: ModelOperation[] = [];
    for (const operation of this.#operations) {
      const isBlocked = open.some((other) =>
        isCatalogChange(operation.change)
          ? isCatalogChange(other.change) || other.volume === operation.volume
          : other.outcome !== "failed" && overlap(other, operation),
      );
      if (!operation.isDurable || operation.outcome !== "done" || isBlocked) {
        open.push(operation);
        continue;
      }
      applyToShapes(this.#baseShapes, operation);
      applyToContent(this.#volume(operation.volume.id).base, operation);
      for (const read of this.#reads) read.raiseFloor(operation);
      for (const other of open) {
        if (other.outcome !== "failed" || other.volume !== operation.volume) continue;
        const { offsetBytes: start, calledAt } = operation;
        other.masks.push({ start, end: start + operation.lengthBytes, calledAt });
      }
    }
    if (open.length === this.#operations.length) return;
    this.#operations = open;
    this.#forgetVolumes();
  }

  /** Drops volumes that no state can show any more. */
  #forgetVolumes(): void {
    for (const id of this.#volumes.keys()) {
      if (this.#baseShapes.has(id) || this.#currentShapes.has(id)) continue;
      if (!this.#operations.some((operation) => operation.volume.id === id))
        this.#volumes.delete(id);
    }
  }

  /** The current state again from the base and what is certain. */
  #rebuildCurrent(): void {
    for (const volume of this.#volumes.values()) volume.current = volume.base.clone();
    for (const operation of this.#operations) {
      if (operation.outcome === "failed") continue;
      applyToContent(this.#volume(operation.volume.id).current, operation);
    }
  }

  /** Puts names and sizes of the current state where clients look. */
  #syncShapes(): void {
    for (const [id, { name, sizeBytes }] of this.#currentShapes) {
      const volume = this.#volume(id);
      volume.name = name;
      volume.sizeBytes = sizeBytes;
    }
  }

  get #open(): OpenOperations {
    return { operations: this.#operations, areFailuresExpected: this.areFailuresExpected };
  }

  get #history(): CatalogHistory {
    return { baseShapes: this.#baseShapes, operations: this.#operations };
  }

  #volume(id: number): VolumeModel {
    return must(this.#volumes.get(id), "a volume that some state shows is known");
  }
}
