// SPDX-License-Identifier: Apache-2.0
//
// The first cluster of a qcow2 image, versions 2 and 3, all numbers big-endian:
//
//     0 magic "QFI\xfb"      24 disk size           56 refcount table clusters   96 refcount order
//     4 version              32 encryption          60 snapshot count           100 header length
//     8 backing name offset  36 L1 entry count      64 snapshots offset         104 compression type
//    16 backing name length  40 L1 offset           72 incompatible features
//    20 cluster bits         48 refcount table      80 compatible, 88 autoclear features
//
// From the header's end on, extensions (type, length, content padded to 8), then the backing file's name.
// A reader needs to know the incompatible features; the others, and unknown extensions, may be skipped.
// Internal snapshots, bitmaps and refcounts don't concern a reader of the current state.
//
// Every field is checked here, against its own limits and the file's length, before anyone uses it.

import { assert } from "../base/assert.ts";
import type { StorageError } from "../base/errors.ts";
import { QCOW_MAGIC } from "./detect.ts";
import { IMAGE_BYTES_MAX } from "./image.ts";
import { corrupt, printable, unsupported } from "./image-error.ts";

export const CLUSTER_BITS_MIN = 9;
export const CLUSTER_BITS_MAX = 21;
/** A table of 32 MiB reaches 2 PiB with clusters of 64 KiB, and 128 GiB with those of 512 B. */
export const L1_BYTES_MAX: number = 32 << 20;
export const SUBCLUSTER_COUNT = 32;

const HEADER_BYTES_V2 = 72;
const HEADER_BYTES_V3 = 104;
const NAME_BYTES_MAX = 1023;

const INCOMPATIBLE = {
  dirty: 1,
  corrupt: 2,
  dataFile: 4,
  compressionType: 8,
  extendedL2: 16,
} as const;
const INCOMPATIBLE_BITS_KNOWN = 5;

const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  dataFileName: 0x44415441,
} as const;

export type Compression = "zlib" | "zstd";

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly sizeBytes: number;
  readonly clusterBits: number;
  readonly l1Offset: number;
  readonly l1Count: number;
  readonly isDirty: boolean;
  readonly hasExtendedL2: boolean;
  readonly compression: Compression;
  readonly backing: { readonly name: string; readonly format: string | undefined } | undefined;
  /** The name of the external data file; "" if the image has one and doesn't say its name. */
  readonly dataFile: string | undefined;
}

/** `head` is the start of the file: at least the first cluster, or all of a shorter file. */
export function parseHeader(head: Uint8Array, fileBytes: number, path: string): Qcow2Header {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.length < HEADER_BYTES_V2) throw cutShort(path, "header", HEADER_BYTES_V2, head.length);
  if (view.getUint32(0) !== QCOW_MAGIC) {
    throw unsupported(path, "it doesn't begin like a qcow2 image", "name its format: --format raw");
  }
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) {
    throw unsupported(path, `qcow version ${version}; 2 and 3 are read`);
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    throw corrupt(
      path,
      `clusters of 2^${clusterBits} bytes; 2^${CLUSTER_BITS_MIN} to 2^${CLUSTER_BITS_MAX} are possible`,
    );
  }
  const clusterBytes = 2 ** clusterBits;
  const headerBytes = version === 2 ? HEADER_BYTES_V2 : headerLength(view, clusterBytes, path);
  const method = view.getUint32(32);
  if (method !== 0) {
    const name = ["", "AES", "LUKS"][method] ?? `method ${method}`;
    throw unsupported(path, `it is encrypted (${name})`);
  }
  const backingOffset = readOffset(view, 8);
  const backingNameBytes = view.getUint32(16);
  const firstClusterBytes = Math.min(head.length, clusterBytes);
  if (backingOffset !== 0) {
    const end = backingOffset + backingNameBytes;
    if (backingNameBytes > NAME_BYTES_MAX || backingOffset < headerBytes || end > firstClusterBytes)
      throw corrupt(
        path,
        `the backing file's name lies at ${backingOffset} to ${end}; the first cluster has ${firstClusterBytes} bytes`,
      );
  }
  const extensions = parseExtensions(
    head.subarray(0, backingOffset === 0 ? firstClusterBytes : backingOffset),
    headerBytes,
    path,
  );
  const incompatible = version === 2 ? 0n : view.getBigUint64(72);
  checkIncompatible(incompatible, extensions.featureNames, path);
  const has = (bit: number): boolean => (incompatible & BigInt(bit)) !== 0n;
  const header: Qcow2Header = {
    version,
    sizeBytes: readOffset(view, 24),
    clusterBits,
    l1Offset: readOffset(view, 40),
    l1Count: view.getUint32(36),
    isDirty: has(INCOMPATIBLE.dirty),
    hasExtendedL2: has(INCOMPATIBLE.extendedL2),
    compression: compressionOf(view, headerBytes, has(INCOMPATIBLE.compressionType), path),
    backing:
      backingOffset === 0 || backingNameBytes === 0
        ? undefined
        : {
            name: text(head.subarray(backingOffset, backingOffset + backingNameBytes)),
            format: extensions.backingFormat,
          },
    dataFile: has(INCOMPATIBLE.dataFile) ? (extensions.dataFileName ?? "") : undefined,
  };
  checkTables(header, fileBytes, path);
  return header;
}

