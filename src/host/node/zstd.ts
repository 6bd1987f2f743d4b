// SPDX-License-Identifier: Apache-2.0
//
// Zstandard by the runtime's own library, in its thread pool: cold data is compressed and read while the event loop
// goes on. Level 3 takes 5 to 10 ms a megabyte; higher ones win a few per cent of space for several times the time.

import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import type { Zstd } from "../ports.ts";

const LEVEL = 3;
const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

export function createZstd(): Zstd {
  return {
    compress: (content) =>
      compress(content, { params: { [constants.ZSTD_c_compressionLevel]: LEVEL } }),
    decompress: (stored, bytesMax) =>
      decompress(stored, { maxOutputLength: bytesMax }).catch(() => undefined),
  };
}
