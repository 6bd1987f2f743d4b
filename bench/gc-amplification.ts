// SPDX-License-Identifier: Apache-2.0
//
// How many bytes of frames a pool writes for each byte of new ones, once garbage collection must move what is live.
//
// A pool is opened in this process (no NBD: the figure doesn't depend on it). A volume is filled, each block once, in
// random order; then the pool is given just so much room that what it must keep is the wanted share of it. Blocks are
// overwritten at random, every payload different and incompressible: first until the pool has come to rest, then while
// it is measured. All chance comes from a seed, and the pool's wall clock goes by what is written, so that a window of
// history is an amount of data.
//
// The whole is a model of a larger pool: the changes between two checkpoints have the same part in it as the usual
// 1 Mi have in a pool of 256 GiB.

import { rm } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { Prng } from "../src/sim/prng.ts";
import {
  createClock,
  createLogger,
  createRandom,
  createZstd,
  DEFAULT_SETTINGS,
  type OpenedPool,
  openPool,
  type Pool,
} from "../src/varve.ts";
import { KIB, MIB } from "./rows.ts";

const BLOCK_BYTES = 4 * KIB;
const BLOCK_WORDS = BLOCK_BYTES / 4;
const DEPTH = 32;
const VOLUME = "db";
/** A frame of a block that doesn't shrink, with its header. */
const FRAME_BYTES: number = BLOCK_BYTES + 24;
/** Of the live set, so much is written between two checkpoints. */
const CHECKPOINT_SHARE = 1 / 64;
/** By the pool's wall clock, which only writes move. */
const MICROS_PER_BLOCK = 1000;

export type Pattern = "uniform" | "zipf";
export const ZIPF_THETA = 0.99;

export interface AmplificationOptions {
  readonly directory: string;
  readonly liveBytes: number;
  /** Of the pool's size, what it stores when it holds only what it must. */
  readonly fillShare: number;
  readonly segmentBytes: number;
  /** History that is kept, in live sets. */
  readonly windowSets: number;
  /** Overwritten before it is measured, and measured, in live sets. */
  readonly warmUpSets: number;
  readonly measuredSets: number;
  readonly say: (line: string) => void;
}

export interface Amplification {
  readonly pattern: Pattern;
  /** Frame bytes of clients and those moved, per frame byte of clients; the same for each live set that was written. */
  readonly ratio: number;
  readonly bySet: readonly number[];
  readonly clientBytes: number;
  readonly movedBytes: number;
  readonly freedBytes: number;
  readonly freedSegments: number;
  readonly collections: number;
  /** Everything that was appended to the log, per frame byte of clients: records and headers, too. */
  readonly logRatio: number;
  /** Of the pool's size, the frames of the live set alone. */
  readonly liveFrameShare: number;
  readonly poolSizeBytes: number;
  readonly longestWaitMs: number;
  readonly seconds: number;
}

interface Counts {
  readonly frameBytes: number;
  readonly movedBytes: number;
  readonly batchBytes: number;
  readonly freedBytes: number;
  readonly freedSegments: number;
  readonly collections: number;
}

/** A pool with one volume, full of live data and nothing else. */
export class AgingPool {
  readonly #options: AmplificationOptions;
  readonly #opened: OpenedPool;
  readonly #writer: BlockWriter;
  readonly #prng = new Prng(1);

  private constructor(options: AmplificationOptions, opened: OpenedPool, writer: BlockWriter) {
    this.#options = options;
    this.#opened = opened;
    this.#writer = writer;
  }

