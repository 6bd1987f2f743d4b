// SPDX-License-Identifier: Apache-2.0
//
// A past moment of a volume as a backup reads it: blocks over the NBD door, like any client, and what changed since an
// earlier backup from the control door. Both are of a moment that the backup has named, so it stays while it is read.

import type { BlockRange, BlockSource } from "../backup/block-source.ts";
import { EXTENT_KIND, type ExtentBatch } from "../backup/extents.ts";
import { BLOCK_BYTES } from "../backup/place.ts";
import { StorageError } from "../base/errors.ts";
import type { NbdClient, StatusExtent } from "../nbd/client.ts";
import type { DaemonClient } from "./daemon-client.ts";
import { isUnreadable, openVolume, UNMAPPED_BYTES, VolumeSource } from "./volume-image.ts";

const CONTEXT = "base:allocation";
/** base:allocation. */
const HOLE_FLAG = 1;
const ZERO_FLAG = 2;
/** Servers without extended headers know 32 bits. */
const STATUS_BYTES_MAX: number = 1 << 30;

const KINDS = { data: EXTENT_KIND.frames, zero: EXTENT_KIND.zero, hole: EXTENT_KIND.hole } as const;

export class MomentSource implements BlockSource {
  readonly sizeBytes: number;
  readonly #daemon: DaemonClient;
  /** VOLUME@NAME. */
  readonly #disk: string;
  readonly #client: NbdClient;
  readonly #content: VolumeSource;

  private constructor(daemon: DaemonClient, disk: string, client: NbdClient) {
    this.#daemon = daemon;
    this.#disk = disk;
    this.#client = client;
    this.#content = new VolumeSource(client, { volume: disk, isDamageFilled: false });
    this.sizeBytes = client.sizeBytes;
  }

  /** `disk` is VOLUME@NAME. */
  static async open(daemon: DaemonClient, disk: string): Promise<MomentSource> {
    return new MomentSource(daemon, disk, await openVolume(daemon, disk));
  }

  async allocated(start: number, end: number, batch: ExtentBatch): Promise<number> {
    batch.clear();
    let lba = start;
    while (lba < end && !batch.isFull) {
      const offsetBytes = lba * BLOCK_BYTES;
      const left = Math.min(end * BLOCK_BYTES, this.sizeBytes) - offsetBytes;
      const extents = await this.#statusOf(offsetBytes, Math.min(STATUS_BYTES_MAX, left));
      const told = takeStatus(extents, { start: lba, end }, batch);
      // An answer without progress: what it is about must be read.
      if (told === lba) batch.push(lba, 1, EXTENT_KIND.frames, 0);
      lba = Math.max(told, lba + 1);
    }
    return lba;
  }

  async #statusOf(offsetBytes: number, lengthBytes: number): Promise<readonly StatusExtent[]> {
    try {
      return (await this.#client.blockStatus(offsetBytes, lengthBytes)).get(CONTEXT) ?? [];
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      // Reading tells which blocks are lost.
      return [{ offsetBytes, lengthBytes: Math.min(UNMAPPED_BYTES, lengthBytes), flags: 0 }];
    }
  }

  async changedSince(base: string, range: BlockRange, batch: ExtentBatch): Promise<number> {
    batch.clear();
    const offset = String(range.start * BLOCK_BYTES);
    const length = String(
      Math.min(range.end * BLOCK_BYTES, this.sizeBytes) - range.start * BLOCK_BYTES,
    );
    const asked = { from: base, to: this.#disk, offset, length };
    for await (const line of this.#daemon.diff(asked)) {
      if ("extentCount" in line) return range.end;
      if (!("kind" in line)) continue;
      for (let at = 0; at < line.extents.length; at += 2) {
        if (batch.isFull)
          return batch.lbas[batch.length - 1]! + batch.blockCounts[batch.length - 1]!;
        const first = Math.floor(line.extents[at]! / BLOCK_BYTES);
        const behind = Math.ceil((line.extents[at]! + line.extents[at + 1]!) / BLOCK_BYTES);
        batch.push(first, behind - first, KINDS[line.kind], 0);
      }
    }
    throw new StorageError("BUSY", `diff of "${asked.from}" and "${asked.to}": it was cut short`);
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    return this.#content.read(target, offsetBytes);
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

/** Returns where the extents that it took end. */
function takeStatus(
  extents: readonly StatusExtent[],
  { start, end }: BlockRange,
  batch: ExtentBatch,
): number {
  let lba = start;
  for (const { offsetBytes, lengthBytes, flags } of extents) {
    if (lba >= end || batch.isFull) break;
    const behind = Math.min(end, Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES));
    if (behind <= lba) continue;
    const kind =
      (flags & ZERO_FLAG) === 0
        ? EXTENT_KIND.frames
        : (flags & HOLE_FLAG) === 0
          ? EXTENT_KIND.zero
          : EXTENT_KIND.hole;
    batch.push(lba, behind - lba, kind, 0);
    lba = behind;
  }
  return lba;
}
