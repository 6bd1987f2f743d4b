// SPDX-License-Identifier: Apache-2.0
//
// Zstandard without threads: the same bytes in the same turn, so that a run repeats itself. It is the library that
// the real one uses, at its usual level.

import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import type { Zstd } from "../host/ports.ts";

export const SIM_ZSTD: Zstd = {
  compress: (content) => Promise.resolve(zstdCompressSync(content)),
  decompress: (stored, bytesMax) => {
    try {
      return Promise.resolve(zstdDecompressSync(stored, { maxOutputLength: bytesMax }));
    } catch {
      return Promise.resolve(undefined);
    }
  },
};
