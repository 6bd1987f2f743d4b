// SPDX-License-Identifier: Apache-2.0
//
// Operations as the model sees them, and what follows from the presence of one for that of others.
//
// A store orders operations itself; a client sees only two facts about that order. What was acknowledged
// before another was called comes before it. And of two that overlap, the one called first comes first
// (nbd/block-device.ts). A crash leaves a prefix of the store's order, so whatever survives brings with it
// all that must come before: the set of survivors is closed under these two facts. `Survivors` grows such
// a set from what must have survived and from what is seen.

import { assert } from "../base/assert.ts";
import { type ContentPattern, type ContentSource, fillContent, SECTOR_BYTES } from "./content.ts";
import type { SparseBytes } from "./sparse-bytes.ts";

/** Writes up to this size survive whole or not at all; larger ones may survive as a prefix of blocks. */
const ATOMIC_WRITE_BYTES: number = 1 << 20;
const BLOCK_BYTES = 4096;

/** A volume's identity: names come and go. */
export interface VolumeIdentity {
  readonly id: number;
}

export type CatalogChange =
  | { readonly kind: "create"; readonly name: string; readonly sizeBytes: number }
  | { readonly kind: "remove" }
  | { readonly kind: "rename"; readonly name: string }
  | { readonly kind: "resize"; readonly sizeBytes: number };

export type Change =
  | CatalogChange
  | { readonly kind: "write"; readonly pattern: ContentPattern }
  | { readonly kind: "zero" };

export interface ModelOperation {
  /** Its number in the order of calls, and its stamp. */
  readonly sequence: number;
  readonly volume: VolumeIdentity;
  readonly change: Change;
  readonly offsetBytes: number;
  lengthBytes: number;
  readonly isForceUnitAccess: boolean;
  /** Steps of the model: when it was called and when it ended. */
  readonly calledAt: number;
  completedAt: number;
  outcome: "pending" | "done" | "failed";
  /** A flush that covers it, or its own FUA, was acknowledged. */
  isDurable: boolean;
  /** Of a failed one: where later writes have certainly overwritten it. */
  readonly masks: { readonly start: number; readonly end: number; readonly calledAt: number }[];
}

export function isCatalogChange(change: Change): change is CatalogChange {
  return change.kind !== "write" && change.kind !== "zero";
}

/** "write #12 of 4096 bytes at 8192" */
export function describeOperation(operation: ModelOperation): string {
  const { change, sequence, volume, offsetBytes, lengthBytes, outcome } = operation;
  const place = isCatalogChange(change) ? "" : ` of ${lengthBytes} bytes at ${offsetBytes}`;
  const fua = operation.isForceUnitAccess ? " with FUA" : "";
  return `${change.kind} #${sequence}${place}${fua} on volume ${volume.id} (${outcome})`;
}

export function covers(operation: ModelOperation, start: number, end: number): boolean {
  const operationEnd = operation.offsetBytes + operation.lengthBytes;
  return operation.offsetBytes < end && operationEnd > start;
}

/** Does it change any byte of [start, end)? A shrink changes what it cuts off. */
export function touches(operation: ModelOperation, start: number, end: number): boolean {
  if (operation.change.kind === "resize") return operation.change.sizeBytes < end;
  return covers(operation, start, end);
}

/** Did something certain that was called before step `before` overwrite a failed operation at this byte? */
export function isMasked({ masks }: ModelOperation, position: number, before: number): boolean {
  return masks.some(
    ({ start, end, calledAt }) => calledAt < before && position >= start && position < end,
  );
}

