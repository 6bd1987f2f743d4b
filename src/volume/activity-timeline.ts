// SPDX-License-Identifier: Apache-2.0
//
// What happened when, of all branches of a pool: a fold over the records of its log, the same live and in replay.
//
//   records → bucket of this minute → closed: encoded, ~100 bytes → minutes … 10 minutes … hours … days … weeks
//
// Everything is told by the record itself and by the references that it replaces (activity-trail.ts), so it needs nothing
// that a replay doesn't have. Only where the newest frame ends is told by what follows it: it waits for that.
//
// Memory is bounded: beyond `bytesMax` the oldest half of what takes most becomes coarser. So the newest day or so has
// minutes, and the oldest year weeks. All of it goes with each checkpoint (`cut`), and a replay goes on from there.

import { assert } from "../base/assert.ts";
import {
  ActivityBucket,
  ActivityReader,
  ActivityWriter,
  MINUTE_MICROS,
} from "./activity-bucket.ts";
import { ActivityMarks, type ClockStep } from "./activity-marks.ts";
import { ActivitySeries } from "./activity-series.ts";
import { FrameTrail, RAW_FRAME_8 } from "./activity-trail.ts";
import { ActivityWatch, type Suspicion } from "./activity-watch.ts";

const ENCODING_VERSION = 1;

/** What a record of blocks says of itself: a RecordCursor is one. */
export interface BlocksRecord {
  readonly lsn: number;
  readonly timeMicros: number;
  readonly branch: number;
  readonly lba: number;
  readonly blockCount: number;
}

export interface WroteRecord extends BlocksRecord {
  /** Where its references are in memory. */
  readonly referencesOffset: number;
}

/** A branch, in the part of its time that is asked for. */
export interface BranchPart {
  readonly branch: number;
  readonly fromMicros: number;
  readonly toMicros: number;
}

interface BranchActivity {
  readonly series: ActivitySeries;
  readonly watch: ActivityWatch;
  /** Of the newest minute. */
  open: ActivityBucket;
}

/** The newest frame, while nobody has said where it ends. */
interface UnmeasuredFrame {
  activity: BranchActivity | undefined;
  bucket: ActivityBucket | undefined;
  hasReplacedShrunk: boolean;
  /** The bucket's minute is over, and it waits for nothing but this. */
  isLate: boolean;
}

