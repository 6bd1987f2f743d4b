// SPDX-License-Identifier: Apache-2.0
//
// A pool with a volume that was filled once and then changed at random: what a disk looks like between two backups. Made
// in this process, which takes half the time that a client would, while no daemon has it open.

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
import { KIB, MIB } from "./rows.ts";

export const BLOCK_BYTES: number = 4 * KIB;
const LARGE_BYTES: number = MIB;
const DEPTH = 16;

export interface DiffPoolOptions {
  /** Of a pool without a daemon, that has the volume. */
  readonly poolDirectory: string;
  readonly volume: string;
  readonly volumeBytes: number;
  readonly changeCount: number;
  readonly checkpointChanges: number;
  readonly seed: number;
  readonly say: (line: string) => void;
}

export interface BuiltDiffPool {
  /** When it was filled, before the first change and after the last one. */
  readonly filledLsn: number;
  readonly changedLsn: number;
  /** Different blocks among those that were changed. */
  readonly changedBlocks: number;
  /** The same that lie one behind the other, as one. */
  readonly changedRanges: number;
  readonly storedBytes: number;
}

export async function buildDiffPool(options: DiffPoolOptions): Promise<BuiltDiffPool> {
  const { poolDirectory, volumeBytes, changeCount, checkpointChanges, seed, say } = options;
  const machine = {
    clock: createClock(),
    random: createRandom(),
    zstd: createZstd(),
    logger: createLogger({ level: "warn" }),
  };
  const settings = { ...DEFAULT_SETTINGS, checkpointChanges };
  const { pool, lock } = await openPool(poolDirectory, settings, machine);
  const writes = new Writes(pool, options.volume);
  for (let at = 0; at < volumeBytes; at += LARGE_BYTES)
    await writes.add(at, Math.min(LARGE_BYTES, volumeBytes - at));
  await writes.idle();
  const filledLsn = pool.log.nextLsn - 1;
  say(`  filled: ${volumeBytes / MIB} MiB`);
  const prng = new Prng(seed);
  const changed = new Uint8Array(volumeBytes / BLOCK_BYTES);
  for (let change = 0; change < changeCount; change++) {
    const block = prng.below(changed.length);
    changed[block] = 1;
    await writes.add(block * BLOCK_BYTES, BLOCK_BYTES);
  }
  await writes.idle();
  const changedLsn = pool.log.nextLsn - 1;
  await pool.flush();
  const { storedBytes } = pool.stats();
  await pool.close();
  lock.release();
  return {
    filledLsn,
    changedLsn,
    changedBlocks: changed.reduce((sum, one) => sum + one, 0),
    changedRanges: changed.reduce(
      (sum, one, at) => sum + (one > (changed[at - 1] ?? 0) ? 1 : 0),
      0,
    ),
    storedBytes,
  };
}

/** Writes what is different each time and half of which shrinks, so many at once. */
class Writes {
  readonly #pool: Pool;
  readonly #volume: string;
  readonly #free: number[] = [];
  #content = 0x9e3779b9;
  #failed = 0;
  #wake: (() => void) | undefined;

  constructor(pool: Pool, volume: string) {
    this.#pool = pool;
    this.#volume = volume;
    for (let turn = 0; turn < DEPTH; turn++) this.#free.push(pool.slab.allocate(LARGE_BYTES));
  }

  async add(offsetBytes: number, lengthBytes: number): Promise<void> {
    while (this.#free.length === 0) await this.#completion();
    const address = this.#free.pop() as number;
    this.#fill(address, lengthBytes);
    const request = {
      offsetBytes,
      lengthBytes,
      address,
      isForceUnitAccess: false,
      complete: (errno: number): void => {
        this.#failed ||= errno;
        this.#free.push(address);
        this.#wake?.();
      },
    };
    const device = this.#pool.device(this.#volume);
    if (!device.writeNow(request)) device.write(request);
  }

  async idle(): Promise<void> {
    while (this.#free.length < DEPTH) await this.#completion();
    if (this.#failed !== 0) throw new Error(`a write failed: error ${this.#failed}`);
  }

  async #completion(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    // What else has ended comes with it: then requests come in bursts, as they do from a socket.
    await setImmediate();
  }

  #fill(address: number, lengthBytes: number): void {
    const words = new Uint32Array(this.#pool.slab.bytes.buffer, address, lengthBytes / 4);
    const blockWords = BLOCK_BYTES / 4;
    let word = this.#content;
    for (let at = 0; at < words.length; at++) {
      if (at % blockWords >= blockWords / 2) {
        words.fill(0, at, at + blockWords / 2);
        at += blockWords / 2 - 1;
        continue;
      }
      word ^= word << 13;
      word ^= word >>> 17;
      word ^= word << 5;
      words[at] = word;
    }
    this.#content = word;
  }
}
