// SPDX-License-Identifier: Apache-2.0
//
// A cache with a limit in bytes, for what a qcow2 image makes us read again and again: pages of its
// tables, and clusters that were decompressed. One cache serves a whole backing chain, so the memory that
// an image can claim is one number whatever its tables say. What is being loaded counts from the start,
// and whoever asks for it meanwhile waits for the same load. The least recently used goes first.

import { assert } from "../base/assert.ts";

export class ByteCache {
  readonly #bytesMax: number;
  /** In order of use, oldest first. */
  readonly #items = new Map<string, { readonly bytes: number; readonly value: Promise<Buffer> }>();
  #usedBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** What `key` names; `load` brings it, at most `bytes` long, where it isn't there. */
  get(key: string, bytes: number, load: () => Promise<Buffer>): Promise<Buffer> {
    const known = this.#items.get(key);
    if (known) {
      this.#items.delete(key);
      this.#items.set(key, known);
      return known.value;
    }
    const item = { bytes, value: load() };
    this.#items.set(key, item);
    this.#usedBytes += bytes;
    // A failure isn't remembered: the next one who asks tries again.
    item.value.catch(() => this.#drop(key, item));
    for (const [oldKey, old] of this.#items) {
      if (this.#usedBytes <= this.#bytesMax) break;
      if (old !== item) this.#drop(oldKey, old);
    }
    assert(this.#usedBytes <= Math.max(this.#bytesMax, bytes), "a cache keeps to its limit");
    return item.value;
  }

  #drop(key: string, item: { readonly bytes: number }): void {
    if (this.#items.get(key) !== item) return;
    this.#items.delete(key);
    this.#usedBytes -= item.bytes;
  }
}
