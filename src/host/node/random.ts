// SPDX-License-Identifier: Apache-2.0
//
// The real source of chance: the kernel's generator. It gives identities (of a pool, of an incarnation
// of its writer) and jitter. Nothing depends on it for correctness, so a simulation replaces it by a
// seeded one and repeats itself.

import { randomFillSync } from "node:crypto";
import type { Random } from "../ports.ts";

export function createRandom(): Random {
  return {
    fill: (bytes) => {
      randomFillSync(bytes);
    },
  };
}
