// SPDX-License-Identifier: Apache-2.0
//
// Writes a qcow2 image, version 3, into a new or emptied file: clusters are placed in the order in which
// they arrive, zeros are left out, and the header is written last, so that a file that was not finished
// isn't taken for an image. With compression each cluster is compressed on its own and packed behind the
// one before, where that makes it smaller.
//
// Memory doesn't grow with the disk but for the L1 table (16 KiB per TiB): L2 tables are kept while pieces
// arrive near them, written when TABLES_MAX others were used since, and read again if one comes late.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { DiskFile } from "../host/ports.ts";
import { COMPRESSION_LEVELS, compressCluster } from "./cluster-codec.ts";
import type { ImageSink } from "./image.ts";
import { ClusterAllocator } from "./qcow2-allocator.ts";
import {
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  type Compression,
  encodeHeader,
  L1_BYTES_MAX,
  l1ReachBytes,
} from "./qcow2-header.ts";

const TABLES_MAX = 16;
const SECTOR_BYTES = 512;
/** 64 KiB, what everyone uses. */
const CLUSTER_BITS_USUAL = 16;
const COPIED = 0x8000_0000;
const COMPRESSED = 0x4000_0000;

export interface Qcow2SinkOptions {
  /** What the disk will be long. */
  readonly sizeBytes: number;
  /** Default: none. */
  readonly compression?: Compression | undefined;
  /** See COMPRESSION_LEVELS; default: what is usual for the compression. */
  readonly level?: number | undefined;
  /** 9 to 21; default 16 (clusters of 64 KiB). */
  readonly clusterBits?: number | undefined;
}

interface L2Table {
  readonly offset: number;
  readonly bytes: Buffer;
  isChanged: boolean;
}

/** Where a cluster of the disk went, as the two halves of its L2 entry. */
interface Placement {
  readonly cluster: number;
  readonly upper: number;
  readonly lower: number;
}

/** Begins an image in `file`, which is emptied. */
export async function createQcow2Sink(
  file: DiskFile,
  options: Qcow2SinkOptions,
): Promise<Qcow2Sink> {
  const clusterBits = options.clusterBits ?? CLUSTER_BITS_USUAL;
  assert(
    clusterBits >= CLUSTER_BITS_MIN && clusterBits <= CLUSTER_BITS_MAX,
    "clusters have a size that qcow2 knows",
  );
  const compression = options.compression;
  if (compression === undefined && options.level !== undefined) {
    throw new StorageError(
      "USAGE",
      `compression level ${options.level}: refused: no compression was asked for`,
      { hint: "name one: --compress zlib or --compress zstd" },
    );
  }
  const levels = COMPRESSION_LEVELS[compression ?? "zlib"];
  const level = options.level ?? levels.usual;
  if (!Number.isInteger(level) || level < levels.min || level > levels.max) {
    throw new StorageError(
      "USAGE",
      `compression level ${level}: refused: ${compression} has ${levels.min} to ${levels.max}`,
    );
  }
  const allocator = new ClusterAllocator(2 ** clusterBits);
  const reachBytes = l1ReachBytes({ clusterBits, hasExtendedL2: false });
  // An empty disk has an entry too: a table of none would be a cluster that nobody refers to.
  const l1Count = Math.max(1, Math.ceil(options.sizeBytes / reachBytes));
  if (l1Count * 8 > Math.min(L1_BYTES_MAX, allocator.spanBytes / 2)) {
    throw new StorageError(
      "IMAGE_UNSUPPORTED",
      `qcow2 image: not written: ${options.sizeBytes} bytes are too many for clusters of ${2 ** clusterBits}`,
      { hint: "write a raw image" },
    );
  }
  await file.truncate(0);
  return new Qcow2Sink(file, {
    ...{ sizeBytes: options.sizeBytes, clusterBits, l1Count, allocator, compression, level },
  });
}

interface Qcow2SinkParts {
  readonly sizeBytes: number;
  readonly clusterBits: number;
  readonly l1Count: number;
  readonly allocator: ClusterAllocator;
  readonly compression: Compression | undefined;
  readonly level: number;
}

