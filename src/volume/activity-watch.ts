// SPDX-License-Identifier: Apache-2.0
//
// Notices what encryption by ransomware looks like from below a file system: content that shrank is replaced, or dropped,
// and what comes instead doesn't shrink. Nothing is read for it; a write tells by its references (activity-timeline.ts).
//
// Of each mebibyte or so of new frames, the share that is such a loss is the evidence. Where the sizes of the frames that
// were replaced are known, it is counted block by block: a backup that replaces compressed files by compressed files is
// none, and a database is none. Where they aren't, it is what both rose: the share of blocks that don't shrink, above
// the volume's own normal, and the share that replaced data. Trimmed blocks count as replaced: files that are
// written anew and deleted.
//
// Evidence above what is normal adds up (CUSUM, Page 1954), and what is below wears it off. So much of it is suspicious,
// and the moment before is where it last was nothing. Normal is a weighted mean of the recent past, and isn't learned from
// what may be an attack. docs/decisions/0010 has what was measured.

import type { ActivityReader, ActivityWriter } from "./activity-bucket.ts";

/** New frames that are judged together: 4 MiB of content. */
const WINDOW_FRAMES = 1024;
/** Before so many windows nothing is normal yet. */
const LEARN_WINDOWS = 16;
/** Weight of a window in what is normal: the last gibibyte, mostly. */
const LEARN_SHARE = 1 / 256;
/** Evidence below this share is never more than normal. */
const DRIFT_MIN = 0.03;
const DRIFT_MAX = 0.5;
const DEVIATIONS = 3;
/** Evidence, in blocks, that is suspicious: 32 MiB. Nothing is lost by waiting for it: the moment before is kept. */
const SUSPICIOUS_BLOCKS = 8192;
/** What a window without evidence leaves of it. */
const CALM_KEEPS = 0.95;
/** So little is no evidence at all. */
const CALM_MIN = 0.02;
/** Evidence, in blocks, that ends a quiet time; and the windows after which it is quiet again. */
const DOUBTFUL_BLOCKS = 256;
const QUIET_WINDOWS = 16;
/** Where the sizes of what was replaced aren't known, evidence counts so much. */
const GUESS_SHARE = 0.25;
/** More wouldn't be worn off in time. */
const EVIDENCE_MAX = 4 * SUSPICIOUS_BLOCKS;
/** Fewer sizes than this say nothing. */
const SIZED_MIN = 64;
/** Known sizes stand for at most so many unknown ones. */
const SIZED_SHARE = 8;
/** What goes on for 4 GiB is this volume's normal from then on. */
const RAISED_WINDOWS_MAX = 1024;
/** A share, encoded as a whole number. */
const SHARE_UNIT = 1_000_000;

/** Of one record. */
interface WatchedWrite {
  readonly frameCount: number;
  /** Of them, but for the last one: those that don't shrink; where known content did that they replace. */
  readonly rawFrameCount: number;
  readonly hardenedCount: number;
  /** Blocks that held data before, those that may have, and of the first those of which it is known how much that took. */
  readonly rewrittenCount: number;
  readonly perhapsCount: number;
  readonly sizedCount: number;
}

export interface Suspicion {
  readonly branch: number;
  /** Where it began: the last moment before it, and the time of that. */
  readonly lastLsnBefore: number;
  readonly lastMicrosBefore: number;
  readonly sinceMicros: number;
  /** When it was enough to be noticed. */
  readonly noticedLsn: number;
  readonly noticedMicros: number;
}

/** Where a window begins. */
interface Place {
  /** The last moment before it, and its time. */
  lsnBefore: number;
  microsBefore: number;
  /** Its first record; 0: it has none yet. */
  beginMicros: number;
}

function copyPlace(from: Place, to: Place): void {
  to.lsnBefore = from.lsnBefore;
  to.microsBefore = from.microsBefore;
  to.beginMicros = from.beginMicros;
}

