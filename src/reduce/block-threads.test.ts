// SPDX-License-Identifier: Apache-2.0
//
// Real threads over a real memory: what they find out about blocks is what the kernel finds out in line, whatever many
// writes are under way, and however often the ring goes round.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { must } from "../base/assert.ts";
import { createThreads } from "../host/node/threads.ts";
import { Prng } from "../sim/prng.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "./block-memory.ts";
import { BlockThreads } from "./block-threads.ts";
import {
  PREPARED_BLOCKS_MAX,
  preparedBytes,
  preparedContentOf,
  preparedHashesOf,
  preparedSizesOf,
} from "./prepared-blocks.ts";

const threads = must(createThreads(2, 3), "three cores can spare two");

/** Half of each block is noise, a few are zeros. */
function fill(memory: BlockMemory, address: number, blockCount: number, prng: Prng): void {
  for (let block = 0; block < blockCount; block++) {
    const target = address + block * BLOCK_BYTES;
    memory.bytes.fill(0, target, target + BLOCK_BYTES);
    if (prng.below(8) === 0) continue;
    const lengthBytes = prng.below(BLOCK_BYTES);
    for (let at = 0; at < lengthBytes; at++) memory.bytes[target + at] = prng.word();
  }
}

/** What lies in a piece, without what is left over from others. */
function resultOf(memory: BlockMemory, piece: number, blockCount: number): unknown[] {
  const { view, bytes } = memory;
  return Array.from({ length: blockCount }, (_, block) => {
    const size = view.getUint32(preparedSizesOf(piece, block), true);
    const content = preparedContentOf(piece, block);
    const storedBytes = size % 65536;
    return [
      size,
      size === 0 ? 0n : view.getBigUint64(preparedHashesOf(piece, block), true),
      storedBytes < BLOCK_BYTES ? Buffer.from(bytes.slice(content, content + storedBytes)) : null,
    ];
  });
}

test("threads find out what the kernel does in line, round after round", {
  skip: threads.count === 0,
}, async () => {
  const memory = new BlockMemory(shapeOf(64 << 20));
  const preparer = new BlockThreads(memory, threads);
  const prng = new Prng(11);
  const table = memory.slotsAddress;
  const reference = memory.slotsAddress + (1 << 20);
  for (let round = 0; round < 40; round++) {
    const counts = [1 + prng.below(100), 1 + prng.below(100)];
    const writes = counts.map((blockCount) => {
      const source = memory.clients.allocate(blockCount * BLOCK_BYTES);
      fill(memory, source, blockCount, prng);
      const piece = memory.prepared.allocate(preparedBytes(blockCount));
      return { source, blockCount, piece, compressEvery: 1 };
    });
    const ends = writes.map((write) => preparer.prepare(write));
    ok(ends.every((end) => end !== undefined));
    await Promise.all(ends);
    for (const { source, blockCount, piece } of writes) {
      memory.kernel.prepareBlocks(
        source,
        blockCount,
        preparedHashesOf(reference),
        preparedSizesOf(reference),
        preparedContentOf(reference),
        1,
        table,
      );
      deepEqual(resultOf(memory, piece, blockCount), resultOf(memory, reference, blockCount));
      memory.prepared.release(piece);
      memory.clients.release(source);
    }
  }
  await preparer.close();
});

test("with the ring full, a write is left to its caller; what is under way ends before the threads do", {
  skip: threads.count === 0,
}, async () => {
  const memory = new BlockMemory(shapeOf(64 << 20));
  const preparer = new BlockThreads(memory, threads);
  const source = memory.clients.allocate(PREPARED_BLOCKS_MAX * BLOCK_BYTES);
  fill(memory, source, PREPARED_BLOCKS_MAX, new Prng(3));
  // The pieces may be one: nobody looks at them.
  const piece = memory.prepared.allocate(preparedBytes(PREPARED_BLOCKS_MAX));
  const write = { source, blockCount: PREPARED_BLOCKS_MAX, piece, compressEvery: 1 };
  const ends = Array.from({ length: 9 }, () => preparer.prepare(write));
  equal(ends.indexOf(undefined), 8);
  const closed = preparer.close();
  await Promise.all(ends);
  await closed;
  equal(preparer.prepare(write), undefined, "it is closed");
});
