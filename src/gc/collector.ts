// SPDX-License-Identifier: Apache-2.0
//
// Garbage collection: finds segments whose frames are mostly unneeded, moves what is still needed to the head of the
// log, and drops the segments. Data that nobody writes any more is compressed again, many blocks together.
//
//   survey → victims → judged: nothing new refers to them → what is live, exactly → copies and relocation records
//   durable → tombstone durable → file unlinked                                       (docs/format/ordering.md)
//
// A crash between any two steps leaves copies that nobody knows, or a segment that is dropped next time. Only segments
// that lie wholly before both checkpoints are dropped: no recovery walks them. What they say about history is kept
// where retention wants it: then the segment's records stay, in a small file, when its frames are elsewhere.
//
// Clients come first: see `pace`. When they wait for space, it is the other way round.

import { hasCode, StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { BlockIndex } from "../index/block-index.ts";
import type { Past } from "../index/past.ts";
import { RELOCATION } from "../index/relocation-index.ts";
import type { RunStore } from "../index/run-file.ts";
import type { FileStore } from "../log/file-store.ts";
import {
  KnownSegments,
  type LogFiles,
  segmentCorrupt,
  withSegment,
} from "../log/known-segments.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { recordsNumberOf, segmentName, segmentNumberOf } from "../log/segment.ts";
import type { SegmentSet } from "../log/segment-set.ts";
import { SHARED_SLOTS_MAX, type SharedFrames } from "../log/shared-frame.ts";
import { coldGainOf } from "./cold-gain.ts";
import { type FrameBytes, frameBytesOf, type SegmentShares, sharedOut } from "./frame-bytes.ts";
import { FrameMarks } from "./frame-marks.ts";
import { FrameMover } from "./frame-mover.ts";
import type { History } from "./history.ts";
import { keepRecords } from "./kept-records.ts";
import { mostRoomToMove, roomToMove } from "./moving-room.ts";
import { type Need, NO_HISTORY, visitNeeds } from "./needs.ts";
import { scanReferences } from "./reference-scan.ts";
import { FrameSizes, readSegmentFrames, type SegmentFrames } from "./segment-frames.ts";
import { Survey } from "./survey.ts";

export interface CollectorOptions extends LogFiles {
  readonly clock: Clock;
  readonly index: BlockIndex;
  readonly past: Past;
  readonly chunkCountOf: (branch: number) => number;
  /** Whether what it holds now may be asked for; of others only history counts. */
  readonly isLive: (branch: number) => boolean;
  /** Of those that are live, whether its volume is there: what a removed one holds only the past needs. */
  readonly isServed: (branch: number) => boolean;
  /** Of those that are live, which a collection forgets before it begins. */
  readonly unneededBranches: () => ReadonlySet<number>;
  readonly runs: RunStore;
  readonly log: LogWriter;
  readonly segments: FileStore;
  readonly set: SegmentSet;
  readonly shared: SharedFrames;
  /** What is promised of the past. With all of it nothing is garbage, but frames may move. */
  readonly history: () => History;
  /** What `history` says can be read until the returned function is called. */
  readonly pinHistory: () => Promise<() => void>;
  /** How many moments were pinned so far that `history` then may not have known of. */
  readonly pinsSoFar: () => number;
  /** No recovery reads segments below this one. */
  readonly oldestCutSegment: () => number;
  readonly checkpoint: () => Promise<void>;
  /** Lets go of lines of history that nothing is promised of. */
  readonly forgetBranches: () => Promise<void>;
  /** Appends and applies the tombstone, in one turn. */
  readonly appendDropped: (dropped: DroppedSegment) => Promise<void>;
  /** The file is gone, and so many bytes with it. */
  readonly onDropped: (dropped: { freedBytes: number; isSegment: boolean }) => void;
  /** Clients wait for space. */
  readonly isUrgent: () => boolean;
  /** How many bytes may be written before anything is freed. */
  readonly roomBytes: () => Promise<number>;
  /** Throws when the pool is closed or has stopped. */
  readonly checkStopped: () => void;
  readonly onProblem: (segment: number, error: StorageError) => void;
}

export interface DroppedSegment {
  readonly segment: number;
  readonly keepsRecords: boolean;
  readonly freedBytes: number;
  /** Only its records were left. */
  readonly isRecords?: boolean;
}

export interface CollectOptions {
  readonly isDryRun: boolean;
  /** Segments of which more is live stay: 0 to 1. */
  readonly liveShareMax: number;
  /** Ends when so much is freed. */
  readonly wantedBytes: number;
  /** Cold data is compressed again, where samples say that it pays: all sealed segments count as cold. */
  readonly isThorough: boolean;
  /** All that was written is sealed and checkpointed first, so that it can be collected; as with isThorough. */
  readonly isSettled?: boolean;
}

export interface Collected {
  segmentsExamined: number;
  segmentsFreed: number;
  segmentsCompacted: number;
  bytesFreed: number;
  bytesMoved: number;
  garbageBytes: number;
  /** What is live: where it was before a dry run, where it is after another. */
  liveBytes: number;
  /** Of what is live, the part that no volume holds any more and only the past needs; undefined: it wasn't counted. */
  pastShare: number | undefined;
  /** Garbage in segments that were not worth their while, or that a recovery may still need. */
  keptGarbageBytes: number;
  /** Garbage in segments whose live data had no room to be moved to. */
  noRoomBytes: number;
  /** Of a dry run, by samples: what compressing cold data again would save. */
  coldGainBytes: number;
}

export interface CollectProgress {
  phase: string;
  doneBytes: number;
  totalBytes: number;
}

/** Of a segment. */
interface NeededFrames {
  /** Volumes hold them. */
  served: number;
  /** Only the past needs them. */
  past: number;
}

interface Candidate {
  readonly number: number;
  readonly sizeBytes: number;
  /** Estimated. */
  readonly liveShare: number;
  readonly frameCount: number;
  /** All of it is cold data that was compressed together. */
  readonly isCondensed: boolean;
}

/** What is known of a sealed segment. */
interface SegmentFacts {
  readonly sizeBytes: number;
  /** Blocks in its frames; not exact: its frames. */
  readonly frameCount: number;
  readonly isExact: boolean;
  readonly isCondensed: boolean;
}

/** Bitmaps and names of so many segments are held at once. */
const JUDGED_MAX = 96;
/** Copies of so many bytes become durable together. */
const MOVED_BYTES_TOGETHER: number = 64 << 20;
/** Moves between two checkpoints: they are in memory until then. */
const PENDING_MOVES_MAX: number = 1 << 19;
/** See worthOf. */
const AGE_WEIGHT = 0.4;
/** In a dry run cold data of so many segments is tried; the others are taken to be like those beside them. */
const DRY_RUN_TRIED_MAX = 64;
/** Frames that are counted between two turns of others: half a millisecond. */
const SLICE_FRAMES = 4096;
/** The newer half of all segments, and at least so many, are hot: what is moved out of them stays as it is. */
const HOT_SEGMENTS_MIN = 8;

export class Collector {
  readonly #options: CollectorOptions;
  /** What is known of sealed segments, which don't change. */
  readonly #facts: Map<number, SegmentFacts> = new Map();
  /** What compressing them again would save, of those that were tried. */
  readonly #coldGains: Map<number, number> = new Map();
  /** What is live of the segments that the collection under way examined: estimated. */
  #liveBytesOf: ReadonlyMap<number, number> = new Map();
  progress: CollectProgress | undefined;
  #pacedLsn = 0;
  #pacedMicros = 0;

  constructor(options: CollectorOptions) {
    this.#options = options;
  }

  /** One at a time is the caller's care. Throws DISK_FULL, DISK_IO, POOL_CORRUPT, and what `checkStopped` throws. */
  async collect(options: CollectOptions): Promise<Collected> {
    const collected: Collected = {
      segmentsExamined: 0,
      segmentsFreed: 0,
      segmentsCompacted: 0,
      bytesFreed: 0,
      bytesMoved: 0,
      garbageBytes: 0,
      liveBytes: 0,
      pastShare: undefined,
      keptGarbageBytes: 0,
      noRoomBytes: 0,
      coldGainBytes: 0,
    };
    this.progress = { phase: "counting what is live", doneBytes: 0, totalBytes: 0 };
    let unpin = (): void => undefined;
    try {
      if (!options.isDryRun) await this.#options.forgetBranches();
      const isSettled = options.isThorough || options.isSettled === true;
      if (isSettled && !options.isDryRun && (await this.#options.roomBytes()) > 0)
        await this.#settle();
      unpin = await this.#options.pinHistory();
      const history = this.#options.history();
      const pinCount = this.#options.pinsSoFar();
      if (!options.isDryRun) await this.#removeOldRecords(history);
      const candidates = await this.#survey(history, options, collected);
      this.#liveBytesOf = new Map(
        candidates.map(({ number, sizeBytes, liveShare }) => [number, sizeBytes * liveShare]),
      );
      const victims = await this.#choose(candidates, options, collected);
      if (!options.isDryRun)
        await this.#compact(victims, { ...options, history, pinCount }, collected);
    } finally {
      unpin();
      this.progress = undefined;
    }
    return collected;
  }

  /** Counts what the volumes refer to. */
  async survey(): Promise<Survey> {
    const survey = new Survey();
    await scanReferences({ ...this.#options, isLive: this.#options.isServed }, survey);
    return survey;
  }

  /** What the counted frames take on the disk, by branch. */
  frameBytes(survey: Survey): Promise<ReadonlyMap<number, FrameBytes>> {
    const { checkStopped, index } = this.#options;
    const options = {
      relocations: index.relocations,
      frameSizes: (segment: number) => this.#frameSizes(segment),
      averageFrameBytes: (segment: number) => this.#averageFrameBytes(segment),
      pause: () => this.#pause(checkStopped),
    };
    return frameBytesOf(options, survey);
  }

  /**
   * Bytes of the log's segments that each of the needs takes and none before it, in their order; of a history that is all:
   * what is left. They are asked for once what they say of the past stays readable. Not beside a collection. Throws BUSY as
   * soon as clients wait for space, POOL_CORRUPT, LOG_CORRUPT, DISK_IO, and what `checkStopped` throws.
   */
  async neededBytes(
    needsOf: () => readonly Need[],
  ): Promise<{ readonly bytes: readonly number[]; readonly isSampled: boolean }> {
    const { isUrgent, checkStopped, pinHistory, index, directory, log } = this.#options;
    const check = (): void => {
      checkStopped();
      if (isUrgent())
        throw new StorageError("BUSY", "pool: history not counted: clients wait for space");
    };
    check();
    this.progress = { phase: "counting what is needed", doneBytes: 0, totalBytes: 0 };
    const unpin = await pinHistory();
    try {
      const needs = needsOf();
      const survey = new Survey();
      const options = { ...this.#options, checkStopped: check };
      await visitNeeds(options, needs, survey, (place) => {
        survey.owner = place;
      });
      const numbers = (await directory.list()).map(segmentNumberOf);
      const shares = {
        relocations: index.relocations,
        segments: numbers.filter((number) => number > 0 && number <= log.segmentNumber),
        sharesOf: this.#sharesOf.bind(this),
        areGreedy: needs.map(({ history }) => history.kind === "all"),
        pause: () => this.#pause(check),
      };
      return { bytes: await sharedOut(shares, survey), isSampled: survey.scale > 1 };
    } finally {
      unpin();
      this.progress = undefined;
    }
  }

  async #sharesOf(
    segment: number,
    { isExact, neededCount }: { readonly isExact: boolean; readonly neededCount: number },
  ): Promise<SegmentShares | undefined> {
    const { log } = this.#options;
    if (segment === log.segmentNumber) {
      const weightOf = (offset8: number): number => log.openFrameBytes(offset8);
      return { sizeBytes: log.tailBytes, weightOf, totalWeight: log.openFramesBytes() };
    }
    if (isExact) {
      const frames = await this.#framesOf(segment);
      if (frames === undefined) return undefined;
      const sizes = new FrameSizes(frames);
      const weightOf = (offset8: number): number => sizes.bytesOf(offset8);
      return { sizeBytes: frames.sizeBytes, weightOf, totalWeight: sizes.totalBytes };
    }
    let facts = await this.#factsOf(segment, false);
    if (facts !== undefined && neededCount > facts.frameCount)
      facts = await this.#factsOf(segment, true);
    if (facts === undefined) return undefined;
    return { sizeBytes: facts.sizeBytes, weightOf: () => 1, totalWeight: facts.frameCount };
  }

  async #pause(check: () => void): Promise<void> {
    await new Promise<void>((resolve) => this.#options.clock.afterInput(resolve));
    check();
  }

  /** What the frames of a segment take; undefined where that can't be read. */
  async #frameSizes(segment: number): Promise<Pick<FrameSizes, "bytesOf"> | undefined> {
    const { log } = this.#options;
    if (segment === log.segmentNumber) return { bytesOf: (offset8) => log.openFrameBytes(offset8) };
    if (segment > log.segmentNumber) return undefined;
    const frames = await this.#framesOf(segment);
    return frames === undefined ? undefined : new FrameSizes(frames);
  }

  /** Bytes on disk of an average frame of the segment, as far as it is known. */
  async #averageFrameBytes(segment: number): Promise<number> {
    const facts = await this.#factsOf(segment, true);
    return facts === undefined || facts.frameCount === 0 ? 0 : facts.sizeBytes / facts.frameCount;
  }

  /** Everything written so far is in sealed segments that no recovery needs. */
  async #settle(): Promise<void> {
    const { log, checkpoint } = this.#options;
    await log.sealSegment();
    await checkpoint();
    await checkpoint();
  }

  async #survey(
    history: History,
    { isThorough, isDryRun }: CollectOptions,
    collected: Collected,
  ): Promise<Candidate[]> {
    const { directory, oldestCutSegment, log } = this.#options;
    const isAll = history.kind === "all";
    const counts =
      isAll && !isThorough ? undefined : await this.#countFrames(history, { isDryRun });
    const candidates: Candidate[] = [];
    let pastBytes = 0;
    // What a dry run predicts would settle first.
    const end = isThorough && isDryRun ? log.segmentNumber : oldestCutSegment();
    for (const name of (await directory.list()).sort()) {
      const number = segmentNumberOf(name);
      if (number <= 0) continue;
      const { served, past } = counts?.get(number) ?? { served: 0, past: 0 };
      let facts = await this.#factsOf(number, isThorough);
      if (facts === undefined) continue;
      if (served + past > facts.frameCount) facts = await this.#factsOf(number, true);
      if (facts === undefined) continue;
      const { sizeBytes, frameCount, isCondensed } = facts;
      const shareOf = (count: number): number =>
        frameCount === 0 ? 0 : Math.min(1, count / frameCount);
      const liveShare = shareOf(isAll ? frameCount : served + past);
      pastBytes += sizeBytes * (liveShare - Math.min(liveShare, shareOf(served)));
      collected.segmentsExamined += 1;
      collected.liveBytes += sizeBytes * liveShare;
      collected.garbageBytes += sizeBytes * (1 - liveShare);
      if (number < end) candidates.push({ number, sizeBytes, liveShare, frameCount, isCondensed });
      else collected.keptGarbageBytes += sizeBytes * (1 - liveShare);
    }
    if (counts !== undefined) collected.pastShare = pastBytes / Math.max(1, collected.liveBytes);
    return candidates;
  }

  /** Frames that are needed, by the segment that they are in now; estimated where there are many. */
  async #countFrames(
    history: History,
    { isDryRun }: { readonly isDryRun: boolean },
  ): Promise<Map<number, NeededFrames>> {
    const { index, isLive, isServed, unneededBranches } = this.#options;
    const { relocations } = index;
    const survey = new Survey();
    const forgotten = isDryRun ? unneededBranches() : new Set<number>();
    const isNeeded = (branch: number): boolean => isLive(branch) && !forgotten.has(branch);
    const needs = [
      { isLive: isServed, history: NO_HISTORY },
      { isLive: isNeeded, history },
    ];
    await visitNeeds(this.#options, needs, survey, (place) => {
      survey.owner = place;
    });
    const counts = new Map<number, NeededFrames>();
    let sliceLeft = SLICE_FRAMES;
    for (const { homeSegment, homeOffset8, branch: need } of survey.frames()) {
      sliceLeft -= 1;
      if (sliceLeft === 0) {
        sliceLeft = SLICE_FRAMES;
        await this.#pace();
      }
      let resolved = relocations.resolve(homeSegment, homeOffset8);
      while (resolved === RELOCATION.NOT_LOADED) {
        await relocations.load(homeSegment, homeOffset8);
        resolved = relocations.resolve(homeSegment, homeOffset8);
      }
      const place = resolved === RELOCATION.FOUND ? relocations.foundSegment : homeSegment;
      let count = counts.get(place);
      if (count === undefined) {
        count = { served: 0, past: 0 };
        counts.set(place, count);
      }
      count[need === 0 ? "served" : "past"] += survey.scale;
    }
    return counts;
  }

  /**
   * What is known of a segment; undefined while it is written, or where it can't be read. A footer tells at once how many
   * frames there are; how many blocks are in them, if some are shared, only the records do: `isExact`.
   */
  async #factsOf(number: number, isExact: boolean): Promise<SegmentFacts | undefined> {
    const known = this.#facts.get(number);
    if (known !== undefined && (known.isExact || !isExact)) return known;
    if (number >= this.#options.log.segmentNumber) return undefined;
    try {
      const quick = isExact ? undefined : await this.#factsByFooter(number);
      const facts = quick ?? (await this.#factsByRecords(number));
      this.#facts.set(number, facts);
      return facts;
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind !== "corrupt") throw error;
      this.#options.onProblem(number, error);
      return undefined;
    }
  }

  #factsByFooter(number: number): Promise<SegmentFacts | undefined> {
    return withSegment(this.#options, number, async (reader) => {
      const trailer = await reader.trailer();
      if (typeof trailer === "string") return undefined;
      const { frameCount } = trailer;
      return { sizeBytes: reader.sizeBytes, frameCount, isExact: false, isCondensed: false };
    });
  }

  async #factsByRecords(number: number): Promise<SegmentFacts> {
    const { sizeBytes, born, moved } = await readSegmentFrames(this.#options, number);
    const movedCount = moved.reduce((sum, { homes }) => sum + homes.length / 2, 0);
    const isCondensed = born.length === 0 && moved.some(({ isShared }) => isShared);
    return { sizeBytes, frameCount: born.length + movedCount, isExact: true, isCondensed };
  }

  /** The segments that pay best first, until enough would be freed. */
  async #choose(
    candidates: readonly Candidate[],
    options: CollectOptions,
    collected: Collected,
  ): Promise<Candidate[]> {
    const { liveShareMax, wantedBytes, isDryRun, isThorough } = options;
    const { segmentNumber } = this.#options.log;
    const worth = (a: Candidate) => worthOf(a, segmentNumber - a.number);
    const gains = await this.#tryCold(candidates, options);
    const victims: Candidate[] = [];
    let freed = 0;
    for (const candidate of [...candidates].sort((a, b) => worth(b) - worth(a))) {
      const { number, sizeBytes, liveShare } = candidate;
      const gain = gains.get(number) ?? 0;
      const isWorth = liveShare * (1 - gain) <= liveShareMax || (isThorough && isScrap(candidate));
      if (isWorth && freed < wantedBytes) {
        victims.push(candidate);
        freed += sizeBytes * (1 - liveShare);
        if (isDryRun) collected.coldGainBytes += sizeBytes * liveShare * gain;
      } else collected.keptGarbageBytes += sizeBytes * (1 - liveShare);
    }
    if (isDryRun) collected.segmentsFreed = victims.length;
    return victims;
  }

  /** By segment: the part of its live data that compressing it together would save, where that is asked. */
  async #tryCold(
    candidates: readonly Candidate[],
    { isThorough, isDryRun, liveShareMax }: CollectOptions,
  ): Promise<Map<number, number>> {
    const gains = new Map<number, number>();
    if (!isThorough) return gains;
    // What has enough garbage is moved anyway, whatever it gains: only who predicts wants to know.
    const asked = candidates.filter(
      ({ isCondensed, liveShare }) =>
        !isCondensed && (isDryRun ? liveShare > 0 : liveShare > liveShareMax),
    );
    const every = isDryRun ? Math.ceil(asked.length / DRY_RUN_TRIED_MAX) : 1;
    const totalBytes = asked.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    this.progress = { phase: "trying what cold data gains", doneBytes: 0, totalBytes };
    let gain = 0;
    for (const [at, { number, sizeBytes }] of asked.entries()) {
      if (at % every === 0) gain = await this.#coldGain(number);
      gains.set(number, gain);
      this.progress.doneBytes += sizeBytes;
    }
    return gains;
  }

  async #coldGain(number: number): Promise<number> {
    let gain = this.#coldGains.get(number);
    if (gain !== undefined) return gain;
    const frames = await this.#framesOf(number);
    gain =
      frames === undefined
        ? 0
        : await coldGainOf({ ...this.#options, pace: () => this.#pace() }, frames);
    this.#coldGains.set(number, gain);
    return gain;
  }

  async #compact(
    victims: readonly Candidate[],
    options: CollectOptions & { readonly history: History; readonly pinCount: number },
    collected: Collected,
  ): Promise<void> {
    const totalBytes = victims.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    this.progress = { phase: "moving what is live", doneBytes: 0, totalBytes };
    for (let first = 0; first < victims.length; first += JUDGED_MAX) {
      const judged = victims.slice(first, first + JUDGED_MAX);
      for (const { number } of judged) this.#options.set.judge(number);
      try {
        await this.#compactJudged(judged, options, collected);
      } finally {
        for (const { number } of judged) this.#options.set.spare(number);
      }
    }
  }

  #isHot(segment: number): boolean {
    const hotSegments = Math.max(HOT_SEGMENTS_MIN, this.#facts.size / 2);
    return segment > this.#options.log.segmentNumber - hotSegments;
  }

  /** Nothing new refers to the victims: finds out what is live in them, exactly, moves it, and drops them. */
  async #compactJudged(
    victims: readonly Candidate[],
    options: CollectOptions & { readonly history: History; readonly pinCount: number },
    collected: Collected,
  ): Promise<void> {
    const { index, log } = this.#options;
    const { history } = options;
    const all: SegmentFrames[] = [];
    for (const { number } of victims) {
      const frames = await this.#framesOf(number);
      if (frames !== undefined) all.push(frames);
    }
    let marks: FrameMarks | undefined;
    if (history.kind !== "all") {
      marks = new FrameMarks(all);
      await visitNeeds(this.#options, [{ isLive: this.#options.isLive, history }], marks);
      // Of a moment that was pinned before the scan came to a page, the page may have had more than the scan saw.
      if (this.#options.pinsSoFar() !== options.pinCount) return;
    }
    // What made frames garbage must be as durable as their end.
    await log.durable();
    const mover = await FrameMover.create({
      memory: this.#options.memory,
      clock: this.#options.clock,
      log,
      relocations: index.relocations,
      segments: this.#options.segments,
      shared: this.#options.shared,
      pace: () => this.#pace(),
    });
    try {
      let moved: SegmentFrames[] = [];
      let bytes = 0;
      let room = new Room(await this.#options.roomBytes(), mover);
      for (const frames of all) {
        this.#options.checkStopped();
        if (marks?.isAccounted(frames) === false || !(await this.#isWhole(history, frames))) {
          this.#options.onProblem(frames.number, unaccounted(frames.number));
          continue;
        }
        const what = { marks, keepsRecords: needsRecords(history, frames.number) };
        if (!room.has(frames, what)) {
          await mover.finish();
          await this.#drop(moved, history, collected);
          moved = [];
          bytes = 0;
          room = new Room(await this.#options.roomBytes(), mover);
          if (!room.has(frames, what)) {
            const liveBytes = this.#liveBytesOf.get(frames.number) ?? 0;
            collected.noRoomBytes += Math.max(0, frames.sizeBytes - liveBytes);
            continue;
          }
        }
        const isCold =
          options.isThorough || (!this.#isHot(frames.number) && !this.#options.isUrgent());
        const before = mover.movedBytes;
        try {
          await mover.move(frames, marks, { isCold });
        } catch (error) {
          if (!hasCode(error, "FRAME_CORRUPT")) throw error;
          this.#options.onProblem(frames.number, error);
          continue;
        }
        moved.push(frames);
        bytes += mover.movedBytes - before;
        if (this.progress !== undefined) this.progress.doneBytes += frames.sizeBytes;
        if (bytes >= MOVED_BYTES_TOGETHER || frames === all[all.length - 1]) {
          await mover.finish();
          await this.#drop(moved, history, collected);
          moved = [];
          bytes = 0;
        }
        if (collected.bytesFreed - mover.movedBytes >= options.wantedBytes && !options.isThorough)
          break;
      }
      await mover.finish();
      await this.#drop(moved, history, collected);
    } finally {
      collected.bytesMoved += mover.movedBytes;
      collected.liveBytes += mover.movedBytes;
      mover.close();
    }
  }

  /** Whether the segment's records were read to their end: its footer says where that is, or the segment behind it. */
  async #isWhole(history: History, { number, end, hasFooter }: SegmentFrames): Promise<boolean> {
    if (hasFooter) return true;
    const known = await KnownSegments.read(this.#options, number);
    const successors = known.successorsOf(number);
    // Where the one behind it is gone, what refers to this one must do: all of it is accounted for.
    if (successors.length === 0) return !needsRecords(history, number);
    return successors.some(({ previousEnd }) => previousEnd === end);
  }

  async #framesOf(number: number): Promise<SegmentFrames | undefined> {
    try {
      return await readSegmentFrames(this.#options, number);
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind !== "corrupt") throw error;
      this.#options.onProblem(number, error);
      return undefined;
    }
  }

  /** Everything live of these segments is elsewhere: makes that durable, then lets them go. */
  async #drop(
    emptied: readonly SegmentFrames[],
    history: History,
    collected: Collected,
  ): Promise<void> {
    if (emptied.length === 0) return;
    const { log, index, directory, segments, set, appendDropped, onDropped } = this.#options;
    await log.durable();
    const freed: number[] = [];
    const dropped: SegmentFrames[] = [];
    for (const frames of emptied) {
      try {
        const keptBytes = needsRecords(history, frames.number)
          ? await keepRecords(this.#options, segments, frames)
          : 0;
        dropped.push(frames);
        freed.push(frames.sizeBytes - keptBytes);
      } catch (error) {
        if (!(error instanceof StorageError) || error.kind !== "corrupt") throw error;
        this.#options.onProblem(frames.number, error);
      }
    }
    await directory.sync();
    for (const [at, { number }] of dropped.entries()) {
      const keepsRecords = needsRecords(history, number);
      await appendDropped({ segment: number, keepsRecords, freedBytes: freed[at] as number });
    }
    await log.durable();
    for (const [at, { number }] of dropped.entries()) {
      set.drop(number);
      await segments.forget(number);
      await directory.remove(segmentName(number));
      onDropped({ freedBytes: freed[at] as number, isSegment: true });
      this.#facts.delete(number);
      this.#coldGains.delete(number);
      collected.bytesFreed += freed[at] as number;
      collected.liveBytes -= this.#liveBytesOf.get(number) ?? 0;
      collected.segmentsFreed += 1;
      collected.segmentsCompacted += 1;
    }
    await directory.sync();
    if (index.relocations.pendingCount > PENDING_MOVES_MAX) await this.#options.checkpoint();
  }

  /** Records that were kept for a history that isn't promised any more. */
  async #removeOldRecords(history: History): Promise<void> {
    const { log, directory, oldestCutSegment, appendDropped, onDropped } = this.#options;
    const end = oldestCutSegment();
    const old: { name: string; freedBytes: number }[] = [];
    for (const name of await directory.list()) {
      const segment = recordsNumberOf(name);
      if (segment <= 0 || segment >= end || needsRecords(history, segment)) continue;
      const file = await directory.open(name, "read");
      const freedBytes = await file.sizeBytes();
      await file.close();
      // The hole that it leaves is told from a loss by this record.
      await appendDropped({ segment, keepsRecords: false, freedBytes, isRecords: true });
      old.push({ name, freedBytes });
    }
    if (old.length === 0) return;
    await log.durable();
    for (const { name, freedBytes } of old) {
      await directory.remove(name);
      onDropped({ freedBytes, isSegment: false });
    }
  }

  /** Half of the time is the clients', when there are any who write; all of it is ours while they wait for space. */
  async #pace(): Promise<void> {
    const { clock, log, isUrgent, checkStopped } = this.#options;
    const now = clock.monotoneMicros();
    const isBusy = log.changeCount !== this.#pacedLsn;
    const pauseMs = isBusy && !isUrgent() ? Math.min(100, (now - this.#pacedMicros) / 1000) : 0;
    if (pauseMs > 0) await new Promise<void>((resolve) => clock.after(pauseMs, resolve));
    else await new Promise<void>((resolve) => clock.afterInput(resolve));
    checkStopped();
    this.#pacedLsn = log.changeCount;
    this.#pacedMicros = clock.monotoneMicros();
  }
}

/** What could be written when it was looked at, less what the mover has taken of it since. */
class Room {
  readonly #end: number;
  readonly #mover: FrameMover;

  constructor(bytes: number, mover: FrameMover) {
    this.#end = bytes + mover.movedBytes;
    this.#mover = mover;
  }

  has(
    frames: SegmentFrames,
    what: { readonly marks: FrameMarks | undefined; readonly keepsRecords: boolean },
  ): boolean {
    const left = this.#end - this.#mover.movedBytes;
    return mostRoomToMove(frames) <= left || roomToMove(frames, what) <= left;
  }
}

/** Whether a promised moment may be reached only through the segment's records. */
function needsRecords(history: History, segment: number): boolean {
  if (history.kind === "all") return true;
  return history.start !== undefined && segment >= history.start.segmentNumber;
}

/**
 * What moving a segment's live frames pays, per byte that is read and written for it, and the more the longer the rest
 * of its garbage is in coming: cost-benefit (Rosenblum and Ousterhout, 1992), with less weight on age. Simulated with a
 * log of one stream at 80 % fill, Zipf 0.99: by live share alone 2.35 to 2.6 bytes written per new one; age to the power
 * of 1: 2.38; 0.4: 2.2. Uniform overwrites don't care.
 */
function worthOf({ liveShare }: Candidate, ageSegments: number): number {
  return ((1 - liveShare) / (1 + liveShare)) * ageSegments ** AGE_WEIGHT;
}

/** Too few frames to be compressed together but with those of other segments. */
function isScrap({ frameCount, isCondensed }: Candidate): boolean {
  return frameCount < SHARED_SLOTS_MAX && !isCondensed;
}

function unaccounted(number: number): StorageError {
  return segmentCorrupt(number, "not collected: its records can't be read to their end");
}
