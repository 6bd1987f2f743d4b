// SPDX-License-Identifier: Apache-2.0
//
// What happened to one branch in one interval: counters, and a sketch of which blocks. Buckets that follow each other add
// up to one of a longer interval, without loss but for the inside of it.
//
// Encoded, all numbers in groups of seven bits, low ones first:
//
//   start / 1 min · width / 1 min · first LSN · LSNs to the last · first time - start · µs to the last time
//   u16: which counters aren't zero · those · the sketch
//
// A minute of a busy volume takes about 180 bytes, one of a quiet one 30. What is decoded may come from a damaged disk: it is
// checked, and refused as a whole.

import { assert } from "../base/assert.ts";
import { BlockSketch, SKETCH_BYTES_MAX } from "./activity-sketch.ts";

export const MINUTE_MICROS = 60_000_000;
/** A counter takes at most eight bytes encoded. */
const NUMBER_BYTES_MAX = 8;
const NUMBER_COUNT_MAX = 24;
export const BUCKET_BYTES_MAX: number = NUMBER_COUNT_MAX * NUMBER_BYTES_MAX + SKETCH_BYTES_MAX;
/** Of a bucket, and of the time since 1970: 8000 years in minutes. */
const MINUTES_MAX = 2 ** 32;

/** The order is the encoded one: new ones go to the end. */
const COUNTERS = [
  "writeCount",
  "blockCount",
  "rewrittenCount",
  "freshCount",
  "frameCount",
  "rawFrameCount",
  "frameBytes",
  "zeroCount",
  "duplicateCount",
  "hardenedCount",
  "trimCount",
  "trimmedBlockCount",
  "zeroedCount",
  "zeroedBlockCount",
  "flushCount",
] as const;

export class ActivityBucket {
  /** Recorded time, a multiple of the width. */
  startMicros: number;
  widthMicros: number;
  firstLsn = 0;
  lastLsn = 0;
  firstMicros = 0;
  lastMicros = 0;
  /** Records of writes: a request of more than a mebibyte takes several. */
  writeCount = 0;
  blockCount = 0;
  /** Of them: those that are known to have held data before, and those that are known not to. */
  rewrittenCount = 0;
  freshCount = 0;
  /** Of them: new frames, those of these that don't shrink, and the bytes that frames take with their headers. */
  frameCount = 0;
  rawFrameCount = 0;
  frameBytes = 0;
  /** Of them: zeros, and blocks that were stored already. */
  zeroCount = 0;
  duplicateCount = 0;
  /** Of rewritten ones: what they held shrank, what they hold now doesn't. */
  hardenedCount = 0;
  /** Trims: records, and blocks in them. */
  trimCount = 0;
  trimmedBlockCount = 0;
  /** The same of zeroes. */
  zeroedCount = 0;
  zeroedBlockCount = 0;
  flushCount = 0;
  readonly blocks: BlockSketch = new BlockSketch();

  constructor(startMicros: number, widthMicros: number) {
    this.startMicros = startMicros;
    this.widthMicros = widthMicros;
  }

  get endMicros(): number {
    return this.startMicros + this.widthMicros;
  }

  /** Something was recorded in it. */
  get isUsed(): boolean {
    return this.firstLsn > 0;
  }

  /** A record of the interval. */
  note(lsn: number, timeMicros: number): void {
    if (this.firstLsn === 0) {
      this.firstLsn = lsn;
      this.firstMicros = timeMicros;
    }
    this.lastLsn = lsn;
    this.lastMicros = Math.max(this.lastMicros, timeMicros);
  }

  /** Adds a bucket that lies in this one's interval. */
  merge(other: ActivityBucket): void {
    assert(other.isUsed, "what is merged holds something");
    assert(other.startMicros >= this.startMicros, "a bucket lies in the one it is merged into");
    const isFirst = !this.isUsed;
    this.firstLsn = isFirst ? other.firstLsn : Math.min(this.firstLsn, other.firstLsn);
    this.firstMicros = isFirst ? other.firstMicros : Math.min(this.firstMicros, other.firstMicros);
    this.lastLsn = Math.max(this.lastLsn, other.lastLsn);
    this.lastMicros = Math.max(this.lastMicros, other.lastMicros);
    for (const counter of COUNTERS) this[counter] += other[counter];
    this.blocks.merge(other.blocks);
  }

  /** How many different blocks were written, by the sketch. */
  get distinctCount(): number {
    return Math.min(this.blockCount, this.blocks.estimate());
  }
}

