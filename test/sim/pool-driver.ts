// SPDX-License-Identifier: Apache-2.0
//
// The pool as the simulator's system under test. It stands where the NBD door stands: payloads go through
// the slab, a write is offered with writeNow first and handed over with write when that takes nothing, a
// large request is cut into pieces of at most 1 MiB, one after the other.

import { hasCode, StorageError } from "../../src/base/errors.ts";
import { type BlockRequest, MAX_SLAB_PIECE_BYTES } from "../../src/nbd/block-device.ts";
import { Pool } from "../../src/pool/pool.ts";
import type { PoolHost, PoolSettings } from "../../src/pool/types.ts";
import type { BlockMemory } from "../../src/reduce/block-memory.ts";
import {
  type BlockPreparer,
  type PreparedWrite,
  preparedContentOf,
  preparedHashesOf,
  preparedSizesOf,
} from "../../src/reduce/prepared-blocks.ts";
import type { StoreHost } from "../../src/sim/machine.ts";
import type {
  PoolDriver,
  PoolUnderTest,
  StoreRequest,
  VolumeShape,
} from "../../src/sim/pool-under-test.ts";
import type { VolumeDevice } from "../../src/volume/volume-device.ts";

/** Small, so that segments roll, checkpoints come and caches overflow within a short run. */
export const SIM_SETTINGS: PoolSettings = {
  memoryBytes: 24 << 20,
  ack: "written",
  segmentBytes: 65536,
  checkpointChanges: 200,
  // Every other batch or so goes through the thread pool.
  syncWriteBytes: 8192,
};

export function poolDriver(settings: Partial<PoolSettings> = {}): PoolDriver {
  const all = { ...SIM_SETTINGS, ...settings };
  return {
    name: "pool",
    volumeBytesMin: 1 << 20,
    ack: all.ack,
    start: async (host) => new PoolAdapter(await openOrCreate(host, all), host),
  };
}

/**
 * A pool in which garbage is collected when it is due, and at every other checkpoint that is asked for. It keeps no
 * history, unless a window is given: µs, or null for all.
 */
export function collectingDriver(
  settings: Partial<PoolSettings> = {},
  everyWriteMicros: number | null = 0,
): PoolDriver {
  const all = { ...SIM_SETTINGS, ...settings };
  return {
    name: "collecting pool",
    volumeBytesMin: 1 << 20,
    ack: all.ack,
    start: async (host) => {
      const pool = await openOrCreate(host, all);
      const { retention } = pool.policy;
      if (retention.everyWriteMicros !== everyWriteMicros)
        await pool.setPolicy({ retention: { everyWriteMicros } });
      return new PoolAdapter(pool, host, { isCollecting: true });
    },
  };
}

/** As the daemon does: what an interrupted creation left behind counts as empty. */
export async function openOrCreate(machine: StoreHost, settings: PoolSettings): Promise<Pool> {
  const host: PoolHost = {
    ...machine,
    startPreparer: (memory) => new SimulatedPreparer(memory, machine),
  };
  const names = await host.root.list();
  if (names.includes("pool.json")) return Pool.open(host, settings);
  const [piece] = await host.log.list();
  if (piece !== undefined) {
    throw new StorageError("NOT_A_POOL", `pool: not opened: it holds "${piece}" and no pool.json`);
  }
  return Pool.create(host, settings);
}

const BLOCK_BYTES = 4096;

/** Threads that take their time, and are busy now and then; what they find out is what real ones do. */
class SimulatedPreparer implements BlockPreparer {
  readonly blocksMin = 2;
  readonly #memory: BlockMemory;
  readonly #host: StoreHost;
  readonly #chance = new Uint8Array(1);
  readonly #table: number;

  constructor(memory: BlockMemory, host: StoreHost) {
    this.#memory = memory;
    this.#host = host;
    this.#table = memory.jobsAddress;
  }

  prepare({ source, blockCount, piece, compressEvery }: PreparedWrite): Promise<void> | undefined {
    this.#host.random.fill(this.#chance);
    const chance = this.#chance[0] as number;
    if (chance % 4 === 0) return undefined;
    return new Promise((resolve) => {
      this.#host.clock.after(chance / 256, () => {
        this.#memory.kernel.prepareBlocks(
          source,
          blockCount,
          preparedHashesOf(piece),
          preparedSizesOf(piece),
          preparedContentOf(piece),
          compressEvery,
          this.#table,
        );
        resolve();
      });
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** How long a request waits for slab before it asks again. */
const SLAB_RETRY_MS = 1;
const ERRNO_EIO = 5;
const ERRNO_ENOSPC = 28;

export class PoolAdapter implements PoolUnderTest {
  readonly pool: Pool;
  readonly #host: StoreHost;
  #wasFull: boolean;

  readonly #isCollecting: boolean;
  #checkpointCount = 0;

  constructor(pool: Pool, host: StoreHost, options = { isCollecting: false }) {
    this.#isCollecting = options.isCollecting;
    this.pool = pool;
    this.#host = host;
    pool.onEvent(({ event }) => {
      if (event === "pool.full") this.#wasFull = true;
    });
    this.#wasFull = pool.state === "full";
  }

  volumes(): VolumeShape[] {
    return this.pool.volumes().map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  }

  async createVolume(name: string, sizeBytes: number): Promise<void> {
    await this.pool.createVolume(name, sizeBytes);
  }

