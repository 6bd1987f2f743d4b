// SPDX-License-Identifier: Apache-2.0
//
// Reads runs. Decoded pages stay for a while, for all runs of a point together: a page is 8 KiB, a few thousand extents,
// and a volume that is read at random comes back to the same ones.

import { RecentMap } from "../base/recent-map.ts";
import { EXTENT_BYTES_MIN } from "./extent-codec.ts";
import type { ExtentBatch } from "./extents.ts";
import { type OpenPart, PartReader, type PartReaderOptions } from "./part-reader.ts";
import { LBA_END_MAX } from "./place.ts";
import { decodeRunPage, RUN_PAGE_BYTES } from "./run-page.ts";
import type { RunPart } from "./run-writer.ts";

/** Decoded, a page has at most 100 KiB. */
const PAGES_MAX = 256;

const LIMITS = {
  bytesMax: RUN_PAGE_BYTES,
  thingBytesMin: EXTENT_BYTES_MIN,
  endMax: LBA_END_MAX,
  overlapMax: 0,
} as const;

export class RunReader {
  readonly #parts: PartReader;
  readonly #pages: RecentMap<string, ExtentBatch> = new RecentMap(PAGES_MAX);

  constructor(options: PartReaderOptions) {
    this.#parts = new PartReader("run", options, LIMITS);
  }

  /** The part, which has the LBAs that its run says it has. Throws TARGET_CORRUPT. */
  open({ name, firstLba, endLba }: RunPart): Promise<OpenPart> {
    return this.#parts.open({ name, first: firstLba, end: endLba });
  }

  /** The extents of a page, shared: nobody changes them. Throws TARGET_CORRUPT. */
  async page(part: OpenPart, index: number): Promise<ExtentBatch> {
    const { head, object, ordinals } = part;
    const key = `${object.name}:${index}`;
    const known = this.#pages.get(key);
    if (known !== undefined) return known;
    const bytes = await this.#parts.page(part, index);
    const [firstLba, endLba] = [head.first(index), head.end(index)];
    const claim = { firstLba, endLba, extentCount: head.countOf(index), ordinals };
    const extents = decodeRunPage(bytes, claim);
    if (typeof extents === "string")
      throw this.#parts.damaged(object.name, `page ${index}: ${extents}`);
    this.#pages.set(key, extents);
    return extents;
  }
}
