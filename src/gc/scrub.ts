// SPDX-License-Identifier: Apache-2.0
//
// Reads all that is at rest and verifies it, while the pool is in use: every sealed segment (header, footer, batches, frames)
// and every run that a checkpoint needs. What nobody reads goes bad unnoticed, and is missed on the day that its copy is lost
// as well.
//
// It works in memory of its own, so that it takes none from requests, checkpoints and garbage collection. A segment or run that
// is dropped meanwhile is left out, with whatever was wrong with it. A segment of which a part can't be read at all is gone
// through frame by frame, by its footer: so it is known which blocks are lost, and no more than those.

import { hasCode, type StorageError } from "../base/errors.ts";
import type { Clock, Directory } from "../host/ports.ts";
import { type CheckpointSource, neededRuns, readCheckpoints } from "../index/checkpoint-loader.ts";
import { runName } from "../index/run-file.ts";
import { scanRun } from "../index/run-scan.ts";
import { BATCH_HEADER_BYTES } from "../log/batch.ts";
import { FileStore } from "../log/file-store.ts";
import {
  type LogFiles,
  segmentCorrupt,
  segmentNumbers,
  withSegment,
} from "../log/known-segments.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { offset8Of, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import {
  recordsName,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
} from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { checkSegmentEnds, scanBatches } from "../log/segment-scan.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { readFrameByFrame } from "./scrub-frames.ts";
import { type PaceOptions, ScrubPace, ScrubStopped } from "./scrub-pace.ts";

export interface ScrubOptions extends PaceOptions {
  readonly directory: Directory;
  readonly poolId: Uint8Array;
  readonly clock: Clock;
  /** The log's head: what is in segments before that is at rest once it is durable. */
  readonly log: { readonly segmentNumber: number; durableBatches(): Promise<void> };
  readonly onFrame: (frame: DamagedFrame) => void;
  readonly onProblem: (problem: ScrubFinding) => void;
}

/** Damage that isn't a frame's. */
export interface ScrubFinding {
  readonly code: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface Found {
  readonly frames: DamagedFrame[];
  readonly problems: ScrubFinding[];
}

/** Windows and pieces of footers; the rest of it is never touched. */
const MEMORY_BYTES: number = 24 << 20;
const OPEN_FILES_MAX = 4;

export class Scrub {
  readonly #options: ScrubOptions;
  readonly #pace: ScrubPace;
  phase = "looking what is there";
  doneBytes = 0;
  totalBytes = 0;
  segmentsChecked = 0;
  framesChecked = 0;
  bytesChecked = 0;

  constructor(options: ScrubOptions) {
    this.#options = options;
    this.#pace = new ScrubPace(options);
  }

  /** Ends it soon; `run` resolves then. */
  stop(): void {
    this.#pace.stop();
  }

  /** False: it was stopped before its end. Throws POOL_STOPPED, DISK_IO. */
  async run(): Promise<boolean> {
    const { directory, poolId } = this.#options;
    const files = { memory: new BlockMemory(shapeOf(MEMORY_BYTES)), directory, poolId };
    const runs = new FileStore(directory, runName, OPEN_FILES_MAX);
    try {
      await this.#verify({ ...files, runs });
      return true;
    } catch (error) {
      if (error instanceof ScrubStopped) return false;
      throw error;
    } finally {
      await runs.closeAll();
    }
  }

  async #verify(source: CheckpointSource): Promise<void> {
    const { log, directory } = this.#options;
    const end = log.segmentNumber;
    await this.#pace.orStopped(log.durableBatches());
    const numbers = (await segmentNumbers(directory)).filter((number) => number <= end);
    const sealed = numbers.filter((number) => number < end);
    const sizes = await this.#sizesOf(sealed);
    const needed = await this.#neededRuns(source);
    for (const sizeBytes of sizes.values()) this.totalBytes += sizeBytes;
    for (const { sizeBytes } of needed) this.totalBytes += sizeBytes;
    this.phase = "verifying the log";
    for (const [at, number] of sealed.entries()) {
      const sizeBytes = sizes.get(number);
      const next = numbers[at + 1];
      if (sizeBytes !== undefined) await this.#segment(source, { number, sizeBytes, next });
    }
    this.phase = "verifying the index";
    for (const run of needed) await this.#run(source, run);
  }

