// SPDX-License-Identifier: Apache-2.0
//
// Answers block status with what changed between a moment and a disk: the live one, as it is when it is asked, or a view.
//
//   request ── in line ── known already? ── told
//                              └ no: the next piece of the pool's difference, which is then known
//
// Clients ask for a map piece by piece, QEMU extent by extent, so what was found is kept, up to some hundred extents, for
// as long as the disk is at the same moment. One request at a time is worked on, for a bounded time: then it is answered
// with the part that is there, and the client asks on. Over all clients only so many look at once.

import { assert } from "../base/assert.ts";
import { NBD_ERROR, StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { BlockRequest, ExtentSink, OpenContext } from "../nbd/block-device.ts";
import type { DiffMoment, DiffVisitor } from "../pool/types.ts";
import type { ServedDiff } from "./served-pool.ts";
import type { Turns } from "./turns.ts";

/** NBD_STATE_DIRTY. */
const DIRTY = 1;
/** Changed extents that are found at once. */
const EXTENTS_MAX = 1024;
/** What is compared at once ends at a multiple of this: half a million blocks, as the index keeps them together. */
const PIECE_BYTES: number = 2 * 2 ** 30;
/** No further piece is begun for a request that has taken so long. */
const WORK_MICROS_MAX = 250_000;
/** The newest moment of a disk that is written may be gone before it is compared; then the next one is. */
const ATTEMPTS_MAX = 4;

export interface ChangedStatusOptions {
  readonly pool: Pick<ServedDiff, "diff">;
  readonly clock: Pick<Clock, "monotoneMicros">;
  /** Looks of all clients. */
  readonly turns: Turns;
  /** Held until close(). */
  readonly from: DiffMoment;
  readonly to: () => Promise<DiffMoment>;
  /** The first request that failed. */
  readonly failed: (error: StorageError) => void;
  readonly released: () => void;
}

interface Asked {
  readonly request: BlockRequest;
  readonly sink: ExtentSink;
}

export class ChangedStatus implements OpenContext, DiffVisitor {
  readonly #options: ChangedStatusOptions;
  /** Oldest first. */
  readonly #asked: Asked[] = [];
  #isWorking = false;
  #isCancelled = false;
  #isFailureTold = false;
  /** Bytes [#knownFrom, #knownEnd) of the disk at #knownTo are known: those of the extents have changed. */
  #knownTo: DiffMoment | undefined;
  #knownFrom = 0;
  #knownEnd = 0;
  readonly #starts: Float64Array = new Float64Array(EXTENTS_MAX);
  readonly #ends: Float64Array = new Float64Array(EXTENTS_MAX);
  #count = 0;

  constructor(options: ChangedStatusOptions) {
    this.#options = options;
  }

  blockStatus(request: BlockRequest, sink: ExtentSink): void {
    this.#asked.push({ request, sink });
    if (!this.#isWorking) void this.#work();
  }

  cancel(): void {
    this.#isCancelled = true;
  }

  close(): void {
    // The last answer may be what lets the connection go.
    assert(this.#asked.length === 0, "a context is closed when nothing is asked of it");
    this.#options.released();
  }

  // DiffVisitor

  readonly extentsMax: number = EXTENTS_MAX;

  extent(offsetBytes: number, lengthBytes: number): boolean {
    const end = offsetBytes + lengthBytes;
    // Data beside zeros: both have changed.
    if (this.#count > 0 && this.#ends[this.#count - 1] === offsetBytes)
      this.#ends[this.#count - 1] = end;
    else {
      this.#starts[this.#count] = offsetBytes;
      this.#ends[this.#count] = end;
      this.#count += 1;
    }
    return this.#count < EXTENTS_MAX;
  }

  room(): undefined {
    if (this.#isCancelled)
      throw new StorageError("BUSY", "block status: ended: its client is gone");
  }

  // Work

  async #work(): Promise<void> {
    this.#isWorking = true;
    for (let asked = this.#asked.shift(); asked !== undefined; asked = this.#asked.shift())
      asked.request.complete(await this.#errnoOf(asked));
    this.#isWorking = false;
  }

  async #errnoOf(asked: Asked): Promise<number> {
    try {
      await this.#answer(asked);
      return 0;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#tellFailure(error);
      return NBD_ERROR.EIO;
    }
  }

  async #answer({ request, sink }: Asked): Promise<void> {
    const { clock } = this.#options;
    const beganMicros = clock.monotoneMicros();
    const end = request.offsetBytes + request.lengthBytes;
    for (let at = request.offsetBytes; at < end; ) {
      const isLate = clock.monotoneMicros() - beganMicros > WORK_MICROS_MAX;
      if (at > request.offsetBytes && isLate) return;
      await this.#know(at, end);
      at = this.#tell(at, Math.min(end, this.#knownEnd), sink);
      if (at < 0) return;
    }
  }

  /** Sees that something is known from `at` on. */
  async #know(at: number, end: number): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      this.room();
      const to = await this.#options.to();
      const isSame = this.#knownTo?.lsn === to.lsn && this.#knownTo.branch === to.branch;
      if (isSame && this.#knownFrom <= at && at < this.#knownEnd) return;
      // Who asks on from where the last answer ended will go on doing so.
      const isOn = isSame && at === this.#knownEnd;
      const pieceEnd = (Math.floor(at / PIECE_BYTES) + 1) * PIECE_BYTES;
      try {
        await this.#look(to, at, isOn ? pieceEnd : Math.min(end, pieceEnd));
        return;
      } catch (error) {
        const isGone = error instanceof StorageError && error.code === "MOMENT_GONE";
        if (!isGone || attempt === ATTEMPTS_MAX) throw error;
      }
    }
  }

  async #look(to: DiffMoment, at: number, end: number): Promise<void> {
    const { pool, from, turns } = this.#options;
    this.#knownTo = undefined;
    this.#count = 0;
    const leave = await turns.enter();
    try {
      const range = { offsetBytes: at, lengthBytes: end - at };
      const { nextOffsetBytes } = await pool.diff(from, to, range, this);
      this.#knownTo = to;
      this.#knownFrom = at;
      this.#knownEnd = nextOffsetBytes ?? end;
    } finally {
      leave();
    }
  }

  /** Tells what is known of [at, end); where it stopped, or -1: no more is wanted. */
  #tell(at: number, end: number, sink: ExtentSink): number {
    let next = at;
    for (let index = this.#firstBehind(at); index < this.#count && next < end; index++) {
      const start = this.#starts[index] as number;
      if (start >= end) break;
      if (next < start && !sink.add(start - next, 0)) return -1;
      next = Math.max(next, start);
      const stop = Math.min(end, this.#ends[index] as number);
      if (!sink.add(stop - next, DIRTY)) return -1;
      next = stop;
    }
    if (next < end && !sink.add(end - next, 0)) return -1;
    return end;
  }

  /** The first extent that ends behind `at`. */
  #firstBehind(at: number): number {
    let low = 0;
    let end = this.#count;
    while (low < end) {
      const middle = (low + end) >>> 1;
      if ((this.#ends[middle] as number) <= at) low = middle + 1;
      else end = middle;
    }
    return low;
  }

  #tellFailure(error: StorageError): void {
    if (this.#isFailureTold || this.#isCancelled) return;
    this.#isFailureTold = true;
    this.#options.failed(error);
  }
}