/** How many bytes of the disk one entry of the L1 table reaches. */
export function l1ReachBytes(header: Pick<Qcow2Header, "clusterBits" | "hasExtendedL2">): number {
  const clusterBytes = 2 ** header.clusterBits;
  return (clusterBytes / (header.hasExtendedL2 ? 16 : 8)) * clusterBytes;
}

function headerLength(view: DataView, clusterBytes: number, path: string): number {
  if (view.byteLength < HEADER_BYTES_V3) {
    throw cutShort(path, "header", HEADER_BYTES_V3, view.byteLength);
  }
  const bytes = view.getUint32(100);
  if (bytes < HEADER_BYTES_V3 || bytes > Math.min(view.byteLength, clusterBytes) || bytes % 8 !== 0)
    throw corrupt(
      path,
      `a header of ${bytes} bytes; it has at least ${HEADER_BYTES_V3}, in eights, in one cluster`,
    );
  return bytes;
}

interface Extensions {
  backingFormat: string | undefined;
  dataFileName: string | undefined;
  /** Bit of the incompatible features → its name. */
  featureNames: Map<number, string>;
}

function parseExtensions(area: Uint8Array, start: number, path: string): Extensions {
  const found: Extensions = {
    backingFormat: undefined,
    dataFileName: undefined,
    featureNames: new Map(),
  };
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength);
  // Version 2 says nothing of an end: what follows may be the backing name, or nothing at all.
  for (let at = start; at + 8 <= area.length; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION.end) break;
    const end = at + 8 + length;
    if (end > area.length) {
      const name = `0x${type.toString(16)}`;
      throw corrupt(path, `header extension ${name} ends at ${end}, beyond ${area.length}`);
    }
    const content = area.subarray(at + 8, end);
    if (type === EXTENSION.backingFormat) found.backingFormat = text(content);
    if (type === EXTENSION.dataFileName) found.dataFileName = text(content);
    if (type === EXTENSION.featureNames) found.featureNames = featureNames(content);
    at = at + 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

function featureNames(content: Uint8Array): Map<number, string> {
  const names = new Map<number, string>();
  for (let at = 0; at + 48 <= content.length; at += 48) {
    if (content[at] !== 0) continue; // compatible and autoclear features need no name here
    const name = content.subarray(at + 2, at + 48);
    const end = name.indexOf(0);
    names.set(content[at + 1]!, text(end === -1 ? name : name.subarray(0, end)));
  }
  return names;
}

