// SPDX-License-Identifier: Apache-2.0
//
// Space: what the pool stores against what it may, and what the file system still has. New data is refused
// before there is no room for what must always work (trims, removals, checkpoints, the segment being written).
//
//   0 …………………………… 80 % ……… 90 % ……… limit - reserve ……… limit
//        quiet            warn         warn        new data: ENOSPC       only bookkeeping
//
// On the file system the reserve is a real file of incompressible bytes: when a write meets "no space left"
// all the same, the file is given up so that the batch on its way can land, and it is made again when there is
// room. A pool never stays full after space has come back.

import { hasCode } from "../base/errors.ts";
import type { Clock, Directory, Random } from "../host/ports.ts";

export interface SpaceGuardOptions {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly random: Random;
  /** 0: as much as the file system has. */
  readonly poolSizeBytes: number;
  readonly segmentBytes: number;
  /** What the pool stores now. */
  readonly storedBytes: () => number;
  readonly onEvent: (
    level: "info" | "warn" | "error",
    event: string,
    fields: Record<string, unknown>,
  ) => void;
}

const RESERVE_NAME = "reserve";
const WATERMARKS = [0.8, 0.9] as const;
const POLL_MS = 1000;
const RESERVE_BYTES_MAX: number = 32 << 20;
const PIECE_BYTES = 1 << 20;

export class SpaceGuard {
  readonly #options: SpaceGuardOptions;
  readonly #reserveBytes: number;
  #freeBytes = Number.MAX_SAFE_INTEGER;
  /** Bytes admitted since the file system was last asked. */
  #admittedBytes = 0;
  #isDiskFull = false;
  #isReserveThere = false;
  #isFull = false;
  #watermark = 0;
  #isClosed = false;
  #cancelPoll: () => void = () => undefined;
  #polling: Promise<void> | undefined;

  constructor(options: SpaceGuardOptions) {
    this.#options = options;
    this.#reserveBytes = Math.min(RESERVE_BYTES_MAX, options.segmentBytes);
  }

  async start(): Promise<void> {
    await this.#poll();
  }

  get isFull(): boolean {
    return this.#isFull;
  }

  /** The limit that `storedBytes` runs against. */
  get capacityBytes(): number {
    const { poolSizeBytes } = this.#options;
    const byDisk = this.#options.storedBytes() + this.#freeBytes;
    return poolSizeBytes > 0 ? Math.min(poolSizeBytes, byDisk) : byDisk;
  }

  /** Whether `lengthBytes` of new data may be stored. */
  admits(lengthBytes: number): boolean {
    const { poolSizeBytes, segmentBytes } = this.#options;
    const isWithinPool =
      poolSizeBytes === 0 ||
      this.#options.storedBytes() + lengthBytes + this.#reserveBytes <= poolSizeBytes;
    const isWithinDisk =
      !this.#isDiskFull &&
      this.#freeBytes - this.#admittedBytes - lengthBytes > this.#reserveBytes + segmentBytes;
    if (!isWithinPool || !isWithinDisk) {
      this.#setFull(true);
      return false;
    }
    this.#admittedBytes += lengthBytes;
    return true;
  }

  /** A write met "no space left": gives up the reserve so that it can be repeated. */
  spaceMissing(): void {
    this.#isDiskFull = true;
    this.#setFull(true);
    if (!this.#isReserveThere) return;
    this.#isReserveThere = false;
    this.#options.directory.remove(RESERVE_NAME).catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelPoll();
    await this.#polling;
  }

  #schedule(): void {
    if (this.#isClosed) return;
    this.#cancelPoll = this.#options.clock.after(POLL_MS, () => {
      this.#polling = this.#poll();
    });
  }

  /** Looks at the file system, re-makes the reserve, moves between the states. A failure here changes nothing. */
  async #poll(): Promise<void> {
    try {
      const admitted = this.#admittedBytes;
      this.#freeBytes = await this.#options.directory.freeBytes();
      this.#admittedBytes -= admitted;
      if (
        !this.#isReserveThere &&
        this.#freeBytes > 3 * this.#reserveBytes + 2 * this.#options.segmentBytes
      )
        await this.#makeReserve();
      const { poolSizeBytes, segmentBytes } = this.#options;
      const roomOnDisk = this.#freeBytes - this.#reserveBytes - 2 * segmentBytes;
      if (this.#isReserveThere) this.#isDiskFull = false;
      const isRoomy =
        !this.#isDiskFull &&
        roomOnDisk > 0 &&
        (poolSizeBytes === 0 ||
          this.#options.storedBytes() + 2 * this.#reserveBytes <= poolSizeBytes);
      if (isRoomy) this.#setFull(false);
      this.#tellWatermark();
    } catch (error) {
      if (!hasCode(error, "DISK_IO") && !hasCode(error, "DISK_FULL")) throw error;
    }
    this.#schedule();
  }

  async #makeReserve(): Promise<void> {
    const { directory, random } = this.#options;
    const isThere = (await directory.list()).includes(RESERVE_NAME);
    const file = await directory.open(RESERVE_NAME, isThere ? "write" : "create");
    try {
      const piece = new Uint8Array(Math.min(PIECE_BYTES, this.#reserveBytes));
      random.fill(piece);
      if (!isThere || (await file.sizeBytes()) < this.#reserveBytes) {
        for (let at = 0; at < this.#reserveBytes; at += piece.length) await file.write(piece, at);
        await file.datasync();
      }
      this.#isReserveThere = true;
    } finally {
      await file.close();
    }
  }

  #setFull(isFull: boolean): void {
    if (this.#isFull === isFull) return;
    this.#isFull = isFull;
    const fields = {
      storedBytes: this.#options.storedBytes(),
      capacityBytes: this.capacityBytes,
      freeBytes: this.#freeBytes,
    };
    if (isFull) this.#options.onEvent("error", "pool.full", fields);
    else this.#options.onEvent("info", "pool.has-space", fields);
  }

  #tellWatermark(): void {
    const used = this.#options.storedBytes() / Math.max(1, this.capacityBytes);
    const watermark = WATERMARKS.filter((mark) => used >= mark).length;
    if (watermark > this.#watermark)
      this.#options.onEvent("warn", "pool.watermark", {
        usedShare: Math.round(used * 1000) / 1000,
        capacityBytes: this.capacityBytes,
      });
    this.#watermark = watermark;
  }
}
