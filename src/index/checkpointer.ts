// SPDX-License-Identifier: Apache-2.0
//
// Takes checkpoints: merges the changes up to a cut into page images, in the background, a few pages at a
// time, and moves the start of recovery to the cut. Under uniform random writes a checkpoint rewrites the
// pages that changed; one per million changes keeps that below a tenth of what the blocks themselves take.
//
// Order (docs/format/ordering.md): everything below the cut durable → run written and durable → its name
// durable → slot written and durable → published in memory → runs that neither slot needs are removed. A crash
// between any two steps leaves a valid slot whose runs all exist.
//
// While it runs, writes go on: images are built as of the cut, later changes stay in the ring, and what a trim drops
// meanwhile is still known (range-drops.ts). So a checkpoint is exactly the state at its cut, and history can go on
// from it: beside it a list says what changed since the one before (change-list.ts).

import { assert } from "../base/assert.ts";
import type { Clock, Directory } from "../host/ports.ts";
import type { ReplayStart } from "../log/replay-start.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { writeActivity } from "./activity-nodes.ts";
import type { BlockIndex } from "./block-index.ts";
import { type ChangeListFile, encodeRoots } from "./change-list.ts";
import { writeChangeLists } from "./change-list-writer.ts";
import {
  type CheckpointSlot,
  type ChunkRoot,
  encodeBody,
  type RelocationRoot,
  writeSlot,
} from "./checkpoint-body.ts";
import {
  type CheckpointState,
  type ChosenHistory,
  type HistoryPolicy,
  runsAfter,
} from "./kept-checkpoints.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  type ChunkLocation,
  CONSTANT,
  INHERITED,
  isImage,
  isShared,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
} from "./page-directory.ts";
import type { RelocationCut } from "./relocation-index.ts";
import type { StoredTable } from "./relocation-node.ts";
import { runsOfTable, writeRelocations } from "./relocation-writer.ts";
import {
  decodeLeaf,
  encodeDirectory,
  encodeLeaf,
  LEAF_BYTES_MAX,
  NODE_KIND,
  nodeCorrupt,
  type RunStore,
  runName,
} from "./run-file.ts";
import { RunReadAhead } from "./run-read-ahead.ts";
import { RunWriter } from "./run-writer.ts";

/** What a checkpoint asks of the log: the writer, or a replay that stands between two batches. */
export interface CheckpointLog {
  /** Where the log stands: nothing is open behind it. */
  cut(): ReplayStart;
  /** Every batch closed so far is on stable storage, also those without records. */
  durableBatches(): Promise<void>;
  /** The segments below are on stable storage with their footers: no recovery will look at them again. */
  wholeSegments(below: number): Promise<void>;
}

export interface CheckpointerOptions {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly log: CheckpointLog;
  readonly directory: Directory;
  readonly runs: RunStore;
  readonly clock: Clock;
  readonly poolId: Uint8Array;
  /** Which earlier checkpoints history needs; without it, none. */
  readonly history?: HistoryPolicy;
  /** The pool's catalog at this instant; called in the same turn as the cut. */
  readonly snapshotCatalog: () => Readonly<Record<string, unknown>>;
  /** What happened when, up to this instant, to be kept; likewise. */
  readonly cutActivity?: () => Uint8Array;
  /** Whether nobody will change the branch again, and all its moments lie before this one. */
  readonly isLeft?: (branch: number) => boolean;
  /** A run's file is about to be removed: close it. */
  readonly forgetRun: (run: number) => Promise<void>;
}

/** Pages, or nodes of moved frames, between two turns of the event loop. */
const SLICE_PAGES = 48;
/** A run with less than this share of its nodes in use has them rewritten. */
const SPARSE_RUN_SHARE = 0.5;
const COMPACT_PAGES_MIN = 4096;

/** A page that is in the new run. */
interface WrittenPage {
  readonly directory: PageDirectory;
  readonly page: number;
  readonly offset8: number;
}

interface Work {
  readonly cut: ReplayStart;
  readonly cutSequence: number;
  readonly catalog: Readonly<Record<string, unknown>>;
  readonly activity: Uint8Array | undefined;
  readonly changed: Map<PageDirectory, Set<number>>;
  /** Branches that only older checkpoints know from here on. */
  readonly left: ReadonlySet<PageDirectory>;
  readonly relocations: RelocationCut;
  readonly writer: RunWriter;
  /** Reads old images, ahead. */
  readonly runs: RunStore;
  readonly victims: ReadonlySet<number>;
  /** Nodes in use per run. */
  readonly live: Map<number, number>;
  readonly pages: WrittenPage[];
  readonly locations: Map<PageDirectory, Map<number, ChunkLocation | undefined>>;
  /** Tables of moved frames that are in the new run, or gone. */
  tables: ReadonlyMap<number, StoredTable>;
  sliceLeft: number;
}

