// SPDX-License-Identifier: Apache-2.0
//
// The thread that compresses cold data: one piece after the other, as they are posted. On Linux threads have priorities of
// their own; where that can't be had, it runs like any other.

import { readlinkSync } from "node:fs";
import { constants as osConstants, setPriority } from "node:os";
import { parentPort } from "node:worker_threads";
import { constants, zstdCompressSync } from "node:zlib";

export interface CompressAnswer {
  readonly stored: Uint8Array;
}

const LEVEL = 3;

try {
  const thread = Number(readlinkSync("/proc/thread-self").split("/").at(-1));
  setPriority(thread, osConstants.priority.PRIORITY_LOW);
} catch {
  // No such priorities here.
}

parentPort?.on("message", ({ content }: { readonly content: Uint8Array }) => {
  const params = { [constants.ZSTD_c_compressionLevel]: LEVEL };
  const stored = Uint8Array.from(zstdCompressSync(content, { params }));
  const answer: CompressAnswer = { stored };
  parentPort?.postMessage(answer, [stored.buffer]);
});
