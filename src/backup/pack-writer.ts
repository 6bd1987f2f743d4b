// SPDX-License-Identifier: Apache-2.0
//
// Packs blocks. `add` is synchronous and gives the block its place at once: it is copied into the open group of 64,
// and a full group goes to the compressor while the next one fills. When the pack has all its slots, or might grow
// beyond 32 MiB, it is put into the target as one object while the next one fills.
//
// Memory is bounded: eight groups under way, one pack that fills and one on its way to the target, 70 MiB in all.
// `isBusy` says that the next block has to wait; who adds all the same breaks the assertion.
//
// A failure is final: the first one is thrown by whatever is called next, and no pack is finished any more.

import { assert } from "../base/assert.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random, Zstd } from "../host/ports.ts";
import {
  CODEC,
  encodePackHead,
  type GroupRow,
  IDS_ORDINAL,
  PACK_BYTES_MAX,
  packHeadBytes,
} from "./pack-head.ts";
import {
  BLOCK_BYTES,
  GROUP_BYTES,
  GROUP_SLOTS,
  PACK_SLOTS_MAX,
  type PackTable,
  placeAt,
} from "./place.ts";
import { FOOTER_BYTES, ObjectMaker, pieceCheck } from "./sealed-object.ts";
import { CONTENT_ID_BYTES, type Sealer } from "./sealing.ts";

/** Two for each of four threads: one is compressed while the other waits. */
const GROUPS_UNDER_WAY_MAX = 8;
/** What a pack has besides groups, at most: ids, head and footer, and what sealing adds. */
const EXTRA_BYTES: number =
  PACK_SLOTS_MAX * CONTENT_ID_BYTES +
  packHeadBytes(PACK_SLOTS_MAX / GROUP_SLOTS) +
  FOOTER_BYTES +
  32;

/** A pack that is safe in the target. */
export interface FinishedPack {
  readonly ordinal: number;
  readonly name: string;
  readonly slotCount: number;
  readonly sizeBytes: number;
  /** Of its slots, 24 bytes each. */
  readonly ids: Uint8Array;
}

export interface PackWriterOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly zstd: Zstd;
  readonly random: Random;
  /** Gives the packs their ordinals and takes their names. */
  readonly packs: PackTable;
  readonly onFinished: (pack: FinishedPack) => void;
}

interface StoredGroup {
  readonly row: GroupRow;
  readonly check: Uint8Array;
  readonly stored: Uint8Array;
}

/** A pack between its first block and its name. */
class PackUnderWay {
  readonly ordinal: number;
  readonly maker: ObjectMaker;
  readonly ids: Uint8Array = new Uint8Array(PACK_SLOTS_MAX * CONTENT_ID_BYTES);
  /** By group; those that are still compressed are missing. */
  readonly groups: StoredGroup[] = [];
  slotCount = 0;
  groupCount = 0;
  /** Groups that are with the compressor. */
  pendingCount = 0;
  storedBytes = 0;
  isClosed = false;

  constructor(ordinal: number, maker: ObjectMaker) {
    this.ordinal = ordinal;
    this.maker = maker;
  }
}

export class PackWriter {
  readonly #options: PackWriterOptions;
  #pack: PackUnderWay | undefined;
  /** The open group's blocks; undefined between groups. */
  #group: Uint8Array | undefined;
  #groupSlots = 0;
  /** Buffers of groups that nobody uses. */
  readonly #spares: Uint8Array[] = [];
  #groupsUnderWay = 0;
  /** Packs that are closed and have no name yet. */
  #packsUnderWay = 0;
  #failure: unknown;
  #wake: (() => void)[] = [];

  constructor(options: PackWriterOptions) {
    this.#options = options;
  }

