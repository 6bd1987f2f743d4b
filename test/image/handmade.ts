// SPDX-License-Identifier: Apache-2.0
//
// qcow2 images made by hand, byte by byte, for what no program writes: old versions, odd features, lies.
// One L1 table at cluster 1, one L2 table at cluster 2, data from cluster 3 on; every field can be set.

import { diskError } from "../../src/host/disk-error.ts";
import type { OpenFile } from "../../src/image/image.ts";
import type { MemoryFile } from "./memory-file.ts";

export interface Handmade {
  readonly version?: number;
  readonly clusterBits?: number;
  readonly sizeBytes?: number;
  readonly incompatible?: bigint;
  readonly headerBytes?: number;
  readonly compressionType?: number;
  readonly method?: number;
  readonly l1Count?: number;
  readonly l1Offset?: number;
  readonly l1?: readonly bigint[];
  /** Words of the L2 table: one per cluster, two with extended entries. */
  readonly l2?: readonly bigint[];
  readonly backing?: { readonly name: string; readonly offset?: number; readonly length?: number };
  readonly extensions?: readonly { readonly type: number; readonly content: Uint8Array }[];
  /** Position in the file → bytes. */
  readonly bytes?: Readonly<Record<number, Uint8Array>>;
  /** Default: up to the end of the last cluster that has something. */
  readonly fileBytes?: number;
}

export const COPIED: bigint = 1n << 63n;
export const COMPRESSED: bigint = 1n << 62n;
export const BACKING_FORMAT = 0xe2792aca;
export const FEATURE_NAMES = 0x6803f857;
export const DATA_FILE_NAME = 0x44415441;

export function handmade(options: Handmade): Buffer {
  const version = options.version ?? 3;
  const clusterBits = options.clusterBits ?? 16;
  const cluster = 2 ** Math.min(21, Math.max(9, clusterBits));
  const pieces = Object.entries(options.bytes ?? {});
  const end = Math.max(
    3 * cluster,
    ...pieces.map(([at, bytes]) => Math.ceil((Number(at) + bytes.length) / cluster) * cluster),
  );
  const image = Buffer.alloc(end);
  const headerBytes = options.headerBytes ?? (options.compressionType === undefined ? 104 : 112);
  image.writeUInt32BE(0x514649fb, 0);
  image.writeUInt32BE(version, 4);
  image.writeUInt32BE(clusterBits, 20);
  image.writeBigUInt64BE(BigInt(options.sizeBytes ?? 4 * cluster), 24);
  image.writeUInt32BE(options.method ?? 0, 32);
  image.writeUInt32BE(options.l1Count ?? 1, 36);
  image.writeBigUInt64BE(BigInt(options.l1Offset ?? cluster), 40);
  if (version >= 3) {
    image.writeBigUInt64BE(options.incompatible ?? 0n, 72);
    image.writeUInt32BE(4, 96);
    image.writeUInt32BE(headerBytes, 100);
    if (options.compressionType !== undefined) image.writeUInt8(options.compressionType, 104);
  }
  let at = version >= 3 ? Math.ceil(Math.min(headerBytes, 256) / 8) * 8 : 72;
  for (const { type, content } of options.extensions ?? []) {
    image.writeUInt32BE(type, at);
    image.writeUInt32BE(content.length, at + 4);
    image.set(content, at + 8);
    at += 8 + Math.ceil(content.length / 8) * 8;
  }
  if (options.backing) {
    const { name, offset = at + 8, length = name.length } = options.backing;
    image.writeBigUInt64BE(BigInt(offset), 8);
    image.writeUInt32BE(length, 16);
    image.write(name, at + 8);
  }
  writeWords(image, cluster, options.l1 ?? [COPIED | BigInt(2 * cluster)]);
  writeWords(image, 2 * cluster, options.l2 ?? []);
  for (const [position, bytes] of pieces) image.set(bytes, Number(position));
  return options.fileBytes === undefined ? image : image.subarray(0, options.fileBytes);
}

function writeWords(image: Buffer, at: number, words: readonly bigint[]): void {
  for (const [index, word] of words.entries()) image.writeBigUInt64BE(word, at + index * 8);
}

/** The entry of a compressed cluster whose data is `bytes` long at `host`. */
export function compressedEntry(host: number, bytes: number, clusterBits: number): bigint {
  const sectors = Math.floor((host + bytes - 1) / 512) - Math.floor(host / 512);
  return COMPRESSED | (BigInt(sectors) << BigInt(70 - clusterBits)) | BigInt(host);
}

/** Opens files by name from a table, as openImage wants it. */
export function filesOf(files: Readonly<Record<string, MemoryFile>>): OpenFile {
  return async (path) => {
    const file = files[path];
    if (!file) throw diskError({ operation: "open", path }, "ENOENT");
    return file;
  };
}
