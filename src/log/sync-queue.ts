// SPDX-License-Identifier: Apache-2.0
//
// Durability: which part of the log is on stable storage, who waits for more, and the one datasync at a time that
// serves all who came before it began. The directory is synced first: a durable batch in a file without a name is
// lost.
//
// Batches are counted by a sequence, not by LSN: markers have no records, and must be durable all the same where a
// checkpoint or a new segment names their place.
//
// A datasync vouches only for batches behind which a new page begins (`settledLsn`): a page that holds durable batches
// is never written again.

import { assert } from "../base/assert.ts";
import { NBD_ERROR } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { FLUSH_ALIGN_BYTES } from "./batch.ts";
import type { BatchBuffer, Waiter } from "./batch-buffer.ts";
import type { OpenSegment } from "./open-segment.ts";

/** Datasync unasked when so much is written and not durable: bounds what recovery must verify. */
const BACKGROUND_SYNC_BYTES: number = 32 << 20;

interface DurableWaiter {
  /** Waits for the batch with this sequence. */
  readonly sequence: number;
  readonly waiter: Waiter;
}

interface WholeWaiter {
  /** Waits for all segments below this one. */
  readonly number: number;
  readonly resolve: () => void;
}

export interface SyncQueueOptions {
  readonly directory: Directory;
  /** Everything below this LSN is durable already. */
  readonly durableLsn: number;
  /** A datasync ended and nobody waits for another. */
  readonly onQuiet: () => void;
  /** A datasync or directory sync failed: final. */
  readonly onFailed: (error: unknown) => void;
}

export class SyncQueue {
  readonly #options: SyncQueueOptions;
  /** Segments that may still have something to sync, or a footer to come. */
  readonly #segments: OpenSegment[] = [];
  readonly #waiters: DurableWaiter[] = [];
  readonly #wholeWaiters: WholeWaiter[] = [];
  #isDirectoryDirty = false;
  #isSyncing = false;
  /** The latest datasync; it never rejects. */
  #syncing: Promise<void> = Promise.resolve();
  #isFailed = false;
  #settledLsn: number;
  #settledSequence = 0;
  #durableLsn: number;
  #durableSequence = 0;
  #bytesSinceSync = 0;
  datasyncCount = 0;

  constructor(options: SyncQueueOptions) {
    this.#options = options;
    this.#settledLsn = options.durableLsn;
    this.#durableLsn = options.durableLsn;
  }

  /** All records below are on stable storage. */
  get durableLsn(): number {
    return this.#durableLsn;
  }

  /** All records below are written, and nothing more is written to their pages. durable <= settled (I1). */
  get settledLsn(): number {
    return this.#settledLsn;
  }

  /** Whether the batch that closes now should end with its page, because a datasync is due. */
  get isBackgroundDue(): boolean {
    return this.#bytesSinceSync >= BACKGROUND_SYNC_BYTES;
  }

  /** Those that may still have something to sync, or a footer to come, oldest first. */
  get segments(): readonly OpenSegment[] {
    return this.#segments;
  }

  /** A file was made in the directory. */
  directoryChanged(): void {
    this.#isDirectoryDirty = true;
  }

  add(segment: OpenSegment): void {
    this.#segments.push(segment);
  }

  /** `batch`, whose records end below `writtenLsn`, was written. */
  written(batch: BatchBuffer, writtenLsn: number): void {
    // Only now: a datasync that began while the write was under way doesn't cover it.
    (batch.segment as OpenSegment).isDirty = true;
    this.#bytesSinceSync += batch.endOffset - batch.startOffset;
    if (batch.endOffset % FLUSH_ALIGN_BYTES !== 0) return;
    this.#settledLsn = writtenLsn;
    this.#settledSequence = batch.sequence;
  }

  /** `waiter` is told when the batch with that sequence, which will end with its page, is durable. */
  wait(sequence: number, waiter: Waiter): void {
    this.#waiters.push({ sequence, waiter });
  }

  /** Resolves when all segments below are wholly durable, their footers too, or nothing is synced any more. */
  whole(number: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wholeWaiters.push({ number, resolve });
    this.#tellWhole();
    this.syncIfDue();
    return promise;
  }

