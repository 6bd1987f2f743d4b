// SPDX-License-Identifier: Apache-2.0
//
// What an earlier opening left, made into a pool's content: identity → newest whole checkpoint → replay of the log
// behind it → where the log goes on. Long replays take checkpoints on their way, so that any log can be opened with
// any budget. Nothing is written to the log here; runs that a crash left behind are removed once it goes on.

import { hasCode, StorageError } from "../base/errors.ts";
import { rebuildRelocations } from "../gc/relocation-repair.ts";
import { readActivity } from "../index/activity-nodes.ts";
import {
  type CheckpointSource,
  type LoadedCheckpoint,
  neededRuns,
  readCheckpoints,
} from "../index/checkpoint-loader.ts";
import { Checkpointer, type CheckpointLog } from "../index/checkpointer.ts";
import { type CheckpointState, checkpointStateOf } from "../index/kept-checkpoints.ts";
import { LeafRepair } from "../index/leaf-repair.ts";
import { ListRepair } from "../index/list-repair.ts";
import { Past } from "../index/past.ts";
import type { StoredTable } from "../index/relocation-node.ts";
import { runNumberOf } from "../index/run-file.ts";
import { BATCH_HEADER_BYTES } from "../log/batch.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogPosition } from "../log/log-writer.ts";
import { RECORD_KIND } from "../log/record.ts";
import { cutTails } from "../log/recovered-tail.ts";
import { type RecoveryResult, recoverLog } from "../log/recovery.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { recordsName, segmentName, segmentNumberOf } from "../log/segment.ts";
import { SegmentReader } from "../log/segment-reader.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { stateOfCatalog } from "./checkpoint-state.ts";
import type { Damage } from "./damage.ts";
import { HistoryKeeper } from "./history-keeper.ts";
import { promisesFrom } from "./history-promise.ts";
import { type PoolIdentity, poolIdBytes } from "./identity.ts";
import type { PoolContent } from "./pool-content.ts";
import type { PoolEvent, PoolHost } from "./types.ts";

export interface PoolOpeningOptions {
  readonly host: PoolHost;
  readonly memory: BlockMemory;
  readonly identity: PoolIdentity;
  /** Empty; filled here. */
  readonly content: PoolContent;
  readonly runs: FileStore;
  readonly tell: (
    level: PoolEvent["level"],
    event: string,
    fields: Readonly<Record<string, unknown>>,
  ) => void;
  readonly damage: Damage;
  /** Checkpoints that history goes on from stand no nearer to each other, in records. */
  readonly baseDistance: number;
  /** Damaged pages of the index were rebuilt, now or later: a checkpoint should write them. */
  readonly onRebuilt: () => void;
}

/** Bytes and number of the sealed segments. Checkpoints keep those of all before their cut's. */
export class SealedSegments {
  bytes = 0;
  count = 0;

  add(sizeBytes: number): void {
    this.bytes += sizeBytes;
    this.count += 1;
  }

  /** One was dropped; what is kept of it counts on. */
  remove(freedBytes: number, isSegment = true): void {
    this.bytes -= freedBytes;
    if (isSegment) this.count -= 1;
  }
}

export class PoolOpening {
  readonly sealed: SealedSegments = new SealedSegments();
  readonly #options: PoolOpeningOptions;
  readonly #source: CheckpointSource;
  #isNew = false;
  #checkpoints: readonly LoadedCheckpoint[] = [];
  #newest: LoadedCheckpoint | undefined;
  // Set by begin().
  #checkpointer!: Checkpointer;
  history!: HistoryKeeper;
  past!: Past;
  /** The sealed segments below this one are counted. */
  #countedBelow = 0;
  /** What the replay found; undefined for a new pool. */
  recovery: RecoveryResult | undefined;

  constructor(options: PoolOpeningOptions) {
    const { host, memory, runs, identity } = options;
    this.#options = options;
    this.#source = { memory, directory: host.log, runs, poolId: poolIdBytes(identity) };
  }