  static async create(options: AmplificationOptions): Promise<AgingPool> {
    const { directory, liveBytes, segmentBytes } = options;
    const settings = {
      ...DEFAULT_SETTINGS,
      segmentBytes,
      checkpointChanges: Math.max(1024, Math.round((liveBytes / BLOCK_BYTES) * CHECKPOINT_SHARE)),
    };
    const real = createClock();
    let wallMicros = real.wallMicros();
    const machine = {
      clock: { ...real, wallMicros: () => wallMicros },
      random: createRandom(),
      zstd: createZstd(),
      logger: createLogger({ level: "warn" }),
    };
    const opened = await openPool(directory, settings, machine);
    const writer = new BlockWriter(opened.pool, () => {
      wallMicros += MICROS_PER_BLOCK;
    });
    const aging = new AgingPool(options, opened, writer);
    await aging.#fill();
    return aging;
  }

  get #pool(): Pool {
    return this.#opened.pool;
  }

  get #blockCount(): number {
    return this.#options.liveBytes / BLOCK_BYTES;
  }

  async #fill(): Promise<void> {
    const { liveBytes, fillShare, windowSets, say } = this.#options;
    const everyWriteMicros = windowSets * this.#blockCount * MICROS_PER_BLOCK;
    await this.#pool.setPolicy({ retention: { everyWriteMicros } });
    await this.#pool.createVolume(VOLUME, liveBytes);
    this.#writer.begin();
    const order = this.#prng.shuffle([...new Array(this.#blockCount).keys()]);
    for (const block of order) await this.#writer.write(block);
    await this.#writer.idle();
    if (windowSets === 0) await this.#pool.collect({ isDryRun: false });
    const { storedBytes } = this.#pool.stats();
    // What the window began with, and everything written in it.
    const poolSizeBytes = Math.ceil((storedBytes * (1 + windowSets)) / fillShare);
    await this.#pool.setPolicy({ poolSizeBytes });
    say(`  filled: ${mib(storedBytes)} MiB stored, pool size ${mib(poolSizeBytes)} MiB`);
  }

  async measure(pattern: Pattern): Promise<Amplification> {
    const { warmUpSets, measuredSets, say } = this.#options;
    const choose = pattern === "uniform" ? this.#uniform() : this.#zipf();
    const started = performance.now();
    for (let set = 0; set < warmUpSets; set++) {
      const before = this.#counts();
      await this.#overwrite(choose);
      say(`  ${pattern}: warm-up ${ratioOf(before, this.#counts()).toFixed(2)}`);
    }
    this.#writer.longestWaitMs = 0;
    const before = this.#counts();
    const bySet: number[] = [];
    for (let set = 0; set < measuredSets; set++) {
      const begin = this.#counts();
      await this.#overwrite(choose);
      bySet.push(ratioOf(begin, this.#counts()));
      say(`  ${pattern}: ${bySet.at(-1)?.toFixed(2)}`);
    }
    const after = this.#counts();
    const { poolSizeBytes } = this.#pool.policy;
    const clientBytes = after.frameBytes - before.frameBytes;
    return {
      pattern,
      ratio: ratioOf(before, after),
      bySet,
      clientBytes,
      movedBytes: after.movedBytes - before.movedBytes,
      freedBytes: after.freedBytes - before.freedBytes,
      freedSegments: after.freedSegments - before.freedSegments,
      collections: after.collections - before.collections,
      logRatio: (after.batchBytes - before.batchBytes) / clientBytes,
      liveFrameShare: (this.#blockCount * FRAME_BYTES) / poolSizeBytes,
      poolSizeBytes,
      longestWaitMs: this.#writer.longestWaitMs,
      seconds: (performance.now() - started) / 1000,
    };
  }

  /** As many blocks as the live set has. */
  async #overwrite(choose: () => number): Promise<void> {
    for (let block = 0; block < this.#blockCount; block++) await this.#writer.write(choose());
    await this.#writer.idle();
  }

  #uniform(): () => number {
    return () => this.#prng.below(this.#blockCount);
  }

  /** Ranks by the method of Gray et al. (1994), each somewhere on the volume. */
  #zipf(): () => number {
    const count = this.#blockCount;
    let zeta = 0;
    for (let rank = 1; rank <= count; rank++) zeta += rank ** -ZIPF_THETA;
    const zetaOfTwo = 1 + 0.5 ** ZIPF_THETA;
    const alpha = 1 / (1 - ZIPF_THETA);
    const eta = (1 - (2 / count) ** (1 - ZIPF_THETA)) / (1 - zetaOfTwo / zeta);
    const places = this.#prng.shuffle([...new Array(count).keys()]);
    const rank = (): number => {
      const chance = this.#prng.fraction();
      if (chance * zeta < 1) return 0;
      if (chance * zeta < zetaOfTwo) return 1;
      return Math.min(count - 1, Math.floor(count * (eta * chance - eta + 1) ** alpha));
    };
    return () => places[rank()] as number;
  }

  #counts(): Counts {
    const { frameBytes, batchBytes, gc } = this.#pool.stats();
    return {
      frameBytes,
      movedBytes: this.#pool.log.movedBytes,
      batchBytes,
      freedBytes: gc.freedBytes,
      freedSegments: gc.freedSegmentCount,
      collections: gc.collectionCount,
    };
  }

  async remove(): Promise<void> {
    await this.#pool.close();
    this.#opened.lock.release();
    await rm(this.#options.directory, { recursive: true, force: true });
  }
}

