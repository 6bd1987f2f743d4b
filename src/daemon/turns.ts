// SPDX-License-Identifier: Apache-2.0
//
// So many at once; the others stand in line, in the order of coming. Whoever lets them stand there bounds how many they
// are: each is a promise.

import { assert } from "../base/assert.ts";

export class Turns {
  #freeCount: number;
  /** In the order of coming. */
  readonly #waiting: (() => void)[] = [];

  constructor(countMax: number) {
    this.#freeCount = countMax;
  }

  /** Resolves when it is the caller's turn, with the function that ends it. */
  async enter(): Promise<() => void> {
    if (this.#freeCount > 0) this.#freeCount -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let isOver = false;
    return () => {
      assert(!isOver, "a turn ends once");
      isOver = true;
      const next = this.#waiting.shift();
      if (next === undefined) this.#freeCount += 1;
      else next();
    };
  }
}