  async resizeVolume(name: string, sizeBytes: number): Promise<void> {
    await this.pool.resizeVolume(name, sizeBytes);
  }

  async removeVolume(name: string): Promise<void> {
    await this.pool.removeVolume(name);
  }

  async renameVolume(name: string, newName: string): Promise<void> {
    await this.pool.renameVolume(name, newName);
  }

  flush(): Promise<void> {
    return this.pool.flush();
  }

  async checkpoint(): Promise<void> {
    this.#checkpointCount += 1;
    if (this.#isCollecting && this.#checkpointCount % 2 === 1)
      await this.pool.collect({ isDryRun: false });
    else await this.pool.checkpoint();
  }

  close(): Promise<void> {
    return this.pool.close();
  }

  checkInvariants(): void {
    this.pool.checkInvariants();
  }

  submit(volume: string, request: StoreRequest, done: (errno: number) => void): void {
    let device: VolumeDevice;
    try {
      device = this.pool.device(volume);
    } catch (error) {
      if (!hasCode(error, "VOLUME_NOT_FOUND")) throw error;
      done(ERRNO_EIO);
      return;
    }
    this.submitTo(device, request, done);
  }

  /** The same for any of its disks. */
  submitTo(device: VolumeDevice, request: StoreRequest, done: (errno: number) => void): void {
    switch (request.kind) {
      case "read":
        this.#inPieces(request.offsetBytes, request.target, done, (piece, release) => {
          const { bytes } = this.pool.slab;
          const { offsetBytes, lengthBytes, address } = piece;
          const deliver = (errno: number): void => {
            if (errno === 0) piece.payload.set(bytes.subarray(address, address + lengthBytes));
            release(errno);
          };
          if (device.readNow(offsetBytes, lengthBytes, address)) deliver(0);
          else device.read(blockRequest({ ...piece, isForceUnitAccess: false }, deliver));
        });
        return;
      case "write":
        this.#inPieces(request.offsetBytes, request.source, done, (piece, release) => {
          this.pool.slab.bytes.set(piece.payload, piece.address);
          const { isForceUnitAccess } = request;
          const one = blockRequest({ ...piece, isForceUnitAccess }, release);
          if (!device.writeNow(one)) device.write(one);
        });
        return;
      case "trim":
        device.trim(blockRequest({ ...request, address: 0 }, this.#trimmed(request, done)));
        return;
      case "zero":
        device.writeZeroes(blockRequest({ ...request, address: 0 }, done), {
          isHoleForbidden: request.offsetBytes % 8192 === 0,
        });
        return;
      case "flush": {
        const range = { offsetBytes: 0, lengthBytes: 0, address: 0, isForceUnitAccess: false };
        device.flush(blockRequest(range, done));
        return;
      }
      default:
        request satisfies never;
    }
  }

  /**
   * A trim may leave parts of blocks as they are while the pool is full: its success then says as little as ENOSPC. (One
   * that is under way when the machine goes down says nothing: lives in which the pool may be full don't send such trims.)
   */
  #trimmed(
    { offsetBytes, lengthBytes }: { readonly offsetBytes: number; readonly lengthBytes: number },
    done: (errno: number) => void,
  ): (errno: number) => void {
    const isWhole = (offsetBytes | lengthBytes) % BLOCK_BYTES === 0;
    return (errno) => done(errno === 0 && this.#wasFull && !isWhole ? ERRNO_ENOSPC : errno);
  }

  /**
   * Runs `work` for each piece, one behind the other without waiting, as the door hands them over: so nothing that
   * is called later comes between them. Ends with the first error.
   */
  #inPieces(
    offsetBytes: number,
    payload: Uint8Array,
    done: (errno: number) => void,
    work: (piece: Piece, release: (errno: number) => void) => void,
  ): void {
    const { slab } = this.pool;
    let outstanding = 1;
    let failure = 0;
    const end = (errno: number): void => {
      if (failure === 0) failure = errno;
      outstanding -= 1;
      if (outstanding === 0) done(failure);
    };
    const begin = (from: number): void => {
      for (let at = from; at < payload.length; ) {
        // As the door does: a piece that isn't the last ends with a block.
        const left = payload.length - at;
        const wholeBytes = MAX_SLAB_PIECE_BYTES - ((offsetBytes + at) % BLOCK_BYTES);
        const lengthBytes = left <= MAX_SLAB_PIECE_BYTES ? left : wholeBytes;
        const address = slab.allocate(lengthBytes);
        if (address < 0) {
          this.#host.clock.after(SLAB_RETRY_MS, () => begin(at));
          return;
        }
        const part = payload.subarray(at, at + lengthBytes);
        outstanding += 1;
        work({ offsetBytes: offsetBytes + at, lengthBytes, address, payload: part }, (errno) => {
          // Whoever still looks at it from here on finds something else.
          slab.bytes.fill(0xdb, address, address + lengthBytes);
          slab.release(address);
          end(errno);
        });
        at += lengthBytes;
      }
      end(0);
    };
    begin(0);
  }
}

interface Piece {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly address: number;
  readonly payload: Uint8Array;
}

function blockRequest(
  request: Omit<BlockRequest, "complete">,
  complete: (errno: number) => void,
): BlockRequest {
  const { offsetBytes, lengthBytes, address, isForceUnitAccess } = request;
  return { offsetBytes, lengthBytes, address, isForceUnitAccess, complete };
}
