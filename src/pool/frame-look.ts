// SPDX-License-Identifier: Apache-2.0
//
// Closer looks at single frames: whether one is where it is said to be, for those of damaged batches, of which no record
// tells any more; and whether the blocks that share one are those that were moved there, by the fingerprints that the
// record has of them.

import type { Zstd } from "../host/ports.ts";
import type { FileStore } from "../log/file-store.ts";
import type { PlainPlace } from "../log/plain-moves.ts";
import { RELOCATED_SLOT_BYTES, type RecordCursor } from "../log/record.ts";
import { hasRightChecksum, SHARED_STORED_BYTES_MAX, SharedFrames } from "../log/shared-frame.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  FRAME_HEADER_BYTES,
  RAW_FRAME_BYTES,
} from "../reduce/block-memory.ts";

interface Parts {
  readonly memory: BlockMemory;
  readonly segments: FileStore;
}

/** Whether the frame born at home is whole at that place. Throws DISK_IO. */
export async function isFrameAt(
  { memory, segments }: Parts,
  home: { readonly segment: number; readonly offset8: number },
  place: PlainPlace,
): Promise<boolean> {
  const { view, bytes, kernel } = memory;
  const storedBytes = Math.min(place.storedBytes, SHARED_STORED_BYTES_MAX);
  const lengthBytes = place.isShared ? FRAME_HEADER_BYTES + storedBytes : RAW_FRAME_BYTES;
  const frame = await memory.reads.acquire(lengthBytes);
  try {
    const target = bytes.subarray(frame, frame + lengthBytes);
    const readBytes = await segments.read(place.segment, target, place.offset8 * 8);
    if (!place.isShared)
      return kernel.openFrame(frame, readBytes, home.segment, home.offset8, 0) === 0;
    return (
      readBytes === lengthBytes &&
      view.getUint32(frame + 8, true) === place.segment &&
      view.getUint32(frame + 12, true) === place.offset8 &&
      view.getUint32(frame + 16, true) === storedBytes &&
      place.slot < view.getUint8(frame + 21) &&
      hasRightChecksum(memory, frame, storedBytes)
    );
  } finally {
    memory.reads.release(frame);
  }
}

/** What a relocated record says of a frame that blocks share. */
interface Told {
  readonly segment: number;
  readonly offset8: number;
  readonly storedBytes: number;
  readonly fingerprints: readonly bigint[];
}

export class SharedLook {
  readonly #parts: Parts;
  readonly #shared: SharedFrames;
  #told: Told[] = [];

  constructor(parts: Parts, zstd: Zstd) {
    this.#parts = parts;
    this.#shared = new SharedFrames(parts.memory, zstd);
  }

  /** Keeps what the record says until `look`. */
  note({
    placeSegment,
    placeOffset8,
    storedBytes,
    slotCount,
    referencesOffset,
  }: RecordCursor): void {
    const { view } = this.#parts.memory;
    const fingerprints = Array.from({ length: slotCount }, (_, slot) =>
      view.getBigUint64(referencesOffset + slot * RELOCATED_SLOT_BYTES, true),
    );
    const place = { segment: placeSegment, offset8: placeOffset8 };
    this.#told.push({ ...place, storedBytes, fingerprints });
  }

  get hasWork(): boolean {
    return this.#told.length > 0;
  }

  /** Opens the frames that were noted. What isn't whole by its checksum is left to others. Throws DISK_IO. */
  async look(onProblem: (offset: number, problem: string) => void): Promise<void> {
    const told = this.#told;
    this.#told = [];
    for (const each of told) {
      const problem = await this.#lookAt(each);
      if (problem !== undefined) onProblem(each.offset8 * 8, problem);
    }
  }

  async #lookAt({
    segment,
    offset8,
    storedBytes,
    fingerprints,
  }: Told): Promise<string | undefined> {
    const { memory, segments } = this.#parts;
    const { bytes } = memory;
    if (storedBytes > SHARED_STORED_BYTES_MAX) return "unknown codec or shape";
    const frame = await memory.reads.acquire(FRAME_HEADER_BYTES + SHARED_STORED_BYTES_MAX);
    try {
      const target = bytes.subarray(frame, frame + FRAME_HEADER_BYTES + storedBytes);
      const readBytes = await segments.read(segment, target, offset8 * 8);
      if (readBytes < target.length || !hasRightChecksum(memory, frame, storedBytes))
        return undefined;
      const content = await this.#shared.open(frame, readBytes, { segment, offset8 });
      if (typeof content === "string") return content;
      if (content.length !== fingerprints.length * BLOCK_BYTES)
        return "it has another number of slots than its record";
      bytes.set(content, frame);
      const wrong = fingerprints.findIndex(
        (fingerprint, slot) => memory.hash(frame + slot * BLOCK_BYTES, BLOCK_BYTES) !== fingerprint,
      );
      return wrong < 0 ? undefined : `slot ${wrong} holds another block than its record says`;
    } finally {
      memory.reads.release(frame);
    }
  }
}