  /** Those that are there, with their sizes, ascending. */
  async #sizesOf(numbers: readonly number[]): Promise<Map<number, number>> {
    const { directory } = this.#options;
    const names = new Set(await directory.list());
    const sizes = new Map<number, number>();
    for (const number of numbers) {
      const name = names.has(segmentName(number)) ? segmentName(number) : recordsName(number);
      await unlessGone(async () => {
        const file = await directory.open(name, "read");
        sizes.set(number, await file.sizeBytes());
        await file.close();
      });
      await this.#pace.pause();
    }
    return sizes;
  }

  /** The runs that either checkpoint needs, or history. A body that can't be read is looked at twice: it may just have gone. */
  async #neededRuns(source: CheckpointSource): Promise<ReturnType<typeof neededRuns>> {
    let found = await readCheckpoints(source);
    if (found.problems.length > 0) found = await readCheckpoints(source);
    for (const message of found.problems)
      this.#options.onProblem({ code: "POOL_CORRUPT", message, data: {} });
    // What an older checkpoint kept for history may be gone by now.
    return neededRuns(found.checkpoints);
  }

  async #segment(
    files: LogFiles,
    segment: {
      readonly number: number;
      readonly sizeBytes: number;
      readonly next: number | undefined;
    },
  ): Promise<void> {
    const { number, sizeBytes, next } = segment;
    const found: Found = { frames: [], problems: [] };
    const before = this.doneBytes;
    const isRead = await unlessGone(() => this.#verifySegment(files, number, next, found)).catch(
      (error: unknown) => this.#unreadable(files, number, error, found),
    );
    this.doneBytes = before + sizeBytes;
    await this.#pace.pause();
    if (!isRead) return;
    if (found.frames.length + found.problems.length > 0) {
      const isThere = (await segmentNumbers(this.#options.directory)).includes(number);
      if (!isThere) return; // dropped meanwhile: nobody needs it
    }
    this.segmentsChecked += 1;
    this.bytesChecked += sizeBytes;
    for (const frame of found.frames) this.#options.onFrame(frame);
    for (const problem of found.problems) this.#options.onProblem(problem);
  }

  async #verifySegment(
    files: LogFiles,
    number: number,
    next: number | undefined,
    found: Found,
  ): Promise<void> {
    const { header, isRecords, problems, footerProblem } = await checkSegmentEnds(files, number);
    const prefix = isRecords ? "its records: " : "";
    const add = (problem: string, data: Readonly<Record<string, unknown>>): void => {
      found.problems.push(findingOf(segmentCorrupt(number, `${prefix}${problem}`, data)));
    };
    for (const problem of problems) add(problem, {});
    if (footerProblem !== undefined) add(footerProblem, {});
    const successor = await successorOf(files, number, next);
    const before = this.doneBytes;
    let framesStart = 0;
    let framesEnd = 0;
    await scanBatches(files, number, {
      from: SEGMENT_HEADER_BYTES,
      // By the segment behind it alone: a footer may repeat what a crash tore.
      end: successor?.previousEnd,
      header,
      chainAtEnd: successor?.chain,
      onProblem: (problem, offset) => add(problem, { offset }),
      onDamagedFrame: (frame) => found.frames.push(frame),
      onBatch: (offset, { frameBytes }) => {
        framesStart = offset + BATCH_HEADER_BYTES;
        framesEnd = framesStart + frameBytes;
      },
      onRecord: (cursor) => {
        if (isRecords) return;
        this.framesChecked += framesIn(files, cursor, { number, framesStart, framesEnd });
      },
      afterBatch: (end) => {
        if (!isRecords) this.doneBytes = before + end;
        return this.#pace.pause();
      },
      pauseInBatch: this.#pace.pause,
    });
  }

  /** A part of the segment can't be read: which frames are in that part. Says whether the rest was. */
  async #unreadable(
    files: LogFiles,
    number: number,
    error: unknown,
    found: Found,
  ): Promise<boolean> {
    if (!hasCode(error, "DISK_IO")) throw error;
    found.problems.push(findingOf(error));
    const onLost = (lost: DamagedFrame): void => {
      const isKnown = found.frames.some(({ offset }) => offset === lost.offset);
      if (!isKnown) found.frames.push(lost);
    };
    return await unlessGone(() =>
      readFrameByFrame(files, number, { onLost, pause: this.#pace.pause }),
    ).catch((again: unknown) => {
      if (!hasCode(again, "DISK_IO")) throw again;
      return true; // nor its footer: the first error says so
    });
  }

  async #run(
    source: CheckpointSource,
    run: { readonly number: number; readonly sizeBytes: number },
  ): Promise<void> {
    const problems: ScrubFinding[] = [];
    const { number, sizeBytes } = run;
    const data = { run: number };
    const before = this.doneBytes;
    const read = source.runs.read.bind(source.runs);
    const paced = async (...args: Parameters<typeof read>): Promise<number> => {
      await this.#pace.pause();
      const readBytes = await read(...args);
      this.doneBytes = Math.min(before + sizeBytes, this.doneBytes + readBytes);
      return readBytes;
    };
    const isRead = await unlessGone(() =>
      scanRun({ ...source, runs: { read: paced } }, run, (message, offset) => {
        problems.push({ code: "POOL_CORRUPT", message, data: { ...data, offset } });
      }),
    ).catch((error: unknown) => {
      if (!hasCode(error, "DISK_IO")) throw error;
      problems.push(findingOf(error));
      return true;
    });
    this.doneBytes = before + sizeBytes;
    const { directory } = this.#options;
    const isThere = problems.length === 0 || (await directory.list()).includes(runName(number));
    if (!isRead || !isThere) return; // a checkpoint removed it meanwhile
    this.bytesChecked += sizeBytes;
    for (const problem of problems) this.#options.onProblem(problem);
  }
}

