// SPDX-License-Identifier: Apache-2.0
//
// The oracle: a plain model of a set of volumes, told of every request as it is called and as it ends.
// It knows what a read may return while the store runs, and after a crash it says whether what is there is
// the state after some prefix of the order (DESIGN, promise 1) that holds all that was promised.
//
//     base ── what is certainly durable ──┬─ operations since, in the order of calls ─┬── current
//                                         └ after a crash: which of these survived?   ┘
//
// The answer is found from the content. Start with what must be there (acknowledged before the last
// acknowledged flush; after a mere kill, everything acknowledged), add what must come before it, and
// compare. A sector that differs must show a later operation of its volume; that one was there too, and
// brings with it all that comes before. Repeat. Each step is forced, so what is found is the smallest
// explanation, and when a step has no candidate there is none: the store has lost, torn, reordered or
// made up something.
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
import { describeContent, SECTOR_BYTES } from "./content.ts";
import { explainBytes, type Step } from "./doubt.ts";
import type { CrashKind, CrashReport } from "./machine.ts";
import {
  applyToContent,
  applyToPiece,
  type Change,
  covers,
  describeOperation,
  isCatalogChange,
  type ModelOperation,
  overlap,
  Survivors,
} from "./model-operation.ts";
import type { VolumeShape } from "./pool-under-test.ts";
import { CHUNK_BYTES, SparseBytes } from "./sparse-bytes.ts";

/** A check that failed. */
export interface Violation {
  readonly check: string;
  readonly volume: string;
  /** Number of the 512-byte sector; -1 where it isn't about one. */
  readonly sector: number;
  readonly expected: string;
  readonly found: string;
}

export interface VolumeModel {
  readonly id: number;
  name: string;
  sizeBytes: number;
  /** Durable for sure. */
  base: SparseBytes;
  /** After all operations in the order of calls. */
  current: SparseBytes;
  /** Chunks that ever held data: what a check has to look at. */
  readonly touchedChunks: Set<number>;
}

/** A volume as it is found after a crash: its shape, and the chunks that the model asked for. */
export interface ObservedVolume extends VolumeShape {
  readonly chunks: ReadonlyMap<number, Uint8Array>;
}

export interface ReadTicket {
  readonly volume: VolumeModel;
  readonly offsetBytes: number;
  /** Contents of the range that are right: at the call, and after each later change until the end. */
  readonly contents: Uint8Array[];
  /**
   * Where requests under way or failed left doubt at the call: what was durable then, and what has become
   * durable since of that which was called before. The other operations lie over it.
   */
  readonly floor: Uint8Array | undefined;
  readonly calledAt: number;
}

export interface FlushTicket {
  readonly calledAt: number;
}

export interface ModelOptions {
  readonly ack: "written" | "memory" | "durable";
  /** The store orders requests exactly as they are called: a stricter check. */
  readonly isOrderOfCalls?: boolean;
}

type Shapes = Map<number, { name: string; sizeBytes: number }>;

const UNCERTAIN_CATALOG_MAX = 4;
const NEVER = Number.POSITIVE_INFINITY;
/** A sector that a failed operation explains. */
const UNCERTAIN = "uncertain";

