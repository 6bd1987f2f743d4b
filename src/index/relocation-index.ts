// SPDX-License-Identifier: Apache-2.0
//
// Where the frames are that garbage collection moved. A reference names a frame by its home, where it was born, and
// is never rewritten; a frame that moved is found through its home segment's table (docs/decisions/0004):
//
//   home segment → nothing of it was moved            one look into a map, the common case
//                → moved since the newest checkpoint  entries in memory
//                → moved before                       directory in memory → node in a slot of the cache, or one read
//
// A frame that moves again gets another entry in the same table, which counts instead: there are no chains.
//
// At a checkpoint's cut the entries in memory are frozen and new ones begin; the frozen ones are merged with what the
// older runs hold (relocation-writer.ts), and go when that is published.
//
// Entries whose place is in a dropped segment are dead: nothing needs what they name. Tables know in which segments
// their frames lie, so that the next checkpoint rewrites exactly those that name the dropped one. With it, the dropped
// segment itself is forgotten; no checkpoint has to remember it.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { RELOCATED_HOME_AT, RELOCATED_SLOT_BYTES, type RecordCursor } from "../log/record.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import {
  HOME_ENTRIES_MAX,
  mayName,
  NODE_OFFSET8_END,
  NOTHING_STORED,
  nodeFor,
  RELOCATIONS_BYTES_MAX,
  readRelocations,
  type StoredTable,
} from "./relocation-node.ts";
import { ENTRY_WORDS, findEntry, PLACE_STATE, RelocationTable } from "./relocation-table.ts";
import { NODE_HEADER_BYTES, type RunStore } from "./run-file.ts";
import type { SlotCache } from "./slot-cache.ts";

/** What `resolve` says. */
export const RELOCATION = {
  /** Never moved, as far as is known: the frame is where it was born. */
  AT_HOME: 0,
  FOUND: 1,
  /** A node must be read first: `load`. */
  NOT_LOADED: -1,
} as const;

/** What a checkpoint is to merge: what changed before its cut. */
export interface RelocationCut {
  readonly homes: ReadonlySet<number>;
  /** Segments that were dropped before the cut: entries that name them go. */
  readonly dropped: ReadonlySet<number>;
}

/** Where damaged tables come from. */
export interface RelocationRepair {
  /**
   * The entries of a home segment's table whose nodes can't be read, from the records beside the moved frames. Throws what
   * keeps it from being sure of all of them.
   */
  entriesOf(homeSegment: number, stored: StoredTable, cause: StorageError): Promise<Uint32Array>;
  /** They are in memory; the next checkpoint writes them. */
  onRebuilt(): void;
}

interface Home {
  /** Moves since the cut of the newest checkpoint, be it under way. */
  pending: RelocationTable | undefined;
  /** While a checkpoint is under way: moves before its cut that it merges. */
  frozen: RelocationTable | undefined;
  stored: StoredTable;
}

/** What an object with its arrays takes, roughly. */
const HOME_BYTES = 256;
/** Marks a node among the blocks in the cache of slots: as a reference's state it names no frame. */
const NODE_STATE = 0xc0000000;

export class RelocationIndex {
  readonly #memory: BlockMemory;
  readonly #slots: SlotCache;
  readonly #runs: RunStore;
  readonly #homes: Map<number, Home> = new Map();
  /** Home segments whose tables the next checkpoint merges. */
  #changed: Set<number> = new Set();
  /** Segments dropped since the cut of the newest published checkpoint. */
  readonly #dropped: Set<number> = new Set();
  #cut: RelocationCut | undefined;
  readonly #loading: Map<string, Promise<void>> = new Map();
  readonly #repairing: Map<number, Promise<void>> = new Map();
  /** Set where damaged tables are to be rebuilt; without it, reading one throws POOL_CORRUPT or DISK_IO. */
  repair: RelocationRepair | undefined;
  readonly #entry: Uint32Array = new Uint32Array(ENTRY_WORDS);
  /** Of the last `resolve` that found: the place's segment, low (relocation-table.ts), bytes behind the frame's header. */
  foundSegment = 0;
  foundLow = 0;
  foundStoredBytes = 0;
  /** Entries in memory since the last cut; 16 bytes each, a checkpoint takes them. */
  pendingCount = 0;

