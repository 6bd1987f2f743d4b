// SPDX-License-Identifier: Apache-2.0
//
// Is what is there after a crash the state after some prefix of the order (DESIGN, promise 1) that holds all
// that was promised? The answer is found from the content. Start with what must be there (acknowledged before
// the last acknowledged flush; after a mere kill, everything acknowledged), add what must come before it, and
// compare. A sector that differs must show a later operation of its volume; that one was there too, and
// brings with it all that comes before. Repeat. Each step is forced, so what is found is the smallest
// explanation, and when a step has no candidate there is none: the store has lost, torn, reordered or
// made up something.

import { must } from "../base/assert.ts";
import { describeContent, isEqual, SECTOR_BYTES } from "./content.ts";
import { explainBytes, type Step } from "./doubt.ts";
import {
  applyToPiece,
  describeOperation,
  isCatalogChange,
  isMasked,
  type ModelOperation,
  Survivors,
  touches,
} from "./model-operation.ts";
import {
  type CatalogHistory,
  catalogViolation,
  matches,
  type ObservedVolume,
  shapesOf,
  shapesWith,
  uncertainChoices,
  type VolumeModel,
} from "./model-volume.ts";
import { CHUNK_BYTES } from "./sparse-bytes.ts";
import type { Violation } from "./violation.ts";

/** The model at the moment of the crash. */
export interface CrashedState extends CatalogHistory {
  readonly volumes: ReadonlyMap<number, VolumeModel>;
  /** The store orders requests exactly as they are called: a stricter check. */
  readonly isOrderOfCalls: boolean;
  /** All that was acknowledged must be there, durable or not. */
  readonly isKillSafe: boolean;
}

/** A sector of a volume that begins at `start`: what it should hold, and what is there. */
interface SectorPlace {
  readonly volume: VolumeModel;
  readonly start: number;
  readonly wanted: Uint8Array;
  readonly seen: Uint8Array;
}

/** A sector that a failed operation explains. */
const UNCERTAIN = "uncertain";
const NEVER = Number.POSITIVE_INFINITY;

/** The operations that were there, or the check that no choice of them passes. */
export function explainCrash(
  state: CrashedState,
  observed: readonly ObservedVolume[],
): Survivors | Violation {
  return new CrashExplanation(state, observed).find();
}

class CrashExplanation {
  readonly #state: CrashedState;
  readonly #operations: readonly ModelOperation[];
  readonly #observed: readonly ObservedVolume[];

  constructor(state: CrashedState, observed: readonly ObservedVolume[]) {
    this.#state = state;
    this.#operations = state.operations;
    this.#observed = observed;
  }

  find(): Survivors | Violation {
    const required = this.#required();
    let violation: Violation | undefined;
    for (const chosen of this.#catalogChoices(required)) {
      const result = this.#explain(required, chosen);
      if (!("check" in result)) return result;
      violation ??= result;
    }
    return violation ?? catalogViolation(shapesOf(this.#state, required), this.#observed);
  }

  #noSurvivors(): Survivors {
    return new Survivors(this.#operations, this.#state.isOrderOfCalls);
  }

  /** What must be there. */
  #required(): Survivors {
    const required = this.#noSurvivors();
    this.#operations.forEach((operation, index) => {
      if (operation.isDurable)
        required.add(index, "a flush (or its own FUA) was acknowledged after it");
      if (this.#state.isKillSafe && operation.outcome === "done") {
        required.add(index, "it was acknowledged, and only the process died");
      }
    });
    required.close();
    return required;
  }

  /** Which changes of the catalog there may have been, fewest first. */
  *#catalogChoices(required: Survivors): Generator<Set<ModelOperation>> {
    const certain = this.#operations.filter(
      ({ change, outcome }) => isCatalogChange(change) && outcome !== "failed",
    );
    const choices = uncertainChoices(this.#operations);
    const isRequired = (operation: ModelOperation): boolean => {
      return required.has(this.#operations.indexOf(operation));
    };
    let count = certain.length;
    while (count > 0 && !isRequired(certain[count - 1] as ModelOperation)) count -= 1;
    for (; count <= certain.length; count++) {
      for (const subset of choices) {
        yield new Set([...certain.slice(0, count), ...subset]);
      }
    }
  }

  #explain(required: Survivors, catalog: ReadonlySet<ModelOperation>): Survivors | Violation {
    const observed = this.#observed;
    const shapes = shapesWith(this.#state, (operation) => catalog.has(operation));
    if (shapes === undefined || !matches(shapes, observed)) {
      return catalogViolation(shapesOf(this.#state, required), observed);
    }
    const survivors = this.#noSurvivors();
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
        const result = this.#compare(
          must(this.#state.volumes.get(id), "a volume that some state shows is known"),
          found,
          { survivors, added },
        );
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
    return catalogViolation(shapesOf(this.#state, survivors), observed);
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
    place: SectorPlace,
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

  #violation(place: SectorPlace, survivors: Survivors): Violation {
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
