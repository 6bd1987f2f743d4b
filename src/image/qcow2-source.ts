// SPDX-License-Identifier: Apache-2.0
//
// Reads a qcow2 image. An offset of the disk is found in two steps, both tables on disk, neither ever
// loaded whole:
//
//     L1 table [offset / reach] -> L2 table [cluster in it] -> unallocated | zero | data at | compressed at
//
// With extended entries each cluster has 32 subclusters with an "allocated" and a "zero" bit of their own.
// Tables are read by pages through a cache of CHAIN_MEMORY_BYTES, shared by the whole backing chain, that
// also holds decompressed clusters; nothing else grows with the image.
//
// Where the image has nothing, its backing source answers, or zeros. Whatever a table points to must lie
// within the file: a disk cut short is an error, not zeros.

import type { DiskFile } from "../host/ports.ts";
import type { ByteCache } from "./byte-cache.ts";
import { decompressCluster } from "./cluster-codec.ts";
import type { Extent, ImageSource } from "./image.ts";
import { corrupt } from "./image-error.ts";
import { cutShort, l1ReachBytes, type Qcow2Header, SUBCLUSTER_COUNT } from "./qcow2-header.ts";

/** Table pages and decompressed clusters, for one image and all its backing images together. */
export const CHAIN_MEMORY_BYTES: number = 16 << 20;
const PAGE_BYTES = 16 << 10;
/** One call of extentAt looks at so many runs at most, then reports what it has. */
const RUNS_MAX = 4096;

const COMPRESSED = 0x4000_0000; // bit 62, in the upper half of an entry
const COPIED = 0x8000_0000; // bit 63

/** A run of the disk with one answer. `host` is the position of `start` in the file that has the data. */
type Run = EmptyRun | DataRun | CompressedRun;

interface EmptyRun {
  readonly kind: "zero" | "unallocated";
  readonly start: number;
  readonly end: number;
}

interface DataRun {
  readonly kind: "data";
  readonly start: number;
  readonly end: number;
  readonly host: number;
}

interface CompressedRun {
  readonly kind: "compressed";
  readonly start: number;
  readonly end: number;
  readonly host: number;
  readonly hostBytes: number;
}

export interface Qcow2Parts {
  readonly path: string;
  readonly file: DiskFile;
  readonly fileBytes: number;
  readonly header: Qcow2Header;
  readonly cache: ByteCache;
  /** Distinguishes the images of a chain in the cache. */
  readonly depth: number;
  readonly backing?: ImageSource | undefined;
  readonly dataFile?: { readonly file: DiskFile; readonly bytes: number } | undefined;
  readonly warnings: readonly string[];
}

export class Qcow2Source implements ImageSource {
  readonly format = "qcow2";
  readonly sizeBytes: number;
  readonly warnings: readonly string[];
  readonly #parts: Qcow2Parts;
  readonly #clusterBytes: number;
  readonly #entryBytes: number;
  /** Clusters, or subclusters where there are some: what one state belongs to. */
  readonly #unitBytes: number;
  readonly #reachBytes: number;

  constructor(parts: Qcow2Parts) {
    const { header } = parts;
    this.#parts = parts;
    this.sizeBytes = header.sizeBytes;
    this.warnings = [...parts.warnings, ...(parts.backing?.warnings ?? [])];
    this.#clusterBytes = 2 ** header.clusterBits;
    this.#entryBytes = header.hasExtendedL2 ? 16 : 8;
    this.#unitBytes = this.#clusterBytes / (header.hasExtendedL2 ? SUBCLUSTER_COUNT : 1);
    this.#reachBytes = l1ReachBytes(header);
  }