export class ActivityTimeline {
  readonly #bytesMax: number;
  readonly #onSuspicious: (suspicion: Suspicion) => void;
  #marks: ActivityMarks = new ActivityMarks();
  readonly #branches: Map<number, BranchActivity> = new Map();
  /** The last one asked for. */
  #branch = -1;
  #activity: BranchActivity | undefined;
  #memoryBytes = 0;
  readonly #trail: FrameTrail;
  /** Where the frames of the batch end that is replayed. */
  #batchEnd8 = 0;
  readonly #unmeasured: UnmeasuredFrame = {
    activity: undefined,
    bucket: undefined,
    hasReplacedShrunk: false,
    isLate: false,
  };
  /** Who is to hear, with the next frame, that the newest one doesn't shrink: only then is it known in a replay too. */
  #rawWatch: ActivityWatch | undefined;
  #isRawHardened = false;

  constructor(
    words: Uint32Array,
    options: { bytesMax: number; onSuspicious: (suspicion: Suspicion) => void },
  ) {
    this.#trail = new FrameTrail(words);
    this.#bytesMax = options.bytesMax;
    this.#onSuspicious = (suspicion) => {
      this.#marks.suspected(suspicion);
      options.onSuspicious(suspicion);
    };
  }

  // ---- what happened

  /**
   * Records follow whose frames lie from `framesAt8` to `framesEnd8` (offset / 8) in `segment`: told of each batch of a
   * replay, and once, with (segment, 0, 0), of the segment in which a writer goes on.
   */
  batchBegan(segment: number, framesAt8: number, framesEnd8: number): void {
    this.#measureTo(this.#batchEnd8);
    this.#trail.segment = segment;
    this.#trail.offset8 = framesAt8 - 1;
    this.#batchEnd8 = framesEnd8;
  }

  /** Of a replay: a frame was moved to there, behind those of the records before. */
  frameMoved(placeOffset8: number): void {
    this.#measureTo(placeOffset8);
  }

  /**
   * Blocks were written. `replaced`: what they were before, see ReplacedBlocks. `framesEnd8`: where the record's frames end;
   * 0 in a replay, where what follows tells.
   */
  wrote(record: WroteRecord, replaced: Uint32Array, framesEnd8: number): void {
    const { lsn, timeMicros, lba, blockCount } = record;
    const activity = this.#activityOf(record.branch);
    const bucket = this.#bucketOf(activity, timeMicros);
    const trail = this.#trail;
    const newest8 = trail.offset8;
    trail.follow(record.referencesOffset >>> 2, replaced, blockCount);
    if (trail.frameCount > 0) {
      this.#measure(trail.firstOffset8 - newest8);
      this.#tellWatch();
      const unmeasured = this.#unmeasured;
      unmeasured.activity = activity;
      unmeasured.bucket = bucket;
      unmeasured.hasReplacedShrunk = trail.hasLastReplacedShrunk;
      if (framesEnd8 > 0) this.#measure(framesEnd8 - trail.offset8);
    }
    bucket.note(lsn, timeMicros);
    bucket.blocks.addRange(lba, blockCount);
    bucket.writeCount += 1;
    bucket.blockCount += blockCount;
    bucket.rewrittenCount += trail.rewrittenCount;
    bucket.freshCount += trail.freshCount;
    bucket.frameCount += trail.frameCount;
    bucket.rawFrameCount += trail.rawFrameCount;
    bucket.frameBytes += trail.frameBytes8 * 8;
    bucket.hardenedCount += trail.hardenedCount;
    bucket.zeroCount += trail.zeroCount;
    bucket.duplicateCount += blockCount - trail.zeroCount - trail.frameCount;
    activity.watch.wrote(lsn, timeMicros, trail);
  }

  /** Blocks were trimmed. */
  trimmed({ branch, lsn, timeMicros, blockCount }: BlocksRecord): void {
    const activity = this.#activityOf(branch);
    const bucket = this.#bucketOf(activity, timeMicros);
    bucket.note(lsn, timeMicros);
    bucket.trimCount += 1;
    bucket.trimmedBlockCount += blockCount;
    activity.watch.trimmed(lsn, timeMicros, blockCount);
  }

  /** Blocks were zeroed. */
  zeroed({ branch, lsn, timeMicros, blockCount }: BlocksRecord): void {
    const bucket = this.#bucketOf(this.#activityOf(branch), timeMicros);
    bucket.note(lsn, timeMicros);
    bucket.zeroedCount += 1;
    bucket.zeroedBlockCount += blockCount;
  }

  flushed(branch: number, lsn: number, timeMicros: number): void {
    const bucket = this.#bucketOf(this.#activityOf(branch), timeMicros);
    bucket.note(lsn, timeMicros);
    bucket.flushCount += 1;
  }

  clockStepped(lsn: number, timeMicros: number, stepMicros: number): void {
    this.#marks.clockStepped({ lsn, timeMicros, stepMicros });
  }

  /** A branch goes on from another: what is normal for that one is normal for it. */
  branched(branch: number, parent: number): void {
    const normal = this.#branches.get(parent)?.watch;
    if (normal !== undefined) this.#activityOf(branch).watch.inherit(normal);
  }

  /** What is normal is learned anew, for from here on content shrinks otherwise, by a setting; or not at all. */
  compressionSet(branch: number, isCompressed: boolean): void {
    const { watch } = this.#activityOf(branch);
    watch.isCompressed = isCompressed;
    watch.beginAnew();
  }

  /** Nothing of the branch can be reached any more. */
  forget(branch: number): void {
    const activity = this.#branches.get(branch);
    if (activity === undefined) return;
    if (this.#unmeasured.activity === activity) this.#unmeasured.activity = undefined;
    if (this.#rawWatch === activity.watch) this.#rawWatch = undefined;
    this.#memoryBytes -= activity.series.memoryBytes;
    this.#branches.delete(branch);
    this.#branch = -1;
  }

  // ---- what is asked

  /**
   * Intervals of `stepMicros` in which something happened, oldest first: of branches that followed each other, each in its
   * part of the time. Where only coarser ones are left, those. A line lies at multiples of its width since 1970.
   */
  range(parts: readonly BranchPart[], stepMicros: number): ActivityBucket[] {
    const lines: ActivityBucket[] = [];
    const step = Math.max(1, Math.round(stepMicros / MINUTE_MICROS)) * MINUTE_MICROS;
    const add = (bucket: ActivityBucket): void => {
      const width = Math.max(step, bucket.widthMicros);
      const last = lines[lines.length - 1];
      if (last !== undefined && bucket.startMicros < last.endMicros) {
        last.merge(bucket);
        return;
      }
      const line = new ActivityBucket(Math.floor(bucket.startMicros / width) * width, width);
      line.merge(bucket);
      lines.push(line);
    };
    for (const { branch, fromMicros, toMicros } of parts) {
      const activity = this.#branches.get(branch);
      if (activity === undefined) continue;
      activity.series.visit(fromMicros, toMicros, add);
      const { open } = activity;
      if (open.isUsed && open.startMicros < toMicros && open.endMicros > fromMicros) add(open);
    }
    return lines;
  }

  /** Steps of the clock, and what was suspicious, of the whole pool. */
  get marks(): {
    readonly clockSteps: readonly ClockStep[];
    readonly suspicions: readonly Suspicion[];
  } {
    return this.#marks;
  }

  /** Whether the branch is suspicious now. */
  isSuspicious(branch: number): boolean {
    return this.#branches.get(branch)?.watch.isSuspicious === true;
  }

  // ---- what is kept

  /** Everything up to now, for a checkpoint whose cut is now. */
  cut(): Uint8Array {
    this.#measureTo(this.#batchEnd8);
    this.#tellWatch();
    const writer = new ActivityWriter();
    writer.number(ENCODING_VERSION);
    writer.number(this.#branches.size);
    for (const [branch, { series, watch, open }] of this.#branches) {
      writer.number(branch);
      watch.encode(writer);
      writer.number(series.count + (open.isUsed ? 1 : 0));
      series.visitEncoded((bytes) => writer.bytes(bytes));
      if (open.isUsed) writer.bucket(open);
    }
    this.#marks.encode(writer);
    return writer.end();
  }

  /** Goes on from what `cut` gave. False when the bytes are no such thing; then nothing has changed. */
  restore(bytes: Uint8Array): boolean {
    assert(this.#branches.size === 0, "only an empty timeline is restored");
    const reader = new ActivityReader(bytes);
    const branches = new Map<number, BranchActivity>();
    if (reader.number() !== ENCODING_VERSION) return false;
    const branchCount = reader.number(bytes.length);
    for (let index = 0; index < branchCount && reader.isRight; index++) {
      const branch = reader.number(0xffffffff);
      const watch = new ActivityWatch(branch, this.#onSuspicious);
      watch.restore(reader);
      const series = new ActivitySeries();
      const count = reader.number(bytes.length);
      for (let at = 0; at < count && reader.isRight; at++) {
        const bucket = reader.bucket();
        if (bucket === undefined || bucket.startMicros < series.endMicros) reader.isRight = false;
        else series.add(bucket);
      }
      // The newest minute may not have ended.
      const open = series.takeLast(MINUTE_MICROS) ?? new ActivityBucket(0, MINUTE_MICROS);
      if (branches.has(branch)) reader.isRight = false;
      branches.set(branch, { series, watch, open });
    }
    const marks = new ActivityMarks();
    if (reader.isRight) marks.restore(reader);
    if (!reader.isRight || reader.at !== bytes.length) return false;
    this.#marks = marks;
    for (const [branch, activity] of branches) {
      this.#branches.set(branch, activity);
      this.#memoryBytes += activity.series.memoryBytes;
    }
    this.#fit();
    return true;
  }

  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  checkInvariants(): void {
    let bytes = 0;
    for (const { series, open } of this.#branches.values()) {
      series.checkInvariants();
      bytes += series.memoryBytes;
      assert(!open.isUsed || open.startMicros >= series.endMicros, "the open minute is the newest");
    }
    assert(bytes === this.#memoryBytes, "the bytes of the timeline are counted");
    assert(bytes <= this.#bytesMax, "the timeline keeps to its bound");
  }

  // ---- inside

  #activityOf(branch: number): BranchActivity {
    if (branch === this.#branch && this.#activity !== undefined) return this.#activity;
    let activity = this.#branches.get(branch);
    if (activity === undefined) {
      activity = {
        series: new ActivitySeries(),
        watch: new ActivityWatch(branch, this.#onSuspicious),
        open: new ActivityBucket(0, MINUTE_MICROS),
      };
      this.#branches.set(branch, activity);
    }
    this.#branch = branch;
    this.#activity = activity;
    return activity;
  }

  /** The bucket that a record of the time belongs to. Recorded time never goes back. */
  #bucketOf(activity: BranchActivity, timeMicros: number): ActivityBucket {
    const { open } = activity;
    return timeMicros < open.endMicros ? open : this.#nextBucket(activity, timeMicros);
  }

  #nextBucket(activity: BranchActivity, timeMicros: number): ActivityBucket {
    const { open } = activity;
    const start = Math.floor(timeMicros / MINUTE_MICROS) * MINUTE_MICROS;
    activity.open = new ActivityBucket(start, MINUTE_MICROS);
    const { bucket, isLate } = this.#unmeasured;
    // A batch that takes more than a minute was not written by us: what comes next needn't be exact.
    if (isLate && this.#unmeasured.activity === activity) this.#measureTo(this.#batchEnd8);
    // In a replay the minute may end before it is known where its last frame does.
    if (bucket === open) this.#unmeasured.isLate = true;
    else if (open.isUsed) this.#close(activity, open);
    return activity.open;
  }

  #close({ series }: BranchActivity, bucket: ActivityBucket): void {
    const before = series.memoryBytes;
    series.add(bucket);
    this.#memoryBytes += series.memoryBytes - before;
    this.#fit();
  }

  #fit(): void {
    while (this.#memoryBytes > this.#bytesMax) {
      let largest: ActivitySeries | undefined;
      for (const { series } of this.#branches.values())
        if (largest === undefined || series.memoryBytes > largest.memoryBytes) largest = series;
      assert(largest !== undefined, "what takes memory is a branch's");
      this.#memoryBytes -= largest.memoryBytes;
      largest.fold();
      this.#memoryBytes += largest.memoryBytes;
    }
  }

  #measureTo(end8: number): void {
    this.#measure(end8 - this.#trail.offset8);
  }

  /** The newest frame takes so much, in units of 8 bytes. */
  #measure(bytes8: number): void {
    const unmeasured = this.#unmeasured;
    const { activity, bucket, isLate } = unmeasured;
    if (activity === undefined || bucket === undefined) return;
    unmeasured.activity = undefined;
    unmeasured.bucket = undefined;
    unmeasured.isLate = false;
    // What is longer, or shorter than nothing, is no frame of one block: not written by us.
    if (bytes8 > 0 && bytes8 <= RAW_FRAME_8) {
      bucket.frameBytes += bytes8 * 8;
      if (bytes8 === RAW_FRAME_8) {
        bucket.rawFrameCount += 1;
        if (unmeasured.hasReplacedShrunk) bucket.hardenedCount += 1;
        this.#rawWatch = activity.watch;
        this.#isRawHardened = unmeasured.hasReplacedShrunk;
      }
    }
    if (isLate) this.#close(activity, bucket);
  }

  #tellWatch(): void {
    this.#rawWatch?.measuredRaw(this.#isRawHardened);
    this.#rawWatch = undefined;
  }
}