export class ActivityWatch {
  readonly #branch: number;
  readonly #onSuspicious: (suspicion: Suspicion) => void;
  /** The window that is filling. */
  #frameCount = 0;
  #rawFrameCount = 0;
  #hardenedCount = 0;
  #replacedCount = 0;
  #sizedCount = 0;
  #trimmedCount = 0;
  readonly #window: Place = { lsnBefore: 0, microsBefore: 0, beginMicros: 0 };
  /** Where evidence last was nothing. */
  readonly #since: Place = { lsnBefore: 0, microsBefore: 0, beginMicros: 0 };
  #lastLsn = 0;
  #lastMicros = 0;
  /** What is normal: the share of frames that don't shrink; the evidence, and how far it is off that. */
  #normalRaw = 0;
  #normalEvidence = 0;
  #deviation = 0;
  #learnedCount = 0;
  /** In blocks, above what is normal. */
  evidence = 0;
  /** Windows since there was so much of it as to doubt. */
  #quietCount = QUIET_WINDOWS;
  #raisedCount = 0;
  /** Where nothing is compressed, what doesn't shrink says nothing. A setting of the volume's, told anew at each opening. */
  isCompressed = true;

  constructor(branch: number, onSuspicious: (suspicion: Suspicion) => void) {
    this.#branch = branch;
    this.#onSuspicious = onSuspicious;
  }

  get isSuspicious(): boolean {
    return this.#raisedCount > 0;
  }

  wrote(lsn: number, timeMicros: number, write: WatchedWrite): void {
    this.#note(lsn, timeMicros);
    this.#frameCount += write.frameCount;
    this.#rawFrameCount += write.rawFrameCount;
    this.#hardenedCount += write.hardenedCount;
    this.#replacedCount += write.rewrittenCount + write.perhapsCount;
    this.#sizedCount += write.sizedCount;
    if (this.#frameCount >= WINDOW_FRAMES) this.#judge();
  }

  /** The last frame of a write doesn't shrink; what its block held before did, if that is known. */
  measuredRaw(hasReplacedShrunk: boolean): void {
    this.#rawFrameCount += 1;
    if (hasReplacedShrunk) this.#hardenedCount += 1;
  }

  trimmed(lsn: number, timeMicros: number, blockCount: number): void {
    this.#note(lsn, timeMicros);
    this.#trimmedCount += blockCount;
  }

  #note(lsn: number, timeMicros: number): void {
    const window = this.#window;
    if (window.beginMicros === 0) {
      window.lsnBefore = lsn - 1;
      window.microsBefore = this.#lastMicros;
      window.beginMicros = timeMicros;
    }
    this.#lastLsn = lsn;
    this.#lastMicros = timeMicros;
  }

