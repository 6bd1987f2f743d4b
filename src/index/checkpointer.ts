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
// While it runs, writes go on: images are built as of the cut, later changes stay in the ring. Pages that a
// trim dropped meanwhile are remembered and not brought back.

import { assert } from "../base/assert.ts";
import type { Clock, Directory } from "../host/ports.ts";
import type { ReplayStart } from "../log/replay-start.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BlockIndex, DroppedPages } from "./block-index.ts";
import {
  type CheckpointSlot,
  type ChunkRoot,
  encodeBody,
  type HistoryBase,
  type RelocationRoot,
  type RunEntry,
  writeSlot,
} from "./checkpoint-body.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  type ChunkLocation,
  CONSTANT,
  type PageDirectory,
  WORD_HEAD,
  WORD_OFFSET,
  WORD_RUN,
  WORD_SLOT,
  ZERO_CHUNK,
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
}

export interface CheckpointerOptions {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly log: CheckpointLog;
  readonly directory: Directory;
  readonly runs: RunStore;
  readonly clock: Clock;
  readonly poolId: Uint8Array;
  /** Which checkpoints history needs; without it, none. */
  readonly history?: HistoryPolicy;
  /** The pool's catalog at this instant; called in the same turn as the cut. */
  readonly snapshotCatalog: () => Readonly<Record<string, unknown>>;
  /** A run's file is about to be removed: close it. */
  readonly forgetRun: (run: number) => Promise<void>;
}

/** How far back history is kept, as far as checkpoints go. Times are recorded ones, µs. */
export interface HistoryPolicy {
  /** Whether a checkpoint that is cut now, behind the newest that is kept, should be kept as well. */
  isBaseDue(newestMicros: number | undefined): boolean;
  /** Whether the base is still needed; the one after it was cut then. */
  isBaseNeeded(nextMicros: number | undefined): boolean;
}

/** What the last checkpoint left, from the log or from recovery. */
export interface CheckpointState {
  /** Checkpoints that history needs, oldest first. */
  bases: readonly HistoryBase[];
  sequence: number;
  /** Highest run number in use or on disk. */
  lastRun: number;
  runs: readonly RunEntry[];
  /** Where the cuts of the newest checkpoint and of the one before lie; 0: there is none. */
  cutSegments: readonly [number, number];
  /** Runs that the slot before the newest needs. */
  previousRuns: readonly RunEntry[];
}

/** Pages, or nodes of moved frames, between two turns of the event loop. */
const SLICE_PAGES = 48;
/** A run with less than this share of its nodes in use has them rewritten. */
const SPARSE_RUN_SHARE = 0.5;
const COMPACT_PAGES_MIN = 4096;

interface WrittenPage {
  readonly directory: PageDirectory;
  readonly page: number;
  readonly chunk: Uint32Array;
  readonly run: number;
  readonly offset8: number;
  readonly newOffset8: number;
}

interface Work {
  readonly cut: ReplayStart;
  readonly cutSequence: number;
  readonly catalog: Readonly<Record<string, unknown>>;
  readonly changed: Map<PageDirectory, Set<number>>;
  readonly relocations: RelocationCut;
  readonly writer: RunWriter;
  /** Reads old images, ahead. */
  readonly runs: RunStore;
  readonly victims: ReadonlySet<number>;
  readonly live: Map<number, number>;
  readonly pages: WrittenPage[];
  readonly locations: Map<PageDirectory, Map<number, ChunkLocation | undefined>>;
  /** Tables of moved frames that are in the new run, or gone. */
  tables: ReadonlyMap<number, StoredTable>;
  sliceLeft: number;
}

export class Checkpointer {
  readonly #options: CheckpointerOptions;
  readonly #state: CheckpointState;
  /** The log may be replaced once: by the writer, after a replay. */
  log: CheckpointLog;
  #running: Promise<void> | undefined;
  #isSlotBegun = false;
  #pinCount = 0;
  checkpointCount = 0;
  indexBytes = 0;
  /** LSN of the newest checkpoint's cut. */
  cutLsn: number;
  /** The segments that the cuts of the newest checkpoint and of the one before lie in; 0: there is none. */
  #cutSegments: readonly [number, number];

  constructor(options: CheckpointerOptions, state: CheckpointState, cutLsn: number) {
    this.#options = options;
    this.log = options.log;
    this.#state = state;
    this.#cutSegments = state.cutSegments;
    this.cutLsn = cutLsn;
  }

  /** Earlier states of the volumes that history goes on from, oldest first. */
  get bases(): readonly HistoryBase[] {
    return this.#state.bases;
  }

