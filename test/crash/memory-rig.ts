// SPDX-License-Identifier: Apache-2.0
//
// A pool on a plain machine in memory (src/sim/memory-host.ts), with its requests as promises of an errno:
// what the tests of the log, the index, volumes and pools are written in. Payloads go through the slab as
// the NBD door's do; a write is offered with writeNow first.

import { AssertionError, deepEqual, equal } from "node:assert/strict";
import { StorageError } from "../../src/base/errors.ts";
import { Pool } from "../../src/pool/pool.ts";
import { type CheckReport, checkPool } from "../../src/pool/pool-check.ts";
import type { PoolSettings } from "../../src/pool/types.ts";
import { type Files, MemoryHost } from "../../src/sim/memory-host.ts";
import { Prng } from "../../src/sim/prng.ts";
import type { VolumeDevice } from "../../src/volume/volume-device.ts";

/** The smallest of everything: segments roll, caches overflow and checkpoints come within a short test. */
export const TINY: PoolSettings = {
  memoryBytes: 24 << 20,
  ack: "written",
  segmentBytes: 65536,
  checkpointChanges: 1 << 20,
};

export const BLOCK = 4096;

export interface PoolFiles {
  readonly root: Files;
  readonly log: Files;
}

export interface StatusExtent {
  readonly lengthBytes: number;
  readonly flags: number;
}

/** One turn of the event loop: everything that needs no timer has happened. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export async function turns(count: number): Promise<void> {
  for (let at = 0; at < count; at++) await turn();
}

/** A promise that a test keeps until it says so. */
export class Gate<T = undefined> {
  readonly wait: Promise<T>;
  open!: (value: T) => void;

  constructor() {
    this.wait = new Promise((resolve) => {
      this.open = resolve;
    });
  }
}

export function newHost(files: Partial<PoolFiles> & { seed?: number } = {}): MemoryHost {
  return new MemoryHost(setImmediate, files);
}

export function filesOf(host: MemoryHost): PoolFiles {
  return { root: host.root.files(), log: host.log.files() };
}

/** What the offline check says of the files, which it leaves as they are. */
export async function checkFiles(files: PoolFiles): Promise<CheckReport> {
  const host = newHost(files);
  const report = await checkPool({ ...host, memoryBytes: TINY.memoryBytes });
  deepEqual(filesOf(host), files, "checking changes nothing");
  equal(host.log.openCount, 0, "no file stays open");
  return report;
}

export function durableFilesOf(host: MemoryHost): PoolFiles {
  return { root: host.root.durableFiles(), log: host.log.durableFiles() };
}

export class PoolRig {
  readonly host: MemoryHost;
  readonly pool: Pool;

  constructor(host: MemoryHost, pool: Pool) {
    this.host = host;
    this.pool = pool;
  }

  static async create(
    settings: Partial<PoolSettings> = {},
    host: MemoryHost = newHost(),
  ): Promise<PoolRig> {
    return new PoolRig(host, await Pool.create(host, { ...TINY, ...settings }));
  }

  /** Opens what another life left. */
  static async open(
    files: PoolFiles,
    settings: Partial<PoolSettings> = {},
    host: MemoryHost = newHost(files),
  ): Promise<PoolRig> {
    return new PoolRig(host, await Pool.open(host, { ...TINY, ...settings }));
  }

  /** The program dies; returns what the operating system has of its files. */
  kill(): PoolFiles {
    this.host.stop();
    return filesOf(this.host);
  }

  /** The machine dies; returns what is on stable storage. */
  cutPower(): PoolFiles {
    this.host.stop();
    return durableFilesOf(this.host);
  }

  async close(): Promise<PoolFiles> {
    await this.pool.close();
    return this.kill();
  }