  /** The next block has no room yet: see `drained`. */
  get isBusy(): boolean {
    if (this.#group !== undefined) return false;
    if (this.#groupsUnderWay >= GROUPS_UNDER_WAY_MAX) return true;
    return this.#packsUnderWay > 0 && (this.#pack === undefined || this.#isFull(this.#pack));
  }

  /** Resolves when there is room for a block. */
  async drained(): Promise<void> {
    while (this.#failure === undefined && this.isBusy) await this.#nextChange();
    this.#throwFailure();
  }

  /** The place of the block, whose id is the 24 bytes at `ids[idAt…]`. Both are copied. */
  add(block: Uint8Array, ids: Uint8Array, idAt: number): number {
    assert(block.length === BLOCK_BYTES, "a pack holds whole blocks");
    assert(!this.isBusy, "who adds a block waits for room");
    this.#throwFailure();
    this.#group ??= this.#openGroup();
    const pack = this.#pack!;
    this.#group.set(block, this.#groupSlots * BLOCK_BYTES);
    const idEnd = (pack.slotCount + 1) * CONTENT_ID_BYTES;
    for (let from = idAt + CONTENT_ID_BYTES, to = idEnd; to > idEnd - CONTENT_ID_BYTES; )
      pack.ids[--to] = ids[--from]!;
    const place = placeAt(pack.ordinal, pack.slotCount);
    pack.slotCount += 1;
    this.#groupSlots += 1;
    if (this.#groupSlots === GROUP_SLOTS) this.#closeGroup();
    return place;
  }

  /** Ends the open pack, however small, and resolves when all that was added is durable. */
  async flush(): Promise<void> {
    if (this.#group !== undefined) this.#closeGroup();
    if (this.#pack !== undefined) this.#closePack();
    while (this.#failure === undefined && this.#packsUnderWay > 0) await this.#nextChange();
    this.#throwFailure();
  }

  #isFull(pack: PackUnderWay): boolean {
    const most = GROUP_BYTES + this.#options.sealer.overheadBytes;
    const bytes = pack.storedBytes + (pack.pendingCount + 1) * most;
    return pack.slotCount === PACK_SLOTS_MAX || bytes + EXTRA_BYTES > PACK_BYTES_MAX;
  }

  #openGroup(): Uint8Array {
    if (this.#pack !== undefined && this.#isFull(this.#pack)) this.#closePack();
    if (this.#pack === undefined) {
      const { packs, sealer, random } = this.#options;
      const maker = new ObjectMaker("pack", sealer, random);
      this.#pack = new PackUnderWay(packs.reserve(), maker);
    }
    this.#groupSlots = 0;
    return this.#spares.pop() ?? new Uint8Array(GROUP_BYTES);
  }

  #closeGroup(): void {
    const pack = this.#pack!;
    const group = this.#group!;
    const index = pack.groupCount;
    const content = group.subarray(0, this.#groupSlots * BLOCK_BYTES);
    pack.groupCount += 1;
    pack.pendingCount += 1;
    this.#groupsUnderWay += 1;
    this.#group = undefined;
    this.#compress(pack, index, content).then(
      (stored) => {
        // Raw groups are still in their buffer, which then leaves with the pack.
        if (stored.stored.buffer !== group.buffer) this.#spares.push(group);
        pack.groups[index] = stored;
        pack.storedBytes += stored.stored.length;
        pack.pendingCount -= 1;
        this.#groupsUnderWay -= 1;
        if (pack.isClosed && pack.pendingCount === 0) this.#beginPut(pack);
        this.#changed();
      },
      (error) => this.#fail(error),
    );
  }

  async #compress(pack: PackUnderWay, ordinal: number, content: Uint8Array): Promise<StoredGroup> {
    const compressed = await this.#options.zstd.compress(content);
    const isSmaller = compressed.length < content.length;
    const stored = pack.maker.seal(ordinal, isSmaller ? compressed : content);
    const codec = isSmaller ? CODEC.zstd : CODEC.raw;
    return { stored, row: { storedBytes: stored.length, codec }, check: pieceCheck(stored) };
  }

  #closePack(): void {
    const pack = this.#pack!;
    assert(this.#group === undefined, "a pack ends between groups");
    assert(pack.slotCount > 0, "a pack has a slot");
    this.#pack = undefined;
    pack.isClosed = true;
    this.#packsUnderWay += 1;
    if (pack.pendingCount === 0) this.#beginPut(pack);
  }

  #beginPut(pack: PackUnderWay): void {
    this.#put(pack).then(
      (finished) => {
        this.#packsUnderWay -= 1;
        this.#options.packs.name(pack.ordinal, finished.name);
        this.#options.onFinished(finished);
        this.#changed();
      },
      (error) => this.#fail(error),
    );
  }

  async #put(pack: PackUnderWay): Promise<FinishedPack> {
    const { ordinal, slotCount, groups, maker } = pack;
    const ids = pack.ids.subarray(0, slotCount * CONTENT_ID_BYTES);
    const storedIds = maker.seal(IDS_ORDINAL, ids);
    const head = encodePackHead({
      slotCount,
      idsStoredBytes: storedIds.length,
      idsCheck: pieceCheck(storedIds),
      groups,
    });
    const pieces = [...groups.map(({ stored }) => stored), storedIds];
    const { name, sizeBytes } = await maker.put(this.#options.store, pieces, head);
    assert(sizeBytes <= PACK_BYTES_MAX, "a pack keeps to its size");
    return { ordinal, name, slotCount, sizeBytes, ids };
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#changed();
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #nextChange(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  #changed(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }
}
