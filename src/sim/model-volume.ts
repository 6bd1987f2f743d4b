// SPDX-License-Identifier: Apache-2.0
//
// Volumes as the model sees them: the content of each, and the list of all, which changes of the catalog make.
// A change of the catalog that failed may have taken effect or not; of these all choices are tried, few as
// they are.

import { isCatalogChange, type ModelOperation, type Survivors } from "./model-operation.ts";
import type { VolumeShape } from "./pool-under-test.ts";
import type { SparseBytes } from "./sparse-bytes.ts";
import type { Violation } from "./violation.ts";

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

/** Name and size by the volume's id. */
export type Shapes = Map<number, { name: string; sizeBytes: number }>;

/** Some state of the list, and the operations since. */
export interface CatalogHistory {
  readonly baseShapes: Shapes;
  readonly operations: readonly ModelOperation[];
}

const UNCERTAIN_CATALOG_MAX = 4;

export function applyToShapes(shapes: Shapes, { change, volume }: ModelOperation): void {
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

/** Base and those changes of the catalog that `isThere`; undefined if they don't fit. */
export function shapesWith(
  { baseShapes, operations }: CatalogHistory,
  isThere: (operation: ModelOperation) => boolean,
): Shapes | undefined {
  const shapes: Shapes = new Map(baseShapes);
  for (const operation of operations) {
    if (!isCatalogChange(operation.change) || !isThere(operation)) continue;
    if (operation.change.kind !== "create" && !shapes.has(operation.volume.id)) return undefined;
    applyToShapes(shapes, operation);
  }
  return shapes;
}

export function shapesOf({ baseShapes, operations }: CatalogHistory, survivors: Survivors): Shapes {
  const shapes: Shapes = new Map(baseShapes);
  operations.forEach((operation, index) => {
    if (survivors.has(index)) applyToShapes(shapes, operation);
  });
  return shapes;
}

export function matches(shapes: Shapes, observed: readonly VolumeShape[]): boolean {
  if (shapes.size !== observed.length) return false;
  const sizes = new Map(observed.map(({ name, sizeBytes }) => [name, sizeBytes]));
  return [...shapes.values()].every(({ name, sizeBytes }) => sizes.get(name) === sizeBytes);
}

export function catalogViolation(shapes: Shapes, observed: readonly VolumeShape[]): Violation {
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

/** Which of the last failed changes of the catalog there may be: none first, in the order of the bits. */
export function uncertainChoices(operations: readonly ModelOperation[]): Set<ModelOperation>[] {
  const uncertain = operations
    .filter(({ change, outcome }) => outcome === "failed" && isCatalogChange(change))
    .slice(-UNCERTAIN_CATALOG_MAX);
  const sets: Set<ModelOperation>[] = [];
  for (let bits = 0; bits < 1 << uncertain.length; bits++) {
    sets.push(new Set(uncertain.filter((_, index) => (bits & (1 << index)) !== 0)));
  }
  return sets;
}
