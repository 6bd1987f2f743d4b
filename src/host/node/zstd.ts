// SPDX-License-Identifier: Apache-2.0
//
// Zstandard by the runtime's own library. What clients wait for is decompressed in its thread pool. In a daemon, cold
// data is compressed in a thread of its own, which gets the processor when nobody else wants it: with as many threads as
// cores a quarter of a megabyte at a time (2 ms) would be felt by every client. A program that does nothing else, like a
// backup, compresses in the thread pool too. Level 3 takes 5 to 10 ms a megabyte; higher ones win a few per cent of space
// for several times the time.
//
// The runtime hands pieces of 16 KiB to and fro unless it is told how much will come: then compressing takes a third less
// time, and decompressing half.

import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import type { Zstd } from "../ports.ts";
import type { CompressAnswer } from "./zstd-thread.ts";

const THREAD = new URL(`./zstd-thread${import.meta.url.slice(-3)}`, import.meta.url);
const LEVEL = 3;
/** What the runtime takes for a piece at least. */
const PIECE_BYTES_MIN = 64;

const compressInPool = promisify(zstdCompress);
const decompressInPool = promisify(zstdDecompress);

/** For a program whose own work this is: many pieces at once, in the thread pool. */
export function createParallelZstd(): Zstd {
  return {
    compress: (content) =>
      compressInPool(content, {
        params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
        pledgedSrcSize: content.length,
        // What doesn't shrink grows by less.
        chunkSize: content.length + 1024,
      }),
    decompress,
  };
}

/** For a daemon: see above. */
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
    decompress,
  };
}

function decompress(stored: Uint8Array, bytesMax: number): Promise<Uint8Array | undefined> {
  const chunkSize = Math.max(PIECE_BYTES_MIN, bytesMax);
  return decompressInPool(stored, { maxOutputLength: bytesMax, chunkSize }).catch(() => undefined);
}