export function encodeBucket(bucket: ActivityBucket, target: Uint8Array, at: number): number {
  const { startMicros, firstMicros, firstLsn } = bucket;
  let end = putNumber(target, at, startMicros / MINUTE_MICROS);
  end = putNumber(target, end, bucket.widthMicros / MINUTE_MICROS);
  end = putNumber(target, end, firstLsn);
  end = putNumber(target, end, bucket.lastLsn - firstLsn);
  end = putNumber(target, end, firstMicros - startMicros);
  end = putNumber(target, end, bucket.lastMicros - firstMicros);
  let present = 0;
  for (const [index, counter] of COUNTERS.entries()) if (bucket[counter] > 0) present |= 1 << index;
  target[end] = present & 255;
  target[end + 1] = present >>> 8;
  end += 2;
  for (const counter of COUNTERS)
    if (bucket[counter] > 0) end = putNumber(target, end, bucket[counter]);
  return bucket.blocks.encode(target, end);
}

/** Reads encoded numbers and buckets; once something is wrong, everything is. */
export class ActivityReader {
  readonly bytes: Uint8Array;
  at: number;
  isRight = true;

  constructor(bytes: Uint8Array, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  /** At most `max`; 0 when it is none. */
  number(max: number = Number.MAX_SAFE_INTEGER): number {
    let value = 0;
    for (let factor = 1; factor < 2 ** 56; factor *= 128) {
      const byte = this.bytes[this.at];
      if (byte === undefined) break;
      this.at += 1;
      value += (byte & 127) * factor;
      if (byte < 128) {
        if (value > max) break;
        return value;
      }
    }
    this.isRight = false;
    return 0;
  }

  /** Undefined when it is none. */
  bucket(): ActivityBucket | undefined {
    const start = this.number(MINUTES_MAX);
    const width = this.number(MINUTES_MAX);
    const bucket = new ActivityBucket(start * MINUTE_MICROS, width * MINUTE_MICROS);
    bucket.firstLsn = this.number();
    bucket.lastLsn = bucket.firstLsn + this.number();
    bucket.firstMicros = bucket.startMicros + this.number();
    bucket.lastMicros = bucket.firstMicros + this.number();
    const present = (this.bytes[this.at] ?? 0) | ((this.bytes[this.at + 1] ?? 0) << 8);
    this.at += 2;
    if (present >= 1 << COUNTERS.length) this.isRight = false;
    for (const [index, counter] of COUNTERS.entries())
      if ((present & (1 << index)) !== 0) bucket[counter] = this.number();
    const end = this.isRight ? bucket.blocks.mergeEncoded(this.bytes, this.at) : -1;
    this.isRight = end >= 0 && isSane(bucket);
    this.at = end;
    return this.isRight ? bucket : undefined;
  }
}

/** What no sum of records can be other than. */
function isSane(bucket: ActivityBucket): boolean {
  const { startMicros, widthMicros, firstLsn, blockCount } = bucket;
  return (
    widthMicros > 0 &&
    startMicros % widthMicros === 0 &&
    Number.isSafeInteger(bucket.endMicros) &&
    firstLsn > 0 &&
    Number.isSafeInteger(bucket.lastLsn) &&
    bucket.lastMicros < bucket.endMicros &&
    bucket.writeCount <= blockCount &&
    bucket.rewrittenCount + bucket.freshCount <= blockCount &&
    bucket.frameCount + bucket.zeroCount + bucket.duplicateCount <= blockCount &&
    bucket.rawFrameCount <= bucket.frameCount &&
    bucket.hardenedCount <= Math.min(bucket.rawFrameCount, bucket.rewrittenCount)
  );
}

/** Writes what ActivityReader reads. */
export class ActivityWriter {
  #target: Uint8Array = new Uint8Array(4096);
  #end = 0;

  number(value: number): void {
    this.#reserve(NUMBER_BYTES_MAX);
    this.#end = putNumber(this.#target, this.#end, value);
  }

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#target.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  bucket(bucket: ActivityBucket): void {
    this.#reserve(BUCKET_BYTES_MAX);
    this.#end = encodeBucket(bucket, this.#target, this.#end);
  }

  end(): Uint8Array {
    return this.#target.slice(0, this.#end);
  }

  #reserve(count: number): void {
    if (this.#end + count <= this.#target.length) return;
    const larger = new Uint8Array((this.#end + count) * 2);
    larger.set(this.#target);
    this.#target = larger;
  }
}

/** A number that may be negative as one that isn't: 0, -1, 1, -2 become 0, 1, 2, 3. */
export function unsigned(value: number): number {
  return value < 0 ? -2 * value - 1 : 2 * value;
}

/** The other way. */
export function signed(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

function putNumber(target: Uint8Array, at: number, value: number): number {
  assert(Number.isSafeInteger(value) && value >= 0, "a number that is encoded is a safe integer");
  let rest = value;
  let end = at;
  while (rest >= 128) {
    target[end] = 128 | (rest % 128);
    rest = Math.floor(rest / 128);
    end += 1;
  }
  target[end] = rest;
  return end + 1;
}
