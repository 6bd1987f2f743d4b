// SPDX-License-Identifier: Apache-2.0
//
// What a preparing thread runs: takes jobs from the ring in shared memory, one after the other, and sleeps on the
// ring's counter when there are none. It ends when the thread is ended.

import { instantiate, type KernelExports } from "./block-memory.ts";
import { JOB, JOB_RING, type WorkerData } from "./job-ring.ts";
import { preparedContentOf, preparedHashesOf, preparedSizesOf } from "./prepared-blocks.ts";

export function run({ memory, ringAddress, tableAddress }: WorkerData): void {
  const kernel = instantiate(memory);
  const ring = new Int32Array(memory.buffer, ringAddress, JOB_RING.WORDS);
  for (;;) {
    const claimed = Atomics.load(ring, JOB_RING.CLAIMED);
    const posted = Atomics.load(ring, JOB_RING.POSTED);
    if (claimed === posted) Atomics.wait(ring, JOB_RING.POSTED, posted);
    else if (
      Atomics.compareExchange(ring, JOB_RING.CLAIMED, claimed, (claimed + 1) | 0) === claimed
    )
      work(kernel, ring, (claimed >>> 0) % JOB_RING.JOBS, tableAddress);
  }
}

function work(kernel: KernelExports, ring: Int32Array, slot: number, table: number): void {
  const at = JOB_RING.FIRST_JOB + slot * JOB.WORDS;
  const word = (field: number): number => (ring[at + field] as number) >>> 0;
  const piece = word(JOB.PIECE);
  const first = word(JOB.FIRST_BLOCK);
  kernel.prepareBlocks(
    word(JOB.SOURCE),
    word(JOB.BLOCK_COUNT),
    preparedHashesOf(piece, first),
    preparedSizesOf(piece, first),
    preparedContentOf(piece, first),
    word(JOB.COMPRESS_EVERY),
    table,
  );
  const group = JOB_RING.FIRST_GROUP + word(JOB.GROUP) * 2;
  if (Atomics.sub(ring, group, 1) > 1) return;
  Atomics.store(ring, group + 1, 1);
  Atomics.notify(ring, group + 1);
}
