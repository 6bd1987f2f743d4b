// SPDX-License-Identifier: Apache-2.0
//
// Compresses and decompresses single clusters, off the main thread. The input of the decompressor is
// hostile: it may say anything, but yields exactly one cluster or nothing, with at most a window of
// WINDOW_BITS_MAX beside it. A compressed cluster is followed by whatever fills its last sector; deflate
// ends by itself, a zstd frame's end has to be found first, for the runtime takes what follows for another
// frame.

import { promisify } from "node:util";
import { constants, deflateRaw, inflateRaw, zstdCompress, zstdDecompress } from "node:zlib";
import type { Compression } from "./qcow2-header.ts";

/** 8 MiB: the most that RFC 8878 asks of every decoder; a cluster has at most 2 MiB. */
const WINDOW_BITS_MAX = 23;
/** Readers inflate with a window of 4 KiB, so nothing may point farther back. */
const DEFLATE_WINDOW_BITS = 12;

const ZSTD_MAGIC = 0xfd2fb528;

export const COMPRESSION_LEVELS: Readonly<
  Record<Compression, { min: number; max: number; usual: number }>
> = {
  zlib: { min: 1, max: 9, usual: 6 },
  zstd: { min: 1, max: 19, usual: 3 },
};

const inflateAsync = promisify(inflateRaw) as (
  input: Uint8Array,
  options: { maxOutputLength: number },
) => Promise<Buffer>;
const unzstdAsync = promisify(zstdDecompress);
const deflateAsync = promisify(deflateRaw) as (
  input: Uint8Array,
  options: { level: number; windowBits: number },
) => Promise<Buffer>;
const zstdAsync = promisify(zstdCompress);

/** One cluster from `input`; throws whatever the library says when it isn't exactly one. */
export async function decompressCluster(
  input: Uint8Array,
  compression: Compression,
  clusterBytes: number,
): Promise<Buffer> {
  const output =
    compression === "zlib"
      ? await inflateAsync(input, { maxOutputLength: clusterBytes })
      : await decompressZstd(input, clusterBytes);
  if (output.length !== clusterBytes) {
    throw new RangeError(`${output.length} bytes came out of a cluster of ${clusterBytes}`);
  }
  return output;
}

export async function compressCluster(
  input: Uint8Array,
  compression: Compression,
  level: number,
): Promise<Buffer> {
  if (compression === "zlib") {
    return deflateAsync(input, { level, windowBits: DEFLATE_WINDOW_BITS });
  }
  return zstdAsync(input, { params: { [constants.ZSTD_c_compressionLevel]: level } });
}

/** A cluster may be several frames, one after the other. */
async function decompressZstd(input: Uint8Array, clusterBytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let outputBytes = 0;
  for (let at = 0; outputBytes < clusterBytes; ) {
    const end = at + zstdFrameBytes(input.subarray(at));
    const part = await unzstdAsync(input.subarray(at, end), {
      maxOutputLength: clusterBytes - outputBytes,
      params: { [constants.ZSTD_d_windowLogMax]: WINDOW_BITS_MAX },
    });
    parts.push(part);
    outputBytes += part.length;
    at = end;
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

/** The length of the zstd frame that `input` begins with (RFC 8878, section 3.1.1). */
export function zstdFrameBytes(input: Uint8Array): number {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < 5 || view.getUint32(0, true) !== ZSTD_MAGIC) {
    throw new RangeError("no zstd frame begins here");
  }
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const contentSizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  const dictionaryIdBytes = [0, 1, 2, 4][descriptor & 3]!;
  let at = 5 + (isSingleSegment ? 0 : 1) + dictionaryIdBytes + contentSizeBytes;
  for (let isLast = false; !isLast; ) {
    if (at + 3 > input.length) throw new RangeError("the zstd frame is cut short");
    const header = view.getUint8(at) | (view.getUint16(at + 1, true) << 8);
    isLast = (header & 1) !== 0;
    const isRepeated = ((header >> 1) & 3) === 1;
    at += 3 + (isRepeated ? 1 : header >> 3);
  }
  const checksumBytes = (descriptor & 4) === 0 ? 0 : 4;
  if (at + checksumBytes > input.length) throw new RangeError("the zstd frame is cut short");
  return at + checksumBytes;
}
