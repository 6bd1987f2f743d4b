// SPDX-License-Identifier: Apache-2.0
//
// Rows of fingerprints on their way to whoever wants them: all at one time are of frames born in one segment, and none
// stays in staging memory while somebody else has a turn. The others have theirs after some thousand steps, which whoever
// adds rows counts; or after half a millisecond, when steps are slow: an index that is filled for the first time
// gets its memory from the system page by page.

import type { Clock } from "../host/ports.ts";
import { type BlockMemory, FRAME_ROW_BYTES } from "../reduce/block-memory.ts";

/** `count` rows as in a segment's footer, of frames born in `segment`; they are at `address` during the call. */
export type OnRows = (address: number, count: number, segment: number) => void;

export interface FingerprintRowsOptions {
  readonly memory: BlockMemory;
  readonly clock: Clock;
  /** Called after about half a millisecond of work, and awaited. Throws to end the work. */
  readonly pause: () => Promise<void>;
  readonly onRows: OnRows;
}

const ROWS_MAX = 512;
const ROW_WORDS: number = FRAME_ROW_BYTES / 4;
/** Records or rows looked at: 20 to 100 ns each. */
const STEPS_PER_TURN = 8192;
const TURN_MICROS = 500;
/** What it takes to hand on rows, few or many. */
const FLUSH_STEPS = 16;

export class FingerprintRows {
  readonly #options: FingerprintRowsOptions;
  readonly #rows: Uint32Array = new Uint32Array(ROWS_MAX * ROW_WORDS);
  #count = 0;
  #segment = 0;
  /** Since the others had their turn, which ended then. */
  steps = 0;
  #turnMicros = 0;
  /** Rows that were handed on. */
  doneCount = 0;

  constructor(options: FingerprintRowsOptions) {
    this.#options = options;
  }

  clear(): void {
    this.#count = 0;
    this.#segment = 0;
    this.steps = 0;
    this.doneCount = 0;
    this.#turnMicros = this.#options.clock.monotoneMicros();
  }

  /** Whether `flush` must come before a row of a frame born in `segment`. */
  isFlushDue(segment: number): boolean {
    return this.#segment !== segment || this.#count === ROWS_MAX || this.isTurnOver;
  }

  get isTurnOver(): boolean {
    return this.steps >= STEPS_PER_TURN;
  }

  add(offset8: number, storedBytes: number, hashLow: number, hashHigh: number): void {
    const word = this.#count * ROW_WORDS;
    this.#rows[word] = offset8;
    this.#rows[word + 1] = storedBytes;
    this.#rows[word + 2] = hashLow;
    this.#rows[word + 3] = hashHigh;
    this.#count += 1;
  }

  /** Hands on the rows that are there; those to come are of frames born in `next`. */
  async flush(next: number): Promise<void> {
    if (this.#count > 0) {
      const { memory, onRows, pause } = this.#options;
      const lengthBytes = this.#count * FRAME_ROW_BYTES;
      let address = memory.staging.allocate(lengthBytes);
      for (; address < 0; address = memory.staging.allocate(lengthBytes)) await pause();
      memory.words.set(this.#rows.subarray(0, this.#count * ROW_WORDS), address / 4);
      onRows(address, this.#count, this.#segment);
      memory.staging.release(address);
      this.doneCount += this.#count;
      this.steps += this.#count + FLUSH_STEPS;
      this.#count = 0;
    }
    this.#segment = next;
    const { clock } = this.#options;
    if (this.isTurnOver || clock.monotoneMicros() - this.#turnMicros > TURN_MICROS)
      await this.pause();
  }

  async pause(): Promise<void> {
    this.steps = 0;
    await this.#options.pause();
    this.#turnMicros = this.#options.clock.monotoneMicros();
  }
}
