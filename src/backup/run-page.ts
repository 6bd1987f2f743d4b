// SPDX-License-Identifier: Apache-2.0
//
// A page of a run: extents in ascending order, one behind the other (extent-codec.ts), the first one at the page's own
// LBA. A single changed block among a hundred costs two to three bytes. A page stands alone: it is read without any other.

import { assert } from "../base/assert.ts";
import {
  EXTENT_BYTES_MAX,
  EXTENT_BYTES_MIN,
  ExtentDecoder,
  ExtentEncoder,
} from "./extent-codec.ts";
import { ExtentBatch } from "./extents.ts";
import { VarintReader } from "./varint.ts";

export const RUN_PAGE_BYTES: number = 8 << 10;

/** Fills one page after the other. Places are in the ordinals of the part. */
export class RunPageEncoder {
  readonly #bytes: Uint8Array = new Uint8Array(RUN_PAGE_BYTES);
  readonly #encoder: ExtentEncoder = new ExtentEncoder("ascending");
  #length = 0;
  firstLba = 0;
  extentCount = 0;

  get isFull(): boolean {
    return this.#length + EXTENT_BYTES_MAX > RUN_PAGE_BYTES;
  }

  get endLba(): number {
    return this.#encoder.endLba;
  }

  add(lba: number, blockCount: number, kind: number, place: number): void {
    assert(!this.isFull, "a page has room for the extent");
    if (this.extentCount === 0) {
      this.#encoder.begin(lba);
      this.firstLba = lba;
    }
    assert(lba >= this.endLba, "extents ascend");
    const extent = { lba, blockCount, kind, place };
    this.#length = this.#encoder.put(this.#bytes, this.#length, extent);
    this.extentCount += 1;
  }

  /** The page's bytes; then it is empty again. */
  take(): Uint8Array {
    const bytes = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    this.extentCount = 0;
    return bytes;
  }
}

/** What a part's head says of a page. */
export interface RunPageClaim {
  readonly firstLba: number;
  readonly endLba: number;
  readonly extentCount: number;
  /** The program's ordinals of the part's packs, by the part's own. */
  readonly ordinals: Float64Array;
}

/** The page's extents, with places in the program's ordinals; or why they make no sense. */
export function decodeRunPage(bytes: Uint8Array, claim: RunPageClaim): ExtentBatch | string {
  const { extentCount, ordinals, firstLba, endLba } = claim;
  if (extentCount * EXTENT_BYTES_MIN > bytes.length) return "it is too short for its extents";
  const extents = new ExtentBatch(extentCount);
  const reader = new VarintReader(bytes);
  const decoder = new ExtentDecoder(reader, { order: "ascending", ordinals, firstLba });
  for (let index = 0; index < extentCount; index += 1) {
    if (!decoder.next()) return `extent ${index} makes no sense`;
    extents.push(decoder.lba, decoder.blockCount, decoder.kind, decoder.place);
  }
  if (!reader.isAtEnd) return "bytes follow its last extent";
  const last = extentCount - 1;
  const isAsClaimed =
    extents.lbas[0] === firstLba && extents.lbas[last]! + extents.blockCounts[last]! === endLba;
  return isAsClaimed ? extents : "it doesn't cover what the head says";
}
