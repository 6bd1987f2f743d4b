// SPDX-License-Identifier: Apache-2.0
//
// Threads that prepare the blocks of large writes: see prepared-blocks.ts. A write is a group of jobs of 32 blocks,
// so that several threads share it. Nothing is copied: payloads, results and the ring of jobs are in the pool's memory.

import { assert } from "../base/assert.ts";
import type { Thread, Threads } from "../host/ports.ts";
import {
  BLOCK_BYTES,
  type BlockMemory,
  JOB_RING_BYTES,
  JOB_TABLE_BYTES,
  THREADS_MAX,
} from "./block-memory.ts";
import { JOB, JOB_RING, type WorkerData } from "./job-ring.ts";
import { type BlockPreparer, PREPARED_BLOCKS_MAX, type PreparedWrite } from "./prepared-blocks.ts";

const JOB_BLOCKS = 32;
/** Waking a thread takes as long as some ten blocks. */
const BLOCKS_MIN = 64;
/** The same file from source and as built. */
const WORKER = new URL(`./block-worker${import.meta.url.slice(-3)}`, import.meta.url);

export class BlockThreads implements BlockPreparer {
  readonly blocksMin: number = BLOCKS_MIN;
  readonly #ring: Int32Array;
  readonly #threads: readonly Thread[];
  /** Of each job's place, the group that it is in use by; -1: none. */
  readonly #users: Int32Array = new Int32Array(JOB_RING.JOBS).fill(-1);
  readonly #isGroupBusy: boolean[] = new Array(JOB_RING.GROUPS).fill(false);
  readonly #underWay: Set<Promise<void>> = new Set();
  #posted = 0;
  #isClosed = false;

  constructor(memory: BlockMemory, threads: Threads) {
    assert(JOB_RING.WORDS * 4 <= JOB_RING_BYTES, "the ring has room for its words");
    const ringAddress = memory.jobsAddress;
    this.#ring = new Int32Array(memory.shared.buffer, ringAddress, JOB_RING.WORDS);
    const count = Math.min(THREADS_MAX, threads.count);
    this.#threads = Array.from({ length: count }, (_, index) => {
      const tableAddress = ringAddress + JOB_RING_BYTES + index * JOB_TABLE_BYTES;
      const data: WorkerData = { memory: memory.shared, ringAddress, tableAddress };
      return threads.start(WORKER, data);
    });
  }

  prepare(write: PreparedWrite): Promise<void> | undefined {
    const { source, blockCount, piece, compressEvery } = write;
    assert(blockCount <= PREPARED_BLOCKS_MAX, "a piece has so much room");
    const jobCount = Math.ceil(blockCount / JOB_BLOCKS);
    const group = this.#isGroupBusy.indexOf(false);
    if (this.#isClosed || group < 0 || !this.#isRoom(jobCount)) return undefined;
    this.#isGroupBusy[group] = true;
    const ring = this.#ring;
    const left = JOB_RING.FIRST_GROUP + group * 2;
    Atomics.store(ring, left, jobCount);
    Atomics.store(ring, left + 1, 0);
    for (let job = 0; job < jobCount; job++) {
      const slot = this.#slot(job);
      const first = job * JOB_BLOCKS;
      const at = JOB_RING.FIRST_JOB + slot * JOB.WORDS;
      ring[at + JOB.SOURCE] = source + first * BLOCK_BYTES;
      ring[at + JOB.BLOCK_COUNT] = Math.min(JOB_BLOCKS, blockCount - first);
      ring[at + JOB.PIECE] = piece;
      ring[at + JOB.FIRST_BLOCK] = first;
      ring[at + JOB.COMPRESS_EVERY] = compressEvery;
      ring[at + JOB.GROUP] = group;
      this.#users[slot] = group;
    }
    this.#posted = (this.#posted + jobCount) | 0;
    Atomics.store(ring, JOB_RING.POSTED, this.#posted);
    Atomics.notify(ring, JOB_RING.POSTED, jobCount);
    const end = this.#ended(group);
    this.#underWay.add(end);
    return end.finally(() => this.#underWay.delete(end));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
    await Promise.all(this.#threads.map((thread) => thread.stop()));
  }

  async #ended(group: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#ring, JOB_RING.FIRST_GROUP + group * 2 + 1, 0);
    if (wait.async) await wait.value;
    for (let slot = 0; slot < JOB_RING.JOBS; slot++)
      if (this.#users[slot] === group) this.#users[slot] = -1;
    this.#isGroupBusy[group] = false;
  }

  /** Whether the next places of the ring are free. */
  #isRoom(jobCount: number): boolean {
    for (let job = 0; job < jobCount; job++) if (this.#users[this.#slot(job)] !== -1) return false;
    return true;
  }

  /** Where the `job`th of the jobs that come next goes. */
  #slot(job: number): number {
    return ((this.#posted + job) >>> 0) % JOB_RING.JOBS;
  }
}
