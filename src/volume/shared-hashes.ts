// SPDX-License-Identifier: Apache-2.0
//
// The hashes of blocks that garbage collection compressed together, by their homes: the records that moved them say them,
// and a segment's footer repeats those. The wanted ones of a segment stand in a table while its footer is gone through.

import type { Clock } from "../host/ports.ts";
import type { LogFiles } from "../log/known-segments.ts";
import { offset8Of } from "../log/reference.ts";
import type { SegmentHeader } from "../log/segment.ts";
import { FingerprintReader } from "../log/segment-fingerprints.ts";
import { FRAME_ROW_BYTES } from "../reduce/block-memory.ts";
import type { WantedHashes } from "./frame-hashes.ts";

export interface SharedHashesOptions extends LogFiles {
  readonly clock: Clock;
  /** Where the part of a segment ends that belongs to the log. */
  readonly endOf: (header: SegmentHeader) => number;
  readonly pause: () => Promise<void>;
}

const ROW_WORDS: number = FRAME_ROW_BYTES / 4;

export class SharedHashes {
  readonly #options: SharedHashesOptions;
  readonly #reader: FingerprintReader;
  #table = new WantedHomes(new Uint32Array(0), new Uint32Array(0));
  #wanted: WantedHashes | undefined;
  /** One segment is read at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: SharedHashesOptions) {
    this.#options = options;
    this.#reader = new FingerprintReader({
      ...options,
      onRows: (address, count, segment) => this.#take(address / 4, count, segment),
    });
  }

  /** Tells of these references, all of which are in the segment, what its footer knows. Throws LOG_CORRUPT, DISK_IO. */
  async read(segment: number, which: Uint32Array, wanted: WantedHashes): Promise<void> {
    const reading = this.#last.then(async () => {
      this.#table = new WantedHomes(wanted.references, which);
      this.#wanted = wanted;
      const { endOf } = this.#options;
      await this.#reader.read({ number: segment, endOf, isFooterNeeded: true });
    });
    this.#last = reading.catch(() => undefined);
    await reading;
  }

  #take(first: number, count: number, segment: number): void {
    const { memory } = this.#options;
    const { hashes, known } = this.#wanted as WantedHashes;
    for (let word = first; word < first + count * ROW_WORDS; word += ROW_WORDS) {
      const offset8 = memory.words[word] as number;
      for (let at = this.#table.first(segment, offset8); at >= 0; at = this.#table.next()) {
        const reference = this.#table.references[at] as number;
        hashes[reference * 2] = memory.words[word + 2] as number;
        hashes[reference * 2 + 1] = memory.words[word + 3] as number;
        known[reference] = 1;
      }
    }
  }
}

/** References by the homes that they name: a hash table with open addressing. */
class WantedHomes {
  readonly references: Uint32Array;
  readonly #words: Uint32Array;
  /** Place in `references` and one, 0: free; the same home may be there several times. */
  readonly #slots: Uint32Array;
  readonly #mask: number;
  #segment = 0;
  #offset8 = 0;
  #slot = 0;

  constructor(words: Uint32Array, references: Uint32Array) {
    this.#words = words;
    this.references = references;
    this.#slots = new Uint32Array(2 ** Math.ceil(Math.log2(references.length * 2 + 2)));
    this.#mask = this.#slots.length - 1;
    for (const [at, reference] of references.entries()) {
      let slot = this.#slotOf(words[reference * 2] as number, this.#offset8Of(reference));
      while (this.#slots[slot] !== 0) slot = (slot + 1) & this.#mask;
      this.#slots[slot] = at + 1;
    }
  }

  /** Place in `references` of the first that names the home; -1: none does. */
  first(segment: number, offset8: number): number {
    this.#segment = segment;
    this.#offset8 = offset8;
    this.#slot = this.#slotOf(segment, offset8);
    return this.#find();
  }

  /** Likewise of the one behind that. */
  next(): number {
    this.#slot = (this.#slot + 1) & this.#mask;
    return this.#find();
  }

  #find(): number {
    for (;;) {
      const entry = this.#slots[this.#slot] as number;
      if (entry === 0) return -1;
      const reference = this.references[entry - 1] as number;
      const isIt =
        this.#words[reference * 2] === this.#segment &&
        this.#offset8Of(reference) === this.#offset8;
      if (isIt) return entry - 1;
      this.#slot = (this.#slot + 1) & this.#mask;
    }
  }

  #offset8Of(reference: number): number {
    return offset8Of(this.#words[reference * 2 + 1] as number);
  }

  #slotOf(segment: number, offset8: number): number {
    return (Math.imul(offset8, 0x9e3779b1) ^ Math.imul(segment, 0x85ebca6b)) & this.#mask;
  }
}