export class DiskModel {
  /** Requests may fail: what one that is under way will leave is then not known before it ends. */
  areFailuresExpected = false;
  readonly #options: ModelOptions;
  readonly #volumes = new Map<number, VolumeModel>();
  #baseShapes: Shapes = new Map();
  #currentShapes: Shapes = new Map();
  #operations: ModelOperation[] = [];
  readonly #reads = new Set<ReadTicket>();
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
    this.#widenReads(operation);
    return operation;
  }

  /** An operation ended. */
  end(operation: ModelOperation, errno: number): void {
    assert(operation.outcome === "pending", "an operation ends once");
    operation.completedAt = ++this.#step;
    operation.outcome = errno === 0 ? "done" : "failed";
    if (errno !== 0) {
      this.#rebuildCurrent();
      this.#widenReads(operation);
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
    const uncertain = this.#operations.filter(isUncertainCatalog).slice(-UNCERTAIN_CATALOG_MAX);
    for (const chosen of subsets(uncertain)) {
      const shapes = this.#shapesWith(
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

  beginRead(volume: VolumeModel, offsetBytes: number, lengthBytes: number): ReadTicket {
    const content = new Uint8Array(lengthBytes);
    volume.current.read(content, offsetBytes);
    const floor = this.#doubtfulFloor(volume, offsetBytes, lengthBytes);
    const read = { volume, offsetBytes, contents: [content], floor, calledAt: ++this.#step };
    this.#reads.add(read);
    return read;
  }

  /** A read ended well and returned `bytes`. */
  endRead(read: ReadTicket, bytes: Uint8Array): Violation | undefined {
    this.#reads.delete(read);
    const [first] = read.contents;
    if (isEqual(bytes, must(first, "a read has a content"))) return undefined;
    const start = read.offsetBytes;
    const end = start + bytes.length;
    for (let at = start; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES);
      const found = bytes.subarray(at - start, stop - start);
      const isRight = read.contents.some((content) =>
        isEqual(found, content.subarray(at - start, stop - start)),
      );
      if (!isRight && !this.#isUncertainContent(read, { start: at, end: stop, found })) {
        const expected = must(first, "a read has a content").subarray(at - start, stop - start);
        return {
          check: "a read returns the newest content",
          volume: read.volume.name,
          sector: Math.floor(at / SECTOR_BYTES),
          expected: describeContent(expected),
          found: describeContent(found),
        };
      }
      at = stop;
    }
    return undefined;
  }

  endFailedRead(read: ReadTicket): void {
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
    const required = new Survivors(this.#operations, this.#options.isOrderOfCalls ?? false);
    const isKillSafe = crash === "kill" && this.#isCacheWhole && this.#options.ack !== "memory";
    this.#operations.forEach((operation, index) => {
      if (operation.isDurable)
        required.add(index, "a flush (or its own FUA) was acknowledged after it");
      if (isKillSafe && operation.outcome === "done") {
        required.add(index, "it was acknowledged, and only the process died");
      }
    });
    required.close();

    let violation: Violation | undefined;
    for (const chosen of this.#catalogChoices(required)) {
      const result = this.#explain(observed, required, chosen);
      if (!("check" in result)) {
        this.#goOn(crash, observed, result);
        return undefined;
      }
      violation ??= result;
    }
    return violation ?? catalogViolation(this.#shapesOf(required), observed);
  }

  // --- explaining what is there

  /** Which changes of the catalog there may have been, fewest first. */
  *#catalogChoices(required: Survivors): Generator<Set<ModelOperation>> {
    const changes = this.#operations.filter(({ change }) => isCatalogChange(change));
    const certain = changes.filter(({ outcome }) => outcome !== "failed");
    const uncertain = changes.filter(isUncertainCatalog).slice(-UNCERTAIN_CATALOG_MAX);
    const isRequired = (operation: ModelOperation): boolean => {
      return required.has(this.#operations.indexOf(operation));
    };
    let count = certain.length;
    while (count > 0 && !isRequired(certain[count - 1] as ModelOperation)) count -= 1;
    for (; count <= certain.length; count++) {
      for (const subset of subsets(uncertain)) {
        yield new Set([...certain.slice(0, count), ...subset]);
      }
    }
  }

  #explain(
    observed: readonly ObservedVolume[],
    required: Survivors,
    catalog: ReadonlySet<ModelOperation>,
  ): Survivors | Violation {
    const shapes = this.#shapesWith((operation) => catalog.has(operation));
    if (shapes === undefined || !matches(shapes, observed)) {
      return catalogViolation(this.#shapesOf(required), observed);
    }
    const survivors = new Survivors(this.#operations, this.#options.isOrderOfCalls ?? false);
    this.#operations.forEach((operation, index) => {
      if (required.has(index)) survivors.add(index, required.reason(index));
      if (catalog.has(operation)) survivors.add(index, "the list of volumes shows it");
    });
    survivors.close();
    const isFound = new Map(observed.map((volume) => [volume.name, volume]));
    // What a round adds may explain many sectors of that round; the next one starts from its state.
    const added = new Set<number>();
    let isNews = true;
    while (isNews) {
      isNews = false;
      added.clear();
      for (const [id, { name }] of shapes) {
        const found = must(isFound.get(name), "shapes match");
        const result = this.#compare(this.#volume(id), found, { survivors, added });
        if (typeof result !== "boolean") return result;
        isNews = result || isNews;
      }
      survivors.close();
    }
    const surprise = this.#operations.find(
      (operation, index) =>
        isCatalogChange(operation.change) && survivors.has(index) && !catalog.has(operation),
    );
    if (surprise === undefined) return survivors;
    return catalogViolation(this.#shapesOf(survivors), observed);
  }

  /** Compares one volume with base and survivors; adds survivors that it sees. True if there were any. */
  #compare(
    volume: VolumeModel,
    observed: ObservedVolume,
    { survivors, added }: { readonly survivors: Survivors; readonly added: Set<number> },
  ): boolean | Violation {
    let isNews = false;
    const expected = new Uint8Array(CHUNK_BYTES);
    for (const [chunk, found] of observed.chunks) {
      const position = chunk * CHUNK_BYTES;
      const base = volume.base.chunks.get(chunk);
      if (base === undefined) expected.fill(0);
      else expected.set(base);
      this.#operations.forEach((operation, index) => {
        if (operation.volume !== volume || !survivors.has(index)) return;
        applyToPiece(expected, position, operation, survivors.includedBytes(index));
      });
      if (isEqual(expected.subarray(0, found.length), found)) continue;
      for (let at = 0; at < found.length; at += SECTOR_BYTES) {
        const wanted = expected.subarray(at, at + SECTOR_BYTES);
        const seen = found.subarray(at, at + SECTOR_BYTES);
        if (isEqual(wanted, seen)) continue;
        const place = { volume, start: position + at, wanted, seen };
        const cause = this.#explainSector(place, survivors, added);
        if (cause === undefined) return this.#violation(place, survivors);
        if (cause === UNCERTAIN) continue;
        added.add(cause);
        isNews = true;
      }
    }
    return isNews;
  }

  /** Finds which operation makes a sector what it is, and adds it; undefined if none does. */
  #explainSector(
    place: {
      readonly volume: VolumeModel;
      readonly start: number;
      readonly wanted: Uint8Array;
      readonly seen: Uint8Array;
    },
    survivors: Survivors,
    added: ReadonlySet<number>,
  ): number | typeof UNCERTAIN | undefined {
    const { volume, start, seen } = place;
    const end = start + SECTOR_BYTES;
    const isDoubtful = this.#operations.some((operation) =>
      isInDoubt(operation, volume, start, end),
    );
    if (isDoubtful && this.#isDoubtExplained(place, survivors, -1)) return UNCERTAIN;
    // The sector's versions in the order of calls, from the base on: all operations that are certain.
    const version = new Uint8Array(SECTOR_BYTES);
    volume.base.read(version, start);
    for (let index = 0; index < this.#operations.length; index++) {
      const operation = this.#operations[index] as ModelOperation;
      if (operation.volume !== volume || !touches(operation, start, end)) continue;
      if (operation.outcome === "failed") continue;
      applyToPiece(version, start, operation, operation.lengthBytes);
      const isKnown =
        !added.has(index) &&
        survivors.has(index) &&
        start < operation.offsetBytes + survivors.includedBytes(index);
      if (isKnown) continue;
      const isShown =
        isEqual(version, seen) || (isDoubtful && this.#isDoubtExplained(place, survivors, index));
      if (!isShown) continue;
      const reason = `sector ${start / SECTOR_BYTES} of volume ${volume.id} shows it`;
      survivors.add(index, reason, Math.min(end, operation.offsetBytes + operation.lengthBytes));
      return index;
    }
    return undefined;
  }

  /** Do failed operations explain a sector, if of the others there are the survivors and all up to `last`? */
  #isDoubtExplained(
    place: { readonly volume: VolumeModel; readonly start: number; readonly seen: Uint8Array },
    survivors: Survivors,
    last: number,
  ): boolean {
    const { volume, start, seen } = place;
    const base = new Uint8Array(seen.length);
    volume.base.read(base, start);
    const steps: Step[] = [];
    this.#operations.forEach((operation, index) => {
      if (operation.volume !== volume || !touches(operation, start, start + seen.length)) return;
      const isCertain = operation.outcome !== "failed" || survivors.has(index);
      if (isCertain && index > last && !survivors.has(index)) return;
      const lengthBytes = index <= last ? operation.lengthBytes : survivors.includedBytes(index);
      const mayShowAt = (position: number): boolean => !isMasked(operation, position, NEVER);
      steps.push({
        operation,
        lengthBytes: isCertain ? lengthBytes : operation.lengthBytes,
        isCertain,
        mayShowAt,
      });
    });
    const isRight = base.map((byte, at) => (byte === seen[at] ? 1 : 0));
    return explainBytes({ start, seen, isRight }, steps).every((right) => right === 1);
  }

  #violation(
    place: {
      readonly volume: VolumeModel;
      readonly start: number;
      readonly wanted: Uint8Array;
      readonly seen: Uint8Array;
    },
    survivors: Survivors,
  ): Violation {
    const { volume, start, wanted, seen } = place;
    let why = "nothing was written there since the last durable state";
    this.#operations.forEach((operation, index) => {
      const isThere = operation.volume === volume && survivors.has(index);
      if (!isThere || !touches(operation, start, start + SECTOR_BYTES)) return;
      why = `${describeOperation(operation)} must be there: ${survivors.reason(index)}`;
    });
    return {
      check:
        "after a crash a volume is the state after a prefix of its order, with all that was promised",
      volume: volume.name,
      sector: start / SECTOR_BYTES,
      expected: `${describeContent(wanted)}; ${why}`,
      found: describeContent(seen),
    };
  }

  /** Takes what was found as the truth. */
  #goOn(crash: CrashKind, observed: readonly ObservedVolume[], survivors: Survivors): void {
    this.#step += 1;
    this.#crash = undefined;
    this.#isCacheWhole = true;
    if (crash === "power") {
      this.#baseShapes = this.#shapesOf(survivors);
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
      this.#shapesWith(({ outcome }) => outcome !== "failed"),
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
      this.#raiseFloors(operation);
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

  /** What has become durable leaves the operations; reads called after it must still find it. */
  #raiseFloors(operation: ModelOperation): void {
    for (const { volume, offsetBytes, floor, calledAt } of this.#reads) {
      if (floor === undefined || volume !== operation.volume) continue;
      if (operation.calledAt < calledAt)
        applyToPiece(floor, offsetBytes, operation, operation.lengthBytes);
    }
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

  /** Reads that are under way may see the state that has just become current. */
  #widenReads(operation: ModelOperation): void {
    for (const read of this.#reads) {
      const length = must(read.contents[0], "a read has a content").length;
      const end = read.offsetBytes + length;
      if (read.volume !== operation.volume || !touches(operation, read.offsetBytes, end)) continue;
      const content = new Uint8Array(length);
      read.volume.current.read(content, read.offsetBytes);
      read.contents.push(content);
    }
  }

  /** May a read have seen what failed operations left, and those that may still fail? */
  #isUncertainContent(
    read: ReadTicket,
    place: { readonly start: number; readonly end: number; readonly found: Uint8Array },
  ): boolean {
    const { start, end, found } = place;
    const { volume, offsetBytes, contents, floor, calledAt } = read;
    const at = start - offsetBytes;
    const steps: Step[] = [];
    for (const operation of this.#operations) {
      if (operation.volume !== volume || !touches(operation, start, end)) continue;
      const isCertain = operation.calledAt < calledAt && !this.#mayHaveFailed(operation);
      const { lengthBytes } = operation;
      const mayShowAt = (position: number): boolean => !isMasked(operation, position, calledAt);
      steps.push({ operation, lengthBytes, isCertain, mayShowAt });
    }
    if (floor === undefined && steps.every(({ isCertain }) => isCertain)) return false;
    const isRight = found.map((byte, index) => (floor?.[at + index] === byte ? 1 : 0));
    const shown = explainBytes({ start, seen: found, isRight }, steps);
    return found.every((byte, index) => {
      return shown[index] === 1 || contents.some((content) => content[at + index] === byte);
    });
  }

  /** The range as it is durable; undefined when no operation there leaves doubt. */
  #doubtfulFloor(
    volume: VolumeModel,
    offsetBytes: number,
    lengthBytes: number,
  ): Uint8Array | undefined {
    const end = offsetBytes + lengthBytes;
    const isDoubtful = this.#operations.some(
      (operation) =>
        operation.volume === volume &&
        touches(operation, offsetBytes, end) &&
        this.#mayHaveFailed(operation),
    );
    if (!isDoubtful) return undefined;
    const content = new Uint8Array(lengthBytes);
    volume.base.read(content, offsetBytes);
    return content;
  }

  #mayHaveFailed({ outcome }: ModelOperation): boolean {
    return outcome === "failed" || (outcome === "pending" && this.areFailuresExpected);
  }

  /** Base and those changes of the catalog that `isThere`; undefined if they don't fit. */
  #shapesWith(isThere: (operation: ModelOperation) => boolean): Shapes | undefined {
    const shapes: Shapes = new Map(this.#baseShapes);
    for (const operation of this.#operations) {
      if (!isCatalogChange(operation.change) || !isThere(operation)) continue;
      if (operation.change.kind !== "create" && !shapes.has(operation.volume.id)) return undefined;
      applyToShapes(shapes, operation);
    }
    return shapes;
  }

  #shapesOf(survivors: Survivors): Shapes {
    const shapes: Shapes = new Map(this.#baseShapes);
    this.#operations.forEach((operation, index) => {
      if (survivors.has(index)) applyToShapes(shapes, operation);
    });
    return shapes;
  }

  /** Puts names and sizes of the current state where clients look. */
  #syncShapes(): void {
    for (const [id, { name, sizeBytes }] of this.#currentShapes) {
      const volume = this.#volume(id);
      volume.name = name;
      volume.sizeBytes = sizeBytes;
    }
  }

  #volume(id: number): VolumeModel {
    return must(this.#volumes.get(id), "a volume that some state shows is known");
  }
}

