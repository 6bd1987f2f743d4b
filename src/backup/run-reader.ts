// SPDX-License-Identifier: Apache-2.0
//
// Reads run parts: a head once, then pages. Decoded pages stay for a while, for all runs of a point together; a page is
// 16 KiB, a few thousand extents. What it says of packs is translated at once into the program's own ordinals.

import { RecentMap } from "../base/recent-map.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { ExtentBatch } from "./extents.ts";
import type { PackTable } from "./place.ts";
import { RunHead } from "./run-head.ts";
import { decodeRunPage } from "./run-page.ts";
import type { RunPart } from "./run-writer.ts";
import { ObjectOpener, type OpenObject } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** Decoded, a page has at most 200 KiB. */
const PAGES_MAX = 128;
/** A head has some 100 bytes per 16 KiB of pages; a part of a point is one of a few. */
const HEADS_MAX = 128;

export interface RunReaderOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly packs: PackTable;
}

/** A part whose head is known. */
export interface OpenRunPart {
  readonly object: OpenObject;
  readonly head: RunHead;
  /** The program's ordinals of its packs, by the part's own. */
  readonly ordinals: Float64Array;
}

export class RunReader {
  readonly #options: RunReaderOptions;
  readonly #opener: ObjectOpener;
  readonly #parts: RecentMap<string, Promise<OpenRunPart>> = new RecentMap(HEADS_MAX);
  readonly #pages: RecentMap<string, ExtentBatch> = new RecentMap(PAGES_MAX);

  constructor(options: RunReaderOptions) {
    this.#options = options;
    this.#opener = new ObjectOpener("run", options.store, options.sealer);
  }

  /** The part, which has all that its run says it has. Throws TARGET_CORRUPT. */
  open(part: RunPart): Promise<OpenRunPart> {
    const { name } = part;
    const known = this.#parts.get(name);
    if (known !== undefined) return known;
    const opened = this.#readHead(part);
    opened.catch(() => this.#parts.delete(name));
    this.#parts.set(name, opened);
    return opened;
  }

  /** The extents of a page, shared: nobody changes them. Throws TARGET_CORRUPT. */
  async page(part: OpenRunPart, index: number): Promise<ExtentBatch> {
    const { head, object, ordinals } = part;
    const key = `${object.name}:${index}`;
    const known = this.#pages.get(key);
    if (known !== undefined) return known;
    const { name } = object;
    const stored = await this.#opener.read(name, head.offset(index), head.storedBytes(index));
    const place = { ordinal: index, checkAt: head.checkAt(index) };
    const piece = this.#opener.piece(object, stored, place);
    if (piece === undefined) throw this.#opener.damaged(name, `page ${index}`);
    const extents = decodeRunPage(piece, {
      firstLba: head.firstLba(index),
      endLba: head.endLba(index),
      extentCount: head.extentsOf(index),
      ordinals,
    });
    if (typeof extents === "string") throw this.#opener.damaged(name, `page ${index}: ${extents}`);
    this.#pages.set(key, extents);
    return extents;
  }

  async #readHead(part: RunPart): Promise<OpenRunPart> {
    const { name } = part;
    const object = await this.#opener.open(name);
    const head = RunHead.parse(object.head, this.#options.sealer.overheadBytes);
    if (typeof head === "string") throw this.#opener.damaged(name, head);
    // The name proves the head, and a manifest the part; they can only differ by a mistake of who wrote them.
    if (head.firstLba(0) !== part.firstLba || head.endLba(head.pageCount - 1) !== part.endLba)
      throw this.#opener.damaged(name, "it has other LBAs than its run says");
    const ordinals = new Float64Array(head.packCount);
    for (let own = 0; own < head.packCount; own += 1)
      ordinals[own] = this.#options.packs.ordinalOf(head.packName(own));
    return { object, head, ordinals };
  }
}