  async extentAt(offset: number, enough: number = this.sizeBytes): Promise<Extent> {
    const stop = Math.min(enough, this.sizeBytes);
    const first = await this.#extentAt(offset, stop);
    let end = first.end;
    for (let count = 1; count < RUNS_MAX && end < stop; count += 1) {
      const next = await this.#extentAt(end, stop);
      if (next.kind !== first.kind) break;
      end = next.end;
    }
    return { start: offset, end, kind: first.kind };
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < target.length; ) {
      const at = offset + done;
      const run = await this.#runAt(at, offset + target.length);
      const length = Math.min(run.end - at, target.length - done);
      const part = target.subarray(done, done + length);
      if (run.kind === "data") await this.#readData(part, run.host);
      else if (run.kind === "compressed") await this.#readCompressed(part, at, run);
      else if (run.kind === "unallocated") await this.#readBacking(part, at);
      else part.fill(0);
      done += length;
    }
  }

  async close(): Promise<void> {
    await this.#parts.file.close();
    await this.#parts.dataFile?.file.close();
    await this.#parts.backing?.close();
  }

  async #extentAt(offset: number, enough: number): Promise<Extent> {
    const run = await this.#runAt(offset, enough);
    if (run.kind !== "unallocated") {
      return { start: offset, end: run.end, kind: run.kind === "zero" ? "zero" : "data" };
    }
    const backing = this.#parts.backing;
    if (!backing || offset >= backing.sizeBytes) {
      return { start: offset, end: run.end, kind: "zero" };
    }
    const below = await backing.extentAt(offset, Math.min(run.end, enough));
    return { start: offset, end: Math.min(below.end, run.end), kind: below.kind };
  }

  /**
   * The run that `offset` is in, from there on: within one page of an L2 table, or a whole L1 entry.
   * Nobody looks further once it reaches `enough`.
   */
  async #runAt(offset: number, enough: number): Promise<Run> {
    const { header } = this.#parts;
    const l1Index = Math.floor(offset / this.#reachBytes);
    const l1Position = header.l1Offset + l1Index * 8;
    const l1Page = await this.#page(l1Position);
    const l1Upper = l1Page.getUint32(l1Position % PAGE_BYTES);
    const l1Lower = l1Page.getUint32((l1Position % PAGE_BYTES) + 4);
    const l2Offset = hostOffset(l1Upper, l1Lower);
    const reachEnd = Math.min((l1Index + 1) * this.#reachBytes, this.sizeBytes);
    if (l2Offset === 0) return { start: offset, end: reachEnd, kind: "unallocated" };
    if (l2Offset % this.#clusterBytes !== 0) {
      throw this.#corruptAt(offset, `the L2 table is at ${l2Offset}: no cluster begins there`);
    }
    const cluster = Math.floor((offset % this.#reachBytes) / this.#clusterBytes);
    const position = l2Offset + cluster * this.#entryBytes;
    const page = await this.#page(position);
    return this.#mergeRuns(page, { offset, reachEnd, position, enough });
  }

  /** Walks the entries of one page as long as they continue the same run. */
  #mergeRuns(
    page: DataView,
    where: { offset: number; reachEnd: number; position: number; enough: number },
  ): Run {
    const { offset, reachEnd, position } = where;
    const stop = Math.min(reachEnd, where.enough);
    let start = offset - (offset % this.#clusterBytes);
    let run: Run | undefined;
    for (let at = position % PAGE_BYTES; start < stop; at += this.#entryBytes) {
      if (at + this.#entryBytes > page.byteLength) break;
      for (const next of this.#runsOfEntry(page, at, start)) {
        if (next.end <= offset) continue;
        if (!run) run = clip(next, offset, reachEnd);
        else if (continues(run, next)) run = { ...run, end: Math.min(next.end, reachEnd) };
        else return run;
      }
      start += this.#clusterBytes;
    }
    if (run) return run;
    // The page ends before the entry does: the file does.
    throw cutShort(
      this.#parts.path,
      `L2 table for byte ${offset} of the disk`,
      position + this.#entryBytes,
      this.#parts.fileBytes,
    );
  }

  /** What the entry at `at` in `page` says about the cluster at `start`. */
  #runsOfEntry(page: DataView, at: number, start: number): Run[] {
    const { header } = this.#parts;
    const upper = page.getUint32(at);
    const lower = page.getUint32(at + 4);
    const end = start + this.#clusterBytes;
    if ((upper & COMPRESSED) !== 0) return [this.#compressedRun(upper, lower, start)];
    const host = hostOffset(upper, lower);
    // In an external data file the first cluster may well be data.
    const isAllocated = host !== 0 || (header.dataFile !== undefined && (upper & COPIED) !== 0);
    if (host % this.#clusterBytes !== 0) {
      throw this.#corruptAt(start, `its cluster is at ${host}: no cluster begins there`);
    }
    if (header.hasExtendedL2) {
      const zeroBits = page.getUint32(at + 8);
      const dataBits = page.getUint32(at + 12);
      return this.#subclusterRuns(start, { host, isAllocated, zeroBits, dataBits });
    }
    if ((lower & 1) !== 0) {
      if (header.version === 2) {
        throw this.#corruptAt(start, "a zero cluster, which version 2 doesn't have");
      }
      return [{ start, end, kind: "zero" }];
    }
    if (!isAllocated) return [{ start, end, kind: "unallocated" }];
    return [{ start, end, kind: "data", host }];
  }

  #subclusterRuns(
    start: number,
    entry: { host: number; isAllocated: boolean; zeroBits: number; dataBits: number },
  ): Run[] {
    const { host, isAllocated, zeroBits, dataBits } = entry;
    if ((zeroBits & dataBits) !== 0) {
      throw this.#corruptAt(start, "a subcluster that is both data and zero");
    }
    if (dataBits !== 0 && !isAllocated) {
      throw this.#corruptAt(start, "subclusters with data, but no cluster that holds them");
    }
    const runs: Run[] = [];
    for (let index = 0; index < SUBCLUSTER_COUNT; index += 1) {
      const from = start + index * this.#unitBytes;
      const end = from + this.#unitBytes;
      const next: Run =
        ((dataBits >>> index) & 1) !== 0
          ? { start: from, end, kind: "data", host: host + index * this.#unitBytes }
          : { start: from, end, kind: ((zeroBits >>> index) & 1) !== 0 ? "zero" : "unallocated" };
      const last = runs.at(-1);
      if (last && continues(last, next)) runs[runs.length - 1] = { ...last, end };
      else runs.push(next);
    }
    return runs;
  }

  /** The lower bits are a position, the upper ones how many sectors follow the one it lies in. */
  #compressedRun(upper: number, lower: number, start: number): Run {
    if (this.#parts.header.dataFile !== undefined) {
      throw this.#corruptAt(start, "a compressed cluster, which external data files don't have");
    }
    const positionBits = 70 - this.#parts.header.clusterBits - 32; // in the upper half
    const host = (upper & (2 ** positionBits - 1)) * 2 ** 32 + lower;
    const sectors = ((upper & 0x3fff_ffff) >>> positionBits) + 1;
    const hostBytes = sectors * 512 - (host % 512);
    return { start, end: start + this.#clusterBytes, kind: "compressed", host, hostBytes };
  }

  async #readBacking(target: Uint8Array, offset: number): Promise<void> {
    const backing = this.#parts.backing;
    const length = Math.min(target.length, Math.max(0, (backing?.sizeBytes ?? 0) - offset));
    if (length > 0) await backing?.read(target.subarray(0, length), offset);
    target.fill(0, length);
  }

  async #readData(target: Uint8Array, host: number): Promise<void> {
    const { file, fileBytes, dataFile, path } = this.#parts;
    const bytes = dataFile?.bytes ?? fileBytes;
    const end = host + target.length;
    if (end > bytes) throw cutShort(path, "data", end, bytes);
    const count = await (dataFile?.file ?? file).read(target, host);
    if (count < target.length) throw cutShort(path, "data", end, host + count);
  }

  async #readCompressed(target: Uint8Array, offset: number, run: CompressedRun): Promise<void> {
    const clusterStart = offset - (offset % this.#clusterBytes);
    const key = `${this.#parts.depth} cluster ${clusterStart}`;
    const cluster = await this.#parts.cache.get(key, this.#clusterBytes, () =>
      this.#decompress(clusterStart, run.host, run.hostBytes),
    );
    const from = offset - clusterStart;
    target.set(cluster.subarray(from, from + target.length));
  }

  async #decompress(start: number, host: number, hostBytes: number): Promise<Buffer> {
    const { file, fileBytes, header, path } = this.#parts;
    // The last sector of all may be cut: what counts is that the compressed data ends before.
    const length = Math.min(hostBytes, fileBytes - host);
    if (length <= 0) throw cutShort(path, "compressed data", host + hostBytes, fileBytes);
    const input = Buffer.allocUnsafe(length);
    const count = await file.read(input, host);
    try {
      return await decompressCluster(
        input.subarray(0, count),
        header.compression,
        this.#clusterBytes,
      );
    } catch (cause) {
      const why = `its ${count} compressed bytes at ${host} aren't a cluster`;
      throw this.#corruptAt(start, why, cause);
    }
  }

  /** The page of the file that `position` is in; shorter at the end of the file. */
  async #page(position: number): Promise<DataView> {
    const { cache, depth, file, fileBytes, path } = this.#parts;
    if (position + 8 > fileBytes) throw cutShort(path, "table", position + 8, fileBytes);
    const start = position - (position % PAGE_BYTES);
    const bytes = await cache.get(`${depth} page ${start}`, PAGE_BYTES, async () => {
      const page = Buffer.allocUnsafeSlow(Math.min(PAGE_BYTES, fileBytes - start));
      return page.subarray(0, await file.read(page, start));
    });
    if ((position % PAGE_BYTES) + 8 > bytes.length) {
      throw cutShort(path, "table", position + 8, start + bytes.length);
    }
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #corruptAt(offset: number, why: string, cause?: unknown): Error {
    return corrupt(this.#parts.path, `at byte ${offset} of the disk: ${why}`, cause);
  }
}

/** Bits 9 to 55 of an entry. Not exact above 2^53, which is beyond the end of any file. */
function hostOffset(upper: number, lower: number): number {
  return (upper & 0x00ff_ffff) * 2 ** 32 + ((lower & 0xffff_fe00) >>> 0);
}

function clip(run: Run, start: number, end: number): Run {
  const clipped = { ...run, start, end: Math.min(run.end, end) };
  return clipped.kind === "data" ? { ...clipped, host: clipped.host + start - run.start } : clipped;
}

function continues(run: Run, next: Run): boolean {
  if (run.kind === "data")
    return next.kind === "data" && next.host === run.host + (next.start - run.start);
  return run.kind !== "compressed" && run.kind === next.kind;
}
