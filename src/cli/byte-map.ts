// SPDX-License-Identifier: Apache-2.0
//
// Changes as blksnap's readcbtmap prints them: a byte for each piece of the disk, which holds the number of the last step in
// which anything in it changed. Who has a copy of step N reads the pieces whose byte is larger.

import type { DiffHeadJson } from "../api/diff.ts";
import { StorageError } from "../base/errors.ts";
import { formatSize } from "../base/units.ts";

/** It is held in memory, and so is whoever reads it. */
const MAP_BYTES_MAX = 256 << 20;

export class ByteMap {
  readonly #granularityBytes: number;
  #step = 0;
  /** Of the disk as it was in the last step. */
  bytes: Uint8Array = new Uint8Array(0);

  constructor(granularityBytes: number) {
    this.#granularityBytes = granularityBytes;
  }

  /** Steps come in order. What the disk grew by counts as changed: an earlier step may have cut it off. Throws USAGE. */
  begin(step: number, { from, to }: Pick<DiffHeadJson, "from" | "to">): void {
    this.#step = step;
    const length = Math.ceil(to.sizeBytes / this.#granularityBytes);
    if (length > MAP_BYTES_MAX) {
      throw new StorageError(
        "USAGE",
        `map: not written: it would have ${formatSize(length)}, and ${formatSize(MAP_BYTES_MAX)} are the limit`,
        { hint: "take larger pieces: --granularity 1M" },
      );
    }
    const before = this.bytes;
    this.bytes = new Uint8Array(length);
    this.bytes.set(before.subarray(0, length));
    if (to.sizeBytes > from.sizeBytes)
      this.bytes.fill(step, Math.floor(from.sizeBytes / this.#granularityBytes));
  }

  add(offsetBytes: number, lengthBytes: number): void {
    const from = Math.floor(offsetBytes / this.#granularityBytes);
    const end = Math.ceil((offsetBytes + lengthBytes) / this.#granularityBytes);
    this.bytes.fill(this.#step, from, end);
  }

  get changedCount(): number {
    let count = 0;
    for (const byte of this.bytes) if (byte > 0) count += 1;
    return count;
  }
}
