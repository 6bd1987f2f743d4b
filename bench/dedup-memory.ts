// SPDX-License-Identifier: Apache-2.0
//
// What the deduplication index finds in how much memory: one TiB of unique blocks (2^28 of them, synthetic
// fingerprints, segments of 16,384 frames) streams through the index under several budgets; then parts of that
// history are written again, in runs, and what is found is counted by age. Only the index works here: no block is
// hashed, stored or compared. A run is written in requests of at most 1 MiB, as a client would: the request's blocks
// are looked up; where some were found and others not, the lists of the segments that were hit are prefetched
// (from a footer in life, made up again here) and the rest is looked up once more. What isn't found is not put in
// again, so that every run meets the same table.
//
//   node bench/dedup-memory.ts [--blocks=268435456] [--budgets=32,64,128] [--runs=200] [--save]
//
// `--blocks` and `--budgets` (MiB) divided by the same number give nearly the same shares, sooner.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { BlockMemory, shapeOf } from "../src/reduce/block-memory.ts";
import { DedupIndex } from "../src/reduce/dedup-index.ts";
import { Prng } from "../src/sim/prng.ts";
import { describeMachine, type Machine } from "./machine.ts";
import { GIB, KIB, MIB } from "./rows.ts";

const BLOCK_BYTES = 4 * KIB;
const SEGMENT_FRAMES = 16_384;
const REQUEST_BLOCKS = 256;
const DECILES = 10;
const RUN_BLOCKS = [4096, 256, 64, 16];
const HEAD8 = 528;
const FRAME8 = 515;
const STATE_FRAME = 2 ** 30;

const { values } = parseArgs({
  options: {
    blocks: { type: "string", default: `${2 ** 28}` },
    budgets: { type: "string", default: "32,64,128" },
    runs: { type: "string", default: "200" },
    save: { type: "boolean", default: false },
  },
});
const segmentCount = Math.round(Number(values.blocks) / SEGMENT_FRAMES);
const blockCount = segmentCount * SEGMENT_FRAMES;
const runsPerDecile = Number(values.runs);

interface Shares {
  readonly runBlocks: number;
  /** Found of what was written again, 0 to 1: the oldest tenth of the history first, then all. */
  readonly byAge: readonly number[];
  readonly all: number;
  /** Blocks found for each list that was read. */
  readonly foundPerList: number;
}

interface Result {
  readonly budgetBytes: number;
  readonly entryCount: number;
  readonly insertNs: number;
  readonly missNs: number;
  /** Of the blocks that were never written, so many were said to be somewhere. */
  readonly wrongShare: number;
  readonly shares: readonly Shares[];
}

/** The index in a memory of its own, and what it is asked and told. */
class Bench {
  readonly index: DedupIndex;
  readonly #memory: BlockMemory;
  readonly #rows: number;
  readonly #hashes: number;
  readonly #references: number;
  readonly #prng = new Prng(1);
  listCount = 0;