/** The header of the segment behind, if it continues this one. */
async function successorOf(
  files: LogFiles,
  number: number,
  next: number | undefined,
): Promise<SegmentHeader | undefined> {
  if (next === undefined) return undefined;
  let found: SegmentHeader | undefined;
  await unlessGone(async () => {
    const header = await withSegment(files, next, (reader) => reader.header());
    if (typeof header === "object" && header.previousNumber === number) found = header;
  });
  return found;
}

/** How many frames of its own batch a record names. */
function framesIn(
  { memory }: LogFiles,
  { kind, blockCount, referencesOffset }: RecordCursor,
  batch: { readonly number: number; readonly framesStart: number; readonly framesEnd: number },
): number {
  if (kind === RECORD_KIND.RELOCATED) return 1;
  if (kind !== RECORD_KIND.WROTE) return 0;
  let count = 0;
  for (let at = referencesOffset; at < referencesOffset + blockCount * 8; at += 8) {
    const low = memory.view.getUint32(at + 4, true);
    const offset = offset8Of(low) * 8;
    const isHere = offset >= batch.framesStart && offset < batch.framesEnd;
    const isBorn = stateOf(low) === REFERENCE_STATE.FRAME && isHere;
    if (isBorn && memory.view.getUint32(at, true) === batch.number) count += 1;
  }
  return count;
}

/** False: the file isn't there any more. */
async function unlessGone(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (hasCode(error, "DISK_IO") && error.data.errno === "ENOENT") return false;
    throw error;
  }
}

function findingOf({ code, message, data }: StorageError): ScrubFinding {
  return { code, message, data };
}
