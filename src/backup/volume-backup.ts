// SPDX-License-Identifier: Apache-2.0
//
// Sends what a volume holds, or what has changed of it, to a target: plan → reads → zero test → content id → known in the
// target, or into a pack → an entry of the run. Everything happens in the order of the blocks, so at any time there is
// one number that says how far it has got; `save` makes that much durable, and a backup that is interrupted goes on there.

import { assert } from "../base/assert.ts";
import type { BackupSegment, BlockSource } from "./block-source.ts";
import { ExtentPlan } from "./extent-plan.ts";
import { EXTENT_KIND } from "./extents.ts";
import { type OrderedRead, OrderedReads, READ_BLOCKS_MAX } from "./ordered-reads.ts";
import type { PackWriter } from "./pack-writer.ts";
import { BLOCK_BYTES } from "./place.ts";
import type { RunPart, RunWriter } from "./run-writer.ts";
import { CONTENT_ID_BYTES, type Sealer } from "./sealing.ts";

/** Blocks that the target has already (content-index.ts). Ids have 24 bytes. */
export interface KnownContent {
  /** Gets ready to find those of `count` ids; undefined: it is. */
  prepare(ids: Uint8Array, count: number): Promise<void> | undefined;
  /** The place of the block whose id is at `ids[at…]`; -1: it isn't known. */
  find(ids: Uint8Array, at: number): number;
  /** From now on the block of that id is there. */
  add(ids: Uint8Array, at: number, place: number): void;
}

export interface VolumeBackupOptions {
  readonly source: BlockSource;
  readonly segments: readonly BackupSegment[];
  /** Other runs lie below: trimmed blocks must be told, or what those say would show. */
  readonly hidesOlder: boolean;
  readonly sealer: Sealer;
  readonly packs: PackWriter;
  readonly run: RunWriter;
  readonly known: KnownContent;
  /** Waited for before so many bytes are read. */
  readonly pace: ((bytes: number) => Promise<void>) | undefined;
  /** Called often. */
  readonly onProgress: () => void;
  /** Called between two extents; may call `save`. */
  readonly whenBetween: (backup: VolumeBackup) => Promise<void>;
  readonly signal: AbortSignal;
}

const ZERO_BLOCK: Uint8Array = new Uint8Array(BLOCK_BYTES);

export class VolumeBackup {
  readonly #options: VolumeBackupOptions;
  readonly #plan: ExtentPlan;
  readonly #reads: OrderedReads;
  /** Of the blocks of one read. */
  readonly #ids: Uint8Array = new Uint8Array(READ_BLOCKS_MAX * CONTENT_ID_BYTES);
  /** Of the present extent of the plan; blocks before it are asked for. */
  #askedLba = 0;
  #extentEnd = 0;
  #isPlanned = false;
  readonly #parts: RunPart[] = [];
  /** Blocks before it are in the run. */
  #doneLba: number;
  readBlocks = 0;
  zeroBlocks = 0;
  /** That were in the target already. */
  knownBlocks = 0;
  newBlocks = 0;

  constructor(options: VolumeBackupOptions) {
    this.#options = options;
    this.#plan = new ExtentPlan(options.source, options.segments);
    this.#reads = new OrderedReads(options.source);
    this.#doneLba = options.segments[0]?.start ?? 0;
  }

  /** Looks at what there is to do; afterwards `blocksToRead` says so. */
  async prepare(): Promise<void> {
    await this.#plan.prepare();
  }

  get blocksToRead(): number {
    return this.#plan.readBlocks;
  }