/** Do the sectors of an operation and of the first `otherBytes` of another one meet? */
export function overlap(
  one: ModelOperation,
  other: ModelOperation,
  otherBytes: number = other.lengthBytes,
): boolean {
  if (one.volume !== other.volume) return false;
  if (isCatalogChange(one.change) || isCatalogChange(other.change)) return true;
  const start = Math.floor(other.offsetBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const end = Math.ceil((other.offsetBytes + otherBytes) / SECTOR_BYTES) * SECTOR_BYTES;
  return covers(one, start, end);
}

/** Applies the first `lengthBytes` of a data operation, or a shrink, to the content of its volume. */
export function applyToContent(
  content: SparseBytes,
  operation: ModelOperation,
  lengthBytes: number = operation.lengthBytes,
): void {
  const { change, offsetBytes } = operation;
  if (change.kind === "resize") content.cut(change.sizeBytes);
  if (change.kind === "zero") content.zero(offsetBytes, lengthBytes);
  if (change.kind !== "write") return;
  const source = contentSource(operation);
  content.forEachPiece(offsetBytes, lengthBytes, (piece, at) => fillContent(piece, source, at));
}

/** As `applyToContent`, but only the part inside `target`, which begins at `position`. */
export function applyToPiece(
  target: Uint8Array,
  position: number,
  operation: ModelOperation,
  lengthBytes: number,
): void {
  const { change, offsetBytes } = operation;
  if (change.kind === "resize") {
    const start = Math.max(0, change.sizeBytes - position);
    if (start < target.length) target.fill(0, start);
  }
  if (change.kind !== "write" && change.kind !== "zero") return;
  const start = Math.max(offsetBytes, position);
  const end = Math.min(offsetBytes + lengthBytes, position + target.length);
  if (start >= end) return;
  const piece = target.subarray(start - position, end - position);
  if (change.kind === "zero") piece.fill(0);
  else fillContent(piece, contentSource(operation), start);
}

function contentSource(operation: ModelOperation): ContentSource {
  const { change, volume, sequence } = operation;
  assert(change.kind === "write", "only writes have content");
  return { volumeId: volume.id, sequence, pattern: change.pattern };
}

/** A set of operations, some large ones only in part, that is closed under "must come before". */
export class Survivors {
  readonly #operations: readonly ModelOperation[];
  /** Bytes of each that survived; 1 for operations without a length. -1: not in the set. */
  readonly #included: Float64Array;
  readonly #reasons: string[] = [];
  readonly #isOrderOfCalls: boolean;

  constructor(operations: readonly ModelOperation[], isOrderOfCalls: boolean) {
    this.#operations = operations;
    this.#included = new Float64Array(operations.length).fill(-1);
    this.#isOrderOfCalls = isOrderOfCalls;
  }

  has(index: number): boolean {
    return (this.#included[index] as number) >= 0;
  }

  /** Bytes of the operation that survived; its own length unless it is a large one, cut. */
  includedBytes(index: number): number {
    return Math.max(0, this.#included[index] as number);
  }

  reason(index: number): string {
    return this.#reasons[index] ?? "it is there";
  }

  /** Adds an operation, up to the byte `end` of the volume if it may be cut. True if that was news. */
  add(index: number, reason: string, end: number = Number.POSITIVE_INFINITY): boolean {
    const operation = this.#operations[index] as ModelOperation;
    const { change, offsetBytes, lengthBytes } = operation;
    let bytes = lengthBytes;
    const isCuttable = change.kind === "write" && lengthBytes > ATOMIC_WRITE_BYTES;
    if (isCuttable && end < offsetBytes + lengthBytes) {
      const blockEnd = Math.ceil(end / BLOCK_BYTES) * BLOCK_BYTES;
      bytes = Math.min(lengthBytes, blockEnd - offsetBytes);
    }
    if ((this.#included[index] as number) >= bytes) return false;
    this.#included[index] = bytes;
    this.#reasons[index] = reason;
    return true;
  }

  /** Adds whatever must come before what is there. */
  close(): void {
    while (this.#closeByTime() || this.#closeByOverlap());
  }

  #closeByTime(): boolean {
    let latest: ModelOperation | undefined;
    for (let index = 0; index < this.#operations.length; index++) {
      const operation = this.#operations[index] as ModelOperation;
      if (this.has(index) && operation.calledAt > (latest?.calledAt ?? -1)) latest = operation;
    }
    if (latest === undefined) return false;
    let isNews = false;
    for (let index = 0; index < this.#operations.length; index++) {
      const operation = this.#operations[index] as ModelOperation;
      if (operation.outcome === "failed") continue;
      const isBefore = this.#isOrderOfCalls
        ? operation.sequence < latest.sequence
        : operation.completedAt < latest.calledAt;
      if (!isBefore) continue;
      isNews =
        this.add(index, `it ended before #${latest.sequence} began, which is there`) || isNews;
    }
    return isNews;
  }

  #closeByOverlap(): boolean {
    let isNews = false;
    for (let index = 0; index < this.#operations.length; index++) {
      const operation = this.#operations[index] as ModelOperation;
      if (operation.outcome === "failed") continue;
      if (this.includedBytes(index) === operation.lengthBytes && this.has(index)) continue;
      for (let later = index + 1; later < this.#operations.length; later++) {
        const other = this.#operations[later] as ModelOperation;
        const otherBytes = this.includedBytes(later);
        if (!this.has(later) || !overlap(operation, other, otherBytes)) continue;
        const end = other.offsetBytes + otherBytes;
        const reason = `it overlaps #${other.sequence}, which came after it and is there`;
        isNews = this.add(index, reason, end) || isNews;
      }
    }
    return isNews;
  }
}
