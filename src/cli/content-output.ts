// SPDX-License-Identifier: Apache-2.0
//
// A volume's content to stdout: into an empty file at its positions, so that what is zeros stays a hole; into
// anything else one byte behind the other, zeros included.

import { emptyStdoutFile } from "../host/node/empty-stdout.ts";
import type { Output } from "./output.ts";

export interface ContentOutput {
  /** Ascending; what is left out is zeros. The bytes are read before it resolves. */
  write(bytes: Uint8Array, offset: number): Promise<void>;
  finish(sizeBytes: number): Promise<void>;
}

const ZEROS = new Uint8Array(1 << 20);

export function contentOutput(output: Output): ContentOutput {
  const file = emptyStdoutFile();
  if (file === undefined) return new StreamOutput(output);
  return {
    write: (bytes, offset) => file.write(bytes, offset),
    finish: (sizeBytes) => file.truncate(sizeBytes),
  };
}

class StreamOutput implements ContentOutput {
  readonly #output: Output;
  #writtenBytes = 0;

  constructor(output: Output) {
    this.#output = output;
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    await this.finish(offset);
    // The reader uses its memory again, and a pipe may still hold the bytes.
    await this.#output.bytes(bytes.slice());
    this.#writtenBytes += bytes.length;
  }

  async finish(sizeBytes: number): Promise<void> {
    while (this.#writtenBytes < sizeBytes) {
      const lengthBytes = Math.min(ZEROS.length, sizeBytes - this.#writtenBytes);
      await this.#output.bytes(ZEROS.subarray(0, lengthBytes));
      this.#writtenBytes += lengthBytes;
    }
  }
}
