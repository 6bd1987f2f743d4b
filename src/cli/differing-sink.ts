// SPDX-License-Identifier: Apache-2.0
//
// A volume that is made to hold what a copy gives it, by as few writes as possible: each piece is compared with what is
// there, and only the blocks that differ are written. So putting back a disk of which little has changed makes little
// history, and what didn't change stays shared with the past.

import type { ImageSink } from "../image/image.ts";
import type { NbdClient } from "../nbd/client.ts";
import { ALLOCATION_CONTEXT, RANGE_BYTES_MAX, ZERO_FLAG } from "./volume-image.ts";

const GRANULE_BYTES = 4096;

export class DifferingSink implements ImageSink {
  readonly granuleBytes: number = GRANULE_BYTES;
  readonly isSequential = false;
  readonly #client: NbdClient;
  /** Written, zeros included. */
  changedBytes = 0;

  constructor(client: NbdClient) {
    this.#client = client;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    const before = await this.#client.read(offset, source.length);
    for (let at = 0; at < source.length; ) {
      let end = at;
      while (end < source.length && differs(source, before, end)) end += GRANULE_BYTES;
      if (end > at) {
        const piece = source.subarray(at, end);
        await this.#client.write(offset + at, piece);
        this.changedBytes += piece.length;
        at = end;
      } else at += GRANULE_BYTES;
    }
  }

  async zero(start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      const lengthBytes = Math.min(RANGE_BYTES_MAX, end - at);
      const answer = await this.#client.blockStatus(at, lengthBytes);
      const [first] = answer.get(ALLOCATION_CONTEXT) ?? [];
      const told = first === undefined ? lengthBytes : Math.min(lengthBytes, first.lengthBytes);
      if (first === undefined || (first.flags & ZERO_FLAG) === 0) {
        await this.#client.writeZeroes(at, told);
        this.changedBytes += told;
      }
      at += told;
    }
  }

  /** What lies behind the disk is zeros too. */
  async finish(sizeBytes: number): Promise<void> {
    await this.zero(sizeBytes, this.#client.sizeBytes);
    await this.#client.flush();
  }
}

function differs(source: Uint8Array, before: Uint8Array, at: number): boolean {
  const end = Math.min(source.length, at + GRANULE_BYTES);
  return Buffer.compare(source.subarray(at, end), before.subarray(at, end)) !== 0;
}
