// SPDX-License-Identifier: Apache-2.0
//
// A volume of a point, to be read anywhere: what restore, serve and verify see of a backup. It needs no preparation: the
// first read fetches the runs' heads and a page or two of them, then the groups that it wants. Reads may overlap. Who
// reads on where the last read ended finds the next megabytes on their way.
//
// Every group is checked against the head of its pack (pack-reader.ts), so wrong bytes are never given. What is damaged or
// missing is lost by itself: `read` throws for it, and `readLenient` goes on and says which bytes those are.
//
// It has the shape of an ImageSource (image/image.ts), so the copy engine reads it like any other image.

import { assert } from "../base/assert.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import type { ManifestVolume } from "./manifest.ts";
import { BLOCK_BYTES, GROUP_SLOTS, ordinalOf, slotOf } from "./place.ts";
import type { TargetReader } from "./target-reader.ts";
import { LOST, VolumeMap } from "./volume-map.ts";

/** Extents of one step of a read. */
const BATCH_EXTENTS = 1024;
/** So far ahead of a reader that goes on. */
const READ_AHEAD_BYTES: number = 4 << 20;

/** A half-open run of bytes of the volume. */
export interface PointExtent {
  readonly start: number;
  readonly end: number;
  readonly kind: "data" | "zero";
}

/** Bytes that can't be had any more, and why. */
export interface LostBytes {
  readonly start: number;
  readonly end: number;
  readonly error: StorageError;
}

/** Part of a read that waits for a group. */
interface Piece {
  readonly group: Promise<Uint8Array>;
  /** Bytes of the group from here go to the volume's [start, end). */
  readonly from: number;
  readonly start: number;
  readonly end: number;
}

export class PointImage {
  readonly format = "backup";
  readonly warnings: readonly string[] = [];
  readonly sizeBytes: number;
  readonly #reader: TargetReader;
  readonly #volume: ManifestVolume;
  /** What no read uses: each read has a map and a batch of its own. */
  readonly #idle: { map: VolumeMap; batch: ExtentBatch }[] = [];
  /** Where the last read ended. */
  #readEnd = 0;
  /** Up to here all is on its way, as far as a reader that goes on is concerned. */
  #aheadEnd = 0;

  constructor(reader: TargetReader, volume: ManifestVolume) {
    this.#reader = reader;
    this.#volume = volume;
    this.sizeBytes = volume.sizeBytes;
  }

  /** The extent from `offset` on; data may hold zeros, too. It may end before its kind does, and beyond `enough`. */
  async extentAt(offset: number, enough: number = this.sizeBytes): Promise<PointExtent> {
    let found: PointExtent | undefined;
    await this.visitExtents(offset, Math.min(this.sizeBytes, Math.max(enough, offset + 1)), {
      extent: (start, end, kind) => {
        const seen = kind === "data" ? "data" : "zero";
        if (found !== undefined && found.kind !== seen) return false;
        found = { start: found?.start ?? start, end, kind: seen };
        return true;
      },
    });
    assert(found !== undefined, "every byte of a volume is in an extent");
    return found;
  }