  #judge(): void {
    const evidence = this.isCompressed ? this.#evidenceShare() : 0;
    const drift = Math.min(
      DRIFT_MAX,
      Math.max(DRIFT_MIN, this.#normalEvidence + DEVIATIONS * this.#deviation),
    );
    const isCalm = evidence <= Math.max(CALM_MIN, this.#normalEvidence + this.#deviation);
    const isLearning = this.#learnedCount < LEARN_WINDOWS;
    const sum = (isCalm ? CALM_KEEPS : 1) * this.evidence + this.#frameCount * (evidence - drift);
    this.evidence = isLearning ? 0 : Math.min(EVIDENCE_MAX, Math.max(0, sum));
    this.#quietCount = this.evidence < DOUBTFUL_BLOCKS ? this.#quietCount + 1 : 0;
    // The last window without evidence is doubted too: it may hold the beginning. And so is a short lull.
    if (this.evidence === 0 && this.#quietCount >= QUIET_WINDOWS)
      copyPlace(this.#window, this.#since);
    if (this.evidence === 0) this.#learn(evidence);
    this.#tell();
    this.#frameCount = 0;
    this.#rawFrameCount = 0;
    this.#hardenedCount = 0;
    this.#replacedCount = 0;
    this.#sizedCount = 0;
    this.#trimmedCount = 0;
    this.#window.beginMicros = 0;
  }

  /** The share of the window's new frames that took the place of content that shrank. */
  #evidenceShare(): number {
    const frames = this.#frameCount;
    const replaced = Math.min(frames, this.#replacedCount);
    const trimmed = Math.min(frames, this.#trimmedCount);
    const excess = Math.max(0, this.#rawFrameCount / frames - this.#normalRaw);
    const byTrims = Math.min(excess, trimmed / frames);
    const sized = this.#sizedCount;
    const isGuess = sized < SIZED_MIN || sized * SIZED_SHARE < replaced;
    const byWrites = isGuess
      ? GUESS_SHARE * Math.min(excess, replaced / frames)
      : Math.min(1, (this.#hardenedCount / frames) * (Math.max(sized, replaced) / sized));
    return Math.max(byWrites, byTrims);
  }

  #learn(evidence: number): void {
    this.#learnedCount += 1;
    // The first ones count alike: their mean is the beginning.
    const share = Math.max(LEARN_SHARE, 1 / this.#learnedCount);
    this.#normalRaw += share * (this.#rawFrameCount / this.#frameCount - this.#normalRaw);
    this.#deviation += share * (Math.abs(evidence - this.#normalEvidence) - this.#deviation);
    this.#normalEvidence += share * (evidence - this.#normalEvidence);
  }

  #tell(): void {
    if (this.#raisedCount > 0) {
      this.#raisedCount = this.evidence === 0 ? 0 : this.#raisedCount + 1;
      if (this.#raisedCount > RAISED_WINDOWS_MAX) this.beginAnew();
      return;
    }
    if (this.evidence < SUSPICIOUS_BLOCKS) return;
    this.#raisedCount = 1;
    this.#onSuspicious({
      branch: this.#branch,
      lastLsnBefore: this.#since.lsnBefore,
      lastMicrosBefore: this.#since.microsBefore,
      sinceMicros: this.#since.beginMicros,
      noticedLsn: this.#lastLsn,
      noticedMicros: this.#lastMicros,
    });
  }

  /** What is normal is learned from here on. */
  beginAnew(): void {
    this.#raisedCount = 0;
    this.#learnedCount = 0;
    this.evidence = 0;
  }

  /** What is normal for another branch is normal for this one. */
  inherit(other: ActivityWatch): void {
    this.#normalRaw = other.#normalRaw;
    this.#normalEvidence = other.#normalEvidence;
    this.#deviation = other.#deviation;
    this.#learnedCount = other.#learnedCount;
    this.isCompressed = other.isCompressed;
  }

  encode(writer: ActivityWriter): void {
    for (const value of [
      this.#frameCount,
      this.#rawFrameCount,
      this.#hardenedCount,
      this.#replacedCount,
      this.#sizedCount,
      this.#trimmedCount,
      ...[this.#window.lsnBefore, this.#window.microsBefore, this.#window.beginMicros],
      ...[this.#since.lsnBefore, this.#since.microsBefore, this.#since.beginMicros],
      this.#lastLsn,
      this.#lastMicros,
      this.#learnedCount,
      this.#raisedCount,
      this.#quietCount,
      Math.round(this.#normalRaw * SHARE_UNIT),
      Math.round(this.#normalEvidence * SHARE_UNIT),
      Math.round(this.#deviation * SHARE_UNIT),
      Math.round(this.evidence * SHARE_UNIT),
    ])
      writer.number(value);
  }

  restore(reader: ActivityReader): void {
    this.#frameCount = reader.number(WINDOW_FRAMES);
    this.#rawFrameCount = reader.number(WINDOW_FRAMES);
    this.#hardenedCount = reader.number(WINDOW_FRAMES);
    this.#replacedCount = reader.number();
    this.#sizedCount = reader.number();
    this.#trimmedCount = reader.number();
    for (const place of [this.#window, this.#since]) {
      place.lsnBefore = reader.number();
      place.microsBefore = reader.number();
      place.beginMicros = reader.number();
    }
    this.#lastLsn = reader.number();
    this.#lastMicros = reader.number();
    this.#learnedCount = reader.number();
    this.#raisedCount = reader.number(RAISED_WINDOWS_MAX);
    this.#quietCount = reader.number();
    this.#normalRaw = reader.number(SHARE_UNIT) / SHARE_UNIT;
    this.#normalEvidence = reader.number(SHARE_UNIT) / SHARE_UNIT;
    this.#deviation = reader.number(SHARE_UNIT) / SHARE_UNIT;
    this.evidence = reader.number(EVIDENCE_MAX * SHARE_UNIT) / SHARE_UNIT;
  }
}