  /** Does all of it; not durable before the last `save`. */
  async run(): Promise<void> {
    const { signal, onProgress, whenBetween } = this.#options;
    try {
      for (;;) {
        signal.throwIfAborted();
        await this.#ask();
        if (this.#reads.isEmpty) break;
        const read = await this.#reads.front();
        await this.#take(read);
        this.#doneLba = read.lba + read.blockCount;
        this.#reads.leave();
        onProgress();
        await whenBetween(this);
      }
    } finally {
      await this.#reads.settle();
    }
    this.#doneLba = this.#options.segments.at(-1)?.end ?? this.#doneLba;
  }

  /** Makes all that was sent durable; the parts of the run so far, and the block they reach to. */
  async save(): Promise<{ readonly parts: readonly RunPart[]; readonly endLba: number }> {
    await this.#options.packs.flush();
    const part = await this.#options.run.finishPart();
    if (part !== undefined) this.#parts.push(part);
    return { parts: this.#parts, endLba: this.#doneLba };
  }

  /** Begins reads, as many as there is room for. */
  async #ask(): Promise<void> {
    const { pace } = this.#options;
    while (!this.#isPlanned) {
      if (this.#askedLba >= this.#extentEnd) {
        if (!(await this.#plan.next())) {
          this.#isPlanned = true;
          return;
        }
        this.#askedLba = this.#plan.lba;
        this.#extentEnd = this.#askedLba + this.#plan.blockCount;
      }
      const { kind } = this.#plan;
      const left = this.#extentEnd - this.#askedLba;
      const blockCount = kind === EXTENT_KIND.frames ? Math.min(left, READ_BLOCKS_MAX) : left;
      if (!this.#reads.hasRoomFor(kind, blockCount)) return;
      if (kind === EXTENT_KIND.frames) await pace?.(blockCount * BLOCK_BYTES);
      this.#reads.push(this.#askedLba, blockCount, kind);
      this.#askedLba += blockCount;
    }
  }

  async #take({ lba, blockCount, kind, bytes }: OrderedRead): Promise<void> {
    const { run, hidesOlder } = this.#options;
    if (kind === EXTENT_KIND.frames) {
      await this.#takeBlocks(lba, blockCount, bytes);
      return;
    }
    if (kind === EXTENT_KIND.hole && !hidesOlder) return;
    if (run.isPartFull) await this.save();
    run.add(lba, blockCount, kind, 0);
  }

  async #takeBlocks(lba: number, blockCount: number, bytes: Uint8Array): Promise<void> {
    const { run, known } = this.#options;
    assert(bytes.length === blockCount * BLOCK_BYTES, "a read has its blocks");
    const idCount = this.#identify(blockCount, bytes);
    await known.prepare(this.#ids, idCount);
    let idAt = 0;
    for (let index = 0; index < blockCount; index += 1) {
      if (run.isPartFull) await this.#savePart(lba + index);
      const at = index * BLOCK_BYTES;
      if (isZero(bytes, at)) {
        this.zeroBlocks += 1;
        run.add(lba + index, 1, EXTENT_KIND.zero, 0);
        continue;
      }
      let place = known.find(this.#ids, idAt);
      if (place < 0) place = await this.#send(bytes.subarray(at, at + BLOCK_BYTES), idAt);
      else this.knownBlocks += 1;
      run.add(lba + index, 1, EXTENT_KIND.frames, place);
      idAt += CONTENT_ID_BYTES;
    }
    this.readBlocks += blockCount;
  }

  /** Fills `#ids` with those of the blocks that aren't zeros; how many there are. */
  #identify(blockCount: number, bytes: Uint8Array): number {
    let count = 0;
    for (let at = 0; at < blockCount * BLOCK_BYTES; at += BLOCK_BYTES) {
      if (isZero(bytes, at)) continue;
      const block = bytes.subarray(at, at + BLOCK_BYTES);
      this.#options.sealer.contentId(block, this.#ids, count * CONTENT_ID_BYTES);
      count += 1;
    }
    return count;
  }

  async #send(block: Uint8Array, idAt: number): Promise<number> {
    const { packs, known } = this.#options;
    if (packs.isBusy) await packs.drained();
    const place = packs.add(block, this.#ids, idAt);
    known.add(this.#ids, idAt, place);
    this.newBlocks += 1;
    return place;
  }

  /** In the middle of a read. */
  async #savePart(lba: number): Promise<void> {
    this.#doneLba = lba;
    await this.save();
  }
}

function isZero(bytes: Uint8Array, at: number): boolean {
  if (bytes[at] !== 0) return false;
  return Buffer.compare(bytes.subarray(at, at + BLOCK_BYTES), ZERO_BLOCK) === 0;
}
