// SPDX-License-Identifier: Apache-2.0
//
// Reads the parts of runs and histories: a head once, then pages, each checked against the head. Packs that a head names
// get ordinals of the program, so whoever reads on speaks of all packs in one way.

import type { StorageError } from "../base/errors.ts";
import { RecentMap } from "../base/recent-map.ts";
import type { ObjectStore } from "../host/object-store.ts";
import { PagedHead, type PageLimits } from "./paged-head.ts";
import type { PackTable } from "./place.ts";
import { ObjectOpener, type OpenObject } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** A head has some 50 bytes a page, and 32 a pack; a part of a point is one of a few. */
const HEADS_MAX = 128;

export interface PartReaderOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly packs: PackTable;
}

/** What a manifest says of a part. */
export interface PartClaim {
  readonly name: string;
  readonly first: number;
  readonly end: number;
}

/** A part whose head is known. */
export interface OpenPart {
  readonly object: OpenObject;
  readonly head: PagedHead;
  /** The program's ordinals of its packs, by the part's own. */
  readonly ordinals: Float64Array;
}

export class PartReader {
  readonly #options: PartReaderOptions;
  readonly #limits: PageLimits;
  readonly #opener: ObjectOpener;
  readonly #parts: RecentMap<string, Promise<OpenPart>> = new RecentMap(HEADS_MAX);

  constructor(kind: "run" | "history", options: PartReaderOptions, limits: PageLimits) {
    this.#options = options;
    this.#limits = limits;
    this.#opener = new ObjectOpener(kind, options.store, options.sealer);
  }

  /** Throws TARGET_CORRUPT. */
  open(part: PartClaim): Promise<OpenPart> {
    const { name } = part;
    const known = this.#parts.get(name);
    if (known !== undefined) return known;
    const opened = this.#readHead(part);
    opened.catch(() => this.#parts.delete(name));
    this.#parts.set(name, opened);
    return opened;
  }

  /** The bytes of a page. Throws TARGET_CORRUPT. */
  async page({ head, object }: OpenPart, index: number): Promise<Uint8Array> {
    const { name } = object;
    const stored = await this.#opener.read(name, head.offset(index), head.storedBytes(index));
    const place = { ordinal: index, checkAt: head.checkAt(index) };
    const bytes = this.#opener.piece(object, stored, place);
    if (bytes === undefined) throw this.#opener.damaged(name, `page ${index}`);
    return bytes;
  }

  damaged(name: string, why: string): StorageError {
    return this.#opener.damaged(name, why);
  }

  async #readHead({ name, first, end }: PartClaim): Promise<OpenPart> {
    const object = await this.#opener.open(name);
    const { sealer, packs } = this.#options;
    const head = PagedHead.parse(object.head, sealer.overheadBytes, this.#limits);
    if (typeof head === "string") throw this.#opener.damaged(name, head);
    // The name proves the head, and a manifest names the part: they can differ only by a mistake of who wrote them.
    if (head.first(0) !== first || head.end(head.pageCount - 1) !== end)
      throw this.#opener.damaged(name, "it has another place than its point says");
    const ordinals = new Float64Array(head.packCount);
    for (let own = 0; own < head.packCount; own += 1)
      ordinals[own] = packs.ordinalOf(head.packName(own));
    return { object, head, ordinals };
  }
}