  /**
   * The extents of [start, end), without gaps, until the visitor has enough. What is lost counts as data: who reads it
   * learns why it can't be had.
   */
  async visitExtents(
    start: number,
    end: number,
    visitor: { extent(start: number, end: number, kind: "data" | "zero" | "hole"): boolean },
  ): Promise<void> {
    assert(start >= 0 && start < end && end <= this.sizeBytes, "the range lies in the volume");
    await this.#withMap(async (map, batch) => {
      const endLba = Math.ceil(end / BLOCK_BYTES);
      for (let lba = Math.floor(start / BLOCK_BYTES); lba < endLba; ) {
        lba = await map.scan(lba, endLba, batch);
        for (let index = 0; index < batch.length; index += 1) {
          const from = Math.max(start, batch.lbas[index]! * BLOCK_BYTES);
          const to = Math.min(end, endOf(batch, index) * BLOCK_BYTES);
          if (!visitor.extent(from, to, nameOf(batch.kinds[index]!))) return;
        }
      }
    });
  }

  /** Fills `target` from `offset`. Throws TARGET_CORRUPT with the range, TARGET_UNAVAILABLE. */
  async read(target: Uint8Array, offset: number): Promise<void> {
    const [lost] = await this.readLenient(target, offset);
    if (lost === undefined) return;
    const { start, end, error } = lost;
    throw new StorageError(
      "TARGET_CORRUPT",
      `volume "${this.#volume.name}": bytes ${start} to ${end} are lost: ${error.message}`,
      { data: { ...error.data, offsetBytes: start, lengthBytes: end - start }, cause: error },
    );
  }

  /** Like `read`, but goes on: zeros stand for what is lost, ascending. Throws TARGET_UNAVAILABLE. */
  async readLenient(target: Uint8Array, offset: number): Promise<readonly LostBytes[]> {
    const end = offset + target.length;
    assert(offset >= 0 && end <= this.sizeBytes, "the range lies in the volume");
    const lost: LostBytes[] = [];
    const pieces: Piece[] = [];
    await this.#collect(offset, end, { pieces, lost, zeros: target });
    this.#readAhead(offset, end);
    for (const { group, from, start, end: pieceEnd } of pieces) {
      const into = target.subarray(start - offset, pieceEnd - offset);
      try {
        into.set(await bytesOf(group, from, into.length));
      } catch (error) {
        if (!hasCode(error, "TARGET_CORRUPT")) throw error;
        into.fill(0);
        lost.push({ start, end: pieceEnd, error });
      }
    }
    return merged(lost);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Asks for all groups of [offset, end). What is zero or lost is filled with zeros at once. */
  async #collect(
    offset: number,
    end: number,
    into: { pieces: Piece[]; lost: LostBytes[]; zeros: Uint8Array | undefined },
  ): Promise<void> {
    await this.#withMap(async (map, batch) => {
      const endLba = Math.ceil(end / BLOCK_BYTES);
      for (let lba = Math.floor(offset / BLOCK_BYTES); lba < endLba; ) {
        lba = await map.scan(lba, endLba, batch);
        for (let index = 0; index < batch.length; index += 1) {
          const start = Math.max(offset, batch.lbas[index]! * BLOCK_BYTES);
          const to = Math.min(end, endOf(batch, index) * BLOCK_BYTES);
          const kind = batch.kinds[index]!;
          if (kind === EXTENT_KIND.frames) {
            const skipped = start - batch.lbas[index]! * BLOCK_BYTES;
            this.#askFor(batch.places[index]!, { skipped, start, end: to }, into.pieces);
            continue;
          }
          into.zeros?.fill(0, start - offset, to - offset);
          const error = kind === LOST ? map.damageAt(batch.lbas[index]!) : undefined;
          if (error !== undefined) into.lost.push({ start, end: to, error });
        }
      }
    });
  }

  /** The groups of an extent's bytes; `skipped` bytes of it lie before `start`. */
  #askFor(
    place: number,
    bytes: { skipped: number; start: number; end: number },
    pieces: Piece[],
  ): void {
    const groupBytes = GROUP_SLOTS * BLOCK_BYTES;
    // Bytes of the pack's content.
    const first = slotOf(place) * BLOCK_BYTES + bytes.skipped;
    const firstGroup = Math.floor(first / groupBytes);
    const endGroup = Math.ceil((first + bytes.end - bytes.start) / groupBytes);
    const groups = this.#reader.packs.groups(ordinalOf(place), firstGroup, endGroup);
    let start = bytes.start;
    for (const [index, group] of groups.entries()) {
      const at = first + start - bytes.start;
      const groupEnd = (firstGroup + index + 1) * groupBytes;
      const end = Math.min(bytes.end, start + groupEnd - at);
      pieces.push({ group, from: at % groupBytes, start, end });
      start = end;
    }
  }

  #readAhead(offset: number, end: number): void {
    const goesOn = offset === this.#readEnd;
    this.#readEnd = end;
    if (!goesOn) {
      this.#aheadEnd = end;
      return;
    }
    const from = Math.max(end, this.#aheadEnd);
    const to = Math.min(this.sizeBytes, end + READ_AHEAD_BYTES);
    // In steps: a request for each block would cost more than it brings.
    if (to - from < READ_AHEAD_BYTES / 4 && to < this.sizeBytes) return;
    if (to <= from) return;
    this.#aheadEnd = to;
    this.#collect(from, to, { pieces: [], lost: [], zeros: undefined }).catch((error: unknown) => {
      // Whatever fails here is told to who reads it.
      if (!(error instanceof StorageError)) throw error;
    });
  }

  async #withMap(use: (map: VolumeMap, batch: ExtentBatch) => Promise<void>): Promise<void> {
    const own = this.#idle.pop() ?? {
      map: new VolumeMap(this.#reader.runs, this.#volume.runs, "lenient"),
      batch: new ExtentBatch(BATCH_EXTENTS),
    };
    await use(own.map, own.batch);
    this.#idle.push(own);
  }
}

/** What a group holds from `from` on. A run may name slots that its pack hasn't got. */
async function bytesOf(
  group: Promise<Uint8Array>,
  from: number,
  length: number,
): Promise<Uint8Array> {
  const content = await group;
  if (from + length <= content.length) return content.subarray(from, from + length);
  throw new StorageError("TARGET_CORRUPT", "a run names slots that its pack hasn't got");
}

function endOf(batch: ExtentBatch, index: number): number {
  return batch.lbas[index]! + batch.blockCounts[index]!;
}

function nameOf(kind: number): "data" | "zero" | "hole" {
  if (kind === EXTENT_KIND.frames || kind === LOST) return "data";
  return kind === EXTENT_KIND.zero ? "zero" : "hole";
}

/** Ascending, and neighbours that are lost for the same reason as one. */
function merged(lost: readonly LostBytes[]): LostBytes[] {
  const found: LostBytes[] = [];
  for (const next of lost.toSorted((a, b) => a.start - b.start)) {
    const last = found.at(-1);
    if (last !== undefined && last.end === next.start && last.error.message === next.error.message)
      found[found.length - 1] = { ...last, end: next.end };
    else found.push(next);
  }
  return found;
}
