// SPDX-License-Identifier: Apache-2.0
//
// A volume as the source or the sink of an image copy. Copies go through the NBD door like any other
// client's requests: same path, same promises, same access lists; there is no second way into a volume
// that could be wrong on its own. The volume's own map of zeros spares the reading of what isn't there.
//
// A piece that can't be read is read again block by block, so that the error names the block that is
// damaged and, where the user wants what is left, only that block is lost.

import { hasCode, NBD_ERROR, StorageError } from "../base/errors.ts";
import { formatMoment, parseVolumeMoment } from "../base/moment.ts";
import { connectStream } from "../host/node/socket-connect.ts";
import type { Extent, ImageSink, ImageSource } from "../image/image.ts";
import { NbdClient } from "../nbd/client.ts";
import type { DaemonClient } from "./daemon-client.ts";

export const ALLOCATION_CONTEXT = "base:allocation";
/** base:allocation: reads as zeros. */
export const ZERO_FLAG = 2;
/** What one status or zero request covers: servers without extended headers know 32 bits. */
export const RANGE_BYTES_MAX: number = 1 << 30;
const GRANULE_BYTES = 4096;
/** Where the volume's map can't be read, so much is taken for data. */
export const UNMAPPED_BYTES: number = 1 << 20;

/** Opens a volume, or VOLUME@MOMENT read-only, over the daemon's Unix socket. */
export async function openVolume(daemon: DaemonClient, disk: string): Promise<NbdClient> {
  const { volume, moment } = parseVolumeMoment(disk);
  if (moment === undefined) {
    const { uris } = await daemon.call("getVolume", { volume });
    return openExport(volume, uris);
  }
  // Asked here and not at the door, which has fewer words to say why a moment isn't there.
  const found = await daemon.call("resolveMoment", { volume, moment: formatMoment(moment) });
  return openExport(found.stableName, found.uris);
}

async function openExport(exportName: string, uris: readonly string[]): Promise<NbdClient> {
  const socketPath = uris
    .map((uri) => /^nbd\+unix:.*\?socket=(.+)$/.exec(uri)?.[1])
    .find((path) => path !== undefined);
  if (socketPath === undefined) {
    throw new StorageError(
      "EXPORT_NOT_FOUND",
      `volume "${exportName}": not opened: the daemon has no Unix socket`,
      {
        hint: "let the daemon serve one: varve serve --socket PATH",
      },
    );
  }
  const stream = await connectStream({ kind: "unix", path: decodeURIComponent(socketPath) });
  return NbdClient.open(stream, { exportName, contexts: [ALLOCATION_CONTEXT] });
}

/** True when all of the volume reads as zeros without being looked at. */
export async function isBlank(client: NbdClient): Promise<boolean> {
  const source = new VolumeSource(client, { volume: "", isDamageFilled: false });
  for (let at = 0; at < client.sizeBytes; ) {
    const { end, kind } = await source.extentAt(at);
    if (kind === "data") return false;
    at = end;
  }
  return true;
}

const DAMAGE_HINT =
  'export the rest with --fill-damaged; to see all that is damaged stop the daemon and run "varve check"';

/** Damaged data, [startBytes, endBytes). */
export interface DamagedExtent {
  readonly startBytes: number;
  readonly endBytes: number;
}

export interface VolumeSourceOptions {
  /** The name in messages. */
  readonly volume: string;
  /** Damaged blocks read as zeros and are remembered; otherwise the first one is an error. */
  readonly isDamageFilled: boolean;
}

export class VolumeSource implements ImageSource {
  readonly format = "volume";
  readonly sizeBytes: number;
  readonly warnings: readonly string[] = [];
  readonly #client: NbdClient;
  readonly #options: VolumeSourceOptions;
  /** Of the latest answer, ascending and contiguous. */
  #known: Extent[] = [];
  /** Filled with zeros so far, in the order in which they were met. */
  readonly #damaged: DamagedExtent[] = [];