  constructor(memory: BlockMemory, slots: SlotCache, runs: RunStore) {
    this.#memory = memory;
    this.#slots = slots;
    this.#runs = runs;
  }

  /** Where the frame born at home is: see RELOCATION. */
  resolve(homeSegment: number, homeOffset8: number): number {
    const home = this.#homes.get(homeSegment);
    if (home === undefined) return RELOCATION.AT_HOME;
    const entry = this.#entry;
    if (home.pending?.find(homeOffset8, entry) || home.frozen?.find(homeOffset8, entry))
      return this.#found(entry, 0);
    const { nodes, isRebuilt } = home.stored;
    const node = nodeFor(nodes, homeOffset8);
    if (node < 0 || isRebuilt === true) return RELOCATION.AT_HOME;
    const address = this.#slots.findBlock(nodes[node + 1] as number, cacheLow(nodes, node));
    if (address === 0) return RELOCATION.NOT_LOADED;
    const { words, view } = this.#memory;
    const first = (address + NODE_HEADER_BYTES) >>> 2;
    const at = findEntry(words, first, view.getUint16(address + 18, true), homeOffset8);
    return at < 0 ? RELOCATION.AT_HOME : this.#found(words, at);
  }

  /** Reads the node that `resolve` needs into a slot. Throws POOL_CORRUPT, DISK_IO. */
  load(homeSegment: number, homeOffset8: number): Promise<void> {
    const nodes = this.#homes.get(homeSegment)?.stored.nodes ?? NO_ENTRIES;
    const key = `${homeSegment}.${nodeFor(nodes, homeOffset8)}`;
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = this.#load(homeSegment, homeOffset8).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  /** Applies a relocated record, live and in replay. False when more frames of a segment moved than it can have. */
  apply(cursor: RecordCursor): boolean {
    const { view } = this.#memory;
    const { placeSegment, placeOffset8, storedBytes, slotCount, isShared } = cursor;
    const state = isShared ? PLACE_STATE.SHARED : PLACE_STATE.ALONE;
    for (let slot = 0; slot < slotCount; slot++) {
      const at = cursor.referencesOffset + slot * RELOCATED_SLOT_BYTES + RELOCATED_HOME_AT;
      this.#entry[0] = view.getUint32(at + 4, true);
      this.#entry[1] = placeSegment;
      this.#entry[2] = (state << 30) | (placeOffset8 << 6) | slot;
      this.#entry[3] = storedBytes;
      const table = this.#pendingFor(view.getUint32(at, true));
      const before = table.count;
      table.put(this.#entry, 0);
      this.pendingCount += table.count - before;
      if (table.count > HOME_ENTRIES_MAX) return false;
    }
    return true;
  }

  /** A segment is gone: nothing needs what lies there. Frames that were born there are needed as ever. */
  segmentDropped(segment: number): void {
    this.#dropped.add(segment);
    for (const [homeSegment, { stored }] of this.#homes)
      if (stored.location !== undefined && mayName(stored, segment)) this.touch(homeSegment);
  }

  /** The next checkpoint merges the home segment's table, although no frame of it moved. */
  touch(homeSegment: number): void {
    if (this.#homes.has(homeSegment)) this.#changed.add(homeSegment);
  }

  /** Homes that have an entry; one that moved again since the last checkpoint counts twice. */
  get entryCount(): number {
    let count = 0;
    for (const { pending, frozen, stored } of this.#homes.values())
      count += (pending?.count ?? 0) + (frozen?.count ?? 0) + stored.entryCount;
    return count;
  }

  /** Bytes of entries and directories: outside the slots, inside the budget. */
  get memoryBytes(): number {
    let bytes = 0;
    for (const { pending, frozen, stored } of this.#homes.values()) {
      bytes += HOME_BYTES + (pending?.memoryBytes ?? 0) + (frozen?.memoryBytes ?? 0);
      bytes += stored.nodes.byteLength + (stored.places?.byteLength ?? 0);
    }
    return bytes;
  }

  checkInvariants(): void {
    let pendingCount = 0;
    for (const [segment, { pending, frozen, stored }] of this.#homes) {
      pending?.checkInvariants();
      frozen?.checkInvariants();
      pendingCount += pending?.count ?? 0;
      assert(pending === undefined || this.#changed.has(segment), "a table with moves is marked");
      assert(
        frozen === undefined || this.#cut?.homes.has(segment) === true,
        "only a checkpoint under way has frozen moves",
      );
      const isNeeded = pending !== undefined || frozen !== undefined || stored.nodes.length > 0;
      assert(isNeeded, "a home segment without moves is not kept");
    }
    assert(pendingCount === this.pendingCount, "entries in memory are counted");
    for (const segment of this.#changed)
      assert(this.#homes.has(segment), "only tables that are there are merged");
  }

  // ---- checkpoints

  /** Begins from a checkpoint: the index is empty. */
  begin(tables: ReadonlyMap<number, StoredTable>): void {
    assert(this.#homes.size === 0, "a checkpoint is loaded into an empty index");
    for (const [segment, stored] of tables)
      this.#homes.set(segment, { pending: undefined, frozen: undefined, stored });
  }

  /** The cut: what moved so far is frozen for the checkpoint that begins. */
  beginCheckpoint(): RelocationCut {
    assert(this.#cut === undefined, "one checkpoint at a time");
    for (const segment of this.#changed) {
      const home = this.#homes.get(segment) as Home;
      home.frozen = home.pending;
      home.pending = undefined;
    }
    this.#cut = { homes: this.#changed, dropped: new Set(this.#dropped) };
    this.#changed = new Set();
    this.pendingCount = 0;
    return this.#cut;
  }

  /** The frozen entries of a home segment, in order. */
  frozenEntries(homeSegment: number): Uint32Array {
    return this.#homes.get(homeSegment)?.frozen?.entries() ?? NO_ENTRIES;
  }

  /** All tables as the newest checkpoint has them. */
  *storedTables(): IterableIterator<[homeSegment: number, table: StoredTable]> {
    for (const [segment, { stored }] of this.#homes)
      if (stored.location !== undefined) yield [segment, stored];
  }

  /** The checkpoint under way is the newest now; it has written these tables. */
  publish(written: ReadonlyMap<number, StoredTable>): void {
    const cut = this.#endCut();
    for (const segment of cut.dropped) this.#dropped.delete(segment);
    for (const [segment, stored] of written) {
      const home = this.#homes.get(segment);
      assert(home !== undefined, "a table that was merged is still there");
      home.frozen = undefined;
      home.stored = stored;
      if (home.pending === undefined && stored.nodes.length === 0) {
        this.#homes.delete(segment);
        this.#changed.delete(segment);
      } else if (this.#namesDropped(stored)) this.touch(segment); // dropped behind the cut
    }
  }

  /** The checkpoint under way failed: what it was to merge is the next one's. */
  abandon(): void {
    if (this.#cut === undefined) return; // it was published before it failed
    const cut = this.#endCut();
    for (const segment of cut.homes) {
      const home = this.#homes.get(segment) as Home;
      this.#changed.add(segment);
      if (home.frozen === undefined) continue;
      const pending = home.pending;
      const before = pending?.count ?? 0;
      const newer = pending?.entries() ?? NO_ENTRIES;
      for (let at = 0; at < newer.length; at += ENTRY_WORDS) home.frozen.put(newer, at);
      home.pending = home.frozen;
      home.frozen = undefined;
      this.pendingCount += home.pending.count - before;
    }
  }

  // ----

  #found(words: Uint32Array, at: number): number {
    this.foundSegment = words[at + 1] as number;
    this.foundLow = words[at + 2] as number;
    this.foundStoredBytes = words[at + 3] as number;
    return RELOCATION.FOUND;
  }

  #pendingFor(homeSegment: number): RelocationTable {
    let home = this.#homes.get(homeSegment);
    if (home === undefined) {
      home = { pending: undefined, frozen: undefined, stored: NOTHING_STORED };
      this.#homes.set(homeSegment, home);
    }
    if (home.pending === undefined) {
      home.pending = new RelocationTable();
      this.#changed.add(homeSegment);
    }
    return home.pending;
  }

  #namesDropped(stored: StoredTable): boolean {
    for (const segment of this.#dropped) if (mayName(stored, segment)) return true;
    return false;
  }

  #endCut(): RelocationCut {
    const cut = this.#cut;
    assert(cut !== undefined, "a checkpoint is under way");
    this.#cut = undefined;
    return cut;
  }

  /** Bytes of the node; 0: it couldn't be read, and its table is in memory now. */
  async #read(place: {
    homeSegment: number;
    run: number;
    offset: number;
    target: number;
  }): Promise<number> {
    const { homeSegment } = place;
    const stored = this.#homes.get(homeSegment)?.stored;
    try {
      return await readRelocations(this.#memory, this.#runs, place);
    } catch (error) {
      const { repair } = this;
      if (repair === undefined || stored === undefined || !(error instanceof StorageError))
        throw error;
      let repairing = this.#repairing.get(homeSegment);
      if (repairing === undefined) {
        repairing = repair
          .entriesOf(homeSegment, stored, error)
          .then((entries) => this.#rebuilt(homeSegment, stored, entries))
          .finally(() => this.#repairing.delete(homeSegment));
        this.#repairing.set(homeSegment, repairing);
      }
      await repairing;
      return 0;
    }
  }

  /** The table's entries, where no later move counts, until the next checkpoint writes them anew. */
  #rebuilt(homeSegment: number, stored: StoredTable, entries: Uint32Array): void {
    const home = this.#homes.get(homeSegment);
    if (home?.stored !== stored) return; // a checkpoint was quicker, or somebody else
    const entry = this.#entry;
    const pending = this.#pendingFor(homeSegment);
    for (let at = 0; at < entries.length; at += ENTRY_WORDS) {
      const offset8 = entries[at] as number;
      if (pending.find(offset8, entry) || home.frozen?.find(offset8, entry)) continue;
      pending.put(entries, at);
      this.pendingCount += 1;
    }
    home.stored = { ...stored, isRebuilt: true };
    this.repair?.onRebuilt();
  }

  async #load(homeSegment: number, homeOffset8: number): Promise<void> {
    const memory = this.#memory;
    const target = await memory.reads.acquire(RELOCATIONS_BYTES_MAX);
    try {
      // Where the node is now: a checkpoint may have moved it. From here to the read nobody else runs.
      const nodes = this.#homes.get(homeSegment)?.stored.nodes;
      if (nodes === undefined) return;
      const node = nodeFor(nodes, homeOffset8);
      if (node < 0) return;
      const run = nodes[node + 1] as number;
      const low = cacheLow(nodes, node);
      if (this.#slots.findBlock(run, low) !== 0) return;
      const place = { homeSegment, run, offset: (nodes[node + 2] as number) * 8, target };
      const lengthBytes = await this.#read(place);
      if (lengthBytes === 0) return;
      // Runs never change, so it is right whatever a checkpoint did meanwhile.
      if (this.#slots.findBlock(run, low) !== 0) return;
      memory.bytes.copyWithin(this.#slots.addBlock(run, low), target, target + lengthBytes);
    } finally {
      memory.reads.release(target);
    }
  }
}

const NO_ENTRIES = new Uint32Array(0);

/** By what the node is found in the cache of slots, together with its run. */
function cacheLow(nodes: Uint32Array, node: number): number {
  const offset8 = nodes[node + 2] as number;
  assert(offset8 < NODE_OFFSET8_END, "a node lies where the cache can name it");
  return (NODE_STATE | offset8) >>> 0;
}