/** A page as of the cut: its place in the run that has it, and its changes. */
interface PageAtCut {
  readonly directory: PageDirectory;
  readonly page: number;
  readonly run: number;
  readonly offset8: number;
  readonly head: number;
}

export class Checkpointer {
  readonly #options: CheckpointerOptions;
  readonly #state: CheckpointState;
  /** The log may be replaced once: by the writer, after a replay. */
  log: CheckpointLog;
  #running: Promise<void> | undefined;
  #isSlotBegun = false;
  #pinCount = 0;
  #choice: Promise<void> | undefined;
  checkpointCount = 0;
  indexBytes = 0;
  /** LSN of the newest checkpoint's cut. */
  cutLsn: number;

  constructor(options: CheckpointerOptions, state: CheckpointState, cutLsn: number) {
    this.#options = options;
    this.log = options.log;
    this.#state = state;
    this.cutLsn = cutLsn;
  }

  /** What is on disk: the newest checkpoint, and what history has besides. */
  get state(): Readonly<CheckpointState> {
    return this.#state;
  }

  /** No recovery begins in a segment below this one, whichever checkpoint it begins from. */
  get oldestCutSegment(): number {
    return Math.min(...this.#state.cutSegments);
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** Bytes of all runs and lists. */
  get storedBytes(): number {
    const { runs, lists } = this.#state;
    return [...runs, ...lists].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  }

  /** Takes a checkpoint; joins one that is under way. Throws DISK_FULL, DISK_IO: the old one stays valid. */
  take(): Promise<void> {
    // Begun in a turn of its own: cutting writes a batch, and who is told of it may ask for a checkpoint.
    this.#running ??= Promise.resolve()
      .then(() => this.#take())
      .finally(() => {
        this.#running = undefined;
      });
    return this.#running;
  }

  /**
   * While what history goes on needing is chosen and not yet written down: a claim on a moment that is made meanwhile would
   * come too late. Never rejects.
   */
  get choice(): Promise<void> | undefined {
    return this.#choice;
  }

  /** Until the returned function is called no checkpoint lets go of a base or a list: somebody reads one. */
  async pinHistory(): Promise<() => void> {
    while (this.#choice !== undefined) await this.#choice;
    this.#pinCount += 1;
    return () => {
      this.#pinCount -= 1;
    };
  }

  async #take(): Promise<void> {
    const { index } = this.#options;
    const log = this.log;
    // One turn: the cut. Nothing may await from here…
    const cut = log.cut();
    const catalog = this.#options.snapshotCatalog();
    const activity = this.#options.cutActivity?.();
    const cutSequence = index.ring.next;
    const changed = new Map<PageDirectory, Set<number>>();
    const left = new Set<PageDirectory>();
    for (const directory of index.branches.values()) {
      changed.set(directory, directory.changed);
      directory.changed = new Set();
      if (this.#options.isLeft?.(directory.branch) === true) left.add(directory);
    }
    index.isCheckpointing = true;
    const relocations = index.relocations.beginCheckpoint();
    const rebuilt = index.repair?.rebuilt() ?? [];
    const live = this.#countLive(left);
    const isListed =
      cut.nextLsn > this.cutLsn &&
      this.#options.history?.needsList(this.cutLsn, cut.nextLsn) === true;
    this.#isSlotBegun = false;
    // … to here.
    let writer: RunWriter | undefined;
    let list: ChangeListFile | undefined;
    try {
      await log.durableBatches();
      writer = await this.#createRun(cut);
      if (isListed) list = await this.#writeChanges({ cut, cutSequence, changed });
      const work: Work = {
        cut,
        cutSequence,
        catalog,
        activity,
        changed,
        left,
        relocations,
        writer,
        runs: new RunReadAhead(this.#options.runs),
        live,
        victims: this.#chooseVictims(live, changed),
        pages: [],
        locations: new Map(),
        tables: new Map(),
        sliceLeft: SLICE_PAGES,
      };
      work.tables = await this.#writeRelocations(work);
      for (const directory of [...changed.keys()])
        if (!left.has(directory)) await this.#writeBranch(work, directory);
      await log.wholeSegments(cut.segmentNumber);
      await this.#whileChoosing(() => this.#commit(work, list));
      index.repair?.forget(rebuilt);
    } catch (error) {
      for (const [directory, chunks] of changed)
        for (const chunk of chunks) directory.changed.add(chunk);
      index.relocations.abandon();
      if (writer !== undefined) await this.#abandon(writer, list);
      throw error;
    } finally {
      index.isCheckpointing = false;
    }
  }

  async #whileChoosing(work: () => Promise<void>): Promise<void> {
    const choice = Promise.withResolvers<void>();
    this.#choice = choice.promise;
    try {
      await work();
    } finally {
      this.#choice = undefined;
      choice.resolve();
    }
  }

  #createRun(cut: ReplayStart): Promise<RunWriter> {
    const number = this.#state.lastRun + 1;
    this.#state.lastRun = number;
    const { memory, directory, poolId } = this.#options;
    const { nextLsn, incarnation } = cut;
    return RunWriter.create({ memory, directory, number, poolId, nextLsn, incarnation });
  }

  /** After a failed slot write run and list stay: the slot may name them. */
  async #abandon(writer: RunWriter, list?: ChangeListFile): Promise<void> {
    try {
      await writer.abandon();
      if (this.#isSlotBegun) return;
      await this.#options.directory.remove(runName(writer.number));
      if (list !== undefined) await this.#removeRun(list.run);
    } catch {
      // The next start removes runs that no slot names; the error that brought us here is the one to tell.
    }
  }

  /** Writes what happened since the last cut. */
  async #writeChanges({
    cut,
    cutSequence,
    changed,
  }: Pick<Work, "cut" | "cutSequence" | "changed">): Promise<ChangeListFile> {
    const fromLsn = this.cutLsn;
    const endLsn = cut.nextLsn;
    const { memory, index } = this.#options;
    const writer = await this.#createRun(cut);
    try {
      const slice = { sliceLeft: SLICE_PAGES };
      const roots = await writeChangeLists({
        ...{ memory, index, writer, changed, fromLsn, endLsn },
        endSequence: cutSequence,
        pause: () => this.#pause(slice),
      });
      const node = { kind: NODE_KIND.CHANGE_LISTS, branch: 0, position: 0 };
      const written = await writer.finish(node, encodeRoots(roots));
      return { run: writer.number, ...written, fromLsn, endLsn };
    } catch (error) {
      await this.#abandon(writer);
      throw error;
    }
  }

  /** Nodes in use per run. */
  #countLive(left: ReadonlySet<PageDirectory>): Map<number, number> {
    const live = new Map<number, number>();
    const count = (run: number): void => {
      if (isImage(run)) live.set(run, (live.get(run) ?? 0) + 1);
    };
    for (const directory of this.#options.index.branches.values()) {
      if (left.has(directory)) continue;
      for (const chunk of directory.chunks) {
        if (chunk === undefined || isShared(chunk)) continue;
        for (let at = WORD_RUN; at < CHUNK_PAGES * CHUNK_WORDS; at += CHUNK_WORDS)
          count(chunk[at] as number);
      }
      for (const location of directory.locations.values()) count(location.run);
    }
    for (const [, table] of this.#options.index.relocations.storedTables())
      for (const run of runsOfTable(table)) count(run);
    return live;
  }

  /** Mostly dead runs whose nodes this checkpoint rewrites, so that their files can go. */
  #chooseVictims(
    live: ReadonlyMap<number, number>,
    changed: ReadonlyMap<PageDirectory, ReadonlySet<number>>,
  ): Set<number> {
    let budget = COMPACT_PAGES_MIN;
    for (const chunks of changed.values()) budget += chunks.size;
    const victims = new Set<number>();
    for (const run of this.#state.runs) {
      const liveNodes = live.get(run.number) ?? 0;
      if (liveNodes === 0 || liveNodes >= run.nodeCount * SPARSE_RUN_SHARE || liveNodes > budget)
        continue;
      victims.add(run.number);
      budget -= liveNodes;
    }
    return victims;
  }