function isUncertainCatalog({ change, outcome }: ModelOperation): boolean {
  return outcome === "failed" && isCatalogChange(change);
}

function applyToShapes(shapes: Shapes, { change, volume }: ModelOperation): void {
  const shape = shapes.get(volume.id);
  switch (change.kind) {
    case "create":
      shapes.set(volume.id, { name: change.name, sizeBytes: change.sizeBytes });
      return;
    case "remove":
      shapes.delete(volume.id);
      return;
    case "rename":
      if (shape !== undefined) shapes.set(volume.id, { ...shape, name: change.name });
      return;
    case "resize":
      if (shape !== undefined) shapes.set(volume.id, { ...shape, sizeBytes: change.sizeBytes });
      return;
    case "write":
    case "zero":
      return;
    default:
      change satisfies never;
  }
}

function matches(shapes: Shapes, observed: readonly VolumeShape[]): boolean {
  if (shapes.size !== observed.length) return false;
  const sizes = new Map(observed.map(({ name, sizeBytes }) => [name, sizeBytes]));
  return [...shapes.values()].every(({ name, sizeBytes }) => sizes.get(name) === sizeBytes);
}

function catalogViolation(shapes: Shapes, observed: readonly VolumeShape[]): Violation {
  const list = (volumes: Iterable<VolumeShape>): string =>
    [...volumes].map(({ name, sizeBytes }) => `${name} of ${sizeBytes} bytes`).join(", ") || "none";
  return {
    check: "the list of volumes is the one after a prefix of the order",
    volume: "",
    sector: -1,
    expected: `at least these changes: ${list(shapes.values())}`,
    found: list(observed),
  };
}

/** All subsets, the empty one first, in the order of the bits. */
function subsets(operations: readonly ModelOperation[]): Set<ModelOperation>[] {
  const sets: Set<ModelOperation>[] = [];
  for (let bits = 0; bits < 1 << operations.length; bits++) {
    sets.push(new Set(operations.filter((_, index) => (bits & (1 << index)) !== 0)));
  }
  return sets;
}

function isInDoubt(
  operation: ModelOperation,
  volume: VolumeModel,
  start: number,
  end: number,
): boolean {
  const { outcome } = operation;
  return outcome === "failed" && operation.volume === volume && touches(operation, start, end);
}

/** Did something certain that was called before step `before` overwrite a failed operation at this byte? */
function isMasked({ masks }: ModelOperation, position: number, before: number): boolean {
  return masks.some(
    ({ start, end, calledAt }) => calledAt < before && position >= start && position < end,
  );
}

/** Does it change any byte of [start, end)? A shrink changes what it cuts off. */
function touches(operation: ModelOperation, start: number, end: number): boolean {
  if (operation.change.kind === "resize") return operation.change.sizeBytes < end;
  return covers(operation, start, end);
}

function isEqual(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
