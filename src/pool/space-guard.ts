// SPDX-License-Identifier: Apache-2.0
//
// Space: what the pool stores against what it may, and what the file system still has. New data is refused
// before there is no room for what must always work (trims, removals, checkpoints, the segment being written).
//
//   0 …………………………… 80 % ……… 90 % ……… capacity ………………… end of the disk
//        quiet            warn         warn        new data: ENOSPC; bookkeeping, from headroom and reserve
//
// On the file system the reserve is a real file of incompressible bytes: when a write meets "no space left"
// all the same, the file is given up so that the batch on its way can land, and it is made again when there is
// room. A pool never stays full after space has come back.
//
// The reserve takes a sixteenth of what the pool may have at most, the headroom beside it, kept free for what was
// admitted between two looks at the file system, a thirty-second. So nine tenths of a small disk are for data. Both
// are powers of two, and change only when the disk's share of the pool has doubled.

import { hasCode } from "../base/errors.ts";
import type { Clock, Directory, Random } from "../host/ports.ts";

export interface SpaceGuardOptions {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly random: Random;
  /** At the start; 0: as much as the file system has. */
  readonly poolSizeBytes: number;
  readonly segmentBytes: number;
  /** What log and index take now. */
  readonly contentBytes: () => number;
  /** Whether garbage collection may make room: then a lack of it is only told when that has failed (`nothingFreed`). */
  readonly mayFree: () => boolean;
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
/** Room for a batch. */
const RESERVE_BYTES_MIN: number = 1 << 20;
const RESERVE_SHARE = 16;
/** With less room than the largest piece of a write the pool counts as full. */
const PIECE_OF_WRITE_BYTES: number = 1 << 20;
/** So long after a write found no space without a reserve the next one is expected to fare no better. */
const STARVED_MICROS = 1_000_000;
const PIECE_BYTES = 1 << 20;

export class SpaceGuard {
  readonly #options: SpaceGuardOptions;
  #poolSizeBytes: number;
  /** How large the reserve should be; never shrinks while the pool is open. */
  #reserveBytes = 0;
  #freeBytes = Number.MAX_SAFE_INTEGER;
  /** Bytes admitted since the file system was last asked. */
  #admittedBytes = 0;
  #isDiskFull = false;
  /** The reserve is whole and durable. */
  #isReserveThere = false;
  /** What there is of it: a part, if the disk became full while it was made. */
  #reserveFileBytes = 0;
  /** When a write found no space although the reserve was gone. */
  #starvedMicros = Number.NEGATIVE_INFINITY;
  #isFull = false;
  #watermark = 0;
  #isClosed = false;
  #cancelPoll: () => void = () => undefined;
  #polling: Promise<void> | undefined;
  #looking: Promise<void> | undefined;
  #isPolling = false;

  constructor(options: SpaceGuardOptions) {
    this.#options = options;
    this.#poolSizeBytes = options.poolSizeBytes;
  }

  async start(): Promise<void> {
    await this.#undisturbed(() => this.#findReserve());
    await this.#poll();
  }

  get isFull(): boolean {
    return this.#isFull;
  }

  /** The limit of the pool; 0: as much as the file system has. */
  get poolSizeBytes(): number {
    return this.#poolSizeBytes;
  }

  /** Holds for the next write; the state follows with the next look, which is now, or under way. */
  set poolSizeBytes(bytes: number) {
    this.#poolSizeBytes = bytes;
    if (this.#isPolling) return;
    this.#cancelPoll();
    this.#schedule(0);
  }

  /** What the pool takes on the disk. */
  get storedBytes(): number {
    return this.#options.contentBytes() + this.#reserveFileBytes;
  }

  /** What `storedBytes` can become: then new data is refused. */
  get capacityBytes(): number {
    const poolSizeBytes = this.#poolSizeBytes;
    const byDisk = this.storedBytes + Math.max(0, this.#freeBytes - this.#keptBytes);
    return poolSizeBytes > 0 ? Math.min(poolSizeBytes, byDisk) : byDisk;
  }

  /** There is no space at all, not even for bookkeeping: what waits for the log may wait long. */
  get isStarved(): boolean {
    return this.#options.clock.monotoneMicros() - this.#starvedMicros < STARVED_MICROS;
  }

  /** Whether `lengthBytes` of new data may be stored. */
  admits(lengthBytes: number): boolean {
    if (!this.#fits(lengthBytes)) {
      this.#roomMissing();
      return false;
    }
    this.#admittedBytes += lengthBytes;
    return true;
  }

  /**
   * What may be written to free more with it: all but a batch, for others have the reserve. When that was given up, what
   * is left is shared with them.
   */
  async roomBytes(): Promise<number> {
    await this.#undisturbed(() => this.#look());
    const batch = Math.min(PIECE_OF_WRITE_BYTES, this.#headroomBytes / 2);
    const free = this.#freeBytes - this.#admittedBytes;
    return Math.max(0, this.#isReserveThere ? free - batch : free / 2);
  }

  /** Garbage collection found nothing to make room with. */
  nothingFreed(): void {
    this.#setFull(true);
  }

  #roomMissing(): void {
    if (!this.#options.mayFree()) this.#setFull(true);
  }

  #fits(lengthBytes: number): boolean {
    const { contentBytes } = this.#options;
    const poolSizeBytes = this.#poolSizeBytes;
    const isWithinPool =
      poolSizeBytes === 0 || contentBytes() + lengthBytes + this.#reserveBytes <= poolSizeBytes;
    const isWithinDisk =
      !this.#isDiskFull && this.#freeBytes - this.#admittedBytes - lengthBytes >= this.#keptBytes;
    return isWithinPool && isWithinDisk;
  }

  get #headroomBytes(): number {
    return this.#reserveBytes / 2;
  }

  /** What is to stay free on the file system: headroom, and what the reserve still lacks. */
  get #keptBytes(): number {
    return this.#headroomBytes + Math.max(0, this.#reserveBytes - this.#reserveFileBytes);
  }

  /** A write met "no space left": gives up the reserve so that it can be repeated. */
  spaceMissing(): void {
    this.#isDiskFull = true;
    this.#setFull(true);
    if (this.#reserveFileBytes === 0) {
      this.#starvedMicros = this.#options.clock.monotoneMicros();
      return;
    }
    this.#reserveFileBytes = 0;
    this.#isReserveThere = false;
    this.#options.directory.remove(RESERVE_NAME).catch(() => undefined);
  }

  /** Before start(): does `work`, and once more without the reserve of an earlier opening if that found no space. */
  async orWithoutReserve<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!hasCode(error, "DISK_FULL")) throw error;
      await this.#findReserve();
      if (this.#reserveFileBytes === 0) throw error;
      await this.#options.directory.remove(RESERVE_NAME);
      this.#reserveFileBytes = 0;
      this.#isReserveThere = false;
      this.#isDiskFull = true;
      this.#setFull(true);
      return await work();
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelPoll();
    await this.#polling;
  }