  /** No recovery begins in a segment below this one, whichever checkpoint it begins from. */
  get oldestCutSegment(): number {
    return Math.min(...this.#cutSegments);
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** Bytes of the runs that either slot needs. */
  get storedBytes(): number {
    const { runs, previousRuns, bases } = this.#state;
    const all = [...previousRuns, ...runs, ...bases.flatMap((base) => base.runs)];
    const sizes = new Map(all.map((run) => [run.number, run.sizeBytes]));
    return [...sizes.values()].reduce((sum, sizeBytes) => sum + sizeBytes, 0);
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

  async #take(): Promise<void> {
    const { index } = this.#options;
    const log = this.log;
    // One turn: the cut. Nothing may await from here…
    const cut = log.cut();
    const catalog = this.#options.snapshotCatalog();
    const cutSequence = index.ring.next;
    const changed = new Map<PageDirectory, Set<number>>();
    for (const directory of index.branches.values()) {
      changed.set(directory, directory.changed);
      directory.changed = new Set();
    }
    index.droppedSinceCut = [];
    const relocations = index.relocations.beginCheckpoint();
    const rebuilt = index.repair?.rebuilt() ?? [];
    this.#isSlotBegun = false;
    // … to here.
    let writer: RunWriter | undefined;
    try {
      await log.durableBatches();
      const live = this.#countLive();
      const number = this.#state.lastRun + 1;
      this.#state.lastRun = number;
      writer = await RunWriter.create({
        memory: this.#options.memory,
        directory: this.#options.directory,
        number,
        poolId: this.#options.poolId,
        nextLsn: cut.nextLsn,
        incarnation: cut.incarnation,
      });
      const work: Work = {
        cut,
        cutSequence,
        catalog,
        changed,
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
      for (const directory of [...changed.keys()]) await this.#writeBranch(work, directory);
      await this.#commit(work);
      index.repair?.forget(rebuilt);
    } catch (error) {
      for (const [directory, chunks] of changed)
        for (const chunk of chunks) directory.changed.add(chunk);
      index.droppedSinceCut = undefined;
      index.relocations.abandon();
      if (writer !== undefined) await this.#abandon(writer);
      throw error;
    }
  }

  /** After a failed slot write the run stays: the slot may name it. */
  async #abandon(writer: RunWriter): Promise<void> {
    try {
      await writer.abandon();
      if (this.#isSlotBegun) return;
      await this.#options.directory.remove(runName(writer.number));
    } catch {
      // The next start removes runs that no slot names; the error that brought us here is the one to tell.
    }
  }

  /** Nodes in use per run. */
  #countLive(): Map<number, number> {
    const live = new Map<number, number>();
    const count = (run: number): void => {
      if (run !== 0 && run !== CONSTANT) live.set(run, (live.get(run) ?? 0) + 1);
    };
    for (const directory of this.#options.index.branches.values()) {
      for (const chunk of directory.chunks) {
        if (chunk === undefined || chunk === ZERO_CHUNK) continue;
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
      const chunk = directory.chunks[chunkIndex];
      const old = directory.locations.get(chunkIndex);
      if (old !== undefined) this.#unlive(work, old.run);
      if (chunk === undefined) locations.set(chunkIndex, undefined);
      else if (chunk === ZERO_CHUNK)
        locations.set(chunkIndex, { run: CONSTANT, offset8: ZERO_CHUNK[WORD_OFFSET] as number });
      else
        locations.set(chunkIndex, await this.#writeChunk(work, { directory, chunkIndex, chunk }));
    }
  }

  #addVictimChunks(work: Work, directory: PageDirectory, chunks: Set<number>): void {
    for (const [chunkIndex, location] of directory.locations)
      if (work.victims.has(location.run)) chunks.add(chunkIndex);
    for (const [chunkIndex, chunk] of directory.chunks.entries()) {
      if (chunk === undefined || chunk === ZERO_CHUNK || chunks.has(chunkIndex)) continue;
      for (let at = WORD_RUN; at < CHUNK_PAGES * CHUNK_WORDS; at += CHUNK_WORDS) {
        if (work.victims.has(chunk[at] as number)) {
          chunks.add(chunkIndex);
          break;
        }
      }
    }
  }

  async #writeChunk(
    work: Work,
    place: { directory: PageDirectory; chunkIndex: number; chunk: Uint32Array },
  ): Promise<ChunkLocation> {
    const { directory, chunkIndex, chunk } = place;
    const { index } = this.#options;
    const written = new Map<number, number>();
    for (let pageInChunk = 0; pageInChunk < CHUNK_PAGES; pageInChunk++) {
      const entry = pageInChunk * CHUNK_WORDS;
      const head = chunk[entry + WORD_HEAD] as number;
      const isChanged = head !== 0 && index.ring.hasBefore(head, work.cutSequence);
      const run = chunk[entry + WORD_RUN] as number;
      const isRebuilt = index.repair?.isRebuilt(run, chunk[entry + WORD_OFFSET] as number) === true;
      if (!isChanged && !isRebuilt && !work.victims.has(run)) continue;
      const page = chunkIndex * CHUNK_PAGES + pageInChunk;
      const newOffset8 = await this.#writePage(work, { directory, page, chunk, entry });
      if (newOffset8 >= 0) written.set(pageInChunk, newOffset8);
      await this.#pause(work);
    }
    const image = chunk.slice();
    for (const [pageInChunk, newOffset8] of written) {
      image[pageInChunk * CHUNK_WORDS + WORD_RUN] = work.writer.number;
      image[pageInChunk * CHUNK_WORDS + WORD_OFFSET] = newOffset8;
    }
    const identity = { kind: NODE_KIND.DIRECTORY, branch: directory.branch, position: chunkIndex };
    const offset8 = await work.writer.add(identity, (target) =>
      encodeDirectory(this.#options.memory, image, target),
    );
    return { run: work.writer.number, offset8 };
  }

  /** Requests come between two slices. */
  #pause(work: Work): Promise<void> | undefined {
    work.sliceLeft -= 1;
    if (work.sliceLeft > 0) return undefined;
    work.sliceLeft = SLICE_PAGES;
    return new Promise((resolve) => this.#options.clock.afterInput(resolve));
  }

  /** Writes the page's image as of the cut; -1 if a trim dropped the page meanwhile. */
  async #writePage(
    work: Work,
    place: { directory: PageDirectory; page: number; chunk: Uint32Array; entry: number },
  ): Promise<number> {
    const { directory, page, chunk, entry } = place;
    const { memory, index } = this.#options;
    const run = chunk[entry + WORD_RUN] as number;
    const offset8 = chunk[entry + WORD_OFFSET] as number;
    const slot = (chunk[entry + WORD_SLOT] as number) - 1;
    const head = chunk[entry + WORD_HEAD] as number;
    const identity = { kind: NODE_KIND.LEAF, branch: directory.branch, position: page };
    let newOffset8: number;
    if (slot >= 0 && (head === 0 || index.ring.isBefore(head, work.cutSequence))) {
      const isThere = (): boolean =>
        chunk[entry + WORD_SLOT] === slot + 1 && chunk[entry + WORD_HEAD] === head;
      newOffset8 = await this.#addLeaf(work, identity, index.slots.addressOf(slot), isThere);
      if (newOffset8 < 0) return this.#writePage(work, place); // it changed while the buffer was written
    } else {
      const staging = memory.staging.allocate(2 * LEAF_BYTES_MAX + 4096);
      assert(staging >= 0, "staging always has room for one checkpoint");
      try {
        const image = staging + LEAF_BYTES_MAX + (8 - (LEAF_BYTES_MAX % 8));
        if (run !== 0 && run !== CONSTANT) {
          const leaf = { branch: directory.branch, page, run, offset8 };
          await index.readLeaf(leaf, staging, work.runs);
          if (!this.#isSame(place, run, offset8)) return -1;
          if (!decodeLeaf(memory, staging, image))
            throw nodeCorrupt({ ...identity, run, offset: offset8 * 8 }, "impossible content");
        } else index.fillConstant(image, run === CONSTANT ? offset8 : 0);
        index.ring.apply(chunk[entry + WORD_HEAD] as number, image, work.cutSequence);
        newOffset8 = await this.#addLeaf(work, identity, image, () => true);
      } finally {
        memory.staging.release(staging);
      }
    }
    this.#unlive(work, run);
    work.live.set(work.writer.number, (work.live.get(work.writer.number) ?? 0) + 1);
    work.pages.push({ directory, page, chunk, run, offset8, newOffset8 });
    return newOffset8;
  }

  /** Adds a leaf, unless `isStill` says no by the time it is encoded (-1). */
  async #addLeaf(
    work: Work,
    identity: { kind: number; branch: number; position: number },
    image: number,
    isStill: () => boolean,
  ): Promise<number> {
    let isValid = true;
    const offset8 = await work.writer.add(identity, (target) => {
      isValid = isStill();
      return encodeLeaf(this.#options.memory, image, target);
    });
    return isValid ? offset8 : -1;
  }

  #isSame(
    place: { directory: PageDirectory; page: number; chunk: Uint32Array; entry: number },
    run: number,
    offset8: number,
  ): boolean {
    const { directory, page, chunk, entry } = place;
    return (
      directory.chunks[Math.floor(page / CHUNK_PAGES)] === chunk &&
      chunk[entry + WORD_RUN] === run &&
      chunk[entry + WORD_OFFSET] === offset8
    );
  }

  #unlive(work: Work, run: number): void {
    const count = work.live.get(run);
    if (count !== undefined) work.live.set(run, count - 1);
  }

  async #commit(work: Work): Promise<void> {
    const { directory, memory, poolId } = this.#options;
    const sequence = this.#state.sequence + 1;
    const runs = this.#state.runs.filter((run) => (work.live.get(run.number) ?? 0) > 0);
    const nodeCount = work.writer.nodeCount;
    const { isBase, bases } = this.#chooseBases(work.cut);
    const body = encodeBody({
      ...(bases.length === 0 ? {} : { bases }),
      ...(isBase ? { isBase } : {}),
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
    // Directories may already lack what a trim behind the cut dropped: that trim, and all before it, comes first.
    if (this.#options.index.droppedSinceCut?.length !== 0) await this.log.durableBatches();
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
    const used = [...runs, { number: work.writer.number, nodeCount, sizeBytes: written.sizeBytes }];
    const { runs: oldRuns, previousRuns, bases: oldBases } = this.#state;
    const obsolete = [...oldRuns, ...previousRuns, ...oldBases.flatMap((base) => base.runs)];
    this.#state.bases = isBase ? [...bases, { slot, cut: work.cut, runs: used }] : bases;
    const kept = [...used, ...oldRuns, ...this.#state.bases.flatMap((base) => base.runs)];
    const keep = new Set(kept.map((run) => run.number));
    this.#state.previousRuns = this.#state.runs;
    this.#state.runs = used;
    this.#state.sequence = sequence;
    this.checkpointCount += 1;
    this.indexBytes += written.sizeBytes;
    this.cutLsn = work.cut.nextLsn;
    this.#cutSegments = [work.cut.segmentNumber, this.#cutSegments[0]];
    this.#publish(work);
    for (const run of new Set(obsolete.map(({ number }) => number)))
      if (!keep.has(run)) await this.#removeRun(run);
  }

  /** Until the returned function is called no checkpoint lets go of a base: somebody reads one. */
  pinBases(): () => void {
    this.#pinCount += 1;
    return () => {
      this.#pinCount -= 1;
    };
  }

  /** The bases that history goes on needing, and whether this checkpoint is to be one. */
  #chooseBases(cut: ReplayStart): { isBase: boolean; bases: readonly HistoryBase[] } {
    const { history } = this.#options;
    if (history === undefined) return { isBase: false, bases: [] };
    let bases = this.#state.bases;
    const isPinned = this.#pinCount > 0;
    while (!isPinned && bases.length > 0 && !history.isBaseNeeded(bases[1]?.cut.recordedMicros))
      bases = bases.slice(1);
    const newest = bases[bases.length - 1]?.cut;
    const isNew = newest?.nextLsn !== cut.nextLsn;
    return { isBase: isNew && history.isBaseDue(newest?.recordedMicros), bases };
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
    index.relocations.publish(work.tables);
    const dropped = index.droppedSinceCut ?? [];
    index.droppedSinceCut = undefined;
    for (const written of work.pages) {
      if (dropped.length > 0 && isDropped(dropped, written)) continue;
      const { chunk, directory } = written;
      const entry = (written.page % CHUNK_PAGES) * CHUNK_WORDS;
      assert(
        chunk[entry + WORD_RUN] === written.run && chunk[entry + WORD_OFFSET] === written.offset8,
        "a page that wasn't dropped has the image it had (I7)",
      );
      chunk[entry + WORD_RUN] = work.writer.number;
      chunk[entry + WORD_OFFSET] = written.newOffset8;
      const head = chunk[entry + WORD_HEAD] as number;
      if (head !== 0 && index.ring.isBefore(head, work.cutSequence)) chunk[entry + WORD_HEAD] = 0;
      else if (head !== 0) directory.changed.add(Math.floor(written.page / CHUNK_PAGES));
    }
    for (const [directory, locations] of work.locations) {
      for (const [chunk, location] of locations) {
        if (location === undefined) directory.locations.delete(chunk);
        else directory.locations.set(chunk, location);
      }
    }
    index.ring.release(work.cutSequence);
  }

  async #removeRun(run: number): Promise<void> {
    await this.#options.forgetRun(run);
    await this.#options.directory.remove(runName(run));
  }
}

function isDropped(dropped: readonly DroppedPages[], written: WrittenPage): boolean {
  return dropped.some(
    (range) =>
      range.branch === written.directory.branch &&
      written.page >= range.firstPage &&
      written.page < range.endPage,
  );
}