function checkIncompatible(bits: bigint, names: ReadonlyMap<number, string>, path: string): void {
  if ((bits & BigInt(INCOMPATIBLE.corrupt)) !== 0n) {
    throw corrupt(path, "it is marked as corrupt by the program that last wrote it");
  }
  const unknown: string[] = [];
  for (let bit = INCOMPATIBLE_BITS_KNOWN; bit < 64; bit += 1) {
    if (((bits >> BigInt(bit)) & 1n) === 0n) continue;
    const name = names.get(bit);
    unknown.push(name === undefined ? `bit ${bit}` : `"${printable(name)}" (bit ${bit})`);
  }
  if (unknown.length > 0) {
    throw unsupported(path, `it needs features that aren't known here: ${unknown.join(", ")}`);
  }
}

function compressionOf(
  view: DataView,
  headerBytes: number,
  isFlagged: boolean,
  path: string,
): Compression {
  const type = headerBytes > HEADER_BYTES_V3 ? view.getUint8(104) : 0;
  if (type > 1) throw unsupported(path, `compression type ${type}; 0 (zlib) and 1 (zstd) are read`);
  if (isFlagged !== (type !== 0)) {
    const flag = isFlagged ? "set" : "not set";
    throw corrupt(path, `compression type ${type}, but the feature bit for it is ${flag}`);
  }
  return type === 1 ? "zstd" : "zlib";
}

function checkTables(header: Qcow2Header, fileBytes: number, path: string): void {
  const clusterBytes = 2 ** header.clusterBits;
  if (header.sizeBytes > IMAGE_BYTES_MAX) {
    throw unsupported(path, `a disk of ${header.sizeBytes} bytes; at most ${IMAGE_BYTES_MAX}`);
  }
  if (header.hasExtendedL2 && header.clusterBits < 14) {
    throw corrupt(path, `subclusters in clusters of ${clusterBytes} bytes; 16384 are needed`);
  }
  const l1Bytes = header.l1Count * 8;
  if (l1Bytes > L1_BYTES_MAX) {
    throw unsupported(path, `an L1 table of ${l1Bytes} bytes; at most ${L1_BYTES_MAX}`);
  }
  const needed = Math.ceil(header.sizeBytes / l1ReachBytes(header));
  if (header.l1Count < needed) {
    throw corrupt(path, `an L1 table of ${header.l1Count} entries; the disk needs ${needed}`);
  }
  if (needed === 0) return;
  if (header.l1Offset % clusterBytes !== 0 || header.l1Offset === 0) {
    throw corrupt(path, `the L1 table is at ${header.l1Offset}: no cluster begins there`);
  }
  if (header.l1Offset + needed * 8 > fileBytes) {
    throw cutShort(path, "L1 table", header.l1Offset + needed * 8, fileBytes);
  }
}

export function cutShort(path: string, what: string, end: number, fileBytes: number): StorageError {
  return corrupt(path, `its ${what} ends at ${end}, the file at ${fileBytes}: it is cut short`);
}

/** A u64 as a number: what isn't exact any more is beyond the end of any file, and refused as such. */
function readOffset(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** The header of an image that Varve writes: version 3, refcounts of 16 bits, no snapshots. */
export function encodeHeader(options: {
  readonly sizeBytes: number;
  readonly clusterBits: number;
  readonly l1Offset: number;
  readonly l1Count: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly compression: Compression;
}): Buffer {
  const isZstd = options.compression === "zstd";
  const headerBytes = isZstd ? HEADER_BYTES_V3 + 8 : HEADER_BYTES_V3;
  const header = Buffer.alloc(headerBytes + 8); // and the extension that ends the extensions
  assert(header.length <= 2 ** options.clusterBits, "a header fits into the smallest cluster");
  header.writeUInt32BE(QCOW_MAGIC, 0);
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(options.clusterBits, 20);
  header.writeBigUInt64BE(BigInt(options.sizeBytes), 24);
  header.writeUInt32BE(options.l1Count, 36);
  header.writeBigUInt64BE(BigInt(options.l1Offset), 40);
  header.writeBigUInt64BE(BigInt(options.refcountTableOffset), 48);
  header.writeUInt32BE(options.refcountTableClusters, 56);
  header.writeBigUInt64BE(BigInt(isZstd ? INCOMPATIBLE.compressionType : 0), 72);
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(headerBytes, 100);
  if (isZstd) header.writeUInt8(1, 104);
  return header;
}
