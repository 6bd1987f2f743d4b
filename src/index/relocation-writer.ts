// SPDX-License-Identifier: Apache-2.0
//
// The part of a checkpoint that writes where moved frames are: the tables of home segments of which frames moved before
// the cut, that name a segment dropped before it, or that lie in a run which is to go. Such a table is read, merged and
// written anew as a whole: it takes 16 bytes a frame that survived, a megabyte at the very most, and so all of it lies
// together. Other tables stay where they are.
//
// The nodes of all tables come first in the run, then all directories: an opening reads those in a few pieces.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { RelocationCut, RelocationIndex } from "./relocation-index.ts";
import {
  checkEntryCount,
  encodeRelocationDirectory,
  encodeRelocations,
  NODE_ENTRIES_MAX,
  NODE_WORDS,
  NOTHING_STORED,
  placesOf,
  RELOCATIONS_BYTES_MAX,
  readRelocations,
  relocationDirectoryOf,
  relocationsOf,
  type StoredTable,
} from "./relocation-node.ts";
import { ENTRY_WORDS, mergeEntries } from "./relocation-table.ts";
import { NODE_HEADER_BYTES, nodeCorrupt, type RunStore } from "./run-file.ts";
import type { RunWriter } from "./run-writer.ts";

const NO_ENTRIES = new Uint32Array(0);

export interface RelocationWork {
  readonly memory: BlockMemory;
  readonly relocations: RelocationIndex;
  readonly cut: RelocationCut;
  /** Reads old nodes. */
  readonly runs: RunStore;
  readonly writer: RunWriter;
  /** Runs that are to go. */
  readonly victims: ReadonlySet<number>;
  /** A node of the run is not needed any more once this is published. */
  readonly onReplaced: (run: number) => void;
  /** After each node read or written: the turn may end here. */
  readonly pause: () => Promise<void> | undefined;
}

/** Writes the tables; says which, and where they are now. Throws POOL_CORRUPT, LOG_CORRUPT, DISK_FULL, DISK_IO. */
export async function writeRelocations(work: RelocationWork): Promise<Map<number, StoredTable>> {
  const written = new Map<number, StoredTable>();
  for (const [segment, old] of tablesToWrite(work)) {
    const entries = mergeEntries(
      await readOrRebuild(work, segment, old),
      work.relocations.frozenEntries(segment),
      work.cut.dropped,
    );
    checkEntryCount(segment, entries.length / ENTRY_WORDS);
    written.set(segment, await writeNodes(work, segment, entries));
    for (const run of runsOfTable(old)) work.onReplaced(run);
  }
  for (const [segment, table] of written) {
    if (table.nodes.length === 0) continue;
    const offset8 = await work.writer.add(relocationDirectoryOf(segment), (target) =>
      encodeRelocationDirectory(work.memory, table, target),
    );
    written.set(segment, { ...table, location: { run: work.writer.number, offset8 } });
    await work.pause();
  }
  return written;
}

/** Home segments whose tables are written, ascending, and what is stored of them. */
function tablesToWrite(work: RelocationWork): [segment: number, old: StoredTable][] {
  const { relocations, cut, victims } = work;
  const tables = new Map<number, StoredTable>();
  for (const segment of cut.homes) tables.set(segment, NOTHING_STORED);
  for (const [segment, table] of relocations.storedTables())
    if (cut.homes.has(segment) || runsOfTable(table).some((run) => victims.has(run)))
      tables.set(segment, table);
  return [...tables].sort(([a], [b]) => a - b);
}

/** The run of each of the table's nodes and of its directory. */
export function runsOfTable({ location, nodes }: StoredTable): number[] {
  const runs = location === undefined ? [] : [location.run];
  for (let node = 0; node < nodes.length; node += NODE_WORDS) runs.push(nodes[node + 1] as number);
  return runs;
}

async function readOrRebuild(
  work: RelocationWork,
  segment: number,
  old: StoredTable,
): Promise<Uint32Array> {
  if (old.isRebuilt === true) return NO_ENTRIES; // they are among those in memory
  const { repair } = work.relocations;
  try {
    return await readTable(work, segment, old);
  } catch (error) {
    if (repair === undefined || !(error instanceof StorageError)) throw error;
    return await repair.entriesOf(segment, old, error);
  }
}

async function readTable(
  work: RelocationWork,
  homeSegment: number,
  { nodes, entryCount }: StoredTable,
): Promise<Uint32Array> {
  const { memory, runs } = work;
  const entries = new Uint32Array(entryCount * ENTRY_WORDS);
  const target = memory.staging.allocate(RELOCATIONS_BYTES_MAX);
  assert(target >= 0, "staging always has room for one checkpoint");
  try {
    let length = 0;
    for (let node = 0; node < nodes.length; node += NODE_WORDS) {
      const place = {
        homeSegment,
        run: nodes[node + 1] as number,
        offset: (nodes[node + 2] as number) * 8,
        target,
      };
      const lengthBytes = await readRelocations(memory, runs, place);
      const first = (target + NODE_HEADER_BYTES) >>> 2;
      const found = memory.words.subarray(first, (target + lengthBytes) >>> 2);
      const next = nodes[node + NODE_WORDS] ?? Number.POSITIVE_INFINITY;
      const isListed =
        found[0] === nodes[node] &&
        (found[found.length - ENTRY_WORDS] as number) < next &&
        length + found.length <= entries.length;
      if (!isListed)
        throw nodeCorrupt(
          { ...relocationsOf(homeSegment), ...place },
          "not what its directory says",
        );
      entries.set(found, length);
      length += found.length;
      await work.pause();
    }
    return entries.subarray(0, length);
  } finally {
    memory.staging.release(target);
  }
}

async function writeNodes(
  work: RelocationWork,
  segment: number,
  entries: Uint32Array,
): Promise<StoredTable> {
  const entryCount = entries.length / ENTRY_WORDS;
  if (entryCount === 0) return NOTHING_STORED;
  const nodes: number[] = [];
  const step = NODE_ENTRIES_MAX * ENTRY_WORDS;
  for (let at = 0; at < entries.length; at += step) {
    const part = entries.subarray(at, at + step);
    const offset8 = await work.writer.add(relocationsOf(segment), (target) =>
      encodeRelocations(work.memory, part, target),
    );
    nodes.push(part[0] as number, work.writer.number, offset8);
    await work.pause();
  }
  const places = placesOf(entries);
  return { location: undefined, nodes: Uint32Array.from(nodes), places, entryCount };
}