  /** Begins a datasync if somebody waits for one that would help, or enough has gathered. */
  syncIfDue(): void {
    if (this.#isSyncing || this.#isFailed || !this.#isDue()) return;
    this.#isSyncing = true;
    const target = { lsn: this.#settledLsn, sequence: this.#settledSequence };
    this.#bytesSinceSync = 0;
    this.#syncing = this.#syncFiles().then(
      () => {
        this.#isSyncing = false;
        this.#synced(target);
      },
      (error: unknown) => {
        this.#isSyncing = false;
        this.#options.onFailed(error);
      },
    );
  }

  /** The batches from this sequence on will never be written: whoever waits for one of them gets EIO. */
  refuse(sequence: number): void {
    const kept = this.#waiters.findIndex((waiting) => waiting.sequence >= sequence);
    if (kept < 0) return;
    for (const { waiter } of this.#waiters.splice(kept)) waiter.complete(NBD_ERROR.EIO);
  }

  /** The log has stopped: whoever waits gets EIO, and no file is synced any more. */
  fail(): void {
    this.#isFailed = true;
    for (const { waiter } of this.#waiters.splice(0)) waiter.complete(NBD_ERROR.EIO);
    for (const { resolve } of this.#wholeWaiters.splice(0)) resolve();
  }

  /** Nothing under way, and all sealed segments complete. */
  get isQuiet(): boolean {
    return (
      !this.#isSyncing && this.#segments.every((segment) => segment.isAtRest || !segment.isSealed)
    );
  }

  /** The last sync and the end of all files; nothing may be written any more. */
  async close(isSynced: boolean): Promise<void> {
    while (this.#isSyncing) await this.#syncing;
    if (isSynced && !this.#isFailed) await this.#syncFiles();
    for (const segment of this.#segments.splice(0)) await segment.file.close();
  }

  checkInvariants(): void {
    assert(this.#durableLsn <= this.#settledLsn, "durable <= settled (I1)");
    assert(this.#durableSequence <= this.#settledSequence, "durable batches are settled (I1)");
  }

  #isDue(): boolean {
    const first = this.#waiters[0];
    if (first !== undefined && first.sequence <= this.#settledSequence) return true;
    if (this.#isFooterWanted()) return true;
    return first === undefined && this.isBackgroundDue && this.#settledLsn > this.#durableLsn;
  }

  /** A footer is written that somebody waits for. */
  #isFooterWanted(): boolean {
    if (this.#wholeWaiters.length === 0) return false;
    const end = Math.max(...this.#wholeWaiters.map(({ number }) => number));
    return this.#segments.some(
      ({ isAtRest, isDirty, number }) => isAtRest && isDirty && number < end,
    );
  }

  async #syncFiles(): Promise<void> {
    if (this.#isDirectoryDirty) {
      this.#isDirectoryDirty = false;
      await this.#options.directory.sync();
    }
    const dirty = this.#segments.filter((segment) => segment.isDirty);
    for (const segment of dirty) segment.isDirty = false;
    this.datasyncCount += dirty.length;
    if (dirty.length === 1) await (dirty[0] as OpenSegment).file.datasync();
    else await Promise.all(dirty.map((segment) => segment.file.datasync()));
  }

  #synced(target: { readonly lsn: number; readonly sequence: number }): void {
    if (this.#isFailed) return;
    assert(target.lsn >= this.#durableLsn, "the durable LSN never goes back");
    this.#durableLsn = target.lsn;
    this.#durableSequence = target.sequence;
    this.#letGo();
    let served = 0;
    while ((this.#waiters[served]?.sequence ?? Number.POSITIVE_INFINITY) <= target.sequence)
      served += 1;
    for (const { waiter } of this.#waiters.splice(0, served)) waiter.complete(0);
    this.syncIfDue();
    if (!this.#isSyncing && this.#waiters.length === 0) this.#options.onQuiet();
  }

  /** Closes sealed segments that are wholly durable. */
  #letGo(): void {
    for (let index = this.#segments.length - 1; index >= 0; index--) {
      const segment = this.#segments[index] as OpenSegment;
      if (!segment.isAtRest || segment.isDirty) continue;
      this.#segments.splice(index, 1);
      segment.file.close().catch((error: unknown) => this.#options.onFailed(error));
    }
    this.#tellWhole();
  }

  #tellWhole(): void {
    if (this.#wholeWaiters.length === 0) return;
    const oldest = this.#segments[0]?.number ?? Number.POSITIVE_INFINITY;
    for (const waiting of this.#wholeWaiters.splice(0))
      if (this.#isFailed || oldest >= waiting.number) waiting.resolve();
      else this.#wholeWaiters.push(waiting);
  }
}
