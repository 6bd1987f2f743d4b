// SPDX-License-Identifier: Apache-2.0
//
// Zstandard by the runtime's own library. What clients wait for is decompressed in its thread pool. Cold data is
// compressed in a thread of its own, which gets the processor when nobody else wants it: with as many threads as cores a
// quarter of a megabyte at a time (2 ms) would be felt by every client. Level 3 takes 5 to 10 ms a megabyte; higher ones
// win a few per cent of space for several times the time.

import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { zstdDecompress } from "node:zlib";
import type { Zstd } from "../ports.ts";
import type { CompressAnswer } from "./zstd-thread.ts";

const THREAD = new URL(`./zstd-thread${import.meta.url.slice(-3)}`, import.meta.url);
const decompress = promisify(zstdDecompress);

export function createZstd(): Zstd {
  const waiting: ((stored: Uint8Array) => void)[] = [];
  let thread: Worker | undefined;
  const begin = (): Worker => {
    const worker = new Worker(THREAD);
    // Answers come in the order of the questions.
    worker.on("message", ({ stored }: CompressAnswer) => waiting.shift()?.(stored));
    worker.on("error", (error) => {
      throw error;
    });
    return worker;
  };
  return {
    compress: (content) => {
      thread ??= begin();
      const worker = thread;
      worker.ref();
      return new Promise((resolve) => {
        waiting.push((stored) => {
          if (waiting.length === 0) worker.unref();
          resolve(stored);
        });
        const sent = Uint8Array.from(content);
        worker.postMessage({ content: sent }, [sent.buffer]);
      });
    },
    decompress: (stored, bytesMax) =>
      decompress(stored, { maxOutputLength: bytesMax }).catch(() => undefined),
  };
}
