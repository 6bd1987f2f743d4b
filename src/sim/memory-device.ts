// SPDX-License-Identifier: Apache-2.0
//
// A disk in memory behind the NBD door's interface, a slab for it, and a catalog of such disks: what the
// door is tested and profiled against. Blocks that were never written take no memory and are holes. A
// device can be told to answer late, to fail, or to answer nothing now, so that every path of the door
// is reached.

import { BuddyAllocator } from "../base/buddy.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import {
  ALLOCATION,
  type BlockDevice,
  type BlockRequest,
  type ClientIdentity,
  type ExportCatalog,
  type ExportEntry,
  type ExtentSink,
  type FoundExport,
  MAX_SLAB_PIECE_BYTES,
  type OpenContext,
  type Slab,
  type Visitor,
  type ZeroOptions,
} from "../nbd/block-device.ts";

const BLOCK_BYTES = 4096;
/** Copied, because filling shared memory goes byte by byte and takes five times as long. */
const ZEROES = new Uint8Array(BLOCK_BYTES);

/** Shared WebAssembly memory, as the real slab is, in pieces by the buddy system. */
export class MemorySlab implements Slab {
  readonly bytes: Uint8Array;
  readonly #allocator: BuddyAllocator;

  constructor(pieceCount: number) {
    const pages = pieceCount * (MAX_SLAB_PIECE_BYTES / 65536);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.bytes = new Uint8Array(memory.buffer);
    this.#allocator = new BuddyAllocator({
      baseAddress: 0,
      chunkBytes: MAX_SLAB_PIECE_BYTES,
      chunkCount: pieceCount,
    });
  }

  get freeBytes(): number {
    return this.#allocator.freeBytes;
  }

  allocate(lengthBytes: number): number {
    return this.#allocator.allocate(lengthBytes);
  }

  release(address: number): void {
    this.#allocator.release(address);
  }
}

export interface MemoryDeviceOptions {
  readonly sizeBytes: number;
  readonly slab: Slab;
  readonly isReadOnly?: boolean;
  readonly canMultiConnect?: boolean;
  /** Contexts beyond base:allocation that an export of it has; each answers flag 1 for blocks that were ever written. */
  readonly extraContexts?: readonly string[];
  /** Completes requests in later turns of this clock, in reverse order, and takes nothing "now". */
  readonly lateBy?: Clock;
}

/** What a test may change while the device is in use. */
export interface Faults {
  /** Error number for requests that touch this range, or 0. */
  errno: number;
  start: number;
  end: number;
  /** Requests are held until releaseHeld(). */
  isHolding: boolean;
}

