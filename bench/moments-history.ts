// SPDX-License-Identifier: Apache-2.0
//
// A pool with a long history: one volume, and so many random 4 KiB writes, every one of them kept. They are made in
// this process, which takes half the time that a client would, into a pool whose daemon is stopped meanwhile.
//
// Each block begins with the number of its write, then half of it can't be compressed. So whoever reads a block at a
// moment can be told which write must be in it: `whatWas` looks backwards from the moment. A benchmark of moments that
// answered with the wrong one would measure nothing.

import { setImmediate } from "node:timers/promises";
import { Prng } from "../src/sim/prng.ts";
import {
  createClock,
  createLogger,
  createRandom,
  createZstd,
  DEFAULT_SETTINGS,
  openPool,
  type Pool,
} from "../src/varve.ts";
import { KIB } from "./rows.ts";

export const BLOCK_BYTES: number = 4 * KIB;
const RANDOM_WORDS = BLOCK_BYTES / 4 / 2;
const DEPTH = 32;
const SAID_EVERY = 1_000_000;

export interface HistoryOptions {
  /** Of a pool without a daemon, that has the volume. */
  readonly poolDirectory: string;
  readonly volume: string;
  readonly volumeBytes: number;
  readonly recordCount: number;
  readonly checkpointChanges: number;
  readonly seed: number;
  readonly say: (line: string) => void;
}

export interface BuiltHistory {
  readonly recordCount: number;
  /** The volume is all zeros there. */
  readonly beginLsn: number;
  readonly endLsn: number;
  readonly beginMicros: number;
  readonly endMicros: number;
  readonly seconds: number;
  readonly storedBytes: number;
  readonly indexBytes: number;
  readonly checkpointCount: number;
  readonly segmentCount: number;
}

export class KnownHistory {
  readonly built: BuiltHistory;
  readonly #blocks: Uint32Array;
  readonly #lsns: Float64Array;

  private constructor(built: BuiltHistory, writes: Writes) {
    this.built = built;
    this.#blocks = writes.blocks;
    this.#lsns = writes.lsns;
  }

  static async build(options: HistoryOptions): Promise<KnownHistory> {
    const { poolDirectory, volumeBytes, recordCount, checkpointChanges, seed, say } = options;
    const machine = {
      clock: createClock(),
      random: createRandom(),
      zstd: createZstd(),
      logger: createLogger({ level: "warn" }),
    };
    const settings = { ...DEFAULT_SETTINGS, checkpointChanges };
    const { pool, lock } = await openPool(poolDirectory, settings, machine);
    const started = performance.now();
    const beginLsn = pool.log.nextLsn - 1;
    const writes = new Writes(pool, options.volume, recordCount);
    const prng = new Prng(seed);
    const blockCount = volumeBytes / BLOCK_BYTES;
    let beginMicros = 0;
    for (let write = 0; write < recordCount; write++) {
      await writes.add(prng.below(blockCount));
      if (write === 0) beginMicros = pool.log.appendedMicros;
      if ((write + 1) % SAID_EVERY !== 0) continue;
      say(`  ${(write + 1) / SAID_EVERY} million records: ${secondsSince(started)} s`);
    }
    await writes.idle();
    await pool.flush();
    const endMicros = pool.log.appendedMicros;
    const endLsn = pool.log.nextLsn - 1;
    const { storedBytes, indexBytes, checkpointCount, segmentCount } = pool.stats();
    await pool.close();
    lock.release();
    const built: BuiltHistory = {
      recordCount,
      beginLsn,
      endLsn,
      beginMicros,
      endMicros,
      seconds: (performance.now() - started) / 1000,
      storedBytes,
      indexBytes,
      checkpointCount,
      segmentCount,
    };
    return new KnownHistory(built, writes);
  }

  /** Throws if what was read of a block at a moment isn't what the last write before it wrote. */
  check(lsn: number, block: number, content: Buffer): void {
    const write = this.#writeBefore(lsn, block);
    const found = content.readUInt32LE(0) - 1;
    const isRight =
      write === undefined
        ? content.every((byte) => byte === 0)
        : found === write && content.readUInt32LE(4) === block;
    if (isRight) return;
    throw new Error(
      `block ${block} at lsn ${lsn}: write ${write ?? "none"} expected, not ${found}`,
    );
  }

  #writeBefore(lsn: number, block: number): number | undefined {
    let low = 0;
    let high = this.#lsns.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#lsns[middle]! <= lsn) low = middle + 1;
      else high = middle;
    }
    const write = this.#blocks.subarray(0, low).lastIndexOf(block);
    return write === -1 ? undefined : write;
  }
}

/** Writes blocks, so many at once, and notes what became which record. */
class Writes {
  /** By write, in the order of the log. */
  readonly blocks: Uint32Array;
  readonly lsns: Float64Array;
  readonly #pool: Pool;
  readonly #volume: string;
  readonly #free: number[] = [];
  #content = 0x9e3779b9;
  #count = 0;
  #failed = 0;
  #wake: (() => void) | undefined;

  constructor(pool: Pool, volume: string, recordCount: number) {
    this.#pool = pool;
    this.#volume = volume;
    this.blocks = new Uint32Array(recordCount);
    this.lsns = new Float64Array(recordCount);
    for (let turn = 0; turn < DEPTH; turn++) this.#free.push(pool.slab.allocate(BLOCK_BYTES));
  }

  async add(block: number): Promise<void> {
    while (this.#free.length === 0) await this.#completion();
    const address = this.#free.pop()!;
    const write = this.#count++;
    this.#fillBlock(address, write, block);
    const request = {
      offsetBytes: block * BLOCK_BYTES,
      lengthBytes: BLOCK_BYTES,
      address,
      isForceUnitAccess: false,
      complete: (errno: number): void => {
        this.#failed ||= errno;
        this.#free.push(address);
        this.#wake?.();
      },
    };
    const device = this.#pool.device(this.#volume);
    if (!device.writeNow(request)) {
      // It takes its place in the order only later: nothing else may be on its way, or the order isn't known.
      await this.idle(1);
      device.write(request);
      await this.idle();
    }
    this.blocks[write] = block;
    this.lsns[write] = this.#pool.log.nextLsn - 1;
  }

  /** All that was written is acknowledged, but for so many. */
  async idle(heldCount = 0): Promise<void> {
    while (this.#free.length + heldCount < DEPTH) await this.#completion();
    if (this.#failed !== 0) throw new Error(`a write failed: error ${this.#failed}`);
  }

  async #completion(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    // What else has ended comes with it: then requests come in bursts, as they do from a socket.
    await setImmediate();
  }

  /** Half of it shrinks to nothing. */
  #fillBlock(address: number, write: number, block: number): void {
    const words = new Uint32Array(this.#pool.slab.bytes.buffer, address, BLOCK_BYTES / 4);
    let word = this.#content;
    for (let at = 0; at < RANDOM_WORDS; at++) {
      word ^= word << 13;
      word ^= word >>> 17;
      word ^= word << 5;
      words[at] = word;
    }
    this.#content = word;
    words.fill(0, RANDOM_WORDS);
    words[0] = write + 1;
    words[1] = block;
  }
}

function secondsSince(started: number): string {
  return ((performance.now() - started) / 1000).toFixed(1);
}
