// SPDX-License-Identifier: Apache-2.0
//
// Writes one run, front to back, through one megabyte of staging. Nodes are encoded in place and leave when
// the buffer is full; nothing is read back.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Directory, DiskFile } from "../host/ports.ts";
import { FORMAT_VERSION } from "../log/batch.ts";
import { hashOutside } from "../log/outside-hash.ts";
import { putU64 } from "../log/record.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import {
  DIRECTORY_BYTES_MAX,
  NODE_HEADER_BYTES,
  type NodeIdentity,
  RUN_HEADER_BYTES,
  RUN_HEADER_CHECKSUM_AT,
  RUN_TRAILER_BYTES,
  RUN_TRAILER_CHECKSUM_AT,
  runName,
  sealNode,
} from "./run-file.ts";

const BUFFER_BYTES = 1 << 20;

export class RunWriter {
  readonly number: number;
  readonly #memory: BlockMemory;
  readonly #file: DiskFile;
  readonly #buffer: number;
  #buffered = 0;
  #offset = 0;
  #isClosed = false;
  nodeCount = 0;

  private constructor(memory: BlockMemory, file: DiskFile, number: number) {
    this.#memory = memory;
    this.#file = file;
    this.number = number;
    this.#buffer = memory.staging.allocate(BUFFER_BYTES);
    if (this.#buffer < 0)
      throw new StorageError(
        "BUSY",
        `index: ${runName(number)} not written: no staging memory is free`,
      );
  }

  static async create(options: {
    memory: BlockMemory;
    directory: Directory;
    number: number;
    poolId: Uint8Array;
    nextLsn: number;
    incarnation: number;
  }): Promise<RunWriter> {
    const { memory } = options;
    const file = await options.directory.open(runName(options.number), "create");
    const writer = new RunWriter(memory, file, options.number);
    const at = writer.#buffer;
    memory.bytes.fill(0, at, at + RUN_HEADER_BYTES);
    for (const [index, char] of [..."VARVERUN"].entries())
      memory.bytes[at + index] = char.charCodeAt(0);
    memory.view.setUint16(at + 8, FORMAT_VERSION, true);
    memory.bytes.set(options.poolId, at + 16);
    putU64(memory.view, at + 32, options.number);
    putU64(memory.view, at + 40, options.incarnation);
    putU64(memory.view, at + 48, options.nextLsn);
    memory.kernel.hash(at, RUN_HEADER_CHECKSUM_AT, at + RUN_HEADER_CHECKSUM_AT);
    writer.#buffered = RUN_HEADER_BYTES;
    return writer;
  }

  /**
   * Adds a node that `encode` writes at the address it is given (at most DIRECTORY_BYTES_MAX bytes). Returns
   * the node's offset / 8.
   */
  async add(
    identity: NodeIdentity,
    encode: (target: number) => { lengthBytes: number; count: number; encoding: number },
  ): Promise<number> {
    if (this.#buffered + DIRECTORY_BYTES_MAX > BUFFER_BYTES) await this.#write();
    const target = this.#buffer + this.#buffered;
    const offset = this.#offset + this.#buffered;
    const encoded = encode(target);
    sealNode(this.#memory, target, { ...identity, ...encoded, run: this.number, offset });
    this.#buffered += encoded.lengthBytes;
    this.nodeCount += 1;
    return offset / 8;
  }

  /** Adds the body, which may be of any size, ends the run and makes it durable. */
  async finish(
    identity: NodeIdentity,
    body: Uint8Array,
  ): Promise<{ bodyOffset: number; bodyBytes: number; sizeBytes: number }> {
    await this.#write();
    const bodyOffset = this.#offset;
    const padded = (body.length + 7) & ~7;
    const bytes = new Uint8Array(NODE_HEADER_BYTES + padded + RUN_TRAILER_BYTES);
    bytes.set(body, NODE_HEADER_BYTES);
    const header = this.#memory.scratchAddress + 24576;
    const { view } = this.#memory;
    this.#memory.bytes.fill(0, header, header + NODE_HEADER_BYTES);
    view.setUint32(header + 8, this.number, true);
    view.setUint32(header + 12, bodyOffset / 8, true);
    view.setUint8(header + 16, identity.kind);
    view.setUint32(header + 28, padded, true);
    bytes.set(this.#memory.bytes.subarray(header, header + NODE_HEADER_BYTES));
    const checksum = hashOutside(this.#memory, bytes.subarray(8, NODE_HEADER_BYTES + padded));
    const out = new DataView(bytes.buffer);
    out.setBigUint64(0, checksum, true);
    const trailer = NODE_HEADER_BYTES + padded;
    for (const [index, char] of [..."VRUNFOOT"].entries())
      bytes[trailer + index] = char.charCodeAt(0);
    out.setUint32(trailer + 8, this.number, true);
    out.setUint32(trailer + 12, FORMAT_VERSION, true);
    putU64(out, trailer + 16, bodyOffset);
    putU64(out, trailer + 24, NODE_HEADER_BYTES + padded);
    putU64(out, trailer + 32, this.nodeCount);
    out.setBigUint64(
      trailer + RUN_TRAILER_CHECKSUM_AT,
      hashOutside(this.#memory, bytes.subarray(trailer, trailer + RUN_TRAILER_CHECKSUM_AT)),
      true,
    );
    await this.#file.write(bytes, bodyOffset);
    await this.#file.datasync();
    await this.#close();
    return {
      bodyOffset,
      bodyBytes: NODE_HEADER_BYTES + padded,
      sizeBytes: bodyOffset + bytes.length,
    };
  }

  async abandon(): Promise<void> {
    await this.#close();
  }

  async #close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#memory.staging.release(this.#buffer);
    await this.#file.close();
  }

  async #write(): Promise<void> {
    assert(this.#buffered <= BUFFER_BYTES, "a node fits the buffer");
    await this.#file.write(
      this.#memory.bytes.subarray(this.#buffer, this.#buffer + this.#buffered),
      this.#offset,
    );
    this.#offset += this.#buffered;
    this.#buffered = 0;
  }
}
