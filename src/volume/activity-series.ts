// SPDX-License-Identifier: Apache-2.0
//
// The past activity of one branch: buckets, oldest first, none overlapping, the older ones coarser. They lie encoded, for a
// checkpoint takes them as they are; whoever looks at them decodes them. Folding adds up neighbours; whatever boundary it
// comes to is one of the coarser intervals, so that no bucket ever lies in two.

import { assert } from "../base/assert.ts";
import {
  ActivityBucket,
  ActivityReader,
  BUCKET_BYTES_MAX,
  encodeBucket,
  MINUTE_MICROS,
} from "./activity-bucket.ts";

/** A minute, ten, an hour, a day, a week. */
const WIDTHS: readonly number[] = [1, 10, 60, 1440, 10_080].map((count) => count * MINUTE_MICROS);
/** What an encoded bucket takes in memory besides its bytes. */
const ENTRY_BYTES = 128;

interface Entry {
  readonly startMicros: number;
  readonly widthMicros: number;
  readonly bytes: Uint8Array;
}

export class ActivitySeries {
  #entries: Entry[] = [];
  memoryBytes = 0;

  get count(): number {
    return this.#entries.length;
  }

  get endMicros(): number {
    const last = this.#entries[this.#entries.length - 1];
    return last === undefined ? 0 : last.startMicros + last.widthMicros;
  }

  /** Appends a bucket behind all others. */
  add(bucket: ActivityBucket): void {
    assert(bucket.startMicros >= this.endMicros, "a bucket begins where the one before has ended");
    const entry = encoded(bucket);
    this.#entries.push(entry);
    this.memoryBytes += sizeOf(entry);
  }

  /** Takes the newest bucket back, if it has that width. */
  takeLast(widthMicros: number): ActivityBucket | undefined {
    const last = this.#entries[this.#entries.length - 1];
    if (last === undefined || last.widthMicros !== widthMicros) return undefined;
    this.#entries.pop();
    this.memoryBytes -= sizeOf(last);
    return decoded(last);
  }

  /** Makes the oldest half of what takes most coarser, or lets the oldest bucket go. */
  fold(): void {
    const most = this.#widthThatTakesMost();
    const wider = WIDTHS.filter((width) => width > most);
    const others = WIDTHS.filter((width) => width <= most);
    if ([...wider, ...others].some((width) => this.#foldTo(width))) return;
    const oldest = this.#entries.shift();
    if (oldest !== undefined) this.memoryBytes -= sizeOf(oldest);
  }

  /** Tells all buckets that reach into [fromMicros, toMicros), oldest first. */
  visit(fromMicros: number, toMicros: number, tell: (bucket: ActivityBucket) => void): void {
    for (const entry of this.#entries)
      if (entry.startMicros < toMicros && entry.startMicros + entry.widthMicros > fromMicros)
        tell(decoded(entry));
  }

  /** Tells the bytes of all buckets, oldest first. */
  visitEncoded(tell: (bytes: Uint8Array) => void): void {
    for (const { bytes } of this.#entries) tell(bytes);
  }

  checkInvariants(): void {
    let end = 0;
    let bytes = 0;
    for (const entry of this.#entries) {
      assert(entry.startMicros >= end, "buckets are in order and don't overlap");
      end = entry.startMicros + entry.widthMicros;
      bytes += sizeOf(entry);
    }
    assert(bytes === this.memoryBytes, "the bytes of a series are counted");
  }

  #widthThatTakesMost(): number {
    const bytesOf = new Map<number, number>();
    for (const entry of this.#entries)
      bytesOf.set(entry.widthMicros, (bytesOf.get(entry.widthMicros) ?? 0) + sizeOf(entry));
    const sizes = [...bytesOf].sort(([, a], [, b]) => b - a);
    return sizes[0]?.[0] ?? MINUTE_MICROS;
  }

  /** Adds up the older half of all narrower buckets. False: no two of them lie in one such interval. */
  #foldTo(widthMicros: number): boolean {
    // Older ones are wider: the narrower ones lie behind each other, and those before them end where an interval does.
    const first = this.#entries.findIndex((entry) => entry.widthMicros < widthMicros);
    if (first < 0) return false;
    const middle = this.#entries[(first + this.#entries.length) >> 1] as Entry;
    const boundary = Math.floor(middle.startMicros / widthMicros) * widthMicros;
    let end = first;
    const folded: ActivityBucket[] = [];
    for (let entry = this.#entries[end]; entry !== undefined; entry = this.#entries[end]) {
      if (entry.startMicros >= boundary) break;
      const startMicros = Math.floor(entry.startMicros / widthMicros) * widthMicros;
      let last = folded[folded.length - 1];
      if (last === undefined || last.startMicros !== startMicros) {
        last = new ActivityBucket(startMicros, widthMicros);
        folded.push(last);
      }
      last.merge(decoded(entry));
      end += 1;
    }
    if (folded.length === end - first) return false;
    this.#entries.splice(first, end - first, ...folded.map(encoded));
    this.memoryBytes = this.#entries.reduce((sum, entry) => sum + sizeOf(entry), 0);
    return true;
  }
}

const SPACE = new Uint8Array(BUCKET_BYTES_MAX);

function encoded(bucket: ActivityBucket): Entry {
  const { startMicros, widthMicros } = bucket;
  return { startMicros, widthMicros, bytes: SPACE.slice(0, encodeBucket(bucket, SPACE, 0)) };
}

function decoded({ bytes }: Entry): ActivityBucket {
  const bucket = new ActivityReader(bytes).bucket();
  assert(bucket !== undefined, "what was encoded here can be decoded");
  return bucket;
}

function sizeOf({ bytes }: Entry): number {
  return bytes.length + ENTRY_BYTES;
}
