// SPDX-License-Identifier: Apache-2.0
//
// Sends a volume's moments of a window before the point: what it was at the window's begin, as a run on top of the point's
// own (what differs, looked at backwards), and then each change in the order of the log. Blocks of the past go into packs
// like all others, and most of them are known by then.

import type { BlockSource } from "./block-source.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { type HistoryEntry, type HistoryPart, HistoryWriter } from "./history-writer.ts";
import type { ManifestMoment } from "./manifest.ts";
import type { PackWriter } from "./pack-writer.ts";
import type { PartWriterOptions } from "./part-writer.ts";
import { BLOCK_BYTES } from "./place.ts";
import { CONTENT_ID_BYTES, type Sealer } from "./sealing.ts";
import type { KnownContent } from "./volume-backup.ts";

/** What happened to a volume in a window that ends with the point. */
export interface VolumeHistory {
  readonly from: ManifestMoment;
  /** At that moment. */
  readonly sizeBytes: number;
  readonly source: BlockSource;
  /** Words for the point's moment, for the source's changedSince. */
  readonly pointWords: string;
  /** Tells everything behind `from`, up to the point, in the order of the log. */
  tell(take: (event: HistoryEvent) => Promise<void>): Promise<void>;
}

export interface HistoryEvent extends HistoryEntry {
  readonly kind: "write" | "zero" | "trim" | "flush" | "name";
  /** Whole blocks; 0 for flushes and names, as is the length. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** write: its bytes, valid during the call. */
  readonly data: Uint8Array | undefined;
  readonly name?: string;
}

/** Of one record: 257 blocks at most. */
const EXTENTS_MAX = 4096;

export class HistoryBackup {
  readonly #packs: PackWriter;
  readonly #known: KnownContent;
  readonly #sealer: Sealer;
  readonly #writer: HistoryWriter;
  readonly #parts: HistoryPart[] = [];
  readonly #id: Uint8Array = new Uint8Array(CONTENT_ID_BYTES);
  /** Of the change that may still get more: events of one record make one. */
  readonly #extents: ExtentBatch = new ExtentBatch(EXTENTS_MAX);
  #entry: HistoryEntry = { lsn: 0, timeMicros: 0 };

  constructor(options: PartWriterOptions & { blocks: PackWriter; known: KnownContent }) {
    this.#packs = options.blocks;
    this.#known = options.known;
    this.#sealer = options.sealer;
    this.#writer = new HistoryWriter(options);
  }

  /** Sends all of it, durably. */
  async run(history: VolumeHistory): Promise<readonly HistoryPart[]> {
    await history.tell((event) => this.#take(event));
    await this.#endChange();
    await this.#finishPart();
    return this.#parts;
  }

  async #take(event: HistoryEvent): Promise<void> {
    const { lsn, kind, offsetBytes, lengthBytes, data, name } = event;
    const isMore = lsn === this.#entry.lsn && !this.#extents.isFull;
    if (!isMore || kind === "flush" || kind === "name") await this.#endChange();
    this.#entry = { lsn, timeMicros: Math.max(event.timeMicros, this.#entry.timeMicros) };
    if (kind === "flush") this.#writer.flushed(this.#entry);
    else if (kind === "name") this.#writer.named(this.#entry, name ?? "");
    else if (kind === "write" && data !== undefined)
      await this.#takeBlocks(offsetBytes / BLOCK_BYTES, data);
    else {
      const what = kind === "zero" ? EXTENT_KIND.zero : EXTENT_KIND.hole;
      this.#extents.push(offsetBytes / BLOCK_BYTES, Math.ceil(lengthBytes / BLOCK_BYTES), what, 0);
    }
  }

  async #takeBlocks(first: number, data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; at += BLOCK_BYTES) {
      if (this.#extents.isFull) await this.#endChange();
      const place = await this.#placeOf(data.subarray(at, at + BLOCK_BYTES));
      this.#extents.push(first + at / BLOCK_BYTES, 1, EXTENT_KIND.frames, place);
    }
  }

  async #placeOf(block: Uint8Array): Promise<number> {
    const [known, packs, id] = [this.#known, this.#packs, this.#id];
    this.#sealer.contentId(block, id, 0);
    await known.prepare(id, 1);
    const found = known.find(id, 0);
    if (found >= 0) return found;
    if (packs.isBusy) await packs.drained();
    const place = packs.add(block, id, 0);
    known.add(id, 0, place);
    return place;
  }

  async #endChange(): Promise<void> {
    if (this.#extents.length > 0) this.#writer.changed(this.#entry, this.#extents, false);
    this.#extents.clear();
    if (this.#writer.isPartFull) await this.#finishPart();
  }

  async #finishPart(): Promise<void> {
    await this.#packs.flush();
    const part = await this.#writer.finishPart();
    if (part !== undefined) this.#parts.push(part);
  }
}