  /** Begins from the newest checkpoint that can be read whole, or from the log's beginning. */
  async begin(): Promise<Checkpointer> {
    const { host, identity, tell, content } = this.#options;
    // The rename that said "begun" may have been lost with the power after a kill: make it durable now.
    await host.root.sync();
    this.#isNew = identity.log === "new" && !(await this.#hasBegun());
    if (this.#isNew) await this.#removeAll();
    const { checkpoints, problems } = await readCheckpoints(this.#source);
    this.#checkpoints = checkpoints;
    const newest = await this.#loadNewest(problems);
    this.#newest = newest;
    for (const problem of problems) tell("error", "pool.checkpoint-damaged", { problem });
    // One that was passed over is no state to go on from: its slot is the next to be written.
    const usable = newest === undefined ? [] : checkpoints.slice(checkpoints.indexOf(newest));
    this.history = new HistoryKeeper(
      {
        clock: host.clock,
        catalog: () => content.catalog,
        baseDistance: this.#options.baseDistance,
      },
      promisesFrom(newest?.body.promise ?? {}),
    );
    content.onRetention = (lsn) => this.history.retentionSet(lsn);
    this.#checkpointer = this.#makeCheckpointer(checkpointStateOf(usable, await host.log.list()));
    const state = () => this.#checkpointer.state;
    const listRepair = this.#makeListRepair();
    this.past = new Past({ ...this.#source, index: content.index, state, listRepair });
    content.index.past = this.past;
    content.index.repair = this.#makeRepair();
    content.index.relocations.repair = {
      entriesOf: (homeSegment, stored, cause) =>
        this.#rebuildRelocations(homeSegment, stored, cause),
      onRebuilt: this.#options.onRebuilt,
    };
    return this.#checkpointer;
  }

  /** Replays the log from there; long replays take checkpoints on their way. Says where the log goes on. */
  async replay(): Promise<LogPosition> {
    if (this.#isNew) return { ...LOG_BEGIN, previousNumber: 0, previousEnd: 0, incarnation: 1 };
    const { content, tell, damage } = this.#options;
    const { ring } = content.index;
    this.#countedBelow = this.#start.segmentNumber;
    const dropped: Readonly<Record<string, unknown>>[] = [];
    const result = await recoverLog({
      ...this.#source,
      start: this.#start,
      onRecord: (cursor) => {
        content.replay(cursor);
        if (cursor.kind === RECORD_KIND.SEGMENT_DROPPED) dropped.push(cursor.json ?? {});
      },
      onBatch: (segment, offset, { frameBytes }) => {
        const framesAt8 = (offset + BATCH_HEADER_BYTES) / 8;
        content.activity.timeline.batchBegan(segment, framesAt8, framesAt8 + frameBytes / 8);
      },
      onDamagedFrame: (frame) => damage.frameDamaged(frame),
      onStanding: (at, makeDurable) => {
        if (ring.room > ring.capacity / 2) return undefined;
        this.#checkpointer.log = standingAt(at, makeDurable);
        return this.#countSegments(at.segmentNumber).then(() => this.#checkpointer.take());
      },
    });
    this.recovery = result;
    await this.#countSegments(result.position.segmentNumber);
    await this.#finishDrops(dropped);
    if (result.tornReason !== undefined || result.leftovers.length > 0) {
      tell("info", "pool.recovered", {
        lsn: result.position.nextLsn,
        records: result.replayedRecords,
        tail: result.tornReason ?? "clean",
        leftovers: result.leftovers,
      });
    }
    return result.position;
  }

  /** Runs that a crash left behind: no slot names them. */
  async removeStrayRuns(): Promise<void> {
    // Without a checkpoint nothing says which they are; and a replay may have written runs of its own.
    if (this.#newest === undefined || this.#checkpointer.checkpointCount > 0) return;
    const { directory } = this.#source;
    const kept = new Set(neededRuns(this.#checkpoints).map((run) => run.number));
    for (const name of await directory.list()) {
      const number = runNumberOf(name);
      if (number < 0 || kept.has(number)) continue;
      await this.#options.runs.forget(number);
      await directory.remove(name);
    }
  }

  /** Segments that were dropped behind the checkpoint: what it counted, less what they took; their files may be left. */
  async #finishDrops(dropped: readonly Readonly<Record<string, unknown>>[]): Promise<void> {
    if (dropped.length === 0) return;
    const { directory } = this.#source;
    const names = new Set(await directory.list());
    for (const { segment, freedBytes, isRecords } of dropped) {
      const isSegment = isRecords !== true;
      if (typeof freedBytes === "number") this.sealed.remove(freedBytes, isSegment);
      const name = (isSegment ? segmentName : recordsName)(segment as number);
      // One whose file was left by an earlier crash was dropped once more.
      if (names.delete(name)) await directory.remove(name);
    }
  }

  /** What a crash left behind accepted batches: the log goes on elsewhere now. */
  cutTails(): Promise<void> {
    return cutTails(this.#source.directory, this.recovery?.tails ?? []);
  }

  /** The segments that are there now. */
  async segmentNumbers(): Promise<number[]> {
    const names = await this.#source.directory.list();
    return names.map(segmentNumberOf).filter((number) => number > 0);
  }

  get #start(): ReplayStart {
    return this.#newest?.body.cut ?? LOG_BEGIN;
  }

  /** Whether the first segment is there with its header: from then on records may have been acknowledged. */
  async #hasBegun(): Promise<boolean> {
    const { segmentNumber } = LOG_BEGIN;
    const { memory, directory, poolId } = this.#source;
    if (!(await directory.list()).includes(segmentName(segmentNumber))) return false;
    const reader = await SegmentReader.open(memory, directory, segmentNumber, poolId);
    const header = await reader.header();
    await reader.close();
    return typeof header === "object";
  }

  /** A pool whose making was interrupted: nobody was told that it exists, so nothing in it counts. */
  async #removeAll(): Promise<void> {
    const { directory } = this.#source;
    for (const name of await directory.list()) {
      if (segmentNumberOf(name) >= 0 || runNumberOf(name) >= 0) await directory.remove(name);
    }
  }

  async #loadNewest(problems: string[]): Promise<LoadedCheckpoint | undefined> {
    for (const checkpoint of this.#checkpoints) {
      try {
        await this.#options.content.load(this.#source, checkpoint.body);
      } catch (error) {
        if (!hasCode(error, "POOL_CORRUPT")) throw error;
        problems.push(error.message);
        continue;
      }
      await this.#restoreActivity(checkpoint);
      const { segmentBytes, segmentCount } = checkpoint.body.catalog;
      this.sealed.bytes = typeof segmentBytes === "number" ? segmentBytes : 0;
      this.sealed.count = typeof segmentCount === "number" ? segmentCount : 0;
      return checkpoint;
    }
    return undefined;
  }

  /** What happened when is worth having, but no reason not to open. */
  async #restoreActivity({ slot, body }: LoadedCheckpoint): Promise<void> {
    const { content, tell } = this.#options;
    const { activity } = body;
    let problem = "impossible content";
    let bytes: Uint8Array = new Uint8Array(0);
    try {
      if (activity !== undefined) bytes = await readActivity(this.#source, slot.run, activity);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      problem = error.message;
    }
    if (content.restoreActivity(bytes) || activity === undefined) return;
    tell("warn", "history.activity-lost", { problem });
  }

  /** Counts the segments below `end` that aren't counted yet: a checkpoint says what all before its cut's take. */
  async #countSegments(end: number): Promise<void> {
    const { directory } = this.#source;
    for (const name of await directory.list()) {
      const number = segmentNumberOf(name);
      if (number < this.#countedBelow || number >= end) continue;
      const file = await directory.open(name, "read");
      this.sealed.add(await file.sizeBytes());
      await file.close();
    }
    this.#countedBelow = end;
  }

  #makeCheckpointer(state: CheckpointState): Checkpointer {
    const { host, content, runs } = this.#options;
    const start = this.#start;
    return new Checkpointer(
      {
        ...this.#source,
        index: content.index,
        log: standingAt(start, () => Promise.resolve()),
        runs,
        clock: host.clock,
        history: this.history,
        snapshotCatalog: () => ({
          ...content.catalog.toJson(),
          segmentBytes: this.sealed.bytes,
          segmentCount: this.sealed.count,
        }),
        cutActivity: () => content.activity.timeline.cut(),
        isLeft: (branch) => !content.catalog.isCurrent(branch),
        forgetRun: (run) => runs.forget(run),
      },
      state,
      start.nextLsn,
    );
  }

  /** So do lists of moved frames. */
  async #rebuildRelocations(
    homeSegment: number,
    stored: StoredTable,
    cause: StorageError,
  ): Promise<Uint32Array> {
    const { damage } = this.#options;
    damage.relocationsDamaged(homeSegment, cause);
    const entries = await rebuildRelocations(this.#source, homeSegment, stored, cause);
    damage.relocationsRebuilt(homeSegment);
    return entries;
  }

  #makeListRepair(): ListRepair {
    const { host, damage } = this.#options;
    return new ListRepair({
      log: this.#source,
      clock: host.clock,
      state: () => this.#checkpointer.state,
      volumesOf: (body) => stateOfCatalog(body).volumes,
      onDamaged: (list, branch, cause) => damage.listDamaged(list.run, branch, cause),
      onRebuilt: (list, branch) => damage.listRebuilt(list.run, branch),
    });
  }

  /** Damaged pages of the index come back from history or the log, and into a new run soon. */
  #makeRepair(): LeafRepair {
    const { host, content, damage, onRebuilt } = this.#options;
    return new LeafRepair({
      log: this.#source,
      clock: host.clock,
      index: content.index,
      past: this.past,
      state: () => this.#checkpointer.state,
      pinHistory: () => this.#checkpointer.pinHistory(),
      stateOf: stateOfCatalog,
      onDamaged: (leaf, cause) => damage.pageDamaged(leaf, cause),
      onRebuilt: (pageCount) => damage.pagesRebuilt(pageCount),
      onToWrite: onRebuilt,
    });
  }
}

/** A log that stands still between two batches of a replay, for the checkpoint taken there; `durable` sees to all before it. */
function standingAt(at: ReplayStart, durable: () => Promise<void>): CheckpointLog {
  return { cut: () => at, durableBatches: durable, wholeSegments: () => Promise.resolve() };
}
