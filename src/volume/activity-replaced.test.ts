// SPDX-License-Identifier: Apache-2.0
//
// What a write is about to replace, as far as memory knows it.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { BlockIndex } from "../index/block-index.ts";
import { CHUNK_WORDS, PAGE_BLOCKS, type PageDirectory, WORD_RUN } from "../index/page-directory.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { LOW_HOLE, LOW_ZERO, REFERENCE_STATE } from "../log/reference.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import { REPLACED, ReplacedBlocks } from "./activity-replaced.ts";

const memory = new BlockMemory(shapeOf(24 << 20));
const index = new BlockIndex(memory, new FileStore(new MemoryDirectory("log"), runName, 4));

function frame(offset8: number): number {
  return ((REFERENCE_STATE.FRAME << 30) | (offset8 << 6)) >>> 0;
}

function write(directory: PageDirectory, lba: number, blockCount: number, offset8: number): void {
  const words = memory.words;
  for (let block = 0; block < blockCount; block++) {
    words[(memory.scratchAddress >>> 2) + block * 2] = 7;
    words[(memory.scratchAddress >>> 2) + block * 2 + 1] = frame(offset8 + block);
  }
  index.applyWrote(directory, { lba, blockCount }, memory.scratchAddress, 1);
}

function look(directory: PageDirectory, lba: number, blockCount: number): number[] {
  const replaced = new ReplacedBlocks();
  replaced.words.fill(0xabababab);
  replaced.look(index, directory, lba, blockCount);
  equal(replaced.words[(blockCount + 1) * 2], 0xabababab, "nothing is written behind the last");
  return [...replaced.words.subarray(0, (blockCount + 1) * 2)];
}

test("a page in memory is told exactly, across pages, with one block more than was asked for", () => {
  const directory = index.addBranch(1);
  write(directory, PAGE_BLOCKS - 2, 3, 100);
  index.lookup(directory, PAGE_BLOCKS - 1);
  index.lookup(directory, PAGE_BLOCKS);
  deepEqual(look(directory, PAGE_BLOCKS - 3, 3), [
    0,
    0,
    7,
    frame(100),
    7,
    frame(101),
    7,
    frame(102),
  ]);
  deepEqual(look(directory, PAGE_BLOCKS, 1), [7, frame(102), 0, LOW_HOLE]);
});

test("what was never written is a hole, zeroed pages are zeros, and looking makes nothing", () => {
  const directory = index.addBranch(2);
  deepEqual(look(directory, 5, 1), [0, LOW_HOLE, 0, LOW_HOLE]);
  equal(directory.chunks.length, 0);
  index.applyConstant(directory, { lba: 0, blockCount: 2 * PAGE_BLOCKS }, LOW_ZERO, 1);
  deepEqual(look(directory, 5, 1), [0, LOW_ZERO, 0, LOW_ZERO]);
  deepEqual(look(directory, 3 * PAGE_BLOCKS, 0), [0, LOW_HOLE]);
});

test("a page that isn't in memory is told by its directory entry: perhaps, or nobody knows", () => {
  const directory = index.addBranch(3);
  write(directory, 0, 1, 300);
  deepEqual(look(directory, 0, 1), [REPLACED.UNKNOWN, 0, REPLACED.UNKNOWN, 0]);
  // As a checkpoint leaves it.
  directory.chunkFor(0)[CHUNK_WORDS + WORD_RUN] = 4;
  deepEqual(look(directory, PAGE_BLOCKS, 0), [REPLACED.PERHAPS, 0]);
});
