// SPDX-License-Identifier: Apache-2.0
//
// Reads packs: a head once, then groups, neighbours in one request. What was decompressed stays for a while, and who
// asks for a group that is on its way waits for the same one. A group is believed only when its stored bytes have the
// check that the pack's head has, and that head is what the pack's name is a hash of; so one damaged byte costs the 64
// blocks of its group and is never content.

import { assert } from "../base/assert.ts";
import { RecentMap } from "../base/recent-map.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Zstd } from "../host/ports.ts";
import { CODEC, IDS_CHECK_AT, IDS_ORDINAL, PackHead } from "./pack-head.ts";
import { GROUP_BYTES, GROUP_SLOTS, PACK_SLOTS_MAX, type PackTable } from "./place.ts";
import { ObjectOpener, type OpenObject } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** Heads have up to 6 KiB. */
const HEADS_MAX = 512;
const GROUPS_MAX = PACK_SLOTS_MAX / GROUP_SLOTS;

export interface PackReaderOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly zstd: Zstd;
  readonly packs: PackTable;
  /** For decompressed groups; at least four are kept. */
  readonly cacheBytes: number;
}

interface OpenPack {
  readonly object: OpenObject;
  readonly head: PackHead;
}

export class PackReader {
  readonly #sealer: Sealer;
  readonly #zstd: Zstd;
  readonly #packs: PackTable;
  readonly #opener: ObjectOpener;
  readonly #heads: RecentMap<string, Promise<OpenPack>> = new RecentMap(HEADS_MAX);
  /** Decompressed, or on the way to it; by ordinal and group. */
  readonly #groups: RecentMap<number, Promise<Uint8Array>>;

  constructor(options: PackReaderOptions) {
    this.#sealer = options.sealer;
    this.#zstd = options.zstd;
    this.#packs = options.packs;
    this.#opener = new ObjectOpener("pack", options.store, options.sealer);
    this.#groups = new RecentMap(Math.max(4, Math.floor(options.cacheBytes / GROUP_BYTES)));
  }

  /** The pack's head. Throws TARGET_CORRUPT. */
  async head(name: string): Promise<PackHead> {
    return (await this.#open(name)).head;
  }

  /** What the object's length must be. */
  async sizeBytes(name: string): Promise<number> {
    const { head, object } = await this.#open(name);
    return head.bodyBytes + object.tailBytes;
  }

  /** The ids of all slots, 24 bytes each. Throws TARGET_CORRUPT. */
  async ids(name: string): Promise<Uint8Array> {
    const { head, object } = await this.#open(name);
    const stored = await this.#opener.read(name, head.idsOffset, head.idsStoredBytes);
    const place = { ordinal: IDS_ORDINAL, checkAt: IDS_CHECK_AT };
    const ids = this.#opener.piece(object, stored, place);
    if (ids === undefined) throw this.#opener.damaged(name, "its ids");
    return ids;
  }

  /**
   * The blocks of groups [first, end) of a pack, each on its own: one that is damaged rejects alone. They are shared:
   * nobody writes to them. Groups that are not there yet are read together.
   */
  groups(ordinal: number, first: number, end: number): readonly Promise<Uint8Array>[] {
    assert(first >= 0 && first < end && end <= GROUPS_MAX, "these are groups of a pack");
    const found: Promise<Uint8Array>[] = [];
    while (first + found.length < end) {
      const group = first + found.length;
      const known = this.#groups.get(keyOf(ordinal, group));
      if (known !== undefined) {
        found.push(known);
        continue;
      }
      let missingEnd = group + 1;
      while (missingEnd < end && !this.#groups.has(keyOf(ordinal, missingEnd))) missingEnd += 1;
      for (const content of this.#load(ordinal, group, missingEnd)) {
        this.#groups.set(keyOf(ordinal, first + found.length), content);
        found.push(content);
      }
    }
    return found;
  }

  #load(ordinal: number, first: number, end: number): Promise<Uint8Array>[] {
    const name = this.#packs.nameOf(ordinal);
    const together = { first, read: this.#readTogether(name, first, end) };
    together.read.catch(() => undefined);
    const contents: Promise<Uint8Array>[] = [];
    for (let group = first; group < end; group += 1) {
      const content = this.#content(name, group, together);
      // Who asked may have gone, or may have asked ahead of need; and what fails is tried anew the next time.
      content.catch(() => this.#groups.delete(keyOf(ordinal, group)));
      contents.push(content);
    }
    return contents;
  }

  /** Stored bytes of the groups in one piece; undefined where that can't be had. */
  async #readTogether(name: string, first: number, end: number): Promise<Uint8Array | undefined> {
    const { head } = await this.#open(name);
    if (end > head.groupCount) return undefined;
    const offset = head.offset(first);
    const length = head.offset(end) - offset;
    // A place that can't be read costs its group only: then they are read one by one.
    return this.#opener.read(name, offset, length).catch((error: unknown) => {
      if (end - first === 1) throw error;
      return undefined;
    });
  }

  async #content(
    name: string,
    group: number,
    together: { first: number; read: Promise<Uint8Array | undefined> },
  ): Promise<Uint8Array> {
    const { head, object } = await this.#open(name);
    if (group >= head.groupCount) throw this.#opener.damaged(name, `it has no group ${group}`);
    const [offset, length] = [head.offset(group), head.storedBytes(group)];
    const all = await together.read;
    const start = offset - head.offset(together.first);
    const stored =
      all === undefined
        ? await this.#opener.read(name, offset, length)
        : all.subarray(start, start + length);
    const place = { ordinal: group, checkAt: head.checkAt(group) };
    const piece = this.#opener.piece(object, stored, place);
    if (piece === undefined) throw this.#opener.damaged(name, `group ${group}`);
    const contentBytes = head.contentBytes(group);
    // A copy, for a view would keep all that was read together.
    if (head.codec(group) === CODEC.raw) return piece.slice();
    const content = await this.#zstd.decompress(piece, contentBytes);
    if (content?.length !== contentBytes)
      throw this.#opener.damaged(name, `group ${group} does not decompress`);
    return content;
  }

  #open(name: string): Promise<OpenPack> {
    const known = this.#heads.get(name);
    if (known !== undefined) return known;
    const opened = this.#readHead(name);
    opened.catch(() => this.#heads.delete(name));
    this.#heads.set(name, opened);
    return opened;
  }

  async #readHead(name: string): Promise<OpenPack> {
    const object = await this.#opener.open(name);
    const head = PackHead.parse(object.head, this.#sealer.overheadBytes);
    if (typeof head === "string") throw this.#opener.damaged(name, head);
    return { object, head };
  }
}

function keyOf(ordinal: number, group: number): number {
  return ordinal * GROUPS_MAX + group;
}
