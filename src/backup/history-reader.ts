// SPDX-License-Identifier: Apache-2.0
//
// Reads a history from its beginning to its end, entry by entry, to a visitor. Every page is checked before anything of it
// is told.

import {
  decodeHistoryPage,
  ENTRY_BYTES_MIN,
  HISTORY_PAGE_BYTES,
  type HistoryVisitor,
  historyBatch,
} from "./history-page.ts";
import type { HistoryPart } from "./history-writer.ts";
import { type OpenPart, PartReader, type PartReaderOptions } from "./part-reader.ts";

const LIMITS = {
  bytesMax: HISTORY_PAGE_BYTES,
  thingBytesMin: ENTRY_BYTES_MIN,
  endMax: Number.MAX_SAFE_INTEGER,
  // A change may go on in the next page.
  overlapMax: 1,
} as const;

export class HistoryReader {
  readonly #parts: PartReader;

  constructor(options: PartReaderOptions) {
    this.#parts = new PartReader("history", options, LIMITS);
  }

  /** The part, which has the LSNs that its point says it has. Throws TARGET_CORRUPT. */
  open({ name, firstLsn, endLsn }: HistoryPart): Promise<OpenPart> {
    return this.#parts.open({ name, first: firstLsn, end: endLsn });
  }

  /** Tells all entries of the part. Throws TARGET_CORRUPT, and what the visitor throws. */
  async read(part: HistoryPart, visitor: HistoryVisitor): Promise<void> {
    const open = await this.open(part);
    const { head, object, ordinals } = open;
    const batch = historyBatch();
    for (let page = 0; page < head.pageCount; page += 1) {
      const bytes = await this.#parts.page(open, page);
      const [firstLsn, endLsn] = [head.first(page), head.end(page)];
      const claim = { firstLsn, endLsn, entryCount: head.countOf(page), ordinals };
      const problem = await decodeHistoryPage(bytes, claim, visitor, batch);
      if (problem !== undefined) throw this.#parts.damaged(object.name, `page ${page}: ${problem}`);
    }
  }
}
