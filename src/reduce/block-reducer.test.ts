// SPDX-License-Identifier: Apache-2.0
//
// What a candidate of the index costs and keeps, by what the comparison says of it.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../sim/prng.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "./block-memory.ts";
import { BlockReducer, MATCH, Reduction } from "./block-reducer.ts";
import { DedupIndex } from "./dedup-index.ts";

const COUNT = 4;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: 1024 });
const rowsAt = memory.slotsAddress;
const blocksAt = rowsAt + BLOCK_BYTES;
const indexAt = blocksAt + COUNT * BLOCK_BYTES;

/** Four blocks, of which the index says that they are in segment 3, one after the other. */
function begin(): { index: DedupIndex; reducer: BlockReducer; says: (answers: number[]) => void } {
  const index = new DedupIndex({ memory, address: indexAt, lengthBytes: 1 << 16 });
  index.clear();
  const prng = new Prng(1);
  for (let at = blocksAt / 4; at < (blocksAt + COUNT * BLOCK_BYTES) / 4; at++)
    memory.words[at] = prng.word();
  for (let block = 0; block < COUNT; block++) {
    const row = rowsAt + block * 16;
    memory.words.set([512 + block, BLOCK_BYTES], row / 4);
    memory.kernel.hash(blocksAt + block * BLOCK_BYTES, BLOCK_BYTES, row + 8);
  }
  let answers: number[] = [];
  const matcher = {
    match: (_segment: number, _low: number, address: number): number =>
      answers[(address - blocksAt) / BLOCK_BYTES] as number,
    // Whatever was verified is still there, but for the frame of the third block.
    matchAgain: (_segment: number, low: number): number =>
      low === lowOf(2) ? MATCH.GONE : MATCH.SAME,
  };
  const says = (told: number[]): void => {
    answers = told;
  };
  return { index, reducer: new BlockReducer(memory, index, matcher), says };
}

/** Of the reference to a block's frame. */
function lowOf(block: number): number {
  return (1 << 30) | ((512 + block) << 6);
}

test("what was verified isn't compared again, as long as the index says the same and the frame is there", () => {
  const { index, reducer, says } = begin();
  index.insertRows(rowsAt, COUNT, 3);
  says([MATCH.UNKNOWN, MATCH.UNKNOWN, MATCH.UNKNOWN, MATCH.UNKNOWN]);
  const verified = new Uint32Array([3, lowOf(0), 3, lowOf(7), 3, lowOf(2), 0, 0]);
  reducer.examine(blocksAt, COUNT, new Reduction(), false, 0, verified);
  deepEqual(
    [...reducer.matches.subarray(0, COUNT)],
    [MATCH.SAME, MATCH.UNKNOWN, MATCH.GONE, MATCH.UNKNOWN],
  );
  deepEqual([reducer.duplicateCount, reducer.unknownCount, reducer.newCount], [1, 2, 1]);
});

test("a frame that is gone is forgotten, another block of the same tag is not", () => {
  const { index, reducer, says } = begin();
  index.insertRows(rowsAt, COUNT, 3);
  says([MATCH.SAME, MATCH.DIFFERENT, MATCH.GONE, MATCH.BARRED]);
  reducer.examine(blocksAt, COUNT, new Reduction(), false);
  deepEqual(
    [reducer.duplicateCount, reducer.newCount, reducer.differentCount, reducer.goneCount],
    [1, 3, 1, 1],
  );
  equal(reducer.staleCount, 2);
  deepEqual([reducer.hitSegment, reducer.hitLow], [3, (1 << 30) | (512 << 6)]);
  equal(index.entryCount, 3);
  says([MATCH.SAME, MATCH.SAME, MATCH.SAME, MATCH.SAME]);
  reducer.examine(blocksAt, COUNT, new Reduction(), false);
  equal(reducer.duplicateCount, 3, "all but the one that was gone");
});

test("what isn't at hand waits for who can wait, and is stored anew by who can't", () => {
  const { index, reducer, says } = begin();
  index.insertRows(rowsAt, COUNT, 3);
  says([MATCH.UNKNOWN, MATCH.SAME, MATCH.UNKNOWN, MATCH.SAME]);
  reducer.examine(blocksAt, COUNT, new Reduction(), false);
  deepEqual([reducer.duplicateCount, reducer.unknownCount, reducer.newCount], [2, 2, 0]);
  reducer.examine(blocksAt, COUNT, new Reduction(), true);
  deepEqual([reducer.duplicateCount, reducer.unknownCount, reducer.newCount], [2, 0, 2]);
  equal(index.entryCount, COUNT);
});

test("what only a list found is counted once it is used, and not for candidates that were wrong", () => {
  const { index, reducer, says } = begin();
  const reduction = new Reduction();
  index.insertRows(rowsAt, 1, 3);
  index.prefetchRows(rowsAt + 16, COUNT - 1, 3);
  index.listPrefetched(3, COUNT - 1);
  says([MATCH.SAME, MATCH.SAME, MATCH.DIFFERENT, MATCH.SAME]);
  const packed = { segment: 4, rowsAddress: rowsAt, frameBytes: 0 };
  for (let round = 0; round < 3; round++) reducer.examine(blocksAt, COUNT, reduction, round === 2);
  equal(reducer.listedCount, 0);
  memory.words.fill(0, reducer.resultAddress / 4, reducer.resultAddress / 4 + 4);
  reducer.packed(packed, reduction);
  equal(reducer.listedCount, 3, "three candidates came from the list, and three were right");
  says(Array<number>(COUNT).fill(MATCH.DIFFERENT));
  reducer.examine(blocksAt, COUNT, reduction, true);
  reducer.packed(packed, reduction);
  equal(reducer.listedCount, 3);
});