  #writeRelocations(work: Work): Promise<ReadonlyMap<number, StoredTable>> {
    const { memory, index } = this.#options;
    return writeRelocations({
      memory,
      relocations: index.relocations,
      cut: work.relocations,
      runs: work.runs,
      writer: work.writer,
      victims: work.victims,
      onReplaced: (run) => this.#unlive(work, run),
      pause: () => this.#pause(work),
    });
  }

  async #writeBranch(work: Work, directory: PageDirectory): Promise<void> {
    const locations = new Map<number, ChunkLocation | undefined>();
    work.locations.set(directory, locations);
    const chunks = new Set(work.changed.get(directory));
    if (work.victims.size > 0) this.#addVictimChunks(work, directory, chunks);
    for (const chunkIndex of [...chunks].sort((a, b) => a - b)) {
      const chunk = this.#chunkAtCut(work, directory, chunkIndex);
      const old = directory.locations.get(chunkIndex);
      if (old !== undefined) this.#unlive(work, old.run);
      if (chunk === undefined) locations.set(chunkIndex, undefined);
      else if (isShared(chunk))
        locations.set(chunkIndex, { run: CONSTANT, offset8: chunk[WORD_OFFSET] as number });
      else
        locations.set(chunkIndex, await this.#writeChunk(work, { directory, chunkIndex, chunk }));
    }
  }

  #addVictimChunks(work: Work, directory: PageDirectory, chunks: Set<number>): void {
    for (const [chunkIndex, location] of directory.locations)
      if (work.victims.has(location.run)) chunks.add(chunkIndex);
    for (const [chunkIndex, chunk] of directory.chunks.entries()) {
      if (chunk === undefined || isShared(chunk) || chunks.has(chunkIndex)) continue;
      for (let at = WORD_RUN; at < CHUNK_PAGES * CHUNK_WORDS; at += CHUNK_WORDS) {
        if (work.victims.has(chunk[at] as number)) {
          chunks.add(chunkIndex);
          break;
        }
      }
    }
  }

  /**
   * The chunk's entries as they were at the cut, as a copy: where its images are, and heads of chains that may have grown
   * since. Nothing that happens later changes what they mean up to the cut.
   */
  #chunkAtCut(
    { cut }: Work,
    directory: PageDirectory,
    chunkIndex: number,
  ): Uint32Array | undefined {
    const { drops } = this.#options.index;
    const live = directory.chunks[chunkIndex];
    if (drops.firstFrom(cut.nextLsn) === drops.all.length)
      return live === undefined || isShared(live) ? live : live.slice();
    const words = directory.chunkWithout();
    for (let inChunk = 0; inChunk < CHUNK_PAGES; inChunk++) {
      const entry = drops.entryAt(directory, chunkIndex * CHUNK_PAGES + inChunk, cut.nextLsn);
      if (entry.words === undefined) continue;
      const at = inChunk * CHUNK_WORDS;
      words[at + WORD_HEAD] = entry.words[entry.at + WORD_HEAD] as number;
      words[at + WORD_RUN] = entry.words[entry.at + WORD_RUN] as number;
      words[at + WORD_OFFSET] = entry.words[entry.at + WORD_OFFSET] as number;
    }
    return words;
  }

  async #writeChunk(
    work: Work,
    place: { directory: PageDirectory; chunkIndex: number; chunk: Uint32Array },
  ): Promise<ChunkLocation> {
    const { directory, chunkIndex, chunk } = place;
    const { index } = this.#options;
    for (let inChunk = 0; inChunk < CHUNK_PAGES; inChunk++) {
      const entry = inChunk * CHUNK_WORDS;
      const head = chunk[entry + WORD_HEAD] as number;
      const run = chunk[entry + WORD_RUN] as number;
      const offset8 = chunk[entry + WORD_OFFSET] as number;
      const isChanged = head !== 0 && index.ring.hasBefore(head, work.cutSequence);
      const isRebuilt = index.repair?.isRebuilt(run, offset8) === true;
      if (!isChanged && !isRebuilt && !work.victims.has(run)) continue;
      const page = chunkIndex * CHUNK_PAGES + inChunk;
      chunk[entry + WORD_OFFSET] = await this.#writePage(work, {
        ...{ directory, page, run, offset8, head },
      });
      chunk[entry + WORD_RUN] = work.writer.number;
      await this.#pause(work);
    }
    const identity = { kind: NODE_KIND.DIRECTORY, branch: directory.branch, position: chunkIndex };
    const offset8 = await work.writer.add(identity, (target) =>
      encodeDirectory(this.#options.memory, chunk, target),
    );
    return { run: work.writer.number, offset8 };
  }

  /** Requests come between two slices. */
  #pause(work: { sliceLeft: number }): Promise<void> | undefined {
    work.sliceLeft -= 1;
    if (work.sliceLeft > 0) return undefined;
    work.sliceLeft = SLICE_PAGES;
    return new Promise((resolve) => this.#options.clock.afterInput(resolve));
  }

  /** Writes the page's image as of the cut; where it is in the run. */
  async #writePage(work: Work, place: PageAtCut): Promise<number> {
    const { directory, page, run } = place;
    const identity = { kind: NODE_KIND.LEAF, branch: directory.branch, position: page };
    let offset8 = await this.#addPageInMemory(work, place, identity);
    if (offset8 < 0) {
      const { memory } = this.#options;
      const staging = memory.staging.allocate(2 * LEAF_BYTES_MAX + 4096);
      assert(staging >= 0, "staging always has room for one checkpoint");
      try {
        const image = staging + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
        await this.#buildPage(work, place, { leaf: staging, image });
        offset8 = await work.writer.add(identity, (target) => encodeLeaf(memory, image, target));
      } finally {
        memory.staging.release(staging);
      }
    }
    this.#unlive(work, run);
    work.live.set(work.writer.number, (work.live.get(work.writer.number) ?? 0) + 1);
    work.pages.push({ directory, page, offset8 });
    return offset8;
  }

  /** The quick way, for a page that is in memory and has not changed since the cut; else -1. */
  async #addPageInMemory(
    work: Work,
    { directory, page, run, offset8, head }: PageAtCut,
    identity: { kind: number; branch: number; position: number },
  ): Promise<number> {
    const { memory, index } = this.#options;
    const entry = (page % CHUNK_PAGES) * CHUNK_WORDS;
    const chunk = directory.chunks[Math.floor(page / CHUNK_PAGES)];
    const isThere = (): boolean =>
      chunk !== undefined &&
      directory.chunks[Math.floor(page / CHUNK_PAGES)] === chunk &&
      chunk[entry + WORD_SLOT] !== 0 &&
      chunk[entry + WORD_HEAD] === head &&
      chunk[entry + WORD_RUN] === run &&
      chunk[entry + WORD_OFFSET] === offset8 &&
      (head === 0 || index.ring.isBefore(head, work.cutSequence));
    if (!isThere()) return -1;
    let isStill = true;
    const at = await work.writer.add(identity, (target) => {
      // The buffer may have been written meanwhile: then what stands here is left alone, and nobody names it.
      isStill = isThere();
      const slot = isStill ? (chunk?.[entry + WORD_SLOT] as number) - 1 : 0;
      return encodeLeaf(memory, index.slots.addressOf(slot), target);
    });
    return isStill ? at : -1;
  }

  async #buildPage(
    work: Work,
    { directory, page, run, offset8, head }: PageAtCut,
    { leaf, image }: { leaf: number; image: number },
  ): Promise<void> {
    const { memory, index } = this.#options;
    const { branch } = directory;
    if (isImage(run)) {
      await index.readLeaf({ branch, page, run, offset8 }, leaf, work.runs);
      if (!decodeLeaf(memory, leaf, image)) {
        const identity = { kind: NODE_KIND.LEAF, branch, position: page };
        throw nodeCorrupt({ ...identity, run, offset: offset8 * 8 }, "impossible content");
      }
    } else if (run === INHERITED)
      memory.words.set(await index.inheritedPage(directory, page), image >>> 2);
    else index.fillConstant(image, run === CONSTANT ? offset8 : 0);
    index.ring.apply(head, image, work.cutSequence);
  }

  #unlive(work: Work, run: number): void {
    const count = work.live.get(run);
    if (count !== undefined) work.live.set(run, count - 1);
  }

  async #commit(work: Work, list: ChangeListFile | undefined): Promise<void> {
    const { directory, memory, poolId } = this.#options;
    const { activity } = work;
    const activityPlace =
      activity === undefined ? undefined : await writeActivity(memory, work.writer, activity);
    const { newest, runs: oldRuns, lists: oldLists } = this.#state;
    const sequence = (newest?.slot.sequence ?? 0) + 1;
    const nodeCount = work.writer.nodeCount;
    const chosen = this.#chooseHistory(work.cut, list);
    const runs = runsAfter(this.#state, { sequence, bases: chosen.bases }, work.live);
    const body = encodeBody({
      ...(chosen.bases.length === 0 ? {} : { bases: chosen.bases }),
      ...(chosen.lists.length === 0 ? {} : { lists: chosen.lists }),
      promise: chosen.promise,
      ...(activityPlace === undefined ? {} : { activity: activityPlace }),
      sequence,
      cut: work.cut,
      catalog: work.catalog,
      nodeCount,
      runs,
      roots: this.#roots(work),
      relocations: this.#relocationRoots(work),
    });
    const written = await work.writer.finish(
      { kind: NODE_KIND.BODY, branch: 0, position: 0 },
      body,
    );
    await directory.sync();
    const slot: CheckpointSlot = {
      sequence,
      run: work.writer.number,
      bodyOffset: written.bodyOffset,
      bodyBytes: written.bodyBytes,
      nextLsn: work.cut.nextLsn,
    };
    this.#isSlotBegun = true;
    await writeSlot(memory, directory, poolId, slot);
    // Published: from here recovery begins at the cut.
    const { sizeBytes } = written;
    const own = { number: work.writer.number, nodeCount, sizeBytes, since: sequence };
    Object.assign(this.#state, {
      newest: { slot, cut: work.cut },
      bases: chosen.bases,
      lists: chosen.lists,
      runs: [...runs, own],
      cutSegments: [work.cut.segmentNumber, this.#state.cutSegments[0]],
    });
    this.#options.history?.chosenIsDurable();
    this.checkpointCount += 1;
    this.indexBytes += sizeBytes + (list?.sizeBytes ?? 0);
    this.cutLsn = work.cut.nextLsn;
    this.#publish(work);
    const kept = new Set([
      ...runs.map(({ number }) => number),
      ...chosen.lists.map(({ run }) => run),
    ]);
    const known = [...oldRuns.map(({ number }) => number), ...oldLists.map(({ run }) => run)];
    if (list !== undefined) known.push(list.run);
    for (const run of known) if (!kept.has(run)) await this.#removeRun(run);
  }

  /** What history goes on needing of the checkpoints before this one, and of the lists up to it. */
  #chooseHistory(cut: ReplayStart, list: ChangeListFile | undefined): ChosenHistory {
    const { history } = this.#options;
    const { newest, bases, lists } = this.#state;
    const known = {
      bases: newest === undefined ? bases : [...bases, newest],
      lists: list === undefined ? lists : [...lists, list],
      cutMicros: cut.recordedMicros,
      cutLsn: cut.nextLsn,
    };
    const chosen = history?.choose(known) ?? { bases: [], lists: [], promise: {} };
    return this.#pinCount === 0 ? chosen : { ...chosen, bases: known.bases, lists: known.lists };
  }

  #roots(work: Work): ChunkRoot[] {
    const roots: ChunkRoot[] = [];
    for (const [directory, changed] of work.locations) {
      const locations = new Map<number, ChunkLocation | undefined>([
        ...directory.locations,
        ...changed,
      ]);
      for (const [chunk, location] of locations)
        if (location !== undefined) roots.push({ branch: directory.branch, chunk, ...location });
    }
    return roots;
  }

  #relocationRoots(work: Work): RelocationRoot[] {
    const { relocations } = this.#options.index;
    const tables = new Map([...relocations.storedTables(), ...work.tables]);
    return [...tables].flatMap(([segment, { location }]) =>
      location === undefined ? [] : [{ segment, ...location }],
    );
  }

  #publish(work: Work): void {
    const { index } = this.#options;
    const { nextLsn } = work.cut;
    index.relocations.publish(work.tables);
    for (const { directory, page, offset8 } of work.pages) {
      const { words, at } = index.drops.entryAt(directory, page, nextLsn);
      assert(words !== undefined && !isShared(words), "a page that was written has an entry (I7)");
      words[at + WORD_RUN] = work.writer.number;
      words[at + WORD_OFFSET] = offset8;
      const head = words[at + WORD_HEAD] as number;
      if (head !== 0 && index.ring.isBefore(head, work.cutSequence)) words[at + WORD_HEAD] = 0;
      else if (head !== 0) directory.changed.add(Math.floor(page / CHUNK_PAGES));
    }
    for (const [directory, locations] of work.locations) {
      for (const [chunk, location] of locations) {
        if (location === undefined) directory.locations.delete(chunk);
        else directory.locations.set(chunk, location);
      }
    }
    for (const directory of work.left) index.emptyBranch(directory);
    index.drops.release(nextLsn);
    index.ring.release(work.cutSequence);
  }

  async #removeRun(run: number): Promise<void> {
    await this.#options.forgetRun(run);
    await this.#options.directory.remove(runName(run));
  }
}