  write(
    volume: string,
    offsetBytes: number,
    source: Uint8Array,
    options: { isForced?: boolean; isSlow?: boolean } = {},
  ): Promise<number> {
    const { slab } = this.pool;
    const address = slab.allocate(source.length);
    if (address < 0) throw new Error("the test's slab is exhausted");
    slab.bytes.set(source, address);
    const device = this.pool.device(volume);
    return this.#ask(
      { offsetBytes, lengthBytes: source.length, address, ...options },
      (request) => {
        if (options.isSlow === true || !device.writeNow(request)) device.write(request);
      },
    ).then((errno) => {
      slab.bytes.fill(0xdb, address, address + source.length);
      slab.release(address);
      return errno;
    });
  }

  /** The content, or the errno. */
  read(volume: string, offsetBytes: number, lengthBytes: number): Promise<Uint8Array | number> {
    return this.readDevice(this.pool.device(volume), offsetBytes, lengthBytes);
  }

  /** The same of a view. */
  async readDevice(
    device: VolumeDevice,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<Uint8Array | number> {
    const { slab } = this.pool;
    const address = slab.allocate(lengthBytes);
    if (address < 0) throw new Error("the test's slab is exhausted");
    slab.bytes.fill(0xdb, address, address + lengthBytes);
    const errno = await this.#ask({ offsetBytes, lengthBytes, address }, (request) => {
      if (device.readNow(offsetBytes, lengthBytes, address)) request.complete(0);
      else device.read(request);
    });
    const content = slab.bytes.slice(address, address + lengthBytes);
    slab.release(address);
    return errno === 0 ? content : errno;
  }

  trim(
    volume: string,
    offsetBytes: number,
    lengthBytes: number,
    options: { isForced?: boolean } = {},
  ): Promise<number> {
    const device = this.pool.device(volume);
    return this.#ask({ offsetBytes, lengthBytes, ...options }, (request) => device.trim(request));
  }

  zero(
    volume: string,
    offsetBytes: number,
    lengthBytes: number,
    options: { isHoleForbidden?: boolean; isForced?: boolean } = {},
  ): Promise<number> {
    const device = this.pool.device(volume);
    const isHoleForbidden = options.isHoleForbidden ?? false;
    return this.#ask({ offsetBytes, lengthBytes, ...options }, (request) =>
      device.writeZeroes(request, { isHoleForbidden }),
    );
  }

  flush(volume: string): Promise<number> {
    const device = this.pool.device(volume);
    return this.#ask({ offsetBytes: 0, lengthBytes: 0 }, (request) => device.flush(request));
  }

  cache(volume: string, offsetBytes: number, lengthBytes: number): Promise<number> {
    const device = this.pool.device(volume);
    return this.#ask({ offsetBytes, lengthBytes }, (request) => device.cache(request));
  }

  /** The extents of one answer, at most `countMax` of them. */
  async status(
    volume: string,
    offsetBytes: number,
    lengthBytes: number,
    countMax: number = Number.POSITIVE_INFINITY,
  ): Promise<StatusExtent[]> {
    const device = this.pool.device(volume);
    const extents: StatusExtent[] = [];
    const sink = {
      add: (length: number, flags: number): boolean => {
        extents.push({ lengthBytes: length, flags });
        return extents.length < countMax;
      },
    };
    const errno = await this.#ask({ offsetBytes, lengthBytes }, (request) =>
      device.blockStatus(request, sink),
    );
    if (errno !== 0) throw new StorageError("INTERNAL", `block status: failed: error ${errno}`);
    return extents;
  }

  #ask(
    request: {
      offsetBytes: number;
      lengthBytes: number;
      address?: number;
      isForced?: boolean;
    },
    send: (request: {
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly address: number;
      readonly isForceUnitAccess: boolean;
      complete(errno: number): void;
    }) => void,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      let isComplete = false;
      send({
        offsetBytes: request.offsetBytes,
        lengthBytes: request.lengthBytes,
        address: request.address ?? 0,
        isForceUnitAccess: request.isForced ?? false,
        complete: (errno: number) => {
          if (isComplete) reject(new Error("a request was completed twice"));
          isComplete = true;
          resolve(errno);
        },
      });
    });
  }
}

/** As deepEqual, but a difference is told in a line instead of thousands. */
export function sameBytes(found: Uint8Array | number, wanted: Uint8Array, what = "content"): void {
  if (typeof found === "number") throw new AssertionError({ message: `${what}: error ${found}` });
  if (found.length === wanted.length && Buffer.compare(found, wanted) === 0) return;
  const at = wanted.findIndex((byte, index) => found[index] !== byte);
  const isZero = found.every((byte) => byte === 0);
  throw new AssertionError({
    message: `${what}: ${found.length} of ${wanted.length} bytes, the first difference at ${at}${isZero ? ", all zeros" : ""}`,
  });
}

/** Bytes that no compressor or zero test likes, from a number. */
export function noise(seed: number, lengthBytes: number): Uint8Array {
  const prng = new Prng(seed);
  const words = new Uint32Array(Math.ceil(lengthBytes / 4));
  for (let at = 0; at < words.length; at++) words[at] = prng.word();
  return new Uint8Array(words.buffer, 0, lengthBytes);
}