export class MemoryDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canMultiConnect: boolean;
  readonly extraContexts: readonly string[];
  readonly faults: Faults = { errno: 0, start: 0, end: 0, isHolding: false };
  /** Calls by name, for tests that ask what reached the device. */
  readonly calls: Record<string, number> = {};
  /** Start of each request that write() took, in order. */
  readonly writeOffsets: number[] = [];
  readonly #slab: Slab;
  readonly #late: Clock | undefined;
  readonly #blocks: (Uint8Array | undefined)[] = [];
  #waiting: (() => void)[] = [];

  constructor(options: MemoryDeviceOptions) {
    this.sizeBytes = options.sizeBytes;
    this.isReadOnly = options.isReadOnly ?? false;
    this.canMultiConnect = options.canMultiConnect ?? true;
    this.extraContexts = options.extraContexts ?? [];
    this.#slab = options.slab;
    this.#late = options.lateBy;
  }

  readNow(offsetBytes: number, lengthBytes: number, address: number): boolean {
    if (
      this.#late !== undefined ||
      this.faults.isHolding ||
      this.#isFaulty(offsetBytes, lengthBytes)
    ) {
      return false;
    }
    this.#copyOut(offsetBytes, lengthBytes, address);
    return true;
  }

  read(request: BlockRequest): void {
    this.#do("read", request, () => {
      this.#copyOut(request.offsetBytes, request.lengthBytes, request.address);
    });
  }

  writeNow(request: BlockRequest): boolean {
    const { offsetBytes, lengthBytes } = request;
    if (
      this.#late !== undefined ||
      this.faults.isHolding ||
      this.#isFaulty(offsetBytes, lengthBytes)
    ) {
      return false;
    }
    this.#copyIn(offsetBytes, lengthBytes, request.address);
    request.complete(0);
    return true;
  }

  write(request: BlockRequest): void {
    this.writeOffsets.push(request.offsetBytes);
    this.#do("write", request, () => {
      this.#copyIn(request.offsetBytes, request.lengthBytes, request.address);
    });
  }

  flush(request: BlockRequest): void {
    this.#do("flush", request, () => {});
  }

  trim(request: BlockRequest): void {
    this.#do("trim", request, () => this.#erase(request));
  }

  writeZeroes(request: BlockRequest, options: ZeroOptions): void {
    const name = options.isHoleForbidden ? "writeZeroes no hole" : "writeZeroes";
    this.#do(name, request, () => this.#erase(request));
  }

  cache(request: BlockRequest): void {
    this.#do("cache", request, () => {});
  }

  blockStatus(request: BlockRequest, sink: ExtentSink): void {
    const hole = ALLOCATION.HOLE | ALLOCATION.ZERO;
    this.#do("blockStatus", request, () => this.#tell(request, sink, { there: 0, hole }));
  }

  /** What its extra contexts answer. */
  writtenStatus(request: BlockRequest, sink: ExtentSink): void {
    this.#do("writtenStatus", request, () => this.#tell(request, sink, { there: 1, hole: 0 }));
  }

  /** Writes without a request. */
  put(offsetBytes: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const { within, count } = this.#locate(offsetBytes + at, bytes.length - at);
      this.#blockAt(offsetBytes + at).set(bytes.subarray(at, at + count), within);
      at += count;
    }
  }

  /** Lets go what was held, in reverse order. */
  releaseHeld(): void {
    const held = this.#waiting.reverse();
    this.#waiting = [];
    for (const run of held) run();
  }

  get heldCount(): number {
    return this.#waiting.length;
  }

  /** The contents, for comparison. */
  contents(offsetBytes: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    for (let at = 0; at < lengthBytes; ) {
      const { block, within, count } = this.#locate(offsetBytes + at, lengthBytes - at);
      if (block !== undefined) bytes.set(block.subarray(within, within + count), at);
      at += count;
    }
    return bytes;
  }

  #do(name: string, request: BlockRequest, act: () => void): void {
    this.calls[name] = (this.calls[name] ?? 0) + 1;
    const run = (): void => {
      const errno = this.#isFaulty(request.offsetBytes, request.lengthBytes)
        ? this.faults.errno
        : 0;
      if (errno === 0) act();
      request.complete(errno);
    };
    if (this.faults.isHolding) this.#waiting.push(run);
    else if (this.#late === undefined) run();
    else {
      this.#waiting.push(run);
      if (this.#waiting.length === 1) this.#late.afterInput(() => this.releaseHeld());
    }
  }

  #tell(
    request: BlockRequest,
    sink: ExtentSink,
    flags: { readonly there: number; readonly hole: number },
  ): void {
    const end = request.offsetBytes + request.lengthBytes;
    for (let offset = request.offsetBytes; offset < end; ) {
      const index = Math.floor(offset / BLOCK_BYTES);
      const isThere = this.#blocks[index] !== undefined;
      // Skip over equal blocks, and at once over all that was never written.
      let next = index + 1;
      if (index >= this.#blocks.length) next = Math.ceil(this.sizeBytes / BLOCK_BYTES);
      else
        while (next < this.#blocks.length && (this.#blocks[next] !== undefined) === isThere) next++;
      // Whole runs, also where the last one goes on behind the range: the door cuts it.
      const stop = Math.min(this.sizeBytes, next * BLOCK_BYTES);
      if (!sink.add(stop - offset, isThere ? flags.there : flags.hole)) return;
      offset = stop;
    }
  }

  #isFaulty(offsetBytes: number, lengthBytes: number): boolean {
    const { errno, start, end } = this.faults;
    return errno !== 0 && offsetBytes < end && offsetBytes + lengthBytes > start;
  }

  #copyOut(offsetBytes: number, lengthBytes: number, address: number): void {
    const { bytes } = this.#slab;
    for (let at = 0; at < lengthBytes; ) {
      const { block, within, count } = this.#locate(offsetBytes + at, lengthBytes - at);
      if (block === undefined) bytes.set(ZEROES.subarray(0, count), address + at);
      else if (count === BLOCK_BYTES) bytes.set(block, address + at);
      else bytes.set(block.subarray(within, within + count), address + at);
      at += count;
    }
  }

  #copyIn(offsetBytes: number, lengthBytes: number, address: number): void {
    this.put(offsetBytes, this.#slab.bytes.subarray(address, address + lengthBytes));
  }

  #blockAt(offsetBytes: number): Uint8Array {
    const index = Math.floor(offsetBytes / BLOCK_BYTES);
    let block = this.#blocks[index];
    if (block === undefined) {
      block = new Uint8Array(BLOCK_BYTES);
      this.#blocks[index] = block;
    }
    return block;
  }

  #erase(request: BlockRequest): void {
    const end = Math.min(
      request.offsetBytes + request.lengthBytes,
      this.#blocks.length * BLOCK_BYTES,
    );
    for (let offset = request.offsetBytes; offset < end; ) {
      const { block, within, count } = this.#locate(offset, end - offset);
      if (count === BLOCK_BYTES) this.#blocks[Math.floor(offset / BLOCK_BYTES)] = undefined;
      else block?.fill(0, within, within + count);
      offset += count;
    }
  }

  #locate(
    offset: number,
    lengthBytes: number,
  ): {
    block: Uint8Array | undefined;
    within: number;
    count: number;
  } {
    const within = offset % BLOCK_BYTES;
    const count = Math.min(BLOCK_BYTES - within, lengthBytes);
    return { block: this.#blocks[Math.floor(offset / BLOCK_BYTES)], within, count };
  }
}

