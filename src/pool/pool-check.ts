// SPDX-License-Identifier: Apache-2.0
//
// Offline verification: is everything in this pool what it says it is? Reads the log along its chain into a plain state;
// looks at all segments, batch by batch and frame by frame, also at those that the chain doesn't reach; compares the
// state, block by block, with what the index gives: checkpoints, runs, directories, leaves, moved frames; and follows
// every reference to its frame. Two independent readings must agree. Where garbage collection let the beginning of the
// log go, the older checkpoint is one of them: with the records behind it, it must give the newer one.
//
// Changes nothing; the caller holds the pool's lock. Findings are results, not exceptions.

import type { StorageError } from "../base/errors.ts";
import type { Directory, Zstd } from "../host/ports.ts";
import { readSlots, SLOT_NAMES } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  type LoadedCheckpoint,
  neededRuns,
  readCheckpoints,
} from "../index/checkpoint-loader.ts";
import { runName } from "../index/run-file.ts";
import { scanRun } from "../index/run-scan.ts";
import { readBranchPoints } from "../log/branch-points.ts";
import { FileStore } from "../log/file-store.ts";
import { segmentCorrupt } from "../log/known-segments.ts";
import { type LogBegin, readLogBegin } from "../log/log-begin.ts";
import { type LogReach, readLogReach } from "../log/log-reach.ts";
import { PlainState } from "../log/plain-state.ts";
import { RECORD_KIND } from "../log/record.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import {
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
  segmentNumberOf,
} from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import {
  type BatchScan,
  checkSegmentEnds,
  type SegmentEnds,
  scanBatches,
} from "../log/segment-scan.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { type CheckFinding, CheckFindings } from "./check-findings.ts";
import { compareCheckpoint } from "./checkpoint-comparison.ts";
import { type CheckpointState, readCheckpointState } from "./checkpoint-state.ts";
import { findingOfFrame } from "./frame-finding.ts";
import { SharedLook } from "./frame-look.ts";
import { HistoryCheck } from "./history-check.ts";
import { poolIdBytes, readIdentity } from "./identity.ts";
import { ReferenceCheck } from "./reference-check.ts";
import { beginsLate } from "./salvage.ts";
import { StoredFrames } from "./stored-frames.ts";

/** What counting all references anew came to. */
export interface ReferenceCount {
  /** Blocks of volumes that refer to a frame. */
  readonly references: number;
  /** References that come to no frame, also, once a frame, of the history that is kept: findings. */
  readonly danglingReferences: number;
  /** Blocks of volumes whose frame is damaged. */
  readonly damagedReferences: number;
  readonly frames: number;
  readonly frameBytes: number;
  /** Frames that nothing refers to: garbage. */
  readonly unreferencedFrames: number;
  readonly unreferencedBytes: number;
}

export interface CheckReport {
  readonly poolId: string;
  /** LSN of the first record that is there; after it, the log has no holes. */
  readonly firstLsn: number;
  /** LSN behind the last record that could be read; where that is, and its time. */
  readonly lsn: number;
  readonly timeMicros: number;
  readonly segment: number;
  readonly offset: number;
  /** When the log was closed, if it ends there; else what was written after its end, if anything, is not here. */
  readonly closedMicros: number | undefined;
  /** The chain of the log is whole up to its end; else it must have gone on. */
  readonly isLogWhole: boolean;
  readonly volumes: number;
  /** Blocks that hold something, compared with the log; of the checkpoint that has most of them. */
  readonly blocksCompared: number;
  readonly checkpoints: number;
  /** Undefined where the log is broken: then nobody knows what all references are. */
  readonly counted: ReferenceCount | undefined;
  /** "clean"; "broken", which is a finding; or why a crash left a torn tail, which is none. */
  readonly tail: string;
  readonly findings: readonly CheckFinding[];
}

export interface CheckOptions {
  readonly root: Directory;
  readonly log: Directory;
  readonly zstd: Zstd;
  /** For a pool whose pool.json is lost: who it is by its segments, and the finding. */
  readonly found?: { readonly poolId: Uint8Array; readonly problem: StorageError } | undefined;
  /**
   * 64 MiB or more. Besides, plain maps take 8 bytes per mapped block, and per block changed since a checkpoint; 10 bytes
   * per frame, and some 50 more if it was moved.
   */
  readonly memoryBytes: number;
  readonly onProgress?: (done: { readonly segment: number }) => void;
}

