// SPDX-License-Identifier: Apache-2.0
//
// Frames that up to 64 blocks share, compressed together with Zstandard: what garbage collection makes of cold data.
// Blocks that lie side by side are alike, so together they take about half of what they take one by one; the price
// is that reading one of them decompresses all.
//
//   checksum of all that follows | home = its place | stored bytes | codec 1 | slots | 0 | 0 | zstd
//
// The checksum is of what is stored, unlike that of a frame with one block: so recovery can tell a torn frame without
// decompressing it, and the decompressor never sees bytes that aren't ours.

import type { Zstd } from "../host/ports.ts";
import { BLOCK_BYTES, type BlockMemory, FRAME_HEADER_BYTES } from "../reduce/block-memory.ts";

export const SHARED_SLOTS_MAX = 64;
/** Zstandard never makes more of so much; a frame that says otherwise is damaged. */
export const SHARED_STORED_BYTES_MAX: number = SHARED_SLOTS_MAX * BLOCK_BYTES + 4096;
const CODEC_ZSTD = 1;

export class SharedFrames {
  readonly #memory: BlockMemory;
  readonly #zstd: Zstd;

  constructor(memory: BlockMemory, zstd: Zstd) {
    this.#memory = memory;
    this.#zstd = zstd;
  }

  /**
   * Opens the frame at `address`, of which `availableBytes` are there: all of its blocks one behind the other, or a
   * sentence that says why not. The bytes at `address` may be gone when it returns.
   */
  async open(
    address: number,
    availableBytes: number,
    place: { readonly segment: number; readonly offset8: number },
  ): Promise<Uint8Array | string> {
    const { view, bytes } = this.#memory;
    if (availableBytes < FRAME_HEADER_BYTES) return "cut off";
    const isHere =
      view.getUint32(address + 8, true) === place.segment &&
      view.getUint32(address + 12, true) === place.offset8;
    if (!isHere) return "another frame's identity";
    const storedBytes = view.getUint32(address + 16, true);
    const slotCount = view.getUint8(address + 21);
    const isSane =
      view.getUint8(address + 20) === CODEC_ZSTD &&
      view.getUint16(address + 22, true) === 0 &&
      slotCount >= 1 &&
      slotCount <= SHARED_SLOTS_MAX &&
      storedBytes <= SHARED_STORED_BYTES_MAX;
    if (!isSane) return "unknown codec or shape";
    if (availableBytes < FRAME_HEADER_BYTES + storedBytes) return "cut off";
    if (!hasRightChecksum(this.#memory, address, storedBytes)) return "wrong checksum";
    const stored = bytes.slice(
      address + FRAME_HEADER_BYTES,
      address + FRAME_HEADER_BYTES + storedBytes,
    );
    const content = await this.#zstd.decompress(stored, slotCount * BLOCK_BYTES);
    return content?.length === slotCount * BLOCK_BYTES ? content : "its content doesn't decompress";
  }

  /** Compresses blocks that lie one behind the other; undefined when that doesn't make them smaller than `limitBytes`. */
  async compress(content: Uint8Array, limitBytes: number): Promise<Uint8Array | undefined> {
    const stored = await this.#zstd.compress(content);
    return stored.length < limitBytes ? stored : undefined;
  }

  /** Bytes that such a frame takes with its header and padding. */
  static frameBytes(storedBytes: number): number {
    return FRAME_HEADER_BYTES + Math.ceil(storedBytes / 8) * 8;
  }

  /** Writes the frame to `address`. */
  put(
    address: number,
    place: { readonly segment: number; readonly offset8: number },
    frame: { readonly slotCount: number; readonly stored: Uint8Array },
  ): void {
    const { view, bytes } = this.#memory;
    const { slotCount, stored } = frame;
    view.setUint32(address + 8, place.segment, true);
    view.setUint32(address + 12, place.offset8, true);
    view.setUint32(address + 16, stored.length, true);
    view.setUint8(address + 20, CODEC_ZSTD);
    view.setUint8(address + 21, slotCount);
    view.setUint16(address + 22, 0, true);
    const end = address + SharedFrames.frameBytes(stored.length);
    bytes.set(stored, address + FRAME_HEADER_BYTES);
    bytes.fill(0, address + FRAME_HEADER_BYTES + stored.length, end);
    this.#memory.kernel.hash(address + 8, FRAME_HEADER_BYTES - 8 + stored.length, address);
  }
}

/** Whether the bytes of the shared frame at `address` are what was stored. */
export function hasRightChecksum(
  memory: BlockMemory,
  address: number,
  storedBytes: number,
): boolean {
  const checksum = memory.hash(address + 8, FRAME_HEADER_BYTES - 8 + storedBytes);
  return checksum === memory.view.getBigUint64(address, true);
}