class Qcow2Sink implements ImageSink {
  readonly granuleBytes: number;
  readonly isSequential = false;
  readonly #file: DiskFile;
  readonly #parts: Qcow2SinkParts;
  readonly #allocator: ClusterAllocator;
  readonly #l1: Buffer;
  readonly #l1Offset: number;
  /** L2 tables in memory by L1 index, least recently used first. */
  readonly #tables = new Map<number, L2Table>();
  /** The last change of tables; each one begins when the one before is done. */
  #lastChange: Promise<void> = Promise.resolve();
  #isFinished = false;

  constructor(file: DiskFile, parts: Qcow2SinkParts) {
    this.#file = file;
    this.#parts = parts;
    this.#allocator = parts.allocator;
    this.granuleBytes = parts.allocator.clusterBytes;
    const l1Clusters = Math.ceil((parts.l1Count * 8) / this.granuleBytes);
    this.#l1 = Buffer.alloc(l1Clusters * this.granuleBytes);
    this.#l1Offset = this.#allocator.allocateWhole(l1Clusters);
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    assert(!this.#isFinished, "a finished image takes no more");
    assert(offset % this.granuleBytes === 0, "a piece begins with a cluster");
    const end = offset + source.length;
    assert(
      end === this.#parts.sizeBytes ||
        (end < this.#parts.sizeBytes && end % this.granuleBytes === 0),
      "a piece ends with a cluster or with the disk",
    );
    const placements =
      this.#parts.compression === undefined
        ? await this.#writePlain(source, offset)
        : await this.#writeCompressed(source, offset, this.#parts.compression);
    await this.#change(() => this.#enter(placements));
  }

  /** Nothing to do: what was never written reads as zeros. */
  async zero(): Promise<void> {
    assert(!this.#isFinished, "a finished image takes no more");
  }

  async finish(sizeBytes: number): Promise<void> {
    assert(!this.#isFinished, "an image is finished once");
    assert(sizeBytes === this.#parts.sizeBytes, "a disk gets the size that was announced");
    this.#isFinished = true;
    await this.#lastChange;
    for (const table of this.#tables.values()) await this.#writeTable(table);
    const { tableOffset, tableClusters, table, blocks } = this.#allocator.finish();
    for (const block of blocks) await this.#file.write(block.bytes, block.offset);
    await this.#file.write(table, tableOffset);
    await this.#file.write(this.#l1, this.#l1Offset);
    await this.#file.truncate(this.#allocator.endOffset);
    await this.#file.datasync();
    const header = encodeHeader({
      // Other readers cut a disk to whole sectors, so an odd one is filled up.
      sizeBytes: Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES,
      clusterBits: this.#parts.clusterBits,
      l1Offset: this.#l1Offset,
      l1Count: this.#parts.l1Count,
      refcountTableOffset: tableOffset,
      refcountTableClusters: tableClusters,
      compression: this.#parts.compression ?? "zlib",
    });
    await this.#file.write(header, 0);
    await this.#file.datasync();
  }

  async #writePlain(source: Uint8Array, offset: number): Promise<Placement[]> {
    const placements: Placement[] = [];
    for (let done = 0; done < source.length; ) {
      const wanted = Math.ceil((source.length - done) / this.granuleBytes);
      const { offset: host, count } = this.#allocator.allocate(wanted);
      const part = source.subarray(done, done + count * this.granuleBytes);
      for (let index = 0; index < count; index += 1) {
        placements.push(
          plainPlacement(
            (offset + done) / this.granuleBytes + index,
            host + index * this.granuleBytes,
          ),
        );
      }
      // The rest of the last cluster of an odd disk stays a hole: the file began empty.
      await this.#file.write(part, host);
      done += part.length;
    }
    return placements;
  }

  async #writeCompressed(
    source: Uint8Array,
    offset: number,
    compression: Compression,
  ): Promise<Placement[]> {
    const clusters: Uint8Array[] = [];
    for (let at = 0; at < source.length; at += this.granuleBytes) {
      clusters.push(wholeCluster(source.subarray(at, at + this.granuleBytes), this.granuleBytes));
    }
    const packed = await Promise.all(
      clusters.map((cluster) => compressCluster(cluster, compression, this.#parts.level)),
    );
    const placements: Placement[] = [];
    const writes: { host: number; bytes: Uint8Array }[] = [];
    for (const [index, compressed] of packed.entries()) {
      const cluster = offset / this.granuleBytes + index;
      if (compressed.length >= this.granuleBytes) {
        const { offset: host } = this.#allocator.allocate(1);
        writes.push({ host, bytes: clusters[index]! });
        placements.push(plainPlacement(cluster, host));
      } else {
        const host = this.#allocator.allocatePacked(compressed.length);
        writes.push({ host, bytes: compressed });
        placements.push(this.#packedPlacement(cluster, host, compressed.length));
      }
    }
    for (const { host, bytes } of joined(writes)) await this.#file.write(bytes, host);
    return placements;
  }

  #packedPlacement(cluster: number, host: number, bytes: number): Placement {
    const sectors = Math.floor((host + bytes - 1) / 512) - Math.floor(host / 512);
    const positionBits = 70 - this.#parts.clusterBits - 32;
    const upper = COMPRESSED + sectors * 2 ** positionBits + Math.floor(host / 2 ** 32);
    assert(upper < COPIED, "the number of sectors fits into its field");
    return { cluster, upper, lower: host >>> 0 };
  }

  /** Runs `step` after all earlier ones. A failure ends the sink: later steps fail with it. */
  #change(step: () => Promise<void>): Promise<void> {
    this.#lastChange = this.#lastChange.then(step);
    return this.#lastChange;
  }

  async #enter(placements: readonly Placement[]): Promise<void> {
    const perTable = this.granuleBytes / 8;
    for (const { cluster, upper, lower } of placements) {
      const table = await this.#table(Math.floor(cluster / perTable));
      const at = (cluster % perTable) * 8;
      assert(table.bytes.readUInt32BE(at) === 0, "each cluster is written once");
      table.bytes.writeUInt32BE(upper, at);
      table.bytes.writeUInt32BE(lower, at + 4);
      table.isChanged = true;
    }
    for (const block of this.#allocator.takeFinished()) {
      await this.#file.write(block.bytes, block.offset);
    }
    for (const [index, table] of this.#tables) {
      if (this.#tables.size <= TABLES_MAX) break;
      this.#tables.delete(index);
      await this.#writeTable(table);
    }
  }

  async #table(index: number): Promise<L2Table> {
    const known = this.#tables.get(index);
    if (known) {
      this.#tables.delete(index);
      this.#tables.set(index, known);
      return known;
    }
    const bytes = Buffer.alloc(this.granuleBytes);
    const upper = this.#l1.readUInt32BE(index * 8);
    let offset = (upper - COPIED) * 2 ** 32 + this.#l1.readUInt32BE(index * 8 + 4);
    if (upper === 0) {
      offset = this.#allocator.allocate(1).offset;
      this.#l1.writeUInt32BE(COPIED + Math.floor(offset / 2 ** 32), index * 8);
      this.#l1.writeUInt32BE(offset >>> 0, index * 8 + 4);
    } else {
      const count = await this.#file.read(bytes, offset);
      assert(count === bytes.length, "a table that was written is read back whole");
    }
    const table = { offset, bytes, isChanged: upper === 0 };
    this.#tables.set(index, table);
    return table;
  }

  async #writeTable(table: L2Table): Promise<void> {
    if (table.isChanged) await this.#file.write(table.bytes, table.offset);
    table.isChanged = false;
  }
}

function plainPlacement(cluster: number, host: number): Placement {
  return { cluster, upper: COPIED + Math.floor(host / 2 ** 32), lower: host >>> 0 };
}

/** The last cluster of an odd disk is filled up with zeros. */
function wholeCluster(bytes: Uint8Array, clusterBytes: number): Uint8Array {
  if (bytes.length === clusterBytes) return bytes;
  const whole = new Uint8Array(clusterBytes);
  whole.set(bytes);
  return whole;
}

/** Writes that follow one another directly become one. */
function* joined(
  writes: readonly { host: number; bytes: Uint8Array }[],
): Generator<{ host: number; bytes: Uint8Array }> {
  let group: Uint8Array[] = [];
  let start = 0;
  let end = 0;
  for (const { host, bytes } of writes) {
    if (group.length > 0 && host !== end) {
      yield { host: start, bytes: Buffer.concat(group) };
      group = [];
    }
    if (group.length === 0) start = host;
    group.push(bytes);
    end = host + bytes.length;
  }
  if (group.length > 0) yield { host: start, bytes: Buffer.concat(group) };
}