/** Enough of a slot to see whether it was ever written. */
const SLOT_BYTES_READ = 4096;
const OPEN_FILES_MAX = 64;

export async function checkPool(options: CheckOptions): Promise<CheckReport> {
  const { found, root } = options;
  const poolId = found?.poolId ?? poolIdBytes(await readIdentity(root));
  const check = new PoolCheck(options, poolId);
  try {
    return { poolId: Buffer.from(poolId).toString("hex"), ...(await check.run()) };
  } finally {
    await check.close();
  }
}

class PoolCheck {
  readonly #options: CheckOptions;
  readonly #memory: BlockMemory;
  readonly #runs: FileStore;
  readonly #segments: FileStore;
  readonly #look: SharedLook;
  readonly #source: CheckpointSource;
  readonly #findings: CheckFindings = new CheckFindings();
  readonly #frames: StoredFrames = new StoredFrames();
  /** Segments whose frames are there. */
  #present: ReadonlySet<number> = new Set();
  #plain = new PlainState();
  /** A segment has a hole where it should have none. */
  #isBroken = false;

  constructor(options: CheckOptions, poolId: Uint8Array) {
    const { log: directory, memoryBytes, zstd } = options;
    this.#options = options;
    this.#memory = new BlockMemory(shapeOf(memoryBytes));
    this.#runs = new FileStore(directory, runName, OPEN_FILES_MAX);
    this.#segments = new FileStore(directory, segmentName, OPEN_FILES_MAX);
    this.#look = new SharedLook({ memory: this.#memory, segments: this.#segments }, zstd);
    this.#source = { memory: this.#memory, directory, poolId, runs: this.#runs };
  }

