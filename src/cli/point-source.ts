// SPDX-License-Identifier: Apache-2.0
//
// A volume of a point as the source of a copy: what is lost ends it, or is remembered and reads as zeros. Before each read
// the lease is looked at: what a prune may have deleted isn't taken for damage.

import type { PointImage } from "../backup/point-image.ts";
import type { Extent, ImageSource } from "../image/image.ts";
import type { DamagedExtent } from "./volume-image.ts";

export interface PointSourceOptions {
  readonly isDamageSkipped: boolean;
  /** Called before each read; throws when reading isn't safe any more. */
  readonly check: () => void;
}

export class PointSource implements ImageSource {
  readonly format = "backup";
  readonly warnings: readonly string[] = [];
  readonly sizeBytes: number;
  readonly #image: PointImage;
  readonly #options: PointSourceOptions;
  readonly #damaged: DamagedExtent[] = [];

  constructor(image: PointImage, options: PointSourceOptions) {
    this.#image = image;
    this.#options = options;
    this.sizeBytes = image.sizeBytes;
  }

  /** What was lost so far, ascending; neighbours are one. */
  get damaged(): readonly DamagedExtent[] {
    const merged: DamagedExtent[] = [];
    for (const extent of this.#damaged.toSorted((a, b) => a.startBytes - b.startBytes)) {
      const last = merged.at(-1);
      if (last?.endBytes !== extent.startBytes) merged.push(extent);
      else merged[merged.length - 1] = { ...last, endBytes: extent.endBytes };
    }
    return merged;
  }

  extentAt(offset: number, enough?: number): Promise<Extent> {
    return this.#image.extentAt(offset, enough);
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const { isDamageSkipped, check } = this.#options;
    check();
    if (!isDamageSkipped) return this.#image.read(target, offset);
    for (const { start, end } of await this.#image.readLenient(target, offset))
      this.#damaged.push({ startBytes: start, endBytes: end });
  }

  close(): Promise<void> {
    return this.#image.close();
  }
}