/** Named devices. Opens and closes are counted, and `refusals` make a name fail with an error. */
export class MemoryCatalog implements ExportCatalog {
  readonly devices: Map<string, MemoryDevice>;
  readonly refusals: Map<string, StorageError> = new Map();
  openCount = 0;
  closeCount = 0;
  /** Who opened what, in order. */
  readonly opened: {
    readonly name: string;
    readonly stableName: string;
    readonly client: ClientIdentity;
    readonly hangUp: (reason: string) => void;
  }[] = [];
  /** Called when an export is open and the door doesn't know it yet. */
  whenOpened: (visitor: Visitor) => void = () => {};
  findCount = 0;
  /** Contexts that were opened, by name, and how many were closed and cancelled. */
  readonly openedContexts: string[] = [];
  closedContextCount = 0;
  cancelledContextCount = 0;
  /** Contexts of all disks that no list shows. */
  readonly hiddenContexts: Set<string> = new Set();
  /** Contexts that can't be had, with the reason. */
  readonly contextRefusals: Map<string, StorageError> = new Map();
  /** What tells as much as a context, where it isn't the export alone. */
  readonly contextExports: Map<string, readonly string[]> = new Map();
  /** Names that mean another disk each time. */
  readonly fleeting: Set<string> = new Set();
  /** What else access lists may know an export by. */
  readonly otherNames: Map<string, readonly string[]> = new Map();

  constructor(devices: Readonly<Record<string, MemoryDevice>>) {
    this.devices = new Map(Object.entries(devices));
  }

  async list(): Promise<readonly ExportEntry[]> {
    return [...this.devices.keys()].map((name) => ({ name, description: `disk ${name}` }));
  }

  async find(name: string): Promise<FoundExport> {
    this.findCount += 1;
    const device = this.#device(name);
    const isRelative = name.includes("@-");
    // As if time went on with each question.
    const stableName = isRelative
      ? `${name.split("@")[0]}@#${this.findCount}`
      : name || (this.otherNames.get(name)?.[0] ?? "");
    const description = `disk ${name}`;
    const { sizeBytes, isReadOnly, canMultiConnect } = device;
    const facts = { sizeBytes, isReadOnly, canMultiConnect };
    const exportNamesOf = (context: string): readonly string[] =>
      this.contextExports.get(context) ?? [];
    return {
      stableName,
      diskId: this.fleeting.has(name) ? `${this.findCount}` : stableName,
      isRelative,
      otherNames: this.otherNames.get(name) ?? [],
      describe: () => ({ ...facts, canonicalName: stableName, description }),
      contexts: () =>
        device.extraContexts.map((context) => ({
          name: context,
          exportNames: exportNamesOf(context),
        })),
      findContext: async (context) => {
        const refusal = this.contextRefusals.get(context);
        if (refusal !== undefined) throw refusal;
        const isThere = device.extraContexts.includes(context) || this.hiddenContexts.has(context);
        if (!isThere) return undefined;
        const open = async (): Promise<OpenContext> => this.#openContext(device, context);
        return { exportNames: exportNamesOf(context), open };
      },
      open: async (visitor) => {
        this.openCount += 1;
        const { identity: client, hangUp } = visitor;
        this.opened.push({ name, stableName, client, hangUp });
        this.whenOpened(visitor);
        const close = (): void => {
          this.closeCount += 1;
        };
        return { device, stableName, canonicalName: stableName, description, close };
      },
    };
  }

  #openContext(device: MemoryDevice, name: string): OpenContext {
    this.openedContexts.push(name);
    return {
      blockStatus: (request, sink) => device.writtenStatus(request, sink),
      cancel: () => {
        this.cancelledContextCount += 1;
      },
      close: () => {
        this.closedContextCount += 1;
      },
    };
  }

  #device(name: string): MemoryDevice {
    const refusal = this.refusals.get(name);
    if (refusal !== undefined) throw refusal;
    const device = this.devices.get(name);
    if (device === undefined) {
      throw new StorageError("EXPORT_NOT_FOUND", `export "${name}": not opened: there is none`);
    }
    return device;
  }
}