function ratioOf(before: Counts, after: Counts): number {
  const clientBytes = after.frameBytes - before.frameBytes;
  return (clientBytes + after.movedBytes - before.movedBytes) / clientBytes;
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(0);
}

/** Writes whole blocks that nobody wrote before, so many at once. */
class BlockWriter {
  readonly #pool: Pool;
  readonly #prng = new Prng(2);
  readonly #onWrite: () => void;
  readonly #free: number[] = [];
  readonly #addresses: number[] = [];
  #waiting: (() => void) | undefined;
  #failed = 0;
  longestWaitMs = 0;

  constructor(pool: Pool, onWrite: () => void) {
    this.#pool = pool;
    this.#onWrite = onWrite;
  }

  begin(): void {
    for (let turn = 0; turn < DEPTH; turn++) {
      this.#addresses.push(this.#pool.slab.allocate(BLOCK_BYTES));
      this.#free.push(turn);
    }
  }

  async write(block: number): Promise<void> {
    while (this.#free.length === 0) await this.#completion();
    if (this.#failed !== 0) throw new Error(`a write failed: error ${this.#failed}`);
    const turn = this.#free.pop() as number;
    const address = this.#addresses[turn] as number;
    this.#fillBlock(address);
    this.#onWrite();
    const started = performance.now();
    const request = {
      offsetBytes: block * BLOCK_BYTES,
      lengthBytes: BLOCK_BYTES,
      address,
      isForceUnitAccess: false,
      complete: (errno: number): void => {
        this.#failed ||= errno;
        this.longestWaitMs = Math.max(this.longestWaitMs, performance.now() - started);
        this.#free.push(turn);
        this.#waiting?.();
        this.#waiting = undefined;
      },
    };
    const device = this.#pool.device(VOLUME);
    if (!device.writeNow(request)) device.write(request);
  }

  /** All that was written is acknowledged. */
  async idle(): Promise<void> {
    while (this.#free.length < DEPTH) await this.#completion();
    if (this.#failed !== 0) throw new Error(`a write failed: error ${this.#failed}`);
  }

  async #completion(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#waiting = resolve;
    });
    // What else has ended comes with it: then requests come in bursts, as they do from a socket.
    await setImmediate();
  }

  #fillBlock(address: number): void {
    const words = new Uint32Array(this.#pool.slab.bytes.buffer, address, BLOCK_WORDS);
    let word = this.#prng.word() | 1;
    for (let at = 0; at < BLOCK_WORDS; at++) {
      word ^= word << 13;
      word ^= word >>> 17;
      word ^= word << 5;
      words[at] = word;
    }
    words[0] = this.#prng.word();
    words[1] = this.#prng.word();
  }
}
