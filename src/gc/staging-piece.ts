// SPDX-License-Identifier: Apache-2.0
//
// Staging memory for what runs in the background: checkpoints and footers can't wait for it, so whoever can gives way
// to them and asks again.

import type { Clock } from "../host/ports.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";

const RETRY_MS = 5;

/** The address of a piece, to be released with `memory.staging.release`. */
export async function stagingPiece(
  options: { readonly memory: BlockMemory; readonly clock: Clock },
  lengthBytes: number,
): Promise<number> {
  for (;;) {
    const address = options.memory.staging.allocate(lengthBytes);
    if (address >= 0) return address;
    await new Promise<void>((resolve) => options.clock.after(RETRY_MS, resolve));
  }
}
