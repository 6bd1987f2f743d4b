// SPDX-License-Identifier: Apache-2.0
//
// A map that keeps the entries used last, up to a number of them. For things that are read from disk and never change:
// whatever goes is read again.

import { assert } from "./assert.ts";

export class RecentMap<K, V> {
  readonly #entries: Map<K, V> = new Map();
  readonly #max: number;

  constructor(max: number) {
    assert(max > 0, "a map keeps something");
    this.#max = max;
  }

  get(key: K): V | undefined {
    const value = this.#entries.get(key);
    if (value === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, value);
    return value;
  }

  /** Without using it. */
  has(key: K): boolean {
    return this.#entries.has(key);
  }

  delete(key: K): void {
    this.#entries.delete(key);
  }

  set(key: K, value: V): void {
    this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size <= this.#max) return;
    const [oldest] = this.#entries.keys();
    this.#entries.delete(oldest as K);
  }
}
