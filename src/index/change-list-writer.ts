// SPDX-License-Identifier: Apache-2.0
//
// Writes the changes between two cuts as a change list: every page's chain from the ring, and those that a trim or a
// zeroing of whole pages took out of the directory meanwhile, with the ranges themselves beside them.

import { assert } from "../base/assert.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { BlockIndex } from "./block-index.ts";
import {
  type ChangedChunkRoot,
  type ChangeListRoots,
  LIST_ENTRIES_MAX,
  LIST_ENTRY_BYTES,
} from "./change-list.ts";
import { CHUNK_PAGES, CHUNK_WORDS, type PageDirectory, WORD_HEAD } from "./page-directory.ts";
import { type RangeDrop, savedEntry } from "./range-drops.ts";
import { NODE_HEADER_BYTES, NODE_KIND } from "./run-file.ts";
import type { RunWriter } from "./run-writer.ts";

export interface ChangeListWork {
  readonly memory: BlockMemory;
  readonly index: BlockIndex;
  readonly writer: RunWriter;
  readonly fromLsn: number;
  /** The first LSN that the list doesn't tell of, and where the ring was then. */
  readonly endLsn: number;
  readonly endSequence: number;
  /** Chunks that changed, by branch. */
  readonly changed: ReadonlyMap<PageDirectory, ReadonlySet<number>>;
  /** Called after each page. */
  readonly pause: () => Promise<void> | undefined;
}

interface NodeEntry {
  readonly key: number;
  readonly word: number;
  readonly first: number;
  readonly last: number;
}

/** Everything but the roots. Throws DISK_FULL, DISK_IO. */
export async function writeChangeLists(work: ChangeListWork): Promise<ChangeListRoots> {
  const { index, fromLsn, endLsn, changed } = work;
  const chunks: ChangedChunkRoot[] = [];
  const ranges: { branch: number; offset8: number }[] = [];
  for (const [directory, marked] of changed) {
    const touched = new Set(marked);
    const isOwn = (drop: RangeDrop): boolean => drop.branch === directory.branch;
    for (const { saved } of index.drops.all.filter(isOwn))
      for (const chunk of saved.keys()) touched.add(chunk);
    for (const chunk of [...touched].sort((a, b) => a - b))
      for (const offset8 of await writeChunk(work, directory, chunk))
        chunks.push({ branch: directory.branch, chunk, offset8 });
    const own = index.drops.all.filter((drop) => isOwn(drop) && drop.lsn < endLsn);
    for (const offset8 of await writeRanges(work, directory.branch, own))
      ranges.push({ branch: directory.branch, offset8 });
  }
  return { fromLsn, endLsn, chunks, ranges };
}

/** Returns where the nodes are that list the chunk's changed pages. */
async function writeChunk(
  work: ChangeListWork,
  directory: PageDirectory,
  chunk: number,
): Promise<number[]> {
  const { index, endSequence, fromLsn } = work;
  const entries: NodeEntry[] = [];
  const sequences: number[] = [];
  let dropCount = -1;
  let drops: readonly RangeDrop[] = [];
  for (let page = chunk * CHUNK_PAGES; page < (chunk + 1) * CHUNK_PAGES; page++) {
    if (index.drops.all.length !== dropCount) {
      dropCount = index.drops.all.length;
      drops = index.drops.all.filter(
        (drop) => drop.branch === directory.branch && drop.saved.has(chunk),
      );
    }
    let count = 0;
    for (const drop of drops) {
      if (page < drop.firstPage || page >= drop.endPage) continue;
      const { words, at } = savedEntry(drop, page);
      if (words !== undefined)
        count = index.ring.collect(words[at + WORD_HEAD] as number, endSequence, sequences, count);
    }
    const live = directory.chunks[chunk];
    const head = live?.[(page % CHUNK_PAGES) * CHUNK_WORDS + WORD_HEAD] ?? 0;
    count = index.ring.collect(head, endSequence, sequences, count);
    // The ring keeps them until this checkpoint is published: from here on others may come in between.
    for (let from = 0; from < count; from += LIST_ENTRIES_MAX) {
      const to = Math.min(count, from + LIST_ENTRIES_MAX);
      const node = { kind: NODE_KIND.CHANGES, branch: directory.branch, position: page };
      const word = await work.writer.add(node, (target) =>
        putChanges(work, sequences, { from, to }, target),
      );
      entries.push({
        key: page % CHUNK_PAGES,
        word,
        first: index.ring.lsnSince(sequences[from] as number, fromLsn),
        last: index.ring.lsnSince(sequences[to - 1] as number, fromLsn),
      });
    }
    if (count > 0) await work.pause();
  }
  const node = { kind: NODE_KIND.CHANGED_PAGES, branch: directory.branch, position: chunk };
  return await writeEntries(work, node, entries);
}

function putChanges(
  { memory, index, fromLsn }: ChangeListWork,
  sequences: readonly number[],
  { from, to }: { readonly from: number; readonly to: number },
  target: number,
): { lengthBytes: number; count: number; encoding: number } {
  let at = target + NODE_HEADER_BYTES;
  for (let each = from; each < to; each++, at += LIST_ENTRY_BYTES)
    index.ring.putChange(memory.view, at, sequences[each] as number, fromLsn);
  return { lengthBytes: at - target, count: to - from, encoding: 0 };
}

function writeRanges(
  work: ChangeListWork,
  branch: number,
  drops: readonly RangeDrop[],
): Promise<number[]> {
  const entries = drops.map(({ lsn, low, firstPage, endPage }) => {
    assert(lsn >= work.fromLsn, "a range that a checkpoint has is forgotten");
    return { key: lsn - work.fromLsn, word: low, first: firstPage, last: endPage };
  });
  return writeEntries(work, { kind: NODE_KIND.RANGES, branch, position: 0 }, entries);
}

/** Writes entries of four words as nodes; where those are. */
async function writeEntries(
  { memory, writer }: ChangeListWork,
  node: { readonly kind: number; readonly branch: number; readonly position: number },
  entries: readonly NodeEntry[],
): Promise<number[]> {
  const offsets: number[] = [];
  for (let from = 0; from < entries.length; from += LIST_ENTRIES_MAX) {
    const part = entries.slice(from, from + LIST_ENTRIES_MAX);
    const put = (target: number) => {
      let at = target + NODE_HEADER_BYTES;
      for (const { key, word, first, last } of part) {
        memory.view.setUint32(at, key, true);
        memory.view.setUint32(at + 4, word, true);
        memory.view.setUint32(at + 8, first, true);
        memory.view.setUint32(at + 12, last, true);
        at += LIST_ENTRY_BYTES;
      }
      return { lengthBytes: at - target, count: part.length, encoding: 0 };
    };
    offsets.push(await writer.add(node, put));
  }
  return offsets;
}