  #schedule(afterMs: number): void {
    if (this.#isClosed) return;
    this.#cancelPoll = this.#options.clock.after(afterMs, () => {
      this.#polling = this.#poll();
    });
  }

  /** Looks at the file system, re-makes the reserve, moves between the states. A failure here changes nothing. */
  async #poll(): Promise<void> {
    this.#isPolling = true;
    await this.#undisturbed(async () => {
      await this.#look();
      this.#resizeReserve();
      if (
        !this.#isReserveThere &&
        this.#freeBytes + this.#reserveFileBytes > this.#reserveBytes + 2 * this.#headroomBytes
      ) {
        await this.#makeReserve();
        this.#freeBytes = await this.#options.directory.freeBytes();
      }
      if (this.#isReserveThere) {
        this.#isDiskFull = false;
        this.#starvedMicros = Number.NEGATIVE_INFINITY;
      }
      if (!this.#fits(Math.min(PIECE_OF_WRITE_BYTES, this.#headroomBytes))) this.#roomMissing();
      else if (this.#fits(this.#headroomBytes)) this.#setFull(false);
      this.#tellWatermark();
    });
    this.#isPolling = false;
    this.#schedule(POLL_MS);
  }

  /** Asks the file system, one at a time: what was admitted before is on it now. */
  #look(): Promise<void> {
    this.#looking ??= this.#ask().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #ask(): Promise<void> {
    const admitted = this.#admittedBytes;
    this.#freeBytes = await this.#options.directory.freeBytes();
    this.#admittedBytes -= admitted;
  }

  async #undisturbed(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!hasCode(error, "DISK_IO") && !hasCode(error, "DISK_FULL")) throw error;
    }
  }

  /** What an earlier opening left can be given up even when the disk has too little room to make it. */
  async #findReserve(): Promise<void> {
    const { directory } = this.#options;
    if (!(await directory.list()).includes(RESERVE_NAME)) return;
    const file = await directory.open(RESERVE_NAME, "read");
    try {
      this.#reserveFileBytes = await file.sizeBytes();
    } finally {
      await file.close();
    }
  }

  /** By what the pool takes and may still take. */
  #resizeReserve(): void {
    const { segmentBytes } = this.#options;
    const poolSizeBytes = this.#poolSizeBytes;
    const onDisk = this.storedBytes + this.#freeBytes;
    const sizeBytes = poolSizeBytes > 0 ? Math.min(poolSizeBytes, onDisk) : onDisk;
    const share = Math.max(RESERVE_BYTES_MIN, sizeBytes / RESERVE_SHARE);
    const bytes = Math.min(RESERVE_BYTES_MAX, segmentBytes, 2 ** Math.floor(Math.log2(share)));
    this.#reserveBytes = Math.max(this.#reserveBytes, bytes);
    this.#isReserveThere = this.#reserveFileBytes >= this.#reserveBytes;
  }

  async #makeReserve(): Promise<void> {
    const { directory, random } = this.#options;
    const isThere = (await directory.list()).includes(RESERVE_NAME);
    const file = await directory.open(RESERVE_NAME, isThere ? "write" : "create");
    let at = 0;
    this.#reserveFileBytes = 0; // while it is being made nobody gives it up
    try {
      const piece = new Uint8Array(Math.min(PIECE_BYTES, this.#reserveBytes));
      random.fill(piece);
      for (; at < this.#reserveBytes; at += piece.length) await file.write(piece, at);
      await file.datasync();
      this.#isReserveThere = true;
    } finally {
      await file.close();
      this.#reserveFileBytes = at;
    }
  }

  #setFull(isFull: boolean): void {
    if (this.#isFull === isFull) return;
    this.#isFull = isFull;
    const fields = {
      storedBytes: this.storedBytes,
      capacityBytes: this.capacityBytes,
      freeBytes: this.#freeBytes,
    };
    if (isFull) this.#options.onEvent("error", "pool.full", fields);
    else this.#options.onEvent("info", "pool.has-space", fields);
  }

  #tellWatermark(): void {
    const used = this.storedBytes / Math.max(1, this.capacityBytes);
    const watermark = WATERMARKS.filter((mark) => used >= mark).length;
    if (watermark > this.#watermark)
      this.#options.onEvent("warn", "pool.watermark", {
        usedShare: Math.round(used * 1000) / 1000,
        capacityBytes: this.capacityBytes,
      });
    this.#watermark = watermark;
  }
}