  constructor(budgetBytes: number) {
    const listBytes = SEGMENT_FRAMES * 32;
    const slotCount = (budgetBytes + listBytes) / BLOCK_BYTES;
    this.#memory = new BlockMemory({ ...shapeOf(64 * MIB), slotCount });
    const address = this.#memory.slotsAddress;
    this.index = new DedupIndex({ memory: this.#memory, address, lengthBytes: budgetBytes });
    this.#rows = address + budgetBytes;
    this.#hashes = this.#rows + SEGMENT_FRAMES * 16;
    this.#references = this.#hashes + SEGMENT_FRAMES * 8;
  }

  /** Segment numbers begin at 1. */
  makeRows(segment: number): void {
    const { words } = this.#memory;
    const firstBlock = (segment - 1) * SEGMENT_FRAMES;
    let at = this.#rows / 4;
    for (let frame = 0; frame < SEGMENT_FRAMES; frame++) {
      words[at] = HEAD8 + frame * FRAME8;
      words[at + 1] = BLOCK_BYTES;
      words[at + 2] = lowHash(firstBlock + frame);
      words[at + 3] = highHash(firstBlock + frame);
      at += 4;
    }
  }

  /** Nanoseconds per frame: the median of all segments, so that busy neighbours count less. */
  writeHistory(): number {
    const elapsedMs: number[] = [];
    for (let segment = 1; segment <= segmentCount; segment++) {
      this.makeRows(segment);
      const started = performance.now();
      this.index.insertRows(this.#rows, SEGMENT_FRAMES, segment);
      elapsedMs.push(performance.now() - started);
    }
    return (medianOf(elapsedMs) * 1e6) / SEGMENT_FRAMES;
  }

  /** Looks for blocks that were never written. */
  lookForNew(): { missNs: number; wrongShare: number } {
    const rounds = 256;
    const elapsedMs: number[] = [];
    let wrongCount = 0;
    for (let round = 0; round < rounds; round++) {
      this.#ask(blockCount + round * SEGMENT_FRAMES, SEGMENT_FRAMES);
      const started = performance.now();
      wrongCount += this.index.find(this.#hashes, SEGMENT_FRAMES, this.#references);
      elapsedMs.push(performance.now() - started);
    }
    const missNs = (medianOf(elapsedMs) * 1e6) / SEGMENT_FRAMES;
    return { missNs, wrongShare: wrongCount / (rounds * SEGMENT_FRAMES) };
  }

  /** Writes runs again that begin anywhere in each tenth of the history. */
  writeAgain(runBlocks: number): Shares {
    const found = new Array<number>(DECILES).fill(0);
    this.listCount = 0;
    for (let round = 0; round < runsPerDecile; round++) {
      for (let decile = 0; decile < DECILES; decile++) {
        const tenth = Math.floor((blockCount - runBlocks) / DECILES);
        const first = decile * tenth + this.#prng.below(tenth);
        for (let at = 0; at < runBlocks; at += REQUEST_BLOCKS)
          found[decile]! += this.#request(first + at, Math.min(REQUEST_BLOCKS, runBlocks - at));
      }
    }
    const written = runsPerDecile * runBlocks;
    const total = found.reduce((sum, count) => sum + count, 0);
    return {
      runBlocks,
      byAge: found.map((count) => count / written),
      all: total / written / DECILES,
      foundPerList: total / Math.max(1, this.listCount),
    };
  }

  #ask(firstBlock: number, count: number): void {
    const { words } = this.#memory;
    for (let index = 0; index < count; index++) {
      words[this.#hashes / 4 + index * 2] = lowHash(firstBlock + index);
      words[this.#hashes / 4 + index * 2 + 1] = highHash(firstBlock + index);
    }
    words.fill(0, this.#references / 4, this.#references / 4 + count * 2);
  }

  #request(firstBlock: number, count: number): number {
    this.#ask(firstBlock, count);
    this.index.find(this.#hashes, count, this.#references);
    const segments = this.#compare(firstBlock, count);
    if (segments.found === count) return count;
    let isMore = false;
    for (const segment of segments.hit) {
      if (this.index.isPrefetched(segment)) continue;
      this.makeRows(segment);
      this.index.prefetchRows(this.#rows, SEGMENT_FRAMES, segment);
      this.index.listPrefetched(segment, SEGMENT_FRAMES);
      this.listCount += 1;
      isMore = true;
    }
    if (!isMore) return segments.found;
    this.index.find(this.#hashes, count, this.#references);
    return this.#compare(firstBlock, count).found;
  }

  /** Drops candidates that are wrong, as a comparison of the blocks would. */
  #compare(firstBlock: number, count: number): { found: number; hit: Set<number> } {
    const { words } = this.#memory;
    const hit = new Set<number>();
    let found = 0;
    for (let index = 0; index < count; index++) {
      const word = this.#references / 4 + index * 2;
      if (words[word] === 0) continue;
      const block = firstBlock + index;
      const segment = 1 + Math.floor(block / SEGMENT_FRAMES);
      const low = STATE_FRAME + (HEAD8 + (block % SEGMENT_FRAMES) * FRAME8) * 64;
      if (words[word] === segment && words[word + 1] === low) {
        found += 1;
        hit.add(segment);
      } else words.fill(0, word, word + 2);
    }
    return { found, hit };
  }
}

function medianOf(samples: number[]): number {
  samples.sort((a, b) => a - b);
  return samples[samples.length >> 1] as number;
}

function mix(value: number): number {
  let word = value ^ (value >>> 16);
  word = Math.imul(word, 0x21f0aaad);
  word ^= word >>> 15;
  word = Math.imul(word, 0x735a2d97);
  return (word ^ (word >>> 15)) >>> 0;
}

/** The fingerprint of block `block` of the history: two bijections of 32 bits. */
function lowHash(block: number): number {
  return mix(block);
}

function highHash(block: number): number {
  return mix(Math.imul(block, 0x9e3779b1) ^ 0x5bd1e995);
}

function measure(budgetBytes: number): Result {
  const bench = new Bench(budgetBytes);
  const insertNs = bench.writeHistory();
  const { missNs, wrongShare } = bench.lookForNew();
  const shares = RUN_BLOCKS.map((runBlocks) => bench.writeAgain(runBlocks));
  const { entryCount } = bench.index;
  return { budgetBytes, entryCount, insertNs, missNs, wrongShare, shares };
}

function percent(share: number): string {
  return (share * 100).toFixed(1).padStart(6);
}

function report(results: readonly Result[], machine: Machine, seconds: number): string {
  const tib = (blockCount * BLOCK_BYTES) / (1024 * GIB);
  const lines = [
    `unique data ${(tib * 1024).toFixed(0)} GiB in ${segmentCount} segments; ${runsPerDecile} runs of each length from each tenth`,
    "",
    "                              found of what is written again, %; by age: the oldest tenth of the history first",
    "  MiB/TiB   run, blocks    all   oldest                                                       newest  found per list",
  ];
  for (const { budgetBytes, shares } of results) {
    for (const { runBlocks, all, byAge, foundPerList } of shares) {
      const budget = (budgetBytes / MIB / tib).toFixed(0).padStart(9);
      const run = String(runBlocks).padStart(13);
      const ages = byAge.map(percent).join("");
      const perList = foundPerList.toFixed(0).padStart(12);
      lines.push(`${budget}${run} ${percent(all)}  ${ages}${perList}`);
    }
  }
  lines.push(
    "",
    "beside them, as documented: VDO dense 1024 MiB/TiB, all of the newest TiB, nothing older;",
    "VDO sparse 102 MiB/TiB, 97 to 99 % of what dense finds, nothing older than ten times dense's window",
    "",
    "   budget       entries    put in      look for a new block    wrong candidates",
  );
  for (const { budgetBytes, entryCount, insertNs, missNs, wrongShare } of results) {
    const budget = `${budgetBytes / MIB} MiB`.padStart(9);
    const entries = entryCount.toLocaleString("en").padStart(14);
    const wrong = `1 in ${Math.round(1 / wrongShare)}`.padStart(20);
    lines.push(
      `${budget}${entries}${insertNs.toFixed(0).padStart(7)} ns${missNs.toFixed(0).padStart(23)} ns${wrong}`,
    );
  }
  lines.push(
    "",
    `    commit      ${machine.commit}`,
    `    machine     ${machine.cores} × ${machine.cpuModel}, ${(machine.memoryBytes / GIB).toFixed(1)} GiB`,
    `    kernel      ${machine.kernel}`,
    `    node        ${machine.node}`,
    `    took        ${seconds.toFixed(0)} s`,
  );
  return lines.join("\n");
}

const started = performance.now();
const results = values.budgets.split(",").map((budget) => measure(Number(budget) * MIB));
const machine = await describeMachine(import.meta.dirname);
const text = report(results, machine, (performance.now() - started) / 1000);
console.log(text);
if (values.save) {
  const directory = join(import.meta.dirname, "results");
  await mkdir(directory, { recursive: true });
  const name = `${new Date().toISOString().slice(0, 10)}-dedup-memory.md`;
  await writeFile(
    join(directory, name),
    `# Deduplication index: memory and what it finds\n\n\`\`\`\n${text}\n\`\`\`\n`,
  );
}