  async run(): Promise<Omit<CheckReport, "poolId">> {
    const { found, log } = this.#options;
    if (found !== undefined) this.#findings.addError(found.problem);
    this.#present = new Set((await log.list()).map(segmentNumberOf).filter((each) => each > 0));
    const begin = await readLogBegin(this.#source);
    const checkpoints = await this.#readCheckpoints();
    const reach = await this.#readLog(begin, checkpoints);
    const isAtCheckpoint = (checkpoints[0]?.body.cut.nextLsn ?? 0) === reach.nextLsn;
    const isClosed = isAtCheckpoint && reach.markedMicros !== undefined;
    await this.#scanSegments(begin, reach, isClosed);
    const blocksCompared = await this.#compareCheckpoints(checkpoints, reach);
    const counted =
      reach.damage === undefined ? await this.#checkHistory(begin, checkpoints[0]) : undefined;
    const isLogWhole = reach.damage === undefined && !this.#isBroken;
    return {
      firstLsn: (begin.lateStart ?? LOG_BEGIN).nextLsn,
      lsn: reach.nextLsn,
      timeMicros: reach.timeMicros,
      segment: reach.segmentNumber,
      offset: reach.offset,
      closedMicros: isClosed && isLogWhole ? reach.markedMicros : undefined,
      isLogWhole,
      volumes: this.#plain.volumes.size,
      blocksCompared,
      checkpoints: checkpoints.length,
      counted,
      tail: isLogWhole ? (reach.tornReason ?? "clean") : "broken",
      findings: this.#findings.list,
    };
  }

  async close(): Promise<void> {
    await this.#segments.closeAll();
    await this.#runs.closeAll();
  }

  /** The checkpoints whose bodies can be read, newest first; and all of their runs are looked at. */
  async #readCheckpoints(): Promise<readonly LoadedCheckpoint[]> {
    let checkpoints: readonly LoadedCheckpoint[] = [];
    await this.#findings.guard(async () => {
      await this.#checkSlots();
      const found = await readCheckpoints(this.#source);
      checkpoints = found.checkpoints;
      for (const problem of found.problems) this.#findings.add("POOL_CORRUPT", problem, {});
    });
    for (const run of neededRuns(checkpoints))
      await this.#findings.guard(() =>
        scanRun(this.#source, run, (problem) =>
          this.#findings.add("POOL_CORRUPT", problem, { run: run.number }),
        ),
      );
    return checkpoints;
  }

  /** A slot that is there must be whole: one that was never written is empty. */
  async #checkSlots(): Promise<void> {
    const { directory, memory, poolId } = this.#source;
    const names = await directory.list();
    const slots = await readSlots(memory, directory, poolId);
    for (const [parity, name] of SLOT_NAMES.entries()) {
      if (!names.includes(name) || slots.some(({ sequence }) => sequence % 2 === parity)) continue;
      const file = await directory.open(name, "read");
      const bytes = new Uint8Array(Math.min(SLOT_BYTES_READ, await file.sizeBytes()));
      await file.read(bytes, 0);
      await file.close();
      if (bytes.some((byte) => byte !== 0))
        this.#findings.add("POOL_CORRUPT", `index: ${name}: it is damaged`, { slot: name });
    }
  }

  /** Reads the log into the plain state, as far as it goes; a break is a finding. */
  async #readLog(begin: LogBegin, checkpoints: readonly LoadedCheckpoint[]): Promise<LogReach> {
    const { start, base } =
      begin.lateStart === undefined
        ? { start: LOG_BEGIN, base: undefined }
        : await this.#baseOf(begin.lateStart, checkpoints);
    const points = await readBranchPoints({ ...this.#source, start });
    if (base === undefined) this.#plain.expectBranches(points, start.nextLsn);
    else await base.expectBranches(points);
    const reach = await readLogReach({
      ...this.#source,
      start,
      onRecord: (cursor) => this.#plain.apply(this.#memory, cursor),
    });
    if (reach.damage !== undefined) this.#findings.addError(reach.damage);
    return reach;
  }

  /** The oldest checkpoint that is whole, or of which least is lost, becomes the plain state; where its records go on. */
  async #baseOf(
    lateStart: ReplayStart,
    checkpoints: readonly LoadedCheckpoint[],
  ): Promise<{ readonly start: ReplayStart; readonly base: CheckpointState | undefined }> {
    let start = lateStart;
    let base: CheckpointState | undefined;
    for (const checkpoint of [...checkpoints].reverse()) {
      if (base?.lostNodes === 0) break;
      const read = await readCheckpointState(this.#source, checkpoint);
      if (read === undefined || read.lostNodes >= (base?.lostNodes ?? Number.POSITIVE_INFINITY))
        continue;
      base = read;
      this.#plain = read.state;
      start = checkpoint.body.cut;
    }
    if (base === undefined) this.#findings.addError(beginsLate(lateStart));
    return { start, base };
  }

  /** Headers and footers of all segments, and their batches and frames. */
  async #scanSegments({ known }: LogBegin, reach: LogReach, isClosed: boolean): Promise<void> {
    // What lies behind the end of a log that is whole was never part of it.
    const numbers = known.numbers.filter(
      (number) => reach.damage !== undefined || number <= reach.segmentNumber,
    );
    const newest = known.incarnation;
    const lastLife = numbers.find((number) => known.header(number)?.incarnation === newest) ?? 0;
    const ends = new Map<number, SegmentEnds>();
    for (const number of numbers)
      await this.#findings.guard(async () => {
        const found = await checkSegmentEnds(this.#source, number);
        ends.set(number, found);
        const prefix = found.isRecords ? "its records: " : "";
        const { problems, footerProblem, isRecords } = found;
        // What the last life left may have been torn by a crash; the next opening cuts it off.
        const isOwed = isRecords || isClosed || number < lastLife;
        const all = footerProblem !== undefined && isOwed ? [...problems, footerProblem] : problems;
        for (const problem of all)
          this.#findings.addError(segmentCorrupt(number, `${prefix}${problem}`));
      });
    for (const number of numbers) {
      this.#options.onProgress?.({ segment: number });
      const found = ends.get(number);
      if (found !== undefined)
        await this.#findings.guard(() =>
          this.#scanSegment(number, found, { successor: successorOf(number, ends), reach }),
        );
    }
  }

  async #scanSegment(
    number: number,
    { header, end, isRecords }: SegmentEnds,
    { successor, reach }: { successor: SegmentHeader | undefined; reach: LogReach },
  ): Promise<void> {
    const isLast = number === reach.segmentNumber && reach.damage === undefined;
    // In front of a hole, a footer may repeat what a crash tore: nobody is left who says where the batches end.
    const isBeforeHole = successor === undefined && !isLast && reach.damage === undefined;
    const knownEnd = isLast ? reach.offset : (successor?.previousEnd ?? end);
    if (!isRecords) this.#frames.beginSegment(number);
    await scanBatches(this.#source, number, {
      from: SEGMENT_HEADER_BYTES,
      end: isBeforeHole ? undefined : knownEnd,
      header,
      chainAtEnd: successor?.chain,
      onProblem: (problem, offset) => {
        this.#isBroken = true;
        const prefix = isRecords ? "its records: " : "";
        this.#findings.addError(segmentCorrupt(number, `${prefix}${problem}`, { offset }));
      },
      onDamagedFrame: (frame) => {
        this.#frames.noteDamaged(frame);
        this.#findFrame(frame);
      },
      ...(isRecords ? {} : this.#noting(number)),
    });
    if (!isRecords) this.#frames.endSegment();
  }

  /** What is noted of a segment's frames as its batches are told. */
  #noting(number: number): Pick<BatchScan, "onBatch" | "onRecord" | "afterBatch"> {
    const onProblem = (offset: number, problem: string): void => {
      const message = `log: segment ${segmentName(number)}, frame at ${offset}: ${problem}`;
      this.#findings.add("FRAME_CORRUPT", message, { segment: number, offset });
    };
    return {
      onBatch: (offset, header) => this.#frames.beginBatch(offset, header),
      onRecord: (cursor) => {
        this.#frames.note(this.#memory, number, cursor);
        const { kind, isShared, placeSegment } = cursor;
        if (kind === RECORD_KIND.RELOCATED && isShared && placeSegment === number)
          this.#look.note(cursor);
      },
      afterBatch: () => (this.#look.hasWork ? this.#look.look(onProblem) : undefined),
    };
  }

  async #compareCheckpoints(
    checkpoints: readonly LoadedCheckpoint[],
    reach: LogReach,
  ): Promise<number> {
    let blocksCompared = 0;
    for (const checkpoint of checkpoints)
      await this.#findings.guard(async () => {
        const compared = await compareCheckpoint({
          source: this.#source,
          checkpoint,
          plain: this.#plain,
          reach,
          isThere: (segment) => this.#present.has(segment),
          findings: this.#findings,
        });
        blocksCompared = Math.max(blocksCompared, compared);
      });
    return blocksCompared;
  }

  /** Undefined: what is promised can't be told. */
  async #checkHistory(
    begin: LogBegin,
    newest: LoadedCheckpoint | undefined,
  ): Promise<ReferenceCount | undefined> {
    let counted: ReferenceCount | undefined;
    await this.#findings.guard(async () => {
      const options = { source: this.#source, findings: this.#findings, begin, newest };
      const history = await HistoryCheck.open(options);
      await history.compareBases();
      await history.compareLists();
      counted = await this.#countReferences(history);
    });
    return counted;
  }

  /** Follows every reference to its frame: of all volumes, and of the history that is promised. */
  async #countReferences(history: HistoryCheck): Promise<ReferenceCount> {
    const references = new ReferenceCheck({
      memory: this.#memory,
      segments: this.#segments,
      frames: this.#frames,
      moves: this.#plain.moves,
      isPresent: (segment) => this.#present.has(segment),
      findings: this.#findings,
    });
    for (const volume of this.#plain.volumes.values()) {
      // What removed ones held is let go with the promise. Of what can't be told there is a finding already.
      const map = this.#plain.branches.get(volume.branch);
      if (map === undefined || (volume.isRemoved && !history.isRemovedKept(volume.id))) continue;
      references.followVolume(map, (lba) => `volume "${volume.name}", block ${lba}`);
    }
    await this.#findings.guard(() => history.follow(references));
    const danglingReferences = await references.findDangling();
    const { followedCount, damagedCount: damagedReferences } = references;
    return {
      ...{ references: followedCount, damagedReferences, danglingReferences },
      ...this.#frames.counts,
    };
  }

  #findFrame(frame: DamagedFrame): void {
    const volumes = [...this.#plain.volumes.values()];
    const { code, message, data } = findingOfFrame(
      frame,
      (branch) => volumes.find((volume) => volume.branch === branch)?.name,
    );
    this.#findings.add(code, message, data);
  }
}

/** The header of the segment that continues this one; of several the newest: others are of lives that were given up. */
function successorOf(
  number: number,
  ends: ReadonlyMap<number, SegmentEnds>,
): SegmentHeader | undefined {
  return [...ends.values()].findLast(({ header }) => header?.previousNumber === number)?.header;
}
