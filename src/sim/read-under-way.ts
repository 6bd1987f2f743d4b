// SPDX-License-Identifier: Apache-2.0
//
// What a read may show while the store lives. The model tells it what became current since the call; any of
// these contents is right, sector by sector. Where requests failed or may still fail that isn't all: there
// each byte shows the newest certain operation called before the read, or a later one, or a failed one.
//
//     floor ── operations called before the read ── operations called since
//     └ durable at the call; raised by what was called before and becomes durable meanwhile

import { must } from "../base/assert.ts";
import { describeContent, isEqual, SECTOR_BYTES } from "./content.ts";
import { explainBytes, type Step } from "./doubt.ts";
import { applyToPiece, isMasked, type ModelOperation, touches } from "./model-operation.ts";
import type { VolumeModel } from "./model-volume.ts";
import type { Violation } from "./violation.ts";

/** What a read must know of the operations that aren't durable. */
export interface OpenOperations {
  readonly operations: readonly ModelOperation[];
  /** Requests may fail: what one that is under way will leave is then not known before it ends. */
  readonly areFailuresExpected: boolean;
}

export class ReadUnderWay {
  readonly volume: VolumeModel;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly #calledAt: number;
  /** Contents of the range that are right: at the call, and after each later change until the end. */
  readonly #contents: Uint8Array[] = [];
  /** Undefined when nothing was in doubt at the call. */
  readonly #floor: Uint8Array | undefined;

  constructor(
    volume: VolumeModel,
    range: { readonly offsetBytes: number; readonly lengthBytes: number },
    call: OpenOperations & { readonly calledAt: number },
  ) {
    this.volume = volume;
    this.offsetBytes = range.offsetBytes;
    this.lengthBytes = range.lengthBytes;
    this.#calledAt = call.calledAt;
    this.#addCurrent();
    this.#floor = this.#drawFloor(call);
  }

  /** An operation has changed what is current. */
  widen(operation: ModelOperation): void {
    if (operation.volume === this.volume && touches(operation, this.offsetBytes, this.#end))
      this.#addCurrent();
  }

  /** What has become durable leaves the operations; a read called after it must still find it. */
  raiseFloor(operation: ModelOperation): void {
    if (this.#floor === undefined || operation.volume !== this.volume) return;
    if (operation.calledAt < this.#calledAt)
      applyToPiece(this.#floor, this.offsetBytes, operation, operation.lengthBytes);
  }

  /** The read ended well and returned `bytes`. */
  judge(bytes: Uint8Array, open: OpenOperations): Violation | undefined {
    const first = must(this.#contents[0], "a read has a content");
    if (isEqual(bytes, first)) return undefined;
    const start = this.offsetBytes;
    const end = start + bytes.length;
    for (let at = start; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES);
      const found = bytes.subarray(at - start, stop - start);
      const isRight = this.#contents.some((content) =>
        isEqual(found, content.subarray(at - start, stop - start)),
      );
      if (!isRight && !this.#isUncertainContent({ start: at, end: stop, found }, open)) {
        return {
          check: "a read returns the newest content",
          volume: this.volume.name,
          sector: Math.floor(at / SECTOR_BYTES),
          expected: describeContent(first.subarray(at - start, stop - start)),
          found: describeContent(found),
        };
      }
      at = stop;
    }
    return undefined;
  }

  get #end(): number {
    return this.offsetBytes + this.lengthBytes;
  }

  #addCurrent(): void {
    const content = new Uint8Array(this.lengthBytes);
    this.volume.current.read(content, this.offsetBytes);
    this.#contents.push(content);
  }

  #drawFloor(open: OpenOperations): Uint8Array | undefined {
    const isDoubtful = open.operations.some(
      (operation) =>
        operation.volume === this.volume &&
        touches(operation, this.offsetBytes, this.#end) &&
        mayHaveFailed(operation, open),
    );
    if (!isDoubtful) return undefined;
    const content = new Uint8Array(this.lengthBytes);
    this.volume.base.read(content, this.offsetBytes);
    return content;
  }

  /** May the read have seen what failed operations left, and those that may still fail? */
  #isUncertainContent(
    place: { readonly start: number; readonly end: number; readonly found: Uint8Array },
    open: OpenOperations,
  ): boolean {
    const { start, end, found } = place;
    const floor = this.#floor;
    const calledAt = this.#calledAt;
    const at = start - this.offsetBytes;
    const steps: Step[] = [];
    for (const operation of open.operations) {
      if (operation.volume !== this.volume || !touches(operation, start, end)) continue;
      const isCertain = operation.calledAt < calledAt && !mayHaveFailed(operation, open);
      const { lengthBytes } = operation;
      const mayShowAt = (position: number): boolean => !isMasked(operation, position, calledAt);
      steps.push({ operation, lengthBytes, isCertain, mayShowAt });
    }
    if (floor === undefined && steps.every(({ isCertain }) => isCertain)) return false;
    const isRight = found.map((byte, index) => (floor?.[at + index] === byte ? 1 : 0));
    const shown = explainBytes({ start, seen: found, isRight }, steps);
    return found.every((byte, index) => {
      const isShown = shown[index] === 1;
      return isShown || this.#contents.some((content) => content[at + index] === byte);
    });
  }
}

function mayHaveFailed({ outcome }: ModelOperation, open: OpenOperations): boolean {
  return outcome === "failed" || (outcome === "pending" && open.areFailuresExpected);
}