  constructor(client: NbdClient, options: VolumeSourceOptions) {
    this.#client = client;
    this.#options = options;
    this.sizeBytes = client.sizeBytes;
  }

  /** What was filled with zeros, ascending; neighbours are one. */
  get damaged(): readonly DamagedExtent[] {
    const merged: DamagedExtent[] = [];
    for (const extent of [...this.#damaged].sort((a, b) => a.startBytes - b.startBytes)) {
      const last = merged.at(-1);
      if (last?.endBytes !== extent.startBytes) merged.push(extent);
      else merged[merged.length - 1] = { ...last, endBytes: extent.endBytes };
    }
    return merged;
  }

  async extentAt(offset: number): Promise<Extent> {
    const known = this.#find(offset);
    if (known !== undefined) return { ...known, start: offset };
    const lengthBytes = Math.min(RANGE_BYTES_MAX, this.sizeBytes - offset);
    let answer: Awaited<ReturnType<NbdClient["blockStatus"]>>;
    try {
      answer = await this.#client.blockStatus(offset, lengthBytes);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      // Reading tells which blocks are lost.
      const end = offset + Math.min(UNMAPPED_BYTES, lengthBytes);
      return { start: offset, end, kind: "data" };
    }
    this.#known = (answer.get(ALLOCATION_CONTEXT) ?? []).map((extent) => ({
      start: extent.offsetBytes,
      // The last one may reach beyond what was asked for.
      end: Math.min(this.sizeBytes, extent.offsetBytes + extent.lengthBytes),
      kind: (extent.flags & ZERO_FLAG) === 0 ? "data" : "zero",
    }));
    // A server without the context, or an answer without progress: all of it is data.
    return this.#find(offset) ?? { start: offset, end: offset + lengthBytes, kind: "data" };
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    try {
      await this.#client.readInto(target, offset);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      await this.#readBlocks(target, offset);
    }
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #readBlocks(target: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < target.length; at += GRANULE_BYTES) {
      const block = target.subarray(at, at + GRANULE_BYTES);
      try {
        await this.#client.readInto(block, offset + at);
      } catch (error) {
        if (!isUnreadable(error)) throw error;
        const extent = { startBytes: offset + at, endBytes: offset + at + block.length };
        if (!this.#options.isDamageFilled) throw this.#damageAt(extent, error);
        block.fill(0);
        this.#damaged.push(extent);
      }
    }
  }

  #damageAt({ startBytes, endBytes }: DamagedExtent, cause: unknown): StorageError {
    return new StorageError(
      "FRAME_CORRUPT",
      `volume "${this.#options.volume}": damaged data in bytes ${startBytes} to ${endBytes}`,
      { hint: DAMAGE_HINT, cause },
    );
  }

  #find(offset: number): Extent | undefined {
    return this.#known.find(({ start, end }) => start <= offset && offset < end);
  }
}

/** The server answers, but can't give these bytes. */
export function isUnreadable(error: unknown): boolean {
  return hasCode(error, "PEER_FAILED") && error.data.errno === NBD_ERROR.EIO;
}

export class VolumeSink implements ImageSink {
  readonly granuleBytes: number = GRANULE_BYTES;
  readonly isSequential = false;
  readonly #client: NbdClient;
  /** Everything that isn't written reads as zeros already. */
  readonly #isBlank: boolean;

  constructor(client: NbdClient, { isBlank }: { readonly isBlank: boolean }) {
    this.#client = client;
    this.#isBlank = isBlank;
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    return this.#client.write(offset, source);
  }

  async zero(start: number, end: number): Promise<void> {
    if (this.#isBlank) return;
    for (let at = start; at < end; at += RANGE_BYTES_MAX) {
      await this.#client.writeZeroes(at, Math.min(RANGE_BYTES_MAX, end - at));
    }
  }

  /** What lies behind the image is zeros too. */
  async finish(sizeBytes: number): Promise<void> {
    await this.zero(sizeBytes, this.#client.sizeBytes);
    await this.#client.flush();
  }
}
